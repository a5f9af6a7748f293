"""dvc repro under a lock: what it reports, refuses and leaves behind."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from fedsilo import files
from fedsilo.errors import DataError, FedsiloError, ParamsError
from tasks import repro
from tasks.repro import Reproduction, StageRecord

PYTHON = "python -c"
STAGES = {
    "prepare": {"cmd": f"{PYTHON} \"open('a', 'w').write('1')\"", "deps": ["source"], "outs": ["a"]},
    "train": {"cmd": f"{PYTHON} \"open('b', 'w').write('2')\"", "deps": ["a"], "outs": ["b"]},
}


def run(*command, cwd):
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def make_workspace(tmp_path):
    """Make a repository with some stages."""

    def make(stages):
        run("git", "init", "-q", cwd=tmp_path)
        run("git", "config", "user.email", "test@example.org", cwd=tmp_path)
        run("git", "config", "user.name", "test", cwd=tmp_path)
        run(sys.executable, "-m", "dvc", "init", "-q", cwd=tmp_path)
        (tmp_path / "source").write_text("x")
        (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        run("git", "add", ".", cwd=tmp_path)
        run("git", "commit", "-qm", "start", cwd=tmp_path)
        return tmp_path

    return make


def reproduce(workspace, lines=None):
    return repro.reproduce(workspace, "dvc.yaml", variables={}, echo=(lines if lines is not None else []).append)


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ("Running stage 'prepare':\n", StageRecord("prepare", "executed")),
        (
            "Stage 'cohorts/dvc.yaml:report@liver' didn't change, skipping\n",
            StageRecord("cohorts/dvc.yaml:report@liver", "skipped"),
        ),
        ("Stage 'train' is cached - skipping run, checking out outputs\n", StageRecord("train", "restored")),
        ("> python -m flows.prepare\n", None),
        ("  Running stage 'x':\n", None),
    ],
)
def test_a_line_says_what_became_of_a_stage(line, record):
    assert repro.parse(line) == record


def test_stages_are_executed_then_skipped_then_restored(make_workspace):
    workspace, lines = make_workspace(STAGES), []

    first = reproduce(workspace, lines)
    second = reproduce(workspace)
    for name in ("a", "b", "dvc.lock"):
        (workspace / name).unlink()
    third = reproduce(workspace)

    assert (
        first.with_outcome("executed") == second.with_outcome("skipped") == third.with_outcome("restored") == ("prepare", "train")
    )
    assert [line for line in lines if line.startswith("Running")] == ["Running stage 'prepare':\n", "Running stage 'train':\n"]
    assert (workspace / "b").read_text() == "2"


def test_the_record_names_commit_and_local_changes(make_workspace):
    workspace = make_workspace({})
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=workspace, text=True).strip()

    assert reproduce(workspace) == Reproduction("dvc.yaml", (), commit, dirty=False)
    (workspace / "source").write_text("y")
    assert reproduce(workspace).dirty


def test_a_failing_stage_is_named(make_workspace):
    workspace = make_workspace({**STAGES, "train": {**STAGES["train"], "cmd": f'{PYTHON} "raise SystemExit(3)"'}})

    with pytest.raises(FedsiloError, match=r"dvc repro dvc\.yaml stopped at stage train with exit code"):
        reproduce(workspace)


def test_a_held_workspace_is_refused_and_a_released_one_is_not(make_workspace):
    workspace = make_workspace({})

    with FileLock(workspace / repro.LOCK_NAME), pytest.raises(FedsiloError, match="another run holds"):
        reproduce(workspace)

    assert reproduce(workspace).stages == ()


def test_a_run_waits_for_another_as_long_as_it_is_told(tmp_path, monkeypatch):
    other = FileLock(tmp_path / repro.LOCK_NAME, thread_local=False)
    other.acquire()
    ended = threading.Timer(1, other.release)
    ended.start()
    monkeypatch.setenv(repro.PATIENCE, "60")

    with repro.held_lock(tmp_path):
        assert not other.is_locked
    ended.join()


def test_an_interrupted_reproduction_leaves_no_process_behind(make_workspace):
    sleep = f"{PYTHON} \"import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)\""
    workspace = make_workspace({"train": {"cmd": sleep, "outs": ["b"]}})

    def interrupt(line):
        if line.startswith("> "):
            deadline = time.monotonic() + 60
            while not (workspace / "pid").exists() or not (workspace / "pid").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repro.reproduce(workspace, "dvc.yaml", variables={}, echo=interrupt)

    assert not is_running(int((workspace / "pid").read_text()))
    with FileLock(workspace / repro.LOCK_NAME, timeout=0):
        pass


def is_running(pid):
    """Say whether a process does anything; one that nobody waited for does not."""
    try:
        os.kill(pid, 0)
        return " (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_variables_and_our_python_reach_the_stages(make_workspace):
    code = "import os, sys; open('b', 'w').write(os.environ['WORD'] + ' ' + sys.executable)"
    workspace = make_workspace({"train": {"cmd": f'{PYTHON} "{code}"', "outs": ["b"]}})

    repro.reproduce(workspace, "dvc.yaml", variables={"WORD": "hello"}, echo=[].append)

    word, executable = (workspace / "b").read_text().split()
    assert word == "hello"
    assert Path(executable).parent == Path(sys.executable).parent


@pytest.mark.parametrize(
    ("cohort", "target"),
    [("demo", "dvc.yaml"), ("kidneys", "cohorts/dvc.yaml:report@kidneys"), ("liver", "cohorts/dvc.yaml:report@liver")],
)
def test_the_target_of_a_cohort(repository, cohort, target):
    assert repro.target_of(repository, cohort) == target


@pytest.mark.parametrize("cohort", ["kidney", "dvc", "../params"])
def test_an_unknown_cohort_is_refused_with_the_known_ones(repository, cohort):
    with pytest.raises(ParamsError, match="there are demo, kidneys, liver"):
        repro.target_of(repository, cohort)


def test_the_target_of_a_study(repository):
    assert repro.study_target(repository, "fedgin") == "studies/fedgin/dvc.yaml"


@pytest.mark.parametrize("study", ["fedgi", "../cohorts", ".", "learned_gin"])
def test_an_unknown_study_is_refused_with_the_known_ones(repository, study):
    with pytest.raises(ParamsError, match=r"there are .*fedgin, fedgin-real"):
        repro.study_target(repository, study)


def test_of_a_restored_folder_no_file_is_named_and_any_change_is_seen(tmp_path):
    """Files of prepared data have the names of cases."""
    case = tmp_path / "data" / "prepared" / "ct-a" / "cases" / "case-17.safetensors"
    files.write_bytes(case, b"voxels")
    files.write_bytes(tmp_path / "model.safetensors", b"weights")
    stages = {"prepare": {"outs": [{"path": "data/prepared"}]}, "train": {"outs": [{"path": "model.safetensors"}]}}
    lock = files.write_text(tmp_path / "dvc.lock", yaml.safe_dump({"stages": stages}))

    first = repro.restored_outputs(tmp_path, lock, ["dvc.yaml:train", "prepare"])
    assert [artifact.name for artifact in first] == ["data/prepared/", "model.safetensors"]
    files.write_bytes(case, b"other voxels")
    second = repro.restored_outputs(tmp_path, lock, ["dvc.yaml:train", "prepare"])
    assert first[0].sha256 != second[0].sha256
    assert first[1] == second[1]
    case.rename(case.with_name("case-18.safetensors"))
    assert repro.restored_outputs(tmp_path, lock, ["prepare"])[0].sha256 != second[0].sha256


def test_a_stage_that_the_lock_file_lacks_cannot_be_told_of(tmp_path):
    lock = files.write_text(tmp_path / "dvc.lock", "stages: {}\n")

    with pytest.raises(DataError, match="it lacks stage prepare"):
        repro.restored_outputs(tmp_path, lock, ["prepare"])
