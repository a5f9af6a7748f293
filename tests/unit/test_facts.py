"""Facts: what is measured, on cases whose facts are known."""

import hashlib
from dataclasses import replace

import nibabel
import numpy
import pandas
import pytest

from fedsilo.cohort import facts, layouts, volumes
from fedsilo.cohort import measure as measures
from tests.unit import raw_site

COHORT = raw_site.roster()


def measure(folder, case=0, cohort=COHORT):
    found = layouts.find_cases(folder, "site-a")
    label_map = layouts.harmonise(found.labels, cohort, "site-a")
    return measures.measure(found.cases[case], label_map, roster=cohort, site=cohort.site("site-a"))


@pytest.fixture
def folder(tmp_path):
    return raw_site.write_site(tmp_path / "site-a", 1)


def rewrite(folder, image=None, label=None, **places):
    """Replace the voxels of the first case."""
    first_image, first_label = raw_site.voxels(0)
    raw_site.write_case(
        folder, "case_0", first_image if image is None else image, first_label if label is None else label, **places
    )
    return measure(folder)


class TestVolume:
    def test_the_grid(self, folder):
        row = measure(folder)

        assert (row.geometry, row.ndim) == ("mm", 3)
        assert (row.shape_z, row.shape_y, row.shape_x) == (9, 10, 12)
        assert (row.spacing_z, row.spacing_y, row.spacing_x) == (5, 3, 2)
        assert (row.axcodes, row.det_sign, row.oblique_deg) == ("RAS", 1, 0)

    def test_the_intensities(self, folder):
        image, _ = raw_site.voxels(0)
        row = measure(folder)

        assert (row.minimum, row.maximum) == (image.min(), image.max())
        assert row.p50 == pytest.approx(numpy.percentile(image, 50))
        assert row.std == pytest.approx(image.std())
        assert row.num_unique == len(numpy.unique(image))
        assert row.frac_zero == pytest.approx((image == 0).mean())
        assert row.num_nonfinite == 0

    def test_the_label(self, folder):
        row = measure(folder)

        assert (row.has_label, row.label_shape_equal, row.label_affine_diff) == (True, True, 0)
        assert (row.label_values, row.num_undeclared, row.label_integral) == ("0|1|2", 0, True)
        assert (row.annotated, row.voxels_annotated) == ("1|2", 54)

    def test_every_fact_that_a_rule_needs_is_measured(self, folder):
        assert measure(folder).num_unmeasured == 0

    def test_another_orientation_has_other_axis_codes_and_the_same_content(self, folder):
        before = measure(folder)
        image, label = raw_site.voxels(0)
        turned = [volumes.from_zyx(numpy.transpose(array, (2, 1, 0)), raw_site.AFFINE, "LSP").array for array in (image, label)]
        affine = volumes.from_zyx(numpy.transpose(image, (2, 1, 0)), raw_site.AFFINE, "LSP").affine

        after = rewrite(folder, *turned, affine=affine)

        assert (after.axcodes, after.det_sign) == ("LSP", int(numpy.sign(numpy.linalg.det(affine[:3, :3]))))
        assert after.content_hash == before.content_hash
        assert after.label_hash == before.label_hash
        assert after.shape_z == before.shape_z

    @pytest.mark.parametrize("change", ["voxel", "spacing"])
    def test_another_voxel_or_spacing_is_another_content(self, folder, change):
        before = measure(folder)
        image, _ = raw_site.voxels(0)
        if change == "voxel":
            image[0, 0, 0] += 1
        affine = raw_site.AFFINE * ([[1.01]] * 3 + [[1]] if change == "spacing" else 1)

        assert rewrite(folder, image, affine=affine).content_hash != before.content_hash

    def test_the_content_hash_is_what_its_docstring_says(self, folder):
        image, _ = raw_site.voxels(0)
        voxels = numpy.ascontiguousarray(numpy.transpose(image, (2, 1, 0))[None], "<f4")

        expected = hashlib.sha256(b"(1, 9, 10, 12)/5.000|3.000|2.000/" + voxels.tobytes()).hexdigest()

        assert measure(folder).content_hash == expected

    def test_voxels_that_are_no_numbers_are_counted(self, folder):
        image = raw_site.voxels(0)[0].astype(numpy.float32)
        image[0, 0, :3] = (numpy.nan, numpy.inf, -numpy.inf)

        row = rewrite(folder, image)

        assert row.num_nonfinite == 3
        assert numpy.isfinite(row.mean)

    def test_a_label_that_does_not_fit(self, folder):
        _, label = raw_site.voxels(0)
        shifted = raw_site.AFFINE.copy()
        shifted[0, 3] = 0.8

        assert rewrite(folder, label=label[:-1]).label_shape_equal is False
        assert rewrite(folder, label_affine=shifted).label_affine_diff == pytest.approx(0.8)

    def test_values_that_are_not_declared(self, folder):
        _, label = raw_site.voxels(0)
        label[0, 0, :2] = (7, 9)

        row = rewrite(folder, label=label)

        assert (row.num_undeclared, row.undeclared_values) == (2, "7|9")

    def test_a_label_between_whole_numbers(self, folder):
        label = raw_site.voxels(0)[1].astype(numpy.float32)
        label[0, 0, 0] = 0.5

        assert rewrite(folder, label=label).label_integral is False

    def test_two_affines_in_one_header(self, folder):
        path = folder / "imagesTr" / "case_0_0000.nii.gz"
        image = nibabel.load(path)
        other = raw_site.AFFINE.copy()
        other[1, 3] = 4
        both = nibabel.Nifti1Image(numpy.asanyarray(image.dataobj), raw_site.AFFINE)
        both.set_sform(raw_site.AFFINE, code=1)
        both.set_qform(other, code=1)
        nibabel.save(both, path)

        assert measure(folder).affine_conflict == pytest.approx(4)

    @pytest.mark.parametrize("degrees", [5, 20])
    def test_an_oblique_volume(self, folder, degrees):
        angle = numpy.radians(degrees)
        turn = numpy.eye(4)
        turn[1:3, 1:3] = [[numpy.cos(angle), -numpy.sin(angle)], [numpy.sin(angle), numpy.cos(angle)]]

        assert rewrite(folder, affine=turn @ raw_site.AFFINE).oblique_deg == pytest.approx(degrees)


