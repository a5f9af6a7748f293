"""Features of a case: by hand, what moves them and what does not, and a site's memory of them."""

from dataclasses import replace

import numpy
import pytest
import torch

from fedsilo.cohort import features, preprocess, windows
from fedsilo.cohort.features import Seen
from fedsilo.cohort.volumes import Image
from fedsilo.errors import DataError
from tests.unit import raw_site

PARAMS = raw_site.params("prepare.spacing_zyx_mm=[null, 3.0, 2.0]").prepare
STORED = {"p50": 10.0, "p99_5": 200.0, "std": 50.0}


@pytest.fixture
def case():
    image, label = raw_site.voxels(0)
    return preprocess.prepare(Image(image[None], raw_site.AFFINE), label, unit="au", params=PARAMS)


def with_image(case, values):
    return replace(case, image=torch.tensor(values, dtype=torch.float32))


def block(found, name):
    return numpy.array([value for key, value in sorted(found.items()) if key.startswith(name)])


def test_squares_of_a_histogram_add_up_to_one(case):
    found = features.of_case(case)

    for name, size in (("intensity", features.NUM_BINS), ("gradient", len(features.GRADIENT_EDGES) + 1)):
        assert len(block(found, name)) == size
        assert (block(found, name) ** 2).sum() == pytest.approx(1)


def test_intensities_by_hand(case):
    """Half of the voxels at each end: two bins with a half each."""
    values = numpy.zeros(tuple(case.image.shape))
    values[..., 6:] = 7.0

    found = features.of_case(with_image(case, values))

    expected = numpy.zeros(features.NUM_BINS)
    expected[[0, -1]] = numpy.sqrt(0.5)
    assert block(found, "intensity") == pytest.approx(expected)
    # along x, of twelve voxels the two in the middle have a slope of 1/2
    assert block(found, "gradient")[[0, -1]] == pytest.approx(numpy.sqrt([10 / 12, 2 / 12]))


def test_an_image_without_contrast_has_features(case):
    found = features.of_case(with_image(case, numpy.full(tuple(case.image.shape), 3.0)))

    assert block(found, "intensity")[0] == block(found, "gradient")[0] == 1


def test_gain_and_offset_do_not_matter(case):
    values = case.image.numpy()

    found, moved = (features.of_case(with_image(case, array)) for array in (values, 3 * values + 5))

    assert block(moved, "intensity") == pytest.approx(block(found, "intensity"), abs=0.05)  # a voxel on an edge may change sides
    assert block(moved, "gradient") == pytest.approx(block(found, "gradient"), abs=0.05)


def test_blur_moves_the_gradient_and_gamma_the_intensities(case):
    values = case.image.numpy()
    sharp = features.of_case(case)

    blurred = features.of_case(with_image(case, (values + numpy.roll(values, 1, axis=3)) / 2))
    darker = features.of_case(with_image(case, (values - values.min()) ** 2))

    assert abs(block(blurred, "gradient") - block(sharp, "gradient")).max() > 0.1
    assert abs(block(darker, "intensity") - block(sharp, "intensity")).max() > 0.2


def test_the_grid_is_that_of_the_stored_image(case):
    found = features.of_case(case)

    assert [found[f"spacing_{axis}"] for axis in "zyx"] == [5.0, 3.0, 2.0]
    assert [found[f"shape_{axis}"] for axis in "zyx"] == [9, 10, 12]
    assert found["oblique_deg"] == pytest.approx(0)


def test_a_slice_in_pixels_has_no_spacing():
    params = raw_site.params("prepare.size_yx_px=[32, 32]").prepare
    image = numpy.random.default_rng(0).integers(0, 255, (1, 1, 40, 48)).astype(numpy.uint8)
    made = preprocess.prepare(Image(image, None), numpy.zeros((1, 40, 48), numpy.uint8), unit="au", params=params)

    found = features.of_case(made)

    assert [found[f"spacing_{axis}"] for axis in "zyx"] == [0, 0, 0]
    assert all(numpy.isfinite(value) for value in found.values())


