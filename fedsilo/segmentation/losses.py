"""Dice plus cross-entropy over the organs that a site annotates."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fedsilo.types import CLASS_DIM

DICE_SMOOTH = 1e-5


def merge_logits(logits: Float[Tensor, "b c *space"], annotated: tuple[int, ...]) -> Float[Tensor, "b f *space"]:
    """Merge background and every unannotated organ into one channel.

    ``z~_0 = logsumexp_{c not in F} z_c``, ``z~_f = z_f``: the softmax of the merged logits is the merged softmax, so
    that "background or an organ nobody looked for" is one class.

    Args:
        logits: Network output; channel 0 is background.
        annotated: F, the annotated organs' values, each at least 1.

    Returns:
        Logits of ``[rest, *sorted(F)]``.

    Raises:
        ValueError: F is empty or has a value that the network does not have.

    Reference:
        Marginal loss of ConDistFL (arXiv 2308.04070), as in docs/method.md.
    """
    organs = sorted(annotated)
    num_classes = logits.shape[CLASS_DIM]
    if not organs or organs[0] < 1 or organs[-1] >= num_classes:
        raise ValueError(f"annotated organs must be within 1..{num_classes - 1} and not empty, got {organs}")
    rest = [value for value in range(num_classes) if value not in organs]
    merged = logits[:, rest].logsumexp(dim=CLASS_DIM, keepdim=True)
    return torch.cat([merged, logits[:, organs]], dim=CLASS_DIM)


def merge_labels(labels: Int[Tensor, "b *space"], annotated: tuple[int, ...]) -> Int[Tensor, "b *space"]:
    """Re-index labels to ``[rest, *sorted(F)]``; whatever is not in F becomes 0."""
    merged = torch.zeros_like(labels)
    for index, organ in enumerate(sorted(annotated), start=1):
        merged[labels == organ] = index
    return merged


def dice_ce(logits: Float[Tensor, "b c *space"], labels: Int[Tensor, "b *space"]) -> Float[Tensor, ""]:
    """Add batch Dice of the foreground and mean cross-entropy.

    ``CE(z, y) + 1 - mean_c 2 sum(p_c y_c) / (sum p_c + sum y_c + 1e-5)``, sums over batch and space, c over the
    foreground classes present in the batch: an organ that the batch does not show gives no Dice gradient. A batch
    without any foreground has the cross-entropy only.
    """
    probs = logits.softmax(dim=CLASS_DIM)
    onehot = functional.one_hot(labels, logits.shape[CLASS_DIM]).movedim(-1, CLASS_DIM).to(probs.dtype)
    summed = [axis for axis in range(logits.ndim) if axis != CLASS_DIM]
    overlap = (probs * onehot).sum(dim=summed)[1:]
    size_reference = onehot.sum(dim=summed)[1:]
    size = probs.sum(dim=summed)[1:] + size_reference
    present = (size_reference > 0).to(probs.dtype)
    per_organ = (1 - 2 * overlap / (size + DICE_SMOOTH)) * present
    dice = per_organ.sum() / present.sum().clamp(min=1)
    return functional.cross_entropy(logits, labels) + dice


def marginal_dice_ce(
    logits: Float[Tensor, "b c *space"], labels: Int[Tensor, "b *space"], *, annotated: tuple[int, ...]
) -> Float[Tensor, ""]:
    """Compute ``dice_ce`` over merged logits and labels; equals plain ``dice_ce`` where every organ is annotated.

    Args:
        logits: Network output.
        labels: Organ values of the federation, int64; 0 where the site annotates nothing.
        annotated: Values of the organs that this site annotates.
    """
    return dice_ce(merge_logits(logits, annotated), merge_labels(labels, annotated))


def conditional_distillation(
    logits: Float[Tensor, "b c *space"],
    taught: Float[Tensor, "b c *space"],
    labels: Int[Tensor, "b *space"],
    *,
    annotated: tuple[int, ...],
    temperature: float,
) -> Float[Tensor, ""]:
    """Keep what the global model knows of organs that a site does not annotate.

    Among the classes outside F (background and the unannotated organs) both networks give conditional probabilities
    ``q_g(z) = exp(z_g / T) / sum_{c not in F} exp(z_c / T)``; the loss is ``1 - mean_g`` of their soft Dice over the voxels M
    that neither the label nor the teacher puts into F: ``2 sum(M q(z) q(t)) / (sum(M q(z)) + sum(M q(t)) + 1e-5)``.

    Args:
        logits: Of the network in training.
        taught: Of the teacher, the same image and geometry; no gradient reaches it.
        labels: Organ values of the federation; 0 where the site annotates nothing.
        annotated: F, values of the organs that this site annotates; not all organs.
        temperature: T, at least 1 in practice; 2 in the source.

    Raises:
        ValueError: F is empty, or holds every organ, or a value that the network does not have.

    Reference:
        ConDistFL (arXiv 2308.04070). Deviation: the teacher sees the image before GIN.
    """
    num_classes = logits.shape[CLASS_DIM]
    rest = [value for value in range(num_classes) if value not in annotated]
    if not annotated or min(annotated) < 1 or max(annotated) >= num_classes or len(rest) == 1:
        raise ValueError(f"annotated organs must be some but not all of 1..{num_classes - 1}, got {sorted(annotated)}")
    organs = torch.tensor(sorted(annotated), device=labels.device)
    taught = taught.detach()
    unknown = ~torch.isin(labels, organs) & ~torch.isin(taught.argmax(dim=CLASS_DIM), organs)
    mask = unknown.unsqueeze(CLASS_DIM).to(logits.dtype)
    student, teacher = ((values[:, rest] / temperature).softmax(dim=CLASS_DIM) * mask for values in (logits, taught))
    summed = [axis for axis in range(logits.ndim) if axis != CLASS_DIM]
    sizes = student.sum(dim=summed) + teacher.sum(dim=summed)
    return 1 - (2 * (student * teacher).sum(dim=summed) / (sizes + DICE_SMOOTH)).mean()


def disagreement(logits: Float[Tensor, "v b c *space"]) -> Float[Tensor, ""]:
    """Measure how far views of one image are predicted apart: ``mean KL(pbar || p_j)``, pbar the mean over views.

    The mean runs over views, samples, classes and voxels, and the gradient flows through pbar too, as in the GIN-IPA release:
    a weight of 10 is 10 / C a voxel.

    Args:
        logits: Network output for each view of the same samples.

    Reference:
        Ouyang et al., IEEE TMI 2022.
    """
    log_probs = logits.log_softmax(dim=CLASS_DIM + 1)
    mean = log_probs.exp().mean(dim=0)
    divergence: Tensor = torch.special.xlogy(mean, mean) - mean * log_probs
    return divergence.mean()
