"""A retraining as a whole, on tiny models that a graph of two small stages hands out: killed, asked, refused, told once."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import served_graph
import serving
import yaml
from tiny_run import hashes

from fedsilo import files
from fedsilo.errors import DataError, OutputError, ParamsError
from flows import approve, audit, champion, retrain, retraining
from tasks import arrivals, cycle, locks
from tasks.release_paths import ReleasePaths

FIRST, SECOND = "demo--s42", "demo--s7"
COPY = "python -c \"import shutil; shutil.copytree({}, '{}', dirs_exist_ok=True)\""
STAGES = {
    "prepare": {
        "cmd": COPY.format("'stock/prepared'", "data/prepared/demo"),
        "deps": ["stock/prepared"],
        "outs": ["data/prepared/demo"],
    },
    "report": {
        "cmd": COPY.format("'runs/' + open('source').read()", "runs/demo"),
        "deps": ["data/prepared/demo", "source"],
        "outs": ["runs/demo"],
    },
}


def git(folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(two_seeds, tmp_path_factory, repository):
    """Two finished runs in a repository whose graph hands out the one that ``source`` names; read only."""
    work = two_seeds.copy(tmp_path_factory.mktemp("retrain") / "run")
    folder = work.folder
    shutil.copytree(folder / "data" / "prepared" / "demo", folder / "stock" / "prepared")
    plan = yaml.safe_load((repository / "pccp.yaml").read_text())
    plan["gate"] |= {"min_patients": 1, "unseen": 0.49, "resamples": 999, "unseen_organs": "report"}
    plan["gate"]["metrics"] = {"dice": {"use": "gate", "margins": {}, "margin_other": 0.99}}
    plan["gate"]["catastrophe"] |= {"loss": 1.0, "tolerated_share": 0.99}
    (folder / "pccp.yaml").write_text(yaml.safe_dump(plan))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (folder / "cohorts").mkdir()
    shutil.copy(work.cohort, folder / "cohorts" / "demo.yaml")  # where deployments look for it
    (folder / ".gitignore").write_text(
        "/data/\n/stock/\n/runs/\n/checkpoints/\n/keys/\n/drift/\n/reports/\n/audit/*/*.jsonl\n/audit/*/gates/\n"
    )
    git(folder, "init", "-q")
    git(folder, "config", "user.email", "test@example.org")
    git(folder, "config", "user.name", "test")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True, capture_output=True)
    hand_out(work, FIRST)
    return work


def hand_out(work, run):
    """Let the graph make another run's model, and commit that."""
    (work.folder / "source").write_text(run)
    git(work.folder, "add", "--all")
    git(work.folder, "commit", "-qm", run)


@pytest.fixture
def work(made, tmp_path):
    """A copy that a test may change."""
    return made.copy(tmp_path / "copy")


def call(work, *more):
    return retrain.main(["--cohort", "demo.yaml", "--workspace", str(work.folder), *more])


def verdict(work):
    (path,) = {work.folder / event.outputs[0].name for event in work.events("gate.verdict")[-1:]}
    return path


def answer(work, person, *more, decision="approve"):
    """Sign for the last verdict as a person; return the exit code."""
    model = work.events("gate.verdict")[-1].subject.after
    told = ["--candidate", model, "--verdict", str(verdict(work)), "--decision", decision, "--reason", "of a test"]
    key = work.folder / "keys" / "demo" / f"{person}.pem"
    return approve.main([*told, "--key", str(key), "--workspace", str(work.folder), *more])


def ends(work):
    return [event.decision.verdict for event in work.events("retrain.decision")]


@pytest.fixture(scope="module")
def first(made, tmp_path_factory):
    """The first model is in use; read only."""
    work = made.copy(tmp_path_factory.mktemp("first") / "run")
    assert call(work, "--manual", "first model") == retraining.WAITS
    assert work.events("gate.verdict")[0].decision.verdict == "inconclusive"
    assert answer(work, "demo-approver") == 1, "the missing evidence must be named"
    assert answer(work, "demo-approver", "--missing", "a champion") == 0
    assert call(work) == retraining.WAITS, "one person is not two"
    assert answer(work, "demo-reviewer", "--missing", "a champion") == 0
    assert call(work) == retraining.DONE
    hand_out(work, SECOND)
    return work


