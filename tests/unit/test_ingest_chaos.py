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
    dicom_source.series(tmp_path / "in/1/T2SPIR/DICOM_anon", modality="MR")
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
