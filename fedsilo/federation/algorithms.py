"""What a site does in a round under each algorithm, and what of its model stays there: pure steps from states to states."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedsilo.errors import StateMismatchError
from fedsilo.federation import inside, states
from fedsilo.params import AlgorithmParams
from fedsilo.segmentation import apfl, training
from fedsilo.segmentation import network as networks
from fedsilo.segmentation.training import Pull, Stretch, Trained
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

PERSONAL, MOMENTS, MIX = "personal.", "moments.", "mix"
"""Names in what a site keeps under Ditto and APFL: its own model, that model's moments, APFL's mix."""


@dataclass(frozen=True)
class Turn:
    """What a site has after its training of a round.

    Attributes:
        local: State trained from the received one, with the site's own private entries.
        private: What the algorithm keeps at the site until its next turn; empty if nothing.
        personal: The algorithm's own model of the site; None where the fold over local states is.
        moments: AdamW's moments of the local model.
        mean_loss: Of the local model, over all steps.
    """

    local: StateDict
    private: StateDict
    personal: StateDict | None
    moments: StateDict
    mean_loss: float


def private_entries(network: nn.Module, algorithm: AlgorithmParams) -> frozenset[str]:
    """Name the entries of a network's state that never leave a site.

    FedBN: everything of norm layers. SiloBN: their running statistics. FedRep: the output layer. Others: nothing. Norm layers
    are found by their type, the output layer as the convolution or linear layer that is called last.

    Raises:
        StateMismatchError: The algorithm would keep nothing private: the network has no such layer.

    Reference:
        Li et al., FedBN, ICLR 2021; Andreux et al., SiloBN, DCL 2020; Collins et al., FedRep, ICML 2021.
    """
    roles = states.roles(network)
    match algorithm.name:
        case "fedbn":
            owners = [name for name, module in network.named_modules() if isinstance(module, networks.NORM_TYPES)]
            found = {entry for entry in roles if entry.rpartition(".")[0] in owners}
        case "silobn":
            found = set(inside.statistics_entries(roles))
        case "fedrep":
            found = {entry for entry in roles if entry.rpartition(".")[0] == networks.output_layer(network)}
        case _:
            return frozenset()
    if not found:
        raise StateMismatchError(f"{algorithm.name} needs layers that {type(network).__name__} does not have")
    return frozenset(found)


def hold(server: StateDict, private: StateDict | None, names: frozenset[str]) -> dict[str, Tensor]:
    """Put a site's own private entries into a global state: the global model as this site has it.

    Before its first turn a site has none, and takes the global state as it is.
    """
    own = {} if private is None else {name: private[name] for name in names}
    return states.copy({**server, **own})


def withhold(local: StateDict, server: StateDict, names: frozenset[str]) -> dict[str, Tensor]:
    """Make what leaves a site: its local state, with the received values in place of the private entries."""
    return states.copy({name: server[name] if name in names else value for name, value in local.items()})


def for_outside(
    server: StateDict,
    private: Sequence[StateDict],
    weights: Sequence[float],
    roles: Mapping[str, EntryRole],
    names: frozenset[str],
) -> dict[str, Tensor]:
    """Give a site that never took part a global state: private entries become the average over the sites that have them.

    Reference:
        FedBN and SiloBN leave a new site without norm layers. Ours: parameters averaged, running statistics pooled as
        `states.weighted_average` does, once, when the models are selected (ADR 0012).
    """
    if not names:
        return states.copy(server)
    own = [{name: state[name] for name in server if name in names} for state in private]
    return states.copy({**server, **states.weighted_average(own, weights, roles)})


def take_turn(
    network: nn.Module,
    *,
    server: StateDict,
    private: StateDict | None,
    algorithm: AlgorithmParams,
    stretch: Stretch,
    initial_moments: StateDict | None = None,
) -> Turn:
    """Let a site train in a round.

    - FedAvg, FedBN, SiloBN: epochs from the held state (`hold`).
    - FedProx: the same, pulled to the received state, ``mu/2 ||u - w||^2``, parameters only.
    - FedRep: ``head_epochs`` of the output layer alone, then epochs of all but it.
    - Ditto: FedAvg for the local model; then as many epochs of the site's own model v on the same batches, pulled to the
      received state w, ``lambda/2 ||v - w||^2``. v starts as the first received state and is never averaged.
    - APFL: see `apfl.train`; the site's model is the mixture.

    Args:
        network: On the device to train on; its state is overwritten.
        server: The received global state; not modified.
        private: What ``Turn.private`` was after the site's last turn; None before its first.
        algorithm: Its name and knobs.
        stretch: On what, how long, how.
        initial_moments: AdamW's moments of the local model to go on from; None starts at zero. The moments of Ditto's and
            APFL's own models are kept or started anew alike: they stand in ``private``.

    Reference:
        McMahan et al. 2017 (FedAvg); Li et al., MLSys 2020 (FedProx); Li et al., ICML 2021 (Ditto); Deng et al. 2020 (APFL).
        Deviation: AdamW instead of SGD in all of them; Ditto's two models take their steps one after the other.
    """
    names = private_entries(network, algorithm)
    states.restore(network, hold(server, private, names))
    match algorithm.name:
        case "apfl":
            return _apfl_turn(
                network, server, private or {}, algorithm=algorithm, stretch=stretch, initial_moments=initial_moments
            )
        case "fedrep":
            trained = _fedrep(network, names, algorithm, stretch, initial_moments)
        case "fedprox":
            trained = training.train(network, stretch, initial_moments=initial_moments, pull=Pull(server, algorithm.fedprox_mu))
        case _:
            trained = training.train(network, stretch, initial_moments=initial_moments)
    local = states.snapshot(network)
    kept: StateDict = {name: local[name] for name in names}
    personal: StateDict | None = None
    if algorithm.name == "ditto":
        kept, personal = _ditto_model(network, server, private or {}, algorithm, stretch)
    return Turn(local=local, private=kept, personal=personal, moments=trained.moments, mean_loss=trained.mean_loss)


def _fedrep(
    network: nn.Module, head: frozenset[str], algorithm: AlgorithmParams, stretch: Stretch, initial_moments: StateDict | None
) -> Trained:
    """Train the head with the body frozen, then the body with the head frozen."""
    body = {name for name, _ in network.named_parameters()} - head
    first = replace(stretch, epochs=algorithm.fedrep_head_epochs, stream=replace(stretch.stream, purpose="head"))
    of_head = training.train(network, first, initial_moments=initial_moments, trainable=head)
    of_body = training.train(network, stretch, initial_moments=of_head.moments, trainable=body)
    steps = of_head.num_steps + of_body.num_steps
    mean_loss = (of_head.mean_loss * of_head.num_steps + of_body.mean_loss * of_body.num_steps) / steps
    return Trained(of_body.moments, mean_loss, steps)


def _ditto_model(
    network: nn.Module, server: StateDict, private: StateDict, algorithm: AlgorithmParams, stretch: Stretch
) -> tuple[StateDict, StateDict]:
    """Train a site's own model further; return what is kept, and the model."""
    states.restore(network, _below(PERSONAL, private) or server)
    trained = training.train(
        network, stretch, initial_moments=_below(MOMENTS, private), pull=Pull(server, algorithm.ditto_lambda)
    )
    own = states.snapshot(network)
    return _under(PERSONAL, own) | _kept_moments(trained.moments, stretch), own


