"""CHAOS: its folders, the order of its masks, its bands of grey."""

import numpy
import pytest

from fedsilo.errors import DataError
from tests.unit import dicom_source, ingested, raw_source

GREY = numpy.array([0, 63, 126, 189, 252], numpy.uint8)  # background, liver, right kidney, left kidney, spleen


def masks(folder, label, order):
    """Write one PNG a slice, named in the order in which the files of the slices are named."""
    for place, index in enumerate(numpy.argsort(order)):
        raw_source.picture(folder / f"mask_{place:03d}.png", label[:, :, index].T)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
def test_ct_masks_follow_the_names_of_slices(tmp_path, order):
    label = (raw_source.voxels(0)[1] == 1).astype(numpy.uint8)
    dicom_source.series(tmp_path / "in/CT/7/DICOM_anon", order=order)
    masks(tmp_path / "in/CT/7/Ground", label * 255, order)

    made = ingested.run(tmp_path / "in", tmp_path)

    image, found = made.image("CT/7")
    assert numpy.array_equal(image.channels[0], raw_source.voxels(0)[0])
    assert numpy.array_equal(found, label)
    numpy.testing.assert_allclose(image.affine, dicom_source.affine_ras(), atol=1e-6)


def mr(folder, label):
    order = [0, 1, 2, 3, 4, 5]
    dicom_source.series(folder / "MR/1/T2SPIR/DICOM_anon", order=order, modality="MR")
    masks(folder / "MR/1/T2SPIR/Ground", GREY[label], order)
    for seed, phase in ((1, "InPhase"), (2, "OutPhase")):
        dicom_source.series(folder / f"MR/1/T1DUAL/DICOM_anon/{phase}", phase, seed=seed, order=order, modality="MR")
    masks(folder / "MR/1/T1DUAL/Ground", GREY[label], order)


def test_mr_sequences_are_layouts_of_their_own_and_t1_has_two_channels(tmp_path):
    label = raw_source.voxels(0)[1] * 2
    mr(tmp_path / "in", label)

    with pytest.raises(DataError, match=r"matches 2 layouts.*chaos-t2spir.*chaos-t1dual"):
        ingested.run(tmp_path / "in", tmp_path)
    made = ingested.run(tmp_path / "in", tmp_path, layout="chaos-t1dual")

    image, found = made.image("MR/1/T1DUAL")
    assert numpy.array_equal(image.channels[1], raw_source.voxels(2)[0] + 1024)
    assert numpy.array_equal(found, label)
    assert made.site.labels == {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}


@pytest.mark.parametrize(("grey", "is_known"), [(55, False), (56, True), (70, True), (71, False), (240, False), (255, True)])
def test_bands_are_open_below_and_closed_above(tmp_path, grey, is_known):
    dicom_source.series(tmp_path / "in/1/T2SPIR/DICOM_anon", order=range(6), modality="MR")
    masks(tmp_path / "in/1/T2SPIR/Ground", numpy.full(raw_source.SHAPE, grey, numpy.uint8), range(6))

    if is_known:
        assert len(ingested.run(tmp_path / "in", tmp_path).site.cases) == 1
    else:
        with pytest.raises(DataError, match=f"a mask has the grey value {grey}, which belongs to no organ"):
            ingested.run(tmp_path / "in", tmp_path)


def test_a_mask_too_few_is_refused(tmp_path):
    dicom_source.series(tmp_path / "in/CT/7/DICOM_anon")
    masks(tmp_path / "in/CT/7/Ground", numpy.zeros(raw_source.SHAPE, numpy.uint8), range(6))
    (tmp_path / "in/CT/7/Ground/mask_003.png").unlink()

    with pytest.raises(DataError, match="expected one mask a slice, 6, got 5"):
        ingested.run(tmp_path / "in", tmp_path)


LIVER = (raw_source.voxels(0)[1] == 1).astype(numpy.uint8)


def renamed(folder, names):
    """Write a case of CT and rename its slices, in their order in space, and its masks."""
    paths = sorted(dicom_source.series(folder / "CT/7/DICOM_anon", order=range(6)))
    masks(folder / "CT/7/Ground", LIVER * 255, range(6))
    written = sorted((folder / "CT/7/Ground").iterdir())
    for path, mask, (name, mask_name) in zip(paths, written, names, strict=True):
        path.rename(path.with_name(f".{name}"))
        mask.rename(mask.with_name(f".{mask_name}"))
    for hidden in sorted(folder.rglob(".*")):
        hidden.rename(hidden.with_name(hidden.name[1:]))


def test_numbers_without_zeros_before_them_are_numbers(tmp_path):
    renamed(tmp_path / "in", [(f"IMG{index}.dcm", f"liver_{index:03d}.png") for index in range(7, 13)])

    _, found = ingested.run(tmp_path / "in", tmp_path).image("CT/7")

    assert numpy.array_equal(found, LIVER)


def test_masks_by_the_names_of_their_slices_need_no_order(tmp_path):
    renamed(tmp_path / "in", [(f"IMG-{index}.dcm", f"IMG-{index}.png") for index in (4, 1, 9, 2, 30, 7)])

    _, found = ingested.run(tmp_path / "in", tmp_path).image("CT/7")

    assert numpy.array_equal(found, LIVER)


UNSURE = {
    "places": ([(f"IMG{index}.dcm", f"liver_{index}.png") for index in (1, 0, 2, 3, 4, 5)], "do not follow their places"),
    "gap": ([(f"IMG{index}.dcm", f"liver_{index + (index > 2)}.png") for index in range(6)], "numbered with a gap"),
    "no numbers": ([(f"{letter}.dcm", f"{letter}.png") for letter in "abcdef"], "no numbers that put them in order"),
}


@pytest.mark.parametrize("kind", UNSURE)
def test_masks_that_may_be_of_other_slices_are_refused(tmp_path, kind):
    names, reason = UNSURE[kind]
    renamed(tmp_path / "in", names)

    with pytest.raises(DataError, match=reason):
        ingested.run(tmp_path / "in", tmp_path)
