"""The server's step against numbers worked out by hand (docs/method.md, "A round")."""

from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from fedsilo.federation import aggregation
from fedsilo.federation.updates import SiteUpdate
from tests.aggregation_settings import aggregation_params

HONEST = [(1.0, 2.0, -1.0), (1.2, 1.8, -0.8), (0.8, 2.2, -1.2), (1.1, 1.9, -0.9)]
HOSTILE = (50.0, -50.0, 50.0)
CASES = [10, 20, 30, 40, 100]


def step(server, updates, *, weighting, roles):
    weights = aggregation.site_weights(updates, weighting)
    made = aggregation.step(server, updates, weights=weights, roles=roles, params=aggregation_params())
    return made.state, made.record


def make_updates(per_site, cases, slices=None):
    return [
        SiteUpdate(
            site=f"site-{index}",
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
        for index, (state, num_cases, num_slices) in enumerate(zip(per_site, cases, slices or cases, strict=True))
    ]


def step_vectors(vectors, cases, *, weighting, server=(0.0, 0.0, 0.0), slices=None):
    per_site = [{"x": torch.tensor(vector, dtype=torch.float64)} for vector in vectors]
    updates = make_updates(per_site, cases, slices)
    state, _ = step({"x": torch.tensor(server).double()}, updates, weighting=weighting, roles={"x": "parameter"})
    return state["x"].tolist()


@pytest.mark.parametrize(
    ("vectors", "weighting", "expected"),
    [
        (HONEST, "cases", (1.02, 1.98, -0.98)),
        ([*HONEST, HOSTILE], "cases", (25.51, -24.01, 24.51)),
        (HONEST, "uniform", (1.025, 1.975, -0.975)),
        ([*HONEST, HOSTILE], "uniform", (10.82, -8.42, 9.22)),
    ],
)
@pytest.mark.parametrize("server", [(0.0, 0.0, 0.0), (7.0, -3.0, 0.25)])
def test_fedavg_vectors(vectors, weighting, expected, server):
    assert step_vectors(vectors, CASES[: len(vectors)], weighting=weighting, server=server) == pytest.approx(expected, abs=1e-12)


def test_weighting_by_slices_is_fedgin_s():
    ct, mr = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    assert step_vectors([ct, mr], [1, 1], slices=[300, 100], weighting="slices") == pytest.approx((0.25, 0.25, 0.25))
    assert step_vectors([ct, mr], [1, 1], slices=[300, 100], weighting="cases") == pytest.approx((0.5, 0.5, 0.5))


def test_shares_are_exact_fractions():
    expected = [
        float(sum(Fraction(vector[axis]) * Fraction(cases, 100) for vector, cases in zip(HONEST, CASES, strict=False)))
        for axis in range(3)
    ]

    assert step_vectors(HONEST, CASES[:4], weighting="cases") == pytest.approx(expected, rel=1e-15)


def test_running_statistics_are_pooled_as_moments():
    """p .1 .2 .3 .4, mean 0 1 2 3, var 1 2 1 .5: mean 2, var 2.0; averaging the variances would give 1.0."""
    roles = {"norm.running_mean": "norm_mean", "norm.running_var": "norm_variance", "norm.num_batches_tracked": "counter"}
    per_site = [
        {
            "norm.running_mean": torch.tensor([mean]),
            "norm.running_var": torch.tensor([variance]),
            "norm.num_batches_tracked": torch.tensor(batches),
        }
        for mean, variance, batches in [(0.0, 1.0, 5), (1.0, 2.0, 9), (2.0, 1.0, 7), (3.0, 0.5, 6)]
    ]
    server = {
        "norm.running_mean": torch.zeros(1),
        "norm.running_var": torch.ones(1),
        "norm.num_batches_tracked": torch.tensor(0),
    }

    state, record = step(server, make_updates(per_site, CASES[:4]), weighting="cases", roles=roles)

    assert record.weights == {"site-0": 0.1, "site-1": 0.2, "site-2": 0.3, "site-3": 0.4}
    assert_close(state["norm.running_mean"], torch.tensor([2.0]), rtol=0, atol=0)
    assert_close(state["norm.running_var"], torch.tensor([2.0]), rtol=0, atol=0)
    assert torch.equal(state["norm.num_batches_tracked"], torch.tensor(9))


def test_pooled_moments_are_those_of_the_pooled_batch():
    """Two sites hold the moments of their own batch; pooled they are the moments of both batches together."""
    numbers = torch.Generator().manual_seed(0)
    batches = [3 + 2 * torch.randn(count, 2, generator=numbers, dtype=torch.float64) for count in (40, 60)]

    def biased_statistics(values):
        return {"running_mean": values.mean(dim=0), "running_var": values.var(dim=0, correction=0)}

    roles = {"running_mean": "norm_mean", "running_var": "norm_variance"}
    updates = make_updates([biased_statistics(batch) for batch in batches], [40, 60])
    state, _ = step(biased_statistics(batches[0]), updates, weighting="cases", roles=roles)

    expected = biased_statistics(torch.cat(batches))
    for name in roles:
        assert_close(state[name], expected[name], rtol=1e-12, atol=1e-12)
