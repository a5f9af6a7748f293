"""Logs with one fault each in documents, order or checkpoints, chained and signed anew so that one check refuses them."""

from dataclasses import replace

from fedsilo.audit import documents, forms
from fedsilo.audit.events import Decision, Draft, Subject
from fedsilo.audit.register import Anchor
from tests import audit_story as tale
from tests.audit_faults import vector
from tests.audit_story import INCIDENT, WHY, Story, carried, hash_of, hex_of, judged, model, opened, signer


@vector
def known_document_key():
    return carried(tale.approval("first", by="stranger"))


@vector
def document_key_in_time():
    return carried(tale.approval("first", by="old-dave"))


@vector
def document_role():
    return carried(tale.approval("first", by="erin"))


@vector
def document_role__update_of_another_site():
    story = opened()
    manifest = tale.update(story, "site-a", site="site-b", file_sha256=hex_of("x"))
    subject = Subject("update", "site-b/0", after=hash_of("x"))
    return story.add(Draft("update.submit", WHY, site="site-b", round_index=0, subject=subject, attached=manifest))


@vector
def document_signature():
    return carried({**tale.approval("first"), "reason": "another reason"})


@vector
def document_says_so():
    return carried(tale.approval("first", federation="another"))


@vector
def document_says_so__another_candidate():
    return carried(tale.approval("second"))


@vector
def document_says_so__another_decision():
    return carried(tale.approval("first", decision="reject"))


@vector
def document_says_so__another_release():
    story = judged().approve("first")
    return story.add(Draft("promote", WHY, subject=model("first"), attached=tale.release("first", kind="rollback")))


@vector
def document_says_so__another_change():
    subject = Subject("params", "params.yaml", after=hash_of("x"))
    change = documents.Change(tale.FEDERATION, "erasure", subject, "a reason", tale.BEGIN)
    return opened().add(Draft("config.change", WHY, subject=subject, attached=documents.sign(change, signer("alice"))), "alice")


@vector
def document_says_so__another_file():
    return tale.submit(opened(), file_sha256=hex_of("another file"))


@vector
def document_says_so__another_round():
    return tale.submit(opened(), round_index=1)


@vector
def document_says_so__order_to_another_site():
    draft = Draft("order.accept", WHY, site="site-a", round_index=0, attached=tale.order(site="site-b", round=0))
    return opened().add(draft, "site-a")


@vector
def document_says_so__order_for_another_round():
    draft = Draft("order.accept", WHY, site="site-a", round_index=1, attached=tale.order(site="site-a", round=0))
    return opened().add(draft, "site-a")


@vector
def document_of_today():
    """A federation that was founded anew under its old name: what was signed before is of the old one."""
    return carried(tale.approval("first", created="2025-12-31T23:59:59.999999Z"))


@vector
def document_of_today__of_a_time_to_come():
    return carried(tale.approval("first", created="2026-01-01T00:05:04.000001Z"))


@vector
def document_of_today__old_change_of_keys():
    content = forms.plain(tale.entry("new-server"))
    subject = tale.key_subject(signer("new-server").key, content)
    change = documents.Change(tale.FEDERATION, "key.add", subject, "a reason", "2025-06-01T00:00:00.000000Z", content)
    return opened().add(Draft("key.add", WHY, subject=subject, attached=documents.sign(change, signer("alice"))))


@vector
def document_of_today__old_release():
    document = documents.Release(tale.FEDERATION, "promote", "global", hash_of("first"), "x", "2025-06-01T00:00:00.000000Z")
    attached = documents.sign(document, signer("erin"))
    return judged().approve("first").add(Draft("promote", WHY, subject=model("first"), attached=attached))


@vector
def own_document():
    return carried(tale.approval("first", by="dave"), by="carol")


@vector
def where_keys_change():
    story = Story("site-a")
    subject = Subject("founding", tale.FEDERATION, after=story.founding.digest)
    return story.add(Draft("log.open", WHY, subject=subject), "site-a").add_key("new-server", "alice")


@vector
def opening():
    story = opened()
    return story.add(Draft("log.open", WHY, subject=Subject("founding", tale.FEDERATION, after=story.founding.digest)))


@vector
def opening__another_first_line():
    return Story().add(INCIDENT)


@vector
def own_founding():
    return Story().add(Draft("log.open", WHY, subject=Subject("founding", tale.FEDERATION, after=hash_of("another"))))


@vector
def not_rotated():
    subject = Subject("log", "demo/federation", before=hash_of("x"))
    return opened().change("log.rotate", "alice", subject).change("log.rotate", "bob", subject).add(INCIDENT)


@vector
def own_end():
    return opened().change("log.rotate", "alice", Subject("log", "demo/site-a", before=hash_of("x")))