def _apfl_turn(
    network: nn.Module,
    server: StateDict,
    private: StateDict,
    *,
    algorithm: AlgorithmParams,
    stretch: Stretch,
    initial_moments: StateDict | None,
) -> Turn:
    """Train the local and the personal model side by side; the mixture is the site's model."""
    personal, mixed = copy.deepcopy(network), copy.deepcopy(network)
    states.restore(personal, _below(PERSONAL, private) or server)
    states.restore(mixed, states.snapshot(personal))  # its parameters are mixed anew, its buffers are its own
    trained = apfl.train(
        network,
        personal,
        mixed,
        stretch,
        mix=float(private[MIX]) if MIX in private else algorithm.apfl_mix,
        mix_rate=algorithm.apfl_mix_rate,
        initial_moments=initial_moments,
        initial_personal_moments=_below(MOMENTS, private),
    )
    model = states.snapshot(mixed)
    parameters = {name: value.detach() for name, value in personal.named_parameters()}
    kept = _under(PERSONAL, states.copy({name: parameters.get(name, value).cpu() for name, value in model.items()}))
    kept |= _kept_moments(trained.personal_moments, stretch) | {MIX: torch.tensor(trained.mix, dtype=torch.float64)}
    return Turn(
        local=states.snapshot(network), private=kept, personal=model, moments=trained.moments, mean_loss=trained.mean_loss
    )


def _kept_moments(moments: StateDict, stretch: Stretch) -> dict[str, Tensor]:
    """Keep the moments of a site's own model if the params keep moments."""
    return _under(MOMENTS, moments) if stretch.params.optimizer.moments == "keep" else {}


def _under(prefix: str, state: StateDict) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def _below(prefix: str, state: StateDict) -> dict[str, Tensor] | None:
    """Take what stands under a prefix; None if nothing does."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)} or None
