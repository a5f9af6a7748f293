"""Malformed and hostile sources: each is told by the message that is meant for it, and nothing but our errors is raised."""

import gzip
import io
import json
import os
import struct
import warnings
import zipfile

import nibabel
import numpy
import PIL.Image
import pytest

from fedsilo.cohort import volumes
from fedsilo.errors import DataError
from fedsilo.ingest import nifti, pixels, recognise, slices, tree
from fedsilo.ingest.source import SourceCase, SourceError
from tests.unit import ingested, raw_source

# where fields of a NIfTI-1 header stand
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, QFORM_CODE, SROW = 40, 70, 72, 76, 108, 112, 252, 280
MAGIC, SFORM_CODE = 344, 254


@pytest.fixture(scope="module")
def plain():
    """Bytes of a valid NIfTI file."""
    return nibabel.Nifti1Image(raw_source.voxels(0)[0], raw_source.AFFINE).to_bytes()


def patched(content, *changes):
    changed = bytearray(content)
    for offset, layout, *values in changes:
        struct.pack_into(layout, changed, offset, *values)
    return bytes(changed)


NIFTI = {
    "empty": (lambda content: b"", "first four bytes are not 348 or 540"),
    "another format": (lambda content: b"GIF89a" + content, "first four bytes are not 348 or 540"),
    "cut within the header": (lambda content: content[:200], "cut off within its header"),
    "cut before the voxels": (lambda content: content[:350], "cut off before its voxels"),
    "cut within the voxels": (lambda content: content[:-9], "cut off: expected 1440 bytes of voxels, got 1431"),
    "longer than it says": (lambda content: content + bytes(1 << 21), "much longer than its header says"),
    "wrong magic": (lambda content: patched(content, (MAGIC, "4s", b"n+9\0")), "wrong magic"),
    "half of a pair": (lambda content: patched(content, (MAGIC, "4s", b"ni1\0")), "pair of .hdr and .img"),
    "no axes": (lambda content: patched(content, (DIM, "<h", 0)), "dim is impossible: 0 axes"),
    "negative axis": (lambda content: patched(content, (DIM + 2, "<h", -5)), "dim is impossible"),
    "claims a huge volume": (lambda content: patched(content, (DIM, "<4h", 3, 32767, 32767, 9)), "claims 9663086601 voxels"),
    "time series": (lambda content: patched(content, (DIM, "<5h", 4, 4, 3, 3, 2)), "expected 3 axes, got 4"),
    "two axes": (lambda content: patched(content, (DIM, "<3h", 2, 12, 10)), "expected 3 axes, got 2"),
    "colours": (lambda content: patched(content, (DATATYPE, "<2h", 128, 24)), "got colours, complex or longer"),
    "complex": (lambda content: patched(content, (DATATYPE, "<2h", 32, 64)), "got colours, complex or longer"),
    "float128": (lambda content: patched(content, (DATATYPE, "<2h", 1536, 128)), "got colours, complex or longer"),
    "unknown type": (lambda content: patched(content, (DATATYPE, "<2h", 77, 16)), "unknown NIfTI datatype"),
    "offset beyond": (lambda content: patched(content, (VOX_OFFSET, "<f", 1e12)), "impossible place"),
    "offset nan": (lambda content: patched(content, (VOX_OFFSET, "<f", float("nan"))), "impossible place"),
    "offset in the header": (lambda content: patched(content, (VOX_OFFSET, "<f", 4.0)), "impossible place"),
    "zero spacing": (lambda content: patched(content, (SFORM_CODE, "<h", 0), (PIXDIM, "<4f", 1, 0, 1, 1)), "singular"),
    "singular affine": (lambda content: patched(content, (SROW, "<4f", 0, 0, 0, 0)), "affine is singular"),
    "affine of nan": (lambda content: patched(content, (SROW, "<f", float("nan"))), "affine is not finite"),
    "no quaternion": (
        lambda content: patched(content, (SFORM_CODE, "<h", 0), (QFORM_CODE, "<h", 1), (256, "<3f", 9, 9, 9)),
        "no usable affine",
    ),
    "slope without intercept": (lambda content: patched(content, (SLOPE, "<2f", 2, float("inf"))), "slope without a usable"),
}