@vector
def document_once():
    return judged().approve("first").approve("first")


@vector
def another_person():
    subject = Subject("params", "params.yaml", after=hash_of("x"))
    story = opened().change("config.change", "alice", subject)
    return story.change("config.change", "alice", subject, reason="another reason", carried_by="server")


@vector
def key_change():
    return opened().add_key("site-b", "alice")


@vector
def key_change__revoked_comes_back():
    return opened().add_key("new-server", "alice", "bob").revoke_key("new-server", "alice", "bob").add_key("new-server", "gina")


@vector
def key_change__revoked_twice():
    return opened().revoke_key("site-b", "alice", "bob").revoke_key("site-b", "gina")


@vector
def key_change__unknown():
    return opened().revoke_key("stranger", "alice")


@vector
def anchored():
    story = opened()
    content = forms.plain(Anchor(1, hash_of("another root")))
    return story.change("key.revoke", "alice", tale.key_subject(signer("site-b").key, content), content)


@vector
def anchored__lines_that_are_not_there():
    story = opened()
    content = forms.plain(Anchor(9, story.root()))
    return story.change("key.revoke", "alice", tale.key_subject(signer("site-b").key, content), content)


@vector
def seen():
    story = opened()
    return tale.submit(story, seen=documents.Seen(1, hash_of("another root")))


@vector
def seen__lines_that_are_not_there():
    story = opened()
    return tale.submit(story, seen=documents.Seen(2, story.root()))


@vector
def one_file_a_round():
    return tale.submit(tale.submit(opened(), name="demo/site-a"), name="demo/site-a", file="another")


@vector
def one_file_a_round__round_of_another_run_is_opened():
    story = tale.submit(opened(), name="demo/site-a")
    story.add(Draft("round.open", WHY, round_index=0, subject=Subject("model", "other/server", after=hash_of("x"))))
    return tale.submit(story, name="demo/site-a", file="another")


@vector
def one_file_a_round__another_round_is_opened():
    story = tale.submit(opened(), name="demo/site-a")
    story.add(Draft("round.open", WHY, round_index=1, subject=Subject("model", "demo/server", after=hash_of("x"))))
    return tale.submit(story, name="demo/site-a", file="another")


@vector
def manifest_of_this_round():
    """What a site signed for one run is no update of another."""
    story = opened()
    tale.submit(story, name="demo/site-a", seen=None)
    return tale.submit(story, name="study/demo/site-a", seen=None)


@vector
def manifest_of_this_round__opened_again():
    story = tale.submit(opened(), name="demo/site-a", seen=None)
    story.add(Draft("round.open", WHY, round_index=0, subject=Subject("model", "demo/server", after=hash_of("x"))))
    return tale.submit(story, name="demo/site-a", seen=None)


@vector
def evaluated_first():
    return opened().add(Draft("gate.verdict", WHY, subject=model("first"), decision=Decision("gate", "pass", hash_of("gate"))))


@vector
def verdict_first():
    return judged("inconclusive").approve("first")


@vector
def verdict_first__failed_later():
    story = judged().add(Draft("gate.verdict", WHY, subject=model("first"), decision=Decision("gate", "fail", hash_of("gate"))))
    return story.approve("first")


@vector
def verdict_first__failed_and_missing_evidence_named():
    return judged("fail").approve("first", missing="no case of site-b")


@vector
def verdict_first__passed_and_missing_evidence_named():
    return judged().approve("first", missing="no case of site-b")


@vector
def verdict_first__rejected_and_missing_evidence_named():
    return judged("inconclusive").approve("first", decision="reject", missing="no case of site-b")


@vector
def verdict_approved():
    return carried(tale.approval("first", verdict="another"))


@vector
def verdict_approved__before_there_is_one():
    story = opened().add(Draft("evaluate", WHY, subject=model("first")))
    return story.approve("first", decision="reject")


@vector
def approved_since():
    """A yes that a server kept back until somebody had said no, and the gate had judged again."""
    story = judged().approve("first", by="carol", decision="reject")
    story.add(Draft("gate.verdict", WHY, subject=model("first"), decision=Decision("gate", "pass", hash_of("gate"))))
    return story.approve("first")


@vector
def still_open():
    """A yes that was signed after the no: only the gate opens a candidate again."""
    return judged().approve("first", by="carol", decision="reject").approve("first", created="2026-01-01T00:01:00.000000Z")


def out_of_time(story):
    """A retraining ends without an answer about its candidate."""
    decision = Decision("retrain.end", "unanswered")
    return story.add(Draft("retrain.decision", WHY, subject=model("first"), decision=decision))


