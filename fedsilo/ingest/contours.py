"""Closed contours become voxels: even-odd filling at voxel centres."""

import math

import numpy
from jaxtyping import Bool, Float
from numpy.typing import NDArray

ROUNDED_DIGITS = 6
"""Of a voxel, when corners are compared."""


def edges(points: Float[NDArray[numpy.float64], "n 2"]) -> frozenset[frozenset[tuple[float, ...]]]:
    """Tell polygons apart: the edges, by whichever corner a polygon begins and whichever way it goes round.

    Example:
        >>> square = numpy.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> edges(square) == edges(numpy.roll(square, 1, axis=0)[::-1]) != edges(square + 1)
        True
    """
    corners = [tuple(corner) for corner in numpy.round(points, ROUNDED_DIGITS).tolist()]
    pairs = zip(corners, (*corners[1:], corners[0]), strict=True)
    return frozenset(frozenset(pair) for pair in pairs if pair[0] != pair[1])


def fill(points: Float[NDArray[numpy.float64], "n 2"], shape: tuple[int, int]) -> Bool[NDArray[numpy.bool_], "i j"]:
    """Mark the voxels whose centres lie inside a polygon.

    Even-odd: a point is inside if a ray to infinity crosses the outline an odd number of times, so a hole drawn as one outline
    with its border (a keyhole) stays empty. Of opposite sides, the one of smaller coordinates takes the centres that lie on it:
    neighbouring polygons share no voxel and leave none out.

    Args:
        points: Corners (i, j) in voxels, centres at whole numbers; the last is joined to the first.
        shape: Of the slice, (i, j); what lies beyond is cut off.

    Example:
        >>> fill(numpy.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]]), (4, 3)).astype(int).sum()
        np.int64(2)
    """
    mask = numpy.zeros(shape, numpy.bool_)
    ends = numpy.roll(points, -1, axis=0)
    (i0, j0), (i1, j1) = points.T, ends.T
    first = max(0, math.ceil(float(points[:, 1].min())))
    last = min(shape[1] - 1, math.floor(float(points[:, 1].max())))
    for line in range(first, last + 1):
        crossing = (j0 <= line) != (j1 <= line)
        share = (line - j0[crossing]) / (j1[crossing] - j0[crossing])
        cuts = numpy.sort(i0[crossing] + share * (i1[crossing] - i0[crossing]))
        for start, stop in zip(cuts[0::2], cuts[1::2], strict=True):
            mask[max(0, math.ceil(start)) : max(0, math.ceil(stop)), line] = True
    return mask
