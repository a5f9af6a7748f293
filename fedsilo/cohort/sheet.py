"""The contact sheet of a site: the middle slice of every case with the outlines of its organs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fedsilo.cohort.volumes import Image

ORGAN_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
"""Told apart by all kinds of colour vision; used in turn."""

COLUMNS = 6
TILE_INCHES = 2.0
DPI = 110
GREY_PERCENTILES = (1, 99)


@dataclass(frozen=True)
class Tile:
    """One case of the sheet.

    Attributes:
        title: Above the picture.
        notes: Below the title: rules that the case breaks; empty if none.
        image: One slice (row, column), as radiologists see it: anterior up, the patient's right on the left.
        labels: Organ values of the federation on the same pixels; None without a label that fits.
        aspect: Height of a pixel over its width.
    """

    title: str
    notes: str
    image: Float[NDArray[numpy.float64], "y x"] | None
    labels: UInt8[NDArray[numpy.uint8], "y x"] | None
    aspect: float


def tile(title: str, notes: str, image: Image | None, labels: UInt8[NDArray[numpy.uint8], "i j k"] | None) -> Tile:
    """Cut the slice out of a case: the middle one of those with an organ, or the middle one of all.

    Args:
        title: Above the picture.
        notes: Rules that the case breaks.
        image: As stored; None if it cannot be read.
        labels: Values of the federation on the same stored grid; None without.
    """
    if image is None:
        return Tile(title, notes, None, None, 1.0)
    grey = image.zyx[0].astype(numpy.float64)
    label = None if labels is None or labels.shape != image.channels.shape[1:] else image.orientation.apply(labels)
    present = numpy.flatnonzero(label.any(axis=(1, 2))) if label is not None else numpy.zeros(0, int)
    place = int(present[len(present) // 2]) if present.size else len(grey) // 2
    spacing = image.spacing_zyx
    return Tile(
        title=title,
        notes=notes,
        image=numpy.nan_to_num(grey[place, ::-1, ::-1]),
        labels=None if label is None else numpy.asarray(label[place, ::-1, ::-1], numpy.uint8),
        aspect=1.0 if spacing is None else spacing[1] / spacing[2],
    )


def draw(tiles: Sequence[Tile], organs: Sequence[str], *, heading: str) -> bytes:
    """Draw the sheet as a PNG.

    Args:
        tiles: In order; at least one.
        organs: Of the federation; position is the value, the first is background.
        heading: Above all.
    """
    rows = -(-len(tiles) // COLUMNS)
    canvas = Figure(figsize=(COLUMNS * TILE_INCHES, rows * (TILE_INCHES + 0.45) + 0.8), layout="constrained", dpi=DPI)
    canvas.suptitle(heading, fontsize=11, x=0.01, ha="left")
    grid = canvas.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, shown in zip(grid.flat, tiles, strict=False):
        axes.set_title(f"{shown.title}\n{shown.notes}".rstrip(), fontsize=7, color="#a40e26" if shown.notes else "#1a1a1a")
        if shown.image is None:
            axes.text(0.5, 0.5, "cannot be read", ha="center", va="center", fontsize=8, transform=axes.transAxes)
            continue
        low, high = numpy.percentile(shown.image, GREY_PERCENTILES)
        axes.imshow(shown.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=shown.aspect, interpolation="nearest")
        if shown.labels is None or min(shown.labels.shape) == 1:  # a line of voxels has no outline
            continue
        for value in [value for value in numpy.unique(shown.labels) if value > 0]:
            axes.contour(shown.labels == value, levels=[0.5], colors=[_colour(int(value))], linewidths=0.9)
    handles = [Line2D([], [], color=_colour(value), label=organ) for value, organ in enumerate(organs) if value > 0]
    canvas.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8, frameon=False)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _colour(value: int) -> str:
    return ORGAN_COLOURS[(value - 1) % len(ORGAN_COLOURS)]