@vector
def approved_since__nobody_answered_in_time():
    """One of two said yes before the time was over; kept back, it counts no more."""
    story = out_of_time(judged())
    story.add(Draft("gate.verdict", WHY, subject=model("first"), decision=Decision("gate", "pass", hash_of("gate"))))
    return story.approve("first")


@vector
def still_open__nobody_answered_in_time():
    return out_of_time(judged()).approve("first", created="2026-01-01T00:01:00.000000Z")


@vector
def compared_with_champion():
    """Another model went into use since the verdict."""
    return judged().candidate("second").approve("second").promote("second").approve("first")


@vector
def compared_with_champion__approved_before():
    story = judged().approve("first").candidate("second").approve("second").promote("second")
    return story.promote("first", "second")


@vector
def compared_with_champion__promoted_under_another_name():
    subject = Subject("model", "another", after=hash_of("second"))
    story = judged().approve("first").promote("first").candidate("second").approve("second")
    release = documents.Release(tale.FEDERATION, "promote", "another", hash_of("second"), "x", tale.BEGIN)
    return story.add(Draft("promote", WHY, subject=subject, attached=documents.sign(release, signer("erin"))))


@vector
def compared_with_champion__that_is_none():
    """A verdict that compares with a run that was never in use."""
    return opened().candidate("first", against="zeroth").approve("first")


@vector
def approved_first():
    return judged().promote("first")


@vector
def approved_first__of_another_model():
    return judged().candidate("second").approve("second").promote("first")


@vector
def approved_first__rejected_later():
    return judged().approve("first").approve("first", by="carol", decision="reject").promote("first")


@vector
def approved_first__judged_again():
    story = judged().approve("first")
    story.add(Draft("gate.verdict", WHY, subject=model("first"), decision=Decision("gate", "pass", hash_of("gate"))))
    return story.promote("first")


@vector
def approved_first__promoted_before():
    story = judged().approve("first").promote("first").candidate("second").approve("second").promote("second", "first")
    return story.add(Draft("promote", WHY, subject=model("first", "second")), "erin")


@vector
def approved_first__promoted_under_another_name():
    subject = Subject("model", "another", after=hash_of("first"))
    return judged().approve("first").promote("first").add(Draft("promote", WHY, subject=subject), "erin")


@vector
def approved_first__inconclusive_by_one_person():
    return judged("inconclusive").approve("first", missing="no case of site-b").promote("first")


@vector
def approved_first__key_of_the_approver_revoked():
    return judged().approve("first").revoke_key("dave", "alice", "bob").promote("first")


@vector
def another_approved():
    return judged().approve("first", by="carol").promote("first", by="carol")


@vector
def replaces_champion():
    return judged().approve("first").promote("first", before="zeroth")


@vector
def replaces_champion__by_itself():
    story = judged().approve("first").promote("first").candidate("first").approve("first", by="carol")
    return story.add(Draft("promote", WHY, subject=model("first", "first")), "erin")


@vector
def was_champion():
    return judged().approve("first").promote("first").promote("never", "first", kind="rollback")


@vector
def was_champion__nothing_was():
    return judged().promote("first", kind="rollback")


@vector
def checkpoint_of_log():
    story = opened()
    return story, {"known": (story.checkpoint(log="demo/site-a"),)}


@vector
def checkpoint_key():
    story = opened()
    return story, {"known": (story.checkpoint(by="erin"),)}


@vector
def checkpoint_key__unknown():
    story = opened()
    return story, {"known": (story.checkpoint(by="stranger"),)}


@vector
def checkpoint_key__expired():
    story = opened()
    return story, {"known": (story.checkpoint(by="old-server"),)}


@vector
def checkpoint_key__of_a_site():
    story = opened()
    return story, {"known": (story.checkpoint(by="site-a"),)}


@vector
def checkpoint_signature():
    story = opened()
    return story, {"known": (story.checkpoint(sig=tale.raw_signature("server", b"", {})),)}


@vector
def long_enough():
    story = opened().add(INCIDENT)
    return story, {"known": (story.checkpoint(),), "content": story.lines[0] + b"\n"}


@vector
def checkpoint_root():
    story = opened()
    return story, {"known": (story.checkpoint(root=hash_of("another root")),)}


@vector
def checkpoint_time():
    story = opened()
    return story, {"known": (story.checkpoint(ts=tale.BEGIN),)}


@vector
def revoked_keys():
    story = opened().add(replace(INCIDENT, site="site-b"), "site-b")
    return story.revoke_key("site-b", "alice", "bob", size=1), {"line": 2}


@vector
def revoked_keys__of_a_document():
    story = judged().approve("first")
    return story.revoke_key("dave", "alice", "bob", size=3), {"line": 4}
