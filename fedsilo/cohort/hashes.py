"""Fingerprints of images: equal voxels, and images that look alike after a resample, a flip or another window."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import numpy
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage, stats

GRIDS = {3: 16, 2: 32, 1: 512}
"""Cells along each axis that has more than one voxel, by the number of these axes."""

WINDOW = (1.0, 99.0)
"""Percentiles between which intensities are looked at."""

EMPTY_SHARE = 0.1
"""Of that window, from its lower end: what is air to everyone."""

FIRST_RANK = 1 / 6
AROUND = 5
NOTABLE = 0.02
DECIMALS = 6
BAND_BITS = 16


def content_hash(array_zyx: NDArray[numpy.generic], spacing_zyx: tuple[float, ...] | None) -> str:
    """Hash what an image shows: shape, spacing to 1e-3 mm and float32 voxels on (c, z, y, x); not how the file stores it."""
    spacing = "pixel" if spacing_zyx is None else "|".join(f"{edge:.3f}" for edge in spacing_zyx)
    digest = hashlib.sha256(f"{array_zyx.shape}/{spacing}/".encode())
    for channel in array_zyx:
        for plane in channel:  # slice by slice, so that memory holds no second volume
            digest.update(numpy.ascontiguousarray(plane, dtype="<f4").tobytes())
    return digest.hexdigest()


def near_hash(array_zyx: NDArray[numpy.generic]) -> str:
    """Hash what an image looks like: copies on another grid, mirrored, or with noise differ in few of its bits.

    The image is averaged to 16 cells an axis (a slice to 32). Cells near the minimum are empty, the others are replaced by
    their ranks. The cells that mirroring exchanges are summed up by their mean and standard deviation, and each of these is a
    bit: above those around it, or not.

    Args:
        array_zyx: (c, z, y, x); channels are averaged.

    Returns:
        Hexadecimal digits, 4 bits each: 256 of a volume, 128 of a slice; none of an image without contrast.

    Reference:
        Ours; bits by comparison with neighbours after Krawetz, "Kind of like that" (dHash), 2013.
    """
    values = _finite(array_zyx[0] if len(array_zyx) == 1 else _finite(array_zyx).astype(numpy.float64).mean(axis=0))
    low, high = numpy.percentile(values, WINDOW)
    if not high > low:
        return ""
    cells = shrink(values, (float(low), float(high)))
    filled = cells > low + EMPTY_SHARE * (high - low)
    ranks = numpy.zeros_like(cells)
    ranks[filled] = FIRST_RANK + (1 - FIRST_RANK) * _ranks(cells[filled])
    views = numpy.stack([ranks, *(numpy.flip(ranks, axes) for axes in _mirrors(ranks.shape))])
    halves = tuple(slice(0, max(1, edge // 2)) for edge in ranks.shape)
    orbits = views[(slice(None), *halves)]
    return numpy.packbits(numpy.concatenate([_stands_out(orbits.mean(axis=0)), _stands_out(orbits.std(axis=0))])).tobytes().hex()


def differing_share(first: str, second: str) -> float:
    """Give the share of bits in which two near hashes differ; 1 if they are of different lengths.

    Example:
        >>> differing_share("ff00", "ff01")
        0.0625
    """
    if len(first) != len(second) or not first:
        return 1.0
    return (int(first, 16) ^ int(second, 16)).bit_count() / (4 * len(first))


def alike(near: Mapping[str, str], max_share: float) -> list[tuple[str, str]]:
    """Pair the names of near hashes that differ in at most a share of their bits; both in order of name."""
    by_length: dict[int, list[str]] = {}
    for name in sorted(near):
        by_length.setdefault(len(near[name]), []).append(name)
    pairs = []
    for names in by_length.values():
        bits = numpy.unpackbits(numpy.array([list(bytes.fromhex(near[name])) for name in names], numpy.uint8), axis=1)
        for index, name in enumerate(names):
            shares = (bits[index + 1 :] != bits[index]).mean(axis=1)
            pairs += [(name, names[index + 1 + int(place)]) for place in numpy.flatnonzero(shares <= max_share)]
    return sorted(pairs)


def keyed(digest: str, key: bytes) -> str:
    """Hide a content hash from who lacks the key: HMAC-SHA256 (RFC 2104)."""
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()


def keyed_bands(near: str, key: bytes) -> tuple[str, ...]:
    """Hide a near hash piece by piece, so that those who lack the key see only how many pieces two images share.

    Returns:
        16 hexadecimal digits for every 16 bits.
    """
    step = BAND_BITS // 4
    pieces = [near[start : start + step] for start in range(0, len(near), step)]
    return tuple(keyed(f"{index}/{len(near)}/{piece}", key)[:16] for index, piece in enumerate(pieces))


def shrink(array: NDArray[numpy.generic], window: tuple[float, float]) -> Float[NDArray[numpy.float64], "k j i"]:
    """Clip an array and average it to a grid of the same size for all; cells cut voxels where edges do not divide.

    Slice by slice along the first axis, so that memory holds no second volume.
    """
    axes = [axis for axis, edge in enumerate(array.shape) if edge > 1]
    planes = []
    for plane in array:
        small = numpy.clip(plane.astype(numpy.float64), *window)
        for axis in (axis - 1 for axis in axes if axis > 0):
            small = numpy.moveaxis(_cell_means(numpy.moveaxis(small, axis, 0), GRIDS[len(axes)]), 0, axis)
        planes.append(small)
    shrunk = numpy.stack(planes)
    return _cell_means(shrunk, GRIDS[len(axes)]) if 0 in axes else shrunk


def _finite(array: NDArray[numpy.generic]) -> NDArray[Any]:
    """Put zeros in the place of what is no number."""
    return numpy.nan_to_num(array, posinf=0, neginf=0) if array.dtype.kind == "f" else array


def _cell_means(array: NDArray[numpy.float64], cells: int) -> NDArray[numpy.float64]:
    """Average along the first axis over cells of equal width, voxels counted by the part inside."""
    edge = array.shape[0]
    summed = numpy.concatenate([numpy.zeros((1, *array.shape[1:])), numpy.cumsum(array, axis=0)])
    cuts = numpy.linspace(0, edge, cells + 1)
    whole = numpy.minimum(cuts.astype(int), edge - 1)
    part = (cuts - whole).reshape(-1, *[1] * (array.ndim - 1))
    at_cuts = summed[whole] + part * array[whole]
    means: NDArray[numpy.float64] = numpy.diff(at_cuts, axis=0) * (cells / edge)
    return means


def _ranks(cells: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Replace values by their ranks between 0 and 1; equal values share the mean of theirs."""
    return numpy.asarray((stats.rankdata(cells.round(DECIMALS)) - 1) / max(cells.size - 1, 1), numpy.float64)


def _mirrors(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """List the sets of axes to mirror, other than none."""
    axes = [axis for axis, edge in enumerate(shape) if edge > 1]
    return [tuple(axis for place, axis in enumerate(axes) if chosen >> place & 1) for chosen in range(1, 2 ** len(axes))]


def _stands_out(values: NDArray[numpy.float64]) -> NDArray[numpy.bool_]:
    """Compare each value with the mean around it; a little more is not enough, so that flat parts give no random bits."""
    around = ndimage.uniform_filter(values, [min(AROUND, edge) for edge in values.shape], mode="nearest")
    return (values - around > NOTABLE).ravel()
