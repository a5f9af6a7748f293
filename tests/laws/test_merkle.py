"""The Merkle tree against RFC 6962: known answers, the RFC's own recursion as an oracle, and no false proof accepted."""

import hashlib

import pytest

from fedsilo.audit import merkle
from fedsilo.audit.merkle import Tree

MAX_SIZE = 33

# github.com/transparency-dev/merkle, proof/verify_test.go at 02194e9 and testonly/reference_test.go at 141d627 (Apache-2.0):
# the vectors of Certificate Transparency's own tests, for the first n of these leaves
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
EMPTY_LEAF = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
SECOND_LEAF = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
THIRD_AND_FOURTH = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
LAST_FOUR = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
FIFTH_LEAF = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
LAST_TWO = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
FIFTH_AND_SIXTH = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
SEVENTH_LEAF = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
INCLUSIONS = {
    (0, 1): [],
    (0, 2): [SECOND_LEAF],
    (1, 2): [EMPTY_LEAF],
    (2, 3): [ROOTS[2]],
    (1, 5): [EMPTY_LEAF, THIRD_AND_FOURTH, FIFTH_LEAF],
    (0, 8): [SECOND_LEAF, THIRD_AND_FOURTH, LAST_FOUR],
    (5, 8): [FIFTH_LEAF, LAST_TWO, ROOTS[4]],
}
CONSISTENCIES = {
    (1, 1): [],
    (1, 8): [SECOND_LEAF, THIRD_AND_FOURTH, LAST_FOUR],
    (6, 8): [FIFTH_AND_SIXTH, LAST_TWO, ROOTS[4]],
    (2, 5): [THIRD_AND_FOURTH, FIFTH_LEAF],
    (6, 7): [FIFTH_AND_SIXTH, SEVENTH_LEAF, ROOTS[4]],
}


@pytest.fixture(scope="module")
def known():
    return Tree([merkle.leaf(entry) for entry in LEAVES])


@pytest.fixture(scope="module")
def leaves():
    return [merkle.leaf(bytes([number])) for number in range(MAX_SIZE)]


@pytest.fixture(scope="module")
def tree(leaves):
    return Tree(leaves)


@pytest.fixture(scope="module")
def roots(tree):
    return [tree.root(size) for size in range(MAX_SIZE + 1)]


def split(size):
    """The largest power of two below a size, found by counting up."""
    power = 1
    while 2 * power < size:
        power *= 2
    return power


def root_by_definition(leaves):
    """MTH of RFC 6962, 2.1."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    middle = split(len(leaves))
    return hashlib.sha256(b"\x01" + root_by_definition(leaves[:middle]) + root_by_definition(leaves[middle:])).digest()


def inclusion_by_definition(index, leaves):
    """PATH of RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    middle = split(len(leaves))
    if index < middle:
        return [*inclusion_by_definition(index, leaves[:middle]), root_by_definition(leaves[middle:])]
    return [*inclusion_by_definition(index - middle, leaves[middle:]), root_by_definition(leaves[:middle])]


def consistency_by_definition(first, leaves, whole=True):
    """SUBPROOF of RFC 6962, 2.1.2."""
    if first == len(leaves):
        return [] if whole else [root_by_definition(leaves)]
    middle = split(len(leaves))
    if first <= middle:
        return [*consistency_by_definition(first, leaves[:middle], whole), root_by_definition(leaves[middle:])]
    return [*consistency_by_definition(first - middle, leaves[middle:], False), root_by_definition(leaves[:middle])]


def hexed(path):
    return [entry.hex() for entry in path]


def faulty(path):
    """Give paths that differ from one: an entry changed in a bit, left out, doubled, two swapped, one more at either end."""
    for place, entry in enumerate(path):
        yield [*path[:place], bytes([entry[0] ^ 1]) + entry[1:], *path[place + 1 :]]
        yield [*path[:place], *path[place + 1 :]]
        yield [*path[:place], entry, *path[place:]]
    for place in range(len(path) - 1):
        yield [*path[:place], path[place + 1], path[place], *path[place + 2 :]]
    for entry in (bytes(32), *path[:1]):
        yield [*path, entry]
        yield [entry, *path]


def test_roots_are_the_known_ones(known):
    assert [known.root(size).hex() for size in range(len(LEAVES) + 1)] == ROOTS


