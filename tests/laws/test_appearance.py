"""What every change of appearance must do, and what sets the comparators of GIN apart."""

from dataclasses import replace

import numpy
import pytest
import torch
from torch.testing import assert_close

from fedsilo.segmentation import appearance, bezier, ipa, losses, randconv
from fedsilo.segmentation.bezier import BezierDraw
from fedsilo.segmentation.randconv import RandConvDraw
from tests.gin_settings import appearance_params

METHODS = ("gin", "gin_ipa", "photometric", "bezier", "randconv", "none")
SHAPES = [(6, 1, 12, 10), (6, 2, 8, 8), (6, 1, 6, 7, 8)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def changed(images, method, probability=1.0, seed=0):
    params = appearance_params(method, probability, padding="replicate")
    return appearance.apply(images, appearance.sample(images, params=params, generator=generator(seed)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
class TestEveryMethod:
    def test_shape_and_dtype_are_kept_a_view(self, method, shape):
        images = make_images(shape)

        views = changed(images, method)

        assert views.dtype == images.dtype
        assert views.shape == (appearance.num_views(appearance_params(method)) * shape[0], *shape[1:])
        assert torch.isfinite(views).all()

    def test_chance_zero_is_the_identity(self, method, shape):
        images = make_images(shape)

        for view in changed(images, method, probability=0.0).split(shape[0]):
            assert_close(view, images)

    def test_chance_one_changes_every_sample_unless_there_is_no_method(self, method, shape):
        images = make_images(shape)

        for view in changed(images, method).split(shape[0]):
            assert (view == images).flatten(1).all(dim=1).tolist() == [method == "none"] * shape[0]

    def test_a_seed_is_a_result(self, method, shape):
        images = make_images(shape)

        assert torch.equal(changed(images, method), changed(images, method))
        assert torch.equal(changed(images, method, seed=1), changed(images, method)) == (method == "none")

    def test_nothing_outside_is_touched(self, method, shape):
        images = make_images(shape)
        before, state, numpy_state = images.clone(), torch.get_rng_state(), numpy.random.get_state()[1].copy()

        changed(images, method)

        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)
        assert numpy.array_equal(numpy.random.get_state()[1], numpy_state)

    def test_autocast_does_not_reach_inside(self, method, shape):
        images = make_images(shape)

        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = changed(images, method)

        assert torch.equal(inside, changed(images, method))


@pytest.mark.parametrize("method", ["gin", "photometric", "bezier", "randconv"])
def test_samples_left_alone_are_bit_identical(method):
    images = make_images((64, 1, 8, 8))

    after = changed(images, method, probability=0.5)

    same = (after == images).flatten(1).all(dim=1)
    assert 16 < int(same.sum()) < 48


@pytest.mark.parametrize("method", ["gin", "photometric", "bezier", "randconv"])
def test_a_sample_does_not_see_the_others(method):
    images = make_images((4, 1, 8, 8))
    others = torch.cat([images[:1], 10 * images[1:] - 3])

    assert torch.equal(changed(others, method)[0], changed(images, method)[0])


@pytest.mark.parametrize("method", ["gin", "gin_ipa", "photometric", "bezier", "randconv"])
def test_a_draw_for_another_number_of_samples_is_refused(method):
    images = make_images((4, 1, 8, 8))
    draw = appearance.sample(images, params=appearance_params(method), generator=generator())

    with pytest.raises(ValueError, match=r"cannot be applied to"):
        appearance.apply(images[:3], draw)


class TestBezier:
    @staticmethod
    def draw(num_samples, points, *, falling=False):
        every = torch.ones(num_samples, dtype=torch.bool)
        return BezierDraw(torch.tensor(points).expand(num_samples, 2, 2), every & falling, every)

    def test_control_points_on_the_diagonal_change_nothing(self):
        images = make_images((3, 1, 9, 9))

        assert_close(bezier.apply_bezier(images, self.draw(3, [[1 / 3, 1 / 3], [2 / 3, 2 / 3]])), images)

    def test_a_falling_diagonal_turns_an_image_over(self):
        images = make_images((3, 1, 9, 9))
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)

        turned = bezier.apply_bezier(images, self.draw(3, [[1 / 3, 1 / 3], [2 / 3, 2 / 3]], falling=True))

        assert_close(turned, low + high - images)

    def test_the_curve_is_read_where_x_says(self):
        """At t = 1/2 a curve passes (3 p1 + 3 p2 + 1) / 8."""
        (x1, y1), (x2, y2) = (0.9, 0.1), (0.7, 0.2)
        x, y = (3 * x1 + 3 * x2 + 1) / 8, (3 * y1 + 3 * y2 + 1) / 8
        images = torch.tensor([0.0, x, 1.0]).view(1, 1, 1, 3)

        read = bezier.apply_bezier(images, self.draw(1, [[x1, y1], [x2, y2]]))

        assert_close(read.flatten(), torch.tensor([0.0, y, 1.0]), rtol=0, atol=1e-4)

    def test_range_is_kept_and_a_constant_stays(self):
        images = make_images((16, 1, 9, 9))
        draw = bezier.sample_bezier(16, probability=1.0, generator=generator())

        after = bezier.apply_bezier(images, draw)

        assert (after.flatten(1).amin(dim=1) >= images.flatten(1).amin(dim=1) - 1e-5).all()
        assert (after.flatten(1).amax(dim=1) <= images.flatten(1).amax(dim=1) + 1e-5).all()
        assert_close(bezier.apply_bezier(torch.full_like(images, 3.0), draw), torch.full_like(images, 3.0))

    def test_commutes_with_any_permutation_of_voxels(self):
        images = make_images((4, 1, 6, 6))
        order = torch.randperm(36, generator=generator())
        draw = bezier.sample_bezier(4, probability=1.0, generator=generator())

        permuted = bezier.apply_bezier(images.flatten(2)[..., order].view(images.shape), draw)

        assert torch.equal(permuted.flatten(2), bezier.apply_bezier(images, draw).flatten(2)[..., order])


class TestRandConv:
    def test_without_mix_nothing_changes(self):
        images = make_images((3, 2, 7, 7))
        draw = randconv.sample_randconv(3, 2, spatial_dims=2, probability=1.0, generator=generator())

        assert_close(randconv.apply_randconv(images, replace(draw, mix=torch.zeros(3))), images)

    @pytest.mark.parametrize("edge", [1, 3, 5, 7])
    def test_a_sum_is_a_sum(self, edge):
        """A kernel of ones gives the sum of a window."""
        images = make_images((1, 1, 9, 9))
        ones = RandConvDraw(torch.ones(1, 1, 1, edge, edge), torch.ones(1), torch.ones(1, dtype=torch.bool))

        after = randconv.apply_randconv(images, ones)

        margin = edge // 2
        assert_close(after[0, 0, 4, 4], images[0, 0, 4 - margin : 5 + margin, 4 - margin : 5 + margin].sum())

    def test_every_edge_is_drawn_and_keeps_the_variance_of_noise(self):
        noise = torch.randn(64, 1, 24, 24, generator=generator())
        by_edge = {}
        for seed in range(40):
            draw = randconv.sample_randconv(64, 1, spatial_dims=2, probability=1.0, generator=generator(seed))
            convolved = randconv.apply_randconv(noise, replace(draw, mix=torch.ones(64)))
            by_edge.setdefault(draw.weight.shape[-1], []).append(convolved[..., 4:-4, 4:-4].var())

        assert sorted(by_edge) == [1, 3, 5, 7]
        for variances in by_edge.values():
            assert torch.stack(variances).mean() == pytest.approx(1, abs=0.25)


class TestIpa:
    @pytest.mark.parametrize("space", [(48, 40), (10, 24, 20)])
    def test_the_field_is_smooth_and_reaches_from_0_to_1(self, space):
        lattice = torch.randn(5, *[6] * len(space), generator=generator())

        field = ipa.blend(lattice, space)

        assert field.shape == (5, *space)
        assert_close(field.flatten(1).amin(dim=1), torch.zeros(5))
        assert_close(field.flatten(1).amax(dim=1), torch.ones(5))
        for axis in range(1, field.ndim):
            step = field.diff(dim=axis).abs().max()
            assert step < 5 / space[axis - 1]

    def test_splines_add_up_to_one_and_keep_straight_lines(self):
        weights = ipa._spline_weights(37, like=torch.zeros(1, dtype=torch.float64))
        line = torch.arange(6, dtype=torch.float64)

        assert_close(weights.sum(dim=1), torch.ones(37, dtype=torch.float64))
        assert_close((weights @ line).diff(), torch.full((36,), 4 / 37, dtype=torch.float64))

    def test_the_first_two_views_exchange_what_they_are_made_of(self):
        images = make_images((4, 1, 16, 16))
        draw = ipa.sample_ipa(images, params=appearance_params("gin_ipa").gin, probability=1.0, generator=generator())
        first, second, third = ipa.apply_ipa(images, draw).split(4)

        versions = [appearance.apply(images, version) for version in draw.versions]

        assert_close(first + second, versions[0] + versions[1])
        assert torch.equal(third, versions[2])
        assert not torch.allclose(first, versions[0])


class TestDisagreement:
    def test_equal_views_agree(self):
        logits = torch.randn(2, 3, 5, 5, generator=generator())

        assert_close(losses.disagreement(torch.stack([logits] * 3)), torch.tensor(0.0), rtol=0, atol=1e-7)

    def test_is_the_mean_of_the_divergences_from_the_mean(self):
        views = torch.randn(3, 2, 4, 6, 5, generator=generator())
        mean = views.softmax(dim=2).mean(dim=0)

        expected = torch.stack(
            [torch.nn.functional.kl_div(view.log_softmax(dim=1), mean, reduction="none").mean() for view in views]
        ).mean()

        assert_close(losses.disagreement(views), expected)
        assert losses.disagreement(views) > 0
        assert_close(losses.disagreement(views.flip(0)), expected)

    def test_certain_predictions_give_no_nan(self):
        views = torch.tensor([[[200.0, -200.0]], [[-200.0, 200.0]]])[..., None, None].requires_grad_()

        losses.disagreement(views).backward()

        assert torch.isfinite(views.grad).all()
