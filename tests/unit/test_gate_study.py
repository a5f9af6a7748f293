"""The study of the gate: its fast bounds are those that are shipped, its losses have the mean they should, its table is right."""

import csv
import sys

import numpy
import pytest

from fedsilo.evaluation import gate, noninferiority, pccp, statistics


@pytest.fixture(scope="module")
def study(repository):
    """The study's script as a module."""
    sys.path.insert(0, str(repository / "studies" / "gate"))
    import simulate as module

    yield module
    sys.path.remove(str(repository / "studies" / "gate"))


@pytest.fixture(scope="module")
def policy(repository):
    return pccp.load(repository / "pccp.yaml").gate


SHAPES = [("normal", 0.05), ("failures", 0.08), ("failures", 0.02)]


def interval(sample, num_resamples, seed):
    patients = {f"p{index:03}": float(value) for index, value in enumerate(sample)}
    generator = numpy.random.default_rng(seed)
    return statistics.mean_interval(
        patients, confidence=noninferiority.CONFIDENCE, num_resamples=num_resamples, generator=generator
    )


@pytest.mark.parametrize(("shape", "spread"), SHAPES)
@pytest.mark.parametrize("num_patients", [12, 149])
def test_the_fast_bound_is_the_shipped_one(study, shape, spread, num_patients):
    cell = study.Cell(shape, spread, 0.02, num_patients)
    samples = study.draw(cell, -0.02, 8, numpy.random.default_rng(3))
    samples[0] = -0.01

    indices = numpy.random.default_rng(5).integers(0, num_patients, (999, num_patients))
    fast = study.bca_lower(samples, indices)

    assert fast == pytest.approx([interval(sample, 999, 5).low for sample in samples], abs=1e-12)


@pytest.mark.parametrize(("shape", "spread"), SHAPES)
@pytest.mark.parametrize("num_patients", [100, 149, 200])
def test_the_fast_rule_is_the_shipped_one(study, policy, shape, spread, num_patients):
    cell = study.Cell(shape, spread, 0.02, num_patients)
    samples = study.draw(cell, -0.004, 12, numpy.random.default_rng(1))

    fast = study.passes(samples, cell, policy, numpy.random.default_rng(9))[study.SHIPPED]

    slow = [
        gate.noninferior(interval(sample, study.RESAMPLES, 9), 0.02, policy) == "pass"
        and noninferiority.share_bound(int((sample < -0.2).sum()), num_patients) <= policy.catastrophe.tolerated_share
        for sample in samples
    ]
    assert fast.tolist() == slow
    assert any(slow) == (num_patients >= 149)


@pytest.mark.parametrize("rate", [0.02, 0.04, 0.16])
@pytest.mark.parametrize("margin", [0.01, 0.02])
def test_the_mean_loss_is_the_margin_and_nobody_loses_more_than_all(study, rate, margin):
    cell = study.Cell("failures", rate, margin, 1000)

    samples = study.draw(cell, -margin, 400, numpy.random.default_rng(0))

    assert samples.mean() == pytest.approx(-margin, rel=0.03)
    assert -1.01 < samples.min() < -margin / rate


def test_the_printed_table_keeps_the_error_below_seven_percent(repository, study, policy):
    with (repository / "studies/gate/results/errors.csv").open() as handle:
        rows = list(csv.DictReader(handle))

    shipped = [row for row in rows if row["rule"] == study.SHIPPED]
    assert len(shipped) == len(list(study.cells()))
    assert max(float(row["error"]) for row in shipped) <= study.ALLOWED
    small = [row for row in shipped if int(row["patients"]) < policy.patients_needed(float(row["margin"]))]
    assert {(row["error"], row["power"]) for row in small} == {("0.0", "0.0")}
    assert max(float(row["power"]) for row in shipped) > 0.99
    assert (repository / "studies/gate/results/tables.md").read_text() == study.tables(
        [{**row, "margin": float(row["margin"]), "patients": int(row["patients"])} for row in rows], policy
    )
