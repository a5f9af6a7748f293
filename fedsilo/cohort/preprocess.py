"""From a stored image to a prepared case on the working grid, and the way back.

Order: reorient to (z, y, x) towards S, A, R; resample to an axis-aligned box if the axes are too oblique; crop to what is not
zero, if asked; clip; z-score of the volume; resample. The recipe holds what the way back needs: probabilities are resampled to
the stored grid, argmaxed, and the reorientation is undone.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import safetensors
import safetensors.torch
import scipy
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from fedsilo import files
from fedsilo.cohort import grids, volumes
from fedsilo.cohort.grids import Box
from fedsilo.cohort.layouts import LabelMap, SourceCase
from fedsilo.cohort.volumes import Image, Orientation
from fedsilo.errors import DataError
from fedsilo.params import PrepareParams

IntensityUnit = Literal["hu", "au", "windowed_8bit"]
SAME_SHARE = 1e-3
"""Grids whose spacings differ by less than this share are one grid: nothing is resampled."""


@dataclass(frozen=True)
class Recipe:
    """How a prepared case came about; JSON in the file's metadata.

    Attributes:
        source_shape: Of the stored array (i, j, k).
        affine: 16 numbers by rows, stored index to RAS+ mm; None in pixel geometry.
        axes: Of the orientation.
        flips: Of the orientation.
        source_spacing_zyx: mm; None in pixel geometry.
        target_spacing_zyx: mm of the working grid; None in pixel geometry.
        target_shape: Of the prepared array (z, y, x).
        geometry: ``pixel`` without an affine.
        box: Around an oblique case that was resampled to the world's axes; None of all others.
        crop: First and one past the last voxel along z, y, x that were kept, of the reoriented array or its box.
    """

    source_shape: tuple[int, int, int]
    affine: tuple[float, ...] | None
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    source_spacing_zyx: tuple[float, float, float] | None
    target_spacing_zyx: tuple[float, float, float] | None
    target_shape: tuple[int, int, int]
    geometry: Literal["mm", "pixel"]
    box: Box | None
    crop: tuple[int, int, int, int, int, int]

    @property
    def kept(self) -> tuple[slice, slice, slice]:
        """What was kept, along z, y, x."""
        z, z_end, y, y_end, x, x_end = self.crop
        return slice(z, z_end), slice(y, y_end), slice(x, x_end)

    @property
    def coarse(self) -> int | None:
        """The axis along which slices are copied where they are resampled."""
        return grids.coarse_axis(self.source_spacing_zyx)

    @property
    def oriented_shape(self) -> tuple[int, int, int]:
        """Of the stored array on (z, y, x)."""
        z, y, x = (self.source_shape[axis] for axis in self.axes)
        return z, y, x

    @property
    def orientation(self) -> Orientation:
        """How the stored axes map to (z, y, x)."""
        return Orientation(self.axes, self.flips)


@dataclass(frozen=True)
class PreparedCase:
    """A case ready for training, prediction and scoring.

    Attributes:
        image: Z-scored intensities on the working grid; float16 in the file.
        label: Organ values of the federation on the working grid.
        native_label: The same on the stored grid and axes; of a PNG (1, row, column).
        recipe: The way back.
    """

    image: Float[Tensor, "c z y x"]
    label: UInt8[Tensor, "z y x"]
    native_label: UInt8[Tensor, "i j k"]
    recipe: Recipe


def prepare(image: Image, label: NDArray[numpy.uint8], *, unit: IntensityUnit, params: PrepareParams) -> PreparedCase:
    """Bring a case to the working grid.

    Args:
        image: As stored.
        label: (i, j, k) organ values of the federation, on the image's grid.
        unit: ``hu`` is clipped at fixed values; the others at percentiles of their non-zero voxels.
        params: Working grid and clips.
    """
    spacing, oriented = image.spacing_zyx, torch.from_numpy(image.orientation.apply(label).astype(numpy.uint8))
    box = _box(image, params)
    channels = image.zyx.astype(numpy.float64)
    if box is not None:
        channels = numpy.stack([box.fill(channel, channel.min()) for channel in channels])
    kept = _kept(channels, unit=unit, in_mm=spacing is not None, params=params)
    recipe = _new_recipe(image, box, kept, params)
    resampled = [
        grids.resample_image(
            torch.from_numpy(normalise(channel[kept], unit=unit, params=params)), recipe.target_shape, recipe.coarse
        )
        for channel in channels
    ]
    return PreparedCase(
        image=torch.stack(resampled),
        label=_on_working_grid(oriented, recipe),
        native_label=torch.from_numpy(numpy.ascontiguousarray(label, numpy.uint8)),
        recipe=recipe,
    )


def _box(image: Image, params: PrepareParams) -> Box | None:
    """Lay the box around an image whose axes are too oblique to be carried along."""
    if image.affine is None or image.spacing_zyx is None or volumes.oblique_deg(image.affine) <= params.max_oblique_deg:
        return None
    shape = image.channels.shape[1:]
    z, y, x = (shape[axis] for axis in image.orientation.axes)
    return grids.box_around(volumes.world_of_zyx(image.affine, (shape[0], shape[1], shape[2])), (z, y, x), image.spacing_zyx)


def _kept(
    channels: NDArray[numpy.float64], *, unit: IntensityUnit, in_mm: bool, params: PrepareParams
) -> tuple[slice, slice, slice]:
    """Choose what of an image is kept: all of it in HU, where zero is water, and where all images are brought to one size."""
    if params.crop == "nonzero" and unit != "hu" and in_mm:
        return grids.not_empty(channels)
    z, y, x = channels.shape[1:]
    return slice(0, z), slice(0, y), slice(0, x)


def _new_recipe(image: Image, box: Box | None, kept: tuple[slice, slice, slice], params: PrepareParams) -> Recipe:
    """Choose the working grid and write down how a case comes to it."""
    spacing, stored = image.spacing_zyx, image.channels.shape[1:]
    shape = [part.stop - part.start for part in kept]
    target = [shape[0], *params.size_yx_px]
    target_spacing: tuple[float, float, float] | None = None
    if spacing is not None:
        wanted = [goal or own for goal, own in zip(params.spacing_zyx_mm, spacing, strict=True)]
        near = [abs(goal / own - 1) < SAME_SHARE for goal, own in zip(wanted, spacing, strict=True)]
        target = [
            size if same else max(1, round(size * own / goal))
            for size, own, goal, same in zip(shape, spacing, wanted, near, strict=True)
        ]
        z, y, x = (own * size / edge for own, size, edge in zip(spacing, shape, target, strict=True))
        target_spacing = (z, y, x)
    return Recipe(
        source_shape=(stored[0], stored[1], stored[2]),
        affine=None if image.affine is None else tuple(float(value) for value in image.affine.ravel()),
        axes=image.orientation.axes,
        flips=image.orientation.flips,
        source_spacing_zyx=spacing,
        target_spacing_zyx=target_spacing,
        target_shape=(target[0], target[1], target[2]),
        geometry="mm" if image.affine is not None else "pixel",
        box=box,
        crop=(kept[0].start, kept[0].stop, kept[1].start, kept[1].stop, kept[2].start, kept[2].stop),
    )


def _on_working_grid(label: UInt8[Tensor, "z y x"], recipe: Recipe) -> UInt8[Tensor, "nz ny nx"]:
    """Bring a reoriented label to the working grid, one value at a time."""
    if recipe.box is None:
        return grids.resample_label(label[recipe.kept].contiguous(), recipe.target_shape, recipe.coarse)
    box, values = recipe.box, numpy.unique(label.numpy()).tolist()
    boxed = (
        (int(value), torch.from_numpy(box.fill((label == value).double().numpy(), float(value == 0))).float()) for value in values
    )
    shares = ((value, grids.linear(share[recipe.kept], recipe.target_shape, recipe.coarse)) for value, share in boxed)
    return grids.winner(shares, recipe.target_shape)


def normalise(
    volume: NDArray[numpy.generic], *, unit: IntensityUnit, params: PrepareParams
) -> Float[NDArray[numpy.float32], "z y x"]:
    """Clip and z-score one volume; a volume without contrast becomes zeros."""
    values = volume.astype(numpy.float64)
    if unit == "hu":
        low, high = params.ct_clip_hu
    else:
        seen = values[values != 0]
        low, high = numpy.percentile(seen if seen.size else values, params.mr_clip_percentiles)
    values = values.clip(low, high)
    deviation = values.std()
    scored = (values - values.mean()) / deviation if deviation > 0 else numpy.zeros_like(values)
    return scored.astype(numpy.float32)


def to_native(probs: Float[Tensor, "k z y x"], recipe: Recipe) -> UInt8[Tensor, "i j k2"]:
    """Take probabilities back to the stored grid and return the winning class there.

    Class by class with a running maximum, so that memory does not grow with the number of classes; ties go to the lower value.
    What was cropped away is background.

    Raises:
        DataError: The probabilities are not on the recipe's working grid.
    """
    if tuple(probs.shape[1:]) != recipe.target_shape:
        raise DataError(f"cannot go back: expected probabilities on the grid {recipe.target_shape}, got {tuple(probs.shape[1:])}")
    shares = ((value, _share_back(share, recipe, outside=float(value == 0))) for value, share in enumerate(probs))
    winning = grids.winner(shares, recipe.oriented_shape)
    return torch.from_numpy(recipe.orientation.undo(winning.numpy()))


def _share_back(share: Float[Tensor, "z y x"], recipe: Recipe, *, outside: float) -> Float[Tensor, "sz sy sx"]:
    """Take one class back to the stored grid, still on (z, y, x)."""
    kept, whole = recipe.kept, recipe.oriented_shape if recipe.box is None else recipe.box.shape
    extent = tuple(part.stop - part.start for part in kept)
    native = grids.linear(share, (extent[0], extent[1], extent[2]), recipe.coarse)
    if extent != whole:
        pasted = torch.full(whole, outside)
        pasted[kept] = native
        native = pasted
    return native if recipe.box is None else recipe.box.undo(native, recipe.oriented_shape)


def native_spacing(recipe: Recipe) -> tuple[float, float, float] | None:
    """Give the spacing along the stored axes (i, j, k) in mm; None in pixel geometry."""
    if recipe.affine is None:
        return None
    edges = numpy.linalg.norm(numpy.asarray(recipe.affine).reshape(4, 4)[:3, :3], axis=0)
    return float(edges[0]), float(edges[1]), float(edges[2])


def origin(source: SourceCase, label_map: LabelMap, *, unit: IntensityUnit, params: PrepareParams) -> str:
    """Hash all that a prepared case follows from: the bytes of its files, what labels mean, unit, params, and this code."""
    parts = {
        "files": [files.sha256_file(path) for path in (*source.image_paths, *filter(None, [source.label_path]))],
        "labels": sorted(label_map.values.items()),
        "unit": unit,
        "params": params.model_dump(mode="json", exclude={"contract", "val_share", "test_share"}),
        "code": [_code(), numpy.__version__, scipy.__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """Hash the modules through which a case passes."""
    folder = Path(__file__).parent
    names = ("grids.py", "layouts.py", "preprocess.py", "repairs.py", "volumes.py")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def origin_of(path: Path) -> str:
    """Read what a prepared case was made from; empty if there is no such file, or none that can be used."""
    try:
        return str(_metadata(path)["origin"])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return ""


def recipe_of(path: Path) -> Recipe:
    """Read the recipe alone.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        return _recipe(_metadata(path)["recipe"])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"cannot read prepared case {path}: {error}") from error