@pytest.mark.parametrize("fault", NIFTI)
def test_nifti(tmp_path, plain, fault):
    change, reason = NIFTI[fault]
    path = tmp_path / "x.nii"
    path.write_bytes(change(plain))

    with pytest.raises(SourceError, match=reason):
        nifti.read(path)


PACKED = {
    "no gzip": (lambda content: content, "damaged or cut off: BadGzipFile"),
    "cut gzip": (lambda content: gzip.compress(content)[:-30], "damaged or cut off: EOFError"),
    "wrong checksum": (lambda content: gzip.compress(content)[:-8] + bytes(8), "damaged or cut off: BadGzipFile"),
    "broken stream": (lambda content: gzip.compress(content)[:40] + b"\xff" * 200, "damaged or cut off"),
    "claims more than it can hold": (
        lambda content: gzip.compress(patched(content, (DIM, "<4h", 3, 800, 600, 500))),
        "claims more voxels than it can hold",
    ),
    "a bomb behind the voxels": (lambda content: gzip.compress(content + bytes(1 << 24)), "much longer than its header says"),
}


@pytest.mark.parametrize("fault", PACKED)
def test_packed_nifti(tmp_path, plain, fault):
    change, reason = PACKED[fault]
    path = tmp_path / "x.nii.gz"
    path.write_bytes(change(plain))

    with pytest.raises(SourceError, match=reason):
        nifti.read(path)


def test_big_endian_is_read(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(raw_source.voxels(0)[0].astype(">i2"), raw_source.AFFINE, header)
    (tmp_path / "x.nii").write_bytes(image.to_bytes())

    loaded = nifti.read(tmp_path / "x.nii")

    assert loaded.array.dtype == numpy.int16
    assert numpy.array_equal(loaded.array, raw_source.voxels(0)[0])


def test_an_orientation_that_is_a_guess_is_said(tmp_path, plain):
    (tmp_path / "x.nii").write_bytes(patched(plain, (SFORM_CODE, "<h", 0)))
    (tmp_path / "y.nii").write_bytes(patched(plain, (QFORM_CODE, "<h", 1), (PIXDIM + 4, "<f", 9.0)))

    assert [finding.kind for finding in nifti.read(tmp_path / "x.nii").findings] == ["orientation unknown"]
    assert [finding.kind for finding in nifti.read(tmp_path / "y.nii").findings] == ["geometry"]


def saved(image, kind, **options):
    packed = io.BytesIO()
    image.save(packed, kind, **options)
    return packed.getvalue()


GREY = PIL.Image.fromarray(raw_source.slices(0)[0])
PICTURES = {
    "empty": ("x.png", b"", "damaged or cut off"),
    "a jpeg by another name": ("x.png", saved(GREY, "JPEG"), "damaged or cut off"),
    "cut png": ("x.png", saved(GREY, "PNG")[:-200], "damaged or cut off"),
    "transparency": ("x.png", saved(GREY.convert("RGBA"), "PNG"), "got RGBA"),
    "palette": ("x.png", saved(GREY.convert("P"), "PNG"), "got P"),
    "pages": ("x.tif", saved(GREY, "TIFF", save_all=True, append_images=[GREY]), "2 pages"),
    "lossy tiff": ("x.tif", saved(GREY, "TIFF", compression="jpeg"), "compressed with loss"),
    "fractions": ("x.tif", saved(PIL.Image.fromarray(raw_source.slices(0)[0] / numpy.float32(7)), "TIFF"), "got F"),
    "huge png": ("x.png", patched(saved(GREY, "PNG"), (16, ">2I", 60000, 60000)), "damaged or cut off|more than"),
}


@pytest.mark.parametrize("fault", PICTURES)
def test_pictures(tmp_path, fault):
    name, content, reason = PICTURES[fault]
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match=reason):
        pixels.read(tmp_path / name)


