"""Laws of test-time routing: episodic, reproducible, and a soup if no step is made."""

import copy

import pytest
import torch
from monai.networks.nets import UNet
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.federation import states
from fedsilo.outside_params import ObjectiveParams
from fedsilo.routing import experts, norms, objectives, pieces
from fedsilo.routing.pieces import Geometry
from fedsilo.segmentation import inference
from tests.routing_settings import adapt, adapt_all, outside

E = 3
PRIOR = experts.global_prior(E, 0.5)


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


ENTROPY = ObjectiveParams(consistency=0, shape=0, entropy=1)
CASE = {2: image(6, 8, 8), 3: image(8, 8, 8)}


@pytest.fixture(params=[2, 3])
def setting(request):
    """A routed network, its template and experts, and a case."""
    found = expert_states(request.param)
    template = network(request.param)
    return experts.build(template, found, prior=PRIOR, gate="case"), template, found, request.param


def test_no_step_is_the_soup_of_the_prior(setting):
    routed, _, found, dims = setting

    adapted = adapt(routed, CASE[dims], dims, steps=0)

    soup = experts.mixture(found, PRIOR)
    assert len(adapted.objective) == 1
    assert adapted.state.keys() == soup.keys()
    for name, tensor in adapted.state.items():
        assert_close(tensor, soup[name])
    for route in adapted.routes_after.values():
        assert_close(route, torch.tensor(PRIOR, dtype=route.dtype))


def test_steps_change_every_gate_and_every_norm_layer(setting):
    routed, _, _, dims = setting
    soup = adapt(routed, CASE[dims], dims, steps=0)

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
        params=outside(noise_sd=0.0),
        steps=12,
        learning_rate=0.01,
        objective=ObjectiveParams(consistency=0, shape=0, entropy=1),
    )

    assert adapted.objective[-1].total < adapted.objective[0].total
    assert adapted.objective[0].total == pytest.approx(adapted.objective[0].entropy)


def test_routed_network_and_image_are_not_modified(setting):
    routed, _, _, dims = setting
    layers = experts.layers(routed).values()
    stacks = [copy.deepcopy((layer.weights, layer.biases)) for layer in layers]
    before, case = states.digest(states.snapshot(routed)), CASE[dims].clone()

    adapt(routed, CASE[dims], dims)
    adapt(routed, CASE[dims], dims, source_share=0.0)

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

    still = adapt(routed, CASE[dims], dims, steps=3, learning_rate=1e-300)

    assert len({step.consistency for step in still.objective}) == 4
    assert len({step.entropy for step in still.objective}) == 1


def test_cases_do_not_depend_on_their_order(setting):
    routed, _, _, dims = setting
    other = image(*CASE[dims].shape[1:], name="other")

    def run(cases):
        return {index: states.digest(adapt(routed, case, dims, seed=index).state) for index, case in cases}

    cases = [(0, CASE[dims]), (1, other)]
    assert run(cases) == run(cases[::-1])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_prediction_does_not_depend_on_batch_mates(share):
    routed = experts.build(network(2), expert_states(2), prior=PRIOR, gate="case")
    model = network(2)
    states.restore(model, adapt(routed, CASE[2], 2, source_share=share).state)

    def predict(case, batch_size):
        return inference.predict_probs(model, case, spatial_dims=2, divisor=4, batch_size=batch_size, device="cpu")

    together = predict(CASE[2], 6)
    alone = torch.cat([predict(CASE[2][:, z : z + 1], 1) for z in range(6)], dim=1)
    assert_close(together, alone)


def test_batch_statistics_of_the_pieces_are_stored(setting):
    routed, _, _, dims = setting

    adapted = adapt(routed, CASE[dims], dims, params=outside(batch_size=6), steps=0, source_share=0.0)

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
        drawn = pieces.draw(case, num_pieces=num_pieces, geometry=Geometry(2, 4), generator=generator)
        assert drawn.size == (5, 8)
        assert drawn.items.shape[1:] == (1, 8, 8)
        return drawn.items[:, 0, 0, 0].tolist()

    assert draw(12) == list(range(10))
    assert len(set(draw(4))) == 4
    assert len({tuple(draw(4)) for _ in range(8)}) > 1


