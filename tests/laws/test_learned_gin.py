"""Laws of the learned remapping: exact inverse, latent kept, nothing but the foreground changed."""

from dataclasses import replace

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.segmentation import learned_gin
from fedsilo.segmentation.learned_gin import HistFlow, Look


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def flow(*, dtype=torch.float64, strength=0.5):
    """A flow away from the identity."""
    made = HistFlow(generator=generator())
    numbers = generator(1)
    with torch.no_grad():
        for network in (*made.splines, *made.affines):
            network[-1].weight.normal_(std=strength, generator=numbers)
            network[-1].bias.normal_(std=strength, generator=numbers)
    return made.to(dtype)


def look(num_samples=3, num_values=200, *, dtype=torch.float64, seed=2):
    numbers = generator(seed)
    values = torch.randn(num_samples, num_values, generator=numbers, dtype=dtype) * 1.2
    style = torch.randn(num_samples, learned_gin.NUM_STYLES, generator=numbers, dtype=dtype)
    shown = torch.ones_like(values, dtype=torch.bool)
    return Look(values, style, learned_gin.quantiles(values, shown))


def code(num_samples=3, *, dtype=torch.float64, seed=3):
    made = learned_gin.image_codes(torch.ones(num_samples, dtype=torch.long)).to(dtype)
    made[:, 2:] = torch.randn(num_samples, learned_gin.NUM_STYLES, generator=generator(seed), dtype=dtype)
    return made


def body(num_samples=6, seed=0, size=40):
    """Images with air around two tissues, z-scored."""
    numbers = generator(seed)
    images = torch.full((num_samples, 1, size, size), -100.0)
    images[..., 6:-6, 6:-6] = 40.0
    images[..., 14:-14, 10:20] = 120.0
    images[..., 10:-10, 26:-8] = 220.0
    images[..., 6:-6, 6:-6] += 8 * torch.randn(num_samples, 1, size - 12, size - 12, generator=numbers)
    mean, sd = images.mean(dim=(1, 2, 3), keepdim=True), images.std(dim=(1, 2, 3), keepdim=True)
    return (images - mean) / sd


class TestFlow:
    def test_has_8_couplings_and_20060_parameters(self):
        made = HistFlow(generator=generator())

        assert len(made.splines) + len(made.affines) == 8
        assert sum(parameter.numel() for parameter in made.parameters()) == 20_060

    def test_starts_as_the_identity(self):
        given = look()

        latent, log_slope, log_scale = HistFlow(generator=generator()).double().encode(given, code())

        assert_close(latent.values, given.values)
        assert_close(latent.style, given.style)
        assert not log_slope.abs().max() > 1e-9
        assert not log_scale.any()

    @pytest.mark.parametrize(
        ("dtype", "error", "strength"),
        [(torch.float64, 1e-9, 0.1), (torch.float64, 1e-9, 0.5), (torch.float64, 1e-9, 1.0), (torch.float32, 1e-4, 0.3)],
    )
    def test_the_inverse_is_exact(self, dtype, error, strength):
        given, made = look(dtype=dtype), flow(dtype=dtype, strength=strength)

        latent, _, _ = made.encode(given, code(dtype=dtype))
        back = made.decode(latent, code(dtype=dtype))

        for name in ("values", "style", "quantiles"):
            assert_close(getattr(back, name), getattr(given, name), rtol=0, atol=error)
        assert not torch.allclose(latent.values, given.values, atol=1e-2)

    def test_the_determinant_is_that_of_the_jacobian(self):
        given, made, condition = look(1, 5), flow(), code(1)

        def mapped(joint):
            latent, _, _ = made.encode(Look(joint[None, :5], joint[None, 21:], joint[None, 5:21]), condition)
            return torch.cat([latent.values[0], latent.quantiles[0], latent.style[0]])

        joint = torch.cat([given.values[0], given.quantiles[0], given.style[0]])
        jacobian = torch.autograd.functional.jacobian(mapped, joint)
        _, log_slope, log_scale = made.encode(given, condition)
        _, quantile_slope, _ = made.encode(replace(given, values=given.quantiles), condition)

        assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_slope.sum() + quantile_slope.sum() + log_scale.sum())

    def test_quantiles_go_where_their_intensities_go(self):
        """Splines rise: a quantile that is one of the intensities stays that intensity's."""
        given = look()
        given = replace(given, quantiles=given.values[:, :16].sort(dim=1).values)

        latent, _, _ = flow().encode(given, code())

        assert_close(latent.quantiles, latent.values[:, :16].sort(dim=1).values)

    @pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
    def test_nothing_leaves_the_bounds_whatever_the_code(self, scale):
        given = replace(look(), values=torch.linspace(-5, 5, 200, dtype=torch.float64).expand(3, -1))

        decoded = flow(strength=1.0).decode(given, scale * code())

        assert decoded.values.abs().max() <= 5 + 1e-9


