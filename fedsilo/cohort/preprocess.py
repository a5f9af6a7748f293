"""From a stored image to a prepared case on the working grid, and the way back.

Order: reorient to (z, y, x) towards S, A, R; clip; z-score of the volume; resample. The recipe holds what the way back needs:
probabilities are resampled to the stored grid, argmaxed, and the reorientation is undone.
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
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from fedsilo import files
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
    """

    source_shape: tuple[int, int, int]
    affine: tuple[float, ...] | None
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    source_spacing_zyx: tuple[float, float, float] | None
    target_spacing_zyx: tuple[float, float, float] | None
    target_shape: tuple[int, int, int]
    geometry: Literal["mm", "pixel"]

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
    orientation, spacing = image.orientation, image.spacing_zyx
    shape = orientation.apply(label).shape
    target = (shape[0], *params.size_yx_px)
    target_spacing: tuple[float, float, float] | None = None
    if spacing is not None:
        wanted = [goal or own for goal, own in zip(params.spacing_zyx_mm, spacing, strict=True)]
        near = [abs(goal / own - 1) < SAME_SHARE for goal, own in zip(wanted, spacing, strict=True)]
        target = tuple(
            size if same else max(1, round(size * own / goal))
            for size, own, goal, same in zip(shape, spacing, wanted, near, strict=True)
        )
        z, y, x = (own * size / edge for own, size, edge in zip(spacing, shape, target, strict=True))
        target_spacing = (z, y, x)
    recipe = Recipe(
        source_shape=(int(label.shape[0]), int(label.shape[1]), int(label.shape[2])),
        affine=None if image.affine is None else tuple(float(value) for value in image.affine.ravel()),
        axes=orientation.axes,
        flips=orientation.flips,
        source_spacing_zyx=spacing,
        target_spacing_zyx=target_spacing,
        target_shape=(int(target[0]), int(target[1]), int(target[2])),
        geometry="mm" if image.affine is not None else "pixel",
    )
    channels = [
        resample_image(torch.from_numpy(normalise(channel, unit=unit, params=params)), recipe.target_shape)
        for channel in image.zyx
    ]
    oriented = torch.from_numpy(orientation.apply(label).astype(numpy.uint8))
    return PreparedCase(
        image=torch.stack(channels),
        label=resample_label(oriented, recipe.target_shape),
        native_label=torch.from_numpy(numpy.ascontiguousarray(label, numpy.uint8)),
        recipe=recipe,
    )


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


def resample_image(volume: Float[Tensor, "z y x"], shape: tuple[int, int, int]) -> Float[Tensor, "nz ny nx"]:
    """Resample linearly; where an axis shrinks, after a Gaussian of ``(factor - 1) / 2`` voxels against aliasing."""
    if tuple(volume.shape) == shape:
        return volume
    sigma = [max(0.0, (old / new - 1) / 2) for old, new in zip(volume.shape, shape, strict=True)]
    if any(sigma):
        volume = torch.from_numpy(ndimage.gaussian_filter(volume.numpy(), sigma, mode="nearest"))
    return _linear(volume, shape)


def resample_label(label: UInt8[Tensor, "z y x"], shape: tuple[int, int, int]) -> UInt8[Tensor, "nz ny nx"]:
    """Resample one-hot, linearly, then argmax; ties go to the lower value."""
    if tuple(label.shape) == shape:
        return label
    best = torch.full(shape, -1.0)
    winner = torch.zeros(shape, dtype=torch.uint8)
    for value in numpy.unique(label.numpy()).tolist():
        share = _linear((label == value).float(), shape)
        better = share > best
        winner[better] = int(value)
        best = torch.where(better, share, best)
    return winner


def to_native(probs: Float[Tensor, "k z y x"], recipe: Recipe) -> UInt8[Tensor, "i j k2"]:
    """Take probabilities back to the stored grid and return the winning class there.

    Class by class with a running maximum, so that memory does not grow with the number of classes; ties go to the lower value.

    Raises:
        DataError: The probabilities are not on the recipe's working grid.
    """
    if tuple(probs.shape[1:]) != recipe.target_shape:
        raise DataError(f"cannot go back: expected probabilities on the grid {recipe.target_shape}, got {tuple(probs.shape[1:])}")
    forward = recipe.orientation
    stored = numpy.empty(recipe.source_shape, numpy.uint8)
    shape = tuple(recipe.source_shape[axis] for axis in forward.axes)
    best = torch.full(shape, -1.0)
    winner = torch.zeros(shape, dtype=torch.uint8)
    for value, share in enumerate(probs):
        native = _linear(share, (shape[0], shape[1], shape[2]))
        better = native > best
        winner[better] = value
        best = torch.where(better, native, best)
    stored[...] = forward.undo(winner.numpy())
    return torch.from_numpy(stored)


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
    names = ("layouts.py", "preprocess.py", "repairs.py", "volumes.py")
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


def _linear(volume: Float[Tensor, "z y x"], shape: tuple[int, int, int]) -> Float[Tensor, "nz ny nx"]:
    """Resample linearly between voxel centres; edges repeat."""
    if tuple(volume.shape) == shape:
        return volume
    if volume.shape[0] == shape[0]:  # slices keep their place: resample in the plane only
        resized = functional.interpolate(volume[:, None], size=shape[1:], mode="bilinear", align_corners=False)
        return resized[:, 0]
    return functional.interpolate(volume[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]


def _recipe(content: Mapping[str, object]) -> Recipe:
    """Build a recipe from JSON, lists back to tuples."""
    return Recipe(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})  # type: ignore[arg-type]  # written by asdict