def test_patches_are_parts_of_the_volume():
    case = image(6, 12, 16)
    generator = seeds.generator(0, "patches")

    drawn = pieces.draw(case, num_pieces=3, geometry=Geometry(3, 4, (8, 8, 8)), generator=generator)

    assert drawn.items.shape == (3, 1, 8, 8, 8)
    assert drawn.size == (6, 8, 8)
    windows = case[0].unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).reshape(-1, 6, 8, 8)
    for piece in inference.crop(drawn.items, drawn.size)[:, 0]:
        assert (windows == piece).flatten(1).all(dim=1).any()


def test_a_volume_no_larger_than_a_patch_is_the_only_piece(setting):
    routed, _, _, dims = setting

    whole, patched = (adapt(routed, CASE[dims], dims, patch_zyx=patch) for patch in (None, (8, 8, 8)))

    assert states.digest(whole.state) == states.digest(patched.state)


def test_padding_does_not_enter_the_losses():
    routed = experts.build(network(2), expert_states(2), prior=PRIOR, gate="static")
    case = torch.zeros(1, 3, 6, 6, dtype=torch.float64)

    # a constant image is padded by itself: cropping leaves the losses of the inner part
    padded = adapt(routed, case, 2, params=outside(noise_sd=0.0), steps=1).objective[0]
    logits = inference.crop(routed(inference.pad_to_divisor(inference.as_items(case, 2), 4)), (6, 6)).detach()

    assert padded.entropy == pytest.approx(float(objectives.entropy(logits)))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blended_statistics_are_a_share_of_the_stored_ones(share):
    images = torch.randn(3, 2, 5, 5, generator=seeds.generator(0, "blend"), dtype=torch.float64) * 3 + 1
    plain = torch.nn.BatchNorm2d(2, dtype=torch.float64).eval()
    blended = norms.blend(copy.deepcopy(plain), share)

    mean = share * 0 + (1 - share) * images.mean(dim=(0, 2, 3), keepdim=True)
    variance = share * 1 + (1 - share) * images.var(dim=(0, 2, 3), correction=0, keepdim=True)
    assert_close(blended(images), (images - mean) / (variance + plain.eps).sqrt())
    norms.settle(blended)
    assert_close(blended.running_mean, mean.flatten())
    assert_close(blended(images[:1]), ((images - mean) / (variance + plain.eps).sqrt())[:1])
    assert blended.state_dict().keys() == plain.state_dict().keys()


def test_online_carries_on_and_episodic_starts_afresh(setting):
    routed, _, _, dims = setting
    cases = {"a": CASE[dims], "b": image(*CASE[dims].shape[1:], name="other")}

    def digests(protocol, names, steps):
        found = adapt_all(routed, {name: cases[name] for name in names}, dims, protocol=protocol, steps=steps)
        return {made.name: states.digest(made.state) for made in found}

    assert digests("episodic", "ab", 2)["b"] == digests("episodic", "b", 2)["b"]
    assert digests("online", "ab", 1)["b"] != digests("online", "b", 1)["b"]
    assert digests("online", "ab", 1)["a"] == digests("online", "a", 1)["a"]


def test_online_makes_a_step_a_batch(setting):
    """One case whose slices are one batch: the step of the episodic protocol, on another draw of the view."""
    routed, _, _, dims = setting
    still = {"params": outside(noise_sd=0.0, batch_size=6), "steps": 1}

    online = adapt(routed, CASE[dims], dims, protocol="online", objective=ENTROPY, **still)
    episodic = adapt(routed, CASE[dims], dims, objective=ENTROPY, **still)

    for name, tensor in online.state.items():
        assert_close(tensor, episodic.state[name])
    assert len(online.objective) == 2


