"""Drift from end to end: cases are remembered, new ones are compared, a decision follows, and the trail has all of it."""

import json

import pytest
import yaml
from tiny_run import ROOT

from fedsilo.cohort import manifest
from fedsilo.errors import DataError
from fedsilo.evaluation import drift_reports
from flows import decide, drift, phantoms, prepare
from tasks import trails
from tasks.paths import RunPaths

SITES = ("ct-a", "mr-a")
MORE = ("--set", "phantoms.inside_cases=11")


@pytest.fixture(scope="module")
def watched(tmp_path_factory, prefect_backend, make_workspace):
    """Two sites whose cases were remembered, to which new ones came."""
    made = make_workspace(tmp_path_factory.mktemp("drift"))
    tree = made.cohort_tree()
    tree["sites"] = [site for site in tree["sites"] if site["name"] in SITES]
    made.write_cohort(tree)
    policy = yaml.safe_load((ROOT / "pccp.yaml").read_text())
    policy["triggers"]["drift"].update(fewest=5, permutations=99)
    (made.folder / "pccp.yaml").write_text(yaml.safe_dump(policy))
    few = made.arguments("--set", "phantoms.inside_cases=6")
    assert phantoms.main(few) == prepare.main(few) == 0
    assert drift.main([*few, *policy_of(made), "--remember"]) == 0
    assert phantoms.main(made.arguments(*MORE)) == prepare.main(made.arguments(*MORE)) == 0
    return made


def policy_of(made):
    return ["--pccp", str(made.folder / "pccp.yaml")]


def report_of(made, site, window=1):
    return made.folder / "reports/demo/drift" / site / f"{window:04d}.json"


def test_new_cases_are_compared_once_and_only_statistics_are_told(watched, capsys):
    options = [*watched.arguments(*MORE), *policy_of(watched)]
    assert drift.main(options) == 0
    before = {site: report_of(watched, site).read_bytes() for site in SITES}

    assert drift.main(options) == 0

    told = watched.events("drift.report")
    assert [event.decision.verdict for event in told[:2]] == ["reference", "reference"]
    assert sorted(event.site for event in told[2:4]) == list(SITES)
    assert [event.decision.verdict for event in told[4:]] == ["none", "none"], "the second run had no new case to tell of"
    assert [event.outputs for event in told[4:]] == [(), ()]
    for event in told[2:4]:
        report = drift_reports.read(report_of(watched, event.site))
        assert (report.window, report.num_reference, report.num_window) == (1, 6, 5)
        assert (report.reference_patients, report.window_patients) == (6, 5)
        assert (event.decision.verdict, event.actor) == (report.verdict, event.site)
        assert event.decision.metrics_ref == trails.hashed(report_of(watched, event.site))
    for site in SITES:
        assert report_of(watched, site).read_bytes() == before[site]
        assert sorted(path.name for path in report_of(watched, site).parent.iterdir()) == ["0001.json"]
        rows = manifest.read(watched.folder / "data/prepared/demo" / site / "manifest.csv")
        text = before[site].decode() + (watched.folder / "audit/demo/federation.jsonl").read_text()
        hidden = {value for row in rows for value in (row.case, row.patient, row.content_hash)}
        assert not [value for value in hidden if f'"{value}"' in text]
        assert [path.name for path in (watched.folder / "drift/demo" / site).iterdir()] == ["cases.parquet"]


def test_a_decision_is_recorded_also_if_it_is_no(watched):
    options = [*watched.arguments(*MORE), *policy_of(watched)]

    assert decide.main(options) == 0, "there is no champion yet"
    assert decide.main(options) == decide.NO, "the last retraining was a moment ago"
    assert decide.main([*options, "--manual", "Ada asks"]) == 0

    first, held_back, asked = watched.events("retrain.decision")
    assert [event.decision.verdict for event in (first, held_back, asked)] == ["yes", "no", "yes"]
    assert held_back.why.text.startswith("no: cool-down for 14.0 days more; ")
    folder = watched.folder / "reports/demo/retrain"
    hashes = [event.decision.metrics_ref.removeprefix("sha256:") for event in (first, held_back, asked)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{sha256[:12]}.json" for sha256 in hashes)
    paths = RunPaths(watched.folder, "demo", "demo")
    with trails.held(paths, ()) as scribe:
        path = scribe.output(asked)
    assert path == folder / f"{hashes[-1][:12]}.json"
    assert asked.decision.metrics_ref == trails.hashed(path)
    content = json.loads(path.read_text())
    path.write_text("{}")
    with trails.held(paths, ()) as scribe, pytest.raises(DataError, match=r"line \d+ of the log says"):
        scribe.output(asked)
    assert content["decision"]["trigger"] == "manual"
    assert content["news"] == [{"site": site, "known": 0, "new": 11} for site in SITES]


def test_other_params_ask_for_a_new_reference(watched, capsys):
    changed = ["--set", "prepare.crop=nonzero", "--site", "ct-a", *policy_of(watched)]

    assert drift.main([*watched.arguments(*MORE), *changed]) == 1
    assert "run flows.drift --remember" in capsys.readouterr().err


def test_a_site_that_remembers_nothing_says_what_to_do(prepared, tmp_path, capsys):
    made = prepared.copy(tmp_path / "copy")

    assert drift.main([*made.arguments("--site", "ct-a"), "--pccp", str(ROOT / "pccp.yaml")]) == 1
    assert "site ct-a remembers no reference; run flows.drift --remember" in capsys.readouterr().err


def test_a_model_s_predictions_can_be_watched_too(prepared, tmp_path, capsys):
    from pathlib import Path

    import torch

    from fedsilo.cohort import roster, windows
    from fedsilo.federation import states
    from fedsilo.segmentation import network

    made = prepared.copy(tmp_path / "copy")
    cohort, params = roster.load_run(made.cohort, made.params, [], overlays=[])
    generator = torch.Generator().manual_seed(0)
    built = network.build(params.federate.network, num_classes=len(cohort.organs), in_channels=1, generator=generator)
    states.save(states.snapshot(built), made.folder / "runs/demo/global.safetensors")
    options = [*made.arguments("--site", "ct-a"), *("--pccp", str(ROOT / "pccp.yaml"))]

    assert drift.main([*options, "--remember", "--predict"]) == 0

    memory = windows.read(Path(made.folder) / "drift/demo/ct-a/cases.parquet")
    (first, *_) = memory.of_window(windows.REFERENCE)
    assert {f"volume_{organ}" for organ in cohort.organs[1:]} | {"entropy"} <= first.keys()
    assert 0 < first["entropy"] <= 1
    assert drift.main([*options, "--predict"]) == 0
    assert drift.main(options) == 1, "without the model it is another reference"
    assert "params or model are other than those of its reference" in capsys.readouterr().err