def npz(**arrays):
    packed = io.BytesIO()
    numpy.savez_compressed(packed, **arrays)
    return packed.getvalue()


def bomb(shape=(99999, 99999)):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(
            "image.npy",
            b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '<u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(118).encode(),
        )
        opened.writestr("mask.npy", b"")
    return packed.getvalue()


def shadowed(name):
    """A valid file with one more member, of 256 MB."""
    packed = io.BytesIO(npz(image=MASK, mask=MASK))
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as opened:
        warnings.simplefilter("ignore")  # of names that are there already
        with opened.open(name, "w") as handle:
            numpy.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": (1 << 14, 1 << 14)})
            for _ in range(256):
                handle.write(bytes(1 << 20))
    return packed.getvalue()


def repacked():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as opened:
        opened.writestr("image.npy", b"")
        opened.writestr("mask.npy", b"")
    return packed.getvalue()


def cut():
    packed = io.BytesIO()
    array = io.BytesIO()
    numpy.save(array, MASK)
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr("image.npy", array.getvalue()[:-10])
        opened.writestr("mask.npy", array.getvalue())
    return packed.getvalue()


MASK = numpy.zeros((8, 8), numpy.uint8)
NPZ = {
    "no zip": (b"PK nonsense", "damaged, cut off or pickled"),
    "one array": (npz(image=MASK), "needs the arrays image and mask"),
    "objects": (npz(image=numpy.array([{}], object), mask=MASK), "array of kind 'O'"),
    "text": (npz(image=numpy.array(["x"]), mask=MASK), "array of kind 'U'"),
    "a bomb": (bomb(), "claims shape"),
    "another array that numpy would take for the image": (shadowed("image"), "and no others; it has 3"),
    "an array twice": (shadowed("image.npy"), "and no others; it has 3"),
    "one more array": (npz(image=MASK, mask=MASK, more=MASK), "and no others; it has 3"),
    "longer numbers": (npz(image=numpy.zeros((8, 8), numpy.longdouble), mask=MASK), "of up to 64 bits"),
    "a negative edge": (bomb((-1, 9)), "has no pixels"),
    "packed otherwise": (repacked(), "otherwise than numpy does"),
    "an array cut off": (cut(), "is cut off: expected 64 bytes of voxels, got 54"),
    "a volume": (npz(image=numpy.zeros((8, 8, 8)), mask=MASK), "expected an image of"),
    "negative": (npz(image=MASK - 5.0, mask=MASK), "got -5 to -5; shift or window"),
    "fractions above one": (npz(image=MASK + 7.5, mask=MASK), "fractions from 0 to 1"),
    "not finite": (npz(image=MASK + numpy.nan, mask=MASK), "expected intensities"),
}


@pytest.mark.parametrize("fault", NPZ)
def test_npz(tmp_path, fault):
    content, reason = NPZ[fault]
    path = tmp_path / "x.npz"
    path.write_bytes(content)

    with pytest.raises(SourceError, match=reason):
        slices.read(SourceCase("x", "x", (path,), (path,)), {"liver": 1})


def description(**changes):
    return {"channel_names": {"0": "MR"}, "labels": raw_source.LABELS, "file_ending": ".nii.gz"} | changes


SITES = {
    "not json": (b"{", "is not JSON"),
    "deep json": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[]", "expected a JSON object, got list"),
    "jpeg": (description(file_ending=".jpg"), "loses precision"),
    "other ending": (description(file_ending=".exe"), "file_ending in dataset.json: expected"),
    "no labels": (description(labels={}), "there are no labels"),
    "region": (description(labels={"background": 0, "liver": [1, 2]}), "is a region"),
    "value twice": (description(labels={"background": 0, "liver": 1, "spleen": 1}), "two labels have one value"),
    "fraction": (description(labels={"background": 0, "liver": 1.5}), "expected a value from 0"),
    "named for a person": (description(labels={"background": 0, "CANARY^EVA": 1}), "looks like a person's"),
    "channels": (description(channel_names={"1": "MR"}), "numbered from 0 on"),
    "unknown organ": (
        description(labels={"background": 0, "livr": 1, "kidneys": 2}),
        "by the name of label 1; nearest: liver; add it",
    ),
    "lists files": (description(dataset={}), "files elsewhere"),
}


