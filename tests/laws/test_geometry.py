"""Laws of geometry: there and back is the identity, whatever the stored orientation."""

import nibabel
import numpy
import pytest
import SimpleITK
import torch

from fedsilo import params as params_module
from fedsilo.cohort import grids, preprocess, volumes
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


def one_hot(values, num_classes=2):
    return torch.nn.functional.one_hot(values.long(), num_classes).movedim(-1, 0).float()


OBLIQUE = [("RAS", 20), ("LPS", 35), ("PSL", 25), ("IRP", 44)]


@pytest.mark.parametrize(("axcodes", "tilt"), OBLIQUE)
def test_an_oblique_case_is_brought_to_the_axes_of_the_world_and_back(repository, axcodes, tilt):
    matrix = affine(axcodes, spacing=(2.0, 2.0, 2.5), tilt_deg=tilt)
    label = ball((36, 40, 30), (16, 22, 14), 9)
    image = Image(100 + 50 * label[None].astype(float), matrix)
    z, y, x = image.spacing_zyx
    case = preprocess.prepare(image, label, unit="au", params=settings(repository, spacing_zyx_mm=[z, y, x]))

    assert case.recipe.box is not None
    assert dice(preprocess.to_native(one_hot(case.label), case.recipe).numpy() > 0, label > 0) > 0.97
    assert dice(case.image[0].numpy() > case.image.mean().item() + 1, case.label.numpy() > 0) > 0.9


@pytest.mark.parametrize(("axcodes", "tilt"), OBLIQUE)
def test_distances_in_the_box_are_those_in_the_world(repository, axcodes, tilt):
    """Two balls: what lies between them along S, A, R mm is the same before and after."""
    matrix = affine(axcodes, spacing=(2.0, 3.0, 2.5), tilt_deg=tilt)
    centres = numpy.array([(9, 10, 8), (26, 29, 21)])
    label = ball((36, 40, 30), centres[0], 5) + 2 * ball((36, 40, 30), centres[1], 5)
    image = Image(label[None].astype(float), matrix)
    case = preprocess.prepare(image, label, unit="hu", params=settings(repository, spacing_zyx_mm=list(image.spacing_zyx)))

    found = [numpy.argwhere(case.label.numpy() == value).mean(axis=0) for value in (1, 2)]

    between = (found[1] - found[0]) * case.recipe.target_spacing_zyx
    world = (matrix[:3, :3] @ (centres[1] - centres[0]))[::-1]
    assert numpy.allclose(between, world, atol=0.6)


def test_the_box_holds_the_whole_case_and_little_else(repository):
    matrix = affine("LPS", spacing=(2.0, 2.0, 2.0), tilt_deg=30)
    box = grids.box_around(volumes.world_of_zyx(matrix, (20, 30, 10)), (10, 30, 20), (2.0, 2.0, 2.0))

    filled = box.fill(numpy.ones((10, 30, 20)), 0.0)

    cosine, sine = numpy.cos(numpy.pi / 6), numpy.sin(numpy.pi / 6)
    assert box.shape == (round(0.5 + 10 * cosine + 30 * sine), round(0.5 + 30 * cosine + 10 * sine), 20)
    assert filled.sum() == pytest.approx(10 * 30 * 20, rel=0.01)


def test_up_to_fifteen_degrees_nothing_is_resampled_and_above_outside_is_the_minimum(repository):
    generator = numpy.random.default_rng(1)
    voxels = generator.uniform(-900, 200, (1, 12, 14, 16))
    label = numpy.zeros((12, 14, 16), numpy.uint8)
    straight, tilted = (
        preprocess.prepare(
            Image(voxels, affine(spacing=(2.0, 2.0, 2.0), tilt_deg=tilt)),
            label,
            unit="hu",
            params=settings(repository, spacing_zyx_mm=[2.0, 2.0, 2.0]),
        )
        for tilt in (14.9, 15.1)
    )

    assert straight.recipe.box is None
    assert straight.image.shape == (1, 16, 14, 12)
    assert tilted.image.shape[1:] == tilted.recipe.box.shape
    assert tilted.image[0, 0, 0, 0] == tilted.image.min()


