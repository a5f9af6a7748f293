"""A pack is checked offline by its founding's hash alone, and nothing in it can be changed."""

import hashlib
import json

import pytest

from fedsilo.audit import canonical, documents, forms, founding, packs, proofs
from fedsilo.audit.documents import Approval
from fedsilo.audit.events import Decision, Draft, Subject
from fedsilo.errors import AuditRefusedError, DataError
from tests import audit_story as tale

WEIGHTS = b"weights of a model"
NAME = "demo/global"


def told(name=NAME, content=WEIGHTS, kind="model"):
    """A log whose last line is about a model."""
    subject = Subject(kind, name, after=f"sha256:{hashlib.sha256(content).hexdigest()}")
    return tale.trained().add(Draft("aggregate", tale.WHY, round_index=1, subject=subject))


def packed(folder, story=None, by="server", created="2026-02-01T00:00:00.000000Z", name=NAME):
    """Make a pack."""
    story = story or told()
    folder.mkdir(exist_ok=True)
    (folder / packs.MODEL).write_bytes(WEIGHTS)
    (folder / packs.METADATA).write_text("{}")
    founding.write(story.founding, folder / packs.FOUNDING)
    checkpoint = story.checkpoint()
    proof = proofs.prove(story.content, len(story.lines) - 1, checkpoint)
    (folder / packs.PROOF).write_text(json.dumps(forms.plain(proof)))
    packs.sign(folder, name, checkpoint, created=created, signer=tale.signer(by))
    return folder


@pytest.fixture
def pack(tmp_path):
    return packed(tmp_path / "pack")


def refusal(folder, founding_hash=None):
    with pytest.raises(AuditRefusedError) as refused:
        packs.check(folder, founding_hash)
    return refused.value.code


def test_a_pack_holds_and_names_the_line_about_its_model(pack):
    checked = packs.check(pack, tale.found().digest)

    assert checked.manifest.name == NAME
    assert checked.event.kind == "aggregate"
    assert checked.event.subject.after == f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"


@pytest.mark.parametrize("name", [packs.MODEL, packs.METADATA, packs.PROOF])
def test_a_changed_or_missing_file_is_refused(pack, name):
    whole = (pack / name).read_bytes()
    (pack / name).write_bytes(whole + b" ")
    assert refusal(pack) == "artifact"
    (pack / name).unlink()
    assert refusal(pack) == "artifact"


def test_a_file_that_was_added_is_refused(pack):
    (pack / "setup.py").write_text("print('hello')")

    assert refusal(pack) == "artifact"


def test_another_founding_is_refused(pack):
    assert refusal(pack, tale.hash_of("another founding")) == "wrong-log"
    founding.write(tale.found(approvals=2), pack / packs.FOUNDING)
    assert refusal(pack) == "wrong-log"


def test_a_founding_that_was_changed_cannot_be_used(pack):
    content = json.loads((pack / packs.FOUNDING).read_text())
    content["policy"]["approvals"] = 2
    (pack / packs.FOUNDING).write_text(json.dumps(content))

    with pytest.raises(DataError, match="is not over this founding"):
        packs.check(pack)


def rewrite(pack, *, by=None, **changes):
    """Change the manifest; with ``by`` sign it anew."""
    record = json.loads((pack / packs.MANIFEST).read_text()) | changes
    if by is not None:
        record = {key: value for key, value in record.items() if key != "sig"} | {"key": tale.signer(by).key}
        record["sig"] = tale.raw_signature(by, packs.DOMAIN, record)
    (pack / packs.MANIFEST).write_bytes(canonical.dumps(record) + b"\n")


def test_only_the_server_signs_packs(pack):
    rewrite(pack, name="demo/other")
    assert refusal(pack) == "signature"
    rewrite(pack, by="site-a")
    assert refusal(pack) == "unknown-key"
    rewrite(pack, by="stranger")
    assert refusal(pack) == "unknown-key"


def test_an_expired_key_signs_no_pack(tmp_path):
    assert refusal(packed(tmp_path / "pack", created="2037-01-01T00:00:00.000000Z")) == "key-validity"


def test_a_signature_over_something_else_is_none(pack):
    record = json.loads((pack / packs.MANIFEST).read_text())
    unsigned = {key: value for key, value in record.items() if key != "sig"}
    rewrite(pack, sig=tale.raw_signature("server", b"fedsilo-audit/v1/event\0", unsigned))

    assert refusal(pack) == "signature"


def test_a_manifest_out_of_its_form_is_refused(pack):
    rewrite(pack, more=1)
    assert refusal(pack) == "schema"


def test_a_manifest_that_is_not_canonical_is_refused(pack):
    path = pack / packs.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text())))

    assert refusal(pack) == "schema"


def test_a_manifest_lists_the_files_of_a_pack_and_no_others(pack):
    listed = json.loads((pack / packs.MANIFEST).read_text())["files"]
    rewrite(pack, by="server", files=[*listed, {"name": "../../keys", "sha256": "0" * 64}])

    assert refusal(pack) == "schema"


@pytest.mark.parametrize("story", [told("demo/other"), told(content=b"other weights"), told(kind="update")])
def test_a_line_about_something_else_proves_nothing(tmp_path, story):
    assert refusal(packed(tmp_path / "pack", story)) == "artifact"


def test_a_reject_is_no_ground_for_a_pack(tmp_path):
    subject = Subject("model", "global", after=f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}")
    story = tale.opened().add(Draft("evaluate", tale.WHY, site="site-a", subject=subject), "site-a")
    story.add(Draft("gate.verdict", tale.WHY, subject=subject, decision=Decision("gate", "fail", tale.hash_of("gate"))))
    said = Approval(tale.FEDERATION, subject.after, tale.hash_of("gate"), "reject", "approval", "numbers are bad", tale.BEGIN)
    attached = documents.sign(said, tale.signer("dave"))
    story.add(Draft("reject", tale.WHY, subject=subject, meaning="approval", attached=attached))
    story.verify()

    assert refusal(packed(tmp_path / "pack", story, name="global")) == "artifact"


def test_the_proof_and_the_manifest_speak_of_the_same_checkpoint(pack):
    rewrite(pack, by="server", checkpoint=forms.plain(tale.trained().checkpoint()))

    assert refusal(pack) == "checkpoint-root"


@pytest.mark.parametrize("name", [packs.MANIFEST, packs.FOUNDING])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"files":' + "[" * 100_000, "", '{"name":1,"name":1}'])
def test_what_is_no_record_cannot_be_used(pack, name, content):
    (pack / name).write_text(content)

    with pytest.raises(DataError, match="cannot use"):
        packs.check(pack)
