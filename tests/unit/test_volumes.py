"""Reading and writing volumes: axes, affines, PNG, and files that are no volumes."""

import nibabel
import numpy
import PIL.Image
import pytest

from fedsilo.cohort import volumes
from fedsilo.cohort.volumes import Volume
from fedsilo.errors import DataError
from tests.unit import raw_site


@pytest.fixture
def stored(tmp_path):
    """A function that saves a nibabel image and gives its path."""

    def save(array, affine=raw_site.AFFINE, name="image.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / name)
        return tmp_path / name

    return save


class TestNifti:
    def test_a_volume_comes_back_as_it_was(self, tmp_path):
        image, _ = raw_site.voxels(0)
        path = volumes.write_nifti(Volume(image, raw_site.AFFINE), tmp_path / "image.nii.gz")

        read = volumes.read_nifti(path)

        assert read.array.dtype == numpy.int16
        numpy.testing.assert_array_equal(read.array, image)
        numpy.testing.assert_array_equal(read.affine, raw_site.AFFINE)
        assert read.spacing_mm == (2.0, 3.0, 5.0)

    def test_equal_volumes_are_equal_files(self, tmp_path):
        image, _ = raw_site.voxels(0)
        first, second = (
            volumes.write_nifti(Volume(image, raw_site.AFFINE), tmp_path / name / "image.nii.gz").read_bytes() for name in "ab"
        )

        assert first == second

    def test_scaling_in_the_header_is_applied(self, tmp_path):
        image = nibabel.Nifti1Image(numpy.full((4, 4, 4), 10, numpy.int16), numpy.eye(4))
        image.header.set_slope_inter(2.0, -1024.0)
        nibabel.save(image, tmp_path / "ct.nii")

        assert (volumes.read_nifti(tmp_path / "ct.nii").array == 2 * 10 - 1024).all()

    def test_trailing_axes_of_one_are_dropped(self, stored):
        assert volumes.read_nifti(stored(numpy.zeros((4, 5, 6, 1, 1), numpy.float32))).array.shape == (4, 5, 6)

    @pytest.mark.parametrize(
        ("array", "affine", "message"),
        [
            (numpy.zeros((4, 4, 4, 3), numpy.float32), numpy.eye(4), "expected 3 axes"),
            (numpy.zeros((4, 4), numpy.float32), numpy.eye(4), "expected 3 axes"),
            (numpy.zeros((4, 4, 4), numpy.complex64), numpy.eye(4), "expected real numbers"),
        ],
    )
    def test_what_is_no_volume_is_refused(self, stored, array, affine, message):
        with pytest.raises(DataError, match=message):
            volumes.read_nifti(stored(array, affine))

    def test_a_singular_affine_is_refused(self, tmp_path):
        image = nibabel.Nifti1Image(numpy.zeros((4, 4, 4), numpy.float32), numpy.eye(4))
        image.header["srow_x"][:] = 0
        image.header["sform_code"] = 2
        (tmp_path / "image.nii").write_bytes(image.header.binaryblock + bytes(4) + bytes(4 * 64))

        with pytest.raises(DataError, match="singular"):
            volumes.read_nifti(tmp_path / "image.nii")

    @pytest.mark.parametrize("length", [0, 10, 200])
    def test_a_file_that_is_cut_off_is_named_in_one_line(self, stored, length):
        path = stored(raw_site.voxels(0)[0])
        path.write_bytes(path.read_bytes()[:length])

        with pytest.raises(DataError) as caught:
            volumes.read_nifti(path)

        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"absent\.nii"):
            volumes.read_nifti(tmp_path / "absent.nii")

    def test_two_affines_that_differ_are_measured(self, tmp_path):
        image = nibabel.Nifti1Image(numpy.zeros((4, 4, 4), numpy.float32), numpy.eye(4))
        shifted = numpy.eye(4)
        shifted[0, 3] = 7
        image.set_sform(shifted, code=1)
        image.set_qform(numpy.eye(4), code=1)
        nibabel.save(image, tmp_path / "both.nii")
        image.set_qform(None, code=0)
        nibabel.save(image, tmp_path / "one.nii")

        assert volumes.affine_conflict_mm(tmp_path / "both.nii") == pytest.approx(7)
        assert volumes.affine_conflict_mm(tmp_path / "one.nii") is None


