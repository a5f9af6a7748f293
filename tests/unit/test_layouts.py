"""Finding cases in the nnU-Net raw layout, and naming labels."""

import json
import shutil

import numpy
import pytest

from fedsilo.cohort import layouts
from fedsilo.errors import DataError
from tests.unit import raw_site

ORGANS = raw_site.roster()


@pytest.fixture
def folder(tmp_path):
    return raw_site.write_site(tmp_path / "site-a", 3)


def refuses(folder, *parts):
    """Finding cases fails with one line that names the site and all of ``parts``."""
    with pytest.raises(DataError) as caught:
        layouts.find_cases(folder, "site-a")
    for part in ("site-a", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


class TestFindCases:
    def test_cases_come_with_patient_image_and_label(self, folder):
        found = layouts.find_cases(folder, "site-a")

        assert [case.case for case in found.cases] == ["case_0", "case_1", "case_2"]
        first = found.cases[0]
        assert first.patient == "patient_case_0"
        assert first.image_paths == (folder / "imagesTr" / "case_0_0000.nii.gz",)
        assert first.label_path == folder / "labelsTr" / "case_0.nii.gz"
        assert found.labels == raw_site.LABELS

    def test_slices_are_found_the_same_way(self, tmp_path):
        folder = raw_site.write_pixel_site(tmp_path / "site-a", 2)

        assert [case.case for case in layouts.find_cases(folder, "site-a").cases] == ["slice_0", "slice_1"]

    def test_channels_come_in_order(self, folder):
        for case in range(3):
            shutil.copy(folder / f"imagesTr/case_{case}_0000.nii.gz", folder / f"imagesTr/case_{case}_0001.nii.gz")
        raw_site.describe(folder, channels=("T1", "T2"), patients={f"case_{case}": "p" for case in range(3)})

        paths = layouts.find_cases(folder, "site-a").cases[0].image_paths

        assert [path.name for path in paths] == ["case_0_0000.nii.gz", "case_0_0001.nii.gz"]

    def test_a_name_may_end_like_a_channel(self, tmp_path):
        folder = tmp_path / "site-a"
        raw_site.write_case(folder, "scan_0007", *raw_site.voxels(0))
        raw_site.describe(folder)

        assert [case.case for case in layouts.find_cases(folder, "site-a").cases] == ["scan_0007"]

    def test_without_patients_every_case_is_one(self, folder):
        (folder / "patients.csv").unlink()

        found = layouts.find_cases(folder, "site-a")

        assert not found.has_patients
        assert [case.patient for case in found.cases] == ["case_0", "case_1", "case_2"]

    def test_blanks_around_a_patient_make_no_other_patient(self, folder):
        (folder / "patients.csv").write_text(
            "case, patient\ncase_0,p1\ncase_1, p1 \ncase_2,p2\n".replace(", patient", ",patient")
        )

        assert [case.patient for case in layouts.find_cases(folder, "site-a").cases] == ["p1", "p1", "p2"]

    def test_names_that_may_be_people_s_are_hidden_from_the_start(self, folder):
        for path in sorted(folder.glob("*/case_0*")):
            path.rename(path.with_name(path.name.replace("case_0", "Grausam_19480211")))
        (folder / "patients.csv").write_text("case,patient\nGrausam_19480211,Grausam^Hannelore\ncase_1,p1\ncase_2,p2\n")

        case = next(case for case in layouts.find_cases(folder, "site-a").cases if case.case.startswith("hidden-"))

        assert case.patient.startswith("hidden-")
        assert case.image_paths[0].name == "Grausam_19480211_0000.nii.gz"

    def test_splits_of_patients_can_be_given(self, folder):
        (folder / "patients.csv").write_text("case,patient\ncase_0,p1\ncase_1,p1\ncase_2,p2\n")
        (folder / "splits.csv").write_text("patient,split\np1,test\np9,val\n")

        assert layouts.find_cases(folder, "site-a").splits == {"case_0": "test", "case_1": "test"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("patient,split\np1,tset\n", "patient and split, with one of train, val, test"),
            ("case,split\np1,test\n", "patient and split"),
            ("patient,split\np1,test\np1,train\n", "gives patient p1 two splits"),
        ],
    )
    def test_splits_that_cannot_be_used_are_named(self, folder, text, message):
        (folder / "splits.csv").write_text(text)

        refuses(folder, "splits.csv", message)

    def test_patients_that_are_no_text_are_named(self, folder):
        (folder / "patients.csv").write_bytes(b"case,patient\ncase_0,\xff\n")

        refuses(folder, "patients.csv")

    def test_a_spreadsheet_s_byte_order_mark_is_no_letter(self, folder):
        path = folder / "patients.csv"
        path.write_text("\ufeff" + path.read_text())

        assert layouts.find_cases(folder, "site-a").cases[0].patient == "patient_case_0"

    @pytest.mark.parametrize("name", ["imagesTr/case_9_0000.nii", "labelsTr/case_9.mha"])
    def test_a_file_with_another_ending_is_not_lost_without_a_word(self, folder, name):
        (folder / name).write_text("a forgotten conversion")

        refuses(folder, name, ".nii.gz")

    def test_a_missing_label_is_left_to_the_contract(self, folder):
        (folder / "labelsTr" / "case_1.nii.gz").unlink()

        assert layouts.find_cases(folder, "site-a").cases[1].label_path is None

    def test_hidden_files_and_test_folders_are_passed_over(self, folder):
        (folder / "imagesTr" / "._case_0_0000.nii.gz").write_text("of a file manager")
        (folder / "imagesTs").mkdir()
        (folder / "imagesTs" / "case_9_0000.nii.gz").write_text("of nnU-Net")

        assert len(layouts.find_cases(folder, "site-a").cases) == 3

    def test_a_missing_folder_is_named(self, tmp_path):
        refuses(tmp_path / "site-a", "missing")

    def test_a_missing_description_is_named(self, folder):
        (folder / "dataset.json").unlink()

        refuses(folder, "dataset.json")

    def test_a_folder_without_images_is_named(self, folder):
        shutil.rmtree(folder / "imagesTr")

        refuses(folder, "no image", "imagesTr")

    def test_a_label_without_image_is_named(self, folder):
        (folder / "imagesTr" / "case_1_0000.nii.gz").unlink()

        refuses(folder, "case_1", "has no image")

    def test_a_missing_channel_is_named(self, folder):
        raw_site.describe(folder, channels=("T1", "T2"), patients={f"case_{case}": "p" for case in range(3)})

        refuses(folder, "case_0", "expected 2 channels")

    def test_a_surplus_channel_is_named(self, folder):
        shutil.copy(folder / "imagesTr/case_0_0000.nii.gz", folder / "imagesTr/case_0_0001.nii.gz")

        refuses(folder, "case_0", "expected 1 channels")

    @pytest.mark.parametrize("name", ["case 1", "-case", "c" * 81, "naïve"])
    def test_an_unsafe_name_is_refused(self, folder, name):
        (folder / "imagesTr" / "case_1_0000.nii.gz").rename(folder / "imagesTr" / f"{name}_0000.nii.gz")
        (folder / "labelsTr" / "case_1.nii.gz").unlink()

        refuses(folder, repr(name))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"file_ending": ".jpg"}, "file_ending"),
            ({"labels": {"background": 0, "both": [1, 2]}}, "region"),
            ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "ignore"),
            ({"labels": {"0": "background", "1": "liver"}}, "expected a value"),
            ({"labels": {"liver": 1}}, "background"),
            ({"labels": {"background": 0, "liver": True}}, "expected a value"),
            ({"labels": {"background": 0, "liver": -1}}, "expected a value"),
            ({"labels": {}}, "labels"),
            ({"labels": {"background": 0, "liver": 1, "spleen": 1}}, "one value"),
        ],
    )
    def test_a_description_that_cannot_be_used_is_named(self, folder, changes, message):
        content = json.loads((folder / "dataset.json").read_text()) | changes
        (folder / "dataset.json").write_text(json.dumps(content))

        refuses(folder, message)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("case,patient\ncase_0,p0\ncase_1,p1\n", "case_2"),
            ("case,person\ncase_0,p0\n", "columns case and patient"),
            ("case,patient\ncase_0,p0\ncase_0,p1\n", "two patients"),
            ("case,patient\ncase_0,\ncase_1,p1\ncase_2,p2\n", "columns case and patient"),
        ],
    )
    def test_patients_that_cannot_be_used_are_named(self, folder, text, message):
        (folder / "patients.csv").write_text(text)

        refuses(folder, "patients.csv", message)


