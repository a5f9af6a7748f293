"""DICOM in any tree of folders: a case is a series of CT or MR that a DICOM-SEG or RTSTRUCT file refers to.

Files are known by their magic, not by names. A label belongs to the series that holds the instances it refers to, or that it
names. Only one that refers to no image and names no series belongs to the one series of its frame of reference: phases of a
contrast agent share a frame, and are not each other's images. The patient is the PatientID.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsilo.cohort.layouts import plain
from fedsilo.ingest import dicom_files, dicom_labels, dicom_series
from fedsilo.ingest import labels as names
from fedsilo.ingest.dicom_files import Header
from fedsilo.ingest.source import Content, Finding, Options, SourceCase, SourceError, SourceSite
from fedsilo.ingest.tree import Tree

EVIDENCE = "files with DICOM's magic, in folders other than CHAOS's (DICOM_anon)"
IMAGES = ("CT", "MR")
LABELS = ("SEG", "RTSTRUCT")
UNITS = {"CT": "hu", "MR": "au"}
CHAOS_FOLDER = "DICOM_anon"


@dataclass(frozen=True)
class _Labels:
    """Label files of one series, and the organs they draw."""

    files: tuple[Header, ...]
    organs: tuple[str, ...]


def matches(source: Tree) -> bool:
    """Say whether a source has this layout."""
    return any(dicom_files.is_dicom(source.path(name)) for name in source.names if CHAOS_FOLDER not in name.split("/"))


def find(source: Tree, options: Options) -> SourceSite:
    """List the cases.

    Raises:
        SourceError: No label belongs to a series, or there are CT and MR and none is chosen.
    """
    headers, findings = _headers(source)
    by_series: dict[str, list[Header]] = {}
    for header in headers:
        if header.modality in IMAGES:
            by_series.setdefault(header.series_uid, []).append(header)
    labels, more = _by_series([header for header in headers if header.modality in LABELS], by_series, options)
    findings += more
    modality = _modality([by_series[uid][0].modality for uid in labels], options)
    cases = []
    for uid, slices in sorted(by_series.items()):
        problem = _problem(slices, labels.get(uid), modality)
        if problem is not None:
            readers = labels[uid].files if problem.kind == "several labels" else slices[:1]
            private = " ".join(str(header.path) for header in readers)
            findings.append(Finding(problem.kind, problem.message, uid, private, left_out=True))
            continue
        if not all(header.is_removed for header in slices):
            findings.append(Finding("identity", "its headers are not marked as de-identified; none of them is kept", uid))
        paths = tuple(header.path for header in slices)
        drawings = tuple(header.path for header in labels[uid].files)
        cases.append(SourceCase(uid, slices[0].patient, paths, drawings, labels[uid].organs))
    drawn = [labels[case.case] for case in cases] or list(labels.values())
    organs = sorted({organ for entry in drawn for organ in entry.organs})
    values = names.checked({organ: value for value, organ in enumerate(organs, start=1)})
    return SourceSite(tuple(cases), values, (modality,), "mm", tuple(findings), modality, UNITS[modality])


def read(case: SourceCase, labels: Mapping[str, int]) -> Content:
    """Read a case: its volume, and its organs drawn on the same grid.

    Raises:
        SourceError: The series is no even volume, or the label lies on another grid.
    """
    series = dicom_series.read(case.images)
    drawn = dicom_labels.draw(case.labels, series, labels)
    return Content((series.array,), drawn.label, series.affine, series.affine, (*series.findings, *drawn.findings))


def _headers(source: Tree) -> tuple[list[Header], list[Finding]]:
    """Read all headers; say how many files are something else."""
    headers, findings, others = [], [], 0
    for name in source.names:
        path = source.path(name)
        if not dicom_files.is_dicom(path):
            others += 1
            continue
        try:
            header = dicom_files.header(path)
        except SourceError as error:
            findings.append(Finding(error.kind, error.what, path=name))
            continue
        if header.sop_class == dicom_files.DIRECTORY:
            continue
        if header.modality not in (*IMAGES, *LABELS) or header.sop_class.startswith(dicom_files.SECONDARY_CAPTURE):
            findings.append(
                Finding("not imported", "a DICOM object that is no CT, MR, SEG or RTSTRUCT, or a screen capture", path=name)
            )
            continue
        headers.append(header)
    if others:
        findings.append(Finding("not imported", f"{others} files are not DICOM"))
    return headers, findings


def _by_series(
    files: Sequence[Header], by_series: Mapping[str, Sequence[Header]], options: Options
) -> tuple[dict[str, _Labels], list[Finding]]:
    """Give each series its labels."""
    dropped = {plain(name) for name in options.drop}
    series_of = {header.sop_uid: uid for uid, slices in by_series.items() for header in slices}
    frames: dict[str, set[str]] = {}
    for uid, slices in by_series.items():
        frames.setdefault(slices[0].frame_uid, set()).add(uid)
    found: dict[str, _Labels] = {}
    findings = []
    for header in files:
        try:
            uid = _target(header, series_of, by_series, frames)
            organs = tuple(name for name in dicom_labels.names(header.path) if name not in dropped)
        except SourceError as error:
            findings.append(Finding(error.kind, error.what, path=str(header.path)))
            continue
        before = found.get(uid, _Labels((), ()))
        found[uid] = _Labels((*before.files, header), (*before.organs, *organs))
    return found, findings


def _target(header: Header, series_of: Mapping[str, str], by_series: Mapping[str, object], frames: Mapping[str, set[str]]) -> str:
    """Find the series of a label file."""
    instances, series, frame = dicom_labels.references(header.path)
    by_instance = {series_of[uid] for uid in instances if uid in series_of}
    by_name = {uid for uid in series if uid in by_series}
    by_frame = frames.get(frame, set()) if frame else set()
    for candidates in (by_instance, by_name, set[str]() if instances or series else by_frame):
        if len(candidates) == 1:
            return next(iter(candidates))
        if candidates:
            raise SourceError("several images", f"a label file refers to {len(candidates)} series; expected one")
    raise SourceError("no label", "a label file refers to a series that is not there")


def _modality(labelled: Sequence[str], options: Options) -> str:
    """Settle the site's modality."""
    there = sorted(set(labelled))
    if not there:
        raise SourceError("no label", "no SEG or RTSTRUCT file belongs to a series of CT or MR")
    chosen = options.modality or (there[0] if len(there) == 1 else "")
    if chosen not in there:
        raise SourceError("several images", f"expected one modality, chosen by --modality; labelled are {', '.join(there)}")
    return chosen


def _problem(slices: Sequence[Header], labels: _Labels | None, modality: str) -> Finding | None:
    """Say why a series is no case."""
    if slices[0].modality != modality:
        return Finding("not imported", f"a series of another modality than {modality}")
    if labels is None:
        return Finding("no label", "no SEG or RTSTRUCT file refers to it")
    repeated = sorted({organ for organ in labels.organs if labels.organs.count(organ) > 1})
    if repeated:
        return Finding("several labels", f"{len(labels.files)} label files draw the same organ (readers); leave one of them")
    if any(header.is_burned_in for header in (*slices, *labels.files)):
        return Finding("burned in", "BurnedInAnnotation is YES: its pixels may show a name")
    patients = {header.patient for header in (*slices, *labels.files)}
    if "" in patients or len(patients) > 1:
        return Finding("patient", "it has no PatientID, or its files have several")
    return None
