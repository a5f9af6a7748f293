"""Every operation on a state: taking it out of a network, comparing, averaging, storing."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedsilo import files
from fedsilo.errors import CheckpointError, StateMismatchError
from fedsilo.tensors import StateDict
from fedsilo.types import EntryRole

NUM_NAMED = 3
"""Differing entries that an error message names."""

NORM_BLOCK = 16384
"""Values summed at once in a norm: few enough that torch does not split the sum over threads, whose number would show."""

HEADER_LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header, little-endian."""

NORM_ROLES: Mapping[str, EntryRole] = {
    "running_mean": "norm_mean",
    "running_var": "norm_variance",
    "num_batches_tracked": "counter",
}


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """Copy a network's parameters and buffers: the only way a state leaves a network.

    Returns:
        Detached contiguous CPU clones by name. No entry shares memory with the network or with another entry, also where
        the network lists one tensor under two names.

    Raises:
        StateMismatchError: The network keeps something other than tensors in its state.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> state = snapshot(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> float(layer.bias.detach() - state["bias"])
        1.0
    """
    return {name: _copy(tensor).cpu() for name, tensor in _entries(network).items()}


def restore(network: nn.Module, state: StateDict) -> None:
    """Write a state into a network, in place; the network keeps its device and shares no memory with ``state``.

    Raises:
        StateMismatchError: Names, shapes or dtypes differ from the network's; names the first three.
    """
    check_same(_entries(network), state, "state to restore")
    network.load_state_dict(state, strict=True)


def roles(network: nn.Module) -> dict[str, EntryRole]:
    """Find out what each entry of a network's state is, by the type of the module that holds it.

    Running means and variances belong to any normalisation layer that tracks them (BatchNorm, InstanceNorm); of the other
    buffers integers are counters and the rest plain buffers.

    Example:
        >>> roles(nn.BatchNorm1d(2, affine=False))
        {'running_mean': 'norm_mean', 'running_var': 'norm_variance', 'num_batches_tracked': 'counter'}
    """
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    norms = {prefix for prefix, module in network.named_modules(remove_duplicate=False) if isinstance(module, _NormBase)}
    found: dict[str, EntryRole] = {}
    for name, tensor in _entries(network).items():
        prefix, _, leaf = name.rpartition(".")
        if name in parameters:
            found[name] = "parameter"
        elif prefix in norms and leaf in NORM_ROLES:
            found[name] = NORM_ROLES[leaf]
        else:
            found[name] = "buffer" if tensor.is_floating_point() else "counter"
    return found


def check_same(reference: StateDict, other: StateDict, who: str) -> None:
    """Check that two states have the same names, shapes and dtypes; devices may differ.

    Raises:
        StateMismatchError: They have not; names ``who`` and the first three differences.

    Example:
        >>> check_same({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, "update of 'ct-a'")
        Traceback (most recent call last):
        ...
        fedsilo.errors.StateMismatchError: update of 'ct-a' differs in 1 entries: w is float32 (3,), expected float32 (2,)
    """
    problems = [f"lacks {name}" for name in sorted(reference.keys() - other.keys())]
    problems += [f"has unknown {name}" for name in sorted(other.keys() - reference.keys())]
    problems += [
        f"{name} is {_describe(other[name])}, expected {_describe(reference[name])}"
        for name in sorted(reference.keys() & other.keys())
        if _describe(reference[name]) != _describe(other[name])
    ]
    if problems:
        raise StateMismatchError(f"{who} differs in {len(problems)} entries: " + "; ".join(problems[:NUM_NAMED]))


def subtract(after: StateDict, before: StateDict) -> dict[str, Tensor]:
    """Return the delta ``after - before`` of the floating entries, in float64, on the device of ``before``.

    Integer entries are counts and have no delta.

    Raises:
        StateMismatchError: The two states differ in names, shapes or dtypes.
    """
    check_same(before, after, "state after")
    return {
        name: after[name].to(tensor.device, torch.float64) - tensor.to(torch.float64)
        for name, tensor in before.items()
        if tensor.is_floating_point()
    }


