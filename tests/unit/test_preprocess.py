"""Preprocessing: clip, z-score, resample; what is saved comes back."""

import json

import numpy
import pytest
import safetensors
import torch

from fedsilo.cohort import grids, preprocess
from fedsilo.cohort.volumes import Image
from fedsilo.errors import DataError
from tests.unit import raw_site

PARAMS = raw_site.params().prepare
NATIVE = raw_site.params("prepare.spacing_zyx_mm=[null, 3.0, 2.0]").prepare


def stored(seed=0, affine=raw_site.AFFINE):
    image, label = raw_site.voxels(seed)
    return Image(image[None], affine), label


class TestNormalise:
    def test_hounsfield_units_are_clipped_at_fixed_values(self):
        volume = numpy.array([-1024.0, -125.0, 75.0, 275.0, 3000.0]).reshape(1, 1, 5)

        scored = preprocess.normalise(volume, unit="hu", params=PARAMS)

        clipped = numpy.array([-125.0, -125.0, 75.0, 275.0, 275.0])
        numpy.testing.assert_allclose(scored.ravel(), (clipped - clipped.mean()) / clipped.std(), rtol=1e-6)

    @pytest.mark.parametrize("unit", ["au", "windowed_8bit"])
    def test_other_units_are_clipped_at_percentiles_of_voxels_that_are_not_zero(self, unit):
        volume = numpy.concatenate([numpy.zeros(800), numpy.arange(1.0, 201.0)]).reshape(10, 10, 10)
        low, high = numpy.percentile(numpy.arange(1.0, 201.0), (0.5, 99.5))

        scored = preprocess.normalise(volume, unit=unit, params=PARAMS)

        clipped = volume.clip(low, high)
        numpy.testing.assert_allclose(scored, (clipped - clipped.mean()) / clipped.std(), rtol=1e-5)

    @pytest.mark.parametrize("unit", ["hu", "au"])
    def test_the_result_is_a_z_score(self, unit):
        scored = preprocess.normalise(numpy.random.default_rng(0).normal(50, 30, (8, 9, 10)), unit=unit, params=PARAMS)

        assert scored.dtype == numpy.float32
        assert scored.mean() == pytest.approx(0, abs=1e-6)
        assert scored.std() == pytest.approx(1, abs=1e-5)

    def test_gain_of_an_mr_scanner_does_not_matter(self):
        volume = numpy.random.default_rng(0).integers(0, 500, (8, 9, 10)).astype(float)

        once, thrice = (preprocess.normalise(volume * gain, unit="au", params=PARAMS) for gain in (1, 3))

        numpy.testing.assert_allclose(once, thrice, atol=1e-5)


class TestGrid:
    def test_the_slices_are_kept_where_z_is_null(self):
        image, label = stored()

        case = preprocess.prepare(image, label, unit="au", params=raw_site.params("prepare.spacing_zyx_mm=[null, 6, 6]").prepare)

        assert case.recipe.target_shape == tuple(case.label.shape) == (9, 5, 4)
        assert case.recipe.source_spacing_zyx == (5, 3, 2)
        assert case.recipe.target_spacing_zyx == (5, 6, 6)
        assert case.image.shape == (1, 9, 5, 4)

    def test_z_is_resampled_where_it_has_a_spacing(self):
        image, label = stored()

        case = preprocess.prepare(image, label, unit="au", params=raw_site.params("prepare.spacing_zyx_mm=[9, 6, 6]").prepare)

        assert case.recipe.target_shape == (5, 5, 4)
        assert case.recipe.target_spacing_zyx == (9, 6, 6)

    def test_the_field_of_view_stays_although_voxels_are_whole(self):
        image, label = stored()

        recipe = preprocess.prepare(
            image, label, unit="au", params=raw_site.params("prepare.spacing_zyx_mm=[4, 4, 5]").prepare
        ).recipe

        extents = [edge * size for edge, size in zip(recipe.target_spacing_zyx, recipe.target_shape, strict=True)]
        assert extents == pytest.approx([45, 30, 24])

    def test_a_slice_is_resized_in_pixels(self):
        image = Image(numpy.random.default_rng(0).integers(0, 256, (1, 1, 40, 48)).astype(numpy.uint8), None)
        label = numpy.zeros((1, 40, 48), numpy.uint8)
        label[0, :20, :24] = 1
        params = raw_site.params("prepare.size_yx_px=[20, 32]").prepare

        case = preprocess.prepare(image, label, unit="windowed_8bit", params=params)

        assert case.image.shape == (1, 1, 20, 32)
        assert case.recipe.geometry == "pixel"
        assert case.recipe.affine is case.recipe.target_spacing_zyx is preprocess.native_spacing(case.recipe) is None
        assert case.label[0, 10:, 16:].min() == 1  # the first rows are anterior: they come last
        assert case.label.sum() == 10 * 16
        assert torch.equal(case.native_label, torch.from_numpy(label))

    def test_channels_are_normalised_one_by_one(self):
        image, label = stored()
        two = Image(numpy.concatenate([image.channels, image.channels * 7 + 3]), image.affine)

        case = preprocess.prepare(two, label, unit="au", params=NATIVE)

        assert case.image.shape == (2, 9, 10, 12)
        assert case.image.mean(dim=(1, 2, 3)).abs().max() < 1e-3
        assert (case.image.std(dim=(1, 2, 3)) - 1).abs().max() < 1e-3

    def test_the_spacing_of_the_stored_axes(self):
        affine = raw_site.AFFINE[:, [2, 0, 1, 3]]
        image, label = stored(affine=affine)

        case = preprocess.prepare(image, label, unit="au", params=PARAMS)

        assert preprocess.native_spacing(case.recipe) == (5, 2, 3)
        assert case.native_label.shape == label.shape


