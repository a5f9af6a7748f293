"""No change of a log goes unnoticed: bytes, lines, order, length, and history written anew with some keys or with all."""

import json
import subprocess
import sys

import pytest

from fedsilo.audit import canonical, merkle, verifier
from fedsilo.errors import AuditRefusedError
from tests import audit_fuzz
from tests import audit_story as tale
from tests.audit_fuzz import UNNOTICED, Original, text

MIN_BYTES, MIN_EDITS = 10_000, 500


@pytest.fixture(scope="module")
def counts(repository):
    """What the verifier says to every change, counted by code."""
    done = subprocess.run([sys.executable, "-m", "tests.audit_fuzz"], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # any exception that is no refusal
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def large():
    return Original(tale.whole())


def rewritten(original, names):
    """Yield every history in which one line of these signers says something else, chained anew and signed anew by them alone."""
    signers = {tale.signer(name).key: name for name in names}
    for index, line in enumerate(original.lines):
        if json.loads(line)["key"] not in signers:
            continue
        lines, before = [], original.states[index].prev
        for place, other in enumerate(original.lines[index:]):
            record = json.loads(other)
            record |= {"prev": before} | ({"why": {"request": "1", "text": "another reason"}} if place == 0 else {})
            if record["key"] in signers:
                record = tale.sign_line(record, signers[record["key"]])
            lines.append(canonical.dumps(record))
            before = f"sha256:{merkle.leaf(lines[-1]).hex()}"
        yield index, text([*original.lines[:index], *lines])


def test_logs_as_they_are_pass(large):
    small = audit_fuzz.small()
    assert small.refusal(small.content) is None
    assert large.refusal(large.content) is None


def test_no_changed_byte_is_missed(counts):
    small, seen = audit_fuzz.small(), counts["small"]

    assert sum(seen.values()) == len(small.content) * audit_fuzz.WAYS > MIN_BYTES
    assert UNNOTICED not in seen
    # nothing but the checkpoint can tell that whole lines are missing at the end; a log cut before its first line is empty
    assert {key: count for key, count in seen.items() if "True" in key} == {"('truncated', True)": len(small.lines)}


def test_no_changed_byte_of_a_long_log_is_missed(counts, large):
    seen = counts["large"]

    assert sum(seen.values()) == len(large.content) > MIN_BYTES
    assert UNNOTICED not in seen
    assert not any("True" in key for key in seen)  # by its lines alone, without a checkpoint


def test_no_edit_of_lines_is_missed(counts, large):
    seen = counts["edits"]

    assert sum(sum(codes.values()) for codes in seen.values()) > MIN_EDITS
    assert min(sum(codes.values()) for codes in seen.values()) >= len(large.lines)
    assert {key for codes in seen.values() for key in codes if "True" in key} <= {"('truncated', True)"}
    assert not any(UNNOTICED in codes for codes in seen.values())


def test_odd_lines_of_rightful_signers_end_in_a_code_or_pass(counts):
    """Whatever stands where in a line that is signed well, the verifier says a code of its list and nothing else."""
    seen = counts["insiders"]

    assert sum(seen.values()) > 5_000
    assert seen.keys() - {UNNOTICED} <= set(verifier.CODES)
    assert len(seen) > 10
    assert seen[UNNOTICED] < sum(seen.values()) / 20  # another reason, name or hash, which is theirs to say


def test_odd_proofs_and_foundings_end_in_a_line_and_none_passes(counts):
    """But for proofs of good lines in which nothing was changed."""
    proofs, foundings = counts["proofs"], counts["foundings"]

    assert sum(proofs.values()) > 5_000
    assert proofs.keys() <= {*verifier.CODES, "not of the founding"}
    assert sum(foundings.values()) > 1_000
    assert foundings.keys() == {"refused"}


def test_every_line_that_has_its_form_can_stand_in_an_ancestry(counts):
    assert counts["ancestries"] > 1_000


def test_reading_from_the_change_on_is_reading_all():
    """The short cut of the counts refuses by the same code as the verifier."""
    small = audit_fuzz.small()
    for content in list(audit_fuzz.mutants(small.content))[::97]:
        with pytest.raises(AuditRefusedError) as refused:
            verifier.verify(content, small.setting, small.known)
        assert small.refusal(content)[0] == refused.value.code


def test_a_cut_off_end_is_seen_through_a_checkpoint_and_not_without(large):
    for size in range(1, len(large.lines)):
        content = text(large.lines[:size])
        assert verifier.verify(content, large.setting).size == size
        with pytest.raises(AuditRefusedError) as refused:
            verifier.verify(content, large.setting, large.known)
        assert (refused.value.code, refused.value.line) == ("truncated", len(large.lines))


def test_history_written_anew_with_all_keys_is_seen_through_a_checkpoint_and_not_without(large):
    for altered in range(len(large.lines)):
        story = tale.whole(altered=altered)
        assert story.verify().size == len(large.lines)
        with pytest.raises(AuditRefusedError) as refused:
            story.verify(large.known)
        assert refused.value.code == "checkpoint-root"


@pytest.mark.parametrize("names", [("server",), ("server", "new-server", "site-a", "site-b")])
def test_history_written_anew_with_stolen_keys_breaks_the_next_signature_of_another(large, names):
    tried = 0
    for index, content in rewritten(large, names):
        with pytest.raises(AuditRefusedError) as refused:
            verifier.verify(content, large.setting)
        assert refused.value.code in ("signature", "checkpoint-root")  # or the root that a site saw or admins anchored
        assert refused.value.line > index + 1
        tried += 1
    assert tried > 5


def test_a_site_s_manifest_witnesses_what_came_before():
    """With the keys of all who signed lines, but not that of the site whose manifest is attached, the past cannot change."""
    original = Original(tale.submit(tale.opened()))

    ((index, content),) = [entry for entry in rewritten(original, ("server",)) if entry[0] == 0]

    with pytest.raises(AuditRefusedError) as refused:
        verifier.verify(content, original.setting)
    assert (index, refused.value.code, refused.value.line) == (0, "checkpoint-root", 2)


def test_two_histories_for_two_parties_have_two_roots():
    one, other = tale.trained(), tale.trained(altered=3)

    assert one.root(3) == other.root(3)
    assert one.root() != other.root()
    with pytest.raises(AuditRefusedError, match="checkpoint-root"):
        one.verify([other.checkpoint()])
