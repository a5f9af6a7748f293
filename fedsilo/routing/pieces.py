"""Which parts of a case a method looks at: drawn slices or patches, all of them in turn, or a few spread evenly."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedsilo.segmentation import inference

SLICE_DIMS = 2
ROUNDING = 1e-9
"""So that a share of n slices that was made from k of them gives k."""


@dataclass(frozen=True)
class Geometry:
    """What a network takes.

    Attributes:
        spatial_dims: 2 or 3, axes of its convolutions.
        divisor: What its edges must be multiples of.
        patch_zyx: Edges of 3D patches, multiples of ``divisor``; None takes whole volumes. Ignored in 2D.
    """

    spatial_dims: int
    divisor: int
    patch_zyx: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Pieces:
    """Parts of a case as a network takes them.

    Attributes:
        items: Slices or patches, padded to the divisor.
        size: Their edges without the padding.
    """

    items: Float[Tensor, "b c *padded"]
    size: tuple[int, ...]

    def to(self, device: torch.device | str) -> "Pieces":
        """Move them to a device."""
        return Pieces(self.items.to(device), self.size)


def draw(image: Float[Tensor, "c z y x"], *, num_pieces: int, geometry: Geometry, generator: torch.Generator) -> Pieces:
    """Draw slices without repetition, all if there are no more; or patches, the volume itself if it is no larger than one."""
    items = inference.as_items(image, geometry.spatial_dims)
    size = tuple(items.shape[2:])
    padded = inference.pad_to_divisor(items, geometry.divisor)
    if geometry.spatial_dims == SLICE_DIMS:
        chosen = torch.randperm(len(padded), generator=generator)[:num_pieces].sort().values
        return Pieces(padded[chosen], size)
    edges = _patch_edges(padded, geometry)
    inner = tuple(min(edge, limit) for edge, limit in zip(edges, size, strict=True))
    if edges == tuple(padded.shape[2:]):
        return Pieces(padded, size)
    patches = []
    for _ in range(num_pieces):
        corner = [
            int(torch.randint(max(limit - edge, 0) + 1, (), generator=generator)) for limit, edge in zip(size, edges, strict=True)
        ]
        patches.append(_cut(padded, corner, edges))
    return Pieces(torch.cat(patches), inner)


def batches(
    image: Float[Tensor, "c z y x"], *, batch_size: int, geometry: Geometry, generator: torch.Generator
) -> Iterator[Pieces]:
    """Give all slices of a case in order, ``batch_size`` at a time, or as many drawn patches as would fill the volume."""
    if geometry.spatial_dims == SLICE_DIMS:
        items = inference.as_items(image, geometry.spatial_dims)
        padded = inference.pad_to_divisor(items, geometry.divisor)
        for start in range(0, len(padded), batch_size):
            yield Pieces(padded[start : start + batch_size], tuple(items.shape[2:]))
        return
    padded = inference.pad_to_divisor(inference.as_items(image, geometry.spatial_dims), geometry.divisor)
    volume = padded[0, 0].numel() / torch.Size(_patch_edges(padded, geometry)).numel()
    needed = max(1, round(volume))
    for start in range(0, needed, batch_size):
        yield draw(image, num_pieces=min(batch_size, needed - start), geometry=geometry, generator=generator)


def spread(image: Float[Tensor, "c z y x"], *, share: float, geometry: Geometry) -> Pieces:
    """Take about a share of a case, the same every time: slices at even distances, or a block in the middle of the volume.

    At least one slice, or one block of the divisor's edge; at most all.
    """
    items = inference.as_items(image, geometry.spatial_dims)
    padded = inference.pad_to_divisor(items, geometry.divisor)
    size = tuple(items.shape[2:])
    if geometry.spatial_dims == SLICE_DIMS:
        count = min(len(padded), max(1, int(share * len(padded) + ROUNDING)))
        chosen = ((torch.arange(count, dtype=torch.float64) + 0.5) * len(padded) / count).long()
        return Pieces(padded[chosen], size)
    factor, divisor = min(share, 1.0) ** (1 / 3), geometry.divisor
    edges = [min(edge, max(divisor, int(edge * factor) // divisor * divisor)) for edge in padded.shape[2:]]
    corner = [max(0, (limit - edge) // 2) for limit, edge in zip(size, edges, strict=True)]
    inner = tuple(min(edge, limit) for edge, limit in zip(edges, size, strict=True))
    return Pieces(_cut(padded, corner, edges), inner)


def share_of(pieces: Pieces, image: Float[Tensor, "c z y x"], *, geometry: Geometry) -> float:
    """Say what share of a case's padded voxels some pieces are: what a pass over them costs of a pass over the case."""
    padded = inference.pad_to_divisor(inference.as_items(image, geometry.spatial_dims), geometry.divisor)
    return pieces.items[:, 0].numel() / padded[:, 0].numel()


def window_radius(radius_px: int, *, spatial_dims: int, spacing_zyx_mm: tuple[float, float, float] | None) -> tuple[int, ...]:
    """Give the contour window's radius along each axis: in 2D the same pixels, in 3D the same millimetres, at least one voxel.

    Example:
        >>> window_radius(10, spatial_dims=3, spacing_zyx_mm=(5.0, 1.5, 1.5))
        (3, 10, 10)
        >>> window_radius(10, spatial_dims=2, spacing_zyx_mm=(5.0, 1.5, 1.5))
        (10, 10)
    """
    if spatial_dims == SLICE_DIMS or spacing_zyx_mm is None:
        return (radius_px,) * spatial_dims
    return tuple(max(1, round(radius_px * spacing_zyx_mm[-1] / edge)) for edge in spacing_zyx_mm)


def _patch_edges(padded: Tensor, geometry: Geometry) -> tuple[int, ...]:
    return tuple(min(edge, limit) for edge, limit in zip(padded.shape[2:], geometry.patch_zyx or padded.shape[2:], strict=True))


def _cut(padded: Tensor, corner: list[int], edges: "list[int] | tuple[int, ...]") -> Tensor:
    for axis, (start, edge) in enumerate(zip(corner, edges, strict=True), start=2):
        padded = padded.narrow(axis, start, edge)
    return padded
