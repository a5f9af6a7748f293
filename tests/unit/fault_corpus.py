"""The corpus of malformed cases: each fault, and the rule that is meant for it."""

import gzip
import io

import numpy

from tests.unit import faulty_sites as sites
from tests.unit.faulty_sites import AFFINE, SHAPE, Fault, changed, copied, damaged, drawn, dtype, header, number, text

NIFTI_DIM, NIFTI_DATATYPE, NIFTI_PIXDIM, NIFTI_SROW, NIFTI_SFORM, NIFTI_QFORM = 40, 70, 76, 280, 254, 252
NIFTI_OFFSET, NIFTI_QUATERNION = 108, 256
NIFTI_DESCRIP, NIFTI_AUX, NIFTI_INTENT, NIFTI_DB, NIFTI_MAGIC = 148, 228, 328, 14, 344
F1 = ("F1",)


def zeros_after(content):
    """A small file that unpacks to a gigabyte: the header claims a volume of that size."""
    found = bytearray(gzip.decompress(content)[:352])
    number("h", NIFTI_DIM, 3, 32000, 32000, 32000, 1, 1, 1, 1)(found)
    return gzip.compress(bytes(found) + bytes(2**24))


def zeros_in_an_image(content):
    """A small file that unpacks to as many zeros as its header says: a volume of 256 MiB."""
    found = bytearray(gzip.decompress(content)[:352])
    number("h", NIFTI_DIM, 3, 512, 512, 512, 1, 1, 1, 1)(found)
    return gzip.compress(bytes(found) + bytes(2**28), compresslevel=1)


def behind(content):
    """A file with a name where padding may be."""
    return gzip.compress(gzip.decompress(content) + sites.PERSON.encode() + bytes(40))


