"""Slices as .npz files with the arrays ``image`` and ``mask``; and the pickled .npy of FedGIN, which is never opened.

FedGIN's files are named CT_s0586_slice_1, MRI_s0168_slice_1; by such a name the patient is s0586. Pickles run code when they are
read, so the way from .npy to .npz is the owner's, on a machine of theirs.
"""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedsilo.ingest import labels as names
from fedsilo.ingest import nnunet, payload, pictures, tree
from fedsilo.ingest.source import MAX_PIXELS, Content, Finding, Options, SourceCase, SourceError, SourceSite
from fedsilo.ingest.tree import Tree

EVIDENCE = ".npz files, and no dataset.json that names an image folder"
PICKLED_EVIDENCE = ".npy files by names such as CT_s0586_slice_1.npy"
NAME = re.compile(r"^(?P<modality>CT|MRI?)_(?P<patient>[A-Za-z]*\d+)_slice_\d+$")
PICKLED = re.compile(r"(^|/)(CT|MRI?)_[^/]*_slice_\d+\.npy$")
ARRAYS = ("image", "mask")
MAX_HEADER_BYTES = 4096
MAX_ITEM_BYTES = 8
WORD_MAX, BYTE_MAX = 65535, 255
AXES_GREY, AXES_COLOUR = 2, 3
REFUSED = (
    "pickled .npy files are not opened: reading one runs the code in it. On a machine where they may be trusted, re-save each as "
    "numpy.savez_compressed(NAME + '.npz', image=..., mask=...) with plain arrays, and import those"
)


def matches(source: Tree) -> bool:
    """Say whether a source has this layout."""
    return any(name.endswith(".npz") for name in source.names) and not source.below("imagesTr")


def matches_pickled(source: Tree) -> bool:
    """Say whether a source holds FedGIN's pickles."""
    return any(PICKLED.search(name) for name in source.names)


def refuse(source: Tree, options: Options) -> SourceSite:  # noqa: ARG001  # nothing makes it safe
    """Refuse pickles.

    Raises:
        SourceError: Always; says the way out.
    """
    raise SourceError("not imported", f"{sum(name.endswith('.npy') for name in source.names)} {REFUSED}")


def find(source: Tree, options: Options) -> SourceSite:
    """List the cases, one a file; names of labels come from dataset.json or from ``--label``.

    Raises:
        SourceError: Nobody names the labels, or two files have one name.
    """
    files = [name for name in source.names if name.endswith(".npz")]
    given: Mapping[str, object] = options.labels
    if not given and source.has("dataset.json"):
        content = tree.read_json(source.path("dataset.json"), "dataset.json").get("labels")
        given = content if isinstance(content, dict) else {}
    if not given:
        raise SourceError("label", "nothing names the values of the masks: give --label NAME=VALUE, such as --label liver=1")
    patients = nnunet.read_patients(source)
    findings: list[Finding] = []
    cases: dict[str, SourceCase] = {}
    modalities = set()
    for name in files:
        stem = name.rpartition("/")[2].removesuffix(".npz")
        match = NAME.match(stem)
        modalities.add(match["modality"][:2] if match else "")
        if stem in cases:
            raise SourceError("several images", "two .npz files in different folders have one name; expected one folder a site")
        patient = (match["patient"] if match else "") if patients is None else patients.get(stem, "")
        if not patient:
            what = "neither its name (CT_s0586_slice_1) nor patients.csv says whose it is"
            findings.append(Finding("patient", what, stem, name, left_out=True))
            continue
        cases[stem] = SourceCase(stem, patient, (source.path(name),), (source.path(name),))
    if len(modalities - {""}) > 1:
        raise SourceError("several images", "CT and MR slices stand in one source; a site has one modality: import each apart")
    modality = modalities.pop() if len(modalities) == 1 else ""
    channels = names.channel_names([modality or "slice"])
    ordered = tuple(cases[stem] for stem in sorted(cases))
    return SourceSite(ordered, names.checked(given), channels, "pixel", tuple(findings), modality=modality)


