"""Every check of the verifier is needed: for each there is a log that it alone refuses, and that passes without it."""

import pytest

from fedsilo.audit import verifier
from fedsilo.errors import AuditRefusedError
from tests import audit_story, audit_vectors


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


@pytest.mark.parametrize("make", [audit_story.opened, audit_story.trained, audit_story.whole])
def test_logs_without_a_fault_pass(make):
    story = make()

    verdict = story.verify([story.checkpoint(1), story.checkpoint()])

    assert (verdict.size, verdict.anchored, verdict.root) == (len(story.lines), len(story.lines), story.root())


def test_the_whole_log_ends_with_what_was_done():
    story = audit_story.whole()
    state = story.verify().state

    first, second = audit_story.hash_of("first"), audit_story.hash_of("second")
    assert state.champions["global"].current == first
    assert state.champions["global"].promoted == {first, second}
    assert state.register[audit_story.signer("new-server").key].valid_at(story.verify().state.ts)
    assert not state.register[audit_story.signer("site-b").key].valid_at(state.ts)
    assert state.pending == {}
