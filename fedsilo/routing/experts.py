"""Routed networks: every weighted layer becomes a mixture of the same layer of several experts."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fedsilo.errors import RoutingError
from fedsilo.federation import states as states_module
from fedsilo.routing.gates import Gate, GateMode, RoutedLayer
from fedsilo.segmentation import network as networks
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

GateTie = Literal["layer", "stage", "network"]
"""Which layers share the offset of their gates: none, those between two changes of resolution, or all."""

ROUTED_TYPES = (_ConvNd, nn.Linear)
"""Conv1-3d, ConvTranspose1-3d and Linear."""

ACTIVATION_TYPES = (nn.PReLU,)
"""Their weights are the prior's mixture and stay so."""


def global_prior(num_experts: int, prior_global: float) -> tuple[float, ...]:
    """Give the route before the first step: ``prior_global`` for the global model, which comes first, the rest shared.

    Example:
        >>> global_prior(3, 0.5)
        (0.5, 0.25, 0.25)
        >>> global_prior(1, 0.5)
        (1.0,)
    """
    if num_experts == 1:
        return (1.0,)
    return (prior_global, *[(1 - prior_global) / (num_experts - 1)] * (num_experts - 1))


def mixture(states: Sequence[StateDict], weights: Sequence[float]) -> dict[str, Tensor]:
    """Mix states: every floating entry is ``sum_e w_e x_e`` in float64, norm statistics too; integer entries are the maximum.

    Unlike ``states.weighted_average`` running variances are not pooled as moments: a mixture of experts stands for one
    model between them, not for one population of all their sites.

    Raises:
        StateMismatchError: There is no state, or the states differ.
    """
    if not states:
        return states_module.weighted_average(states, weights, {})
    roles: dict[str, EntryRole] = {
        name: "buffer" if tensor.is_floating_point() else "counter" for name, tensor in states[0].items()
    }
    return states_module.weighted_average(states, weights, roles)


def build(
    template: nn.Module, states: Sequence[StateDict], *, prior: Sequence[float], gate: GateMode, tie: GateTie = "layer"
) -> nn.Module:
    """Make a routed network: a copy of ``template`` in which every convolution and linear layer is a `RoutedLayer`.

    Works for any network whose weights are held by convolutions, linear layers, norm layers and PReLU. A module that stands
    in several places gets one route; if it is called several times in a pass, its gate must be static. Norm layers (scale,
    shift, statistics) and PReLU start from the prior's mixture. Trainable are the gates and the norm layers' scale and shift,
    all else is frozen. The network is in eval mode.

    Args:
        template: Gives the architecture; not modified, its weights do not matter.
        states: E experts, one state each; not modified and not referred to afterwards.
        prior: E shares that sum to one: the route of every layer before training. A share may be 0.
        gate: Whether routes depend on the layers' inputs.
        tie: Which layers share an offset. With ``stage``, layers that the network calls one after the other and whose results
            have one size are a stage.

    Returns:
        The routed network on the CPU; a drop-in for ``template``.

    Raises:
        RoutingError: There is no expert, the prior does not fit, or a module holds weights that cannot be routed.
        StateMismatchError: An expert's state is not one of ``template``.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> experts = [{"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[4.0]])}]
        >>> routed = build(layer, experts, prior=(0.75, 0.25), gate="static")
        >>> round(routed(torch.ones(1, 1)).item(), 5)
        1.0
    """
    _check_prior(prior, num_experts=len(states))
    network = copy.deepcopy(template).cpu().eval().requires_grad_(requires_grad=False)
    _check_weighted(network)
    for index, state in enumerate(states):
        states_module.check_same(network.state_dict(), state, f"expert {index}")
    states_module.restore(network, mixture(states, prior))
    offsets = _offsets(network, prior=prior, tie=tie)
    replacements: dict[int, RoutedLayer] = {}
    for name, module in network.named_modules():
        if isinstance(module, ROUTED_TYPES):
            replacements[id(module)] = _route(module, name, states, offset=offsets[name], gate=gate)
        elif isinstance(module, networks.NORM_TYPES):
            module.requires_grad_(requires_grad=True)
    if not replacements:
        raise RoutingError(f"cannot route {type(network).__name__}: it has no convolution or linear layer")
    if id(network) in replacements:
        return replacements[id(network)].eval()
    for parent in list(network.modules()):
        for child_name, child in list(parent._modules.items()):
            if id(child) in replacements:
                parent.register_module(child_name, replacements[id(child)])
    return network.eval()


