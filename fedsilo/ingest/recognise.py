"""Which layout a source has: each says its evidence, and exactly one must match."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedsilo.errors import DataError, ParamsError
from fedsilo.ingest import bids, chaos, decathlon, dicom, nnunet, slices
from fedsilo.ingest.source import Content, Options, SourceCase, SourceSite
from fedsilo.ingest.tree import Tree

AUTO = "auto"


@dataclass(frozen=True)
class Layout:
    """A way to store a site.

    Attributes:
        name: As ``--layout`` takes it.
        evidence: What is looked for, for people.
        matches: Whether a source has it.
        find: Lists a site's cases.
        read: Reads one case, given the site's labels.
    """

    name: str
    evidence: str
    matches: Callable[[Tree], bool]
    find: Callable[[Tree, Options], SourceSite]
    read: Callable[[SourceCase, Mapping[str, int]], Content]


LAYOUTS = (
    Layout("nnunet", nnunet.EVIDENCE, nnunet.matches, nnunet.find, nnunet.read),
    Layout("msd", decathlon.EVIDENCE, decathlon.matches, decathlon.find, decathlon.read),
    Layout("bids", bids.EVIDENCE, bids.matches, bids.find, bids.read),
    Layout("dicom", dicom.EVIDENCE, dicom.matches, dicom.find, dicom.read),
    Layout("chaos-ct", chaos.CT_EVIDENCE, chaos.matches_ct, chaos.find_ct, chaos.read_ct),
    Layout("chaos-t2spir", chaos.T2_EVIDENCE, chaos.matches_t2, chaos.find_t2, chaos.read_t2),
    Layout("chaos-t1dual", chaos.T1_EVIDENCE, chaos.matches_t1, chaos.find_t1, chaos.read_t1),
    Layout("npz", slices.EVIDENCE, slices.matches, slices.find, slices.read),
    Layout("fedgin-npy", slices.PICKLED_EVIDENCE, slices.matches_pickled, slices.refuse, slices.read),
)


def named(name: str) -> Layout:
    """Give a layout by its name.

    Raises:
        ParamsError: There is none.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise ParamsError(f"no layout {name!r}; there are {', '.join((AUTO, *(layout.name for layout in LAYOUTS)))}")


def recognise(source: Tree) -> Layout:
    """Find the one layout whose evidence a source has.

    Raises:
        DataError: None or several match; says what was looked for, and what matched.
    """
    matched = [layout for layout in LAYOUTS if layout.matches(source)]
    if len(matched) == 1:
        return matched[0]
    if not matched:
        looked_for = "; ".join(f"{layout.name}: {layout.evidence}" for layout in LAYOUTS)
        raise DataError(f"the source has no layout that is known, among {len(source.names)} files; looked for {looked_for}")
    found = "; ".join(f"{layout.name}: {layout.evidence}" for layout in matched)
    raise DataError(f"the source matches {len(matched)} layouts, choose one by --layout or give a folder with one; found {found}")
