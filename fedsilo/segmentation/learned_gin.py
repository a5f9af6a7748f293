"""Learned GIN: an invertible network that maps a site's intensities to a shared latent, and back under another look.

The network (``HistFlow``) is trained at one site by likelihood and never leaves it. Between the way in and the way out, the
latent is moved by a random bijection that keeps its distribution: tissues change places on the grey scale and none is lost.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from zuko.transforms import MonotonicRQSTransform

from fedsilo.segmentation import curves, samples

BOUND = 5.0
"""Intensities and latents live in [-5, 5]; beyond, every spline is the identity."""

NUM_BINS = 16
NUM_STYLES = 4
NUM_MODALITIES = 2
CODE_SIZE = NUM_MODALITIES + NUM_STYLES
LEVELS = tuple(0.03 + 0.94 * level / 15 for level in range(16))
"""Levels of the quantiles that describe an image."""

NUM_STAGES = 4
HIDDEN = 32
STYLE_GAIN = 2.0
STYLE_WEIGHT = 0.1
FOREGROUND = 0.04
"""Voxels above this share of an image's range are foreground; air and the clipped floor of CT are not."""

MAX_PIECES = 4
IDENTITY, REFLECTED = 0.25, 0.25
EDGE = 1e-4
NUM_KNOTS = 1024
STEP = 1e-5
"""Of u, to either side of a cut: where a table holds the values before and after a jump."""

DIVERSITY = 0.6


@dataclass(frozen=True, eq=False)
class Look:
    """Intensities and what describes the image they are from; in a site's scale, or in the latent.

    Attributes:
        values: Intensities.
        style: Four numbers a sample, standard normal on both sides.
        quantiles: Of the image's foreground, at ``LEVELS``.
    """

    values: Float[Tensor, "b v"]
    style: Float[Tensor, "b s"]
    quantiles: Float[Tensor, "b q"]


class HistFlow(nn.Module):
    """Conditional normalizing flow of 8 couplings over an image's intensities.

    Four times: a monotone rational-quadratic spline of the intensities, set by style and code; then an affine map of the
    style, set by quantiles and code. Quantiles go through the same splines, with which they commute. Every coupling is
    triangular in (intensities, quantiles, style), so the log-determinant is a sum, and the inverse is exact. It starts as the
    identity.

    Args:
        generator: Source of the initial weights.

    Reference:
        Splines: Durkan et al., Neural spline flows, NeurIPS 2019 (zuko). The construction is this project's, docs/method.md.
    """

    def __init__(self, *, generator: Generator) -> None:
        """Build the two perceptrons of each stage."""
        super().__init__()
        self.splines = nn.ModuleList(_perceptron(NUM_STYLES + CODE_SIZE, 3 * NUM_BINS - 1, generator) for _ in range(NUM_STAGES))
        self.affines = nn.ModuleList(_perceptron(len(LEVELS) + CODE_SIZE, 2 * NUM_STYLES, generator) for _ in range(NUM_STAGES))

    def encode(self, look: Look, code: Float[Tensor, "b c"]) -> tuple[Look, Float[Tensor, "b v"], Float[Tensor, " b"]]:
        """Map intensities to the latent.

        Args:
            look: In the site's scale.
            code: One-hot modality (or a blend of both) and four style numbers.

        Returns:
            The latent look, the log-derivative at each intensity, and the log-determinant of the style's map.
        """
        num_values, style = look.values.shape[1], look.style
        joint = torch.cat([look.values, look.quantiles], dim=1)
        log_slope, log_scale = torch.zeros_like(look.values), joint.new_zeros(len(joint))
        for spline, affine in zip(self.splines, self.affines, strict=True):
            curve = _spline(spline(torch.cat([style, code], dim=1)))
            joint, slope = curve.call_and_ladj(joint)
            log_slope = log_slope + slope[:, :num_values]
            gain, shift = affine(torch.cat([joint[:, num_values:], code], dim=1)).chunk(2, dim=1)
            gain = STYLE_GAIN * torch.tanh(gain / 2)
            style = style * gain.exp() + shift
            log_scale = log_scale + gain.sum(dim=1)
        return Look(joint[:, :num_values], style, joint[:, num_values:]), log_slope, log_scale

    def decode(self, look: Look, code: Float[Tensor, "b c"]) -> Look:
        """Map a latent look to intensities under a code; the exact inverse of `encode` for the same code."""
        num_values, style = look.values.shape[1], look.style
        joint = torch.cat([look.values, look.quantiles], dim=1)
        for spline, affine in zip(reversed(self.splines), reversed(self.affines), strict=True):
            gain, shift = affine(torch.cat([joint[:, num_values:], code], dim=1)).chunk(2, dim=1)
            style = (style - shift) * torch.exp(-STYLE_GAIN * torch.tanh(gain / 2))
            joint = _spline(spline(torch.cat([style, code], dim=1))).inv(joint)
        return Look(joint[:, :num_values], style, joint[:, num_values:])