def named(content):
    """A file whose packer kept its old name."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename=f"{sites.PERSON}.nii", fileobj=buffer, mode="wb") as handle:
        handle.write(gzip.decompress(content))
    return buffer.getvalue()


FILES = [
    Fault("truncated gzip", "mr", F1, "cannot read", damaged(lambda content: content[: len(content) // 2])),
    Fault("truncated header", "mr", F1, "cannot read", damaged(lambda content: gzip.compress(gzip.decompress(content)[:200]))),
    Fault("no gzip", "mr", F1, "cannot read", damaged(lambda content: b"this is no volume" * 40)),
    Fault("empty file", "mr", F1, "cannot read", damaged(lambda content: b"")),
    Fault("gzip of nothing", "mr", F1, "cannot read", damaged(lambda content: gzip.compress(b""))),
    Fault("broken checksum", "mr", F1, "cannot read", damaged(lambda content: content[:-8] + bytes(8))),
    Fault("wrong magic", "mr", F1, "cannot read", header(text(NIFTI_MAGIC, "xyz"))),
    Fault("bomb", "mr", F1, "claims", damaged(zeros_after)),
    Fault("image of zeros", "mr", F1, "no image packs so well", damaged(zeros_in_an_image)),
    Fault("voxels far behind", "mr", F1, "start at byte", header(number("f", NIFTI_OFFSET, 3e8))),
    Fault("text behind the voxels", "mr", F1, "no padding", damaged(behind)),
    Fault("negative edge", "mr", F1, "cannot", header(number("h", NIFTI_DIM, 3, -5, 36, 14))),
    Fault("no voxels", "mr", F1, "cannot", header(number("h", NIFTI_DIM, 3, 0, 36, 14))),
    Fault("unknown voxel type", "mr", F1, "cannot", header(number("h", NIFTI_DATATYPE, 999))),
    Fault("colours", "mr", F1, "real numbers", dtype(numpy.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))),
    Fault("complex numbers", "mr", F1, "real numbers", dtype(numpy.complex64)),
    Fault("time series", "mr", F1, "3 axes", changed(change=lambda array: numpy.stack([array] * 3, -1))),
    Fault("link to itself", "mr", F1, "cannot read", sites.linked),
    Fault("folder as file", "mr", F1, "cannot read", sites.folder_as_file),
    Fault("no label", "mr", F1, "label is missing", sites.missing(of_label=True)),
    Fault("truncated label", "mr", F1, "cannot read", damaged(lambda content: content[:100], of_label=True)),
    Fault("label of text", "mr", F1, "cannot read", damaged(lambda content: b"liver", of_label=True)),
]

GRIDS = [
    Fault("zero spacing", "mr", F1, "singular", header(number("f", NIFTI_SROW, 0, 0, 0, 0))),
    Fault("two axes in one", "mr", F1, "singular", header(number("f", NIFTI_SROW, *[6, 0, 0, 0] * 2))),
    Fault("affine of NaN", "mr", F1, "affine", header(number("f", NIFTI_SROW, float("nan")))),
    Fault("origin on the moon", "mr", F1, "affine", header(number("f", NIFTI_SROW + 12, 4e8))),
    Fault("micrometres", "mr", ("G1", "G2", "L4"), "spacing along x", changed(affine=numpy.diag([600.0, 600.0, 800.0, 1.0]))),
    Fault("metres", "mr", ("G1", "G2", "L4"), "spacing along x", changed(affine=numpy.diag([0.006, 0.006, 0.008, 1.0]))),
    Fault(
        "few slices",
        "mr",
        ("G1", "G2", "L3"),
        "edge along z",
        changed(change=lambda array: array[..., :4], change_label=lambda array: array[..., :4] * 0),
    ),
    Fault("small field of view", "mr", ("G2", "L4"), "field of view", changed(affine=numpy.diag([1.0, 1.0, 1.0, 1.0]))),
    Fault("oblong pixels", "mr", ("G2",), "not square", changed(affine=numpy.diag([6.0, 7.0, 8.0, 1.0]))),
    Fault("oblique", "mr", ("G4",), "oblique", changed(affine=sites.turned(25, 0) @ AFFINE)),
    Fault("very oblique", "mr", ("G4",), "oblique", changed(affine=sites.turned(45, 2) @ sites.turned(44, 0) @ AFFINE)),
    Fault(
        "two affines",
        "mr",
        ("G4",),
        "two affines",
        header(lambda found: (number("h", NIFTI_QFORM, 1, 1)(found), number("f", 268, 30.0)(found))),
    ),
    Fault(
        "no quaternion",
        "mr",
        ("G4",),
        "two affines",
        header(lambda found: (number("h", NIFTI_QFORM, 1, 1)(found), number("f", NIFTI_QUATERNION, 3.0, 3.0, 3.0)(found))),
    ),
    Fault(
        "quaternion of NaN",
        "mr",
        ("G4",),
        "two affines",
        header(lambda found: (number("h", NIFTI_QFORM, 1, 1)(found), number("f", NIFTI_QUATERNION, float("nan"))(found))),
    ),
    Fault("nearly square axes", "mr", ("G5",), "right angles", changed(affine=sites.sheared(4e-4))),
    Fault("sheared axes", "mr", ("G5",), "right angles", changed(affine=sites.sheared(0.1))),
    Fault("label of another shape", "mr", ("G3",), "another shape", changed(change_label=lambda array: array[:, :-1])),
    Fault(
        "label with swapped axes", "mr", ("G3",), "another shape", changed(change_label=lambda array: numpy.swapaxes(array, 0, 1))
    ),
    Fault("label moved", "mr", ("G3",), "affine differs", changed(label_affine=sites.moved(3, 0, 0))),
    Fault(
        "label in LPS, image in RAS", "mr", ("G3",), "affine differs", changed(label_affine=numpy.diag([-6.0, -6.0, 8.0, 1.0]))
    ),
    Fault("label upside down", "mr", ("G3",), "affine differs", changed(label_affine=numpy.diag([6.0, 6.0, -8.0, 1.0]))),
]

INTENSITIES = [
    Fault("NaN", "mr", ("I1",), "NaN", changed(change=sites.put(numpy.nan, dtype=numpy.float32))),
    Fault("infinity", "mr", ("I1",), "infinite", changed(change=sites.put(numpy.inf, dtype=numpy.float32))),
    Fault(
        "nothing but NaN", "mr", ("I1", "F2"), "NaN", changed(change=lambda array: numpy.full(SHAPE, numpy.nan, numpy.float32))
    ),
    Fault("one value", "mr", ("I1", "I4"), "empty", changed(change=sites.filled(7))),
    Fault(
        "a mask in place of the image",
        "mr",
        ("I1",),
        "empty",
        changed(change=lambda array: (array > numpy.median(array)).astype(numpy.int16)),
    ),
    Fault("negative MR", "mr", ("I4",), "negative", changed(change=lambda array: array - 400)),
    Fault("negative everywhere", "mr", ("I4",), "negative", changed(change=lambda array: array - 4000)),
    Fault(
        "beyond all bounds",
        "mr",
        ("F2",),
        "cannot be measured",
        changed(change=lambda array: numpy.where(array > 800, 1e200, array.astype(numpy.float64))),
    ),
    Fault("all background", "mr", ("I4",), "background", changed(change=sites.mostly(0.97))),
    Fault("CT without intercept", "ct", ("I2",), "0.5 %", changed(modality="CT", change=lambda array: array + 1024)),
    Fault(
        "CT without slope",
        "ct",
        ("I2",),
        "99.5 %",
        changed(modality="CT", change=lambda array: (array // 20).astype(numpy.int16)),
    ),
    Fault("MR in place of CT", "ct", ("I2",), "0.5 %", changed(modality="MR")),
    Fault(
        "CT as a windowed picture",
        "ct",
        ("I2", "I3"),
        "0 to 255",
        changed(modality="CT", change=lambda array: ((array + 1000) // 6).clip(0, 255).astype(numpy.uint8)),
    ),
]

LABELS = [
    Fault("undeclared value", "mr", ("L1",), "7", changed(change_label=sites.put(7))),
    Fault("negative value", "mr", ("L1",), "-1", changed(change_label=sites.put(-1, dtype=numpy.int16))),
    Fault("half a label", "mr", ("L1",), "whole numbers", changed(change_label=sites.put(0.5, dtype=numpy.float32))),
    Fault(
        "rounded label",
        "mr",
        ("L1", "L3"),
        "whole numbers",
        changed(change_label=lambda array: array.astype(numpy.float32) * 1.0001),
    ),
    Fault("label of NaN", "mr", ("L1",), "whole numbers", changed(change_label=sites.put(numpy.nan, dtype=numpy.float32))),
    Fault("empty label", "mr", ("L3",), "empty", changed(change_label=sites.filled(0))),
    Fault(
        "liver everywhere",
        "mr",
        ("L4",),
        "volume of the whole liver",
        changed(
            affine=numpy.diag([9.0, 9.0, 12.0, 1.0]),
            change_label=lambda array: numpy.pad(numpy.ones((38, 34, 12), numpy.uint8), 1),
        ),
    ),
    Fault(
        "liver of a mouse",
        "mr",
        ("L4",),
        "volume of the whole liver",
        changed(
            change_label=lambda array: (
                numpy.where(array == 2, 2, 0).astype(numpy.uint8)
                + numpy.pad(numpy.ones((2, 2, 2), numpy.uint8), ((8, 30), (8, 26), (4, 8)))
            )
        ),
    ),
]

COPIES = [
    Fault("copy under another name", "mr", ("D1",), "copy", copied("clean-0", lambda array, affine: (array, affine))),
    Fault("copy on other axes", "mr", ("D1",), "copy", copied("clean-1", sites.reoriented)),
    Fault(
        "copy in other numbers",
        "mr",
        ("D1",),
        "copy",
        copied("clean-2", lambda array, affine: (array.astype(numpy.float32), affine)),
    ),
]

PEOPLE = [
    Fault("name in descrip", "mr", ("P1",), "descrip", header(text(NIFTI_DESCRIP, sites.PERSON))),
    Fault("date in aux_file", "mr", ("P1",), "aux_file", header(text(NIFTI_AUX, "1948-02-11"))),
    Fault("number in intent_name", "mr", ("P1",), "intent_name", header(text(NIFTI_INTENT, "00471123"))),
    Fault("mail in db_name", "mr", ("P1",), "db_name", header(text(NIFTI_DB, "a.b@klinik.de"))),
    Fault("free text", "mr", ("P1",), "descrip", header(text(NIFTI_DESCRIP, "hannelores leber"))),
    Fault("header extension", "mr", ("P1",), "extension", header(None, extension=("comment", sites.PERSON.encode()))),
    Fault("DICOM in the header", "mr", ("P1",), "extension", header(None, extension=(2, b"\x10\x00\x10\x00PN\x08\x00ABCDEFGH"))),
    Fault("name in the label", "mr", ("P1",), "descrip", header(text(NIFTI_DESCRIP, sites.PERSON), of_label=True)),
    Fault("name behind a tool", "mr", ("P1",), "descrip", header(text(NIFTI_DESCRIP, "ITK hannelore grausam tel 0471123456"))),
    Fault("name of the packed file", "mr", ("P1",), "gzip name", damaged(named)),
    Fault("bytes behind a PNG", "png", ("P1",), "bytes behind", sites.appended),
    Fault("name in a PNG text", "png", ("P1",), "PNG text", drawn(info=sites.note)),
]

PICTURES = [
    Fault("cut PNG", "png", F1, "cannot read", sites.cut(0.5)),
    Fault("cut PNG header", "png", F1, "cannot read", sites.cut(0.02)),
    Fault("PNG bomb", "png", F1, "limit", sites.scrawled),
    Fault("JPEG named PNG", "png", F1, "cannot read", drawn(kind="JPEG")),
    Fault("TIFF named PNG", "png", F1, "cannot read", drawn(kind="TIFF")),
    Fault("picture with transparency", "png", F1, "pixels", drawn("RGBA")),
    Fault("palette picture", "png", F1, "pixels", drawn("P")),
    Fault("colours in place of grey", "png", ("F3",), "colours", drawn("RGB")),
    Fault("coloured label", "png", F1, "pixels", drawn(label_mode="RGB")),
    Fault("mask of 255", "png", ("L1",), "255", drawn(change_label=lambda array: array * 255)),
    Fault("small picture", "png", ("G1",), "edge along y", drawn(shape=(24, 40))),
]

ALL = [*FILES, *GRIDS, *INTENSITIES, *LABELS, *COPIES, *PEOPLE, *PICTURES]