def fresh(routed: nn.Module) -> nn.Module:
    """Copy a routed network; the experts' tensors, which nothing writes to, are shared with the copy."""
    shared: dict[int, object] = {}
    for layer in layers(routed).values():
        shared |= {id(stack): stack for stack in (layer.weights, layer.biases) if stack is not None}
    return copy.deepcopy(routed, shared)


def randomise(routed: nn.Module, *, generator: torch.Generator) -> nn.Module:
    """Copy a routed network and add ``N(0, 1)`` to the offsets of its gates: routes that say nothing, to compare with."""
    network = fresh(routed)
    offsets = {id(layer.gate.offset): layer.gate.offset for layer in layers(network).values()}
    with torch.no_grad():
        for offset in offsets.values():
            offset.add_(torch.randn(offset.shape, generator=generator, dtype=torch.float64).to(offset))
    return network


def layers(routed: nn.Module) -> dict[str, RoutedLayer]:
    """List the routed layers by name; one that stands in several places goes by its first."""
    return {name: module for name, module in routed.named_modules() if isinstance(module, RoutedLayer)}


def gate_parameters(routed: nn.Module) -> list[nn.Parameter]:
    """List the parameters of all gates, shared ones once; none if there is one expert, whose route is always 1."""
    gates = [layer.gate for layer in layers(routed).values() if layer.num_experts > 1]
    return list({id(parameter): parameter for gate in gates for parameter in gate.parameters()}.values())


def norm_parameters(routed: nn.Module) -> list[nn.Parameter]:
    """List scale and shift of all norm layers; none if they were built without."""
    return [
        parameter
        for module in routed.modules()
        if isinstance(module, networks.NORM_TYPES)
        for parameter in module.parameters(recurse=False)
    ]


def prior_mixed(routed: nn.Module) -> tuple[str, ...]:
    """Name the modules whose weights are the prior's mixture and are not trained: PReLU."""
    return tuple(name for name, module in routed.named_modules() if isinstance(module, ACTIVATION_TYPES))


def routes(routed: nn.Module, images: Float[Tensor, "b c *space"]) -> dict[str, Float[Tensor, " e"]]:
    """Measure the route of every layer on a batch, by the layer's name; as `run` has it."""
    with torch.no_grad():
        return run(routed, images)[1]


