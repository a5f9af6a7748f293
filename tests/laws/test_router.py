"""Laws of the forward-only router: who gets weight, what it costs, and that it can always be refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import UNet
from torch import nn
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.errors import RoutingError
from fedsilo.federation import states
from fedsilo.outside_params import RouterParams
from fedsilo.routing import experts, norms, pieces, router
from fedsilo.routing.pieces import Geometry
from fedsilo.routing.router import Evidence

PARAMS = RouterParams(
    budget=3.0,
    slices=16,
    prior_global=0.25,
    distance_temperature=0.2,
    entropy_temperature=0.02,
    source_slices=16,
    gain=0.01,
    fallback="global",
)
GEOMETRY = {2: Geometry(2, 4), 3: Geometry(3, 4)}
numbers = st.floats(0, 1)


def params(**changes):
    return PARAMS.model_copy(update=changes)


def network(spatial_dims, norm="BATCH"):
    with torch.random.fork_rng():
        return UNet(spatial_dims, 1, 3, channels=(4, 8, 8), strides=(2, 2), norm=norm).double().eval()


def found_experts(spatial_dims, count=3, norm="BATCH"):
    made = [states.snapshot(network(spatial_dims, norm)) for _ in range(count)]
    for index, state in enumerate(made):
        generator = seeds.generator(0, "experts", index)
        for name, tensor in state.items():
            if name.endswith("running_mean"):
                tensor.normal_(generator=generator)
            elif tensor.is_floating_point() and not name.endswith("running_var"):
                tensor.normal_(generator=generator).mul_(0.3)
    return made


def image(*zyx, name="image"):
    return torch.randn((1, *zyx), generator=seeds.generator(0, name), dtype=torch.float64)


CASE = {2: image(40, 8, 8), 3: image(16, 16, 16)}


def run(dims, found=None, case=None, **changes):
    return router.route(
        network(dims),
        found or found_experts(dims),
        CASE[dims] if case is None else case,
        params=params(**changes),
        geometry=GEOMETRY[dims],
        device="cpu",
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6))
def test_weights_sum_to_one_and_follow_their_experts(pairs):
    evidence = [Evidence(*pair) for pair in pairs]
    even = params(prior_global=1 / len(pairs)) if len(pairs) > 1 else PARAMS

    weights = router.weigh(evidence, even)

    assert sum(weights) == pytest.approx(1)
    assert_close(torch.tensor(router.weigh(evidence[::-1], even)), torch.tensor(weights[::-1]))
    for first, one in zip(evidence, weights, strict=True):
        for second, other in zip(evidence, weights, strict=True):
            if first.distance <= second.distance and first.entropy <= second.entropy:
                assert one >= other - 1e-12


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6), st.floats(0.01, 0.99))
def test_the_prior_is_the_global_models_odds(pairs, prior):
    evidence = [Evidence(*pair) for pair in pairs]
    even = torch.tensor(router.weigh(evidence, params(prior_global=1 / len(pairs))))

    weights = torch.tensor(router.weigh(evidence, params(prior_global=prior)))

    expected = even * torch.tensor([prior, *[(1 - prior) / (len(pairs) - 1)] * (len(pairs) - 1)])
    assert_close(weights, expected / expected.sum())
    same = router.weigh([evidence[0]] * len(pairs), params(prior_global=prior))
    assert same[0] == pytest.approx(prior)


def test_an_expert_that_knows_the_scanner_is_preferred():
    """Experts differ only in where their first norm layer expects its input."""
    template = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1)).double()
    base = states.snapshot(template)
    base["0.weight"].fill_(1.0)
    found = [{**base, "1.running_mean": torch.tensor([mean], dtype=torch.float64)} for mean in (0.0, 3.0, -3.0)]

    blind = params(entropy_temperature=1e6)
    made = router.route(template, found, image(8, 4, 4) + 3.0, params=blind, geometry=GEOMETRY[2], device="cpu")

    distances = [entry.distance for entry in made.evidence]
    assert min(distances) == distances[1]
    assert made.weights[1] > 0.9


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("fallback", ["global", "ensemble", "none"])
@pytest.mark.parametrize("budget", [3.0, 6.0])
def test_it_costs_no_more_than_the_budget(dims, fallback, budget):
    made = run(dims, fallback=fallback, budget=budget, gain=-1.1)

    assert made.kept
    assert 1 < made.passes <= budget


@pytest.mark.parametrize(("fallback", "predicting"), [("global", 1), ("ensemble", 3)])
def test_a_refused_case_costs_the_prediction_of_the_fallback(fallback, predicting):
    kept, refused = (run(2, fallback=fallback, gain=gain) for gain in (-1.1, 1.1))

    assert (kept.kept, refused.kept) == (True, False)
    assert refused.passes - predicting == pytest.approx(kept.passes - 1)


@pytest.mark.parametrize(("geometry", "least"), [(Geometry(2, 4), 1 / 40), (Geometry(3, 8), 1 / 8)], ids=["slice", "block"])
def test_one_slice_or_block_is_looked_at_whatever_the_budget(geometry, least):
    dims, tight = geometry.spatial_dims, params(budget=1.001, gain=-1.1)

    made = router.route(network(dims), found_experts(dims), CASE[dims], params=tight, geometry=geometry, device="cpu")

    assert made.passes == pytest.approx(1 + 6 * least)
    assert made.passes > tight.budget


def test_a_case_of_one_slice_costs_a_pass_of_every_expert():
    assert run(2, case=image(1, 8, 8)).passes == 1 + 6


def test_experts_see_no_more_slices_than_asked_for():
    few, many = (run(2, fallback="global", budget=1000.0, slices=slices) for slices in (1, 2))

    assert few.passes > 1
    assert many.passes - 1 == pytest.approx(2 * (few.passes - 1))
    assert run(2, fallback="global", budget=few.passes, slices=2).passes == few.passes


@pytest.mark.parametrize(("asked", "num_slices"), [(3, 47), (4, 49), (7, 55), (4, 40)])
def test_a_share_made_from_slices_gives_these_slices(asked, num_slices):
    assert len(pieces.spread(image(num_slices, 8, 8), share=asked / num_slices, geometry=GEOMETRY[2]).items) == asked


def test_the_passes_are_those_that_are_made():
    seen = []
    template = network(2)
    template.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))

    made = router.route(template, found_experts(2), CASE[2], params=PARAMS, geometry=GEOMETRY[2], device="cpu")

    assert made.passes == pytest.approx(1 + sum(seen) / CASE[2].shape[1])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_model_is_the_average_with_the_statistics_of_the_slices_mixed_in(dims):
    found = found_experts(dims)

    made = run(dims, found)

    average = experts.mixture(found, made.weights)
    states.check_same(average, made.state, "routed state")
    statistics = {name for name in average if "running" in name or "tracked" in name}
    for name, value in average.items():
        assert torch.equal(made.state[name], value) == (name not in statistics or "tracked" in name), name

    model = network(dims)
    states.restore(model, average)
    seen = pieces.spread(CASE[dims], share=2 / 6, geometry=GEOMETRY[dims])
    measured, _ = norms.input_moments(model, seen.items)
    first = next(iter(measured))
    slices = len(seen.items) if dims == 2 else seen.size[0]
    rho = 16 / (16 + slices)
    expected = rho * average[f"{first}.running_mean"] + (1 - rho) * measured[first].mean
    assert_close(made.state[f"{first}.running_mean"], expected)


@pytest.mark.parametrize(("gain", "kept"), [(1.1, False), (-1.1, True)])
@pytest.mark.parametrize("fallback", ["global", "ensemble"])
def test_the_gate_keeps_what_is_better_by_the_gain(gain, kept, fallback):
    made = run(2, gain=gain, fallback=fallback)

    assert made.kept is kept
    assert 0 <= made.quality <= 1
    assert 0 <= made.fallback_quality <= 1


def test_a_single_expert_with_its_own_statistics_is_the_fallback_and_gains_nothing():
    found = found_experts(2, count=1)

    made = run(2, found, source_slices=1e12, gain=1e-9)

    assert made.weights == (1.0,)
    assert made.quality == pytest.approx(made.fallback_quality)
    assert not made.kept
    for name, value in found[0].items():
        assert_close(made.state[name], value)


def test_without_a_gate_the_average_is_used():
    made = run(2, fallback="none", gain=5.0)

    assert (made.kept, made.quality, made.fallback_quality) == (True, None, None)


def test_without_batch_norm_entropy_alone_decides():
    template, found = network(2, "INSTANCE"), found_experts(2, norm="INSTANCE")

    made = router.route(template, found, CASE[2], params=PARAMS, geometry=GEOMETRY[2], device="cpu")

    assert [entry.distance for entry in made.evidence] == [0.0] * 3
    order = sorted(range(3), key=lambda index: made.evidence[index].entropy)
    assert made.weights[order[0]] == max(made.weights)


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_given_is_modified_and_two_runs_are_alike(dims):
    found, case = found_experts(dims), CASE[dims].clone()
    before = [states.digest(state) for state in found]

    made, again = run(dims, found), run(dims, found)

    assert [states.digest(state) for state in found] == before
    assert torch.equal(case, CASE[dims])
    assert states.digest(made.state) == states.digest(again.state)
    assert made.weights == again.weights


def test_no_expert_is_refused():
    with pytest.raises(RoutingError, match="got no expert"):
        router.route(network(2), [], CASE[2], params=PARAMS, geometry=GEOMETRY[2], device="cpu")


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, [5]), (0.2, [2, 7]), (0.4, [1, 3, 6, 8]), (1.0, list(range(10))), (7.0, list(range(10)))]
)
def test_slices_are_spread_evenly(share, expected):
    case = torch.arange(10.0).reshape(1, 10, 1, 1).expand(1, 10, 4, 4)

    assert pieces.spread(case, share=share, geometry=GEOMETRY[2]).items[:, 0, 0, 0].tolist() == expected


def test_a_block_of_a_volume_is_in_its_middle_and_no_larger_than_its_share():
    case = torch.zeros(1, 16, 16, 16)
    case[:, 4:12, 4:12, 4:12] = 1

    seen = pieces.spread(case, share=0.13, geometry=GEOMETRY[3])

    assert seen.items.shape == (1, 1, 8, 8, 8)
    assert bool((seen.items == 1).all())
    assert pieces.share_of(seen, case, geometry=GEOMETRY[3]) == 1 / 8
    assert pieces.spread(case, share=1.0, geometry=GEOMETRY[3]).items.shape == (1, 1, 16, 16, 16)