@dataclass(frozen=True, eq=False)
class Move:
    """A random bijection of the latent that keeps N(0, 1).

    Attributes:
        edges: Where [0, 1] is cut in each sample, from 0 to 1; pieces of no length stand at the end.
        order: Which piece stands at each place afterwards.
        reflected: Which pieces are turned around.
        identity: Samples whose latent stays.
    """

    edges: Float[Tensor, "b edges"]
    order: Int[Tensor, "b pieces"]
    reflected: Bool[Tensor, "b pieces"]
    identity: Bool[Tensor, " b"]


def sample_move(num_samples: int, *, generator: Generator) -> Move:
    """Draw how each sample's latent is cut, permuted and reflected.

    A quarter of the samples stay; the others are cut into 2 to 4 pieces at uniform places in (0.05, 0.95).
    """
    identity = torch.rand(num_samples, generator=generator) < IDENTITY
    num_pieces = torch.randint(2, MAX_PIECES + 1, (num_samples,), generator=generator)
    cuts = 0.05 + 0.9 * torch.rand(num_samples, MAX_PIECES - 1, generator=generator)
    cuts[torch.arange(MAX_PIECES - 1) >= num_pieces[:, None] - 1] = 1.0
    edges = torch.cat([torch.zeros(num_samples, 1), cuts.sort(dim=1).values, torch.ones(num_samples, 1)], dim=1)
    order = torch.rand(num_samples, MAX_PIECES, generator=generator).argsort(dim=1)
    reflected = torch.rand(num_samples, MAX_PIECES, generator=generator) < REFLECTED
    return Move(edges, order, reflected, identity)


def apply_move(values: Float[Tensor, "b v"], move: Move) -> Float[Tensor, "b v"]:
    """Move latents: ``u = Phi(z)``, pieces of [0, 1] permuted and reflected, ``z' = Phi^-1(u')``.

    u is clamped to [1e-4, 1 - 1e-4] on both sides; samples of ``move.identity`` stay as they are.
    """
    edges = move.edges.to(values)
    lengths = edges.diff(dim=1)
    order = move.order.to(values.device)
    starts = torch.zeros_like(lengths).scatter(1, order, lengths.gather(1, order).cumsum(dim=1) - lengths.gather(1, order))
    share = torch.special.ndtr(values).clamp(EDGE, 1 - EDGE)
    piece = (torch.searchsorted(edges[:, 1:-1].contiguous(), share, right=True)).clamp(max=MAX_PIECES - 1)
    inside = share - edges.gather(1, piece)
    turned = torch.where(move.reflected.to(values.device).gather(1, piece), lengths.gather(1, piece) - inside, inside)
    moved = torch.special.ndtri((starts.gather(1, piece) + turned).clamp(EDGE, 1 - EDGE))
    return torch.where(move.identity.to(values.device)[:, None], values, moved)


