"""Effective size of a site's data in the latent space of its own flow: how much of it is covered, and how diversely.

One scalar of it may leave a site, rounded. Latents of different sites are comparable without an exchange: every flow maps to
the same N(0, 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsilo.cohort.batches import MODALITIES, LabelledCase
from fedsilo.segmentation import learned_gin
from fedsilo.segmentation.learned_gin import HistFlow, Look

NUM_BINS = 64
BANDWIDTH = 0.3
"""Of the kernel between two cases' latents; public and fixed, so that sites can be compared."""

MAX_VOXELS = 20_000
"""Foreground voxels that stand for a case, evenly spaced."""

DIGITS = 2
"""A size is rounded before it leaves the site: it says a little about the data."""

SizeKind = Literal["kish", "vendi", "product"]


@dataclass(frozen=True)
class LatentSize:
    """What the effective size of a site is made from.

    Attributes:
        num_cases: Training cases.
        coverage: Of the latent's 64 equiprobable bins by held-out cases, in (0, 1].
        diversity: Vendi score of the site's cases, between 1 and their number.
    """

    num_cases: int
    coverage: float
    diversity: float

    def size(self, kind: SizeKind) -> float:
        """Return N x coverage (``kish``), the diversity (``vendi``), or coverage x diversity (``product``), rounded."""
        sizes = {
            "kish": self.num_cases * self.coverage,
            "vendi": self.diversity,
            "product": self.coverage * self.diversity,
        }
        return round(sizes[kind], DIGITS)


def measure(flow: HistFlow, training: Sequence[LabelledCase], held_out: Sequence[LabelledCase]) -> LatentSize:
    """Measure a site's size under its own flow, with a style and a style code of zeros.

    Args:
        flow: The site's.
        training: What it was trained on; one or more.
        held_out: Cases it was not trained on; coverage is taken on the training cases if there are none.
    """
    latents = [_encode(flow, case) for case in (*training, *held_out)]
    covering = latents[len(training) :] or latents
    features = torch.stack([_describe(latent) for latent in latents])
    return LatentSize(len(training), coverage(torch.cat([latent.values[0] for latent in covering])), diversity(features))


def coverage(latents: Float[Tensor, " n"]) -> float:
    """Compare latents with N(0, 1): ``1 / sum_b (1/64)^2 / pi_b`` over 64 equiprobable bins, one count added to each.

    This is Kish's ratio of effective to nominal size, ``1 / (1 + chi^2)``: 1 if every bin is met as often, towards 0 if few
    are met.
    """
    shares = torch.special.ndtr(latents.double()).clamp(0, 1)
    counts = torch.histc(shares, bins=NUM_BINS, min=0.0, max=1.0) + 1
    met = counts / counts.sum()
    return float(1 / (1 / (NUM_BINS**2 * met)).sum())


def diversity(features: Float[Tensor, "n f"]) -> float:
    """Count effectively different cases: Vendi score, ``exp(-sum lambda log lambda)``.

    lambda are the eigenvalues of ``exp(-|h_i - h_j|^2 / (2 0.3^2)) / N``. Equal cases count as one: the score does not change
    when every case is doubled.

    Reference:
        Friedman and Dieng, The Vendi score, TMLR 2023.
    """
    rows = features.double()
    kernel = torch.exp(-torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * BANDWIDTH**2))
    values = torch.linalg.eigvalsh(kernel / len(rows)).clamp(min=0)
    return math.exp(float(torch.special.entr(values).sum()))


def _encode(flow: HistFlow, case: LabelledCase) -> Look:
    """Map evenly spaced foreground voxels of a case to the latent."""
    device = next(flow.parameters()).device
    values = case.image[:1].flatten(1)
    shown = learned_gin.foreground(values)
    found = values[shown] if shown.any() else values[0]
    step = -(-len(found) // MAX_VOXELS)
    picked = found[::step][None].clamp(-learned_gin.BOUND, learned_gin.BOUND).to(device)
    codes = learned_gin.image_codes(torch.tensor([MODALITIES.index(case.modality)], device=device))
    described = learned_gin.quantiles(picked, torch.ones_like(picked, dtype=torch.bool))
    with torch.no_grad():
        latent, _, _ = flow.encode(Look(picked, picked.new_zeros(1, learned_gin.NUM_STYLES), described), codes)
    return latent


def _describe(latent: Look) -> Float[Tensor, " f"]:
    """Describe a case by the quantiles, the mean and the standard deviation of its latents."""
    values = latent.values[0]
    return torch.cat([latent.quantiles[0], values.mean()[None], values.std(correction=0)[None]]).cpu()