class TestResampling:
    def test_a_constant_stays_constant(self):
        volume = torch.full((6, 8, 10), 2.5)

        for shape in ((6, 4, 5), (3, 4, 5), (12, 16, 20)):
            torch.testing.assert_close(grids.resample_image(volume, shape), torch.full(shape, 2.5))

    def test_a_ramp_keeps_its_slope_away_from_the_border(self):
        ramp = torch.arange(32.0).expand(4, 4, 32)

        halved = grids.resample_image(ramp, (4, 4, 16))

        torch.testing.assert_close(halved[0, 0, 4:-4], torch.arange(16.0)[4:-4] * 2 + 0.5)

    def test_shrinking_does_not_alias(self):
        """Stripes finer than the new voxels must become grey, not other stripes."""
        stripes = (torch.arange(60) % 2).float().expand(2, 60, 60)

        shrunk = grids.resample_image(stripes, (2, 20, 20))[:, 3:-3, 3:-3]

        assert (shrunk - 0.5).abs().max() < 0.15

    def test_labels_keep_their_values(self):
        label = torch.zeros((4, 9, 9), dtype=torch.uint8)
        label[:, 2:7, 2:7] = 5

        resampled = grids.resample_label(label, (4, 14, 14))

        assert resampled.dtype == torch.uint8
        assert resampled.unique().tolist() == [0, 5]

    def test_a_tie_goes_to_the_lower_value(self):
        label = torch.tensor([3, 1], dtype=torch.uint8).reshape(1, 1, 2)

        assert grids.resample_label(label, (1, 1, 1)).tolist() == [[[1]]]

    def test_nothing_that_was_given_is_changed(self):
        image, label = stored()
        before = image.channels.copy(), label.copy()

        preprocess.prepare(image, label, unit="au", params=PARAMS)

        numpy.testing.assert_array_equal(image.channels, before[0])
        numpy.testing.assert_array_equal(label, before[1])

    def test_results_do_not_depend_on_the_number_of_threads(self):
        image, label = stored()
        several, one = [], torch.get_num_threads()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            several.append(preprocess.prepare(image, label, unit="au", params=PARAMS))
        torch.set_num_threads(one)

        assert torch.equal(several[0].image, several[1].image)
        assert torch.equal(several[0].label, several[1].label)


class TestWayBack:
    def test_a_tie_goes_to_the_lower_class(self):
        image, label = stored()
        recipe = preprocess.prepare(image, label, unit="au", params=NATIVE).recipe

        assert preprocess.to_native(torch.full((3, *recipe.target_shape), 1 / 3), recipe).max() == 0

    def test_probabilities_on_another_grid_are_refused(self):
        image, label = stored()
        recipe = preprocess.prepare(image, label, unit="au", params=NATIVE).recipe

        with pytest.raises(DataError, match=r"expected probabilities on the grid \(9, 10, 12\), got \(9, 10, 11\)"):
            preprocess.to_native(torch.zeros((3, 9, 10, 11)), recipe)


class TestFiles:
    @pytest.fixture
    def case(self):
        image, label = stored()
        return preprocess.prepare(image, label, unit="au", params=PARAMS)

    def test_a_case_comes_back(self, case, tmp_path):
        preprocess.save(case, tmp_path / "case.safetensors")

        loaded = preprocess.load(tmp_path / "case.safetensors")

        assert loaded.recipe == case.recipe
        assert torch.equal(loaded.label, case.label)
        assert torch.equal(loaded.native_label, case.native_label)
        assert loaded.image.dtype == torch.float32
        torch.testing.assert_close(loaded.image, case.image, rtol=1e-3, atol=1e-3)  # float16 in the file

    def test_equal_cases_are_equal_files(self, case, tmp_path):
        first, second = (preprocess.save(case, tmp_path / name) for name in "ab")

        assert first == second
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_the_file_says_how_it_was_made(self, case, tmp_path):
        preprocess.save(case, tmp_path / "case.safetensors")
        with safetensors.safe_open(tmp_path / "case.safetensors", framework="pt") as handle:
            metadata, dtypes = (
                handle.metadata(),
                {name: handle.get_tensor(name).dtype for name in ("image", "label", "native_label")},
            )

        assert json.loads(metadata["case"])["recipe"]["source_shape"] == list(raw_site.SHAPE)
        assert dtypes == {"image": torch.float16, "label": torch.uint8, "native_label": torch.uint8}

    def test_a_damaged_or_missing_file_is_named(self, case, tmp_path):
        path = tmp_path / "case.safetensors"
        with pytest.raises(DataError, match=r"case\.safetensors"):
            preprocess.load(path)
        preprocess.save(case, path)
        path.write_bytes(path.read_bytes()[:-10])

        with pytest.raises(DataError, match=r"case\.safetensors"):
            preprocess.load(path)
