"""The report's page: lays out a document as one HTML file that needs nothing else, and computes nothing."""

import base64
import itertools
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from fedsilo.evaluation.metrics import nsd_tolerance
from fedsilo.evaluation.overlays import BOTH_RGB, PREDICTION_RGB, REFERENCE_RGB
from fedsilo.report import wording
from fedsilo.report.document import Document
from fedsilo.report.scores import ALL_ORGANS, ALL_SITES


def render(document: Document) -> str:
    """Lay out a document.

    Returns:
        HTML with style and pictures inside; no script, no link to another file, the same text for the same document.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedsilo.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": wording.number,
        "bounds": wording.bounds,
        "interval": wording.interval,
        "p_value": wording.p_value,
        "percent": wording.percent,
        "svg": _svg_uri,
        "png": _png_uri,
        "hex": _hex,
        "runs": _runs,
    }
    return environment.get_template("page.html").render(
        document=document,
        css=Markup(resources.files("fedsilo.report").joinpath("page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
        meaning=wording.MEANING,
        interval_legend=wording.INTERVAL_LEGEND,
        all_organs=ALL_ORGANS,
        all_sites=ALL_SITES,
        nsd_tolerance=nsd_tolerance,
        outlines={"reference": REFERENCE_RGB, "prediction": PREDICTION_RGB, "both": BOTH_RGB},
    )


def _runs(rows: Iterable[object], *names: str) -> list[list[object]]:
    """Group neighbouring rows with the same attributes, in the order they come."""
    return [list(group) for _, group in itertools.groupby(rows, key=lambda row: [getattr(row, name) for name in names])]


def _svg_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _png_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
