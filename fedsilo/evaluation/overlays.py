"""Overlays: outlines of reference and prediction on one slice of a test case, and the table that lists them."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast

import numpy
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fedsilo import files
from fedsilo.errors import DataError

Rank = Literal["best", "median", "worst"]

REFERENCE_RGB = (230, 159, 0)
"""Orange; this and the next are told apart by all kinds of colour vision."""

PREDICTION_RGB = (86, 180, 233)
"""Sky blue."""

BOTH_RGB = (255, 255, 255)
"""Where the two outlines coincide."""

MIN_EDGE_PX = 320
GREY_PERCENTILES = (1.0, 99.0)
DECIMALS = 6
PICTURE = re.compile(r"overlays/[A-Za-z0-9][A-Za-z0-9._-]{0,249}\.png")
"""What the table may name: its pictures are copied, so it must lead to no other file."""


@dataclass(frozen=True)
class OverlayRow:
    """One picture; the fields are the table's columns, in order.

    Attributes:
        site: Site of the case.
        case: The case.
        patient: Its patient.
        method: What predicted.
        rank: Place of the case among the site's, by the global model's mean Dice.
        dice: Mean Dice of ``method`` over the organs of this case; None if no organ is present.
        file: Where the picture lies, relative to the table.
    """

    site: str
    case: str
    patient: str
    method: str
    rank: Rank
    dice: float | None
    file: str


COLUMNS = tuple(field.name for field in fields(OverlayRow))


def draw(
    image: Float[Tensor, "c z y x"],
    reference: Integer[Tensor, "z y x"],
    prediction: Integer[Tensor, "z y x"],
) -> bytes:
    """Draw one slice: the first channel in grey, the reference's outlines orange, the prediction's blue, both white.

    The slice is the middle one of those where the reference has an organ, or the middle one of all if there is none.
    It is shown as radiologists expect it: anterior up, the patient's right on the left. A PNG, prepared from such a view, is
    shown as it is stored.

    Args:
        image: Prepared image, axes towards S, A, R.
        reference: Label values on the same grid, 0 is background.
        prediction: The same.

    Returns:
        A PNG; the same bytes for the same arrays.
    """
    slice_index = middle_slice(reference)
    grey = image[0, slice_index].numpy()
    prepared = (grey, reference[slice_index].numpy(), prediction[slice_index].numpy())
    planes = [plane[::-1, ::-1] for plane in prepared]
    zoom = max(1, -(-MIN_EDGE_PX // max(grey.shape)))
    grey, referred, predicted = (numpy.kron(plane, numpy.ones((zoom, zoom), plane.dtype)) for plane in planes)
    picture = numpy.repeat(_to_bytes(grey)[..., None], 3, axis=2)
    reference_edge, prediction_edge = _outline(referred), _outline(predicted)
    picture[reference_edge] = REFERENCE_RGB
    picture[prediction_edge] = PREDICTION_RGB
    picture[reference_edge & prediction_edge] = BOTH_RGB
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def middle_slice(reference: Integer[Tensor, "z y x"]) -> int:
    """Find the middle one of the slices that have an organ; the middle of all if none has.

    Example:
        >>> import torch
        >>> middle_slice(torch.tensor([0, 1, 1, 1, 0, 0, 0]).reshape(7, 1, 1))
        2
    """
    present = reference.flatten(1).any(dim=1).nonzero().flatten()
    return int(present[len(present) // 2]) if len(present) else len(reference) // 2


def ranked(mean_dice: Mapping[str, float | None]) -> dict[Rank, str]:
    """Choose the cases to show: worst, median and best by mean Dice, each case once; cases without a Dice are left out.

    Of equal cases the first name counts as the worse. With two cases there is no median, with one only a best.

    Example:
        >>> ranked({"a": 0.5, "b": None, "c": 0.9, "d": 0.1})
        {'worst': 'd', 'median': 'a', 'best': 'c'}
        >>> ranked({"a": 0.5})
        {'best': 'a'}
    """
    ordered = sorted((dice, case) for case, dice in mean_dice.items() if dice is not None)
    chosen: dict[Rank, str] = {}
    if len(ordered) > 1:
        chosen["worst"] = ordered[0][1]
    if len(ordered) > 2:  # noqa: PLR2004  # worst and best
        chosen["median"] = ordered[len(ordered) // 2][1]
    if ordered:
        chosen["best"] = ordered[-1][1]
    return chosen


def write_index(rows: Iterable[OverlayRow], path: Path) -> Path:
    """Write the table of pictures, sorted by site, case and method; only a header if there is none."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in sorted(rows, key=lambda row: (row.site, row.case, row.method)):
        dice = "" if row.dice is None else repr(round(row.dice, DECIMALS))
        table.writerow((row.site, row.case, row.patient, row.method, row.rank, dice, row.file))
    return files.write_text(path, text.getvalue())


def read_index(path: Path) -> list[OverlayRow]:
    """Read a table of pictures.

    Raises:
        DataError: The file is missing, or its columns are others.
    """
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise DataError(
            f"cannot use {path}: expected the columns {','.join(COLUMNS)}, got {','.join(lines[0]) if lines else 'nothing'}"
        )
    odd = [line[-1] for line in lines[1:] if len(line) != len(COLUMNS) or not PICTURE.fullmatch(line[-1])]
    if odd:
        raise DataError(f"cannot use {path}: expected a picture of the folder overlays in each row, got {odd[0]!r:.60}")
    return [
        OverlayRow(site, case, patient, method, cast("Rank", rank), float(dice) if dice else None, file)
        for site, case, patient, method, rank, dice, file in lines[1:]
    ]


def _to_bytes(grey: NDArray[numpy.float32]) -> NDArray[numpy.uint8]:
    low, high = numpy.percentile(grey, GREY_PERCENTILES)
    scaled = numpy.clip((grey - low) / max(high - low, 1e-6), 0, 1)
    return numpy.asarray(scaled * 255, numpy.uint8)


def _outline(labels: NDArray[numpy.integer]) -> NDArray[numpy.bool_]:
    """Mark pixels of an organ beside another value; the picture's border is no outline."""
    padded = numpy.pad(labels, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edge: NDArray[numpy.bool_] = numpy.any([neighbour != centre for neighbour in beside], axis=0)
    return edge & (centre > 0)