@dataclass(frozen=True, eq=False)
class LearnedDraw:
    """All that is random in one call.

    Attributes:
        style_in: Style of the way in.
        style_out: Latent style of the way out.
        code_out: Blend of modalities and style code of the way out.
        move: Of the latent in between.
        mix: Share of the remapped image in each sample, in [0, 1).
        remapped: Which samples are remapped at all; the others pass unchanged.
    """

    style_in: Float[Tensor, "b s"]
    style_out: Float[Tensor, "b s"]
    code_out: Float[Tensor, "b c"]
    move: Move
    mix: Float[Tensor, " b"]
    remapped: Bool[Tensor, " b"]


def sample_learned(num_samples: int, *, probability: float, generator: Generator) -> LearnedDraw:
    """Draw styles, codes, moves and blends of one batch.

    Args:
        num_samples: Images of the batch.
        probability: Chance that a sample is remapped.
        generator: On the CPU; advanced by the draw.
    """
    style_in, style_out, code = (torch.randn(num_samples, NUM_STYLES, generator=generator) for _ in range(3))
    blend = torch.rand(num_samples, 1, generator=generator)
    move = sample_move(num_samples, generator=generator)
    mix = torch.rand(num_samples, generator=generator)
    remapped = torch.rand(num_samples, generator=generator) < probability
    return LearnedDraw(style_in, style_out, torch.cat([blend, 1 - blend, code], dim=1), move, mix, remapped)


def apply_learned(
    images: Float[Tensor, "b 1 *space"], flow: HistFlow, draw: LearnedDraw, *, codes: Float[Tensor, "b c"]
) -> Float[Tensor, "b 1 *space"]:
    """Give images another look; background and geometry stay.

    Each image's map is one curve: tabulated at 1024 knots and on both sides of every jump, then looked up. It is blended and
    renormalised as GIN's: ``m = (1 - mix) x + mix g(x)``, ``m ||x|| / (||m|| + 1e-5)``.

    Args:
        images: Z-scored, one channel; not modified.
        flow: The site's.
        draw: Of `sample_learned`, for as many samples.
        codes: Of the images (`image_codes`).

    Returns:
        Images of the same shape, dtype and device; samples that the draw leaves alone are bit-identical.

    Raises:
        ValueError: The draw was made for another number of samples.
    """
    samples.check_count(images, draw.remapped)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        original = images.to(torch.promote_types(images.dtype, torch.float32)).flatten(1)
        shown = foreground(original)
        knots, mapped, _ = tabulate(flow, quantiles(original, shown), draw, codes=codes.to(original))
        remapped = torch.where(shown, curves.interpolate(original.clamp(-BOUND, BOUND), knots, mapped), original)
        blended = samples.blend(original, remapped, draw.mix.to(original))
        return samples.choose(draw.remapped, samples.keep_norm(blended, original).view(images.shape), images)


def remap(
    flow: HistFlow, images: Float[Tensor, "b 1 *space"], draw: LearnedDraw, *, codes: Float[Tensor, "b c"]
) -> tuple[Float[Tensor, "b 1 *space"], Float[Tensor, "b q"]]:
    """Remap every sample wholly, with gradient to the way out: what the critic judges while the flow is trained.

    The way in and the move are taken as they are: a move's slope has no bound, and the likelihood trains the way in.

    Returns:
        Images whose background is as it was, and the latent quantiles of each image, without gradient.
    """
    original = images.flatten(1)
    shown = foreground(original)
    knots, mapped, latent = tabulate(flow, quantiles(original, shown), draw, codes=codes.to(original))
    remapped = curves.interpolate(original.clamp(-BOUND, BOUND), knots, mapped)
    return torch.where(shown, remapped, original).view(images.shape), latent


def diversity_loss(first: Float[Tensor, "b q"], second: Float[Tensor, "b q"]) -> Float[Tensor, ""]:
    """Punish two looks of one image whose quantiles are less than 0.6 apart on average: ``relu(.6 - mean |q1 - q2|)``."""
    return torch.relu(DIVERSITY - (first - second).abs().mean())


