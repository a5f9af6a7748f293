"""Laws of the rules that weigh updates against each other, and their published numbers."""

import itertools
import weakref
from collections.abc import Mapping

import numpy
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fedsilo.errors import ParamsError
from fedsilo.federation import aggregation, rules, states
from tests.aggregation_settings import aggregation_params
from tests.laws.test_aggregation import ROLES, make_state, make_update, make_updates

HONEST = [(1.0, 2.0, -1.0), (1.2, 1.8, -0.8), (0.8, 2.2, -1.2), (1.1, 1.9, -0.9)]
HOSTILE = (50.0, -50.0, 50.0)
CASES = [10, 20, 30, 40, 100]
EQUIVARIANT = ["average", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median"]
EVERY = [*EQUIVARIANT, "norm_clipping", "centred_clipping"]

seeds = st.integers(0, 2**32)
fast = settings(deadline=None, max_examples=30)


def vector_step(vectors, *, server=(0.0, 0.0, 0.0), cases=CASES, weighting="uniform", moments=None, **changes):
    updates = [
        make_update(f"site-{index}", {"x": torch.tensor(vector, dtype=torch.float64)}, num_cases=count)
        for index, (vector, count) in enumerate(zip(vectors, cases, strict=False))
    ]
    return aggregation.step(
        {"x": torch.tensor(server, dtype=torch.float64)},
        updates,
        weights=aggregation.site_weights(updates, weighting),
        roles={"x": "parameter"},
        params=aggregation_params(**changes),
        moments=moments,
    )


def stepped(vectors, **changes):
    return vector_step(vectors, **changes).state["x"].tolist()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rule": "median"}, (1.1, 1.9, -0.9)),
        ({"rule": "trimmed_mean"}, (1.1, 1.9, -0.9)),
        ({"rule": "krum"}, (1.1, 1.9, -0.9)),
        ({"rule": "multi_krum", "keep": 4}, (1.025, 1.975, -0.975)),
        ({"rule": "multi_krum"}, (1.025, 1.975, -0.975)),
        ({"rule": "geometric_median"}, (1.1, 1.9, -0.9)),
        ({"rule": "norm_clipping"}, (1.091828, 1.266866, -0.480635)),
        ({"rule": "norm_clipping", "weighting": "cases"}, (1.208846, 0.260175, 0.229499)),
        ({"rule": "centred_clipping", "clip_norm": 1.0}, (1.099620, 1.602110, -0.701533)),
    ],
)
def test_published_vectors(changes, expected):
    assert stepped([*HONEST, HOSTILE], **changes) == pytest.approx(expected, abs=2e-6)


def test_published_scores_of_krum_and_mixing():
    points = numpy.array([*HONEST, HOSTILE, (0, 0, 0)])
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    distances = rules.Distances(tuple("abcde"), squared)

    assert rules.krum_scores(distances, 1) == pytest.approx([0.15, 0.15, 0.39, 0.06, 15320.95])
    assert rules.nearest_mixing(distances, 1)[4] @ points[:5] == pytest.approx((13.325, -11.075, 11.825))
    assert distances.norms == pytest.approx(numpy.linalg.norm(points[:5], axis=1))


def test_trimming_keeps_single_numbers_and_multi_krum_needs_its_sites():
    """.5, 1, 2 and 100 with one dropped at each side: 1.5."""
    assert stepped([(value, 0.0, 0.0) for value in (0.5, 1.0, 2.0, 100.0)], rule="trimmed_mean")[0] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ({"name": "fedavgm"}, [(1.02, 1.98, -0.98), (2.958, 5.742, -2.842)]),
        ({"name": "fedadam", "learning_rate": 0.1}, [(0.099902, 0.099950, -0.099898), (0.199804, 0.199899, -0.199796)]),
        ({"name": "fedyogi", "learning_rate": 0.1}, [(0.099029, 0.099497, -0.098990), (0.232454, 0.233370, -0.232378)]),
    ],
)
def test_published_steps_of_the_optimisers(optimizer, expected):
    server, moments = torch.zeros(3, dtype=torch.float64), None
    for wanted in expected:
        vectors = [(server + torch.tensor(vector, dtype=torch.float64)).tolist() for vector in HONEST]
        made = vector_step(vectors, server=server.tolist(), weighting="cases", moments=moments, optimizer=optimizer)
        server, moments = made.state["x"], made.moments
        assert server.tolist() == pytest.approx(wanted, abs=2e-6)
    assert moments.num_steps == 2