def norm(delta: StateDict) -> float:
    """Return the Euclidean norm of all floating entries together, in float64; 0 if there are none.

    Example:
        >>> norm({"a": torch.tensor([3.0]), "b": torch.tensor(4.0)})
        5.0
    """
    sums = (block_sums(tensor) for tensor in delta.values() if tensor.is_floating_point())
    return math.sqrt(math.fsum(itertools.chain.from_iterable(sums)))


def block_sums(tensor: Tensor) -> list[float]:
    """Return the sums of squares of a tensor's blocks, in float64; their exact sum does not depend on threads."""
    flat = tensor.detach().to(torch.float64).flatten()
    return [float(flat[start : start + NORM_BLOCK].square().sum()) for start in range(0, flat.numel(), NORM_BLOCK)]


def weighted_average(states: Sequence[StateDict], weights: Sequence[float], roles: Mapping[str, EntryRole]) -> dict[str, Tensor]:
    """Average states in float64, summing in the order given.

    With shares ``p = weights / sum(weights)``: parameters, floating buffers and norm means are ``sum p x``; norm variances are
    pooled as moments, ``sum p (var + (mean - pooled mean)^2)``, which equals ``sum p (var + mean^2) - pooled mean^2`` and
    cannot become negative; counters are the maximum.

    Args:
        states: One or more states with the same names, shapes and dtypes; not modified.
        weights: As many, non-negative, not all zero; need not sum to one.
        roles: Role of every entry.

    Returns:
        A new state with the names, dtypes and devices of the first.

    Raises:
        StateMismatchError: There is no state, the states differ, or an entry has no role or one that does not fit its dtype.
        ValueError: The weights are not as described.

    Reference:
        FedAvg, McMahan et al. 2017. Deviation: running variances are pooled with the spread of the running means, where
        FedAvg would average them (ADR 0004).

    Example:
        >>> average = weighted_average([{"w": torch.tensor(0.0)}, {"w": torch.tensor(4.0)}], [3.0, 1.0], {"w": "parameter"})
        >>> float(average["w"])
        1.0
    """
    if not states:
        raise StateMismatchError("cannot average states: got none, expected at least one")
    if len(weights) != len(states) or not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError(f"expected {len(states)} finite non-negative weights with a positive sum, got {list(weights)}")
    for index, state in enumerate(states[1:], start=1):
        check_same(states[0], state, f"state {index} to average")
    check_roles(states[0], roles)
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    return {name: _average_entry(name, states, shares, roles[name]) for name in states[0]}


