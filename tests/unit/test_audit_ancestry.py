"""Where a model comes from, by a log that was written by the library."""

import pytest

from fedsilo.audit import ancestry, ancestry_text, trail, verifier
from fedsilo.audit.events import Draft
from tests import audit_story as tale
from tests.audit_run import Run, played
from tests.audit_story import hash_of, hex_of


def trace(log, word):
    """Trace the model of a word by the log as it is on the disk."""
    content = trail.read(log.path)
    verdict = verifier.verify(content, log.setting)
    return ancestry.trace(hash_of(word), verifier.read_events(content), verdict.state.register)


@pytest.fixture
def run(log):
    return played(log)


@pytest.fixture
def found(run, log):
    return trace(log, "state 2")


def test_a_global_model_goes_back_to_the_first_state(found):
    assert (found.sort, found.run, found.site) == ("global", "demo", None)
    assert found.names == ("demo/server", "demo/global")
    assert found.first == hash_of("state 0")
    assert [(entry.index, entry.before, entry.after) for entry in found.rounds] == [
        (0, hash_of("state 0"), hash_of("state 1")),
        (1, hash_of("state 1"), hash_of("state 2")),
    ]
    assert {entry.rule for entry in found.rounds} == {"average"}


def test_a_round_says_who_counted_with_which_file_and_who_did_not(found, log):
    first, second = found.rounds

    assert [(entry.site, entry.sha256, entry.num_cases, entry.data) for entry in first.updates] == [
        ("site-a", hex_of("update site-a state 0"), 12, hex_of("data site-a")),
        ("site-b", hex_of("update site-b state 0"), 9, hex_of("data site-b")),
    ]
    assert [entry.site for entry in second.updates] == ["site-a"]
    assert [(entry.site, entry.check) for entry in second.refused] == [("site-b", "norm")]
    assert second.missing == ("site-c",)
    assert (first.refused, first.missing) == ((), ())
    events = verifier.read_events(trail.read(log.path))
    assert [events[entry.line - 1].kind for entry in (first, *first.updates, *second.refused)] == [
        "aggregate",
        "update.submit",
        "update.submit",
        "update.reject",
    ]


def test_data_inputs_code_and_environment_are_named(found, log):
    assert [(data.site, data.sha256, data.num_cases, data.rounds) for data in found.data] == [
        ("site-a", hex_of("data site-a"), 12, (0, 1)),
        ("site-b", hex_of("data site-b"), 9, (0,)),
    ]
    events = verifier.read_events(trail.read(log.path))
    for data in found.data:
        assert events[data.line - 1].kind == "data.accept"
        assert events[data.line - 1].ts == data.ts
    assert [(entry.name, entry.sha256, entry.rounds) for entry in found.inputs] == [
        ("params", hex_of("params"), (0, 1)),
        ("identity", hex_of("identity"), (0, 1)),
    ]
    assert [(made.env.git, made.env.dirty, made.env.dvc_lock_sha256) for made in found.made] == [
        ("a" * 40, False, hex_of("lock"))
    ]
    assert [(code.site, code.git, code.dirty, code.version) for code in found.site_code] == [
        ("site-a", "b" * 40, False, "0.1.0"),
        ("site-b", "b" * 40, True, "0.1.0"),
    ]


def test_people_and_keys_are_named(found):
    acts = [(act.kind, act.actor, act.person, act.meaning, act.reason) for act in found.acts]
    assert acts == [
        ("evaluate", "server", "server", None, "as it is done"),
        ("gate.verdict", "server", "server", None, "as it is done"),
        ("approve", "server", "dave", "approval", "numbers are good"),
        ("promote", "erin", "erin", None, "goes into use"),
    ]
    assert [(act.gate, act.verdict) for act in found.acts[:2]] == [("selection", "round 1"), ("gate", "pass")]
    assert {key.actor: (key.roles, key.revoked_at) for key in found.keys} == {
        name: (tale.ROLES[name], None) for name in ("server", "site-a", "site-b", "dave", "erin")
    }


def test_a_key_that_was_revoked_since_is_told(run, log):
    story = tale.opened()
    story.revoke_key("dave", "alice", "bob")
    register = {**log.state.register, tale.signer("dave").key: story.verify().state.register[tale.signer("dave").key]}

    found = ancestry.trace(hash_of("state 2"), verifier.read_events(trail.read(log.path)), register)
    assert [key.actor for key in found.keys if key.revoked_at] == ["dave"]
    assert "revoked 2026-" in ancestry_text.text(found)


def test_an_inside_model_is_told_with_its_site_and_states(run, log):
    found = trace(log, "inside a")

    assert (found.sort, found.run, found.site, found.names) == ("inside", "demo", "site-a", ("demo/inside/site-a",))
    assert [(state.sha256, state.index) for state in found.folded] == [(hash_of(f"state {n}"), n - 1) for n in (1, 2, 3)]
    assert [entry.index for entry in found.rounds] == [0, 1, 2]  # of the last state
    assert found.first == hash_of("state 0")


def test_an_inside_model_whose_states_the_log_lacks_is_told_all_the_same(log):
    Run(log).inside("site-a", "inside a", ["elsewhere"])

    found = trace(log, "inside a")
    assert [(state.sha256, state.index) for state in found.folded] == [(hash_of("elsewhere"), None)]
    assert (found.rounds, found.first, found.data) == ((), None, ())
    assert "no aggregation of it" in ancestry_text.text(found)


def test_an_inside_model_that_the_server_scored_later_is_still_its_site_s(run, log):
    run.say("evaluate", subject=run.model("inside/site-a", "inside a"), decision=tale.Decision("inside", "scored"))

    found = trace(log, "inside a")
    assert (found.site, len(found.folded), len(found.acts)) == ("site-a", 3, 2)