@pytest.mark.parametrize(
    ("optimizer", "oracle"),
    [
        ({"name": "fedavgm", "learning_rate": 0.5}, lambda x: torch.optim.SGD([x], lr=0.5, momentum=0.9)),
        ({"name": "fedadam", "learning_rate": 0.1}, lambda x: torch.optim.Adam([x], lr=0.1, betas=(0.9, 0.99), eps=1e-3)),
    ],
)
def test_optimisers_are_torch_s_on_the_direction_turned_round(optimizer, oracle):
    numbers = torch.Generator().manual_seed(1)
    expected = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    other, server, moments = oracle(expected), torch.zeros(3, dtype=torch.float64), None
    for _ in range(5):
        direction = torch.randn(3, dtype=torch.float64, generator=numbers)
        made = vector_step([(server + direction).tolist()], server=server.tolist(), moments=moments, optimizer=optimizer)
        server, moments = made.state["x"], made.moments
        expected.grad = -direction
        other.step()
        assert_close(server, expected.detach(), rtol=1e-10, atol=1e-12)


def test_nothing_moved_and_no_moments_moves_nothing():
    for name in ("none", "fedavgm", "fedadam", "fedyogi"):
        made = vector_step([(1.0, 2.0, 3.0)] * 3, server=(1.0, 2.0, 3.0), optimizer={"name": name})
        assert made.state["x"].tolist() == [1.0, 2.0, 3.0]
        assert (made.moments is None) == (name == "none")


def test_optimisers_never_touch_running_statistics():
    """An adaptive step could make a variance negative."""
    updates = make_updates(0, [1, 2, 3])
    weights = aggregation.site_weights(updates, "cases")
    plain, adam = (
        aggregation.step(
            make_state(9), updates, weights=weights, roles=ROLES, params=aggregation_params(optimizer={"name": name})
        ).state
        for name in ("none", "fedadam")
    )

    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "window"):
        assert torch.equal(plain[name], adam[name])
    assert not torch.equal(plain["layer.weight"], adam["layer.weight"])


def step(server, updates, **changes):
    weights = aggregation.site_weights(updates, "cases")
    return aggregation.step(server, updates, weights=weights, roles=ROLES, params=aggregation_params(**changes))


