"""Scores of a case: units, flags, empty masks, single slices, refusals."""

import pytest
import torch

from fedsilo.errors import DataError
from fedsilo.evaluation.metrics import score_case

SPACING = (2.0, 1.0, 1.0)
ORGANS = {1: "liver", 2: "spleen"}


def labels(**boxes):
    """A 6x8x10 volume with boxes of organ values, e.g. ``v1=(slice, slice, slice)``."""
    volume = torch.zeros(6, 8, 10, dtype=torch.uint8)
    for name, box in boxes.items():
        volume[box] = int(name[1:])
    return volume


LIVER = (slice(1, 5), slice(2, 6), slice(2, 6))
SPLEEN = (slice(1, 5), slice(2, 6), slice(7, 9))


def by_organ(scores, organ):
    return {score.metric: score for score in scores if score.organ == organ}


def test_every_annotated_organ_gets_seven_scores_with_units():
    scores = score_case(labels(v1=LIVER, v2=SPLEEN), labels(v1=LIVER, v2=SPLEEN), organs=ORGANS, spacing_mm=SPACING)

    assert [(score.organ, score.metric, score.unit) for score in scores[:7]] == [
        ("liver", "dice", "1"),
        ("liver", "iou", "1"),
        ("liver", "hd95", "mm"),
        ("liver", "assd", "mm"),
        ("liver", "nsd", "1"),
        ("liver", "volume_ml", "ml"),
        ("liver", "volume_error_ml", "ml"),
    ]
    assert [score.organ for score in scores[7:]] == ["spleen"] * 7
    assert {score.flag for score in scores} == {""}
    assert by_organ(scores, "liver")["volume_ml"].value == pytest.approx(4 * 4 * 4 * 2 / 1000)


def test_an_organ_that_is_not_annotated_gets_no_score():
    scores = score_case(labels(v1=LIVER, v2=SPLEEN), labels(v1=LIVER), organs={1: "liver"}, spacing_mm=SPACING)

    assert {score.organ for score in scores} == {"liver"}


def test_a_missed_organ_scores_zero_and_is_a_diagonal_away():
    scores = by_organ(score_case(labels(), labels(v1=LIVER), organs=ORGANS, spacing_mm=SPACING), "liver")

    diagonal = (12**2 + 8**2 + 10**2) ** 0.5
    assert {metric: score.value for metric, score in scores.items()} == {
        "dice": 0,
        "iou": 0,
        "nsd": 0,
        "hd95": pytest.approx(diagonal),
        "assd": pytest.approx(diagonal),
        "volume_ml": 0,
        "volume_error_ml": pytest.approx(-0.128),
    }
    assert {score.flag for score in scores.values()} == {"missed"}


@pytest.mark.parametrize(("prediction", "volume"), [(labels(v2=SPLEEN), 0.064), (labels(), 0.0)], ids=["drawn", "not drawn"])
def test_an_absent_organ_has_a_volume_and_nothing_else(prediction, volume):
    scores = by_organ(score_case(prediction, labels(v1=LIVER), organs=ORGANS, spacing_mm=SPACING), "spleen")

    assert scores.pop("volume_ml").value == pytest.approx(volume)
    assert scores.pop("volume_error_ml").value == pytest.approx(volume)
    assert {score.value for score in scores.values()} == {None}
    assert {score.flag for score in scores.values()} == {"absent"}


@pytest.mark.parametrize(
    "box",
    [(slice(2, 3), slice(2, 3), slice(2, 3)), (slice(0, 3), slice(0, 4), slice(0, 5)), (slice(None),) * 3],
    ids=["one voxel", "at the border", "everything"],
)
def test_a_mask_against_itself_is_perfect(box):
    scores = by_organ(score_case(labels(v1=box), labels(v1=box), organs={1: "liver"}, spacing_mm=SPACING), "liver")

    assert scores["hd95"].value == 0
    assert scores["nsd"].value == pytest.approx(1)


def test_a_single_slice_is_scored_in_two_dimensions_and_pixels():
    square = torch.zeros(1, 20, 20, dtype=torch.uint8)
    square[0, 5:15, 5:15] = 1

    scores = by_organ(score_case(square.roll(3, dims=2), square, organs={1: "liver"}, spacing_mm=None), "liver")

    assert scores["hd95"].value == pytest.approx(3)
    assert scores["assd"].value < 3  # in 3-D every pixel would be surface
    assert scores["nsd"].value < 1  # tolerance of 2 pixels, not the liver's 7 mm
    assert (scores["hd95"].unit, scores["assd"].unit, scores["volume_ml"].unit) == ("px", "px", "px")
    assert scores["volume_ml"].value == 100


def test_a_missed_organ_of_a_single_slice_is_the_slices_diagonal_away():
    square = torch.ones(1, 30, 40, dtype=torch.uint8)

    scores = by_organ(score_case(torch.zeros_like(square), square, organs={1: "liver"}, spacing_mm=None), "liver")

    assert scores["hd95"].value == pytest.approx(50)


def test_a_single_slice_with_spacing_has_a_volume():
    square = torch.ones(10, 10, 1, dtype=torch.uint8)

    scores = by_organ(score_case(square, square, organs={1: "liver"}, spacing_mm=(2.0, 2.0, 5.0)), "liver")

    assert scores["volume_ml"].value == pytest.approx(2.0)
    assert scores["hd95"].value == 0


def test_inputs_are_not_changed():
    prediction, reference = labels(v1=LIVER), labels(v1=SPLEEN)
    copies = prediction.clone(), reference.clone()

    score_case(prediction, reference, organs=ORGANS, spacing_mm=SPACING)

    assert torch.equal(prediction, copies[0])
    assert torch.equal(reference, copies[1])


def test_different_shapes_are_refused():
    with pytest.raises(DataError, match=r"prediction has shape \(6, 8, 9\), expected the reference's \(6, 8, 10\)"):
        score_case(labels()[..., :9], labels(), organs=ORGANS, spacing_mm=SPACING)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_spacing_that_does_not_fit_is_refused(spacing):
    with pytest.raises(DataError, match="expected 3 positive spacings, one an axis"):
        score_case(labels(), labels(), organs=ORGANS, spacing_mm=spacing)


def test_without_surfaces_the_other_scores_are_the_same():
    moved = labels(v1=(slice(1, 5), slice(2, 6), slice(3, 7)))
    for prediction in (moved, labels(v2=SPLEEN), labels()):
        every = score_case(prediction, labels(v1=LIVER), organs=ORGANS, spacing_mm=SPACING)
        without = score_case(prediction, labels(v1=LIVER), organs=ORGANS, spacing_mm=SPACING, surfaces=False)

        assert without == [score for score in every if score.metric not in ("hd95", "assd", "nsd")]
        assert len(without) == 8