def _metadata(path: Path) -> Mapping[str, Any]:
    """Read what a prepared case says about itself."""
    with safetensors.safe_open(path, framework="pt") as handle:
        content: dict[str, Any] = json.loads(handle.metadata()["case"])
        return content


def save(case: PreparedCase, path: Path, *, origin: str = "") -> str:
    """Write a case to one safetensors file, the same bytes for the same case; return its SHA-256.

    Args:
        case: The case.
        path: Of the file.
        origin: What it was made from, as ``origin`` says.
    """
    tensors = {
        "image": case.image.to(torch.float16).contiguous(),
        "label": case.label.contiguous(),
        "native_label": case.native_label.contiguous(),
    }
    content = {"recipe": asdict(case.recipe), "origin": origin}
    metadata = {"case": json.dumps(content, sort_keys=True)}  # one entry: safetensors writes several in no fixed order
    files.write_bytes(path, safetensors.torch.save(tensors, metadata))
    return files.sha256_file(path)


def load(path: Path) -> PreparedCase:
    """Read a case; the image comes back in float32.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            recipe = _recipe(json.loads(handle.metadata()["case"])["recipe"])
            image, label, native = (handle.get_tensor(name) for name in ("image", "label", "native_label"))
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"cannot read prepared case {path}: {error}") from error
    return PreparedCase(image.to(torch.float32), label, native, recipe)


def _recipe(content: Mapping[str, Any]) -> Recipe:
    """Build a recipe from JSON, lists back to tuples."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    if fields["box"] is not None:
        fields["box"] = Box(tuple(fields["box"]["shape"]), tuple(fields["box"]["matrix"]))
    return Recipe(**fields)