class TestMove:
    def test_keeps_the_normal_distribution(self):
        values = torch.randn(40, 2000, generator=generator(), dtype=torch.float64)
        move = learned_gin.sample_move(40, generator=generator(1))

        for before, after in zip(values, learned_gin.apply_move(values, move), strict=True):
            statistic = scipy.stats.kstest(after.numpy(), "norm").statistic
            assert statistic <= scipy.stats.kstest(before.numpy(), "norm").statistic + 0.03

    def test_is_a_bijection_of_the_unit_interval(self):
        """The image of an even grid is an even grid again: no piece is lost or covered twice."""
        num_points = 5000
        shares = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
        move = learned_gin.sample_move(64, generator=generator(2))

        moved = torch.special.ndtr(learned_gin.apply_move(torch.special.ndtri(shares).expand(64, -1), move))

        gaps = moved.sort(dim=1).values.diff(dim=1)
        assert gaps.max() < 4 / num_points
        assert_close(moved.mean(dim=1), torch.full((64,), 0.5, dtype=torch.float64), rtol=0, atol=1e-3)

    def test_a_quarter_stays_and_some_turn_contrasts_over(self):
        move = learned_gin.sample_move(400, generator=generator(3))
        line = torch.linspace(-2, 2, 101, dtype=torch.float64).expand(400, -1)

        moved = learned_gin.apply_move(line, move)

        stays = (moved == line).all(dim=1)
        falls = torch.tensor([torch.corrcoef(torch.stack([a, b]))[0, 1] < 0 for a, b in zip(line, moved, strict=True)])
        assert 0.15 < stays.float().mean() < 0.45
        assert torch.equal(stays & move.identity, move.identity)
        assert 0.05 < falls.float().mean() < 0.6

    @pytest.mark.parametrize("pieces", [2, 3, 4])
    def test_every_number_of_pieces_is_drawn(self, pieces):
        lengths = learned_gin.sample_move(300, generator=generator(4)).edges.diff(dim=1)

        assert ((lengths > 0).sum(dim=1) == pieces).float().mean() > 0.2