def lerp(history: StateDict, local: StateDict, momentum: float) -> dict[str, Tensor]:
    """Blend two states: ``momentum * history + (1 - momentum) * local`` in float64; integer entries are copied from ``local``.

    Args:
        history: Not modified.
        local: Same names, shapes and dtypes; not modified.
        momentum: Weight of ``history``, in [0, 1].

    Returns:
        A new state with the names, dtypes and devices of ``local``, sharing memory with neither.

    Raises:
        StateMismatchError: The two states differ; names the first three differences.
        ValueError: ``momentum`` is outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"expected a momentum in [0, 1], got {momentum}")
    check_same(history, local, "local state")
    return {
        name: _weighted_sum([history[name], tensor], [momentum, 1 - momentum], like=tensor).to(tensor.dtype)
        if tensor.is_floating_point()
        else _copy(tensor)
        for name, tensor in local.items()
    }


def copy(state: StateDict) -> dict[str, Tensor]:
    """Copy a state entry by entry, on its devices; the copy shares no memory with it."""
    return {name: _copy(tensor) for name, tensor in state.items()}


def check_roles(state: StateDict, roles: Mapping[str, EntryRole]) -> None:
    """Check that every entry has a role, and that only counters are integers.

    Raises:
        StateMismatchError: Names the first three entries that break this.
    """
    missing = sorted(state.keys() - roles.keys())
    if missing:
        raise StateMismatchError(f"{len(missing)} entries have no role: {', '.join(missing[:NUM_NAMED])}")
    unfit = sorted(name for name, tensor in state.items() if tensor.is_floating_point() == (roles[name] == "counter"))
    if unfit:
        described = [f"{name} is {_describe(state[name])}, role {roles[name]}" for name in unfit[:NUM_NAMED]]
        raise StateMismatchError(f"{len(unfit)} entries do not fit their role: " + "; ".join(described))


def digest(state: StateDict) -> str:
    """Hash a state's content; hex SHA-256 over sorted names, dtypes, shapes and bytes.

    Equal states have equal digests whatever their devices, order and memory layout.

    Example:
        >>> digest({"a": torch.zeros(2), "b": torch.ones(1)}) == digest({"b": torch.ones(1), "a": torch.zeros(2)})
        True
    """
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save(state: StateDict, path: Path, metadata: Mapping[str, str] | None = None) -> str:
    """Store a state as safetensors; equal states and metadata give equal bytes.

    The file is whole or absent. Entries that share memory are stored one by one.

    Returns:
        Hex SHA-256 of the file.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {name: _copy(state[name]).cpu() for name in sorted(state)}
    content = _sort_header(safetensors.torch.save(tensors, metadata=dict(metadata) if metadata else None))
    files.write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def load(path: Path, expected_sha256: str | None = None) -> dict[str, Tensor]:
    """Read a state stored by `save`, on the CPU; runs no code from the file.

    Raises:
        CheckpointError: The file is missing, cut off, not safetensors, or has another SHA-256 than expected.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    found_sha256 = hashlib.sha256(content).hexdigest()
    if expected_sha256 is not None and found_sha256 != expected_sha256:
        raise CheckpointError(f"{path} has SHA-256 {found_sha256}, expected {expected_sha256}")
    try:
        state = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot use {path} as safetensors: {' '.join(str(error).split())}") from error
    return {name: state[name] for name in sorted(state)}


def _entries(network: nn.Module) -> dict[str, Tensor]:
    """List a network's state, refusing what is no tensor."""
    entries = network.state_dict()
    others = sorted(name for name, value in entries.items() if not isinstance(value, Tensor))
    if others:
        raise StateMismatchError(f"the network keeps other things than tensors in its state: {', '.join(others[:NUM_NAMED])}")
    return entries


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _average_entry(name: str, states: Sequence[StateDict], shares: Sequence[float], role: EntryRole) -> Tensor:
    """Average one entry by its role."""
    like = states[0][name]
    values = [state[name] for state in states]
    if role == "counter":
        highest = _copy(like)
        for value in values[1:]:
            highest = torch.maximum(highest, value.to(like.device))
        return highest
    average = _weighted_sum(values, shares, like=like)
    if role == "norm_variance":
        mean_name = name.removesuffix("running_var") + "running_mean"
        if mean_name not in states[0]:
            raise StateMismatchError(f"cannot pool {name}: the states lack {mean_name}")
        means = [state[mean_name] for state in states]
        pooled_mean = _weighted_sum(means, shares, like=like)
        average += _weighted_sum(means, shares, like=like, prepare=lambda mean: (mean - pooled_mean).square())
    return average.to(like.dtype)


def _weighted_sum(
    tensors: Sequence[Tensor],
    shares: Sequence[float],
    *,
    like: Tensor,
    prepare: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Tensor:
    """Sum ``share * prepare(tensor)`` in float64, in the order given, on the device of ``like``."""
    # float64: a float32 sum over sites depends on their order in the last digits, and parity compares those
    total = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * prepare(tensor.detach().to(like.device, torch.float64))
    return total


def _sort_header(content: bytes) -> bytes:
    """Rewrite a safetensors header with sorted keys: the library writes metadata in random order."""
    start = HEADER_LENGTH_BYTES + int.from_bytes(content[:HEADER_LENGTH_BYTES], "little")
    header = json.loads(content[HEADER_LENGTH_BYTES:start])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_LENGTH_BYTES)
    return len(text).to_bytes(HEADER_LENGTH_BYTES, "little") + text + content[start:]
