"""Laws of routed networks: what a mixture of experts is, and what it leaves alone."""

import copy

import pytest
import torch
from monai.networks.nets import AttentionUnet, BasicUNet, DynUNet, SegResNet, UNet
from torch import nn
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.federation import states
from fedsilo.routing import baselines, experts

E = 3
PRIOR = experts.global_prior(E, 0.5)


def unet(spatial_dims, norm):
    return UNet(spatial_dims, 1, 3, channels=(4, 8, 8), strides=(2, 2), num_res_units=1, norm=norm)


def dynunet():
    return DynUNet(2, 1, 3, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[4, 8, 8])


class Tied(nn.Module):
    """One convolution under two names, and a linear head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.again = nn.ModuleList([nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)])
        self.last = self.again[0]
        self.head = nn.Linear(2, 3)

    def forward(self, images):
        features = self.again[1](self.last(self.first(images)).relu())
        return self.head(features.movedim(1, -1)).movedim(-1, 1)


NETWORKS = {
    "unet_2d_batch": (lambda: unet(2, "BATCH"), (2, 1, 16, 16)),
    "unet_3d_batch": (lambda: unet(3, "BATCH"), (1, 1, 8, 8, 8)),
    "unet_3d_instance": (lambda: unet(3, "INSTANCE"), (1, 1, 8, 8, 8)),
    "basic_unet_2d": (lambda: BasicUNet(2, 1, 3, features=(4, 4, 4, 4, 4, 4)), (1, 1, 32, 32)),
    "segresnet_3d": (
        lambda: SegResNet(3, init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 1), blocks_up=(1,)),
        (1, 1, 8, 8, 8),
    ),
    "dynunet_2d": (dynunet, (1, 1, 16, 16)),
    "attention_unet_2d": (lambda: AttentionUnet(2, 1, 3, channels=(4, 8), strides=(2,)), (2, 1, 16, 16)),
    "tied_and_linear": (Tied, (2, 1, 8, 8)),
}


def random_state(template, generator):
    """Any state of the template: weights, and norm statistics that are no longer those of a new network."""
    state = states.snapshot(template)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                / max(1, tensor[0].numel() if tensor.ndim else 1) ** 0.5
            )
        if name.endswith(("running_var", "N.weight")):
            tensor.abs_().add_(0.5)
    return state


@pytest.fixture(params=NETWORKS)
def family(request):
    """A network, a batch of images and E states of it."""
    make, shape = NETWORKS[request.param]
    generator = seeds.generator(0, "routing", request.param)
    with torch.random.fork_rng():
        template = make().double().eval()
    return template, torch.randn(shape, generator=generator, dtype=torch.float64), tied_states(template, generator)


def tied_states(template, generator):
    """E states in which tensors that the network lists twice are equal."""
    found = []
    for _ in range(E):
        network = copy.deepcopy(template)
        network.load_state_dict(random_state(template, generator))
        found.append(states.snapshot(network))
    return found


def predict(template, state, images):
    network = copy.deepcopy(template)
    states.restore(network, state)
    with torch.no_grad():
        return network.eval()(images)


def move_gates(routed, generator):
    """Set gates to anything but where they start."""
    with torch.no_grad():
        for parameter in experts.gate_parameters(routed):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


@pytest.mark.parametrize("gate", ["static", "case"])
def test_one_hot_route_is_that_expert(family, gate):
    template, images, found = family
    for index in range(E):
        one_hot = [float(other == index) for other in range(E)]

        routed = experts.build(template, found, prior=one_hot, gate=gate)

        assert_close(routed(images).detach(), predict(template, found[index], images), rtol=1e-5, atol=1e-5)


def test_step_zero_is_the_soup_of_the_prior(family):
    template, images, found = family

    routed = experts.build(template, found, prior=PRIOR, gate="case")

    assert_close(routed(images).detach(), predict(template, experts.mixture(found, PRIOR), images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate", ["static", "case"])
def test_routes_sum_to_one(family, gate):
    template, images, found = family
    routed = experts.build(template, found, prior=PRIOR, gate=gate)
    move_gates(routed, seeds.generator(1, "gates"))

    routes = experts.routes(routed, images)

    assert routes.keys() == experts.layers(routed).keys()
    for route in routes.values():
        assert route.shape == (E,)
        assert_close(route.sum(), torch.tensor(1.0, dtype=route.dtype))


def test_every_weighted_layer_has_one_route(family):
    template, images, found = family
    routed = experts.build(template, found, prior=PRIOR, gate="static")

    weighted = [module for module in template.modules() if isinstance(module, experts.ROUTED_TYPES)]

    assert len(experts.routes(routed, images)) == len(weighted)
    gates = {id(parameter) for parameter in experts.gate_parameters(routed)}
    assert len(gates) == len(weighted)


@pytest.mark.parametrize("gate", ["static", "case"])
def test_merged_is_routed(family, gate):
    template, images, found = family
    routed = experts.build(template, found, prior=PRIOR, gate=gate)
    move_gates(routed, seeds.generator(2, "gates"))

    merged = experts.merge(routed, experts.routes(routed, images))

    states.check_same(states.snapshot(template), merged, "merged state")
    assert_close(predict(template, merged, images), routed(images).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate", ["static", "case"])
def test_equal_experts_make_routes_irrelevant(family, gate):
    template, images, found = family
    routed = experts.build(template, [found[0]] * E, prior=PRIOR, gate=gate)
    move_gates(routed, seeds.generator(3, "gates"))

    assert_close(routed(images).detach(), predict(template, found[0], images), rtol=1e-5, atol=1e-5)


def test_every_gate_has_a_gradient(family):
    template, images, found = family
    routed = experts.build(template, found, prior=PRIOR, gate="case")
    move_gates(routed, seeds.generator(4, "gates"))

    (routed(images).softmax(dim=1)[:, 1] * images[:, 0]).sum().backward()

    for name, layer in experts.layers(routed).items():
        assert layer.gate.offset.grad.abs().max() > 0, name
        assert layer.gate.slope.grad.abs().max() > 0, name


def test_only_gates_and_norms_are_trained(family):
    template, _, found = family
    routed = experts.build(template, found, prior=PRIOR, gate="case")

    trained = {id(parameter) for parameter in routed.parameters() if parameter.requires_grad}

    assert trained == {id(parameter) for parameter in experts.gate_parameters(routed) + experts.norm_parameters(routed)}


def test_inputs_are_not_modified_and_not_referred_to(family):
    template, images, found = family
    before = [states.digest(state) for state in found], states.digest(states.snapshot(template))

    routed = experts.build(template, found, prior=PRIOR, gate="case")
    expected = routed(images).detach()
    after = [states.digest(state) for state in found], states.digest(states.snapshot(template))
    for state in found:
        for tensor in state.values():
            tensor.zero_()

    assert before == after
    assert torch.equal(routed(images).detach(), expected)


def test_a_copy_is_independent_but_shares_the_experts(family):
    template, images, found = family
    routed = experts.build(template, found, prior=PRIOR, gate="static")
    expected = routed(images).detach()

    copied = experts.fresh(routed)
    move_gates(copied, seeds.generator(5, "gates"))

    assert torch.equal(routed(images).detach(), expected)
    assert not torch.allclose(copied(images), expected)
    for mine, theirs in zip(experts.layers(copied).values(), experts.layers(routed).values(), strict=True):
        assert mine.weights.data_ptr() == theirs.weights.data_ptr()


def test_a_case_gate_sees_the_mean_of_its_input():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    found = [{"weight": torch.full((1, 1, 1, 1), float(index))} for index in range(2)]
    routed = experts.build(layer, found, prior=(0.5, 0.5), gate="case")
    with torch.no_grad():
        routed.gate.slope.copy_(torch.tensor([[0.0], [1.0]]))

    route = experts.routes(routed, torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1))[""]

    assert_close(route, torch.tensor([0.0, 2.0]).softmax(dim=0))


def test_a_layer_that_is_never_called_keeps_the_prior():
    class Idle(nn.Sequential):
        def forward(self, images):
            return self[0](images)

    found = [{f"{index}.weight": torch.full((1, 1, 1, 1), float(expert)) for index in range(2)} for expert in range(2)]
    template = Idle(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    routed = experts.build(template, found, prior=(0.25, 0.75), gate="case")

    routes = experts.routes(routed, torch.ones(1, 1, 2, 2))

    assert_close(routes["1"], torch.tensor([0.25, 0.75]))
    assert_close(experts.merge(routed, routes)["1.weight"], experts.mixture(found, (0.25, 0.75))["1.weight"])


def test_a_mixture_is_entry_by_entry():
    found = [
        {"running_var": torch.tensor([1.0]), "num": torch.tensor(3)},
        {"running_var": torch.tensor([3.0]), "num": torch.tensor(7)},
    ]

    mixed = experts.mixture(found, (0.25, 0.75))

    assert_close(mixed["running_var"], torch.tensor([2.5]))
    assert int(mixed["num"]) == 7


def test_soup_of_equal_states_is_that_state(family):
    _, _, found = family

    soup = baselines.uniform_soup([found[0]] * E)

    for name, tensor in found[0].items():
        assert_close(soup[name], tensor)


def test_ensemble_of_one_is_it_and_of_many_their_mean():
    first, second = torch.tensor([[0.2, 1.0], [0.8, 0.0]]), torch.tensor([[0.4, 0.0], [0.6, 1.0]])

    assert torch.equal(baselines.ensemble_probs([first]), first)
    assert_close(baselines.ensemble_probs([first, second]), torch.tensor([[0.3, 0.5], [0.7, 0.5]]))
    assert torch.equal(baselines.ensemble_probs([first, second]), baselines.ensemble_probs([second, first]))


@pytest.mark.parametrize("num_experts", [1, 2, 5])
def test_global_prior_sums_to_one(num_experts):
    shares = experts.global_prior(num_experts, 0.5)

    assert len(shares) == num_experts
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == max(shares)
