"""Training batches of one site: slices in 2D, crops in 3D, in an order that a named generator decides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

CROPS_PER_CASE = 3
"""Crops of a case in one epoch of 3D training; the first of them shows an organ for certain (nnU-Net's third)."""


MODALITIES: tuple[Literal["CT", "MR"], ...] = ("CT", "MR")
"""Position is the number of a modality in `Batch.modalities`."""


@dataclass(frozen=True)
class LabelledCase:
    """What training and validation need of a prepared case."""

    image: Float[Tensor, "c z y x"]
    label: UInt8[Tensor, "z y x"]
    modality: Literal["CT", "MR"]


class Batch(NamedTuple):
    """Samples of one step.

    Attributes:
        images: Cropped or padded to the patch.
        labels: Of the same samples.
        modalities: Position of each sample's modality in ``MODALITIES``.
    """

    images: Float[Tensor, "b c *space"]
    labels: Int[Tensor, "b *space"]
    modalities: Int[Tensor, " b"]


@dataclass(frozen=True)
class Item:
    """One training sample: one slice of a case in 2D, a crop of it in 3D.

    Attributes:
        case_index: Of ``SiteData.cases``.
        slice_index: In 2D; 0 in 3D.
        has_organ: In 2D whether the slice shows an organ; in 3D whether the crop is laid around an organ's voxel.
    """

    case_index: int
    slice_index: int
    has_organ: bool


@dataclass(frozen=True)
class SiteData:
    """A site's training samples, held in memory.

    Attributes:
        cases: Images and labels on the working grid.
        items: Every slice (2D), or every case ``CROPS_PER_CASE`` times (3D).
        spatial_dims: 2 or 3.
    """

    cases: tuple[LabelledCase, ...]
    items: tuple[Item, ...]
    spatial_dims: int


def site_data(cases: Sequence[LabelledCase], *, spatial_dims: int) -> SiteData:
    """List a site's samples in a fixed order.

    Args:
        cases: Training cases in manifest order.
        spatial_dims: 2: a sample is an axial slice; 3: a sample is a random crop, one in three around an organ.
    """
    items: list[Item] = []
    for case_index, case in enumerate(cases):
        if spatial_dims == 2:  # noqa: PLR2004  # axes
            with_organ = (case.label > 0).flatten(1).any(dim=1).tolist()
            items.extend(Item(case_index, slice_index, bool(found)) for slice_index, found in enumerate(with_organ))
        else:
            around_organ = bool((case.label > 0).any())
            items.extend(Item(case_index, 0, around_organ and crop == 0) for crop in range(CROPS_PER_CASE))
    return SiteData(tuple(cases), tuple(items), spatial_dims)


def epoch(data: SiteData, *, batch_size: int, patch_zyx: tuple[int, int, int], generator: torch.Generator) -> Iterator[Batch]:
    """Yield one epoch of batches: every sample once, and every batch with an organ if there are enough to go round.

    Samples with and without an organ are shuffled apart and dealt out in proportion, so that each batch of eight has at
    least one of each kind where the site's share allows (FedGIN's sampler, without its endless loop on an empty kind).
    The last, smaller batch is kept unless it has a single sample (BatchNorm) and there are others.

    Yields:
        Images float32 and labels int64, cropped or padded to the patch.
    """
    order = _deal(data.items, generator)
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    for start in starts:
        dealt = order[start : start + batch_size]
        samples = [_sample(data, item, patch_zyx, generator) for item in dealt]
        modalities = [MODALITIES.index(data.cases[item.case_index].modality) for item in dealt]
        yield Batch(
            torch.stack([image for image, _ in samples]),
            torch.stack([label for _, label in samples]).long(),
            torch.tensor(modalities),
        )


def num_batches(data: SiteData, batch_size: int) -> int:
    """Count the batches of one epoch."""
    full, rest = divmod(len(data.items), batch_size)
    return full + (1 if rest > 1 or full == 0 else 0)


def _deal(items: Sequence[Item], generator: torch.Generator) -> list[Item]:
    """Merge two shuffled kinds evenly: sample i of n gets the place (i + 1/2) / n."""
    placed: list[tuple[float, int, Item]] = []
    for kind in (True, False):
        chosen = [item for item in items if item.has_organ is kind]
        shuffled = torch.randperm(len(chosen), generator=generator).tolist()
        placed.extend(((place + 0.5) / len(chosen), int(kind), chosen[index]) for place, index in enumerate(shuffled))
    return [item for _, _, item in sorted(placed, key=lambda entry: (entry[0], entry[1]))]


def _sample(
    data: SiteData, item: Item, patch_zyx: tuple[int, int, int], generator: torch.Generator
) -> tuple[Float[Tensor, "c *space"], UInt8[Tensor, "*space"]]:
    """Cut a sample out of its case."""
    case = data.cases[item.case_index]
    if data.spatial_dims == 2:  # noqa: PLR2004  # axes
        image, label = case.image[:, item.slice_index], case.label[item.slice_index]
        return _fit(image, label, patch_zyx[1:], generator)
    around = _organ_voxel(case.label, generator) if item.has_organ else None
    return _fit(case.image, case.label, patch_zyx, generator, around=around)


def _organ_voxel(label_zyx: UInt8[Tensor, "z y x"], generator: torch.Generator) -> tuple[int, ...]:
    """Draw one of the voxels that hold an organ."""
    voxels = torch.nonzero(label_zyx)
    return tuple(voxels[int(torch.randint(0, len(voxels), (1,), generator=generator))].tolist())


def _fit(
    image: Float[Tensor, "c *space"],
    label: UInt8[Tensor, "*space"],
    patch: tuple[int, ...],
    generator: torch.Generator,
    *,
    around: tuple[int, ...] | None = None,
) -> tuple[Float[Tensor, "c *patch"], UInt8[Tensor, "*patch"]]:
    """Crop at a random corner where the image is larger than the patch; pad with the image's minimum where smaller.

    The crop holds the voxel ``around``, if one is given.
    """
    for axis, edge in enumerate(patch):
        room = max(label.shape[axis] - edge, 0)
        first, last = (0, room) if around is None else (max(0, around[axis] - edge + 1), min(room, around[axis]))
        corner = int(torch.randint(first, last + 1, (1,), generator=generator))
        if room > 0:
            image = image.narrow(axis + 1, corner, edge)
            label = label.narrow(axis, corner, edge)
    missing = [(edge - size) for edge, size in zip(patch, label.shape, strict=True)]
    if any(missing):
        pads = [pad for lack in reversed(missing) for pad in (lack // 2, lack - lack // 2)]
        image = functional.pad(image, pads, value=float(image.min()))
        label = functional.pad(label, pads)
    return image, label