def run(routed: nn.Module, images: Float[Tensor, "b c *space"]) -> tuple[Tensor, dict[str, Float[Tensor, " e"]]]:
    """Run a routed network on a batch; also return the route that every layer took, by the layer's name, detached.

    Of ``sample`` gates it is the mean over items. A layer that the network has but never calls keeps the prior's.

    Raises:
        RoutingError: A gate that is not static was called several times, so that it has not one route.
    """
    by_name = layers(routed)
    seen: dict[str, list[Tensor]] = {name: [] for name in by_name}
    handles = [
        layer.gate.register_forward_hook(lambda _gate, _inputs, route, name=name: seen[name].append(route.detach()))
        for name, layer in by_name.items()
    ]
    try:
        logits: Tensor = routed(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in by_name.items():
        if layer.gate.slope is not None and len(seen[name]) > 1:
            raise RoutingError(
                f"cannot route {name} by {layer.gate.mode}: the network calls it {len(seen[name])} times; use static gates"
            )
    return logits, {
        name: (seen[name][0] if seen[name] else layer.gate.offset.detach().softmax(dim=0)).reshape(-1, layer.num_experts).mean(0)
        for name, layer in by_name.items()
    }


def merge(routed: nn.Module, routes: Mapping[str, Float[Tensor, " e"]]) -> dict[str, Tensor]:
    """Write the mixture that given routes make into an ordinary state of the template.

    Args:
        routed: Not modified.
        routes: Route of every layer, as `routes` gives them.

    Returns:
        A state with the template's names, shapes and dtypes, detached, on the CPU; mixed in float64.

    Raises:
        RoutingError: ``routes`` does not name the network's routed layers.
    """
    by_name = layers(routed)
    if by_name.keys() != routes.keys():
        differing = sorted(by_name.keys() ^ routes.keys())
        raise RoutingError(f"cannot merge: routes and layers differ in {len(differing)} names: {', '.join(differing[:3])}")
    mixed: dict[int, dict[str, Tensor]] = {}
    for name, layer in by_name.items():
        route = routes[name].detach().to(layer.weights.device, torch.float64)
        mixed[id(layer)] = layer.mix(route / route.sum())
    places = {
        f"{name}." if name else "": module
        for name, module in routed.named_modules(remove_duplicate=False)
        if isinstance(module, RoutedLayer)
    }
    state = {name: tensor for name, tensor in routed.state_dict().items() if not name.startswith(tuple(places))}
    for prefix, layer in places.items():
        state |= {f"{prefix}{entry}": tensor.to(layer.weights.dtype) for entry, tensor in mixed[id(layer)].items()}
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def disagreement(first: Integer[Tensor, "*space"], second: Integer[Tensor, "*space"]) -> tuple[int, int]:
    """Count where two experts' predicted classes differ, and the voxels where either sees foreground.

    Their ratio, over a site's cases, says whether there is anything to route: experts must differ.

    Example:
        >>> disagreement(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 0]))
        (2, 3)
    """
    return int((first != second).sum()), int(((first > 0) | (second > 0)).sum())


def _check_prior(prior: Sequence[float], *, num_experts: int) -> None:
    if num_experts == 0:
        raise RoutingError("cannot route: got no expert, expected at least one")
    fits = len(prior) == num_experts and all(math.isfinite(share) and share >= 0 for share in prior)
    if not fits or not math.isclose(math.fsum(prior), 1, rel_tol=1e-6):
        raise RoutingError(f"cannot route: expected a prior of {num_experts} shares that sum to 1, got {list(prior)}")


def _check_weighted(network: nn.Module) -> None:
    """Refuse weights that no rule covers: they would silently be one mixture for all cases."""
    holders: dict[int, str] = {}
    for name, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        where = f"{name or 'the network itself'} ({type(module).__name__})"
        if own and not isinstance(module, ROUTED_TYPES + networks.NORM_TYPES + ACTIVATION_TYPES):
            raise RoutingError(
                f"cannot route {where}: it holds {', '.join(sorted(own)[:3])}, and only convolutions and linear layers are routed"
            )
        if isinstance(module, ROUTED_TYPES):
            foreign = sorted({*own, *module._modules, *module._buffers} - {"weight", "bias"})
            if foreign or "weight" not in own:
                raise RoutingError(
                    f"cannot route {where}: expected weight and bias of its own, got {', '.join(foreign) or 'no weight'}"
                )
        for entry, parameter in own.items():
            if id(parameter) in holders:
                raise RoutingError(f"cannot route {where}: it shares {entry} with {holders[id(parameter)]}, a different module")
            holders[id(parameter)] = where


def _offsets(network: nn.Module, *, prior: Sequence[float], tie: GateTie) -> dict[str, nn.Parameter]:
    """Make the offsets of all layers' gates; layers that are tied share one."""
    names = [name for name, module in network.named_modules() if isinstance(module, ROUTED_TYPES)]
    shared = {name: name for name in names}
    if tie == "network":
        shared = dict.fromkeys(names, "")
    elif tie == "stage":
        stages: dict[str, str] = {}
        stage, previous = "", None
        for name, size in networks.calls(network):
            if size != previous:
                stage, previous = name, size
            stages.setdefault(name, stage)
        shared |= stages
    made: dict[str, nn.Parameter] = {}
    for name, module in network.named_modules():
        if name in shared:
            like = next(module.parameters(recurse=False))
            made.setdefault(shared[name], nn.Parameter(like.new_tensor(prior).log()))
    return {name: made[shared[name]] for name in names}


def _route(module: nn.Module, name: str, states: Sequence[StateDict], *, offset: nn.Parameter, gate: GateMode) -> RoutedLayer:
    prefix = f"{name}." if name else ""
    stacks = {
        entry: torch.stack([state[f"{prefix}{entry}"].detach().cpu() for state in states])
        for entry, _ in module.named_parameters(recurse=False)
    }
    if isinstance(module, _ConvNd):
        num_inputs, channel_axis = module.in_channels, -1 - len(module.kernel_size)
    else:
        num_inputs, channel_axis = stacks["weight"].shape[-1], -1
    made = Gate(offset, mode=gate, num_inputs=num_inputs, channel_axis=channel_axis)
    return RoutedLayer(module, stacks["weight"], stacks.get("bias"), made)
