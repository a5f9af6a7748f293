"""The critic of learned GIN: it sees where edges run and where organs lie, never an intensity."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from fedsilo.types import CLASS_DIM

WIDTHS = (16, 32, 1)
SLOPE = 0.2
ENERGY_EPS = 1e-6


def structure(images: Float[Tensor, "b 1 *space"]) -> Float[Tensor, "b k *space"]:
    """Describe where edges run: products of gradients over the gradient's energy, blind to scale, sign and offset.

    ``[gx^2, gy^2, 2 gx gy] / (gx^2 + gy^2 + eps)`` in 2D, all six products in 3D; eps is half of the image's mean gradient
    energy + 1e-6, so that noise in flat parts counts little. Gradients are central differences, one-sided at the border.
    """
    axes = range(2, images.ndim)
    gradients = [torch.gradient(images, dim=axis)[0] for axis in axes]
    energy = torch.stack([gradient.square() for gradient in gradients]).sum(dim=0)
    eps = energy.flatten(1).mean(dim=1).view(-1, *[1] * (images.ndim - 1)) / 2 + ENERGY_EPS
    products = [gradient.square() for gradient in gradients]
    products += [2 * one * other for place, one in enumerate(gradients) for other in gradients[place + 1 :]]
    return torch.cat(products, dim=1) / (energy + eps)


class Critic(nn.Module):
    """Three strided convolutions with spectral norm over structure and one-hot labels; one score an image.

    Args:
        spatial_dims: 2 or 3.
        num_classes: Organs and background.
        generator: Source of weights and of the power iterations' first vectors.
    """

    def __init__(self, *, spatial_dims: int, num_classes: int, generator: Generator) -> None:
        """Build the convolutions."""
        super().__init__()
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d  # noqa: PLR2004  # axes
        num_in = spatial_dims * (spatial_dims + 1) // 2 + num_classes
        self.num_classes = num_classes
        self.layers = nn.ModuleList()
        for num_out in WIDTHS:
            with torch.random.fork_rng(devices=[]):  # PyTorch initialises before we do
                layer = parametrizations.spectral_norm(convolution(num_in, num_out, kernel_size=4, stride=2, padding=1))
            _initialise(layer, generator)
            self.layers.append(layer)
            num_in = num_out

    def forward(self, structure_of_image: Float[Tensor, "b k *space"], labels: Int[Tensor, "b *space"]) -> Float[Tensor, " b"]:
        """Score how well labels fit the structure; every edge at least 8."""
        onehot = functional.one_hot(labels, self.num_classes).movedim(-1, CLASS_DIM).to(structure_of_image.dtype)
        hidden = torch.cat([structure_of_image, onehot], dim=1)
        for layer in self.layers[:-1]:
            hidden = functional.leaky_relu(layer(hidden), SLOPE)
        score: Tensor = self.layers[-1](hidden).flatten(1).mean(dim=1)
        return score


def critic_loss(
    critic: Critic,
    images: Float[Tensor, "b 1 *space"],
    remapped: Float[Tensor, "b 1 *space"],
    labels: Int[Tensor, "b *space"],
) -> Float[Tensor, ""]:
    """Hinge loss that also knows when labels belong to another image.

    ``relu(1 - D(phi(x), y)) + relu(1 + D(phi(x~), y)) / 2 + relu(1 + D(phi(x), y of the next sample)) / 2``: without the last
    term the critic could ignore the labels. Nothing flows back to the remapping.
    """
    shown = structure(images)
    real = critic(shown, labels)
    fake = critic(structure(remapped.detach()), labels)
    mismatched = critic(shown, labels.roll(1, dims=0))
    terms: Tensor = functional.relu(1 - real) + functional.relu(1 + fake) / 2 + functional.relu(1 + mismatched) / 2
    return terms.mean()


def _initialise(layer: Any, generator: Generator) -> None:  # noqa: ANN401  # torch types parametrizations as tensors
    """Draw weights and the vectors of the power iteration from a named generator."""
    norm = layer.parametrizations.weight[0]
    with torch.no_grad():
        original = layer.parametrizations.weight.original
        bound = 1 / original[0].numel() ** 0.5
        original.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
        for vector in (norm._u, norm._v):
            vector.normal_(generator=generator)
            vector.div_(vector.norm())