@fast
@given(seeds, st.sampled_from(EVERY), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_sites_changes_no_bit(seed, rule, mixing, shuffler):
    updates, server = make_updates(seed, [3, 1, 4, 1, 5]), make_state(seed + 99)

    one, other = (step(server, shuffler.sample(updates, 5), rule=rule, nearest_mixing=mixing) for _ in range(2))

    assert states.digest(one.state) == states.digest(other.state)
    assert one.record == other.record


@fast
@given(seeds, st.sampled_from(EVERY), st.booleans())
def test_equal_updates_return_themselves_unless_cut(seed, rule, mixing):
    state = make_state(seed)
    updates = [make_update(f"site-{index}", state) for index in range(5)]
    changes = {"clip_norm": 1e9} if "clipping" in rule else {}

    made = step(make_state(seed + 1), updates, rule=rule, nearest_mixing=mixing, **changes)

    for name in ROLES:
        assert_close(made.state[name], state[name], rtol=1e-12, atol=1e-12)


@fast
@given(seeds, st.sampled_from(EQUIVARIANT), st.floats(0.1, 100), st.floats(-100, 100))
def test_scaled_and_shifted_updates_scale_and_shift_the_result(seed, rule, factor, shift):
    moving = [name for name, role in ROLES.items() if role in ("parameter", "buffer")]

    def moved(state):
        return {**state, **{name: factor * state[name] + shift for name in moving}}

    updates, server = make_updates(seed, [1, 2, 3, 4, 5]), make_state(seed + 99)
    plain = step(server, updates, rule=rule).state
    changed = step(moved(server), [make_update(u.site, moved(u.state), num_cases=u.num_cases) for u in updates], rule=rule).state

    for name in moving:
        assert_close(changed[name], moved(plain)[name], rtol=1e-6, atol=1e-6 * factor)


@fast
@given(seeds, st.sampled_from(["median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "centred_clipping"]))
def test_claimed_sizes_do_not_matter_to_robust_rules(seed, rule):
    server = make_state(seed + 99)
    small, large = (step(server, make_updates(seed, [1, 1, 1, 1, claimed]), rule=rule).state for claimed in (1, 10**6))

    assert states.digest(small) == states.digest(large)


@fast
@given(
    seeds,
    st.integers(1, 2),
    st.floats(1e2, 1e8),
    st.sampled_from(["median", "trimmed_mean", "krum", "multi_krum"]),
    st.booleans(),
)
def test_hostile_sites_cannot_leave_the_honest_hull(seed, num_hostile, scale, rule, together):
    """K = 2f + 3: every coordinate stays between honest values, whether the hostile ones agree or not."""
    numbers = numpy.random.default_rng(seed)
    honest = numbers.normal(size=(num_hostile + 3, 3))
    hostile = scale * numbers.normal(size=(1 if together else num_hostile, 3)).repeat(num_hostile if together else 1, axis=0)
    vectors = [*hostile.tolist(), *honest.tolist()]

    found = stepped(vectors, cases=[10**6] * num_hostile + [1] * len(honest), rule=rule, num_hostile=num_hostile)

    assert (found >= honest.min(axis=0) - 1e-9).all()
    assert (found <= honest.max(axis=0) + 1e-9).all()


@fast
@given(seeds, st.integers(1, 2), st.floats(1e3, 1e8))
def test_krum_returns_an_honest_update_and_multi_krum_the_mean_of_them(seed, num_hostile, scale):
    """K = 2f + 3, the hostile ones far away and all for themselves."""
    numbers = numpy.random.default_rng(seed)
    honest = numbers.normal(size=(num_hostile + 3, 3))
    away = numpy.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])[:num_hostile] * scale
    vectors = [*honest.tolist(), *away.tolist()]

    krum = stepped(vectors, cases=[1] * len(vectors), rule="krum", num_hostile=num_hostile)
    multi_krum = stepped(vectors, cases=[1] * len(vectors), rule="multi_krum", num_hostile=num_hostile)

    assert any(krum == pytest.approx(vector) for vector in honest.tolist())
    assert multi_krum == pytest.approx(honest.mean(axis=0))


@fast
@given(seeds, st.floats(1e2, 1e8))
def test_the_geometric_median_stays_near_the_honest_and_clipping_within_its_norm(seed, scale):
    numbers = numpy.random.default_rng(seed)
    honest, hostile = numbers.normal(size=(4, 3)), scale * numbers.normal(size=3)
    spread = numpy.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
    vectors = [*honest.tolist(), hostile.tolist()]

    median = stepped(vectors, rule="geometric_median")
    clipped = stepped(vectors, rule="norm_clipping")

    assert numpy.linalg.norm(median - honest.mean(axis=0)) <= 2 * (1 - 0.2) / (1 - 0.4) * spread + 1e-6
    assert numpy.linalg.norm(clipped) <= numpy.median(numpy.linalg.norm(vectors, axis=1)) + 1e-9


@fast
@given(seeds)
def test_the_geometric_median_has_the_least_sum_of_distances(seed):
    points = numpy.random.default_rng(seed).normal(size=(5, 3))
    found = numpy.array(stepped(points.tolist(), rule="geometric_median"))

    def total(point):
        return numpy.linalg.norm(points - point, axis=1).sum()

    best = scipy.optimize.minimize(total, points.mean(axis=0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert total(found) <= best.fun * (1 + 1e-4)  # its steps stop where little is left to gain


@fast
@given(seeds)
def test_coordinate_rules_are_numpy_s_and_scipy_s(seed):
    points = numpy.random.default_rng(seed).normal(size=(6, 3))

    assert stepped(points.tolist(), cases=[1] * 6, rule="median") == pytest.approx(numpy.median(points, axis=0))
    expected = scipy.stats.trim_mean(points, 1 / 6, axis=0)
    assert stepped(points.tolist(), cases=[1] * 6, rule="trimmed_mean") == pytest.approx(expected)


def test_limits_are_fedavg():
    vectors = [*HONEST, HOSTILE]
    average = stepped(vectors, weighting="cases")

    assert stepped(vectors, weighting="cases", rule="norm_clipping", clip_norm=1e9) == pytest.approx(average)
    assert stepped(vectors, rule="trimmed_mean", num_hostile=0) == pytest.approx(stepped(vectors))
    assert stepped(vectors, rule="multi_krum", num_hostile=0, keep=5) == pytest.approx(stepped(vectors))
    assert stepped(vectors, nearest_mixing=True, num_hostile=0) == pytest.approx(stepped(vectors))


@pytest.mark.parametrize("rule", ["norm_clipping", "centred_clipping", "geometric_median"])
def test_a_round_in_which_most_sites_stood_still_stands_still(rule):
    assert stepped([(0.0, 0.0, 0.0)] * 3 + [HOSTILE], rule=rule) == pytest.approx([0, 0, 0], abs=1e-4)


def test_a_record_says_who_was_left_out():
    chosen = vector_step([*HONEST, HOSTILE], rule="krum").record
    trimmed = vector_step([*HONEST, HOSTILE], rule="trimmed_mean").record
    cut = vector_step([*HONEST, HOSTILE], rule="norm_clipping").record

    assert chosen.shares == {"site-0": 0, "site-1": 0, "site-2": 0, "site-3": 1, "site-4": 0}
    assert trimmed.shares["site-4"] == 0
    assert sum(trimmed.shares.values()) == pytest.approx(1)
    assert cut.shares["site-4"] < 0.01 < cut.shares["site-0"] == 0.2
    assert cut.weights["site-4"] == 0.2


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "geometric_median", "norm_clipping", "centred_clipping", "krum"])
def test_running_statistics_of_one_hostile_site_cannot_leave_the_honest_range(rule):
    updates, server = make_updates(3, [1, 1, 1, 1]), make_state(99)
    poisoned = {
        **make_state(50),
        "norm.running_mean": torch.full((3,), 1e9).double(),
        "norm.running_var": torch.full((3,), 1e12).double(),
    }
    poisoned["layer.weight"] = torch.full((3,), 1e6).double()

    state = step(server, [*updates, make_update("hostile", poisoned, num_cases=10**6)], rule=rule).state

    for name in ("norm.running_mean", "norm.running_var"):
        honest = torch.stack([update.state[name] for update in updates])
        assert (state[name] >= honest.amin(dim=0)).all()
        assert (state[name] <= honest.amax(dim=0)).all()


@pytest.mark.parametrize(
    ("rule", "changes", "num_sites", "message"),
    [
        ("median", {}, 2, "needs at least 3 sites .of two it is the mean.; got 2"),
        ("geometric_median", {}, 2, "needs at least 3"),
        ("trimmed_mean", {"num_hostile": 2}, 4, "needs at least 5 sites .2f . 1"),
        ("trimmed_mean", {"num_hostile": 0}, 2, "needs at least 3"),
        ("krum", {}, 4, "needs at least 5 sites .2f . 3"),
        ("multi_krum", {"num_hostile": 2}, 6, "needs at least 7"),
        ("multi_krum", {"keep": 5}, 5, "keep is 5, expected at most 4"),
        ("norm_clipping", {}, 2, "needs at least 3 sites .the median norm"),
        ("centred_clipping", {}, 2, "or set clip_norm"),
        ("average", {"nearest_mixing": True, "num_hostile": 2}, 4, "needs at least 5 sites .2f . 1 for nearest_mixing"),
    ],
)
def test_too_few_sites_are_refused_with_the_reason(rule, changes, num_sites, message):
    params = aggregation_params(rule=rule, **changes)
    with pytest.raises(ParamsError, match=message):
        rules.refuse_impossible(params, num_sites)
    with pytest.raises(ParamsError, match=message):
        stepped([*HONEST, *HONEST][:num_sites], cases=[1] * num_sites, rule=rule, **changes)


@pytest.mark.parametrize("rule", EVERY)
def test_as_many_sites_as_needed_are_enough(rule):
    params = aggregation_params(rule=rule)
    fewest = next(count for count in itertools.count(1) if not refused(params, count))

    assert fewest == {"average": 1, "krum": 5, "multi_krum": 5}.get(rule, 3)
    assert numpy.isfinite(stepped([*HONEST, HOSTILE][:fewest], rule=rule)).all()


def refused(params, num_sites):
    try:
        rules.refuse_impossible(params, num_sites)
    except ParamsError:
        return True
    return False


class Streamed(Mapping):
    """A state whose entries exist only while somebody holds them; counts the bytes alive over all of its kind."""

    alive = 0
    peak = 0

    def __init__(self, seed, names, size):
        self.seed, self.names, self.size = seed, names, size

    def __getitem__(self, name):
        numbers = torch.Generator().manual_seed(self.seed * 1000 + self.names.index(name))
        tensor = torch.randn(self.size, generator=numbers)
        Streamed.alive += tensor.nbytes
        Streamed.peak = max(Streamed.peak, Streamed.alive)
        weakref.finalize(tensor, Streamed.release, tensor.nbytes)
        return tensor

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)

    @classmethod
    def release(cls, num_bytes):
        cls.alive -= num_bytes


@pytest.mark.parametrize("rule", ["average", "krum", "norm_clipping", "geometric_median"])
def test_no_more_than_two_entries_of_updates_are_held_at_once(rule):
    """Whatever the number of sites: a state is never whole in memory."""
    names, size = [f"w{index}" for index in range(20)], 1000
    server = {name: torch.zeros(size) for name in names}
    updates = [make_update(f"site-{index}", Streamed(index, names, size)) for index in range(7)]
    Streamed.alive = Streamed.peak = 0

    aggregation.step(
        server,
        updates,
        weights=aggregation.site_weights(updates, "uniform"),
        roles=dict.fromkeys(names, "parameter"),
        params=aggregation_params(rule=rule),
    )

    assert Streamed.peak <= 2 * 4 * size
    assert Streamed.alive == 0
