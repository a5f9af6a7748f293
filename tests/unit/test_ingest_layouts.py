"""Every layout there and back: voxels, world coordinates, names of organs and patients are those of the source."""

import functools
import json

import nibabel
import numpy
import pytest
import SimpleITK

from fedsilo.errors import DataError
from fedsilo.ingest import recognise, tree
from tests.unit import ingested, raw_source

LPS = numpy.diag([-1.0, -1.0, 1.0, 1.0])
OBLIQUE = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.2, 0.1, -0.3) @ numpy.diag([-2.0, 3.0, 5.0]), [20, -15, 7])


def write_itk(path, array):
    """Write by SimpleITK what AFFINE means in LPS."""
    lps = LPS @ raw_source.AFFINE
    image = SimpleITK.GetImageFromArray(array.transpose())
    edges = numpy.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(edges.tolist())
    image.SetDirection((lps[:3, :3] / edges).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetMetaData("PatientName", raw_source.NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), True)
    return path


class TestNnunet:
    def test_voxels_affine_patients_and_organs(self, tmp_path):
        made = ingested.run(raw_source.nnunet(tmp_path / "in"), tmp_path)

        image, label = made.image(f"canary_{raw_source.DATE}_1")
        assert numpy.array_equal(image.channels[0], raw_source.voxels(1)[0])
        assert image.channels.dtype == numpy.int16
        assert label.dtype == numpy.uint8
        assert numpy.array_equal(label, raw_source.voxels(1)[1])
        assert numpy.array_equal(image.affine, raw_source.AFFINE)
        assert made.site.labels == raw_source.LABELS
        assert len({case.patient for case in made.site.cases}) == 2  # cases 0 and 1 are of one patient

    def test_two_channels(self, tmp_path):
        made = ingested.run(raw_source.nnunet(tmp_path / "in", 2, channels=("T1", "T2")), tmp_path)

        assert json.loads((made.folder / "dataset.json").read_text())["channel_names"] == {"0": "T1", "1": "T2"}
        assert all(len(case.image_paths) == 2 for case in made.site.cases)

    @pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])
    def test_formats_of_itk_are_turned_to_ras(self, tmp_path, ending):
        made = ingested.run(raw_source.nnunet(tmp_path / "in", 2, ending=ending, write=write_itk), tmp_path)

        image, label = made.image(f"canary_{raw_source.DATE}_0")
        assert numpy.array_equal(image.channels[0], raw_source.voxels(0)[0])
        assert numpy.array_equal(label, raw_source.voxels(0)[1])
        numpy.testing.assert_allclose(image.affine, raw_source.AFFINE, atol=1e-6)

    @pytest.mark.parametrize("affine", [raw_source.AFFINE, LPS @ raw_source.AFFINE, raw_source.AFFINE[:, [1, 2, 0, 3]], OBLIQUE])
    def test_a_voxel_at_a_known_point_of_the_world_stays_there(self, tmp_path, affine):
        write = functools.partial(raw_source.nifti, affine=affine)
        made = ingested.run(raw_source.nnunet(tmp_path / "in", 2, write=write), tmp_path)

        image, label = made.image(f"canary_{raw_source.DATE}_0")
        points = nibabel.affines.apply_affine(image.affine, numpy.argwhere(label == 2))
        expected = nibabel.affines.apply_affine(affine, numpy.argwhere(raw_source.voxels(0)[1] == 2))
        numpy.testing.assert_allclose(points, expected, atol=1e-5)

    def test_float64_becomes_float32_and_a_slope_gives_whole_numbers_again(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in", 2)
        images = sorted((source / "imagesTr").iterdir())
        array = raw_source.voxels(0)[0]
        raw_source.nifti(images[0], array / 3)
        scaled = nibabel.Nifti1Image(array, raw_source.AFFINE)
        scaled.header.set_slope_inter(2, -1024)
        nibabel.save(scaled, images[1])  # nibabel rescales on the way: stored = (array + 1024) / 2
        expected = numpy.asanyarray(nibabel.load(images[1]).dataobj)

        made = ingested.run(source, tmp_path)

        fractions, _ = made.image(f"canary_{raw_source.DATE}_0")
        whole, _ = made.image(f"canary_{raw_source.DATE}_1")
        assert fractions.channels.dtype == numpy.float32
        assert numpy.array_equal(fractions.channels[0], (array / 3).astype(numpy.float32))
        assert whole.channels.dtype == numpy.int16
        assert numpy.array_equal(whole.channels[0], expected)


class TestSlices:
    @pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
    def test_grey(self, tmp_path, ending):
        source = raw_source.nnunet(tmp_path / "in", ending=ending, write=raw_source.picture, make=raw_source.slices)
        made = ingested.run(source, tmp_path)

        image, label = made.image(f"canary_{raw_source.DATE}_2")
        assert image.affine is None
        assert numpy.array_equal(image.channels[0, 0], raw_source.slices(2)[0])
        assert numpy.array_equal(label[0], raw_source.slices(2)[1])

    @pytest.mark.parametrize("ending", [".png", ".tif"])
    def test_grey_of_16_bits(self, tmp_path, ending):
        def make(seed):
            image, label = raw_source.slices(seed)
            return image.astype(numpy.uint16) * 257, label

        made = ingested.run(raw_source.nnunet(tmp_path / "in", ending=ending, write=raw_source.picture, make=make), tmp_path)

        image, _ = made.image(f"canary_{raw_source.DATE}_0")
        assert numpy.array_equal(image.channels[0, 0], make(0)[0])

    def test_colours_become_three_files(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in", 2, ending=".png", write=raw_source.picture, make=raw_source.slices)
        colours = numpy.random.default_rng(5).integers(0, 256, (40, 36, 3)).astype(numpy.uint8)
        for path in (source / "imagesTr").iterdir():
            raw_source.picture(path, colours)
        names = {"0": "red", "1": "green", "2": "blue"}
        raw_source.describe(source, channel_names=names, labels=raw_source.LABELS, file_ending=".png")

        made = ingested.run(source, tmp_path)

        image, _ = made.image(f"canary_{raw_source.DATE}_0")
        assert numpy.array_equal(image.channels[:, 0], numpy.moveaxis(colours, 2, 0))
        assert len(list((made.folder / "imagesTr").iterdir())) == 6

    def test_a_palette_label_is_read_by_index_and_a_mask_of_255_as_declared(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in", 2, ending=".png", write=raw_source.picture, make=raw_source.slices)
        masks = sorted((source / "labelsTr").iterdir())
        mask = (raw_source.slices(0)[1] == 1).astype(numpy.uint8)
        raw_source.picture(masks[0], mask, palette=[0, 0, 0, 200, 10, 10])
        raw_source.picture(masks[1], mask * 255)
        raw_source.describe(
            source, channel_names={"0": "CT"}, labels={"background": 0, "liver": 1, "spleen": 255}, file_ending=".png"
        )

        made = ingested.run(source, tmp_path)

        assert numpy.array_equal(made.image(f"canary_{raw_source.DATE}_0")[1][0], mask)
        assert numpy.array_equal(made.image(f"canary_{raw_source.DATE}_1")[1][0], mask * 255)
        assert made.site.labels["spleen"] == 255


class TestDecathlon:
    @pytest.mark.parametrize("num_channels", [1, 2])
    def test_the_last_axis_is_channels(self, tmp_path, num_channels):
        made = ingested.run(raw_source.msd(tmp_path / "in", num_channels=num_channels), tmp_path)

        image, label = made.image(f"canary_{raw_source.NUMBER}_1")
        assert made.site.labels == raw_source.LABELS
        assert len(image.channels) == num_channels
        assert numpy.array_equal(image.channels[-1], raw_source.voxels(10 + num_channels - 1)[0])
        assert numpy.array_equal(label, raw_source.voxels(1)[1])
        assert numpy.array_equal(image.affine, raw_source.AFFINE)
        assert len(made.site.cases) == 2


class TestBids:
    @pytest.mark.parametrize("session", ["", "ses-19610203/"])
    def test_entities_join_image_and_label(self, tmp_path, session):
        made = ingested.run(raw_source.bids(tmp_path / "in", session=session), tmp_path)

        image, label = made.image("sub-CANARYb" + (f"_{session[:-1]}" if session else ""))
        assert numpy.array_equal(image.channels[0], raw_source.voxels(1)[0])
        assert numpy.array_equal(label, raw_source.voxels(1)[1])
        assert made.site.labels == raw_source.LABELS
        assert {row["source"] for row in made.identities() if row["kind"] == "patient"} == {"sub-CANARYa", "sub-CANARYb"}

    def test_one_sequence_is_chosen_not_guessed(self, tmp_path):
        source = raw_source.bids(tmp_path / "in", session="")
        raw_source.nifti(source / "sub-CANARYa/anat/sub-CANARYa_T1w.nii.gz", raw_source.voxels(7)[0])

        with pytest.raises(DataError, match="chosen by --sequence; there are 2"):
            ingested.run(source, tmp_path)
        assert len(ingested.run(source, tmp_path, sequence="T2w").site.cases) == 2


class TestNpz:
    def test_slices_by_their_names(self, tmp_path):
        made = ingested.run(raw_source.npz(tmp_path / "in"), tmp_path, labels=[("liver", 1)])

        image, label = made.image(f"CT_s{raw_source.NUMBER}_slice_0")
        stored = numpy.load(tmp_path / "in" / f"CT_s{raw_source.NUMBER}_slice_0.npz")
        assert numpy.array_equal(image.channels[0, 0], stored["image"])
        assert numpy.array_equal(label[0], stored["mask"])
        assert len({case.patient for case in made.site.cases}) == 1

    def test_fractions_are_scaled_alike_in_all_slices_and_said(self, tmp_path):
        source = raw_source.npz(tmp_path / "in", 1)
        image = numpy.linspace(0, 0.5, 40 * 36).reshape(40, 36)
        numpy.savez(source / "CT_s1_slice_9.npz", image=image, mask=numpy.zeros((40, 36), numpy.uint8))

        made = ingested.run(source, tmp_path, labels=[("liver", 1)])

        stored, _ = made.image("CT_s1_slice_9")
        numpy.testing.assert_allclose(stored.channels[0, 0] / 65535, image, atol=1 / 131070)
        assert any("rescaled" in message for message in made.counts)


class TestRecognition:
    def test_none_says_what_was_looked_for(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(DataError, match=r"no layout that is known, among 1 files; looked for nnunet: .*bids: .*dicom: "):
            recognise.recognise(tree.listing(tmp_path))

    def test_several_say_what_matched(self, tmp_path):
        raw_source.bids(raw_source.nnunet(tmp_path))
        with pytest.raises(DataError, match=r"matches 2 layouts, choose one by --layout.*found nnunet: .*; bids: "):
            recognise.recognise(tree.listing(tmp_path))

    def test_pickles_are_refused_with_the_way_out_and_not_opened(self, tmp_path):
        (tmp_path / "CT_s0586_slice_1.npy").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        with pytest.raises(DataError, match=r"1 pickled .npy files are not opened.*savez_compressed"):
            ingested.run(tmp_path, tmp_path / "work")

    @pytest.mark.parametrize(
        ("make", "name"), [(raw_source.nnunet, "nnunet"), (raw_source.msd, "msd"), (raw_source.bids, "bids")]
    )
    def test_each_is_itself(self, tmp_path, make, name):
        assert recognise.recognise(tree.listing(make(tmp_path))).name == name
