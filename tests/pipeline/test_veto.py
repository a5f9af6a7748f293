"""Sites veto a state that does them harm: the update behind it is left out, or the round is undone."""

import broken_turns
import pytest
from tiny_run import hashes

from flows import federate
from tasks import trails, turns

_, ROUND = broken_turns.REVERSED
UNCHECKED = ("federate.admission.max_norm_ratio=null", "federate.admission.min_cosine=null")
VETO = (*UNCHECKED, "federate.admission.veto_margin=0.05", "federate.rounds=4", "federate.local_epochs=8")


def assignments(*more):
    return [part for value in (*VETO, *more) for part in ("--set", value)]


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.setattr(turns, "site_turn", broken_turns.reversing)


def test_the_update_that_did_harm_is_left_out_of_its_round_alone(copied, hostile, caplog):
    assert federate.main(copied.arguments(*assignments())) == 0

    journal = copied.journal()
    for round_index in range(4):
        counted = set(journal.server_record(round_index + 1).weights)
        assert counted == ({"ct-a", "mr-a", "mr-b"} if round_index == ROUND else set(journal.sites)), round_index
    assert sum(journal.server_record(ROUND + 1).weights.values()) == pytest.approx(1)
    assert "left out: ct-b" in caplog.text
    (refused,) = copied.events("update.reject")
    assert (refused.site, refused.round_index, refused.decision.verdict) == ("ct-b", ROUND, "veto")
    steps = [event for event in copied.events("aggregate") if event.round_index == ROUND]
    assert [len(event.inputs) for event in steps] == [4, 3]
    assert steps[1].subject.after == f"sha256:{journal.server_record(ROUND + 1).sha256}"
    assert "lines verified" in trails.summary(copied.folder, "demo")


def test_below_the_quorum_the_round_is_undone_and_a_rerun_ends_as_if_nothing_had_been(
    copied, prepared, tmp_path, monkeypatch, capfd
):
    undisturbed = prepared.copy(tmp_path / "undisturbed")
    everybody = assignments("federate.admission.quorum=1.0")
    assert federate.main(undisturbed.arguments(*everybody)) == 0

    with monkeypatch.context() as patched:
        patched.setattr(turns, "site_turn", broken_turns.reversing)
        assert federate.main(copied.arguments(*everybody)) == 1
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith("fedsilo: round 2: 3 of 4 updates count, expected at least 4")
    assert "ct-b" in told
    assert [event.site for event in copied.events("incident")] == ["ct-b"]

    assert federate.main(copied.arguments(*everybody)) == 0
    assert hashes(copied.folder) == hashes(undisturbed.folder)


def test_honest_sites_veto_nothing_and_the_bits_are_those_without_a_veto(copied, prepared, tmp_path):
    without = prepared.copy(tmp_path / "without")
    assert federate.main(without.arguments(*assignments("federate.admission.veto_margin=null"))) == 0
    assert federate.main(copied.arguments(*assignments("federate.admission.veto_margin=0.5"))) == 0

    journal, other = copied.journal(), without.journal()
    assert [journal.server_record(index).sha256 for index in range(5)] == [
        other.server_record(index).sha256 for index in range(5)
    ]
    assert copied.events("update.reject", "incident") == []
