"""The whole pipeline on tiny phantoms: it ends, and it ends the same way whatever happens on the way."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from tiny_run import hashes

from fedsilo import files
from fedsilo.audit import trail, verifier
from flows import audit, federate, inside, outside, phantoms, prepare, report
from tasks import trails

ROOT = Path(__file__).parents[2]
PHASES = (federate, inside, outside, report)


def play(made):
    for phase in PHASES:
        assert phase.main(made.arguments()) == 0
    return hashes(made.folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory, prepared):
    """A finished run; read only."""
    made = prepared.copy(tmp_path_factory.mktemp("first") / "run")
    play(made)
    return made


def test_every_result_is_there(first):
    found = hashes(first.folder)

    for name in (
        "runs/demo/global.safetensors",
        "runs/demo/inside/mr-a.safetensors",
        "runs/demo/baselines/mr-a/local.safetensors",
        "runs/demo/baselines/mr-a/finetuned.safetensors",
        "runs/demo/rounds.csv",
        "runs/demo/inside_evaluation/cases.csv",
        "runs/demo/outside_evaluation/cases.csv",
        "runs/demo/outside_evaluation/routes.csv",
        "runs/demo/outside_evaluation/router.csv",
        "reports/demo/report/index.html",
        "reports/demo/report/metrics.json",
    ):
        assert name in found
    with (first.folder / "runs/demo/rounds.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 3 * 4
    assert sum(float(row["weight"]) for row in rows if row["round"] == "0") == pytest.approx(1, abs=1e-5)
    assert sum(int(row["selected_inside"]) for row in rows) == 4


def test_every_method_scored_every_test_case(first):
    for phase, methods, num_cases in (
        ("inside", {"global", "inside", "local", "finetuned"}, 4),
        ("outside", {"global", "ensemble", "soup", "router", "routing-paper", "routing-release"}, 6),
    ):
        with (first.folder / f"runs/demo/{phase}_evaluation/cases.csv").open() as handle:
            rows = [row for row in csv.DictReader(handle) if row["metric"] == "dice"]
        assert {row["method"] for row in rows} == methods
        assert len({row["case"] for row in rows}) == num_cases
        assert len(rows) == num_cases * len(methods) * 5


def scores(made, phase):
    with (made.folder / f"runs/demo/{phase}_evaluation/cases.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_dice_alone_is_the_same_dice_and_can_be_reported(tmp_path, first):
    made = first.copy(tmp_path / "run")
    for phase, name in ((inside, "inside"), (outside, "outside")):
        assert phase.main(made.arguments("--metrics", "dice")) == 0
        slow = {"hd95", "assd", "nsd"}
        assert {row["metric"] for row in scores(first, name)} - {row["metric"] for row in scores(made, name)} == slow
        assert scores(made, name) == [row for row in scores(first, name) if row["metric"] not in slow]

    assert report.main(made.arguments()) == 0


def test_the_trail_tells_of_every_phase_and_holds(first, capfd):
    assert re.search(r"demo/federation.jsonl, \d+ lines verified", trails.summary(first.folder, "demo"))
    events = verifier.read_events(trail.read(first.folder / "audit/demo/federation.jsonl"))
    kinds = {event.kind for event in events}
    assert kinds >= {"log.open", "data.validate", "data.accept", "evaluate"}
    accepted = {event.subject.name: event.subject.after for event in events if event.kind == "data.accept"}
    assert accepted == {
        f"demo/{path.parent.name}": f"sha256:{files.sha256_file(path)}"
        for path in (first.folder / "data/prepared/demo").glob("*/manifest.csv")
    }
    model = f"sha256:{files.sha256_file(first.folder / 'runs/demo/global.safetensors')}"
    gates = {event.decision.gate for event in events if event.kind == "evaluate" and event.subject.after == model}
    assert gates == {"selection", "inside", "outside"}
    capfd.readouterr()
    assert audit.main(["verify", "--dvc", "--workspace", str(first.folder)]) == 0
    told = capfd.readouterr().out
    assert re.search(r"files: \d+ as the trail says", told)
    assert "missing:" not in told
    assert audit.main(["show", model, "--workspace", str(first.folder)]) == 0
    assert "rounds: 3, first state" in capfd.readouterr().out


def test_one_site_at_a_time_in_a_fresh_folder_gives_the_same_bytes(tmp_path, first, make_workspace):
    """Phantoms, preparation and all phases again, with another number of processes."""
    other = make_workspace(tmp_path / "other", parallel_sites=1)
    assert phantoms.main(other.arguments()) == 0
    assert prepare.main(other.arguments()) == 0

    assert play(other) == hashes(first.folder)


def test_a_killed_federation_goes_on_and_ends_with_the_same_bytes(copied, first):
    """SIGKILL after the first site of round 1 has finished; the same command again."""
    journal = copied.folder / "checkpoints/demo/federate"
    command = [sys.executable, "-m", "flows.federate", *copied.arguments()]
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    killed = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(journal.glob("sites/*/00001/done.json")):
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (copied.folder / "runs/demo/global.safetensors").exists()
    before = (journal / "sites/ct-a/00000/done.json").stat().st_mtime_ns

    assert federate.main(copied.arguments()) == 0

    assert (journal / "sites/ct-a/00000/done.json").stat().st_mtime_ns == before
    for name, sha256 in hashes(copied.folder).items():
        assert sha256 == files.sha256_file(first.folder / name), name


def test_a_corrupt_checkpoint_is_refused_and_the_run_falls_back(copied, first, caplog):
    shutil.copytree(first.folder / "checkpoints", copied.folder / "checkpoints", dirs_exist_ok=True)
    path = copied.folder / "checkpoints/demo/federate/server/00003.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")

    assert federate.main(copied.arguments()) == 0

    assert "falling back to the last good one" in caplog.text
    assert "00003.safetensors" in caplog.text
    for name in ("runs/demo/global.safetensors", "runs/demo/rounds.csv", "runs/demo/inside/mr-a.safetensors"):
        assert files.sha256_file(copied.folder / name) == files.sha256_file(first.folder / name)


def test_other_params_start_a_new_journal(copied, first, caplog):
    shutil.copytree(first.folder / "checkpoints", copied.folder / "checkpoints", dirs_exist_ok=True)

    assert federate.main(copied.arguments("--set", "federate.rounds=2")) == 0

    assert "starting a new journal" in caplog.text
    assert json.loads((copied.folder / "runs/demo/federation.json").read_text())["rounds"] == 2


def test_a_second_run_on_the_same_folder_is_refused(copied, capfd):
    from tasks import locks

    with locks.hold_folder(copied.folder / "checkpoints" / "demo"):
        assert federate.main(copied.arguments()) == 1

    assert "is in use by another run" in capfd.readouterr().err
