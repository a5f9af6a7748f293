"""Proofs of single lines by `python -m flows.audit`."""

import json

import pytest

from fedsilo.audit import forms, proofs
from fedsilo.audit.events import Draft
from tests import audit_story as tale
from tests.unit.audit_command import REFUSED, UNCHECKED, Command


@pytest.fixture
def trail(tmp_path, capsys):
    """A log of one line under a founding, as files."""
    return Command(tmp_path, capsys).begin()


class TestProofs:
    @pytest.fixture
    def proof(self, trail, tmp_path):
        """A proof of the first of two lines."""
        trail.told("keys", "add", trail.entry("new-server"), "--key", trail.key("alice"), "--why", "a new server")
        trail.told("checkpoint", "--key", trail.key("server"))
        path = tmp_path / "proof.json"
        path.write_text(trail.told("prove", 0))
        return path

    def test_one_line_is_proved_without_the_others(self, trail, proof):
        whole = trail.log.read_bytes()
        trail.log.unlink()

        said = trail.told("verify", "--proof", proof)
        assert said.splitlines()[0] == "verified demo/federation line 1 under the checkpoint of 2 lines"
        assert said.splitlines()[1].encode() == whole.splitlines()[0]

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda proof: proof["path"].clear(), "checkpoint-root"),
            (lambda proof: proof.update(line=proof["line"].replace("begins", "begin5")), "signature"),
            (lambda proof: proof.update(line=f" {proof['line']}"), "not-canonical"),
            (lambda proof: proof.update(line="{"), "parse"),
            (lambda proof: proof.update(line=7), "schema"),
            (lambda proof: proof.update(more=7), "schema"),
            (lambda proof: proof.update(line=proof["line"].replace('"seq":0', '"seq":1')), "signature"),
            (lambda proof: proof["checkpoint"].update(size=3), "checkpoint-sig"),
            (lambda proof: proof["checkpoint"].update(root=tale.hash_of("x")), "checkpoint-sig"),
            (lambda proof: proof["checkpoint"].update(key=tale.signer("erin").key), "checkpoint-key"),
            (lambda proof: proof["checkpoint"].update(log="another/federation"), "checkpoint-log"),
            (lambda proof: proof["checkpoint"].update(log="demo/site-a"), "checkpoint-sig"),
        ],
    )
    def test_a_proof_that_was_changed_is_refused(self, trail, proof, change, code):
        content = json.loads(proof.read_text())
        change(content)
        proof.write_text(json.dumps(content))

        ended, _, err = trail.run("verify", "--proof", proof)
        assert ended == REFUSED
        assert f" {code}: " in err

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda attached: attached.clear(), "schema"),
            (lambda attached: attached.pop("candidate"), "schema"),
            (lambda attached: attached.update(reason="another reason"), "signature"),
            (lambda attached: attached.update(tale.resigned(attached, "erin", key=tale.signer("erin").key)), "not-authorised"),
            (lambda attached: attached.update(tale.resigned(attached, "dave", candidate=tale.hash_of("x"))), "not-authorised"),
        ],
    )
    def test_a_line_is_proved_with_the_document_that_lends_it_authority(self, trail, tmp_path, change, code):
        """A server can write what it likes and state it; no stranger takes its word for an approver's."""
        story = tale.judged()
        document = dict(tale.approval("first"))
        change(document)
        story.add(Draft("approve", tale.WHY, subject=tale.model("first"), meaning="approval", attached=document))
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(forms.plain(proofs.prove(story.content, 3, story.checkpoint()))))

        ended, _, err = trail.run("verify", "--proof", path)
        assert (ended, err.count("\n")) == (REFUSED, 1)
        assert f" {code}: " in err

    def test_a_document_of_a_key_that_came_later_needs_the_log(self, trail, tmp_path):
        story = tale.judged().approve("first", by="new-carol")
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(forms.plain(proofs.prove(story.content, 3, story.checkpoint()))))

        code, _, err = trail.run("verify", "--proof", path)
        assert code == UNCHECKED
        assert f"{tale.signer('new-carol').key} is no key of the founding" in err

    @pytest.mark.parametrize("content", ["[" * 100_000, '{"line":' + "[" * 100_000, "", "[]", '{"a":1,"a":1}', "\u00e9"])
    def test_what_is_no_proof_is_told_in_a_line(self, trail, tmp_path, content):
        path = tmp_path / "proof.json"
        path.write_text(content)

        code, _, err = trail.run("verify", "--proof", path)
        assert (code, err.count("\n")) == (UNCHECKED, 1)

    @pytest.mark.parametrize("whose", ["line", "checkpoint"])
    def test_keys_that_came_later_need_the_log(self, trail, proof, whose):
        content = json.loads(proof.read_text())
        stranger = tale.signer("stranger").key
        if whose == "line":
            content["line"] = content["line"].replace(tale.signer("server").key, stranger)
        else:
            content["checkpoint"]["key"] = stranger
        proof.write_text(json.dumps(content))

        code, _, err = trail.run("verify", "--proof", proof)
        assert code == UNCHECKED
        assert "is no key of the founding; it can only be checked with the whole log" in err

    def test_lines_under_no_checkpoint_are_not_proved(self, trail, proof):
        for seq in (-1, 2):
            code, _, err = trail.run("prove", seq)
            assert code == UNCHECKED
            assert "is not under the checkpoint of 2 lines" in err