def read(case: SourceCase, labels: Mapping[str, int]) -> Content:  # noqa: ARG001  # values are those of the source
    """Read a slice; see ``_words`` for its numbers.

    Raises:
        SourceError: The file is damaged, too large, pickled, or its arrays are no slice and mask.
    """
    arrays = _arrays(case.images[0])
    image, mask = arrays["image"], arrays["mask"]
    if (
        image.ndim not in (AXES_GREY, AXES_COLOUR)
        or (image.ndim == AXES_COLOUR and image.shape[2] != names.PARTS)
        or image.size == 0
    ):
        raise SourceError("geometry", f"expected an image of (row, column) or (row, column, 3), got shape {image.shape}")
    stored, is_rescaled = _words(image)
    planes = [stored] if stored.ndim == AXES_GREY else [stored[..., index] for index in range(names.PARTS)]
    what = f"intensities from 0 to 1 are stored as whole numbers from 0 to {WORD_MAX}"
    return Content(pictures.same_grid(planes), mask, None, None, (Finding("rescaled", what),) if is_rescaled else ())


def _arrays(path: Path) -> dict[str, NDArray[numpy.generic]]:
    """Read both arrays, each after what its own header claims was checked; numpy would take another member for them."""
    try:
        with zipfile.ZipFile(path) as packed:
            found = sorted(info.filename for info in packed.infolist())
            if found != sorted(f"{name}.npy" for name in ARRAYS):
                raise SourceError(
                    "unreadable", f"a .npz file needs the arrays image and mask, and no others; it has {len(found)}"
                )
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in packed.infolist()):
                raise SourceError("unreadable", "the arrays of a .npz file are packed otherwise than numpy does")
            return {name: _array(packed, f"{name}.npy") for name in ARRAYS}
    except SourceError:
        raise
    except Exception as error:  # zip, zlib and numpy raise a dozen unrelated types for one meaning: not readable
        raise SourceError("unreadable", f".npz file is damaged, cut off or pickled: {type(error).__name__}") from None


def _array(packed: zipfile.ZipFile, member: str) -> NDArray[numpy.generic]:
    """Read an array; refuse it by its header if it holds objects or text, or is more than a slice."""
    with packed.open(member) as handle:
        version = numpy.lib.format.read_magic(handle)
        read_header = numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(handle, max_header_size=MAX_HEADER_BYTES)
        if dtype.kind not in "iufb" or dtype.itemsize > MAX_ITEM_BYTES:
            raise SourceError("voxel type", f"expected real numbers of up to 64 bits, got an array of kind {dtype.kind!r}")
        if min(shape, default=1) < 1:
            raise SourceError("geometry", f"an array has no pixels: shape {shape}")
        num_pixels = math.prod(shape)
        if num_pixels > MAX_PIXELS:
            raise SourceError("too large", f"an array claims shape {shape}; expected at most {MAX_PIXELS} pixels")
        content = payload.stored(handle, num_pixels * dtype.itemsize, "an array of a .npz file")
    return numpy.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def _words(image: NDArray[numpy.generic]) -> tuple[NDArray[numpy.generic], bool]:
    """Bring intensities to uint8 or uint16, as PNG stores them.

    Whole numbers from 0 to 65535 stay. Fractions from 0 to 1 are multiplied by 65535 and rounded, the same in all slices.
    """
    low, high = float(image.min()), float(image.max())
    if not (numpy.isfinite(low) and numpy.isfinite(high)) or low < 0 or high > WORD_MAX:
        raise SourceError(
            "voxel type", f"expected intensities from 0 to {WORD_MAX}, got {low:g} to {high:g}; shift or window them"
        )
    if (image == numpy.rint(image.astype(numpy.float64))).all():
        return image.astype(numpy.uint8 if high <= BYTE_MAX else numpy.uint16), False
    if high > 1:
        raise SourceError("voxel type", "expected whole numbers or fractions from 0 to 1, got fractions above 1; rescale them")
    return numpy.rint(image.astype(numpy.float64) * WORD_MAX).astype(numpy.uint16), True
