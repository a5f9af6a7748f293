"""What GIN must do whatever it draws."""

import inspect
from dataclasses import replace
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fedsilo.params import GinParams
from fedsilo.segmentation.gin import GinDraw, GinLayer, apply_gin, sample_gin

SHAPES = [(3, 1, 7, 6), (2, 3, 6, 5), (2, 1, 5, 4, 6)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def make_draw(shape, seed=0, *, mode="per_sample", probability=1.0, padding="zeros"):
    params = GinParams(mode=mode, probability=probability, padding=padding)
    return sample_gin(shape[0], shape[1], spatial_dims=len(shape) - 2, params=params, generator=generator(seed))


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
    return next(draw for seed in count() if kernel_sizes(draw := make_draw(shape, seed, **options)) == sizes)


def norms(images):
    return images.flatten(1).norm(dim=1)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.sampled_from(SHAPES),
    st.sampled_from(["per_sample", "shared"]),
    st.sampled_from(["zeros", "replicate"]),
)
def test_shape_dtype_and_norm_are_kept(seed, shape, mode, padding):
    images = make_images(shape, seed)

    remapped = apply_gin(images, make_draw(shape, seed, mode=mode, padding=padding))

    assert remapped.shape == images.shape
    assert remapped.dtype == images.dtype
    assert_close(norms(remapped), norms(images), rtol=1e-4, atol=0)  # 1e-5 / ||m||, and m may nearly cancel


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["per_sample", "shared"])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
class TestEveryKind:
    def test_norm_is_kept_to_1e5(self, shape, mode, padding):
        images = make_images(shape)

        remapped = apply_gin(images, make_draw(shape, mode=mode, padding=padding))

        assert_close(norms(remapped), norms(images), rtol=1e-5, atol=0)

    def test_without_mix_nothing_changes(self, shape, mode, padding):
        images = make_images(shape)
        draw = make_draw(shape, mode=mode, padding=padding)

        assert_close(apply_gin(images, replace(draw, mix=torch.zeros(len(images)))), images, rtol=1e-5, atol=0)

    def test_an_image_of_zeros_stays_zero(self, shape, mode, padding):
        images = torch.zeros(shape, dtype=torch.float64)

        assert_close(apply_gin(images, make_draw(shape, mode=mode, padding=padding)), images, rtol=0, atol=0)

    def test_a_batch_is_its_elements_one_by_one(self, shape, mode, padding):
        images = make_images(shape)
        draw = make_draw(shape, mode=mode, padding=padding)

        one_by_one = torch.cat([apply_gin(images[index : index + 1], only(draw, index)) for index in range(len(images))])

        assert_close(apply_gin(images, draw), one_by_one, rtol=1e-12, atol=1e-12)

    def test_a_sample_does_not_see_the_others(self, shape, mode, padding):
        images = make_images(shape)
        changed = torch.cat([images[:1], 100 * images[1:] + 1])
        draw = make_draw(shape, mode=mode, padding=padding)

        assert_close(apply_gin(changed, draw)[0], apply_gin(images, draw)[0], rtol=0, atol=0)

    def test_equal_samples_differ_unless_the_network_is_shared(self, shape, mode, padding):
        images = make_images(shape)[:1].repeat(2, *[1] * (len(shape) - 1))
        draw = make_draw(images.shape, mode=mode, padding=padding)

        first, second = apply_gin(images, replace(draw, mix=torch.full((2,), 0.7)))

        assert torch.allclose(first, second) == (mode == "shared")

    def test_kernels_of_one_voxel_commute_with_any_permutation(self, shape, mode, padding):
        images = make_images(shape)
        draw = draw_of_sizes(shape, [1, 1, 1, 1], mode=mode, padding=padding)
        order = torch.randperm(images[0, 0].numel(), generator=generator())

        permuted = images.flatten(2)[..., order].reshape(shape)
        permuted_after = apply_gin(images, draw).flatten(2)[..., order].reshape(shape)

        assert_close(apply_gin(permuted, draw), permuted_after, rtol=1e-12, atol=1e-12)

    def test_a_kernel_with_only_its_centre_is_a_kernel_of_one(self, shape, mode, padding):
        images = make_images(shape)
        draw = draw_of_sizes(shape, [1, 1, 1, 1], mode=mode, padding=padding)

        widened = with_kernels(draw, lambda weight: torch.nn.functional.pad(weight, [1, 1] * (len(shape) - 2)))

        assert_close(apply_gin(images, widened), apply_gin(images, draw), rtol=1e-12, atol=1e-12)

    def test_a_seed_is_a_result(self, shape, mode, padding):
        images = make_images(shape)

        first = apply_gin(images, make_draw(shape, mode=mode, padding=padding))
        again = apply_gin(images, make_draw(shape, mode=mode, padding=padding))
        other = apply_gin(images, make_draw(shape, seed=1, mode=mode, padding=padding))

        assert torch.equal(first, again)
        assert not torch.allclose(first, other)

    def test_chance_zero_and_mode_none_are_the_identity(self, shape, mode, padding):
        images = make_images(shape)

        assert torch.equal(apply_gin(images, make_draw(shape, mode=mode, probability=0.0, padding=padding)), images)
        assert torch.equal(apply_gin(images, make_draw(shape, mode="none", padding=padding)), images)