def tabulate(
    flow: HistFlow, image_quantiles: Float[Tensor, "b q"], draw: LearnedDraw, *, codes: Float[Tensor, "b c"]
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"], Float[Tensor, "b q"]]:
    """Tabulate each sample's map of intensities.

    Returns:
        Knots in [-5, 5], rising; what becomes of them, with gradient to the way out only; the latent quantiles.
    """
    style = draw.style_in.to(image_quantiles)
    with torch.no_grad():
        grid = torch.linspace(-BOUND, BOUND, NUM_KNOTS).to(image_quantiles).expand(len(image_quantiles), -1)
        latent, _, _ = flow.encode(Look(grid, style, image_quantiles), codes)
        cuts = draw.move.edges[:, 1:-1].to(image_quantiles)
        sides = torch.special.ndtri(torch.cat([cuts - STEP, cuts + STEP], dim=1).clamp(EDGE, 1 - EDGE))
        jumps = flow.decode(Look(sides, latent.style, latent.quantiles), codes).values
        knots, order = torch.cat([grid, jumps], dim=1).sort(dim=1, stable=True)
        values = torch.cat([latent.values, sides], dim=1).gather(1, order)
        moved = Look(apply_move(values, draw.move), draw.style_out.to(image_quantiles), latent.quantiles)
    return knots, flow.decode(moved, draw.code_out.to(image_quantiles)).values, latent.quantiles


def decoded_quantiles(flow: HistFlow, latent_quantiles: Float[Tensor, "b q"], draw: LearnedDraw) -> Float[Tensor, "b q"]:
    """Say how an image's foreground would be distributed under a draw's way out, with gradient."""
    nothing = latent_quantiles[:, :0]
    look = Look(nothing, draw.style_out.to(latent_quantiles), latent_quantiles)
    return flow.decode(look, draw.code_out.to(latent_quantiles)).quantiles


def likelihood_loss(flow: HistFlow, look: Look, code: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of an intensity under N(0, 1) in the latent, plus a tenth of the style's.

    Args:
        flow: In training.
        look: Foreground intensities with uniform noise (clipped CT has atoms), style N(0, 1), the images' quantiles.
        code: Of the images' modality, with any style code.
    """
    latent, log_slope, log_scale = flow.encode(look, code)
    values = latent.values.square() / 2 + math.log(2 * math.pi) / 2 - log_slope
    style = latent.style.square().sum(dim=1) / 2 - log_scale
    loss: Tensor = values.mean() + STYLE_WEIGHT * style.mean() / NUM_STYLES
    return loss


def image_codes(modalities: Int[Tensor, " b"]) -> Float[Tensor, "b c"]:
    """Make the codes of images as they are: one-hot modality (0 CT, 1 MR) and a style code of zeros."""
    codes = torch.zeros(len(modalities), CODE_SIZE, device=modalities.device)
    return codes.scatter(1, modalities[:, None], 1.0)


def foreground(values: Float[Tensor, "b v"]) -> Bool[Tensor, "b v"]:
    """Mark voxels above 4 % of an image's range."""
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return values > low + FOREGROUND * (high - low)


def quantiles(values: Float[Tensor, "b v"], shown: Bool[Tensor, "b v"]) -> Float[Tensor, "b q"]:
    """Describe each image by the quantiles of its foreground at ``LEVELS``; zeros where it has none."""
    described = values.clamp(-BOUND, BOUND).masked_fill(~shown, math.nan)
    levels = torch.tensor(LEVELS, dtype=values.dtype, device=values.device)
    return torch.nanquantile(described, levels, dim=1).T.nan_to_num(0.0).contiguous()


def _perceptron(num_in: int, num_out: int, generator: Generator) -> nn.Sequential:
    """Make a perceptron with two hidden layers whose last layer is zero."""
    with torch.random.fork_rng(devices=[]):  # PyTorch initialises before we do
        layers = [nn.Linear(num_in, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, num_out)]
    for layer in layers[:-1]:
        bound = 1 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])


def _spline(theta: Float[Tensor, "b p"]) -> MonotonicRQSTransform:
    """Read a perceptron's output as one spline a sample."""
    widths, heights, derivatives = torch.split(theta[:, None], [NUM_BINS, NUM_BINS, NUM_BINS - 1], dim=-1)
    return MonotonicRQSTransform(widths, heights, derivatives, bound=BOUND)