class TestSlice:
    def test_pixels_have_no_millimetres(self, tmp_path):
        folder = raw_site.write_pixel_site(tmp_path / "site-a", 1)

        row = measure(folder)

        assert (row.geometry, row.ndim, row.axcodes) == ("pixel", 2, "")
        assert (row.shape_z, row.shape_y, row.shape_x) == (1, 40, 48)
        assert row.spacing_z is row.label_affine_diff is row.oblique_deg is None
        assert row.num_unmeasured == 0
        assert row.voxels_annotated == 100


class TestUnreadable:
    @pytest.mark.parametrize("part", ["imagesTr/case_0_0000", "labelsTr/case_0"])
    def test_a_file_that_cannot_be_read_is_a_fact(self, folder, part):
        (folder / f"{part}.nii.gz").write_bytes(b"nothing")

        row = measure(folder)

        assert row.readable is False
        assert part in row.problem
        assert row.content_hash is None


class TestTable:
    def test_a_patient_s_splits_are_counted(self, folder):
        row = measure(folder)
        rows = [replace(row, case="a"), replace(row, case="b"), replace(row, case="c", patient="other")]

        split = facts.with_splits(rows, {"a": "train", "b": "test", "c": "train"}, near_share=0.0)

        assert [(row.split, row.patient_num_splits) for row in split] == [("train", 2), ("test", 2), ("train", 1)]

    def test_the_table_comes_back_from_the_file(self, folder, tmp_path):
        rows = [measure(folder)]
        path = facts.write(rows, COHORT.organs[1:], tmp_path / "facts.parquet")

        table = pandas.read_parquet(path)

        assert tuple(table.columns) == facts.columns(COHORT.organs[1:])
        assert table.loc[0, "content_hash"] == rows[0].content_hash

    def test_equal_facts_are_equal_files(self, folder, tmp_path):
        first, second = (
            facts.write([measure(folder)], COHORT.organs[1:], tmp_path / f"{name}.parquet").read_bytes() for name in "ab"
        )

        assert first == second


def test_a_volume_of_one_value_has_facts(folder):
    row = rewrite(folder, numpy.zeros(raw_site.SHAPE, numpy.int16))

    assert (row.num_unique, row.std, row.frac_at_min) == (1, 0, 1)
    assert row.num_unmeasured == 0


def test_scaled_voxels_are_measured_as_they_mean(folder):
    image = nibabel.Nifti1Image(numpy.full(raw_site.SHAPE, 24, numpy.int16), raw_site.AFFINE)
    image.header.set_slope_inter(1.0, -1024.0)
    nibabel.save(image, folder / "imagesTr" / "case_0_0000.nii.gz")

    assert measure(folder).maximum == 24 - 1024
