"""Laws of test-time routing: episodic, reproducible, and a soup if no step is made."""

import copy
from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNet
from torch.testing import assert_close

from fedsilo import params as params_module
from fedsilo import seeds
from fedsilo.federation import states
from fedsilo.params import ObjectiveParams
from fedsilo.routing import adaptation, experts
from fedsilo.segmentation import inference

E = 3
PRIOR = experts.global_prior(E, 0.5)
PRESET = ObjectiveParams(consistency=1.0, shape=0.01, entropy=0.01)
PARAMS = params_module.load(Path(__file__).parents[2] / "params.yaml")
OUTSIDE = PARAMS.outside.model_copy(
    update={
        "steps": 2,
        "learning_rate": 0.05,
        "gate": "case",
        "shape_radius_px": 2,
        "batch_size": 4,
        "norm_statistics": "mixture",
    }
)


def network(spatial_dims, norm="BATCH"):
    with torch.random.fork_rng():
        return UNet(spatial_dims, 1, 3, channels=(4, 8, 8), strides=(2, 2), num_res_units=1, norm=norm).double().eval()


def expert_states(spatial_dims, norm="BATCH"):
    found = [states.snapshot(network(spatial_dims, norm)) for _ in range(E)]
    generator = seeds.generator(0, "experts")
    for state in found:
        for name, tensor in state.items():
            if name.endswith("running_mean"):
                tensor.normal_(generator=generator)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).abs(), alpha=0.1)
    return found


def image(*zyx, name="image"):
    return torch.randn((1, *zyx), generator=seeds.generator(0, name), dtype=torch.float64)


CASE = {2: image(6, 8, 8), 3: image(8, 8, 8)}


def adapt(routed, case, spatial_dims, *, seed=0, preset=PRESET, params=OUTSIDE, **options):
    return adaptation.adapt(
        routed, case, params=params, preset=preset, spatial_dims=spatial_dims, divisor=4,
        generator=seeds.generator(seed, "adapt"), device="cpu", **options,
    )  # fmt: skip


def changed(**values):
    return OUTSIDE.model_copy(update=values)


@pytest.fixture(params=[2, 3])
def setting(request):
    """A routed network, its template and experts, and a case."""
    found = expert_states(request.param)
    template = network(request.param)
    return experts.build(template, found, prior=PRIOR, gate="case"), template, found, request.param


def test_no_step_is_the_soup_of_the_prior(setting):
    routed, _, found, dims = setting

    adapted = adapt(routed, CASE[dims], dims, params=changed(steps=0))

    soup = experts.mixture(found, PRIOR)
    assert len(adapted.objective) == 1
    assert adapted.state.keys() == soup.keys()
    for name, tensor in adapted.state.items():
        assert_close(tensor, soup[name])
    for route in adapted.routes_after.values():
        assert_close(route, torch.tensor(PRIOR, dtype=route.dtype))


def test_steps_change_every_gate_and_every_norm_layer(setting):
    routed, _, _, dims = setting
    soup = adapt(routed, CASE[dims], dims, params=changed(steps=0))

    adapted = adapt(routed, CASE[dims], dims)

    assert adapted.trained == ("gates", "norms")
    assert len(adapted.objective) == 3
    for name, route in adapted.routes_after.items():
        assert not torch.equal(route, adapted.routes_before[name]), name
        assert float(route.sum()) == pytest.approx(1)
    for name, tensor in adapted.state.items():
        assert torch.equal(tensor, soup.state[name]) == name.endswith(("running_mean", "running_var", "tracked", "A.weight")), (
            name
        )


def test_steps_lower_the_objective(setting):
    routed, _, _, dims = setting

    adapted = adapt(
        routed,
        CASE[dims],
        dims,
        params=changed(steps=12, learning_rate=0.01, noise_sd=0.0),
        preset=ObjectiveParams(consistency=0, shape=0, entropy=1),
    )

    assert adapted.objective[-1].total < adapted.objective[0].total
    assert adapted.objective[0].total == pytest.approx(adapted.objective[0].entropy)


def test_routed_network_and_image_are_not_modified(setting):
    routed, _, _, dims = setting
    layers = experts.layers(routed).values()
    stacks = [copy.deepcopy((layer.weights, layer.biases)) for layer in layers]
    before, case = states.digest(states.snapshot(routed)), CASE[dims].clone()

    adapt(routed, CASE[dims], dims)
    adapt(routed, CASE[dims], dims, params=changed(norm_statistics="batch"))

    assert states.digest(states.snapshot(routed)) == before
    assert torch.equal(case, CASE[dims])
    for layer, (weights, biases) in zip(layers, stacks, strict=True):
        assert torch.equal(layer.weights, weights)
        assert biases is None or torch.equal(layer.biases, biases)
    assert all(parameter.grad is None for parameter in routed.parameters())


def test_two_runs_are_alike_bit_by_bit_and_two_steps_differ(setting):
    routed, _, _, dims = setting

    first, again, other = (adapt(routed, CASE[dims], dims, seed=seed) for seed in (0, 0, 1))

    assert states.digest(first.state) == states.digest(again.state)
    assert first.objective == again.objective
    assert states.digest(first.state) != states.digest(other.state)


