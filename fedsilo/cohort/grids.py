"""From one grid to another: resampling, the box around an oblique volume, and the part that is not empty.

Arrays are (z, y, x) throughout. Voxels are cells: a grid resampled to another covers the same extent.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, int, int]

COARSE_RATIO = 3.0
"""Of the spacing along one axis to those along both others; above it slices are copied, not blended (the ratio of nnU-Net)."""


@dataclass(frozen=True)
class Box:
    """An axis-aligned grid around an oblique one.

    Attributes:
        shape: Of the box.
        matrix: 12 numbers by rows (3 x 4), index in the box to index in the oblique grid.
    """

    shape: Shape
    matrix: tuple[float, ...]

    @property
    def _map(self) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        """Rotation with scale, and offset."""
        rows = numpy.asarray(self.matrix, numpy.float64).reshape(3, 4)
        return rows[:, :3], rows[:, 3]

    def fill(self, volume: Float[NDArray[numpy.float64], "z y x"], outside: float) -> Float[NDArray[numpy.float64], "bz by bx"]:
        """Take an oblique volume into the box, linearly.

        Args:
            volume: On the oblique grid.
            outside: What stands where the volume has nothing.
        """
        turn, offset = self._map
        filled: NDArray[numpy.float64] = ndimage.affine_transform(
            volume, turn, offset, self.shape, order=1, mode="grid-constant", cval=outside
        )
        return filled

    def undo(self, share: Float[Tensor, "bz by bx"], shape: Shape) -> Float[Tensor, "z y x"]:
        """Take one class's probabilities back to the oblique grid, linearly.

        Args:
            share: In the box.
            shape: Of the oblique grid.
        """
        turn, offset = self._map
        back = numpy.linalg.inv(turn)
        return torch.from_numpy(ndimage.affine_transform(share.numpy(), back, -back @ offset, shape, order=1, mode="nearest"))


def box_around(world: NDArray[numpy.float64], shape: Shape, spacing_zyx: tuple[float, float, float]) -> Box:
    """Lay an axis-aligned box around a grid, with the spacing of its axes.

    Args:
        world: 4x4, index (z, y, x, 1) of the grid to (S, A, R) mm.
        shape: Of the grid.
        spacing_zyx: mm.
    """
    edges = numpy.array([-0.5, *(size - 0.5 for size in shape)])
    corners = numpy.array([[edges[0] if side >> axis & 1 else edges[1 + axis] for axis in range(3)] for side in range(8)])
    reached = corners @ world[:3, :3].T + world[:3, 3]
    low, high = reached.min(axis=0), reached.max(axis=0)
    spacing = numpy.asarray(spacing_zyx)
    sizes = numpy.ceil((high - low) / spacing - 1e-6).astype(int)
    first = (low + high - (sizes - 1) * spacing) / 2
    back = numpy.linalg.inv(world)
    matrix = back[:3] @ numpy.block([[numpy.diag(spacing), first[:, None]], [numpy.zeros((1, 3)), numpy.ones((1, 1))]])
    return Box((int(sizes[0]), int(sizes[1]), int(sizes[2])), tuple(float(value) for value in matrix.ravel()))


def not_empty(channels: NDArray[numpy.generic]) -> tuple[slice, slice, slice]:
    """Find the smallest block with all voxels that are not zero in every channel; the whole of a volume of zeros.

    Args:
        channels: (c, z, y, x).
    """
    seen = (channels != 0).any(axis=0)
    if not seen.any():
        seen = ~seen
    z, y, x = (numpy.flatnonzero(seen.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return slice(int(z[0]), int(z[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


def coarse_axis(spacing_zyx: tuple[float, float, float] | None) -> int | None:
    """Name the axis along which voxels are more than 3 times as long as along both others; None if there is none.

    Example:
        >>> coarse_axis((6.0, 1.5, 1.5)), coarse_axis((3.0, 1.5, 1.5)), coarse_axis(None)
        (0, None, None)
    """
    if spacing_zyx is None:
        return None
    *_, second, longest = sorted(spacing_zyx)
    return spacing_zyx.index(longest) if longest > COARSE_RATIO * second else None


def resample_image(volume: Float[Tensor, "z y x"], shape: Shape, coarse: int | None = None) -> Float[Tensor, "nz ny nx"]:
    """Resample linearly; where an axis shrinks, after a Gaussian of ``(factor - 1) / 2`` voxels against aliasing.

    Args:
        volume: On the old grid.
        shape: Of the new one.
        coarse: Along this axis the nearest slice is taken.
    """
    if tuple(volume.shape) == shape:
        return volume
    sigma = [
        0.0 if axis == coarse else max(0.0, (old / new - 1) / 2)
        for axis, (old, new) in enumerate(zip(volume.shape, shape, strict=True))
    ]
    if any(sigma):
        volume = torch.from_numpy(ndimage.gaussian_filter(volume.numpy(), sigma, mode="nearest"))
    return linear(volume, shape, coarse)


def resample_label(label: UInt8[Tensor, "z y x"], shape: Shape, coarse: int | None = None) -> UInt8[Tensor, "nz ny nx"]:
    """Resample one-hot, linearly, then argmax; ties go to the lower value.

    Args:
        label: On the old grid.
        shape: Of the new one.
        coarse: As of ``resample_image``.
    """
    if tuple(label.shape) == shape:
        return label
    values = numpy.unique(label.numpy()).tolist()
    return winner(((int(value), linear((label == value).float(), shape, coarse)) for value in values), shape)


def winner(shares: Iterable[tuple[int, Float[Tensor, "z y x"]]], shape: Shape) -> UInt8[Tensor, "z y x"]:
    """Take the value with the largest share in each voxel, ties to the one that comes first.

    One share at a time, so that memory does not grow with the number of values.

    Args:
        shares: Values, each with its share.
        shape: Of the shares.
    """
    best = torch.full(shape, -1.0)
    winning = torch.zeros(shape, dtype=torch.uint8)
    for value, share in shares:
        better = share > best
        winning[better] = value
        best = torch.where(better, share, best)
    return winning


def linear(volume: Float[Tensor, "z y x"], shape: Shape, coarse: int | None = None) -> Float[Tensor, "nz ny nx"]:
    """Resample linearly between voxel centres; edges repeat.

    Args:
        volume: On the old grid.
        shape: Of the new one.
        coarse: As of ``resample_image``.
    """
    if coarse is not None and volume.shape[coarse] != shape[coarse]:
        old, new = volume.shape[coarse], shape[coarse]
        kept = [old if axis == coarse else size for axis, size in enumerate(shape)]
        nearest = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long()
        return linear(volume, (kept[0], kept[1], kept[2])).index_select(coarse, nearest)
    if tuple(volume.shape) == shape:
        return volume
    if volume.shape[0] == shape[0]:  # slices keep their place: resample in the plane only
        resized = functional.interpolate(volume[:, None], size=shape[1:], mode="bilinear", align_corners=False)
        return resized[:, 0]
    return functional.interpolate(volume[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]
