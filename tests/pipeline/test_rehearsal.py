"""The story of `make demo-retrain`, from hospitals' exports to a model that comes back, on images of a few voxels."""

import hashlib
import importlib.util
import subprocess

import yaml
from tiny_run import ROOT, TINY

from fedsilo.audit import trail, verifier

FOLDER = ROOT / "studies" / "retraining"


def rehearsal():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("rehearse", FOLDER / "rehearse.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_federation_lives_through_the_whole_story(tmp_path, prefect_backend, capsys):
    cohort = yaml.safe_load((FOLDER / "cohort.yaml").read_text())
    changes = cohort["overrides"]
    changes["phantoms"].update(grid_zyx=TINY["phantoms"]["grid_zyx"], spacing_zyx_mm=TINY["phantoms"]["spacing_zyx_mm"])
    changes["prepare"].update(spacing_zyx_mm=TINY["prepare"]["spacing_zyx_mm"])
    changes["prepare"]["contract"] = {"spacing_mm": [0.2, 30.0], "min_edge_3d": 4}
    changes["federate"].update(TINY["federate"], rounds=1, network={"channels": [4, 8], "num_res_units": 0})
    changes["report"] = TINY["report"]
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(cohort))
    plan = yaml.safe_load((FOLDER / "pccp.yaml").read_text())
    plan["gate"]["catastrophe"] |= {"loss": 1.0, "tolerated_share": 0.99}  # models of one round lose patients by chance
    (tmp_path / "pccp.yaml").write_text(yaml.safe_dump(plan))
    folder = tmp_path / "retraining"

    code = rehearsal().main(
        ["--folder", str(folder), "--cohort", str(tmp_path / "cohort.yaml"), "--plan", str(tmp_path / "pccp.yaml")]
    )

    told = capsys.readouterr()
    assert code == 0, told.err
    log = trail.read(folder / "repository" / "audit" / "rehearsal" / "federation.jsonl")
    events = verifier.read_events(log)
    assert [event.decision.verdict for event in events if event.kind == "gate.verdict"] == [
        "inconclusive",
        "inconclusive",
        "pass",
    ]
    assert [(event.kind, event.why.request) for event in events if event.kind in ("promote", "rollback")] == [
        ("promote", "v1.0.0"),
        ("promote", "v1.1.0"),
        ("rollback", "v1.0.0"),
    ]
    assert "drift" in told.out
    kept, lock = (
        subprocess.run(
            ["git", "show", f"model-rehearsal@v1.1.0:{path}"], cwd=folder / "repository", check=True, capture_output=True
        )
        for path in ("reports/rehearsal/report/metrics.json", "cohorts/dvc.lock")
    )
    assert hashlib.md5(kept.stdout, usedforsecurity=False).hexdigest() in lock.stdout.decode(), "metrics of the version's own run"
    assert told.out.count("is flipped") == 2
