"""The trail of a phase: demo keys where nobody founded the federation, one writer a phase, an anchor at the end."""

import stat
from datetime import UTC, datetime, timedelta

import pytest

from fedsilo import files
from fedsilo.audit import trail, verifier
from fedsilo.audit.events import Decision, Draft, Subject, Why
from fedsilo.errors import AuditRefusedError, ContractError, DataError, OutputError
from tasks import keyring, trails
from tasks.paths import RunPaths

HASH = f"sha256:{'1' * 64}"


@pytest.fixture
def run(tmp_path):
    return RunPaths(tmp_path, "demo", "demo")


def events(run):
    return verifier.read_events(trail.read(run.audit.log("federation")))


def test_a_phase_begins_with_demo_keys_and_ends_with_an_anchored_trail(run):
    with trails.held(run, ["ct-a", "mr-a"]) as scribe:
        scribe.append("data.validate", "keeps the contract", actor="ct-a", site="ct-a", decision=Decision("contract", "pass"))

    assert [(event.kind, event.actor) for event in events(run)] == [("log.open", "server"), ("data.validate", "ct-a")]
    assert "2 lines verified, 2 under a checkpoint" in trails.summary(run.workspace, "demo")
    keys = sorted(run.audit.private_key("server").parent.iterdir())
    assert [path.stem for path in keys] == [
        "ct-a",
        "demo-admin",
        "demo-approver",
        "demo-promoter",
        "demo-reviewer",
        "mr-a",
        "server",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_the_next_phase_goes_on_with_the_same_keys(run):
    with trails.held(run, ["ct-a"]) as scribe:
        founding = scribe.founding.digest
    with trails.held(run, ["ct-a"]) as scribe:
        scribe.append("incident", "a site called")
        assert scribe.founding.digest == founding
        assert scribe.newest is not None
        assert scribe.newest.size == 1

    assert len(events(run)) == 2


def test_an_event_says_with_which_code_and_for_which_graph(run):
    run.lock_file.write_text("stages: {}\n")
    with trails.held(run, []) as scribe:
        event = scribe.append("incident", "a site called")

    assert event.env is not None
    assert event.env.dvc_lock_sha256 == files.sha256_file(run.lock_file)
    assert event.env.python
    assert event.env.torch
    assert event.prefect is None
    assert event.why.request == "command"


def test_a_text_that_quotes_others_can_always_be_written(run):
    with trails.held(run, []) as scribe:
        event = scribe.append("incident", f"a name with\na line\0 and {'x' * 2000}")

    assert event.why.text.startswith("a name with?a line? and xxx")
    assert len(event.why.text) == trails.MAX_TEXT


def test_a_study_has_a_lock_file_of_its_own(tmp_path):
    assert RunPaths(tmp_path, "six", "iopfl/fedbn").lock_file == tmp_path / "studies/iopfl/dvc.lock"
    assert RunPaths(tmp_path, "kidneys", "kidneys--s1").lock_file == tmp_path / "cohorts/dvc.lock"


def test_a_site_that_comes_later_gets_a_demo_key_by_an_event(run):
    with trails.held(run, ["ct-a"]):
        pass
    with trails.held(run, ["ct-a", "mr-b"]) as scribe:
        scribe.append("data.quarantine", "1 case left out", actor="mr-b", site="mr-b")

    assert [event.kind for event in events(run)] == ["log.open", "key.add", "data.quarantine"]


def found_by_hand(run):
    """Found a federation with an admin of its own, and a server's key here."""
    entries = [
        keyring.demo_entry(run.audit, actor, actor, roles) for actor, roles in (("server", ("server",)), ("ada", ("admin",)))
    ]
    from fedsilo.audit import founding
    from fedsilo.audit.founding import Policy

    made = founding.draw_up("demo", entries, policy=Policy(1, 1, separate_promoter=True), created="2026-01-01T00:00:00.000000Z")
    founding.write(founding.sign(made, keyring.signer(run.audit, "ada")), run.audit.founding)


def test_a_federation_with_admins_of_its_own_adds_no_key_by_itself(run):
    found_by_hand(run)

    with pytest.raises(DataError, match="ct-a: no key in the register of demo"), trails.held(run, ["ct-a"]):
        pytest.fail("the trail opened")


@pytest.mark.parametrize("name", ["server", "demo-admin", "federation"])
def test_no_site_has_the_name_of_another_actor(run, name):
    with pytest.raises(DataError, match="no site can have the name"), trails.held(run, [name]):
        pytest.fail("the trail opened")


def test_a_site_whose_key_is_not_here_cannot_be_spoken_for(run):
    with trails.held(run, ["ct-a"]) as scribe:
        run.audit.private_key("ct-a").unlink()
        with pytest.raises(DataError, match="cannot read the key"):
            scribe.append("data.quarantine", "1 case left out", actor="ct-a", site="ct-a")


def test_a_phase_that_stops_with_a_reason_leaves_an_anchored_trail(run):
    def stop():
        with trails.held(run, ["ct-a"]) as scribe:
            scribe.append("incident", "a site called")
            raise ContractError("rule A1")

    with pytest.raises(ContractError):
        stop()

    assert "2 lines verified, 2 under a checkpoint" in trails.summary(run.workspace, "demo")


def test_only_an_open_trail_is_written(run):
    with pytest.raises(RuntimeError, match="the trail of demo is not open"):
        trails.scribe(run.audit)
    with trails.held(run, []) as scribe:
        assert trails.scribe(run.audit) is scribe
    with pytest.raises(RuntimeError, match="is not open"):
        trails.scribe(run.audit)


def test_the_last_accepted_data_of_a_site_are_found(run):
    with trails.held(run, ["ct-a", "mr-a"]) as scribe:
        assert scribe.accepted("demo/ct-a") is None
        for digit in "12":
            subject = Subject("dataset", "demo/ct-a", after=f"sha256:{digit * 64}")
            scribe.append("data.accept", "prepared", actor="ct-a", site="ct-a", subject=subject)
        scribe.append("data.accept", "prepared", actor="mr-a", site="mr-a", subject=Subject("dataset", "demo/mr-a", after=HASH))

        assert scribe.accepted("demo/ct-a") == f"sha256:{'2' * 64}"


def test_a_witness_notices_a_log_that_was_written_anew(run):
    with trails.held(run, ["ct-a"]) as scribe:
        scribe.append("incident", "a site called")
        seen = scribe.witness("ct-a")
        assert (seen.size, scribe.witness("ct-a")) == (2, seen)
    log, checkpoints = run.audit.log("federation"), run.audit.checkpoints_dir("federation")
    log.unlink()
    for path in checkpoints.iterdir():
        path.unlink()

    with trails.held(run, ["ct-a"]) as scribe:
        scribe.append("incident", "nobody called")
        with pytest.raises(AuditRefusedError, match="site ct-a saw 2 lines") as refused:
            scribe.witness("ct-a")
    assert refused.value.code == "checkpoint-root"


@pytest.mark.parametrize(("ahead", "held"), [(timedelta(minutes=2), True), (timedelta(hours=1), False)])
def test_a_clock_that_went_back_is_held_or_stops_the_phase(run, ahead, held):
    with trails.held(run, []) as scribe:
        opened = scribe.opened
        later = trail.Trail(opened.path, opened.setting, opened.checkpoints_dir, clock=lambda: datetime.now(tz=UTC) + ahead)
        later.append(Draft("incident", Why("test", "written by a clock that is ahead")), keyring.signer(run.audit, "server"))

        if held:
            assert scribe.append("incident", "a site called").clock_held
        else:
            with pytest.raises(OutputError, match="set the clock"):
                scribe.append("incident", "a site called")
    assert len(events(run)) == (3 if held else 2)


def test_demo_keys_of_an_interrupted_first_run_are_used(run):
    keyring.founding(run.audit, ["ct-a"])
    run.audit.founding.unlink()
    before = run.audit.private_key("ct-a").read_bytes()

    with trails.held(run, ["ct-a"]):
        pass

    assert run.audit.private_key("ct-a").read_bytes() == before


def test_a_torn_line_stops_the_phase_and_says_what_to_do(run):
    with trails.held(run, []) as scribe:
        scribe.append("incident", "a site called")
    with run.audit.log("federation").open("ab") as log:
        log.write(b'{"actor":"server"')

    with pytest.raises(AuditRefusedError, match="recover"), trails.held(run, []):
        pytest.fail("the trail opened")


def test_without_a_phase_there_is_no_trail_to_speak_of(tmp_path):
    assert "none yet" in trails.summary(tmp_path, "demo")


def test_events_of_some_kinds_are_listed_in_order(run):
    with trails.held(run, []) as scribe:
        for text in ("one", "two"):
            scribe.append("incident", text)
        scribe.append("incident", 'not "event":"log.open"')

        assert [event.why.text for event in scribe.events("incident")][:2] == ["one", "two"]
        assert [event.kind for event in scribe.events("log.open", "promote")] == ["log.open"]