@pytest.mark.parametrize(("axcodes", "tilt"), [*CASES, ("LPS", 25)])
@pytest.mark.parametrize("spacing", [[None, 3.0, 2.0], [None, 2.0, 1.5]])
def test_what_is_cropped_away_comes_back_as_background(repository, axcodes, tilt, spacing):
    label = numpy.zeros((40, 44, 30), numpy.uint8)
    label[12:26, 14:30, 9:20] = 1
    voxels = numpy.zeros((1, 40, 44, 30))
    voxels[:, 10:30, 8:33, 5:22] = numpy.random.default_rng(1).uniform(1, 9, (1, 20, 25, 17))
    image = Image(voxels, affine(axcodes, tilt_deg=tilt))
    case = preprocess.prepare(image, label, unit="au", params=settings(repository, spacing_zyx_mm=spacing, crop="nonzero"))
    whole = preprocess.prepare(image, label, unit="au", params=settings(repository, spacing_zyx_mm=spacing))

    back = preprocess.to_native(one_hot(case.label), case.recipe)

    assert case.image.numel() < 0.6 * whole.image.numel()
    assert back.shape == label.shape
    assert dice(back.numpy() > 0, label > 0) > 0.97


def test_a_crop_is_exact_and_its_intensities_are_those_of_the_block(repository):
    label = numpy.zeros((9, 8, 7), numpy.uint8)
    label[3, 4, 2] = 1
    voxels = numpy.zeros((2, 9, 8, 7))
    voxels[0, 2:7, 3:6, 2:5] = numpy.random.default_rng(1).uniform(1, 9, (5, 3, 3))
    voxels[1, 2:8, 3:6, 2:5] = 1.0  # what one channel shows, all keep
    image = Image(voxels, affine(spacing=(2.0, 2.0, 2.0)))
    kept = {"spacing_zyx_mm": [2.0, 2.0, 2.0], "crop": "nonzero"}

    case = preprocess.prepare(image, label, unit="au", params=settings(repository, **kept))

    assert case.image.shape == (2, 3, 3, 6)
    assert case.recipe.crop == (2, 5, 3, 6, 2, 8)
    assert case.image[0].mean().item() == pytest.approx(0, abs=1e-5)
    assert torch.equal(preprocess.to_native(one_hot(case.label), case.recipe), torch.from_numpy(label))


def test_neither_hounsfield_units_nor_pixels_nor_an_empty_image_are_cropped(repository):
    voxels = numpy.zeros((1, 9, 8, 7))
    voxels[0, 2:7, 3:6, 2:5] = 40.0
    label = numpy.zeros((9, 8, 7), numpy.uint8)
    kept = settings(repository, spacing_zyx_mm=[2.0, 2.0, 2.0], crop="nonzero")
    matrix = affine(spacing=(2.0, 2.0, 2.0))

    assert preprocess.prepare(Image(voxels, matrix), label, unit="hu", params=kept).image.shape == (1, 7, 8, 9)
    assert preprocess.prepare(Image(voxels * 0, matrix), label, unit="au", params=kept).image.shape == (1, 7, 8, 9)
    flat = preprocess.prepare(Image(voxels[:, :1] + [[[[0.0] * 6 + [1.0]]]], None), label[:1], unit="windowed_8bit", params=kept)
    assert flat.recipe.crop == (0, 1, 0, 8, 0, 7)


@pytest.mark.parametrize("axcodes", ["RAS", "SPL"])
def test_slices_far_apart_are_copied_not_blended(repository, axcodes):
    generator = numpy.random.default_rng(1)
    spacing = [2.0, 2.0, 2.0]
    spacing["RAS".index("S")] = 8.0
    matrix = affine(axcodes, spacing=spacing)
    voxels = generator.uniform(1, 9, (1, 10, 10, 10))
    label = generator.integers(0, 2, (10, 10, 10)).astype(numpy.uint8)
    params = settings(repository, spacing_zyx_mm=[2.5, 2.0, 2.0], mr_clip_percentiles=[0, 100])
    image = Image(voxels, matrix)

    case = preprocess.prepare(image, label, unit="au", params=params)

    scored = torch.from_numpy(preprocess.normalise(image.zyx[0], unit="au", params=params))
    assert case.image.shape == (1, 32, 10, 10)
    assert case.recipe.coarse == 0
    for index, place in enumerate(case.image[0]):
        assert torch.equal(place, scored[int((index + 0.5) * 10 / 32)])
    assert torch.equal(preprocess.to_native(one_hot(case.label), case.recipe), torch.from_numpy(label))


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
