"""Laws of the random affine maps."""

import math

import pytest
import torch
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.params import SpatialParams
from fedsilo.segmentation import spatial

ALWAYS = SpatialParams(probability=1.0, rotation_deg=20.0, scale=0.1, translation=0.1)
NEVER = SpatialParams(probability=0.0, rotation_deg=20.0, scale=0.1, translation=0.1)


def batch(*space):
    image = torch.randn(3, 2, *space, generator=seeds.generator(1, "image"))
    return image, (image[:, 0] > 0.5).long()


@pytest.mark.parametrize("space", [(12, 16), (6, 12, 16)])
def test_probability_zero_is_the_identity(space):
    image, label = batch(*space)
    draw = spatial.sample_spatial(3, space=space, params=NEVER, generator=seeds.generator(1, "draw"))

    mapped, moved = spatial.apply_spatial(image, label, draw)

    assert_close(mapped, image, atol=1e-5, rtol=0)
    assert torch.equal(moved, label)


@pytest.mark.parametrize("space", [(12, 16), (6, 12, 16)])
def test_a_batch_equals_its_elements_one_by_one(space):
    image, label = batch(*space)
    draw = spatial.sample_spatial(3, space=space, params=ALWAYS, generator=seeds.generator(1, "draw"))

    mapped, moved = spatial.apply_spatial(image, label, draw)

    for index in range(3):
        one = spatial.SpatialDraw(draw.theta[index : index + 1])
        alone, alone_label = spatial.apply_spatial(image[index : index + 1], label[index : index + 1], one)
        assert_close(mapped[index : index + 1], alone)
        assert torch.equal(moved[index : index + 1], alone_label)


def test_labels_keep_their_values_and_kind():
    image, label = batch(12, 16)
    draw = spatial.sample_spatial(3, space=(12, 16), params=ALWAYS, generator=seeds.generator(1, "draw"))

    _, moved = spatial.apply_spatial(image, label * 4, draw)

    assert moved.dtype == torch.int64
    assert set(moved.unique().tolist()) <= {0, 4}


def test_a_quarter_turn_keeps_a_square_grid_and_its_shape_in_pixels():
    """On a plane that is not square a rotation acts on pixels, not on normalised coordinates."""
    theta = torch.zeros(1, 2, 3)
    height, width = 8, 16
    theta[0, 0, 1] = -math.sin(math.pi / 2) * height / width
    theta[0, 1, 0] = math.sin(math.pi / 2) * width / height
    image = torch.zeros(1, 1, height, width)
    image[0, 0, 4, 8:11] = 1.0

    mapped, _ = spatial.apply_spatial(image, torch.zeros(1, height, width, dtype=torch.int64), spatial.SpatialDraw(theta))

    assert float(mapped.sum()) == pytest.approx(3.0, abs=1e-4)
    assert int((mapped > 0.5).any(dim=3).sum()) == 3


def test_the_same_generator_gives_the_same_draw():
    draws = [spatial.sample_spatial(4, space=(12, 16), params=ALWAYS, generator=seeds.generator(7, "draw")) for _ in range(2)]

    assert torch.equal(draws[0].theta, draws[1].theta)