class TestRemapping:
    def remapped(self, images, *, probability=1.0, seed=0, strength=0.3):
        draw = learned_gin.sample_learned(len(images), probability=probability, generator=generator(seed))
        codes = learned_gin.image_codes(torch.ones(len(images), dtype=torch.long))
        return learned_gin.apply_learned(images, flow(dtype=torch.float32, strength=strength), draw, codes=codes), draw

    def test_shape_dtype_and_norm_are_kept(self):
        images = body()

        after, _ = self.remapped(images)

        assert (after.shape, after.dtype) == (images.shape, images.dtype)
        assert_close(after.flatten(1).norm(dim=1), images.flatten(1).norm(dim=1), rtol=1e-4, atol=0)
        assert not torch.allclose(after, images, atol=0.1)

    def test_the_background_stays_one_grey_value(self):
        images = body()

        after, _ = self.remapped(images)

        air = ~learned_gin.foreground(images.flatten(1))
        for before, changed, where in zip(images.flatten(1), after.flatten(1), air, strict=True):
            ratio = changed[where] / before[where]
            assert_close(ratio, ratio.median().expand_as(ratio), rtol=1e-4, atol=0)

    def test_some_contrasts_turn_over_and_equal_intensities_stay_equal(self):
        images = body(64)
        images = (images * 20).round() / 20

        after, _ = self.remapped(images)

        turned = []
        for before, changed in zip(images.flatten(1), after.flatten(1), strict=True):
            for value in before.unique()[1::10]:
                found = changed[before == value]
                assert_close(found, found[0].expand_as(found), rtol=0, atol=1e-5)
            turned.append(float(torch.corrcoef(torch.stack([before, changed]))[0, 1]) < 0)
        assert sum(turned) > 0.05 * len(turned)

    def test_samples_left_alone_are_bit_identical_and_a_seed_is_a_result(self):
        images = body(32)

        after, draw = self.remapped(images, probability=0.5)
        again, _ = self.remapped(images, probability=0.5)

        same = (after == images).flatten(1).all(dim=1)
        assert torch.equal(after, again)
        assert torch.equal(same, ~draw.remapped)

    def test_the_table_is_the_map(self):
        images = body(4)
        draw = learned_gin.sample_learned(4, probability=1.0, generator=generator(5))
        codes = learned_gin.image_codes(torch.zeros(4, dtype=torch.long)).double()
        made = flow(strength=0.3)
        values = images.flatten(1).double()
        described = learned_gin.quantiles(values, learned_gin.foreground(values))

        knots, mapped, latents = learned_gin.tabulate(made, described, draw, codes=codes)
        read = learned_gin.curves.interpolate(values.clamp(-5, 5), knots, mapped)

        latent, _, _ = made.encode(Look(values.clamp(-5, 5), draw.style_in.double(), described), codes)
        moved = Look(learned_gin.apply_move(latent.values, draw.move), draw.style_out.double(), latent.quantiles)
        exact = made.decode(moved, draw.code_out.double()).values
        assert (read - exact).abs().quantile(0.999) < 1e-2
        assert_close(latents, latent.quantiles)
        assert_close(
            learned_gin.decoded_quantiles(made, latents, draw),
            made.decode(replace(moved, values=described), draw.code_out.double()).quantiles,
        )

    def test_an_image_without_foreground_stays(self):
        flat = torch.zeros(2, 1, 8, 8)

        assert torch.equal(self.remapped(flat)[0], flat)

    def test_nothing_outside_is_touched(self):
        images = body(2)
        before, state = images.clone(), torch.get_rng_state()

        self.remapped(images)

        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)


def test_likelihood_training_beats_the_identity_on_images_it_has_not_seen():
    def batch(seed):
        values = body(8, seed=seed).flatten(1)
        shown = learned_gin.foreground(values)
        picked = torch.stack([row[mask][:400] for row, mask in zip(values, shown, strict=True)])
        noise = 0.03 * torch.rand(picked.shape, generator=generator(seed)) - 0.015
        style = torch.randn(8, learned_gin.NUM_STYLES, generator=generator(seed))
        return Look((picked + noise).clamp(-5, 5), style, learned_gin.quantiles(values, shown))

    condition = learned_gin.image_codes(torch.zeros(8, dtype=torch.long))
    made = HistFlow(generator=seeds.generator(1, "flow"))
    identity = learned_gin.likelihood_loss(made, batch(1000), condition).item()
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3, betas=(0.5, 0.99))
    for step in range(120):
        optimizer.zero_grad()
        learned_gin.likelihood_loss(made, batch(step), condition).backward()
        optimizer.step()

    assert learned_gin.likelihood_loss(made, batch(1000), condition).item() < identity - 0.2
