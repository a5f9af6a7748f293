"""What GIN must do whatever it draws."""

import inspect
from dataclasses import replace
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fedsilo.segmentation.gin import GinDraw, GinLayer, apply_gin, redraw_flat
from tests.gin_settings import gin_draw, gin_params

SHAPES = [(3, 1, 7, 6), (2, 3, 6, 5), (2, 1, 5, 4, 6)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def only(draw, index):
    """The draw of one sample."""
    layers = draw.layers
    if len(layers[0].weight) > 1:
        layers = tuple(GinLayer(layer.weight[index : index + 1], layer.shift[index : index + 1]) for layer in layers)
    return GinDraw(draw.mix[index : index + 1], layers, draw.remapped[index : index + 1], draw.padding)


def with_kernels(draw, change):
    return replace(draw, layers=tuple(GinLayer(change(layer.weight), layer.shift) for layer in draw.layers))


def kernel_sizes(draw):
    return [layer.weight.shape[-1] for layer in draw.layers]


def draw_of_sizes(shape, sizes, **options):
    return next(draw for seed in count() if kernel_sizes(draw := gin_draw(shape, seed, **options)) == sizes)


def norms(images):
    return images.flatten(1).norm(dim=1)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.sampled_from(SHAPES),
    st.sampled_from(["per_sample", "shared"]),
    st.sampled_from(["zeros", "replicate"]),
)
def test_shape_dtype_and_norm_are_kept(seed, shape, networks, padding):
    images = make_images(shape, seed)

    remapped = apply_gin(images, gin_draw(shape, seed, networks=networks, padding=padding))

    assert remapped.shape == images.shape
    assert remapped.dtype == images.dtype
    assert_close(norms(remapped), norms(images), rtol=1e-4, atol=0)  # 1e-5 / ||m||, and m may nearly cancel


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("networks", ["per_sample", "shared"])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
class TestEveryKind:
    def test_norm_is_kept_to_1e5(self, shape, networks, padding):
        images = make_images(shape)

        remapped = apply_gin(images, gin_draw(shape, networks=networks, padding=padding))

        assert_close(norms(remapped), norms(images), rtol=1e-5, atol=0)

    def test_without_mix_nothing_changes(self, shape, networks, padding):
        images = make_images(shape)
        draw = gin_draw(shape, networks=networks, padding=padding)

        assert_close(apply_gin(images, replace(draw, mix=torch.zeros(len(images)))), images, rtol=1e-5, atol=0)

    def test_an_image_of_zeros_stays_zero(self, shape, networks, padding):
        images = torch.zeros(shape, dtype=torch.float64)

        assert_close(apply_gin(images, gin_draw(shape, networks=networks, padding=padding)), images, rtol=0, atol=0)

    def test_a_batch_is_its_elements_one_by_one(self, shape, networks, padding):
        images = make_images(shape)
        draw = gin_draw(shape, networks=networks, padding=padding)

        one_by_one = torch.cat([apply_gin(images[index : index + 1], only(draw, index)) for index in range(len(images))])

        assert_close(apply_gin(images, draw), one_by_one, rtol=1e-12, atol=1e-12)

    def test_a_sample_does_not_see_the_others(self, shape, networks, padding):
        images = make_images(shape)
        changed = torch.cat([images[:1], 100 * images[1:] + 1])
        draw = gin_draw(shape, networks=networks, padding=padding)

        assert_close(apply_gin(changed, draw)[0], apply_gin(images, draw)[0], rtol=0, atol=0)

    def test_equal_samples_differ_unless_the_network_is_shared(self, shape, networks, padding):
        images = make_images(shape)[:1].repeat(2, *[1] * (len(shape) - 1))
        draw = gin_draw(images.shape, networks=networks, padding=padding)

        first, second = apply_gin(images, replace(draw, mix=torch.full((2,), 0.7)))

        assert torch.allclose(first, second) == (networks == "shared")

    def test_kernels_of_one_voxel_commute_with_any_permutation(self, shape, networks, padding):
        images = make_images(shape)
        draw = draw_of_sizes(shape, [1, 1, 1, 1], networks=networks, padding=padding)
        order = torch.randperm(images[0, 0].numel(), generator=generator())

        permuted = images.flatten(2)[..., order].reshape(shape)
        permuted_after = apply_gin(images, draw).flatten(2)[..., order].reshape(shape)

        assert_close(apply_gin(permuted, draw), permuted_after, rtol=1e-12, atol=1e-12)

    def test_a_kernel_with_only_its_centre_is_a_kernel_of_one(self, shape, networks, padding):
        images = make_images(shape)
        draw = draw_of_sizes(shape, [1, 1, 1, 1], networks=networks, padding=padding)

        widened = with_kernels(draw, lambda weight: torch.nn.functional.pad(weight, [1, 1] * (len(shape) - 2)))

        assert_close(apply_gin(images, widened), apply_gin(images, draw), rtol=1e-12, atol=1e-12)

    def test_a_seed_is_a_result(self, shape, networks, padding):
        images = make_images(shape)

        first = apply_gin(images, gin_draw(shape, networks=networks, padding=padding))
        again = apply_gin(images, gin_draw(shape, networks=networks, padding=padding))
        other = apply_gin(images, gin_draw(shape, seed=1, networks=networks, padding=padding))

        assert torch.equal(first, again)
        assert not torch.allclose(first, other)

    def test_chance_zero_is_the_identity(self, shape, networks, padding):
        images = make_images(shape)

        assert torch.equal(apply_gin(images, gin_draw(shape, networks=networks, probability=0.0, padding=padding)), images)


