"""What cannot be routed, adapted or merged is refused in one line that says why."""

import pytest
import torch
from monai.networks.blocks import PatchEmbeddingBlock
from monai.networks.nets import SwinUNETR, UNet
from torch import nn

from fedsilo import seeds
from fedsilo.errors import RoutingError, StateMismatchError
from fedsilo.federation import states
from fedsilo.routing import baselines, experts, objectives
from tests import routing_settings as settings

HALVES = (0.5, 0.5)


def unet(norm="BATCH"):
    with torch.random.fork_rng():
        return UNet(2, 1, 3, channels=(4, 8), strides=(2,), norm=norm).eval()


def adapt(routed, size=(1, 3, 4, 4), **changes):
    image = torch.randn(size, generator=seeds.generator(0, "image"))
    return settings.adapt(routed, image, 2, divisor=2, params=settings.outside(batch_size=1), steps=1, gate="static", **changes)


def build(template, found=None, prior=HALVES, gate="static"):
    return experts.build(template, found or [states.snapshot(template)] * 2, prior=prior, gate=gate)


def test_no_expert():
    with pytest.raises(RoutingError, match="got no expert"):
        experts.build(unet(), [], prior=(), gate="static")
    with pytest.raises(StateMismatchError, match="got none"):
        baselines.uniform_soup([])
    with pytest.raises(RoutingError, match="got none"):
        baselines.ensemble_probs([])


@pytest.mark.parametrize("prior", [(1.0,), (0.5, 0.6), (1.5, -0.5), (float("nan"), 1.0)], ids=str)
def test_a_prior_that_is_no_route(prior):
    with pytest.raises(RoutingError, match="expected a prior of 2 shares that sum to 1"):
        build(unet(), prior=prior)


def test_an_expert_that_lacks_a_key():
    whole = states.snapshot(unet())
    lacking = {name: tensor for name, tensor in whole.items() if name != "model.0.conv.weight"}

    with pytest.raises(StateMismatchError, match=r"expert 1 .*lacks model\.0\.conv\.weight"):
        build(unet(), [whole, lacking])


def test_an_expert_of_another_shape():
    whole = states.snapshot(unet())
    other = whole | {"model.0.conv.weight": torch.zeros(1)}

    with pytest.raises(StateMismatchError, match=r"expert 0 .*model\.0\.conv\.weight is float32 \(1,\)"):
        build(unet(), [other, whole])


def test_a_weighted_layer_that_is_not_routed():
    class Scaled(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(1, 1, 1))
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(RoutingError, match=r"cannot route 1 \(Scaled\): it holds scale"):
        build(nn.Sequential(nn.Conv2d(1, 1, 1), Scaled()))


def test_a_transformer_whose_attention_holds_weights_of_its_own():
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.TransformerEncoderLayer(4, 2, dim_feedforward=4))

    with pytest.raises(RoutingError, match=r"cannot route 1\.self_attn \(MultiheadAttention\): it holds in_proj_bias"):
        build(network)


def test_a_monai_transformer_whose_attention_knows_places():
    with torch.random.fork_rng():
        network = SwinUNETR(1, 3, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), spatial_dims=2)

    reason = r"cannot route swinViT\.layers1\.0\.blocks\.0\.attn \(WindowAttention\): it holds relative_position_bias_table"
    with pytest.raises(RoutingError, match=reason):
        build(network)


def test_a_monai_embedding_of_patches_that_knows_places():
    """The first part of UNETR and ViT, which themselves need einops."""
    with torch.random.fork_rng():
        patches = PatchEmbeddingBlock(1, img_size=8, patch_size=4, hidden_size=4, num_heads=1, proj_type="conv", spatial_dims=2)

    with pytest.raises(RoutingError, match=r"cannot route 0 \(PatchEmbeddingBlock\): it holds position_embeddings"):
        build(nn.Sequential(patches))


def test_a_layer_with_parametrized_weight():
    with torch.random.fork_rng():
        network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1)))

    with pytest.raises(RoutingError, match=r"cannot route 0 .*expected weight and bias of its own"):
        build(network)


def test_a_parameter_of_two_modules():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    network[1].weight = network[0].weight

    with pytest.raises(RoutingError, match=r"cannot route 1 .*shares weight with 0 "):
        build(network)


def test_nothing_to_route():
    with pytest.raises(RoutingError, match="it has no convolution or linear layer"):
        build(nn.Sequential(nn.BatchNorm2d(1)))


def test_a_case_gate_that_is_asked_twice():
    layer = nn.Conv2d(1, 1, 1)
    twice = nn.Sequential(layer, layer)
    images = torch.ones(1, 1, 2, 2)

    assert list(experts.routes(build(twice), images)) == ["0"]
    with pytest.raises(RoutingError, match="cannot route 0 by case: the network calls it 2 times; use static gates"):
        experts.routes(build(twice, gate="case"), images)


def test_routes_of_another_network():
    routed = build(unet())

    with pytest.raises(RoutingError, match="routes and layers differ in"):
        experts.merge(routed, {"elsewhere": torch.tensor(HALVES)})


def test_an_empty_trainable_set():
    template = unet("INSTANCE")
    routed = build(template, [states.snapshot(template)], prior=(1.0,))

    with pytest.raises(RoutingError, match="no parameters of gates or norms to train"):
        adapt(routed)


def test_batch_statistics_of_a_single_value():
    with pytest.raises(RoutingError, match="cannot measure statistics of a single value a channel"):
        adapt(build(unet()), source_share=0.0, size=(1, 1, 2, 2))


def test_losses_that_are_not_finite():
    broken = states.snapshot(unet())
    broken["model.0.conv.bias"].fill_(float("inf"))

    with pytest.raises(RoutingError, match="losses of step 0 are not finite"):
        adapt(build(unet(), [broken, broken]))


def test_a_single_class_has_no_entropy():
    with pytest.raises(RoutingError, match="at least two classes, got 1"):
        objectives.entropy(torch.zeros(1, 1, 2, 2))
