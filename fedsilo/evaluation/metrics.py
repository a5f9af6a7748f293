"""Scores of one case: overlap, surface distance and volume of every annotated organ, on the grid the image is stored in."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import monai
import torch
from jaxtyping import Bool, UInt8
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from fedsilo.errors import DataError

TOOL = f"monai {monai.__version__}"
"""What computes the surface metrics; other tools differ on the same masks, so every table names it."""

HIGHER_IS_BETTER = MappingProxyType({"dice": True, "iou": True, "nsd": True, "hd95": False, "assd": False})
"""Direction of each score; volumes have none."""

NSD_TOLERANCE_MM = MappingProxyType({"liver": 7.0, "kidneys": 3.0, "spleen": 3.0, "pancreas": 5.0})
"""Tolerated surface deviation; printed beside every NSD."""

NSD_TOLERANCE_OTHER_MM = 2.0
NSD_TOLERANCE_PX = 2.0
HD_PERCENTILE = 95.0
CROP_MARGIN = 2
MM3_PER_ML = 1000.0

Flag = Literal["missed", "absent", ""]


@dataclass(frozen=True)
class Score:
    """One number about one organ of one case.

    Attributes:
        organ: Name of the organ.
        metric: ``dice``, ``iou``, ``hd95``, ``assd``, ``nsd``, ``volume_ml`` (of the prediction) or ``volume_error_ml``
            (prediction minus reference).
        value: None where the metric is undefined.
        unit: ``1``, ``mm``, ``ml``, or ``px`` in pixel geometry.
        flag: ``missed`` (reference present, prediction empty), ``absent`` (reference empty) or empty.
    """

    organ: str
    metric: str
    value: float | None
    unit: str
    flag: Flag


def nsd_tolerance(organ: str, unit: str) -> float:
    """Look up the tolerance of an organ's normalised surface Dice, in ``unit`` (``mm`` or ``px``).

    Example:
        >>> nsd_tolerance("liver", "mm"), nsd_tolerance("gallbladder", "mm"), nsd_tolerance("liver", "px")
        (7.0, 2.0, 2.0)
    """
    return NSD_TOLERANCE_PX if unit == "px" else NSD_TOLERANCE_MM.get(organ, NSD_TOLERANCE_OTHER_MM)


def score_case(
    prediction: UInt8[Tensor, "*space"],
    reference: UInt8[Tensor, "..."],
    *,
    organs: Mapping[int, str],
    spacing_mm: Sequence[float] | None,
    surfaces: bool = True,
) -> list[Score]:
    """Score a prediction against its reference, organ by organ, foreground only.

    With A the prediction and B the reference: Dice ``2|A&B|/(|A|+|B|)``; IoU ``D/(2-D)``; HD95 the **larger of the two
    directed** 95th percentiles of surface distance; ASSD ``(sum d(a,S_B) + sum d(b,S_A))/(|S_A|+|S_B|)``; NSD the share of
    both surfaces, **by area**, within the organ's tolerance; volumes in ml. Surface metrics are MONAI's, on both masks
    cropped to their common bounding box and two voxels more, which changes no value.

    Empty masks are decided here, before the library is asked. Prediction empty: overlap and NSD 0, distances the diagonal
    of the image, flag ``missed``. Reference empty: everything but the volumes undefined, flag ``absent`` (a volume above
    zero is then a false positive, else a true negative). An organ that is not in ``organs`` gets no score.

    Args:
        prediction: Label values on the stored grid.
        reference: Label values on the same grid.
        organs: Name of each value that is annotated here.
        spacing_mm: Voxel edge along each axis of the arrays, in their order; None for pixel geometry, where distances are
            in pixels and volumes count pixels. An axis of length one is no direction: a single slice is scored in 2-D.
        surfaces: Without them HD95, ASSD and NSD, the slow ones, are left out.

    Returns:
        Seven scores an organ, four without surfaces, in order of label value.

    Raises:
        DataError: The shapes differ, or the spacing does not fit the arrays.

    Reference:
        Metrics Reloaded (Maier-Hein et al., Nature Methods 2024) for the choice; MONAI ``use_subvoxels=True`` for area
        weighting. Deviation: MONAI's own values for empty masks (nan, inf) are not used.
    """
    if prediction.shape != reference.shape:
        raise DataError(
            f"cannot score: prediction has shape {tuple(prediction.shape)}, expected the reference's {tuple(reference.shape)}"
        )
    spacing = _spacing(spacing_mm, reference.ndim)
    prediction, reference = prediction.cpu(), reference.cpu()
    scores: list[Score] = []
    for value in sorted(organs):
        scores += _score_organ(
            prediction == value,
            reference == value,
            organ=organs[value],
            spacing=spacing,
            pixel_geometry=spacing_mm is None,
            surfaces=surfaces,
        )
    return scores


def _spacing(spacing_mm: Sequence[float] | None, num_axes: int) -> tuple[float, ...]:
    if spacing_mm is None:
        return (1.0,) * num_axes
    if len(spacing_mm) != num_axes or not all(math.isfinite(edge) and edge > 0 for edge in spacing_mm):
        raise DataError(f"cannot score: expected {num_axes} positive spacings, one an axis, got {tuple(spacing_mm)}")
    return tuple(spacing_mm)


def _score_organ(
    predicted: Bool[Tensor, "*space"],
    referred: Bool[Tensor, "*space"],
    *,
    organ: str,
    spacing: tuple[float, ...],
    pixel_geometry: bool,
    surfaces: bool,
) -> list[Score]:
    num_predicted, num_referred = int(predicted.sum()), int(referred.sum())
    distance_unit, volume_unit = ("px", "px") if pixel_geometry else ("mm", "ml")
    voxel_volume = 1.0 if pixel_geometry else math.prod(spacing) / MM3_PER_ML
    flag: Flag = "absent" if num_referred == 0 else "missed" if num_predicted == 0 else ""

    overlap: tuple[float | None, float | None]
    distances: tuple[float | None, float | None, float | None] = (None, None, None)
    if flag == "absent":
        overlap = (None, None)
    elif flag == "missed":
        diagonal = _diagonal(referred.shape, spacing)
        overlap, distances = (0.0, 0.0), (diagonal, diagonal, 0.0)
    else:
        dice = 2 * int((predicted & referred).sum()) / (num_predicted + num_referred)
        overlap = (dice, dice / (2 - dice))
        if surfaces:
            distances = _surface_scores(predicted, referred, spacing, nsd_tolerance(organ, distance_unit))

    surface_scores = [
        Score(organ, "hd95", distances[0], distance_unit, flag),
        Score(organ, "assd", distances[1], distance_unit, flag),
        Score(organ, "nsd", distances[2], "1", flag),
    ]
    return [
        Score(organ, "dice", overlap[0], "1", flag),
        Score(organ, "iou", overlap[1], "1", flag),
        *(surface_scores if surfaces else []),
        Score(organ, "volume_ml", num_predicted * voxel_volume, volume_unit, flag),
        Score(organ, "volume_error_ml", (num_predicted - num_referred) * voxel_volume, volume_unit, flag),
    ]


def _kept_axes(shape: Sequence[int]) -> list[int]:
    """Axes longer than one, but never fewer than two: an erosion across a single slice would call every voxel surface."""
    long = [axis for axis, length in enumerate(shape) if length > 1]
    short = [axis for axis, length in enumerate(shape) if length == 1]
    return sorted((long + short)[: max(2, len(long))])


def _diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    return math.sqrt(sum((shape[axis] * spacing[axis]) ** 2 for axis in _kept_axes(shape)))


def _surface_scores(
    predicted: Bool[Tensor, "*space"], referred: Bool[Tensor, "*space"], spacing: Sequence[float], tolerance: float
) -> tuple[float, float, float]:
    """HD95, ASSD and NSD of two masks that both hold something."""
    box = _bounding_box(predicted | referred)
    axes = _kept_axes(predicted.shape)
    kept = [predicted.shape[axis] for axis in axes]
    first, second = (_crop(mask.reshape(kept), [box[axis] for axis in axes])[None, None] for mask in (predicted, referred))
    edges = [spacing[axis] for axis in axes]
    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 call their own function with an argument they deprecate
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=HD_PERCENTILE, spacing=edges)
        assd = compute_average_surface_distance(first, second, include_background=True, symmetric=True, spacing=edges)
        nsd = compute_surface_dice(first, second, [tolerance], include_background=True, spacing=edges, use_subvoxels=True)
    return float(hd95), float(assd), float(nsd)


def _bounding_box(mask: Bool[Tensor, "*space"]) -> list[tuple[int, int]]:
    corners = torch.nonzero(mask)
    low, high = corners.amin(dim=0).tolist(), corners.amax(dim=0).tolist()
    return [(max(0, start - CROP_MARGIN), stop + 1 + CROP_MARGIN) for start, stop in zip(low, high, strict=True)]


def _crop(mask: Bool[Tensor, "*space"], box: Sequence[tuple[int, int]]) -> Bool[Tensor, "*cropped"]:
    return mask[tuple(slice(start, stop) for start, stop in box)]
