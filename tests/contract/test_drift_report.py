"""What a site tells of drift. A change here is a change of the privacy boundary: it needs a decision, not a fix."""

import json
from dataclasses import asdict, fields, is_dataclass

import numpy
import pytest

from fedsilo.errors import DataError
from fedsilo.evaluation import drift_reports
from fedsilo.evaluation.drift_reports import DriftReport, FeatureDrift, Histogram, Samples

FIELDS = {
    DriftReport: {
        "cohort": str,
        "site": str,
        "window": int,
        "num_reference": int,
        "num_window": int,
        "reference_patients": int,
        "window_patients": int,
        "verdict": drift_reports.Verdict,
        "alpha": float,
        "p_value": float | None,
        "mmd": float | None,
        "mmd_p": float | None,
        "ks_p": float | None,
        "permutations": int,
        "seed": int,
        "features": tuple[FeatureDrift, ...],
        "origin": str,
    },
    FeatureDrift: {
        "name": str,
        "ks": float,
        "p_adjusted": float,
        "psi": float,
        "psi_threshold": float,
        "reference": Histogram,
        "window": Histogram,
    },
    Histogram: {"cuts": tuple[float, ...], "counts": tuple[int, ...]},
}


@pytest.fixture
def made():
    generator = numpy.random.default_rng(0)
    names = ("shape_x", "spacing_z")
    steps = dict.fromkeys(names, 0.5)
    patients = [f"old {row}" for row in range(23)], [f"new {row // 2}" for row in range(24)]
    samples = Samples(names, steps, generator.normal(size=(23, 2)), generator.normal(size=(24, 2)), patients, "0" * 64)
    return samples, drift_reports.report(samples, cohort="demo", site="ct-a", window=1, alpha=0.05, permutations=99, seed=1)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_report_has_these_fields_and_no_other(kind):
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert {field.name: field.type for field in fields(kind)} == FIELDS[kind]


def test_no_bin_tells_of_fewer_than_five_patients(made):
    _, report = made

    for feature in report.features:
        assert min(feature.reference.counts) >= 5
        assert min(feature.window.counts) >= 5
        assert (sum(feature.reference.counts), sum(feature.window.counts)) == (23, 12)


def test_no_value_of_a_case_is_told(made, tmp_path):
    samples, report = made
    path = drift_reports.write(report, tmp_path / "report.json")

    def numbers(content):
        if isinstance(content, dict):
            content = list(content.values())
        if isinstance(content, list):
            return [number for entry in content for number in numbers(entry)]
        return [content] if isinstance(content, float) else []

    told = set(numbers(json.loads(path.read_text())))
    assert told
    assert not told & {float(value) for value in numpy.concatenate([samples.reference, samples.window]).ravel()}


def test_what_is_written_comes_back(made, tmp_path):
    _, report = made

    assert drift_reports.read(drift_reports.write(report, tmp_path / "report.json")) == report


@pytest.mark.parametrize("change", [{"patients": ["p1"]}, {"verdict": "fine"}, {"features": 3}, {"features": [{"name": "x"}]}])
def test_a_report_with_anything_else_is_refused(made, tmp_path, change):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({**asdict(made[1]), **change}))

    with pytest.raises(DataError, match="cannot use"):
        drift_reports.read(path)
