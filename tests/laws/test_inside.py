"""Laws of the inside fold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from fedsilo.errors import StateMismatchError
from fedsilo.federation import states
from fedsilo.federation.inside import fold

seeds = st.integers(0, 2**32)
momenta = st.floats(0, 1)
fast = settings(deadline=None, max_examples=50)


def make_state(seed, dtype=torch.float64):
    numbers = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(3, 2, generator=numbers, dtype=torch.float64).to(dtype),
        "norm.running_var": torch.rand(2, generator=numbers, dtype=torch.float64).to(dtype),
        "norm.num_batches_tracked": torch.randint(1000, (), generator=numbers),
    }


def fold_rounds(rounds, momentum):
    personal = None
    for local in rounds:
        personal = fold(personal, local, momentum=momentum)
    return personal


def closed_form(global_states, local_states, momentum):
    """theta^0 + sum_s (1 - m^(n-s)) D^s + sum_s c_s d^s, with c_0 = m^n and c_s = (1 - m) m^(n-s)."""
    last = len(local_states) - 1
    total = {}
    for name in ("layer.weight", "norm.running_var"):
        value = global_states[0][name].clone()
        for index in range(last):
            value += (1 - momentum ** (last - index)) * (global_states[index + 1][name] - global_states[index][name])
        for index in range(last + 1):
            share = momentum**last if index == 0 else (1 - momentum) * momentum ** (last - index)
            value += share * (local_states[index][name] - global_states[index][name])
        total[name] = value
    return total


@fast
@given(seeds, momenta, st.integers(1, 8))
def test_the_fold_is_the_closed_form_of_global_and_local_steps(seed, momentum, num_rounds):
    global_states = [make_state(seed + index) for index in range(num_rounds)]
    local_states = [make_state(seed + 100 + index) for index in range(num_rounds)]

    personal = fold_rounds(local_states, momentum)

    for name, expected in closed_form(global_states, local_states, momentum).items():
        assert_close(personal[name], expected, rtol=1e-12, atol=1e-12)


@fast
@given(seeds, momenta)
def test_the_fold_pulls_to_the_global_state_and_then_steps(seed, momentum):
    personal, theta, local = make_state(seed), make_state(seed + 1), make_state(seed + 2)

    folded = fold(personal, local, momentum=momentum)

    for name in ("layer.weight", "norm.running_var"):
        step = (theta[name] - personal[name]) + (local[name] - theta[name])
        assert_close(folded[name], personal[name] + (1 - momentum) * step, rtol=1e-12, atol=1e-12)


@fast
@given(seeds, st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_momentum_zero_keeps_only_the_last_round(seed, dtype):
    local = make_state(seed + 1, dtype)

    assert states.digest(fold(make_state(seed, dtype), local, momentum=0.0)) == states.digest(local)


@fast
@given(seeds, st.integers(1, 5))
def test_momentum_one_never_learns(seed, num_rounds):
    rounds = [make_state(seed + index, torch.float32) for index in range(num_rounds)]

    personal = fold_rounds(rounds, 1.0)

    assert torch.equal(personal["layer.weight"], rounds[0]["layer.weight"])
    assert torch.equal(personal["norm.running_var"], rounds[0]["norm.running_var"])


@fast
@given(seeds, momenta, st.integers(1, 8))
def test_a_constant_state_is_a_fixed_point(seed, momentum, num_rounds):
    local = make_state(seed, torch.float32)

    assert states.digest(fold_rounds([local] * num_rounds, momentum)) == states.digest(local)


@fast
@given(seeds, momenta)
def test_integers_are_the_last_round_s(seed, momentum):
    personal, local = make_state(seed), make_state(seed + 1)

    counter = fold(personal, local, momentum=momentum)["norm.num_batches_tracked"]

    assert counter.dtype == torch.int64
    assert torch.equal(counter, local["norm.num_batches_tracked"])


@fast
@given(seeds, momenta)
def test_nothing_given_is_modified_or_shared(seed, momentum):
    personal, local = make_state(seed), make_state(seed + 1)
    before = states.digest(personal), states.digest(local)

    results = [fold(None, local, momentum=momentum), fold(personal, local, momentum=momentum)]

    assert (states.digest(personal), states.digest(local)) == before
    addresses = [tensor.data_ptr() for state in (personal, local, *results) for tensor in state.values()]
    assert len(set(addresses)) == len(addresses)


def test_the_first_participation_is_a_copy():
    local = make_state(0)

    assert states.digest(fold(None, local, momentum=0.9)) == states.digest(local)


def test_sites_that_train_one_network_object_in_turn_do_not_alias():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    inside_states = {}
    for value, site in ((1.0, "a"), (2.0, "b")):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)
        inside_states[site] = fold(None, states.snapshot(network), momentum=0.1)

    assert float(inside_states["a"]["0.weight"].mean()) == 1.0
    assert float(inside_states["b"]["0.weight"].mean()) == 2.0


def test_a_live_state_dict_does_not_reach_an_inside_model():
    """The released first fold stored live references, which the next site's training overwrote."""
    network = nn.Linear(2, 2)
    personal = fold(None, network.state_dict(), momentum=0.1)
    before = states.digest(personal)

    with torch.no_grad():
        network.weight.zero_()

    assert states.digest(personal) == before


def test_a_missed_round_changes_nothing():
    rounds = [make_state(seed) for seed in range(3)]

    kept = fold_rounds([rounds[0], rounds[2]], 0.3)

    assert_close(kept["layer.weight"], 0.3 * rounds[0]["layer.weight"] + 0.7 * rounds[2]["layer.weight"])


@pytest.mark.parametrize("personal", [{"w": torch.zeros(2)}, {"w": torch.zeros(1), "v": torch.zeros(1)}, {}])
def test_another_network_s_history_is_refused(personal):
    with pytest.raises(StateMismatchError, match="local state differs in 1 entries"):
        fold(personal, {"w": torch.zeros(1)}, momentum=0.5)


@pytest.mark.parametrize("momentum", [-0.01, 1.01])
def test_momentum_is_a_share(momentum):
    with pytest.raises(ValueError, match=r"expected a momentum in \[0, 1\]"):
        fold(make_state(0), make_state(1), momentum=momentum)