@pytest.mark.parametrize("place", INCLUSIONS)
def test_inclusion_proofs_are_the_known_ones(known, place):
    assert hexed(known.inclusion(*place)) == INCLUSIONS[place]


@pytest.mark.parametrize("sizes", CONSISTENCIES)
def test_consistency_proofs_are_the_known_ones(known, sizes):
    assert hexed(known.consistency(*sizes)) == CONSISTENCIES[sizes]


def test_all_roots_and_proofs_are_those_of_the_definition(tree, leaves):
    for size in range(MAX_SIZE + 1):
        assert tree.root(size) == root_by_definition(leaves[:size])
        for index in range(size):
            assert tree.inclusion(index, size) == inclusion_by_definition(index, leaves[:size])
        for first in range(1, size + 1):
            assert tree.consistency(first, size) == consistency_by_definition(first, leaves[:size])


def test_every_line_is_proved_at_its_place_and_nothing_else_is(tree, leaves, roots):
    num_proved = num_refused = 0
    for size in range(1, MAX_SIZE + 1):
        root = roots[size]
        for index in range(size):
            path = tree.inclusion(index, size)
            assert merkle.includes(leaves[index], index, size, path, root)
            num_proved += 1
            wrong = [(leaves[index], other, path, root) for other in range(-1, size + 2) if other != index]
            wrong += [(other, index, path, root) for other in {*leaves, root, bytes(32)} - {leaves[index]}]
            wrong += [(leaves[index], index, path, roots[other]) for other in range(MAX_SIZE + 1) if other != size]
            wrong += [(leaves[index], index, other, root) for other in faulty(path) if other != path]
            assert not any(merkle.includes(entry, place, size, way, end) for entry, place, way, end in wrong)
            num_refused += len(wrong)

    assert num_proved == MAX_SIZE * (MAX_SIZE + 1) // 2
    assert num_refused > 60_000


def test_a_node_is_no_leaf(known):
    """An inner hash cannot be passed off as a line: leaves and nodes are hashed apart."""
    left, right = known.root(2), bytes.fromhex(THIRD_AND_FOURTH)
    assert merkle.leaf(left + right) != known.root(4)
    assert not merkle.includes(merkle.leaf(left + right), 0, 1, [], known.root(4))


def test_every_growth_is_proved_and_nothing_else_is(tree, roots):
    num_proved = num_refused = 0
    for second in range(1, MAX_SIZE + 1):
        for first in range(1, second + 1):
            path, old, new = tree.consistency(first, second), roots[first], roots[second]
            assert merkle.extends(first, second, path, old, new)
            num_proved += 1
            wrong = [(path, roots[other], new) for other in range(MAX_SIZE + 1) if other != first]
            wrong += [(path, old, roots[other]) for other in range(MAX_SIZE + 1) if other != second]
            wrong += [(other, old, new) for other in faulty(path) if other != path]
            wrong += [(path, new, old)] if first != second else []
            assert not any(merkle.extends(first, second, way, begin, end) for way, begin, end in wrong), (first, second)
            assert not merkle.extends(second, first, path, new, old) or first == second
            num_refused += len(wrong)

    assert num_proved == MAX_SIZE * (MAX_SIZE + 1) // 2
    assert num_refused > 40_000


def test_a_rewritten_beginning_has_no_proof(leaves):
    """Whatever line is changed, no proof of the new tree leads from the old root."""
    old = Tree(leaves[:20])
    for changed in range(20):
        new = Tree([*leaves[:changed], merkle.leaf(b"another"), *leaves[changed + 1 :]])
        for first in range(changed + 1, 21):
            assert not merkle.extends(first, MAX_SIZE, new.consistency(first, MAX_SIZE), old.root(first), new.root())


def test_proofs_that_nobody_can_make(tree):
    for make in (tree.inclusion, tree.consistency):
        with pytest.raises(ValueError, match=r"no (leaf|trees)"):
            make(MAX_SIZE, MAX_SIZE - 1)
    with pytest.raises(ValueError, match="no trees of 0"):
        tree.consistency(0, 3)
    with pytest.raises(ValueError, match="no tree of 34 leaves, there are 33"):
        tree.root(MAX_SIZE + 1)
    assert not merkle.extends(0, 3, [], tree.root(0), tree.root(3))
    assert not merkle.includes(tree.root(0), 0, 0, [], tree.root(0))
