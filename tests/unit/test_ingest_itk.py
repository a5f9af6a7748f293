"""MHA, MHD and NRRD: read as SimpleITK reads them, and never a byte of a file that the source does not hold."""

import gzip
import zlib

import numpy
import pytest
import SimpleITK

from fedsilo.ingest import itk
from fedsilo.ingest.source import SourceError

LPS_TO_RAS = numpy.diag([-1.0, -1.0, 1.0, 1.0])
HEAD = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\n"
MHD = HEAD + "ElementDataFile = {}\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nendian: little\n{}"
LPS = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
VOXELS = numpy.arange(64, dtype="<i2")
SECRET = b"MUELLER EVA 1961".ljust(128, b"!")


def by_simpleitk(path):
    """Voxels and affine as SimpleITK has them."""
    image = SimpleITK.ReadImage(str(path))
    affine = numpy.eye(4)
    affine[:3, :3] = numpy.array(image.GetDirection()).reshape(3, 3) @ numpy.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(), LPS_TO_RAS @ affine


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "f4"])
@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("ending", itk.ENDINGS)
def test_files_of_simpleitk_are_read_as_it_reads_them(tmp_path, ending, is_packed, kind):
    generator = numpy.random.default_rng(3)
    image = SimpleITK.GetImageFromArray(generator.integers(0, 100, (5, 4, 3)).astype(kind))
    image.SetDirection(numpy.linalg.qr(generator.normal(size=(3, 3)))[0].ravel().tolist())
    image.SetSpacing([0.7, 1.3, 5.0])
    image.SetOrigin([-20.5, 3.0, 1e-3])
    image.SetMetaData("0010|0010", "CANARY^EVA = : 1961")
    SimpleITK.WriteImage(image, str(tmp_path / f"x{ending}"), is_packed)

    loaded = itk.read(tmp_path / f"x{ending}")

    voxels, affine = by_simpleitk(tmp_path / f"x{ending}")
    assert loaded.array.dtype == voxels.dtype
    assert numpy.array_equal(loaded.array, voxels)
    numpy.testing.assert_allclose(loaded.affine, affine, atol=1e-9)
    assert loaded.findings == ()


READ_ALIKE = {
    "other names": ("x.mha", HEAD + "Orientation = 0 1 0 0 0 1 1 0 0\nPosition = 1 2 3\nElementSize = 2 3 4\n"),
    "size and spacing": ("x.mha", HEAD + "Rotation = 0 1 0 0 0 1 1 0 0\nElementSize = 2 3 4\nElementSpacing = 5 6 7\n"),
    "big endian": ("x.mha", HEAD + "BinaryData = True\nBinaryDataByteOrderMSB = True\n"),
    "what is not used": ("x.mha", HEAD + "CenterOfRotation = 1 2 3\nAnatomicalOrientation = RAS\nModality = MET_MOD_CT\n"),
    "right anterior": ("x.nrrd", NRRD.format(LPS.replace("left-posterior-superior", "right-anterior-superior"))),
    "left anterior": ("x.nrrd", NRRD.format(LPS.replace("left-posterior-superior", "LAS").replace("(0,0,0)", "(1, 2, 3)"))),
    "carriage returns": ("x.nrrd", NRRD.format("# remark\n" + LPS + "key:=value: 1\n").replace("\n", "\r\n")),
    "big endian nrrd": ("x.nrrd", NRRD.format(LPS).replace("little", "big")),
}


@pytest.mark.parametrize("kind", READ_ALIKE)
def test_headers_by_hand_are_read_as_simpleitk_reads_them(tmp_path, kind):
    name, text = READ_ALIKE[kind]
    last = "ElementDataFile = LOCAL\n" if name == "x.mha" else "\r\n" if "\r" in text else "\n"
    (tmp_path / name).write_bytes((text + last).encode() + VOXELS.tobytes())

    loaded = itk.read(tmp_path / name)

    voxels, affine = by_simpleitk(tmp_path / name)
    assert numpy.array_equal(loaded.array, voxels)
    numpy.testing.assert_allclose(loaded.affine, affine, atol=1e-9)