class TestPng:
    @pytest.mark.parametrize(
        ("array", "channels"),
        [
            (numpy.arange(20, dtype=numpy.uint8).reshape(4, 5), 1),
            (numpy.arange(20, dtype=numpy.uint16).reshape(4, 5) * 3000, 1),
            (numpy.arange(60, dtype=numpy.uint8).reshape(4, 5, 3), 3),
        ],
    )
    def test_grey_and_colour_keep_their_values(self, tmp_path, array, channels):
        PIL.Image.fromarray(array).save(tmp_path / "slice.png")

        read = volumes.read_png(tmp_path / "slice.png")

        assert read.shape == (channels, 4, 5)
        numpy.testing.assert_array_equal(numpy.moveaxis(read, 0, 2).reshape(array.shape), array)

    def test_a_palette_label_is_its_indices(self, tmp_path):
        picture = PIL.Image.new("P", (2, 2))
        picture.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
        picture.putdata([0, 1, 2, 1])
        picture.save(tmp_path / "label.png")

        assert volumes.read_png(tmp_path / "label.png", is_label=True).tolist() == [[[0, 1], [2, 1]]]
        with pytest.raises(DataError, match="got P"):
            volumes.read_png(tmp_path / "label.png")

    def test_a_coloured_label_is_refused(self, tmp_path):
        PIL.Image.fromarray(numpy.zeros((4, 5, 3), numpy.uint8)).save(tmp_path / "label.png")

        with pytest.raises(DataError, match="got RGB"):
            volumes.read_png(tmp_path / "label.png", is_label=True)

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 a JPEG under a false name"])
    def test_what_is_no_png_is_refused(self, tmp_path, content):
        (tmp_path / "slice.png").write_bytes(content)

        with pytest.raises(DataError, match=r"slice\.png"):
            volumes.read_png(tmp_path / "slice.png")

    def test_a_cut_png_is_refused(self, tmp_path):
        noise = numpy.random.default_rng(0).integers(0, 256, (64, 64)).astype(numpy.uint8)
        PIL.Image.fromarray(noise).save(tmp_path / "slice.png")
        (tmp_path / "slice.png").write_bytes((tmp_path / "slice.png").read_bytes()[:2000])

        with pytest.raises(DataError, match=r"slice\.png"):
            volumes.read_png(tmp_path / "slice.png")

    def test_a_slice_is_turned_like_a_volume(self, tmp_path):
        """As radiologists show it, the first row is anterior and the first column the patient's right."""
        PIL.Image.fromarray(numpy.array([[1, 2], [3, 4]], numpy.uint8)).save(tmp_path / "slice.png")

        read = volumes.read_image([tmp_path / "slice.png"])

        assert read.affine is None
        assert read.spacing_zyx is None
        assert read.zyx.tolist() == [[[[4, 3], [2, 1]]]]


class TestChannels:
    def test_channels_are_stacked_in_order(self, stored):
        first = stored(numpy.zeros((4, 5, 6), numpy.int16), name="first.nii")
        second = stored(numpy.ones((4, 5, 6), numpy.int16), name="second.nii")

        assert volumes.read_image([first, second]).channels.mean(axis=(1, 2, 3)).tolist() == [0, 1]

    def test_channels_of_different_shapes_are_refused(self, stored):
        first = stored(numpy.zeros((4, 5, 6), numpy.int16), name="first.nii")
        second = stored(numpy.zeros((4, 5, 7), numpy.int16), name="second.nii")

        with pytest.raises(DataError, match=r"second\.nii: expected the shape of the first"):
            volumes.read_image([first, second])

    def test_channels_of_different_affines_are_refused(self, stored):
        first = stored(numpy.zeros((4, 5, 6), numpy.int16), name="first.nii")
        second = stored(numpy.zeros((4, 5, 6), numpy.int16), numpy.diag([2, 3, 5.1, 1]), name="second.nii")

        with pytest.raises(DataError, match=r"second\.nii: its affine differs"):
            volumes.read_image([first, second])