@pytest.fixture
def begun(first, tmp_path):
    """A copy in which the first model is in use."""
    return first.copy(tmp_path / "begun")


def test_a_first_model_goes_into_use_by_two_persons_and_then_there_is_nothing_to_do(first, tmp_path, capsys):
    work = first.copy(tmp_path / "copy")

    assert ends(work) == ["yes", "promoted"]
    assert [event.why.request for event in work.events("promote")] == ["v1.0.0"]
    assert {event.site for event in work.events("drift.report")} == {"ct-a", "ct-b", "ct-c", "mr-a", "mr-b", "mr-c", "mr-d"}
    assert call(work) == retraining.NO
    assert "no retraining: no trigger fired" in capsys.readouterr().out
    assert ends(work) == ["yes", "promoted", "no"]
    assert champion.main(["--workspace", str(work.folder)]) == 0


class Killed(BaseException):
    """As SIGKILL, nothing catches it."""


def test_killed_after_every_step_it_goes_on_and_promotes_once(begun, monkeypatch):
    steps = ["_look", "_decide", "_reproduce", "_beside", "_judge", "_ask"]
    before = {event.ts for event in begun.events("promote")}

    def killed(owner, name):
        real = getattr(owner, name)

        def step(*arguments, **options):
            real(*arguments, **options)
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, step)
            with pytest.raises(Killed):
                retrain.retrain_here(order(begun, manual="security: new seed"))

    for step in steps:
        killed(retraining, step)
    assert answer(begun, "demo-approver") == 0
    killed(retraining.promoting, "promote")
    killed(retraining.drift, "watch_sites")

    assert call(begun) == retraining.DONE
    assert ends(begun) == ["yes", "promoted", "yes", "promoted"]
    assert [event.why.request for event in begun.events("promote") if event.ts not in before] == ["v1.1.0"]
    assert len(begun.events("gate.verdict")) == 2
    assert audit.main(["verify", "--workspace", str(begun.folder)]) == 0