def test_transductive_predicts_after_all_passes(setting):
    _, template, experts_found, dims = setting
    routed = experts.build(template, experts_found, prior=PRIOR, gate="static")
    cases = {"a": CASE[dims], "b": image(*CASE[dims].shape[1:], name="other")}

    found = adapt_all(routed, cases, dims, protocol="transductive", steps=2, gate="static")

    assert [made.name for made in found] == ["a", "b"]
    for name, tensor in found[0].state.items():
        assert torch.equal(tensor, found[1].state[name])
    for name, route in found[0].routes_before.items():
        assert_close(route, torch.tensor(PRIOR, dtype=route.dtype))
        assert not torch.equal(route, found[0].routes_after[name])


def test_a_route_a_slice_is_each_slice_by_itself():
    found = expert_states(2)
    routed = experts.build(network(2), found, prior=PRIOR, gate="sample")
    with torch.no_grad():
        for layer in experts.layers(routed).values():
            layer.gate.slope.normal_(generator=seeds.generator(0, "slopes"))
    batch = CASE[2].movedim(1, 0)

    together = routed(batch).detach()

    assert_close(together, torch.cat([routed(item[None]) for item in batch]).detach())
    by_case = experts.build(network(2), found, prior=PRIOR, gate="case")
    for mine, theirs in zip(experts.layers(by_case).values(), experts.layers(routed).values(), strict=True):
        mine.gate.load_state_dict(theirs.gate.state_dict())
    assert_close(together[:1], by_case(batch[:1]).detach())
    assert not torch.allclose(together, by_case(batch))


def test_adapted_routes_a_slice_predict_with_a_network(setting):
    routed = experts.build(setting[1], setting[2], prior=PRIOR, gate="sample")

    made = adapt(routed, CASE[setting[3]], setting[3], gate="sample", steps=2)

    assert made.network is not None
    assert not any(parameter.requires_grad for parameter in made.network.parameters())
    assert made.routes_after.keys() == experts.layers(routed).keys()


@pytest.mark.parametrize("tie", ["layer", "stage", "network"])
def test_tied_gates_share_an_offset(tie):
    template = network(2)
    routed = experts.build(template, expert_states(2), prior=PRIOR, gate="static", tie=tie)
    layers = experts.layers(routed)
    assert len(experts.gate_parameters(routed)) == len({id(layer.gate.offset) for layer in layers.values()})
    if tie != "stage":
        assert len(experts.gate_parameters(routed)) == (len(layers) if tie == "layer" else 1)
    else:
        assert 1 < len(experts.gate_parameters(routed)) < len(layers)

    made = adapt(routed, CASE[2], 2, gate="static", tie=tie, steps=2)

    groups = {}
    for name, layer in layers.items():
        groups.setdefault(id(layer.gate.offset), []).append(made.routes_after[name])
    for routes in groups.values():
        assert all(torch.equal(route, routes[0]) for route in routes)


def test_only_what_is_asked_for_is_trained(setting):
    routed, _, _, dims = setting
    soup = adapt(routed, CASE[dims], dims, steps=0)

    gates, norm_layers = (adapt(routed, CASE[dims], dims, train=(kind,)) for kind in ("gates", "norms"))

    assert (gates.trained, norm_layers.trained) == (("gates",), ("norms",))
    scales = [name for name in soup.state if name.endswith(("N.weight", "N.bias"))]
    assert all(torch.equal(gates.state[name], soup.state[name]) for name in scales)
    for name, route in norm_layers.routes_after.items():
        assert torch.equal(route, soup.routes_after[name])
    assert not any(torch.equal(norm_layers.state[name], soup.state[name]) for name in scales)


def test_random_gates_are_drawn_and_leave_the_network_alone(setting):
    routed, _, _, dims = setting
    before = states.digest(states.snapshot(routed))

    drawn = experts.randomise(routed, generator=seeds.generator(0, "gates"))

    assert states.digest(states.snapshot(routed)) == before
    routes = adapt(drawn, CASE[dims], dims, steps=0).routes_after
    assert len({tuple(route.tolist()) for route in routes.values()}) == len(routes)
    again = experts.randomise(routed, generator=seeds.generator(0, "gates"))
    for mine, theirs in zip(experts.gate_parameters(drawn), experts.gate_parameters(again), strict=True):
        assert torch.equal(mine, theirs)
