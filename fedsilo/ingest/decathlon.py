"""The layout of the Medical Segmentation Decathlon (MSD): dataset.json lists image and label, channels are the last axis."""

from collections.abc import Mapping

from fedsilo.ingest import labels as names
from fedsilo.ingest import nnunet, pictures, tree
from fedsilo.ingest.source import Content, Finding, Options, SourceCase, SourceError, SourceSite
from fedsilo.ingest.tree import Tree

EVIDENCE = "dataset.json with modality and a list training, without channel_names"
NUM_SPATIAL = 3


def matches(source: Tree) -> bool:
    """Say whether a source has this layout."""
    if not source.has("dataset.json"):
        return False
    content = tree.read_json(source.path("dataset.json"), "dataset.json")
    return isinstance(content.get("training"), list) and "modality" in content and "channel_names" not in content


def find(source: Tree, options: Options) -> SourceSite:  # noqa: ARG001  # the layout says all itself
    """List the cases; ``patients.csv``, which is ours, may say who is who.

    Raises:
        SourceError: dataset.json cannot be used.
    """
    description = tree.read_json(source.path("dataset.json"), "dataset.json")
    content = description.get("labels")
    values = names.checked(names.inverted(content if isinstance(content, dict) else {}))
    channels = names.channel_names(names.in_order(description["modality"]))
    patients = nnunet.read_patients(source)
    findings: list[Finding] = []
    if patients is None:
        findings.append(Finding("patient", f"there is no {nnunet.PATIENTS}: every case counts as a patient of its own"))
    tests = description.get("test")
    if isinstance(tests, list) and tests:
        findings.append(Finding("not imported", f"{len(tests)} images under test have no labels"))
    listed: dict[str, list[SourceCase]] = {}
    entries = description["training"]
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        try:
            case = _case(source, entry, patients)
        except SourceError as error:
            findings.append(Finding(error.kind, error.what, f"training[{index}]", left_out=True))
            continue
        listed.setdefault(case.case, []).append(case)
    for name, found in sorted(listed.items()):
        if len(found) > 1:
            what = f"{len(found)} entries of training have one name; which of them is right is not guessed: name each image once"
            private = " ".join(str(case.images[0]) for case in found)
            findings.append(Finding("several images", what, name, private, left_out=True))
    ordered = tuple(found[0] for _, found in sorted(listed.items()) if len(found) == 1)
    return SourceSite(ordered, values, channels, "mm", tuple(findings), modality=names.modality_of(channels))


def read(case: SourceCase, labels: Mapping[str, int]) -> Content:  # noqa: ARG001  # values are those of the source
    """Read a case; of four axes the last is the channels.

    Raises:
        SourceError: A file cannot be used.
    """
    image = pictures.volume(case.images[0], max_axes=NUM_SPATIAL + 1)
    label = pictures.volume(case.labels[0])
    array = image.array
    channels = tuple(array[..., index] for index in range(array.shape[-1])) if array.ndim > NUM_SPATIAL else (array,)
    findings = tuple(dict.fromkeys((*image.findings, *label.findings)))
    return Content(channels, label.array, image.affine, label.affine, findings)


def _case(source: Tree, entry: object, patients: Mapping[str, str] | None) -> SourceCase:
    """Read an entry of ``training``."""
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not isinstance(entry.get("label"), str):
        raise SourceError("unreadable", 'an entry of training: expected {"image": PATH, "label": PATH}')
    image, label = source.find(entry["image"]), source.find(entry["label"])
    ending = next((ending for ending in pictures.NIFTI if image.endswith(ending)), "")
    if not ending or not label.endswith(pictures.NIFTI):
        raise SourceError("unreadable", f"an entry of training: expected files ending in {' or '.join(pictures.NIFTI)}")
    name = image.rpartition("/")[2].removesuffix(ending)
    if patients is not None and name not in patients:
        raise SourceError("patient", f"{nnunet.PATIENTS} does not name a case of training")
    return SourceCase(name, name if patients is None else patients[name], (source.path(image),), (source.path(label),))
