"""The Merkle tree of RFC 6962 over a log's lines: roots, proofs that a line is in, proofs that a log only grew.

Section 2.1 of the RFC defines the hashes and both proofs; the two checks follow sections 2.1.3.2 and 2.1.4.2 of RFC 9162,
which defines the same tree and writes them out.
"""

import hashlib
from collections.abc import Sequence


def leaf(line: bytes) -> bytes:
    """Hash a line without its line feed; the chain of a log is made of the same hashes."""
    return hashlib.sha256(b"\x00" + line).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows by leaves and keeps every complete subtree, so that roots and proofs of any size cost little."""

    def __init__(self, leaves: Sequence[bytes] = ()) -> None:
        """Start with some leaves."""
        self._levels: list[list[bytes]] = [[]]
        for entry in leaves:
            self.append(entry)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, entry: bytes) -> None:
        """Add a leaf's hash and those of the subtrees that it completes."""
        self._levels[0].append(entry)
        height = 0
        while len(self._levels[height]) % 2 == 0:
            if height + 1 == len(self._levels):
                self._levels.append([])
            self._levels[height + 1].append(node(*self._levels[height][-2:]))
            height += 1

    def entry(self, index: int) -> bytes:
        """Give a leaf's hash."""
        return self._levels[0][index]

    def root(self, size: int | None = None) -> bytes:
        """Hash the first ``size`` leaves, or all.

        Raises:
            ValueError: There are fewer.
        """
        size = len(self) if size is None else size
        if not 0 <= size <= len(self):
            raise ValueError(f"no tree of {size} leaves, there are {len(self)}")
        return self._range(0, size) if size else hashlib.sha256(b"").digest()

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Prove that a leaf is in the tree of the first ``size`` leaves: PATH(index, D[size]) of RFC 6962, 2.1.1.

        Raises:
            ValueError: There is no such leaf or size.
        """
        if not 0 <= index < size <= len(self):
            raise ValueError(f"no leaf {index} of {size}, there are {len(self)}")
        start, end = 0, size
        path: list[bytes] = []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Prove that the tree of ``first`` leaves is the beginning of that of ``second``: PROOF(first, D[second]), 2.1.2.

        Raises:
            ValueError: There are no such sizes, or the first is empty, which begins everything.
        """
        if not 0 < first <= second <= len(self):
            raise ValueError(f"no trees of {first} and {second} leaves, there are {len(self)}")
        start, end, whole = 0, second, True
        path: list[bytes] = []
        while first < end:
            middle = start + _split(end - start)
            if first <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start, whole = middle, False
        return ([] if whole else [self._range(start, end)]) + path[::-1]

    def _range(self, start: int, end: int) -> bytes:
        """Hash the leaves from ``start`` to ``end``; a range of the tree begins at a multiple of its size's power of two."""
        size = end - start
        if size & (size - 1) == 0:
            height = size.bit_length() - 1
            return self._levels[height][start >> height]
        middle = start + _split(size)
        return node(self._range(start, middle), self._range(middle, end))


def includes(entry: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Check that a leaf's hash stands at ``index`` of the tree with this size and root."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, entry
    for other in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node(other, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node(found, other)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def extends(first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Check that the tree of ``second`` leaves begins with that of ``first``."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    path = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not path:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for other in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node(other, old), node(other, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node(new, other)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    """Give the largest power of two below a size."""
    return 1 << (size - 1).bit_length() - 1
