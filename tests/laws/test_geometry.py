"""Laws of geometry: there and back is the identity, whatever the stored orientation."""

import nibabel
import numpy
import pytest
import SimpleITK
import torch

from fedsilo import params as params_module
from fedsilo.cohort import preprocess, volumes
from fedsilo.cohort.volumes import Image


def affine(axcodes="RAS", *, spacing=(2.0, 3.0, 5.0), tilt_deg=0.0):
    """Index (i, j, k) of an array stored as ``axcodes`` to RAS+ mm."""
    canonical = numpy.diag([*spacing, 1.0])
    canonical[:3, 3] = (-20, 11, 7)
    array = numpy.zeros((6, 5, 4))
    change = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axcodes)
    )
    stored = nibabel.Nifti1Image(array, canonical).as_reoriented(change).affine
    angle = numpy.radians(tilt_deg)
    turn = numpy.eye(4)
    turn[1:3, 1:3] = [[numpy.cos(angle), -numpy.sin(angle)], [numpy.sin(angle), numpy.cos(angle)]]
    return turn @ stored


CASES = [("RAS", 0), ("LPS", 0), ("LAS", 0), ("RSA", 0), ("SPL", 0), ("LPS", 12)]


def settings(repository, **changes):
    return params_module.load(repository / "params.yaml", {"prepare": changes}).prepare


@pytest.mark.parametrize(("axcodes", "tilt"), CASES)
def test_reorienting_and_back_is_the_identity(axcodes, tilt):
    array = numpy.arange(6 * 5 * 4).reshape(6, 5, 4)
    orientation = volumes.orientation(affine(axcodes, tilt_deg=tilt))

    assert (orientation.undo(orientation.apply(array)) == array).all()


@pytest.mark.parametrize(("axcodes", "tilt"), CASES)
def test_canonical_axes_point_to_superior_anterior_and_right(axcodes, tilt):
    """A voxel's world coordinate along S, A, R grows with its canonical index."""
    matrix = affine(axcodes, tilt_deg=tilt)
    shape = (6, 5, 4)
    world = numpy.stack([(matrix @ numpy.array([*index, 1.0]))[:3] for index in numpy.ndindex(*shape)]).reshape(*shape, 3)
    for canonical_axis, world_axis in ((0, 2), (1, 1), (2, 0)):
        turned = volumes.orientation(matrix).apply(world[..., world_axis])
        assert (numpy.diff(turned, axis=canonical_axis) > 0).all()


@pytest.mark.parametrize(("axcodes", "tilt"), CASES)
def test_without_resampling_a_label_comes_back_as_it_was(tmp_path, repository, axcodes, tilt):
    generator = numpy.random.default_rng(1)
    label = generator.integers(0, 3, (6, 5, 4)).astype(numpy.uint8)
    image = Image(generator.normal(size=(1, 6, 5, 4)), affine(axcodes, tilt_deg=tilt))
    case = preprocess.prepare(image, label, unit="au", params=settings(repository, spacing_zyx_mm=[None, 3.0, 2.0]))
    preprocess.save(case, tmp_path / "case.safetensors")

    back = preprocess.load(tmp_path / "case.safetensors")

    probs = torch.nn.functional.one_hot(back.label.long(), 3).movedim(-1, 0).float()
    assert torch.equal(preprocess.to_native(probs, back.recipe), torch.from_numpy(label))
    assert torch.equal(back.native_label, torch.from_numpy(label))
    assert back.recipe == case.recipe


def ball(shape, centre, radius):
    grid = numpy.stack(numpy.meshgrid(*(numpy.arange(edge) for edge in shape), indexing="ij"), -1)
    return (((grid - centre) ** 2).sum(-1) < radius**2).astype(numpy.uint8)


def dice(first, second):
    return 2 * int((first & second).sum()) / int(first.sum() + second.sum())


def test_a_finer_grid_and_back_keeps_a_label_and_one_hot_beats_nearest(repository):
    label = ball((40, 40, 6), (18, 22, 3), 11)
    image = Image(label[None].astype(float), affine(spacing=(2.0, 2.0, 5.0)))
    fine = preprocess.prepare(image, label, unit="au", params=settings(repository, spacing_zyx_mm=[None, 1.3, 1.3]))
    coarse = preprocess.prepare(image, label, unit="au", params=settings(repository, spacing_zyx_mm=[None, 3.0, 3.0]))

    def back(case, values):
        probs = torch.nn.functional.one_hot(values.long(), 2).movedim(-1, 0).float()
        return dice(preprocess.to_native(probs, case.recipe).numpy() > 0, label > 0)

    nearest = torch.nn.functional.interpolate(
        torch.from_numpy(label.transpose(2, 1, 0)[None].astype(numpy.float32)), size=coarse.label.shape[1:], mode="nearest"
    )[0]
    assert back(fine, fine.label) > 0.97
    assert back(coarse, coarse.label) > back(coarse, nearest)


def test_simpleitk_agrees_on_world_points(tmp_path):
    """SimpleITK is LPS, we are RAS: the first two coordinates change their sign."""
    matrix = affine("LPS", tilt_deg=12)
    path = volumes.write_nifti(volumes.Volume(numpy.zeros((6, 5, 4), numpy.int16), matrix), tmp_path / "a.nii.gz")
    image = SimpleITK.ReadImage(str(path))

    for index in ((0, 0, 0), (5, 0, 0), (2, 4, 3)):
        ours = (volumes.read_nifti(path).affine @ numpy.array([*index, 1.0]))[:3]
        assert numpy.allclose(ours * [-1, -1, 1], image.TransformIndexToPhysicalPoint(index), atol=1e-4)


def test_a_png_is_resized_and_comes_back(repository):
    label = ball((1, 60, 50), (0, 30, 20), 12)
    case = preprocess.prepare(
        Image(label[None].astype(float), None), label, unit="windowed_8bit", params=settings(repository, size_yx_px=[32, 32])
    )

    assert case.image.shape == (1, 1, 32, 32)
    probs = torch.nn.functional.one_hot(case.label.long(), 2).movedim(-1, 0).float()
    assert dice(preprocess.to_native(probs, case.recipe).numpy() > 0, label > 0) > 0.9
    assert preprocess.native_spacing(case.recipe) is None


def test_every_volume_is_z_scored_and_ct_is_clipped(repository):
    generator = numpy.random.default_rng(1)
    ct = generator.uniform(-1000, 1000, (3, 8, 8))
    prepare = settings(repository)

    scored = preprocess.normalise(ct, unit="hu", params=prepare)

    assert abs(float(scored.mean())) < 1e-5
    assert float(scored.std()) == pytest.approx(1, abs=1e-5)
    assert numpy.isclose(scored, scored.min()).sum() == (ct <= -125).sum()
    assert not preprocess.normalise(numpy.zeros((2, 4, 4)), unit="au", params=prepare).any()
