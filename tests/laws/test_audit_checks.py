"""Every check of the verifier is needed: for each there is a log that it alone refuses, and that passes without it."""

import pytest

from fedsilo.audit import verifier
from fedsilo.audit.events import Decision, Draft, Subject
from fedsilo.errors import AuditRefusedError
from tests import audit_story as tale
from tests import audit_vectors
from tests.audit_story import WHY

LATER = "2026-01-01T00:05:00.000000Z"


def refusal(vector, **options):
    """Say by which code, at which line a log is refused; None if it is not."""
    try:
        verifier.verify(vector.content, vector.setting, vector.known, **options)
    except AuditRefusedError as error:
        return error.code, error.line
    return None


@pytest.mark.parametrize("name", audit_vectors.MAKERS)
def test_a_fault_is_refused_by_its_check_and_by_no_other(name):
    vector = audit_vectors.make(name)
    _, _, code = audit_vectors.checks()[vector.check]

    assert refusal(vector) == (code, vector.line)
    assert refusal(vector, checks=audit_vectors.without(vector.check)) is None


def test_every_check_has_a_fault():
    assert audit_vectors.checks().keys() == {name.partition("__")[0] for name in audit_vectors.MAKERS}


def test_every_code_is_used_and_none_else():
    assert {code for _, _, code in audit_vectors.checks().values()} == set(verifier.CODES)


@pytest.mark.parametrize("make", [tale.opened, tale.trained, tale.whole])
def test_logs_without_a_fault_pass(make):
    story = make()

    verdict = story.verify([story.checkpoint(1), story.checkpoint()])

    assert (verdict.size, verdict.anchored, verdict.root) == (len(story.lines), len(story.lines), story.root())


def rejected(story):
    """What failed may be rejected, and come back when it passed."""
    story.candidate("first", "fail").approve("first", decision="reject")
    return story.candidate("first").approve("first", created=LATER).promote("first")


def ended_and_asked_again(story):
    """A retraining that the gate ended closes nothing; one that nobody answered is asked about again after another verdict."""
    kept, unanswered = (Decision("retrain.end", how) for how in ("kept", "unanswered"))
    first = Subject("model", "global", after=tale.hash_of("first"))
    story.candidate("first").add(Draft("retrain.decision", WHY, subject=first, decision=kept)).approve("first")
    story.add(Draft("retrain.decision", WHY, subject=first, decision=unanswered))
    return story.candidate("first").approve("first", created=LATER).promote("first")


def overridden(story):
    """Two persons may answer for a model whose verdict is inconclusive."""
    story.candidate("first", "inconclusive").approve("first", missing="4 patients of site-b, 6 are needed")
    return story.approve("first", by="carol", missing="4 patients of site-b, 6 are needed").promote("first")


def submitted_again(story):
    """The same file may be told of again, by a run that went on after it was killed."""
    tale.submit(tale.submit(story, name="demo/site-a", seen=None), name="demo/site-a", seen=None)
    return tale.submit(story, name="demo/site-a")  # with another manifest


def submitted_in_the_next_run(story):
    """A round that is opened again has other files; one without a name is of every run."""
    server = Subject("model", "demo/server", after=tale.hash_of("x"))
    tale.submit(story, name="demo/site-a").add(Draft("round.open", WHY, round_index=0, subject=server))
    tale.submit(story, name="demo/site-a", file="another").add(Draft("round.open", WHY, round_index=0))
    tale.submit(story, "site-b", name="demo/site-b", file="a third")
    return tale.submit(story, name="demo/site-a", file="a third")


def submitted_in_two_runs(story):
    return tale.submit(tale.submit(story, name="demo/site-a"), name="study/demo/site-a", file="another")


def orders(story):
    """A site tells of the order that it follows, and of one that it does not, which may be to another."""
    mine, other = (tale.order(site=site, round=2) for site in ("site-a", "site-b"))
    story.add(Draft("order.accept", WHY, site="site-a", round_index=2, attached=mine), "site-a")
    story.add(Draft("order.accept", WHY, site="site-a", round_index=2, attached=tale.order()), "site-a")
    return story.add(Draft("order.refuse", WHY, site="site-a", round_index=2, attached=other), "site-a")


def ended(story):
    end = Subject("log", "demo/federation", before=tale.hash_of("x"))
    return story.change("log.rotate", "alice", end).change("log.rotate", "bob", end)


def side_by_side(story):
    """A promotion takes nothing from other candidates."""
    story.candidate("first").candidate("second").approve("first").approve("second")
    story.promote("first").candidate("second").approve("second", by="carol")
    return story.promote("second", before="first")


def two_names(story):
    """Each name has its champion."""
    story.candidate("first").approve("first").candidate("second").approve("second").promote("first")
    return story.add(Draft("promote", WHY, subject=Subject("model", "another", after=tale.hash_of("second"))), "erin")