@pytest.mark.parametrize("fault", SITES)
def test_sites(tmp_path, fault):
    content, reason = SITES[fault]
    source = raw_source.nnunet(tmp_path / "in", 1)
    (source / "dataset.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    with pytest.raises(DataError, match=reason) as caught:
        ingested.run(source, tmp_path, layout="nnunet")
    assert not any(canary in str(caught.value) for canary in (*raw_source.CANARIES, "livr"))


@pytest.mark.parametrize("path", ["../x.nii.gz", "/etc/passwd", "imagesTr/../../x.nii.gz", "imagesTr/none.nii.gz"])
def test_paths_that_lead_out_or_nowhere(tmp_path, path):
    source = raw_source.msd(tmp_path / "in")
    (tmp_path / "x.nii.gz").write_bytes(b"")
    content = json.loads((source / "dataset.json").read_text())
    content["training"][0]["image"] = path
    (source / "dataset.json").write_text(json.dumps(content))

    made = ingested.run(source, tmp_path)

    assert len(made.site.cases) == 1
    assert any("leads out of the source" in message or "is missing, hidden or a link" in message for message in made.counts)


def test_an_image_that_is_listed_twice_is_left_out_and_not_imported(tmp_path):
    source = raw_source.msd(tmp_path / "in")
    content = json.loads((source / "dataset.json").read_text())
    name = f"canary_{raw_source.NUMBER}_0.nii.gz"
    raw_source.nifti(source / "more" / name, raw_source.voxels(99)[0])
    content["training"].append({"image": f"more/{name}", "label": content["training"][0]["label"]})
    (source / "dataset.json").write_text(json.dumps(content))

    made = ingested.run(source, tmp_path)

    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert (manifest["num_cases"], manifest["num_left_out"]) == (1, 1)
    assert made.site.cases[0].case == made.new_id(f"canary_{raw_source.NUMBER}_1")


def test_images_of_the_same_entities_are_all_left_out(tmp_path):
    source = raw_source.bids(tmp_path / "in", session="")
    folder = source / "sub-CANARYa/anat"
    raw_source.nifti(folder / "sub-CANARYa_desc-again_T2w.nii.gz", raw_source.voxels(7)[0])

    made = ingested.run(source, tmp_path)

    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert (manifest["num_cases"], manifest["num_left_out"]) == (1, 1)
    assert made.site.cases[0].case == made.new_id("sub-CANARYb")


def test_links_out_in_circles_and_pipes_are_not_followed(tmp_path):
    source = raw_source.nnunet(tmp_path / "in", 2)
    (tmp_path / "secret.nii.gz").write_bytes(b"")
    (source / "imagesTr" / "b_0000.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    (source / "loop").symlink_to(source)
    (source / "self").symlink_to(source / "self")
    os.mkfifo(source / "imagesTr" / "pipe_0000.nii.gz")

    listed = tree.listing(source)

    assert sorted(finding.path for finding in listed.findings) == [
        "imagesTr/b_0000.nii.gz",
        "imagesTr/pipe_0000.nii.gz",
        "loop/",
        "self",
    ]
    assert len(ingested.run(source, tmp_path).site.cases) == 2


def test_absurd_names_are_only_names(tmp_path):
    source = raw_source.nnunet(tmp_path / "in", 1)
    for folder, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (old,) = (source / folder).iterdir()
        old.rename(source / folder / f"$(rm -rf) \n\u202e;,\udcff{suffix}")
    (source / "patients.csv").unlink()

    made = ingested.run(source, tmp_path)

    assert [case.case.isascii() and case.case.isalpha() for case in made.site.cases] == [True]


CASES = {
    "label of another shape": (lambda image, label: (image, label[:-1]), "label's shape differs"),
    "undeclared value": (lambda image, label: (image, label + 7), "label value 7 is not declared"),
    "label of fractions": (lambda image, label: (image, label / 2), "no whole numbers"),
}


@pytest.mark.parametrize("fault", CASES)
def test_a_case_is_left_out_and_the_others_go_on(tmp_path, fault):
    change, reason = CASES[fault]
    source = raw_source.nnunet(tmp_path / "in", 2)
    _, label = change(*raw_source.voxels(0))
    raw_source.nifti(source / "labelsTr" / f"canary_{raw_source.DATE}_0.nii.gz", label)

    made = ingested.run(source, tmp_path)

    assert len(made.site.cases) == 1
    assert [row["source"] for row in made.findings() if reason in row["message"]] == [f"canary_{raw_source.DATE}_0"]
    with pytest.raises(DataError, match="--strict allows none"):
        ingested.run(source, tmp_path, update=True, strict=True)


def test_an_edge_that_nifti_1_cannot_say_leaves_the_case_out(tmp_path):
    source = raw_source.nnunet(tmp_path / "in", 2)
    for folder, suffix, dtype in (("imagesTr", "_0000", numpy.int16), ("labelsTr", "", numpy.uint8)):
        image = nibabel.Nifti2Image(numpy.zeros((40000, 2, 2), dtype), raw_source.AFFINE)
        nibabel.save(image, source / folder / f"canary_{raw_source.DATE}_0{suffix}.nii.gz")

    made = ingested.run(source, tmp_path)

    assert len(made.site.cases) == 1
    assert made.counts == {"[too large, left out] an edge of 40000 voxels; a NIfTI file holds at most 32767": 1}


@pytest.mark.parametrize("num_written", [0, 1])
def test_a_fault_while_a_case_is_written_leaves_it_out_and_nothing_of_it_behind(tmp_path, monkeypatch, num_written):
    source = raw_source.nnunet(tmp_path / "in", 2)
    write, written = volumes.write_nifti, []

    def fails(volume, path):
        written.append(path)
        if len(written) == num_written + 1:
            raise ValueError(raw_source.NAME)
        return write(volume, path)

    monkeypatch.setattr(volumes, "write_nifti", fails)
    made = ingested.run(source, tmp_path)

    (message,) = made.counts
    assert message.startswith("[fault, left out] a fault of the importer: ValueError in fedsilo.ingest.writer:")
    assert len(list((made.folder / "imagesTr").iterdir())) == len(list((made.folder / "labelsTr").iterdir())) == 1


def test_an_affine_that_differs_says_where(tmp_path):
    source = raw_source.nnunet(tmp_path / "in", 2)
    moved = raw_source.AFFINE + numpy.array([[0, 0, 0, 0.8], [0] * 4, [0] * 4, [0] * 4])
    raw_source.nifti(source / "labelsTr" / f"canary_{raw_source.DATE}_0.nii.gz", raw_source.voxels(0)[1], affine=moved)

    counts = ingested.run(source, tmp_path).counts

    assert "[geometry, left out] label affine differs from the image's: expected at most 0.001, got 0.8 (origin)" in counts


def test_bids_labels_of_two_readers_and_contradicting_tables(tmp_path):
    source = raw_source.bids(tmp_path / "in", session="")
    raw_source.nifti(source / "derivatives/other/sub-CANARYa/anat/sub-CANARYa_dseg.nii.gz", raw_source.voxels(0)[1])
    layout, found = ingested.found(source)
    assert [finding.message for finding in found.findings] == [
        "2 dseg files have its entities (readers or pipelines); leave one of them"
    ]

    (source / "derivatives/manual/sub-CANARYb/dseg.tsv").write_text("index\tname\n1\tkidneys\n2\tliver\n")
    (source / "derivatives/other/dseg.tsv").write_text("index\tname\n1\tliver\n")
    (source / "derivatives/manual/sub-CANARYa/anat/sub-CANARYa_desc-eva_dseg.nii.gz").unlink()
    _, found = ingested.found(source)
    assert [finding.message for finding in found.findings if finding.left_out] == [
        "its dseg.tsv contradicts that of another case; names and values must agree within a site"
    ]
    assert layout.name == recognise.named("bids").name