def test_a_volume_of_one_slice_is_that_slice():
    shape = (2, 1, 6, 5)
    volume_draw = draw_of_sizes((2, 1, 1, 6, 5), [3, 1, 3, 3])
    slice_draw = with_kernels(volume_draw, lambda weight: weight[:, :, :, weight.shape[3] // 2])
    images = make_images(shape)

    assert_close(apply_gin(images[:, :, None], volume_draw)[:, :, 0], apply_gin(images, slice_draw), rtol=1e-12, atol=1e-12)


def test_samples_left_alone_are_bit_identical():
    images = make_images((8, 1, 6, 6), dtype=torch.float32)
    draw = gin_draw(images.shape, probability=0.5)

    remapped = apply_gin(images, draw)

    unchanged = torch.tensor([torch.equal(after, before) for after, before in zip(remapped, images, strict=True)])
    assert 0 < int(draw.remapped.sum()) < len(images)
    assert torch.equal(unchanged, ~draw.remapped)


def test_all_samples_are_remapped_with_chance_one():
    assert bool(gin_draw((64, 1, 4, 4), probability=1.0).remapped.all())


@pytest.mark.parametrize("networks", ["per_sample", "shared"])
def test_numbers_are_drawn_in_the_order_of_the_contract(networks):
    draw = gin_draw((4, 1, 5, 5), seed=3, networks=networks, probability=0.5)
    numbers = generator(3)
    num_networks = 1 if networks == "shared" else 4

    assert torch.equal(draw.mix, torch.rand(4, generator=numbers))
    for layer, (num_in, num_out) in zip(draw.layers, [(1, 2), (2, 2), (2, 2), (2, 1)], strict=True):
        size = [1, 3][int(torch.randint(2, (1,), generator=numbers))]
        weight = torch.randn(num_networks * num_out, num_in, size, size, generator=numbers)
        shift = torch.randn(num_networks * num_out, 1, 1, generator=numbers)
        assert torch.equal(layer.weight.flatten(0, 1), weight)
        assert torch.equal(layer.shift.flatten(), shift.flatten())
    assert torch.equal(draw.remapped, torch.rand(4, generator=numbers) < 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_dtype_is_kept_and_computed_in_float32_at_least(dtype):
    images = (1000 * make_images((1, 1, 24, 24, 24))).to(dtype)  # the squares overflow float16
    draw = gin_draw(images.shape, padding="replicate")

    remapped = apply_gin(images, draw)

    precise = apply_gin(images.double(), draw)
    assert remapped.dtype == dtype
    assert_close(remapped.double(), precise, rtol=max(torch.finfo(dtype).eps, 1e-5), atol=0.1)


def test_autocast_does_not_reach_inside():
    images = make_images((2, 1, 8, 8), dtype=torch.float32)
    draw = gin_draw(images.shape)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = apply_gin(images, draw)

    assert torch.equal(inside, apply_gin(images, draw))


def test_nothing_outside_is_touched():
    images = make_images((2, 1, 6, 6), dtype=torch.float32).requires_grad_()
    before, state = images.detach().clone(), torch.get_rng_state()

    remapped = apply_gin(images, gin_draw(images.shape))

    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not remapped.requires_grad


def test_no_label_can_enter():
    assert list(inspect.signature(apply_gin).parameters) == ["images", "draw"]


@pytest.mark.parametrize("shape", [(3, 1, 6, 6), (2, 2, 6, 6), (2, 1, 6, 6, 6)])
@pytest.mark.parametrize("networks", ["per_sample", "shared"])
def test_a_draw_for_other_images_is_refused(shape, networks):
    with pytest.raises(ValueError, match=r"\(2, 1, 2\) cannot be applied to"):
        apply_gin(make_images(shape), gin_draw((2, 1, 6, 6), networks=networks))


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_sizes_of_each_sample(shape):
    """With sizes a sample, some of a batch keep only the centre of a kernel and others all of it."""
    shape = (64, *shape[1:])
    for layer in gin_draw(shape, kernel_sizes="per_sample").layers:
        kernels = layer.weight.flatten(1, 2).flatten(2)
        center = kernels.shape[2] // 2
        pointwise = kernels.count_nonzero(dim=2).eq(1).all(dim=1)
        assert 16 < int(pointwise.sum()) < 48
        assert kernels[pointwise][:, :, center].all()
        assert kernels[~pointwise].all()


def test_a_sample_of_pointwise_kernels_commutes_with_any_permutation_beside_others_that_do_not():
    shape = (64, 1, 6, 5)
    draw = gin_draw(shape, kernel_sizes="per_sample")
    pointwise = torch.stack([layer.weight.flatten(3)[..., 0].eq(0).flatten(1).all(dim=1) for layer in draw.layers]).all(dim=0)
    images = make_images(shape)
    order = torch.randperm(30, generator=generator())

    permuted = apply_gin(images.flatten(2)[..., order].reshape(shape), draw)
    permuted_after = apply_gin(images, draw).flatten(2)[..., order].reshape(shape)

    same = torch.isclose(permuted, permuted_after, rtol=1e-9, atol=1e-9).flatten(1).all(dim=1)
    assert int(pointwise.sum()) > 0
    assert torch.equal(same, pointwise)


@pytest.mark.parametrize("kernel_sizes", ["per_batch", "per_sample"])
@pytest.mark.parametrize("shape", [(8, 1, 5, 5), (8, 2, 4, 4, 4)])
def test_fan_in_divides_each_kernel_by_the_root_of_what_it_adds_up(kernel_sizes, shape):
    unit, scaled = (gin_draw(shape, kernel_sizes=kernel_sizes, initial_scale=scale) for scale in ("unit", "fan_in"))

    for before, after in zip(unit.layers, scaled.layers, strict=True):
        fan_in = before.weight[:, 0].flatten(1).count_nonzero(dim=1).view(-1, *[1] * (before.weight.ndim - 1))
        assert_close(after.weight, before.weight / fan_in.sqrt())
        assert torch.equal(after.shift, before.shift)


def spread(images):
    """Standard deviation as a share of the root mean square, a sample."""
    values = images.flatten(1)
    return values.std(dim=1, correction=0) / values.square().mean(dim=1).sqrt()


@pytest.mark.parametrize("networks", ["per_sample", "shared"])
@pytest.mark.parametrize("shape", [(256, 1, 8, 8), (64, 1, 4, 5, 4)])
def test_the_guard_leaves_no_flat_image_and_all_others_as_they_were(networks, shape):
    params = gin_params(networks=networks, padding="replicate")
    images = 0.3 * make_images(shape) + 0.5  # far from z-scored: shifts flatten many
    draws = (gin_draw(shape, seed, networks=networks, padding="replicate") for seed in count())
    draw = next(draw for draw in draws if (spread(apply_gin(images, draw)) < 0.05).any())
    flat = spread(apply_gin(images, draw)) < 0.05

    guarded = redraw_flat(images, draw, params=params, generator=generator(1))

    assert (spread(apply_gin(images, guarded)) >= 0.05).all()
    if networks == "per_sample":
        assert_close(apply_gin(images, guarded)[~flat], apply_gin(images, draw)[~flat])


def test_the_guard_gives_up_on_nothing_and_draws_nothing_without_need():
    params, numbers = gin_params(), generator(1)
    constant = torch.ones(4, 1, 6, 6)

    unchanged = redraw_flat(constant, draw := gin_draw(constant.shape), params=params, generator=numbers)

    assert unchanged is draw
    assert torch.equal(numbers.get_state(), generator(1).get_state())
