"""Fingerprints: copies are found whatever their grid, window or mirror image; other subjects are not taken for copies."""

import itertools

import numpy
import pytest
from scipy import ndimage

from fedsilo import params
from fedsilo.cohort import hashes, volumes
from fedsilo.cohort.phantoms import cohort as phantoms

LIMIT = 0.07


@pytest.fixture(scope="module")
def subjects(repository):
    """Volumes (1, z, y, x) of three subjects under two scanners."""
    settings = params.load(repository / "params.yaml").phantoms
    made = {}
    for site, subject in itertools.product(("ct-a", "mr-b"), (1, 2, 3)):
        image, _ = phantoms.make_case(site, subject, phantoms.SCANNERS[site], settings, seed=3)
        made[site, subject] = volumes.Image(image.array[None], image.affine).zyx.astype(numpy.float64)
    return made


def zoomed(image, factor):
    return ndimage.zoom(image, (1, 1, factor, factor), order=1, grid_mode=True, mode="nearest")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image[..., ::-1],
        lambda image: image[:, :, ::-1, ::-1],
        lambda image: zoomed(image, 1.5),
        lambda image: zoomed(image, 0.75)[..., ::-1],
        lambda image: 3 * image + 40,
        lambda image: numpy.round(255 * (image - image.min()) / (image.max() - image.min())),
        lambda image: image + numpy.random.default_rng(1).normal(0, 0.02 * image.std(), image.shape),
    ],
    ids=["same", "mirrored", "turned", "finer", "coarser and mirrored", "scaled", "eight bits", "noise"],
)
def test_a_copy_looks_alike(subjects, change):
    for image in subjects.values():
        assert hashes.differing_share(hashes.near_hash(image), hashes.near_hash(change(image))) <= LIMIT


def test_other_subjects_do_not(subjects):
    near = {str(key): hashes.near_hash(image) for key, image in subjects.items()}

    assert hashes.alike(near, LIMIT) == []
    assert hashes.alike(near | {"copy": near["('ct-a', 1)"]}, LIMIT) == [("('ct-a', 1)", "copy")]


def test_slices_and_volumes_have_hashes_of_their_own_length(subjects):
    image = subjects["ct-a", 1]

    volume, piece = hashes.near_hash(image), hashes.near_hash(image[:, 10:11])

    assert (len(volume), len(piece)) == (256, 128)
    assert hashes.differing_share(volume, piece) == 1


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 7, 1), (2, 3, 5, 4), (1, 40, 3, 90)])
def test_any_shape_has_a_hash(shape):
    image = numpy.random.default_rng(0).normal(size=shape)

    assert hashes.near_hash(image) == hashes.near_hash(image)
    assert hashes.near_hash(numpy.zeros(shape)) == hashes.near_hash(numpy.full(shape, 5.0))


def test_voxels_that_are_no_numbers_do_no_harm(subjects):
    image = subjects["ct-a", 1].copy()
    image[0, 0, 0, :2] = (numpy.nan, numpy.inf)

    assert hashes.differing_share(hashes.near_hash(image), hashes.near_hash(subjects["ct-a", 1])) <= LIMIT


WHOLE = (-1e9, 1e9)


def test_cells_are_means_that_keep_the_sum():
    values = numpy.random.default_rng(2).normal(size=(5, 33, 70))

    cells = hashes.shrink(values, WHOLE)

    assert cells.shape == (16, 16, 16)
    assert cells.mean() == pytest.approx(values.mean())
    assert hashes.shrink(numpy.repeat(numpy.repeat(cells, 3, 1), 2, 2), WHOLE) == pytest.approx(cells)


def test_a_key_hides_and_compares():
    near = "0123456789abcdef" * 8

    mine, other, foreign = (
        hashes.keyed_bands(near, b"k"),
        hashes.keyed_bands("f" + near[1:], b"k"),
        hashes.keyed_bands(near, b"x"),
    )

    assert len(mine) == len(near) // 4
    assert sum(one == two for one, two in zip(mine, other, strict=True)) == len(mine) - 1
    assert set(mine).isdisjoint(foreign)
    assert len(set(mine)) == len(mine), "equal pieces in other places look different"
    assert hashes.keyed("a", b"k") != hashes.keyed("a", b"x")