def test_facts_count_where_intensities_have_a_unit(case):
    found = features.of_case(case, stored=STORED)

    assert {name: found[f"hu_{name}"] for name in STORED} == STORED
    assert not [name for name in features.of_case(case) if name.startswith("hu_")]
    with pytest.raises(DataError, match="the fact std is missing"):
        features.of_case(case, stored={**STORED, "std": None})


def test_predictions_by_hand(case):
    shape = case.recipe.target_shape
    probs = torch.zeros(3, *shape)
    probs[0], probs[1, 0] = 1.0, 2.0  # the first slice is liver
    probs = probs / probs.sum(dim=0)

    found = features.of_case(case, seen=Seen(probs, ("background", "liver", "kidneys")))

    slice_ml = shape[1] * shape[2] * 5 * 3 * 2 / 1000
    assert found["volume_liver"] == pytest.approx(slice_ml)
    assert found["volume_kidneys"] == 0
    entropy = -(numpy.log(1 / 3) / 3 + 2 * numpy.log(2 / 3) / 3) / shape[0] / numpy.log(3)
    assert found["entropy"] == pytest.approx(entropy)


def test_probabilities_of_another_case_are_refused(case):
    with pytest.raises(DataError, match="expected probabilities"):
        features.of_case(case, seen=Seen(torch.ones(2, 3, 3, 3) / 2, ("background", "liver")))


def test_every_feature_has_a_width_of_its_bins(case):
    probs = torch.ones(2, *case.recipe.target_shape) / 2
    found = features.of_case(case, stored=STORED, seen=Seen(probs, ("background", "liver")))

    assert all(features.step_of(name) > 0 for name in found)


def test_a_table_needs_cases_with_the_same_features():
    for rows in ([], [{"a": 1.0}, {"b": 1.0}]):
        with pytest.raises(DataError, match="cannot compare features"):
            features.table(rows)


def test_the_origin_is_another_with_other_params_plan_or_model():
    made = [
        features.origin({"crop": crop}, plan=plan, model=model)
        for crop, plan, model in (("none", "", ""), ("nonzero", "", ""), ("none", "x", ""), ("none", "", "x"))
    ]

    assert len(set(made)) == 4
    assert features.origin({"crop": "none"}, plan="", model="") == made[0]


class TestMemory:
    def made(self):
        known = {"h1": {"spacing_z": 5.0}, "h2": {"spacing_z": 5.1}}
        memory = windows.reference(known, {"h1": "p1", "h2": "p2"}, origin="0" * 64)
        return memory.grown(1, {"h3": {"spacing_z": 4.0}}, {"h3": "p3"})

    def test_what_is_written_comes_back(self, tmp_path):
        assert windows.read(windows.write(self.made(), tmp_path / "cases.parquet")) == self.made()

    def test_a_case_is_new_once(self):
        memory = self.made()

        assert memory.new(["h4", "h1", "h3"]) == ["h4"]
        assert memory.newest == 1
        assert memory.of_window(windows.REFERENCE) == [{"spacing_z": 5.0}, {"spacing_z": 5.1}]

    def test_new_cases_of_known_patients_are_told_apart(self):
        assert self.made().strangers({"h9": "p9", "h8": "p1", "h7": "p3", "h6": "p2"}) == ["h7", "h9"]

    @pytest.mark.parametrize("content", [b"", b"no parquet"])
    def test_a_damaged_file(self, tmp_path, content):
        (tmp_path / "cases.parquet").write_bytes(content)

        with pytest.raises(DataError, match="cannot read"):
            windows.read(tmp_path / "cases.parquet")

    def test_a_file_of_something_else(self, tmp_path):
        import pandas

        pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "cases.parquet")
        with pytest.raises(DataError, match="cannot use"):
            windows.read(tmp_path / "cases.parquet")
