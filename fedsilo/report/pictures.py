"""Pictures of test cases, arranged to be compared: a block a site, a row a case, a column a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsilo.report.inputs import Overlay
from fedsilo.report.scores import ordered_methods

RANKS = ("worst", "median", "best")


@dataclass(frozen=True)
class PictureRow:
    """One case under each method; ``rank`` is its place among the site's cases, by the global model's Dice."""

    rank: str
    case: str
    pictures: Mapping[str, Overlay]


@dataclass(frozen=True)
class SitePictures:
    """The pictures of one site."""

    site: str
    methods: tuple[str, ...]
    rows: tuple[PictureRow, ...]


def arrange(overlays: Sequence[Overlay]) -> tuple[SitePictures, ...]:
    """Arrange pictures by site, worst case first."""
    found: list[SitePictures] = []
    for site in sorted({overlay.row.site for overlay in overlays}):
        here = [overlay for overlay in overlays if overlay.row.site == site]
        keys = sorted({(RANKS.index(overlay.row.rank), overlay.row.case) for overlay in here})
        rows = tuple(
            PictureRow(RANKS[rank], case, {overlay.row.method: overlay for overlay in here if overlay.row.case == case})
            for rank, case in keys
        )
        found.append(SitePictures(site, ordered_methods([overlay.row.method for overlay in here]), rows))
    return tuple(found)
