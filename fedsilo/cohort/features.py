"""Features of a case: numbers that another scanner, protocol or kind of patient would move. They stay at the site.

Histograms are square roots of shares, so that the distance of two cases is that of Hellinger; intensities are taken between a
case's own percentiles, so that gain and offset, which differ from scan to scan, do not count.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedsilo.cohort import volumes
from fedsilo.cohort.preprocess import PreparedCase, Recipe
from fedsilo.errors import DataError

VERSION = 1
PERCENTILES = (0.5, 99.5)
NUM_BINS = 12
GRADIENT_EDGES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Between bins of the gradient, in shares of a case's range of intensities a voxel; twice as wide from bin to bin."""

MM3_A_ML = 1000
IN_HU = ("p50", "p99_5", "std")
"""Facts that are features where intensities have a unit."""

STEPS: Mapping[str, float] = {
    "intensity": 0.05,
    "gradient": 0.05,
    "spacing": 0.05,
    "shape": 8.0,
    "oblique": 1.0,
    "hu": 25.0,
    "volume": 25.0,
    "entropy": 0.02,
}
"""Width of a bin of a feature, by the part of its name before the first underscore; never read off the data."""


@dataclass(frozen=True)
class Seen:
    """What a model made of a case.

    Attributes:
        probs: On the case's working grid, background first.
        organs: Names of the classes, background first.
    """

    probs: Float[Tensor, "k z y x"]
    organs: tuple[str, ...]


def of_case(
    case: PreparedCase, *, stored: Mapping[str, float | None] | None = None, seen: Seen | None = None
) -> dict[str, float]:
    """Measure the features of a prepared case, by name.

    Of a case without millimetres spacing and angle are 0.

    Args:
        case: Not modified.
        stored: Facts of the stored image, where its unit is HU; None elsewhere.
        seen: Of a model, where one is given.

    Raises:
        DataError: A fact is missing, or probabilities are not of the case's grid.
    """
    return {
        **_of_image(case.image.numpy().astype(numpy.float64)),
        **_of_grid(case.recipe),
        **({} if stored is None else _of_facts(stored)),
        **({} if seen is None else _of_prediction(seen, case.recipe)),
    }


def step_of(name: str) -> float:
    """Give the width of a feature's bins.

    Example:
        >>> step_of("spacing_z"), step_of("volume_liver")
        (0.05, 25.0)
    """
    return STEPS[name.partition("_")[0]]


def origin(prepare_params: Mapping[str, object], *, plan: str, model: str) -> str:
    """Hash what features depend on beside the cases: how cases are prepared, what looks at them, and these definitions.

    Args:
        prepare_params: Params of the preparation, plain.
        plan: Hash of what the sites planned together; empty if they did not.
        model: Hash of the model that predicts; empty without one.
    """
    parts = {"version": VERSION, "prepare": dict(prepare_params), "plan": plan, "model": model}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _of_image(channels: Float[NDArray[numpy.float64], "c z y x"]) -> dict[str, float]:
    """Take the histograms of intensity and of its slope within slices, over all channels."""
    scaled = numpy.stack([_scaled(channel) for channel in channels])
    counts = numpy.histogram(scaled, bins=NUM_BINS, range=(0.0, 1.0))[0]
    slopes = numpy.hypot(*(_slope(scaled, axis) for axis in (2, 3)))
    steep = numpy.bincount(numpy.digitize(slopes.ravel(), GRADIENT_EDGES), minlength=len(GRADIENT_EDGES) + 1)
    return {
        **{f"intensity_{index:02d}": value for index, value in enumerate(_roots(counts))},
        **{f"gradient_{index:02d}": value for index, value in enumerate(_roots(steep))},
    }


def _scaled(channel: Float[NDArray[numpy.float64], "z y x"]) -> Float[NDArray[numpy.float64], "z y x"]:
    """Bring intensities between two percentiles to 0 to 1; without contrast all are 0."""
    low, high = (float(value) for value in numpy.percentile(channel, PERCENTILES))
    if high <= low:
        return numpy.zeros_like(channel)
    return ((channel - low) / (high - low)).clip(0.0, 1.0)


def _slope(scaled: Float[NDArray[numpy.float64], "c z y x"], axis: int) -> Float[NDArray[numpy.float64], "c z y x"]:
    """Differentiate along an axis; along one of a single voxel there is no slope."""
    return numpy.zeros_like(scaled) if scaled.shape[axis] == 1 else numpy.asarray(numpy.gradient(scaled, axis=axis))


def _roots(counts: NDArray[numpy.generic]) -> list[float]:
    """Take square roots of shares."""
    return [float(value) for value in numpy.sqrt(counts.astype(numpy.float64) / counts.sum())]


def _of_grid(recipe: Recipe) -> dict[str, float]:
    """Take spacing, shape and angle of the stored grid."""
    spacing = recipe.source_spacing_zyx or (0.0, 0.0, 0.0)
    affine = None if recipe.affine is None else numpy.asarray(recipe.affine).reshape(4, 4)
    return {
        **{f"spacing_{axis}": float(edge) for axis, edge in zip("zyx", spacing, strict=True)},
        **{f"shape_{axis}": float(size) for axis, size in zip("zyx", recipe.oriented_shape, strict=True)},
        "oblique_deg": 0.0 if affine is None else float(volumes.oblique_deg(affine)),
    }


def _of_facts(stored: Mapping[str, float | None]) -> dict[str, float]:
    """Take the facts of the stored intensities."""
    found: dict[str, float] = {}
    for name in IN_HU:
        value = stored.get(name)
        if value is None or not numpy.isfinite(value):
            raise DataError(f"cannot measure features: the fact {name} is missing")
        found[f"hu_{name}"] = float(value)
    return found


def _of_prediction(seen: Seen, recipe: Recipe) -> dict[str, float]:
    """Take the volume of every predicted organ, in ml or voxels, and the mean entropy in shares of the largest possible."""
    if tuple(seen.probs.shape[1:]) != recipe.target_shape or len(seen.probs) != len(seen.organs):
        got = tuple(seen.probs.shape)
        raise DataError(f"cannot measure features: expected probabilities {(len(seen.organs), *recipe.target_shape)}, got {got}")
    spacing = recipe.target_spacing_zyx
    unit = 1.0 if spacing is None else spacing[0] * spacing[1] * spacing[2] / MM3_A_ML
    classes = seen.probs.argmax(dim=0)
    probs = seen.probs.double()
    entropy = -(probs * probs.clamp_min(numpy.finfo(numpy.float64).tiny).log()).sum(dim=0).mean()
    return {
        **{f"volume_{organ}": float((classes == value).sum()) * unit for value, organ in enumerate(seen.organs) if value},
        "entropy": float(entropy) / float(numpy.log(len(seen.organs))),
    }


def table(rows: Sequence[Mapping[str, float]]) -> tuple[tuple[str, ...], Float[NDArray[numpy.float64], "n f"]]:
    """Lay cases' features out as names and an array, a row a case.

    Raises:
        DataError: There is no case, or cases have other features.

    Example:
        >>> names, values = table([{"spacing_z": 5.0, "entropy": 0.1}, {"entropy": 0.3, "spacing_z": 4.0}])
        >>> names, values.tolist()
        (('entropy', 'spacing_z'), [[0.1, 5.0], [0.3, 4.0]])
    """
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise DataError("cannot compare features: there is no case, or cases differ in which features they have")
    names = tuple(sorted(rows[0]))
    return names, numpy.array([[row[name] for name in names] for row in rows], dtype=numpy.float64)