def test_a_candidate_that_waits_stays_when_data_come(begun, capsys):
    assert call(begun, "--manual", "security: new seed") == retraining.WAITS
    assert call(begun, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "the gate said pass of sha256:" in told
    assert "persons: nobody" in told
    asked = files.sha256_file(begun.folder / "runs" / "demo" / "global.safetensors")
    hand_out(begun, FIRST)

    assert call(begun) == retraining.WAITS
    assert files.sha256_file(begun.folder / "runs" / "demo" / "global.safetensors") == asked
    assert answer(begun, "demo-approver") == 0
    assert call(begun) == retraining.DONE

    assert begun.events("promote")[-1].subject.after == f"sha256:{asked}"
    assert len(begun.events("gate.verdict")) == 2


DYING = """
import os, signal, sys
from flows import retrain, retraining

real = retraining.promoting.promote
def dying(*arguments, **options):
    real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
retraining.promoting.promote = dying
sys.exit(retrain.main(sys.argv[1:]))
"""


def test_a_process_that_was_killed_goes_on_with_what_it_promoted_and_trains_nothing(begun, repository):
    from prefect.settings import PREFECT_API_URL

    assert call(begun, "--manual", "security: new seed") == retraining.WAITS
    assert answer(begun, "demo-approver") == 0
    promoted = f"sha256:{files.sha256_file(begun.folder / 'runs' / 'demo' / 'global.safetensors')}"
    variables = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", DYING, "--cohort", "demo.yaml", "--workspace", str(begun.folder)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    hand_out(begun, FIRST)

    assert call(begun) == retraining.DONE

    assert ends(begun) == ["yes", "promoted", "yes", "promoted"]
    assert [event.subject.after for event in begun.events("promote")][1:] == [promoted]
    assert files.sha256_file(begun.folder / "runs" / "demo" / "global.safetensors") in promoted


@pytest.fixture
def served(begun, tmp_path):
    """The nightly deployment, served in a repository with a model in use; its schedule fires every few seconds."""
    folder = tmp_path / "served"
    folder.mkdir()
    often = served_graph.entry(
        "often",
        of="nightly",
        parameters={"cohort": "demo", "manual": "security: new seed"},
        triggers=served_graph.triggers("demo"),
        schedules=[{"interval": 5, "timezone": "UTC", "slug": "often"}],
    )
    started = served_graph.start(folder, begun.folder, [often], flow="retrain")
    yield started
    started.end()


def two_events_at_once(served):
    """Pause the schedule, let two sites' data arrive, and give how the runs ended that they started."""
    with served.api() as api:
        api.pause_deployment(served.deployment("often").id)
    served.wait("often", lambda runs: all(run.state.is_final() for run in runs))
    before = {run.id for run in served.runs("often")}
    for site in ("ct-a", "mr-a"):
        arrivals.announce.fn(served.url, "demo", site)

    def both(runs):
        return [run.state.is_final() for run in runs if run.id not in before] == [True, True]

    return sorted(run.state_name for run in served.wait("often", both) if run.id not in before)


def test_served_and_killed_between_steps_its_schedule_goes_on_and_promotes_once_and_events_start_one_run(begun, served):
    log = begun.folder / "audit" / "demo" / "federation.jsonl"
    model, candidate = (begun.folder / "runs" / run / "global.safetensors" for run in ("demo", SECOND))
    tags = begun.folder / ".git" / "refs" / "tags"

    def told(text, times):
        return lambda: log.read_bytes().count(text) >= times

    def kill_once(done):
        """Kill the run that has done a step, as soon as it has; or the next one, if what killed the last came late."""
        deadline = time.monotonic() + 120
        while not (done() and (run := the_run())):
            assert time.monotonic() < deadline, served.log()
            time.sleep(0.01)
        os.kill(run, signal.SIGKILL)
        while the_run() == run:
            time.sleep(0.01)

    def the_run():
        """Give the process of the run that is under way; None if none is."""
        found = serving.processes_with(served.mark)
        runners = {f"PPid:\t{number}" for number, command in found if "flows.deployments" in command}
        for number, command in found:
            with contextlib.suppress(FileNotFoundError):  # it has ended since
                if "spawn_main" in command and runners & set(Path(f"/proc/{number}/status").read_text().splitlines()):
                    return number
        return None

    def states():
        with served.api() as api:
            return [run.state_name for run in api.read_flow_runs()]

    kill_once(told(b'"verdict":"yes"', 2))
    kill_once(lambda: model.is_file() and files.sha256_file(model) == files.sha256_file(candidate))
    kill_once(told(b'"event":"gate.verdict"', 2))
    assert answer(begun, "demo-approver") == 0
    kill_once(ReleasePaths(begun.folder, "demo").journal.is_file)
    kill_once(told(b'"event":"promote"', 2))
    kill_once(lambda: '"v1.1.0"' in (begun.folder / "releases" / "demo" / "champion.json").read_text())
    kill_once((tags / "model@v1.1.0").is_file)
    deadline = time.monotonic() + 120
    while "promoted" not in ends(begun)[2:]:
        assert time.monotonic() < deadline, served.log()
        time.sleep(1)

    assert states().count("Crashed") == 7
    assert two_events_at_once(served) == ["Cancelled", "Completed"]
    served.end()
    assert ends(begun)[:4] == ["yes", "promoted", "yes", "promoted"]
    assert [event.why.request for event in begun.events("promote")] == ["v1.0.0", "v1.1.0"]
    assert len(begun.events("gate.verdict")) == 2
    assert audit.main(["verify", "--workspace", str(begun.folder)]) == 0
    assert champion.main(["--workspace", str(begun.folder)]) == 0


def order(work, **more):
    order = retraining.Order(work.cohort.relative_to(work.folder), workspace=work.folder, **more)
    assert order.load().roster.name == "demo"
    return order


def test_a_person_says_no_and_what_is_said_later_changes_nothing(begun):
    assert call(begun, "--manual", "security: new seed") == retraining.WAITS
    assert begun.events("pccp.check")[-1].decision.verdict == "inside"
    assert answer(begun, "demo-reviewer", decision="reject") == 0

    assert call(begun) == retraining.STAYS

    assert ends(begun)[-1] == "rejected"
    assert answer(begun, "demo-approver") == 1, "a yes after the end does not count"
    assert call(begun) == retraining.NO
    assert len(begun.events("promote")) == 1


def test_a_model_that_is_in_use_is_not_promoted_again(begun):
    hand_out(begun, FIRST)

    assert call(begun, "--manual", "again") == retraining.NO

    assert ends(begun)[-1] == "unchanged"
    assert len(begun.events("gate.verdict")) == len(begun.events("promote")) == 1


def test_a_failed_candidate_ends_it(begun):
    table = begun.folder / "runs" / SECOND / "inside_evaluation" / "cases.csv"
    table.write_text(table.read_text().replace("0.", "0.9", 1))

    assert call(begun, "--manual", "security: new seed") == retraining.STAYS

    assert ends(begun)[-1] == "failed"
    assert answer(begun, "demo-approver") == 1


def test_a_dry_run_changes_nothing(begun, capsys):
    capsys.readouterr()
    parts = [path.name for path in begun.folder.iterdir() if path.name not in (".git", ".dvc", ".fedsilo.lock")]
    before = hashes(begun.folder, parts)

    assert call(begun, "--dry-run", "--manual", "security: new seed") == 0

    told = capsys.readouterr().out
    assert "no retraining is under way" in told
    assert "dvc repro dvc.yaml would run report\n" in told
    assert hashes(begun.folder, parts) == before


def test_what_no_commit_names_is_not_trained(begun):
    plan = begun.folder / "pccp.yaml"
    plan.write_text(plan.read_text() + "# looser\n")

    with pytest.raises(DataError, match=r"commit first .*pccp\.yaml"):
        retraining.retrain_once(order(begun, manual="security: new seed"))
    git(begun.folder, "checkout", "pccp.yaml")
    (begun.folder / "source").write_text(FIRST)
    with pytest.raises(DataError, match=r"commit first .*: source"):
        retraining.retrain_once(order(begun, manual="security: new seed"))
    git(begun.folder, "checkout", "source")
    (begun.folder / "imported").mkdir()
    (begun.folder / "imported" / "ct-z.dvc").write_text("outs: []\n")
    with pytest.raises(DataError, match=r"commit first .*: imported/ct-z.dvc"):
        retraining.retrain_once(order(begun, manual="security: new seed"))

    assert ends(begun) == ["yes", "promoted"]


def test_no_model_is_judged_without_a_site_that_the_contract_stopped(begun):
    verdict = begun.folder / "stock" / "prepared" / "ct-b" / "contract.json"
    verdict.write_text(verdict.read_text().replace('"success": true', '"success": false'))
    assert '"success": false' in verdict.read_text()

    assert call(begun, "--manual", "security: new seed") == retraining.STAYS

    assert ends(begun)[-1] == "kept"
    assert "stopped ct-b" in begun.events("retrain.decision")[-1].why.text
    assert len(begun.events("gate.verdict")) == 1


def test_answers_are_waited_for_less_than_a_day(begun):
    for seconds in (-1, 86400):
        with pytest.raises(ParamsError, match="cannot wait"):
            retraining.retrain_once(order(begun, wait_seconds=seconds))


def test_one_at_a_time(begun):
    with (
        locks.hold_folder(begun.folder / "checkpoints" / "retrain" / "demo"),
        pytest.raises(OutputError, match="in use by another run"),
    ):
        retraining.retrain_once(order(begun, manual="security: new seed"))


@contextlib.contextmanager
def paused(begun, *, wait):
    """Call it in a thread as a flow that pauses, and give the paused run and what the call returns."""
    from prefect.client.orchestration import get_client

    codes = []
    thread = threading.Thread(target=lambda: codes.append(call(begun, "--manual", "security: new seed", "--wait", str(wait))))
    thread.start()

    def run():
        deadline = time.monotonic() + 120
        with get_client(sync_client=True) as client:
            while time.monotonic() < deadline:
                found = [found for found in client.read_flow_runs() if found.state_name == "Paused"]
                if found:
                    return found[0]
                time.sleep(0.5)
        raise AssertionError("no run paused")

    yield run, codes
    thread.join(timeout=120)
    assert not thread.is_alive()


def test_a_form_carries_a_signature_and_nothing_else(begun, tmp_path):
    from prefect.client.orchestration import get_client

    def fill_in(found, text):
        with get_client(sync_client=True) as client:
            answered = {"decision": "approve", "reason": "of a test", "signature": text}
            assert client.resume_flow_run(found.id, run_input=answered).status.value == "ACCEPT"

    with paused(begun, wait=120) as (run, codes):
        found = run()
        fill_in(found, "I say yes")
        time.sleep(3)
        document = tmp_path / "signed.json"
        assert answer(begun, "demo-approver", "--out", str(document)) == 0
        assert begun.events("approve")[2:] == []
        fill_in(run(), document.read_text())

    assert codes == [retraining.DONE]
    assert ends(begun)[-1] == "promoted"
    (given,) = begun.events("approve")[2:]
    assert files.sha256_file(verdict(begun)) in str(given.attached)


def last_run(flow_name):
    """Read the newest run of a flow."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        named = FlowFilter(name=FlowFilterName(any_=[flow_name]))
        return client.read_flow_runs(flow_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


def test_no_answer_is_a_no(begun):
    with paused(begun, wait=5) as (run, codes):
        run()

    assert codes == [retraining.STAYS]
    assert ends(begun)[-1] == "unanswered"
    assert last_run("retrain here").state_name == "Completed", "no answer is no fault"
    assert len(begun.events("promote")) == 1
    assert answer(begun, "demo-approver") == 1, "it is over"
    assert begun.events("approve")[2:] == []


def test_after_no_answer_the_same_candidate_is_asked_about_again_and_stays_in_its_place(begun, monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=8)

    assert call(begun, "--manual", "security: new seed") == retraining.WAITS
    with monkeypatch.context() as patched:
        patched.setattr(cycle, "datetime", Later)
        assert call(begun) == retraining.STAYS
    assert ends(begun)[2:] == ["yes", "unanswered"]

    assert call(begun, "--manual", "security: new seed") == retraining.WAITS
    hand_out(begun, FIRST)
    assert call(begun) == retraining.WAITS
    assert answer(begun, "demo-approver") == 0
    assert call(begun) == retraining.DONE

    candidate = files.sha256_file(begun.folder / "releases" / "demo" / "v1.1.0" / "global.safetensors")
    assert begun.events("promote")[-1].subject.after == f"sha256:{candidate}"
    assert [event.subject.after for event in begun.events("gate.verdict")][1:] == [f"sha256:{candidate}"] * 2


def test_dvc_repro_by_hand_writes_the_same_lock_file(begun, tmp_path):
    by_hand = begun.copy(tmp_path / "by-hand")
    variables = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=by_hand.folder, env=variables, check=True, capture_output=True)
    before = (begun.folder / "dvc.lock").read_bytes()

    assert call(begun, "--manual", "security: new seed") == retraining.WAITS

    assert (begun.folder / "dvc.lock").read_bytes() == (by_hand.folder / "dvc.lock").read_bytes() != before
