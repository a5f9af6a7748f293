"""Laws of the server's step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fedsilo.errors import StateMismatchError, UpdateRefusedError
from fedsilo.federation import aggregation, states
from fedsilo.federation.aggregation import site_weights
from fedsilo.federation.updates import SiteUpdate
from tests.aggregation_settings import aggregation_params

ROLES = {
    "layer.weight": "parameter",
    "layer.bias": "parameter",
    "norm.running_mean": "norm_mean",
    "norm.running_var": "norm_variance",
    "norm.num_batches_tracked": "counter",
    "window": "buffer",
}
WEIGHTINGS = ["cases", "slices", "uniform"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]

seeds = st.integers(0, 2**32)
counts = st.lists(st.integers(1, 10**6), min_size=1, max_size=5)
fast = settings(deadline=None, max_examples=40)


def step(server, updates, *, weighting, roles):
    weights = aggregation.site_weights(updates, weighting)
    made = aggregation.step(server, updates, weights=weights, roles=roles, params=aggregation_params())
    return made.state, made.record


def make_state(seed, dtype=torch.float64):
    numbers = torch.Generator().manual_seed(seed)
    floats = {name: torch.randn(3, generator=numbers, dtype=torch.float64) for name in ROLES}
    floats["norm.running_var"] = floats["norm.running_var"].square()
    floats["window"] = floats["window"][0]
    state = {name: tensor.to(dtype) for name, tensor in floats.items()}
    return {**state, "norm.num_batches_tracked": torch.randint(100, (), generator=numbers)}


def make_update(site, state, *, num_cases=1, num_slices=1):
    return SiteUpdate(
        site=site,
        round_index=0,
        base_sha256="base",
        num_cases=num_cases,
        num_slices=num_slices,
        train_loss=0.5,
        val_dice_global=None,
        val_dice_inside=None,
        latent_size=None,
        state=state,
    )


def make_updates(seed, sizes, dtype=torch.float64):
    return [
        make_update(f"site-{index}", make_state(seed + index, dtype), num_cases=size, num_slices=size * (index + 2))
        for index, size in enumerate(sizes)
    ]


def map_floats(state, change):
    return {name: change(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@fast
@given(seeds, counts, st.sampled_from(WEIGHTINGS), st.sampled_from(DTYPES), st.randoms(use_true_random=False))
def test_the_order_of_sites_changes_no_bit(seed, sizes, weighting, dtype, shuffler):
    updates = make_updates(seed, sizes, dtype)
    shuffled = shuffler.sample(updates, len(updates))
    server = make_state(seed + 99, dtype)

    state, record = step(server, updates, weighting=weighting, roles=ROLES)
    other_state, other_record = step(server, shuffled, weighting=weighting, roles=ROLES)

    assert states.digest(other_state) == states.digest(state)
    assert other_record == record
    assert list(record.weights) == sorted(record.weights)


@fast
@given(seeds, counts, st.sampled_from(WEIGHTINGS), st.sampled_from(DTYPES))
def test_equal_updates_return_themselves(seed, sizes, weighting, dtype):
    state = make_state(seed, dtype)
    updates = [make_update(f"site-{index}", state, num_cases=size) for index, size in enumerate(sizes)]

    next_state, _ = step(make_state(seed + 1, dtype), updates, weighting=weighting, roles=ROLES)

    for name in ROLES:  # float64: one rounding of the delta, which is of order 1; narrower dtypes round that away
        assert_close(next_state[name], state[name], rtol=0, atol=1e-14 if dtype is torch.float64 else 1e-8)


@fast
@given(seeds, counts, st.sampled_from(WEIGHTINGS), st.sampled_from(DTYPES))
def test_sites_that_did_not_move_move_nothing(seed, sizes, weighting, dtype):
    server = make_state(seed, dtype)
    updates = [make_update(f"site-{index}", server, num_cases=size) for index, size in enumerate(sizes)]

    next_state, record = step(server, updates, weighting=weighting, roles=ROLES)

    for name in ("layer.weight", "layer.bias", "window", "norm.num_batches_tracked"):
        assert torch.equal(next_state[name], server[name])
    assert set(record.delta_norms.values()) == {0.0}


@fast
@given(seeds, counts, st.floats(-100, 100), st.floats(-100, 100))
def test_the_mean_is_affinely_equivariant(seed, sizes, factor, shift):
    def moved(state):
        return {**state, **{name: factor * state[name] + shift for name in ("layer.weight", "layer.bias", "window")}}

    updates = make_updates(seed, sizes)
    server = make_state(seed + 99)

    next_state, _ = step(server, updates, weighting="cases", roles=ROLES)
    moved_updates = [make_update(update.site, moved(update.state), num_cases=update.num_cases) for update in updates]
    next_moved, _ = step(moved(server), moved_updates, weighting="cases", roles=ROLES)

    for name in ROLES:
        assert_close(next_moved[name], moved(next_state)[name], rtol=1e-11, atol=1e-11)


@fast
@given(seeds, counts)
def test_a_site_may_be_split_in_two(seed, sizes):
    updates = make_updates(seed, [2 * size for size in sizes])
    first = updates[0]
    halves = [make_update(f"{first.site}-{half}", first.state, num_cases=first.num_cases // 2) for half in "ab"]
    server = make_state(seed + 99)

    whole, _ = step(server, updates, weighting="cases", roles=ROLES)
    split, _ = step(server, [*halves, *updates[1:]], weighting="cases", roles=ROLES)

    for name in ROLES:
        assert_close(split[name], whole[name], rtol=1e-12, atol=1e-12)


@fast
@given(seeds, counts, st.sampled_from(WEIGHTINGS), st.sampled_from(DTYPES))
def test_the_step_is_the_weighted_average_of_the_states(seed, sizes, weighting, dtype):
    updates = make_updates(seed, sizes, dtype)
    weights = list(site_weights(updates, weighting).values())

    next_state, _ = step(make_state(seed + 99, dtype), updates, weighting=weighting, roles=ROLES)

    average = states.weighted_average([update.state for update in updates], weights, ROLES)
    eps = torch.finfo(dtype).eps
    for name in ROLES:
        assert next_state[name].dtype == average[name].dtype
        assert_close(next_state[name], average[name], rtol=4 * eps, atol=16 * eps)


@fast
@given(seeds, counts, st.sampled_from(WEIGHTINGS))
def test_nothing_given_is_modified_or_shared(seed, sizes, weighting):
    updates = make_updates(seed, sizes)
    server = make_state(seed + 99)
    given_states = [server, *[update.state for update in updates]]
    before = [states.digest(state) for state in given_states]

    next_state, _ = step(server, updates, weighting=weighting, roles=ROLES)

    assert [states.digest(state) for state in given_states] == before
    taken = {tensor.data_ptr() for state in given_states for tensor in state.values()}
    assert taken.isdisjoint(tensor.data_ptr() for tensor in next_state.values())


@fast
@given(counts, st.sampled_from(WEIGHTINGS))
def test_weights_are_shares_in_proportion(sizes, weighting):
    updates = make_updates(0, sizes)

    weights = site_weights(updates, weighting)

    amounts = {
        "cases": [update.num_cases for update in updates],
        "slices": [update.num_slices for update in updates],
        "uniform": [1] * len(updates),
    }[weighting]
    assert sum(weights.values()) == pytest.approx(1)
    assert list(weights.values()) == pytest.approx([amount / sum(amounts) for amount in amounts])


def test_counters_are_the_maximum_and_keep_their_dtype():
    low, high = make_state(0), make_state(1)
    for value, state in ((3, low), (8, high)):
        state["norm.num_batches_tracked"] = torch.tensor(value, dtype=torch.int32)
    updates = [make_update("a", high), make_update("b", low, num_cases=1000)]

    next_state, _ = step(low, updates, weighting="cases", roles=ROLES)

    assert torch.equal(next_state["norm.num_batches_tracked"], torch.tensor(8, dtype=torch.int32))


def test_the_record_measures_parameters_only():
    server = make_state(0)
    moved = {**map_floats(server, lambda tensor: tensor + 100), "layer.bias": server["layer.bias"]}
    moved["layer.weight"] = server["layer.weight"] + torch.tensor([2.0, 3.0, 6.0])

    _, record = step(server, [make_update("a", moved)], weighting="uniform", roles=ROLES)

    assert record.delta_norms == {"a": pytest.approx(7.0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer.bias"), "update of 'b' differs in 1 entries: lacks layer.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "update of 'b' .* has unknown extra"),
        (
            lambda state: state.update({"layer.bias": torch.zeros(4).double()}),
            r"layer.bias is float64 \(4,\), expected float64 \(3,\)",
        ),
        (lambda state: state.update({"layer.bias": torch.zeros(3)}), "layer.bias is float32"),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_an_update_of_another_network_raises(change, message):
    state = make_state(1)
    change(state)

    with pytest.raises(StateMismatchError, match=message):
        step(make_state(0), [make_update("a", make_state(2)), make_update("b", state)], weighting="cases", roles=ROLES)


def test_an_empty_round_raises():
    with pytest.raises(UpdateRefusedError, match="without updates, expected at least one") as refusal:
        step(make_state(0), [], weighting="cases", roles=ROLES)

    assert refusal.value.check == "membership"


def test_a_site_counts_once():
    with pytest.raises(UpdateRefusedError, match="site 'a' sent two updates"):
        step(make_state(0), [make_update("a", make_state(seed)) for seed in (1, 2)], weighting="cases", roles=ROLES)


def test_a_site_without_cases_has_no_weight_by_cases():
    updates = [make_update("a", make_state(1)), make_update("b", make_state(2), num_cases=0)]

    with pytest.raises(UpdateRefusedError, match="update of 'b' has 0 cases") as refusal:
        step(make_state(0), updates, weighting="cases", roles=ROLES)

    assert refusal.value.check == "cases"
    assert site_weights(updates, "uniform") == {"a": 0.5, "b": 0.5}
