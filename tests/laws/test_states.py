"""Laws of averaging, blending, hashing and measuring states."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fedsilo.federation import states

ROLES = {
    "layer.weight": "parameter",
    "norm.running_mean": "norm_mean",
    "norm.running_var": "norm_variance",
    "norm.num_batches_tracked": "counter",
    "window": "buffer",
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]

seeds = st.integers(0, 2**32)
shares = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=6)
fast = settings(deadline=None, max_examples=50)


def make_state(seed, dtype=torch.float64):
    numbers = torch.Generator().manual_seed(seed)
    scale = 10.0 ** int(torch.randint(-3, 4, (), generator=numbers))
    return {
        "layer.weight": (scale * torch.randn(3, 2, generator=numbers, dtype=torch.float64)).to(dtype),
        "norm.running_mean": (scale * torch.randn(4, generator=numbers, dtype=torch.float64)).to(dtype),
        "norm.running_var": (scale * torch.rand(4, generator=numbers, dtype=torch.float64)).to(dtype),
        "norm.num_batches_tracked": torch.randint(1000, (), generator=numbers),
        "window": (scale * torch.randn((), generator=numbers, dtype=torch.float64)).to(dtype),
    }


def make_states(seed, count, dtype=torch.float64):
    return [make_state(seed + index, dtype) for index in range(count)]


@fast
@given(seeds, shares, st.sampled_from(DTYPES))
def test_equal_states_average_to_themselves(seed, weights, dtype):
    state = make_state(seed, dtype)

    average = states.weighted_average([state] * len(weights), weights, ROLES)

    # float64: shares sum to 1 up to a rounding each; narrower dtypes round that away
    rtol = 1e-14 if dtype is torch.float64 else 0.0
    for name in ROLES:
        assert_close(average[name], state[name], rtol=rtol, atol=0)


@fast
@given(seeds, st.sampled_from(DTYPES))
def test_one_state_is_its_own_average_in_new_memory(seed, dtype):
    state = make_state(seed, dtype)

    average = states.weighted_average([state], [3.0], ROLES)

    assert states.digest(average) == states.digest(state)
    assert {tensor.data_ptr() for tensor in average.values()}.isdisjoint(tensor.data_ptr() for tensor in state.values())


@fast
@given(seeds, shares, st.floats(1e-3, 1e3))
def test_only_ratios_of_weights_count(seed, weights, factor):
    several = make_states(seed, len(weights))

    average = states.weighted_average(several, weights, ROLES)
    scaled = states.weighted_average(several, [factor * weight for weight in weights], ROLES)

    for name in ROLES:
        assert_close(scaled[name], average[name], rtol=1e-9, atol=1e-9)


@fast
@given(seeds, shares)
def test_weight_zero_is_absence(seed, weights):
    several = make_states(seed, len(weights))
    roles = {name: role for name, role in ROLES.items() if role != "counter"}
    floats = [{name: state[name] for name in roles} for state in several]

    average = states.weighted_average([*floats, {name: floats[0][name] + 5 for name in roles}], [*weights, 0.0], roles)

    for name, tensor in states.weighted_average(floats, weights, roles).items():
        assert_close(average[name], tensor, rtol=0, atol=0)


@fast
@given(seeds, shares)
def test_moments_are_those_of_all_samples_together(seed, weights):
    several = make_states(seed, len(weights))
    probabilities = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)

    average = states.weighted_average(several, weights, ROLES)

    means = torch.stack([state["norm.running_mean"] for state in several])
    second_moments = torch.stack([state["norm.running_var"] for state in several]) + means**2
    pooled_mean = torch.einsum("k,kc->c", probabilities, means)
    pooled_second = torch.einsum("k,kc->c", probabilities, second_moments)
    scale = float(second_moments.max())  # the subtraction below cancels, ours does not
    assert_close(average["norm.running_mean"], pooled_mean, rtol=1e-12, atol=1e-12)
    assert_close(average["norm.running_var"], pooled_second - pooled_mean**2, rtol=0, atol=1e-12 * scale)


@fast
@given(seeds, shares, st.floats(-1e8, 1e8))
def test_pooled_variance_is_not_below_the_mean_variance(seed, weights, shift):
    several = [{**state, "norm.running_mean": state["norm.running_mean"] + shift} for state in make_states(seed, len(weights))]
    probabilities = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)

    average = states.weighted_average(several, weights, ROLES)

    mean_variance = torch.einsum("k,kc->c", probabilities, torch.stack([state["norm.running_var"] for state in several]))
    assert bool((average["norm.running_var"] >= mean_variance * (1 - 1e-12)).all())


@fast
@given(seeds, shares)
def test_counters_are_the_maximum_and_stay_integers(seed, weights):
    several = make_states(seed, len(weights))

    average = states.weighted_average(several, weights, ROLES)

    highest = max(int(state["norm.num_batches_tracked"]) for state in several)
    assert average["norm.num_batches_tracked"].dtype == torch.int64
    assert int(average["norm.num_batches_tracked"]) == highest


@fast
@given(seeds, shares, st.floats(0, 1))
def test_inputs_are_not_modified(seed, weights, momentum):
    several = make_states(seed, len(weights) + 1)
    before = [states.digest(state) for state in several]

    states.weighted_average(several[1:], weights, ROLES)
    states.lerp(several[0], several[1], momentum)
    states.subtract(several[0], several[1])

    assert [states.digest(state) for state in several] == before


@fast
@given(seeds, st.floats(0, 1), st.sampled_from(DTYPES))
def test_a_blend_is_the_weighted_average_but_for_buffers_of_another_kind(seed, momentum, dtype):
    history, local = make_states(seed, 2, dtype)

    blend = states.lerp(history, local, momentum)

    expected = states.weighted_average([history, local], [momentum, 1 - momentum], ROLES)
    for name in ("layer.weight", "norm.running_mean", "window"):
        assert blend[name].dtype == dtype
        assert_close(blend[name], expected[name], rtol=1e-12 if dtype is torch.float64 else torch.finfo(dtype).eps, atol=1e-12)
    assert torch.equal(blend["norm.num_batches_tracked"], local["norm.num_batches_tracked"])


@fast
@given(seeds)
def test_delta_and_state_make_the_other_state(seed):
    after, before = make_states(seed, 2, torch.float32)

    delta = states.subtract(after, before)

    assert delta.keys() == {name for name, role in ROLES.items() if role != "counter"}
    for name, tensor in delta.items():
        assert tensor.dtype == torch.float64
        assert torch.equal((before[name] + tensor).float(), after[name])


@fast
@given(seeds, st.floats(-1e3, 1e3))
def test_norm_is_a_norm(seed, factor):
    first, second = (states.subtract(state, make_state(0)) for state in make_states(seed, 2))
    total = {name: first[name] + second[name] for name in first}

    assert states.norm(total) <= (states.norm(first) + states.norm(second)) * (1 + 1e-12)
    assert states.norm({name: factor * tensor for name, tensor in first.items()}) == pytest.approx(
        abs(factor) * states.norm(first)
    )
    assert states.norm({name: 0 * tensor for name, tensor in first.items()}) == 0
    assert states.norm({}) == 0


@pytest.mark.parametrize("size", [1, 16384, 16385, 200_001])
def test_norm_does_not_depend_on_size_of_blocks_or_number_of_threads(size):
    delta = {"w": torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)}
    num_threads = torch.get_num_threads()

    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(states.norm(delta))
    torch.set_num_threads(num_threads)

    assert found[0] == found[1]
    assert found[0] == pytest.approx(math.sqrt(math.fsum(value**2 for value in delta["w"].tolist())), rel=1e-14)


class TestDigest:
    def test_order_and_layout_do_not_count(self):
        state = make_state(0)
        other = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in reversed(state.items())}

        assert states.digest(other) == states.digest(state)

    @pytest.mark.parametrize(
        "change",
        [
            lambda state: {**state, "window": torch.nextafter(state["window"], torch.tensor(math.inf).double())},
            lambda state: {**state, "layer.weight": state["layer.weight"].reshape(2, 3)},
            lambda state: {**state, "norm.num_batches_tracked": state["norm.num_batches_tracked"].to(torch.int32)},
            lambda state: {name.replace("window", "widow"): tensor for name, tensor in state.items()},
            lambda state: {name: tensor for name, tensor in state.items() if name != "window"},
        ],
        ids=["last bit", "shape", "dtype", "name", "missing entry"],
    )
    def test_everything_else_counts(self, change):
        assert states.digest(change(make_state(0))) != states.digest(make_state(0))

    def test_the_number_is_pinned(self):
        # sha256 of: ["w", "torch.float32", [2]], a newline, then 1.0 and 2.0 as little-endian floats
        expected = "6dbfbed9dee3dbde593832616eda8879e9f9a924278893c8acb2ea5be161194a"

        assert states.digest({"w": torch.tensor([1.0, 2.0])}) == expected