ELSEWHERE = {
    "blank before the key": ("x.mha", HEAD + " ElementDataFile = {}\nElementDataFile = LOCAL\n"),
    "tab before the key": ("x.mha", HEAD + "\tElementDataFile = {}\nElementDataFile = LOCAL\n"),
    "colon": ("x.mha", HEAD + "ElementDataFile : {}\nElementDataFile = LOCAL\n"),
    "carriage return": ("x.mha", HEAD + "Comment = x\rElementDataFile = {}\nElementDataFile = LOCAL\n"),
    "twice": ("x.mha", HEAD + "ElementDataFile = {}\nElementDataFile = LOCAL\n"),
    "other letters": ("x.mha", HEAD + "elementdatafile = {}\nElementDataFile = LOCAL\n"),
    "longer key": ("x.mha", HEAD + "ElementDataFile2 = {}\nElementDataFile = LOCAL\n"),
    "line feed of another kind": ("x.mha", HEAD + "Comment = x\vElementDataFile = {}\nElementDataFile = LOCAL\n"),
    "named in mhd": ("x.mhd", HEAD + "ElementDataFile = {}\n"),
    "list in mhd": ("x.mhd", HEAD + "ElementDataFile = LIST\n{}\n"),
    "pattern in mhd": ("x.mhd", HEAD + "ElementDataFile = %d.raw 1 2 1\n"),
    "field": ("x.nrrd", NRRD.format(LPS + "data file: {}\n\n")),
    "field in one word": ("x.nrrd", NRRD.format(LPS + "datafile: {}\n\n")),
    "field in capitals": ("x.nrrd", NRRD.format(LPS + "Data File: {}\n\n")),
    "field without a blank": ("x.nrrd", NRRD.format(LPS + "datafile:{}\n\n")),
    "blank before the field": ("x.nrrd", NRRD.format(LPS + " data file: {}\n\n")),
    "carriage return before the field": ("x.nrrd", NRRD.format(LPS + "#c\rdata file: {}\n\n")),
    "behind comments": ("x.nrrd", NRRD.format(LPS + ("# " + "x" * 1000 + "\n") * 70 + "data file: {}\n\n")),
    "behind more comments": ("x.nrrd", NRRD.format(LPS + ("# " + "x" * 1000 + "\n") * 1100 + "data file: {}\n\n")),
    "behind a key": ("x.nrrd", NRRD.format(LPS + "k:=v\ndata file: {}\n\n")),
}