def test_a_volume_of_one_slice_is_that_slice():
    shape = (2, 1, 6, 5)
    volume_draw = draw_of_sizes((2, 1, 1, 6, 5), [3, 1, 3, 3])
    slice_draw = with_kernels(volume_draw, lambda weight: weight[:, :, :, weight.shape[3] // 2])
    images = make_images(shape)

    assert_close(apply_gin(images[:, :, None], volume_draw)[:, :, 0], apply_gin(images, slice_draw), rtol=1e-12, atol=1e-12)


def test_samples_left_alone_are_bit_identical():
    images = make_images((8, 1, 6, 6), dtype=torch.float32)
    draw = make_draw(images.shape, probability=0.5)

    remapped = apply_gin(images, draw)

    unchanged = torch.tensor([torch.equal(after, before) for after, before in zip(remapped, images, strict=True)])
    assert 0 < int(draw.remapped.sum()) < len(images)
    assert torch.equal(unchanged, ~draw.remapped)


def test_all_samples_are_remapped_with_chance_one():
    assert bool(make_draw((64, 1, 4, 4), probability=1.0).remapped.all())


@pytest.mark.parametrize("mode", ["per_sample", "shared"])
def test_numbers_are_drawn_in_the_order_of_the_contract(mode):
    draw = make_draw((4, 1, 5, 5), seed=3, mode=mode, probability=0.5)
    numbers = generator(3)
    num_networks = 1 if mode == "shared" else 4

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
    draw = make_draw(images.shape, padding="replicate")

    remapped = apply_gin(images, draw)

    precise = apply_gin(images.double(), draw)
    assert remapped.dtype == dtype
    assert_close(remapped.double(), precise, rtol=max(torch.finfo(dtype).eps, 1e-5), atol=0.1)


def test_autocast_does_not_reach_inside():
    images = make_images((2, 1, 8, 8), dtype=torch.float32)
    draw = make_draw(images.shape)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = apply_gin(images, draw)

    assert torch.equal(inside, apply_gin(images, draw))


def test_nothing_outside_is_touched():
    images = make_images((2, 1, 6, 6), dtype=torch.float32).requires_grad_()
    before, state = images.detach().clone(), torch.get_rng_state()

    remapped = apply_gin(images, make_draw(images.shape))

    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not remapped.requires_grad


def test_no_label_can_enter():
    assert list(inspect.signature(apply_gin).parameters) == ["images", "draw"]


@pytest.mark.parametrize("shape", [(3, 1, 6, 6), (2, 2, 6, 6), (2, 1, 6, 6, 6)])
@pytest.mark.parametrize("mode", ["per_sample", "shared"])
def test_a_draw_for_other_images_is_refused(shape, mode):
    with pytest.raises(ValueError, match=r"\(2, 1, 2\) cannot be applied to"):
        apply_gin(make_images(shape), make_draw((2, 1, 6, 6), mode=mode))
