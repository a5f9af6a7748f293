"""The scheduled flow: the same as dvc repro by hand, once, under a lock, and visible."""

import shutil
import subprocess
import sys

import pytest
import yaml
from filelock import FileLock
from prefect import Flow

from fedsilo import files
from fedsilo.audit import trail, verifier
from fedsilo.errors import FedsiloError, ParamsError
from flows import environment, federate, inside, outside, phantoms, prepare, report
from tasks import paths, repro, trails

STAGES = {
    "prepare": {"cmd": "python -c \"open('a', 'w').write('1')\"", "deps": ["source"], "outs": ["a"]},
    "train": {
        "cmd": "python -c \"import os; open('run', 'a').write(os.environ['FEDSILO_OUTER_RUN']); open('b', 'w').write('2')\"",
        "deps": ["a"],
        "outs": ["b"],
    },
}


@pytest.fixture
def workspace(tmp_path):
    """A repository with two small stages for the embedded cohort."""
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "cohorts").mkdir()
    (tmp_path / "cohorts" / "dvc.yaml").write_text(yaml.safe_dump({"vars": [{"cohorts": ["liver"]}], "stages": {}}))
    (tmp_path / "source").write_text("x")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    return tmp_path


def test_reproducing_twice_does_the_work_once(prefect_backend, workspace):
    from flows.reproduce import reproduce

    first = reproduce("demo", str(workspace))
    lock = (workspace / "dvc.lock").read_bytes()
    second = reproduce("demo", str(workspace))

    assert first.with_outcome("executed") == second.with_outcome("skipped") == ("prepare", "train")
    assert (workspace / "dvc.lock").read_bytes() == lock


def test_what_comes_from_the_cache_is_told_of_in_the_trail(prefect_backend, workspace):
    from flows.reproduce import reproduce

    reproduce("demo", str(workspace))
    assert not (workspace / "audit").exists(), "these stages keep no trail, and nothing was restored"
    (workspace / "a").unlink()

    assert reproduce("demo", str(workspace)).with_outcome("restored") == ("prepare",)

    opened, restored = verifier.read_events(trail.read(workspace / "audit/demo/federation.jsonl"))
    assert opened.kind == "log.open"
    assert (restored.kind, restored.why.text) == ("run.restored", "from DVC's cache: prepare")
    assert restored.outputs == (trails.artifact(workspace / "a", "a"),)
    assert restored.prefect is not None
    assert restored.env.dvc_lock_sha256 == files.sha256_file(workspace / "dvc.lock")


def test_the_flow_and_dvc_by_hand_leave_the_same_lock_file(prefect_backend, workspace, tmp_path_factory, monkeypatch):
    from flows.reproduce import reproduce

    other = shutil.copytree(workspace, tmp_path_factory.mktemp("by-hand") / "workspace")
    monkeypatch.setenv("FEDSILO_OUTER_RUN", "none")
    repro.reproduce(other, "dvc.yaml", variables={}, echo=[].append)

    reproduce("demo", str(workspace))

    assert (workspace / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()


def test_stages_learn_which_run_started_them_and_people_get_a_table(prefect_backend, workspace):
    from prefect.client.orchestration import get_client

    from flows.reproduce import reproduce

    state = reproduce("demo", str(workspace), return_state=True)

    outer = (workspace / "run").read_text()
    assert outer == str(state.state_details.flow_run_id)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(outer).name == "reproduce demo"
        (table,) = [found for found in client.read_artifacts() if str(found.flow_run_id) == outer]
    assert table.key == "repro-report"


def test_a_second_one_at_the_same_time_is_refused(prefect_backend, workspace):
    from flows.reproduce import reproduce

    with FileLock(workspace / repro.LOCK_NAME), pytest.raises(FedsiloError, match="another run holds"):
        reproduce("demo", str(workspace))

    assert not (workspace / "a").exists()


def test_an_unknown_cohort_is_refused(prefect_backend, workspace):
    from flows.reproduce import reproduce

    with pytest.raises(ParamsError, match=r"no cohort 'demi'.*there are demo, liver"):
        reproduce("demi", str(workspace))


def test_a_study_is_reproduced_instead_of_a_cohort(prefect_backend, workspace):
    from flows.reproduce import reproduce
    from tasks import results

    folder = workspace / "studies" / "small"
    folder.mkdir(parents=True)
    stage = {"cmd": "python -c \"import os; os.mkdir('results'); open('results/tables.md', 'w').write('| a table |')\""}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"summarise": {**stage, "outs": ["results"]}}}))

    done = reproduce("demo", str(workspace), "small")

    assert done.with_outcome("executed") == ("studies/small/dvc.yaml:summarise",)
    assert not (workspace / "a").exists()
    assert "| a table |" in results.study_summary(workspace, "small")
    assert str(folder / "results") in results.study_summary(workspace, "small")
    with pytest.raises(ParamsError, match=r"no study 'smal'.*there are small"):
        reproduce("demo", str(workspace), "smal")


def test_a_cohort_and_a_study_at_once_are_refused(capsys):
    from flows import run

    with pytest.raises(SystemExit) as ended:
        run.main(["--cohort", "liver", "--study", "fedgin"])
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(("outer", "worn"), [("none-1234", ["repro:none-1234"]), ("", [])])
def test_a_flow_run_wears_the_run_that_started_it_and_its_tasks_do_not(prefect_backend, monkeypatch, outer, worn):
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.context import TaskRunContext

    @task
    def inner():
        return TaskRunContext.get().task_run.tags

    @flow(on_running=[environment.wear_outer_run])
    def phase():
        assert not inner()

    monkeypatch.setenv(paths.OUTER_RUN, outer)
    state = phase(return_state=True)

    assert state.is_completed()
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).tags == worn


def test_every_phase_wears_the_run_that_started_it():
    for module in (phantoms, prepare, federate, inside, outside, report):
        (found,) = [value for value in vars(module).values() if isinstance(value, Flow)]
        assert found.on_running_hooks == [environment.wear_outer_run], module.__name__