class TestHarmonise:
    def test_names_decide_and_values_do_not(self):
        label_map = layouts.harmonise({"background": 0, "liver": 1, "kidneys": 2}, ORGANS, "site-a")

        assert label_map.values == {0: 0, 1: 2, 2: 1}
        assert label_map.annotated == (1, 2)

    def test_case_and_separators_do_not_matter_and_many_may_mean_one(self):
        label_map = layouts.harmonise({"background": 0, "Left_Kidney": 5, "RIGHT-kidney": 3}, ORGANS, "site-a")

        assert label_map.values == {0: 0, 5: 1, 3: 1}
        assert label_map.annotated == (1,)

    def test_a_dropped_name_becomes_background(self):
        label_map = layouts.harmonise({"background": 0, "liver": 1, "spleen": 7}, ORGANS, "site-a")

        assert label_map.values[7] == 0
        assert label_map.annotated == (2,)

    def test_a_mask_is_mapped_by_value(self):
        label_map = layouts.harmonise({"background": 0, "liver": 255}, ORGANS, "site-a")

        assert label_map.apply(numpy.array([0, 255, 255], numpy.int16)).tolist() == [0, 2, 2]

    def test_an_unknown_name_stops_the_site_and_shows_the_nearest(self):
        with pytest.raises(DataError, match=r"site-a: unknown organ 'kidnys'.*nearest: kidneys"):
            layouts.harmonise({"background": 0, "kidnys": 1}, ORGANS, "site-a")

    def test_a_site_that_annotates_nothing_of_ours_is_refused(self):
        with pytest.raises(DataError, match="annotates no organ"):
            layouts.harmonise({"background": 0, "spleen": 1}, ORGANS, "site-a")