def test_every_step_draws_a_view_of_its_own(setting):
    routed, _, _, dims = setting

    still = adapt(routed, CASE[dims], dims, params=changed(steps=3, learning_rate=1e-300))

    assert len({step.consistency for step in still.objective}) == 4
    assert len({step.entropy for step in still.objective}) == 1


def test_cases_do_not_depend_on_their_order(setting):
    routed, _, _, dims = setting
    other = image(*CASE[dims].shape[1:], name="other")

    def run(cases):
        return {index: states.digest(adapt(routed, case, dims, seed=index).state) for index, case in cases}

    cases = [(0, CASE[dims]), (1, other)]
    assert run(cases) == run(cases[::-1])


@pytest.mark.parametrize("statistics", ["mixture", "batch"])
def test_prediction_does_not_depend_on_batch_mates(statistics):
    routed = experts.build(network(2), expert_states(2), prior=PRIOR, gate="case")
    model = network(2)
    states.restore(model, adapt(routed, CASE[2], 2, params=changed(norm_statistics=statistics)).state)

    def predict(case, batch_size):
        return inference.predict_probs(model, case, spatial_dims=2, divisor=4, batch_size=batch_size, device="cpu")

    together = predict(CASE[2], 6)
    alone = torch.cat([predict(CASE[2][:, z : z + 1], 1) for z in range(6)], dim=1)
    assert_close(together, alone)


def test_batch_statistics_of_the_pieces_are_stored(setting):
    routed, _, _, dims = setting

    adapted = adapt(routed, CASE[dims], dims, params=changed(steps=0, norm_statistics="batch", batch_size=6))

    first = next(name for name in adapted.state if name.endswith("running_mean"))
    layer = first.removesuffix("adn.N.running_mean") + "conv"
    items = inference.as_items(CASE[dims], dims)
    convolved = (torch.conv2d if dims == 2 else torch.conv3d)(
        items, adapted.state[f"{layer}.weight"], adapted.state[f"{layer}.bias"], stride=2, padding=1
    )
    assert_close(adapted.state[first], convolved.transpose(0, 1).flatten(1).mean(dim=1))


def test_without_affine_norm_layers_only_gates_are_trained():
    routed = experts.build(network(2, "INSTANCE"), expert_states(2, "INSTANCE"), prior=PRIOR, gate="static")

    assert adapt(routed, CASE[2], 2).trained == ("gates",)


def test_a_single_expert_trains_norm_layers_only_and_keeps_its_weights():
    found = expert_states(2)[:1]
    routed = experts.build(network(2), found, prior=(1.0,), gate="case")

    adapted = adapt(routed, CASE[2], 2)

    assert adapted.trained == ("norms",)
    for name, tensor in adapted.state.items():
        assert torch.equal(tensor, found[0][name]) != name.endswith(("N.weight", "N.bias"))


def test_few_slices_are_all_pieces_and_many_are_drawn_without_repetition():
    generator = seeds.generator(0, "pieces")
    case = torch.arange(10.0).reshape(1, 10, 1, 1).expand(1, 10, 5, 8)

    def draw(num_pieces):
        pieces, size = adaptation.draw_pieces(
            case, num_pieces=num_pieces, spatial_dims=2, divisor=4, patch_zyx=None, generator=generator
        )
        assert size == (5, 8)
        assert pieces.shape[1:] == (1, 8, 8)
        return pieces[:, 0, 0, 0].tolist()

    assert draw(12) == list(range(10))
    assert len(set(draw(4))) == 4
    assert len({tuple(draw(4)) for _ in range(8)}) > 1


def test_patches_are_parts_of_the_volume():
    case = image(6, 12, 16)
    generator = seeds.generator(0, "patches")

    pieces, size = adaptation.draw_pieces(case, num_pieces=3, spatial_dims=3, divisor=4, patch_zyx=(8, 8, 8), generator=generator)

    assert pieces.shape == (3, 1, 8, 8, 8)
    assert size == (6, 8, 8)
    windows = case[0].unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).reshape(-1, 6, 8, 8)
    for piece in inference.crop(pieces, size)[:, 0]:
        assert (windows == piece).flatten(1).all(dim=1).any()


def test_a_volume_no_larger_than_a_patch_is_the_only_piece(setting):
    routed, _, _, dims = setting

    whole, patched = (adapt(routed, CASE[dims], dims, patch_zyx=patch) for patch in (None, (8, 8, 8)))

    assert states.digest(whole.state) == states.digest(patched.state)


def test_padding_does_not_enter_the_losses():
    routed = experts.build(network(2), expert_states(2), prior=PRIOR, gate="static")
    case = torch.zeros(1, 3, 6, 6, dtype=torch.float64)

    # a constant image is padded by itself: cropping leaves the losses of the inner part
    params = changed(steps=1, noise_sd=0.0)
    padded = adapt(routed, case, 2, params=params).objective[0]
    logits = inference.crop(routed(inference.pad_to_divisor(inference.as_items(case, 2), 4)), (6, 6)).detach()

    assert padded.entropy == pytest.approx(float(adaptation.objectives.entropy(logits)))
