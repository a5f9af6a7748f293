"""Laws of the critic: blind to intensities, not to where labels lie."""

import pytest
import torch
from torch.testing import assert_close

from fedsilo.segmentation import critic, learned_gin
from fedsilo.segmentation.critic import Critic

SPACES = [(32, 28), (16, 16, 20)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def boxes(space, num_samples=4, seed=0):
    """Images of a bright box each, and the box as label."""
    numbers = generator(seed)
    images, labels = torch.zeros(num_samples, 1, *space), torch.zeros(num_samples, *space, dtype=torch.long)
    for sample in range(num_samples):
        start = torch.randint(2, 8, (1,), generator=numbers).item()
        box = tuple(slice(start, start + 6) for _ in space)
        images[(sample, 0, *box)] = 2.0
        labels[(sample, *box)] = 1
    return images + 0.02 * torch.randn(images.shape, generator=numbers), labels


@pytest.mark.parametrize("space", SPACES)
class TestStructure:
    def test_has_a_channel_for_every_product_within_its_bounds(self, space):
        shown = critic.structure(boxes(space)[0])

        assert shown.shape == (4, len(space) * (len(space) + 1) // 2, *space)
        assert shown.abs().max() <= 1
        assert (shown[:, : len(space)] >= 0).all()

    @pytest.mark.parametrize(("scale", "offset"), [(3.0, 0.0), (-1.0, 0.0), (-0.5, 7.0), (1.0, -2.0)])
    def test_is_blind_to_scale_sign_and_offset(self, space, scale, offset):
        images = boxes(space)[0].double()

        assert_close(critic.structure(scale * images + offset), critic.structure(images), rtol=1e-3, atol=1e-3)

    def test_a_constant_has_no_structure(self, space):
        assert not critic.structure(torch.full((2, 1, *space), 3.0)).any()

    def test_a_single_edge_has_the_direction_of_its_axis(self, space):
        images = torch.zeros(1, 1, *space)
        images[:, :, space[0] // 2 :] = 1

        shown = critic.structure(images)[0]

        assert shown[0].max() > 0.8
        assert not shown[1:].any()


@pytest.mark.parametrize("space", SPACES)
class TestCritic:
    def make(self, space, seed=0):
        return Critic(spatial_dims=len(space), num_classes=3, generator=generator(seed))

    def test_a_seed_is_a_critic_and_the_global_random_state_stays(self, space):
        images, labels = boxes(space)
        before = torch.get_rng_state()

        scores = [self.make(space, seed).eval()(critic.structure(images), labels) for seed in (0, 0, 1)]

        assert torch.equal(torch.get_rng_state(), before)
        assert scores[0].shape == (4,)
        assert torch.equal(scores[0], scores[1])
        assert not torch.equal(scores[0], scores[2])

    def test_an_affine_change_of_intensities_cannot_be_scored(self, space):
        images, labels = boxes(space)
        made = self.make(space).eval()

        assert_close(made(critic.structure(5 - 2 * images), labels), made(critic.structure(images), labels), rtol=1e-3, atol=1e-3)

    def test_learns_which_labels_belong_to_an_image(self, space):
        made = self.make(space)
        optimizer = torch.optim.Adam(made.parameters(), lr=2e-3, betas=(0.0, 0.99))
        for step in range(60):
            images, labels = boxes(space, 8, seed=step)
            optimizer.zero_grad()
            critic.critic_loss(made, images, images.flip(-1), labels).backward()
            optimizer.step()
        made.eval()
        images, labels = boxes(space, 16, seed=1000)
        shown = critic.structure(images)

        assert made(shown, labels).mean() > made(shown, labels.roll(1, dims=0)).mean() + 0.1

    def test_no_gradient_reaches_the_remapping(self, space):
        images, labels = boxes(space)
        remapped = images.clone().requires_grad_()

        critic.critic_loss(self.make(space), images, remapped, labels).backward()

        assert remapped.grad is None


def test_remapping_for_training_has_a_gradient_and_leaves_the_background():
    images, _ = boxes((32, 28))
    images = (images - images.mean()) / images.std()
    flow = learned_gin.HistFlow(generator=generator())
    draws = [learned_gin.sample_learned(4, probability=1.0, generator=generator(seed)) for seed in range(2)]
    codes = learned_gin.image_codes(torch.zeros(4, dtype=torch.long))

    first, latents = learned_gin.remap(flow, images, draws[0], codes=codes)
    described = [learned_gin.decoded_quantiles(flow, latents, draw) for draw in draws]
    (learned_gin.diversity_loss(*described) + first.square().mean()).backward()

    air = ~learned_gin.foreground(images.flatten(1))
    assert torch.equal(first.flatten(1)[air], images.flatten(1)[air])
    assert all(parameter.grad is not None for parameter in flow.parameters())
    assert any(parameter.grad.any() for parameter in flow.parameters())


def test_looks_far_enough_apart_lose_nothing():
    near, far = torch.zeros(2, 16), torch.ones(2, 16)

    assert_close(learned_gin.diversity_loss(near, near), torch.tensor(0.6))
    assert learned_gin.diversity_loss(near, far) == 0
