"""Laws of the unlabelled losses and of the second view."""

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.outside_params import ObjectiveParams
from fedsilo.routing import objectives

SHAPES = [(2, 3, 8, 8), (2, 3, 8, 12), (1, 3, 4, 8, 8), (1, 2, 5, 6, 10)]
WEIGHTS = ObjectiveParams(consistency=1.0, shape=0.5, entropy=0.25)


@pytest.fixture(params=SHAPES, ids=str)
def pair(request):
    generator = seeds.generator(0, "objectives", str(request.param))
    first, second = torch.randn((2, *request.param), generator=generator, dtype=torch.float64)
    return first, second


def axes(logits):
    return logits.ndim - 2


def draws(shape, num_draws=64):
    generator = seeds.generator(0, "views", str(shape))
    return [objectives.sample_view(shape, noise_sd=0.0, generator=generator) for _ in range(num_draws)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inverse_undoes_every_view(shape):
    images = torch.randn(shape, generator=seeds.generator(0, "images"))

    for view in draws(shape):
        turned = objectives.apply_view(images, view)

        assert turned.shape == images.shape
        assert torch.equal(objectives.invert_view(turned, view), images)


def test_views_are_all_symmetries_of_a_square_and_only_half_of_an_oblong():
    square = torch.arange(16.0).reshape(1, 1, 4, 4)
    oblong = torch.arange(24.0).reshape(1, 1, 4, 6)

    def distinct(images):
        return {tuple(objectives.apply_view(images, view).flatten().tolist()) for view in draws(images.shape)}

    assert len(distinct(square)) == 8
    assert len(distinct(oblong)) == 4


def test_slices_of_a_volume_keep_their_place():
    images = torch.arange(3.0).reshape(1, 1, 3, 1, 1).expand(1, 1, 3, 4, 4)

    for view in draws(images.shape):
        assert torch.equal(objectives.apply_view(images, view), images)


def test_noise_has_the_given_spread_and_comes_before_the_turn():
    view = objectives.sample_view((4, 1, 64, 64), noise_sd=0.5, generator=seeds.generator(0, "noise"))

    noise = objectives.invert_view(objectives.apply_view(torch.zeros(4, 1, 64, 64), view), view)

    assert torch.equal(noise, view.noise)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)


def test_two_draws_differ_and_two_generators_of_a_name_agree():
    first, again = (seeds.generator(7, "views") for _ in range(2))
    one = objectives.sample_view((1, 1, 8, 8), noise_sd=0.5, generator=first)
    two = objectives.sample_view((1, 1, 8, 8), noise_sd=0.5, generator=first)
    same = objectives.sample_view((1, 1, 8, 8), noise_sd=0.5, generator=again)

    assert torch.equal(one.noise, same.noise)
    assert (one.flipped, one.quarter_turns) == (same.flipped, same.quarter_turns)
    assert not torch.equal(one.noise, two.noise)


def test_losses_are_unchanged_when_the_batch_is_repeated(pair):
    logits, view_logits = pair
    radius = (2,) * axes(logits)

    once = objectives.combine(logits, view_logits, weights=WEIGHTS, radius=radius)
    thrice = objectives.combine(
        logits.repeat(3, *[1] * (axes(logits) + 1)),
        view_logits.repeat(3, *[1] * (axes(logits) + 1)),
        weights=WEIGHTS,
        radius=radius,
    )

    for name in ("consistency", "shape", "entropy", "total"):
        assert_close(getattr(once, name), getattr(thrice, name))


def test_total_is_the_weighted_sum(pair):
    logits, view_logits = pair

    terms = objectives.combine(logits, view_logits, weights=WEIGHTS, radius=(1,) * axes(logits))

    assert_close(terms.total, 1.0 * terms.consistency + 0.5 * terms.shape + 0.25 * terms.entropy)


def test_consistency_is_zero_on_itself_and_symmetric(pair):
    logits, view_logits = pair

    assert float(objectives.consistency(logits, logits)) == 0
    assert_close(objectives.consistency(logits, view_logits), objectives.consistency(view_logits, logits))


def test_consistency_of_opposite_certainties_is_two_over_classes():
    certain = torch.tensor([100.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1, 1)

    assert float(objectives.consistency(certain, certain.roll(1, dims=1))) == pytest.approx(2 / 4)


def test_consistency_has_a_gradient_through_both_branches(pair):
    logits, view_logits = (tensor.clone().requires_grad_() for tensor in pair)

    objectives.consistency(logits, view_logits).backward()

    assert logits.grad.abs().sum() > 0
    assert view_logits.grad.abs().sum() > 0


def test_entropy_lies_between_certain_and_uniform(pair):
    logits, _ = pair

    assert 0 < float(objectives.entropy(logits)) < 1
    assert float(objectives.entropy(torch.zeros_like(logits))) == pytest.approx(1)
    assert float(objectives.entropy(1e6 * logits)) == pytest.approx(0, abs=1e-6)


def test_entropy_of_two_even_classes_among_four_is_a_half():
    logits = torch.tensor([0.0, 0.0, -200.0, -200.0]).reshape(1, 4, 1, 1)

    assert float(objectives.entropy(logits)) == pytest.approx(math.log(2) / math.log(4))


def test_entropy_of_certainty_has_a_finite_gradient():
    logits = torch.tensor([500.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()

    objectives.entropy(logits).backward()

    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("radius", [1, 3, 10])
def test_shape_by_single_axes_equals_the_full_window(pair, radius):
    logits, _ = pair
    logits = logits.clone().requires_grad_()
    pool = functional.max_pool2d if axes(logits) == 2 else functional.max_pool3d
    organs = logits.softmax(dim=1)[:, 1:]

    def full(values):
        return pool(values, 2 * radius + 1, stride=1, padding=radius)

    expected = (full(organs) + full(-organs)).mean()
    found = objectives.shape(logits, radius=(radius,) * axes(logits))

    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected)))


def test_shape_window_may_differ_by_axis():
    logits = torch.zeros(1, 2, 5, 5)
    logits[0, 1, 2, 2] = 100.0

    # p is .5 but for one voxel of 1: the window reaches it from 1 x 5 and 3 x 3 voxels
    assert float(objectives.shape(logits, radius=(0, 2))) == pytest.approx(0.5 * 5 / 25)
    assert float(objectives.shape(logits, radius=(1, 1))) == pytest.approx(0.5 * 9 / 25)


@pytest.mark.parametrize("space", [(9, 9), (4, 6, 6)], ids=str)
def test_shape_is_zero_on_a_constant(space):
    logits = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, *[1] * len(space)).expand(2, 3, *space)

    assert float(objectives.shape(logits, radius=(10,) * len(space))) == pytest.approx(0, abs=1e-7)


def test_losses_do_not_depend_on_the_view_of_the_plane(pair):
    logits, _ = pair

    for view in draws(logits.shape, num_draws=8):
        turned = torch.rot90(logits.flip(view.flipped), view.quarter_turns, (-2, -1))
        assert_close(objectives.shape(turned, radius=(2,) * axes(logits)), objectives.shape(logits, radius=(2,) * axes(logits)))
        assert_close(objectives.entropy(turned), objectives.entropy(logits))