def test_a_model_that_is_not_in_the_log_has_no_ancestry(run, log):
    assert trace(log, "another") is None
    assert trace(log, "update site-a state 0") is None


def test_a_run_that_was_made_again_is_told_by_its_last_rounds(run, log):
    """The same bits: every state is made twice; what is shown is the second time, not a mixture."""
    size = log.state.size
    run.state = "state 0"
    run.accept("site-a", "new data")
    for index in range(2):
        run.open(index)
        words = {"site-a": run.submit("site-a", index, accepted="new data"), "site-b": run.submit("site-b", index)}
        run.aggregate(index, words)
    run.select("state 2", 1)

    found = trace(log, "state 2")
    assert [entry.index for entry in found.rounds] == [0, 1]
    assert all(entry.line > size for entry in found.rounds)
    assert (found.rounds[1].refused, found.rounds[1].missing) == ((), ())
    assert [(data.site, data.sha256) for data in found.data] == [
        ("site-a", hex_of("new data site-a")),
        ("site-b", hex_of("data site-b")),
    ]


def test_another_run_in_between_is_not_mixed_in(log):
    run, other = Run(log), Run(log, name="study/six", state="another 0")
    run.open(0)
    other.open(0)
    words = {"site-a": run.submit("site-a", 0)}
    other.submit("site-b", 0)
    other.reject("site-a", 0, "finite")
    run.aggregate(0, words)
    run.select("state 1", 0)

    found = trace(log, "state 1")
    assert (found.run, found.rounds[0].refused) == ("demo", ())
    assert [entry.site for entry in found.rounds[0].updates] == ["site-a"]


def test_a_site_without_a_manifest_is_known_by_its_data_accepted_last(log):
    run = Run(log)
    run.accept("site-a", "old data")
    run.accept("site-a")
    run.open(0)
    run.aggregate(0, {"site-a": "unsigned"})
    run.accept("site-a", "later data")

    found = trace(log, "state 1")
    (update,) = found.rounds[0].updates
    assert (update.line, update.num_cases, update.data) == (None, None, None)
    assert [(data.sha256, data.num_cases, data.rounds) for data in found.data] == [(hex_of("data site-a"), None, (0,))]


def test_data_that_were_never_accepted_are_told_as_such(log):
    run = Run(log)
    run.round(0, sites=("site-a",))

    found = trace(log, "state 1")
    assert [(data.sha256, data.line) for data in found.data] == [(hex_of("data site-a"), None)]
    assert "never accepted in the log" in ancestry_text.text(found)


def test_a_participant_with_several_sites_is_told_by_the_data_of_each(log):
    run = Run(log)
    run.accept("site-b")
    members = [{"name": "site-b", "sha256": hex_of("data site-b")}, {"name": "ct-x", "sha256": hex_of("data ct-x")}]
    run.open(0)
    word = run.submit("site-a", 0, data={"manifest_sha256": hex_of("both"), "sites": members})
    run.aggregate(0, {"site-a": word})

    found = trace(log, "state 1")
    assert [(data.site, data.sha256, data.num_cases, data.line) for data in found.data] == [
        ("ct-x", hex_of("data ct-x"), None, None),
        ("site-b", hex_of("data site-b"), None, 3),
    ]
    assert found.rounds[0].updates[0].num_cases == 12


def test_odd_manifests_are_no_fault(log):
    run = Run(log)
    run.open(0)
    words = {"site-a": run.submit("site-a", 0, num_cases="many", data=["x"], code={"git": 7})}
    run.aggregate(0, words)

    found = trace(log, "state 1")
    assert (found.rounds[0].updates[0].num_cases, found.rounds[0].updates[0].data, found.site_code) == (None, None, ())
    assert ancestry_text.text(found)


def test_a_model_that_was_only_spoken_of_has_acts_and_no_rounds(log):
    log.append(Draft("evaluate", tale.WHY, subject=tale.model("bought")), tale.signer("server"))

    found = trace(log, "bought")
    assert (found.rounds, found.run, found.first) == ((), "", hash_of("bought"))
    assert "rounds: nothing in the log\n" in ancestry_text.text(found)


class TestText:
    def test_a_round_is_a_line(self, found):
        lines = ancestry_text.text(found).splitlines()

        (line,) = (line for line in lines if line.startswith("  round 1 "))
        before, after, file = (hex_of(word)[:12] for word in ("state 1", "state 2", "update site-a state 1"))
        assert line.endswith(f"{before} -> {after}  average: site-a {file} 12 cases; refused site-b (norm); missing site-c")
        assert sum(line.startswith("  round ") for line in lines) == 2

    def test_a_long_run_stays_readable(self, log):
        run = Run(log)
        for index in range(40):
            run.round(index)
        run.select("state 40", 39)

        text = ancestry_text.text(trace(log, "state 40"))
        assert len(text.splitlines()) < 40 + 30
        assert "rounds 0-39" in text
        assert "rounds: 40, first state " in text

    def test_all_parts_are_there(self, found):
        text = ancestry_text.text(found)
        assert f"model {hash_of('state 2')}\n  global model of the run demo, known as demo/server, demo/global\n" in text
        assert f"site-a  {hex_of('data site-a')[:12]}  12 cases, rounds 0-1, accepted 2026-" in text
        assert f"params {hex_of('params')[:12]}  rounds 0-1" in text
        assert "git aaaaaaaaaaaa clean  dvc_lock_sha256" in text
        assert "site-b  git bbbbbbbbbbbb with local changes  0.1.0" in text
        assert "approve demo/global; dave (Dave), carried by server; meaning approval; numbers are good" in text
        assert "gate.verdict demo/global; server (Server); gate: pass; as it is done" in text
        assert f"{tale.signer('erin').key}  erin (Erin): promoter" in text