@pytest.mark.parametrize("path", ["../secret.raw", "{tmp}/secret.raw"])
@pytest.mark.parametrize("kind", ELSEWHERE)
def test_no_header_leads_to_another_file(tmp_path, kind, path):
    name, text = ELSEWHERE[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.raw").write_bytes(SECRET)
    (tmp_path / "in" / name).write_bytes(text.replace("{}", path.format(tmp=tmp_path)).encode() + bytes(256))

    with pytest.raises(SourceError) as caught:
        itk.read(tmp_path / "in" / name)
    assert caught.value.kind in ("unreadable", "unsafe path")
    assert "secret" not in str(caught.value)


def packed(content, *, is_gzip):
    return gzip.compress(content) if is_gzip else zlib.compress(content)


ZIPPED = HEAD + "CompressedData = True\nElementDataFile = LOCAL\n"
GZIPPED = NRRD.format(LPS + "\n").replace("raw", "gzip")
FAULTS = {
    "no header": ("x.mha", b"nonsense", "does not end within"),
    "no key": ("x.mha", b"nonsense\nElementDataFile = LOCAL\n", "line 1 of the header is not `Key = value`"),
    "missing raw": ("x.mhd", MHD.format("y.raw").encode(), "missing or a link"),
    "cut mha": ("x.mha", MHD.format("LOCAL").encode() + bytes(20), "is cut off"),
    "huge mha": ("x.mha", MHD.format("LOCAL").replace("4 4 4", "4000 4000 4000").encode(), "claims 64000000000 voxels"),
    "no voxel": ("x.mha", MHD.format("LOCAL").replace("4 4 4", "4 0 4").encode(), "an axis has no voxel"),
    "two axes": ("x.mha", MHD.format("LOCAL").replace("4 4 4", "4 4").encode(), "another count of axes than NDims"),
    "colours": ("x.mha", b"ElementNumberOfChannels = 3\n" + MHD.format("LOCAL").encode() + bytes(384), "one real number"),
    "text": ("x.mha", b"BinaryData = False\n" + MHD.format("LOCAL").encode() + bytes(128), "BinaryData is not supported"),
    "bytes to skip": ("x.mha", b"HeaderSize = 9\n" + MHD.format("LOCAL").encode() + bytes(137), "HeaderSize is not"),
    "a slope": ("x.mha", b"ElementToIntensityFunctionSlope = 2\n" + MHD.format("LOCAL").encode() + bytes(128), "not supported"),
    "two orders": (
        "x.mha",
        b"BinaryDataByteOrderMSB = True\nElementByteOrderMSB = False\n" + MHD.format("LOCAL").encode() + bytes(128),
        "contradict each other",
    ),
    "two origins": ("x.mha", b"Offset = 0 0 0\nPosition = 1 0 0\n" + MHD.format("LOCAL").encode() + bytes(128), "has both"),
    "no numbers": ("x.mha", b"Offset = 0 nan 0\n" + MHD.format("LOCAL").encode() + bytes(128), "Offset: expected 3 numbers"),
    "too large a number": ("x.mha", b"Offset = 0 1e999 0\n" + MHD.format("LOCAL").encode() + bytes(128), "finite numbers"),
    "digits without end": ("x.mha", b"Offset = " + b"1" * 900_000 + b"x 0 0\n" + MHD.format("LOCAL").encode(), "3 numbers"),
    "zip bomb": ("x.mha", ZIPPED.encode() + packed(bytes(1 << 24), is_gzip=False), "longer than its header says"),
    "cut zip": ("x.mha", ZIPPED.encode() + packed(VOXELS.tobytes(), is_gzip=False)[:-3], "packed voxels have no end"),
    "short zip": ("x.mha", ZIPPED.encode() + packed(bytes(9), is_gzip=False), "expected 128 bytes of voxels, got 9"),
    "claims more than it can hold": ("x.mha", ZIPPED.replace("4 4 4", "400 400 400").encode() + bytes(99), "can hold"),
    "much behind": ("x.mha", MHD.format("LOCAL").encode() + bytes(1 << 21), "much longer than its header says"),
    "wrong magic": ("x.nrrd", b"NRRX0004\n\n", "wrong magic"),
    "cut nrrd": ("x.nrrd", NRRD.format(LPS + "\n").encode() + bytes(9), "is cut off"),
    "gzip bomb": ("x.nrrd", GZIPPED.encode() + packed(bytes(1 << 24), is_gzip=True), "longer than its header says"),
    "wrong checksum": ("x.nrrd", GZIPPED.encode() + packed(VOXELS.tobytes(), is_gzip=True)[:-8] + bytes(8), "is damaged"),
    "unknown field": ("x.nrrd", NRRD.format(LPS + "axis mins: 1 2 3\n\n").encode() + bytes(128), "no field that is known"),
    "repeated field": ("x.nrrd", NRRD.format(LPS + "type: int\n\n").encode() + bytes(256), "repeats a field"),
    "repeated key": ("x.nrrd", NRRD.format(LPS + "k:=1\nk:=2\n\n").encode() + bytes(128), "repeats a field"),
    "vectors": ("x.nrrd", NRRD.format(LPS + "kinds: vector domain domain\n\n").encode() + bytes(128), "axis of colours"),
    "other unit": ("x.nrrd", NRRD.format(LPS + 'space units: "m" "m" "m"\n\n').encode() + bytes(128), "expected mm"),
    "no spacing": ("x.nrrd", NRRD.format("\n").encode() + bytes(128), "either space directions or spacings"),
    "skips": ("x.nrrd", NRRD.format(LPS + "byte skip: -1\n\n").encode() + bytes(128), "skips bytes"),
    "encoded as text": ("x.nrrd", NRRD.format(LPS + "\n").replace("raw", "ascii").encode() + bytes(128), "raw or gzip"),
    "singular": ("x.nrrd", NRRD.format(LPS + "\n").replace("(0,1,0)", "(1,0,0)").encode() + bytes(128), "singular"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_file_is_refused_by_its_reason(tmp_path, fault):
    name, content, reason = FAULTS[fault]
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match=reason):
        itk.read(tmp_path / name)


@pytest.mark.parametrize(
    ("space", "is_known"),
    [
        ("space: left-posterior-superior\n", True),
        ("space: RAS\n", True),
        ("space: scanner-xyz\n", False),
        ("space: 3D-left-handed\n", False),
        ("space dimension: 3\n", False),
    ],
)
def test_only_an_anatomical_space_says_where_left_is(tmp_path, space, is_known):
    text = NRRD.format(space + "space directions: (1,0,0) (0,1,0) (0,0,1)\n\n")
    (tmp_path / "x.nrrd").write_bytes(text.encode() + VOXELS.tobytes())

    kinds = [finding.kind for finding in itk.read(tmp_path / "x.nrrd").findings]

    assert kinds == ([] if is_known else ["orientation unknown"])


def test_a_link_beside_an_mhd_is_no_file_of_the_source(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.raw").write_bytes(SECRET)
    (tmp_path / "in" / "x.raw").symlink_to(tmp_path / "secret.raw")
    (tmp_path / "in" / "x.mhd").write_text(MHD.format("x.raw"))

    with pytest.raises(SourceError, match="missing or a link"):
        itk.read(tmp_path / "in" / "x.mhd")