def update_that_saw_nothing(story):
    manifest = tale.update(story, seen=None)
    subject = Subject("update", "site-a/0", after=tale.hash_of("update site-a"))
    return story.add(Draft("update.submit", WHY, site="site-a", round_index=0, subject=subject, attached=manifest))


def rejected_update(story):
    """A server may show the manifest of an update that it refused, in any round."""
    decision = Decision("norm", "reject")
    return story.add(Draft("update.reject", WHY, round_index=3, decision=decision, attached=tale.update(story)))


def change_without_content(story):
    subject = Subject("params", "params.yaml", tale.hash_of("1"), tale.hash_of("2"))
    return story.change("config.change", "alice", subject).change("config.change", "gina", subject)


def same_change_again(story):
    """A change that took effect may be made again, by the same persons, with new documents."""
    subject = Subject("params", "params.yaml", after=tale.hash_of("1"))
    for reason in ("once", "again"):
        story.change("config.change", "alice", subject, reason=reason).change("config.change", "bob", subject, reason=reason)
    return story


def two_changes_at_once(story):
    """Signatures of one change are none of another."""
    one, other = (Subject("params", name, after=tale.hash_of("1")) for name in ("one", "other"))
    return story.change("config.change", "alice", one).change("config.change", "alice", other).change("erasure", "alice", one)


@pytest.mark.parametrize(
    "go_on",
    [
        rejected,
        ended_and_asked_again,
        overridden,
        submitted_again,
        submitted_in_the_next_run,
        submitted_in_two_runs,
        orders,
        ended,
        side_by_side,
        two_names,
        update_that_saw_nothing,
        rejected_update,
        change_without_content,
        same_change_again,
        two_changes_at_once,
    ],
)
def test_what_is_allowed_passes(go_on):
    story = go_on(tale.opened())
    assert story.verify().size == len(story.lines)


def test_changes_that_lack_a_person_wait():
    assert len(two_changes_at_once(tale.opened()).verify().state.pending) == 3


def test_a_revocation_takes_back_what_has_had_no_effect():
    """Who stole a key may have signed with it: half a change of keys, an approval of a model that is not in use."""
    story = tale.opened().candidate("first").candidate("second").approve("first").approve("first", by="carol").approve("second")
    story.add_key("new-server", "alice").add_key("stranger", "alice", "gina").add_key("new-carol", "bob", "alice")

    story.revoke_key("dave", "bob", "gina").revoke_key("alice", "bob", "gina")
    state = story.verify().state

    assert {model: candidate.approvers for model, candidate in state.candidates.items()} == {
        tale.hash_of("first"): ("carol",),
        tale.hash_of("second"): (),
    }
    assert state.pending == {}
    assert tale.signer("stranger").key in state.register  # what took effect stays
    story.add_key("new-server", "bob")
    assert list(story.verify().state.pending.values()) == [("bob",)]


def test_a_policy_may_let_a_person_promote_what_they_approved_or_ask_for_two_approvals():
    story = tale.opened().candidate("first").approve("first", by="carol").promote("first", by="carol")

    for policy, passes in (({"separate_promoter": False}, True), ({"separate_promoter": False, "approvals": 2}, False)):
        founding = tale.found(**policy)
        other = tale.Story()
        other.setting = verifier.setting_of(founding, "federation")
        other.add(Draft("log.open", WHY, subject=Subject("founding", tale.FEDERATION, after=founding.digest)))
        other.candidate("first").approve("first", by="carol")
        if passes:
            assert other.promote("first", by="carol").verify().size == len(story.lines)
            continue
        with pytest.raises(AuditRefusedError, match="1 approvals of"):
            other.promote("first", by="carol").verify()
        other.lines.pop()
        assert other.approve("first", by="dave").promote("first", by="carol").verify()


def test_a_site_s_log_may_carry_a_manifest_that_saw_the_federation_s():
    federation, story = tale.trained(), tale.Story("site-a")
    subject = Subject("founding", tale.FEDERATION, after=story.founding.digest)
    story.add(Draft("log.open", WHY, subject=subject), "site-a")
    manifest = tale.update(federation)
    subject = Subject("update", "site-a/0", after=tale.hash_of("update site-a"))
    draft = Draft("update.submit", WHY, site="site-a", round_index=0, subject=subject, attached=manifest)

    assert story.add(draft, "site-a").verify().size == 2


def test_the_whole_log_ends_with_what_was_done():
    story = tale.whole()
    state = story.verify().state

    first, second = tale.hash_of("first"), tale.hash_of("second")
    assert state.champions["global"].current == first
    assert state.champions["global"].promoted == {first, second}
    assert state.register[tale.signer("new-server").key].valid_at(story.verify().state.ts)
    assert not state.register[tale.signer("site-b").key].valid_at(state.ts)
    assert state.pending == {}
