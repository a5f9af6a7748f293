"""BIDS with labels in derivatives: sub-X/[ses-Y/]anat/..._T2w.nii.gz and derivatives/<pipeline>/sub-X/.../..._dseg.nii.gz.

A parser of our own for the part that segmentation needs. An image and a label belong together if they have the same entities,
other than ``desc``, ``space`` and ``label``. ``ct/`` is a draft of the standard.

Reference:
    Gorgolewski et al., The brain imaging data structure, Scientific Data 2016; derivatives as of BIDS 1.4.
"""

import re
from collections import Counter
from collections.abc import Mapping

from fedsilo.ingest import labels as names
from fedsilo.ingest import pictures, tree
from fedsilo.ingest.source import Content, Finding, Options, SourceCase, SourceError, SourceSite, reasons
from fedsilo.ingest.tree import Tree

EVIDENCE = "sub-*/[ses-*/]anat/ or ct/ with .nii or .nii.gz files"
IMAGE = re.compile(r"^sub-[^/]+/(ses-[^/]+/)?(anat|ct)/(?P<stem>sub-[^/]+)_(?P<suffix>[A-Za-z0-9]+)(?P<ending>\.nii(\.gz)?)$")
LABEL = re.compile(r"^derivatives/[^/]+/(.*/)?(?P<stem>sub-[^/]+)_dseg(?P<ending>\.nii(\.gz)?)$")
NOT_MATCHED = ("desc", "space", "label")
NOT_IMAGES = ("dseg", "mask", "probseg")
CT_SUFFIXES = ("ct",)


def matches(source: Tree) -> bool:
    """Say whether a source has this layout."""
    return any(IMAGE.match(name) for name in source.names)


def find(source: Tree, options: Options) -> SourceSite:
    """List the cases: one an image; the patient is ``sub-``.

    Raises:
        SourceError: Tables of labels are missing or contradict each other, or there are several sequences and none is chosen.
    """
    matched = [match for name in source.names if (match := IMAGE.match(name)) and match["suffix"] not in NOT_IMAGES]
    suffixes = sorted({match["suffix"] for match in matched})
    chosen = options.sequence or (suffixes[0] if len(suffixes) == 1 else "")
    if chosen not in suffixes:
        raise SourceError("several images", f"expected one sequence, chosen by --sequence; there are {len(suffixes)}")
    images = [match for match in matched if match["suffix"] == chosen]
    others = len(matched) - len(images)
    findings = [Finding("not imported", f"{others} images of other sequences")] if others else []
    by_entities: dict[tuple[str, ...], list[str]] = {}
    for name in source.names:
        if label := LABEL.match(name):
            by_entities.setdefault(_entities(label["stem"]), []).append(name)
    lonely = by_entities.keys() - {_entities(match["stem"]) for match in matched}
    if lonely:
        findings.append(Finding("no label", f"{sum(len(by_entities[one]) for one in lonely)} dseg files belong to no image"))
    cases: list[SourceCase] = []
    values: dict[str, object] = {}
    num_images = Counter(_entities(image["stem"]) for image in images)
    for image in images:
        name, entities = image.string, _entities(image["stem"])
        found = by_entities.get(entities, [])
        problem = _problem(found, is_repeated=num_images[entities] > 1)
        if problem is None:
            try:
                declared = _table(source, found[0])
                values = _merged(values, declared)
            except SourceError as error:
                problem = Finding(error.kind, error.what)
        if problem is not None:
            private = " ".join((name, *found))
            findings.append(Finding(problem.kind, problem.message, _name(entities), private, left_out=True))
            continue
        patient = entities[0]
        cases.append(SourceCase(_name(entities), patient, (source.path(name),), (source.path(found[0]),), tuple(declared)))
    if not values:
        raise SourceError(
            "label", f"no image has one label with a dseg.tsv (index, name) beside or above it: {reasons(findings)}"
        )
    channels = names.channel_names([chosen])
    modality = "CT" if chosen in CT_SUFFIXES else names.modality_of(channels)
    ordered = tuple(sorted(cases, key=lambda case: case.case))
    return SourceSite(ordered, names.checked(values), channels, "mm", tuple(findings), modality=modality)


def read(case: SourceCase, labels: Mapping[str, int]) -> Content:  # noqa: ARG001  # values are those of the source
    """Read a case."""
    return pictures.content(case.images, case.labels[0])


def _entities(stem: str) -> tuple[str, ...]:
    """Give the entities that have to agree, ``sub-`` first, the others sorted."""
    parts = [part for part in stem.split("_") if part.partition("-")[0] not in NOT_MATCHED]
    return (parts[0], *sorted(parts[1:]))


def _name(entities: tuple[str, ...]) -> str:
    """Name a case by its entities."""
    return "_".join(entities)


def _problem(found: list[str], *, is_repeated: bool) -> Finding | None:
    """Say why an image has not exactly one label of its own."""
    if is_repeated:
        return Finding("several images", "several images have the same entities and would share a label; leave one of them")
    if not found:
        return Finding("no label", "no dseg file in derivatives has its entities")
    if len(found) > 1:
        return Finding("several labels", f"{len(found)} dseg files have its entities (readers or pipelines); leave one of them")
    return None


def _table(source: Tree, label: str) -> dict[str, object]:
    """Read the dseg.tsv of a label: of its own name, or the nearest one beside or above, up to the derivatives folder."""
    stem = re.sub(r"\.nii(\.gz)?$", "", label)
    folder = label.rpartition("/")[0]
    wanted = [f"{stem}.tsv"]
    while folder:
        wanted.append(f"{folder}/dseg.tsv")
        folder = folder.rpartition("/")[0]
    name = next((name for name in wanted if source.has(name)), "")
    if not name:
        raise SourceError("label", "there is no dseg.tsv (index, name) beside or above its label")
    rows = tree.read_table(source.path(name), "dseg.tsv", ("index", "name"), delimiter="\t")
    if len({row["index"] for row in rows}) < len(rows):
        raise SourceError("label", "dseg.tsv gives an index two names")
    return names.inverted({row["index"]: row["name"] for row in rows})


def _merged(values: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """Add the labels of another table; all have to agree."""
    merged = {**values, **more}
    if any(values[name] != more[name] for name in values.keys() & more.keys()) or len(set(merged.values())) < len(merged):
        raise SourceError("label", "its dseg.tsv contradicts that of another case; names and values must agree within a site")
    return merged
