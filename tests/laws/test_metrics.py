"""The mathematics of scores: what swapping, moving, turning and magnifying masks may change, and a slow obvious oracle."""

import numpy
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_dice
from scipy import ndimage

from fedsilo.evaluation.metrics import score_case

SHAPE = (6, 7, 8)
SPACING = (3.0, 1.0, 1.5)
blobs = st.integers(0, 2**32 - 1)
few = settings(max_examples=25)  # an example takes a dozen surface distances


def blob(seed):
    """A lump of voxels: smooth noise above its 85th percentile, grown from a seed."""
    noise = ndimage.gaussian_filter(numpy.random.default_rng(seed).normal(size=SHAPE), 1.2)
    return torch.from_numpy((noise > numpy.quantile(noise, 0.85)).astype(numpy.uint8))


def values(prediction, reference, spacing_mm=SPACING):
    scores = score_case(prediction, reference, organs={1: "spleen"}, spacing_mm=spacing_mm)
    return {score.metric: score.value for score in scores}


def surface_distances(mask, other, spacing_mm):
    """Distance of every surface voxel of ``mask`` to the surface of ``other``; a voxel is surface if a face is free."""
    surfaces = [part & ~ndimage.binary_erosion(part) for part in (mask, other)]
    return ndimage.distance_transform_edt(~surfaces[1], sampling=spacing_mm)[surfaces[0]]


@few
@given(blobs, blobs)
def test_surface_distances_equal_a_distance_transform(first, second):
    prediction, reference = blob(first), blob(second)
    there = surface_distances(prediction.numpy() > 0, reference.numpy() > 0, SPACING)
    back = surface_distances(reference.numpy() > 0, prediction.numpy() > 0, SPACING)

    found = values(prediction, reference)

    assert found["hd95"] == pytest.approx(max(numpy.percentile(there, 95), numpy.percentile(back, 95)), rel=1e-5)
    assert found["assd"] == pytest.approx((there.sum() + back.sum()) / (there.size + back.size), rel=1e-5)


@few
@given(arrays(numpy.uint8, SHAPE, elements=st.integers(0, 1)), arrays(numpy.uint8, SHAPE, elements=st.integers(0, 1)))
def test_dice_is_monais_and_iou_is_its_overlap(first, second):
    prediction, reference = torch.from_numpy(first), torch.from_numpy(second)
    assume(first.any() and second.any())

    found = values(prediction, reference)

    assert found["dice"] == pytest.approx(float(compute_dice(prediction[None, None], reference[None, None])), abs=1e-6)
    assert found["iou"] == pytest.approx((first & second).sum() / (first | second).sum())


@few
@given(blobs, blobs)
def test_swapping_the_masks_changes_only_the_sign_of_the_volume_error(first, second):
    there, back = values(blob(first), blob(second)), values(blob(second), blob(first))

    for metric in ("dice", "iou", "hd95", "assd", "nsd"):
        assert there[metric] == pytest.approx(back[metric], rel=1e-5)
    assert there["volume_error_ml"] == pytest.approx(-back["volume_error_ml"])


@few
@given(blobs)
def test_a_mask_equals_itself(seed):
    found = values(blob(seed), blob(seed))

    assert (found["dice"], found["iou"], found["hd95"], found["assd"]) == (1, 1, 0, 0)
    assert found["nsd"] == pytest.approx(1)


@few
@given(blobs, blobs, st.permutations(range(3)))
def test_turning_masks_and_spacing_together_changes_nothing(first, second, axes):
    turned = values(blob(first).permute(axes), blob(second).permute(axes), [SPACING[axis] for axis in axes])

    assert turned == pytest.approx(values(blob(first), blob(second)), rel=1e-5)


@few
@given(blobs, blobs)
def test_more_background_around_changes_nothing(first, second):
    padded = [torch.nn.functional.pad(blob(seed), (3, 9, 2, 5, 7, 4)) for seed in (first, second)]

    assert values(*padded) == pytest.approx(values(blob(first), blob(second)), rel=1e-5)


@few
@given(blobs, blobs, st.sampled_from([0.5, 2.0, 7.5]))
def test_distances_grow_with_the_voxels_and_overlap_does_not(first, second, scale):
    plain = values(blob(first), blob(second))
    magnified = values(blob(first), blob(second), [scale * edge for edge in SPACING])

    assert magnified["dice"] == plain["dice"]
    assert magnified["hd95"] == pytest.approx(scale * plain["hd95"], rel=1e-5)
    assert magnified["assd"] == pytest.approx(scale * plain["assd"], rel=1e-5)
    assert magnified["volume_ml"] == pytest.approx(scale**3 * plain["volume_ml"])
