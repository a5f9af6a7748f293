"""A round goes on without a site whose update is refused or does not come, as long as a quorum counts."""

import csv
import json
import shutil

import broken_turns
import pytest
from tiny_run import SITES, hashes

from fedsilo import files
from flows import federate
from tasks import trails, turns

ROUND, SITE = broken_turns.ROUND, broken_turns.SITE


def table(made):
    with (made.folder / "runs/demo/rounds.csv").open() as handle:
        return {(int(row["round"]), row["site"]): row for row in csv.DictReader(handle)}


def run(made, monkeypatch, turn, *more):
    with monkeypatch.context() as patched:
        patched.setattr(turns, "site_turn", turn)
        return federate.main(made.arguments(*more))


@pytest.fixture(scope="module")
def diverged(prepared, tmp_path_factory):
    """A finished run in which one site sent NaN in one round; read only."""
    made = prepared.copy(tmp_path_factory.mktemp("diverged") / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(turns, "site_turn", broken_turns.diverging)
        assert federate.main(made.arguments()) == 0
    return made


def test_a_refused_update_is_left_out_of_its_round_alone(diverged):
    journal = diverged.journal()
    for round_index in range(3):
        weights = journal.server_record(round_index + 1).weights
        assert set(weights) == ({*SITES} - {SITE} if round_index == ROUND else {*SITES})
        assert sum(weights.values()) == pytest.approx(1)
    rows = table(diverged)
    assert [rows[ROUND, SITE][name] for name in ("weight", "share", "update_norm")] == ["", "", ""]
    assert rows[ROUND, SITE]["train_loss"] == "nan"
    assert float(rows[ROUND, "ct-a"]["weight"]) > float(rows[0, "ct-a"]["weight"])


def test_the_trail_names_the_check_and_carries_what_the_site_signed(diverged):
    (refused,) = diverged.events("update.reject")
    assert (refused.site, refused.round_index, refused.decision.verdict) == (SITE, ROUND, "finite")
    assert refused.attached["site"] == SITE
    assert refused.subject.after == f"sha256:{refused.attached['file_sha256']}"
    submitted = diverged.events("update.submit")
    assert len(submitted) == 12
    assert {event.attached["data"]["manifest_sha256"] for event in submitted} <= set(accepted_data(diverged))
    (step,) = [event for event in diverged.events("aggregate") if event.round_index == ROUND]
    assert {entry.name for entry in step.inputs} == {*SITES} - {SITE}
    assert "lines verified" in trails.summary(diverged.folder, "demo")


def test_the_trail_says_which_models_were_selected_and_what_they_are_made_of(diverged):
    said = {event.subject.name: event for event in diverged.events("evaluate")}
    journal = diverged.journal()
    federation = json.loads((diverged.folder / "runs/demo/federation.json").read_text())

    assert said.keys() == {"demo/global", *(f"demo/inside/{site}" for site in SITES)}
    assert said["demo/global"].decision.verdict == f"round {federation['global_round'] + 1}"
    for site in SITES:
        last = federation["inside_rounds"][site]
        turns_of = [index for index in range(last + 1) if (index, site) != (ROUND, SITE)]
        event = said[f"demo/inside/{site}"]
        assert event.actor == site
        assert [entry.sha256 for entry in event.inputs] == [journal.server_record(index).sha256 for index in turns_of]
        assert event.subject.after == f"sha256:{files.sha256_file(diverged.folder / f'runs/demo/inside/{site}.safetensors')}"


def accepted_data(made):
    return {event.subject.after.removeprefix("sha256:") for event in made.events("data.accept")}


def test_a_resume_inside_the_round_keeps_to_what_was_decided(diverged, tmp_path):
    """The next state is lost after the decision; whoever goes on has only honest sites, and still leaves the update out."""
    made = diverged.copy(tmp_path / "run")
    journal = made.journal()
    for round_index in (ROUND + 1, ROUND + 2):
        for path in journal.server_path(round_index).parent.glob(f"{round_index:05d}.*"):
            path.unlink()
    shutil.rmtree(made.folder / "runs")

    assert federate.main(made.arguments()) == 0

    assert hashes(made.folder, ["runs"]) == hashes(diverged.folder, ["runs"])
    assert len(made.events("update.reject")) == 1
    assert len(made.events("aggregate")) == 3
    assert len(made.events("update.submit")) == 12
    assert "lines verified" in trails.summary(made.folder, "demo")


def test_a_run_that_is_done_says_nothing_twice(diverged, tmp_path):
    made = diverged.copy(tmp_path / "run")
    before = len(made.events("update.reject", "update.submit", "aggregate", "order.accept"))

    assert federate.main(made.arguments()) == 0

    assert len(made.events("update.reject", "update.submit", "aggregate", "order.accept")) == before
    assert hashes(made.folder, ["runs"]) == hashes(diverged.folder, ["runs"])


def test_below_the_quorum_the_run_stops_and_the_next_asks_the_site_anew(copied, prepared, tmp_path, monkeypatch, capfd):
    everybody = ("--set", "federate.admission.quorum=1.0")
    undisturbed = prepared.copy(tmp_path / "undisturbed")
    assert federate.main(undisturbed.arguments(*everybody)) == 0

    assert run(copied, monkeypatch, broken_turns.diverging, *everybody) == 1

    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith("fedsilo: round 1: 3 of 4 updates count, expected at least 4: update of 'mr-b' is refused by finite")
    assert not (copied.folder / "runs/demo/global.safetensors").exists()

    assert federate.main(copied.arguments(*everybody)) == 0
    assert hashes(copied.folder) == hashes(undisturbed.folder)
    asked = [event.site for event in copied.events("order.accept") if event.round_index == ROUND]
    assert sorted(asked) == sorted([*SITES, SITE])


def test_a_site_whose_process_dies_twice_is_missing(copied, monkeypatch, caplog):
    assert run(copied, monkeypatch, broken_turns.dying) == 0

    assert set(copied.journal().server_record(ROUND + 1).weights) == {*SITES} - {SITE}
    (missing,) = copied.events("update.missing")
    assert (missing.site, missing.round_index) == (SITE, ROUND)
    assert "died" in missing.why.text
    row = table(copied)[ROUND, SITE]
    assert {name for name, value in row.items() if value} <= {
        "round",
        "site",
        "val_dice_global",
        "selected_global",
        "selected_inside",
    }
    assert "it goes on with 3 updates" in caplog.text


def test_drift_is_kept_and_a_resume_decides_by_it_alike(copied, tmp_path):
    drift = ("--set", "federate.admission.max_drift_ratio=50.0", "--set", "federate.admission.drift_rounds=1")
    assert federate.main(copied.arguments(*drift)) == 0
    again = copied.copy(tmp_path / "again")
    journal = again.journal()
    assert journal.intake.history(3).num_rounds == dict.fromkeys(SITES, 3)
    for path in journal.server_path(3).parent.glob("00003.*"):
        path.unlink()

    assert federate.main(again.arguments(*drift)) == 0

    assert hashes(again.folder) == hashes(copied.folder)
    kept = {path.relative_to(journal.folder) for path in journal.folder.glob("intake/*/drift/*")}
    sums = copied.journal().intake
    assert {path.name for path in kept} == {f"{site}.safetensors" for site in SITES}
    assert journal.intake.history(3).sums["ct-a"].sha256() == sums.history(3).sums["ct-a"].sha256()
