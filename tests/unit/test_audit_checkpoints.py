"""Checkpoints of a log on the disk, and the logs of sites."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from fedsilo.audit import canonical, checkpoints, documents, forms, keys, merkle, trail, verifier
from fedsilo.audit.events import Draft, Subject
from fedsilo.errors import AuditRefusedError, DataError
from tests import audit_story as tale
from tests.audit_story import INCIDENT, WHY
from tests.unit.audit_log import NOW, lines, open_log


def append_update(log):
    """Let the server carry a site's manifest, which has seen nothing."""
    subject = Subject("update", "site-a/0", after=tale.hash_of("update site-a"))
    manifest = tale.update(tale.opened(), seen=None)
    log.append(
        Draft("update.submit", WHY, site="site-a", round_index=0, subject=subject, attached=manifest), tale.signer("server")
    )


class TestCheckpoints:
    def test_a_checkpoint_is_a_line_that_verifies(self, log):
        made = log.checkpoint(tale.signer("server"))

        path = log.checkpoints_dir / "2.json"
        assert path.read_bytes() == canonical.dumps(forms.plain(made)) + b"\n"
        assert checkpoints.find(log.checkpoints_dir) == checkpoints.find(path) == (made,)
        assert verifier.verify(log.path.read_bytes(), log.setting, (made,)).anchored == 2

    def test_one_of_the_same_size_stays(self, log):
        made, before = log.checkpoint(tale.signer("server")), (log.checkpoints_dir / "2.json").read_bytes()

        assert log.checkpoint(tale.signer("server")) == made
        assert (log.checkpoints_dir / "2.json").read_bytes() == before

    @pytest.mark.parametrize("name", ["erin", "site-a", "stranger", "old-server"])
    def test_who_may_not_makes_none(self, log, name):
        with pytest.raises(AuditRefusedError, match="checkpoint-key"):
            log.checkpoint(tale.signer(name))
        assert checkpoints.find(log.checkpoints_dir) == ()

    def test_none_is_made_of_a_log_that_is_refused(self, log):
        log.path.write_bytes(log.path.read_bytes().replace(b"begins", b"begin5"))  # a line that is not read again to append

        with pytest.raises(AuditRefusedError, match="line 1 chain: the line was changed since it was checked"):
            log.checkpoint(tale.signer("server"))
        assert checkpoints.find(log.checkpoints_dir) == ()

    def test_a_line_that_was_taken_on_trust_is_checked_before_a_checkpoint_is_made(self, folder, setting, clock, log):
        """The checkpoint by whose root it was believed is no longer there, the line is another."""
        log.checkpoint(tale.signer("server"))
        opened = open_log(folder, setting, clock)
        (log.checkpoints_dir / "2.json").rename(folder / "2.json")
        log.path.write_bytes(log.path.read_bytes().replace(b"begins", b"begin5"))

        with pytest.raises(DataError, match="no checkpoint says that the first 2 lines are as they were"):
            opened.checkpoint(tale.signer("server"))
        (folder / "2.json").rename(log.checkpoints_dir / "2.json")
        with pytest.raises(AuditRefusedError, match="line 1 signature"):
            opened.checkpoint(tale.signer("server"))

    @pytest.mark.parametrize("place", [0, 1])
    def test_no_changed_line_is_stated_however_long_the_log(self, log, monkeypatch, place):
        """Hashes are compared in pieces of the file, whose ends are in the midst of lines."""
        monkeypatch.setattr(trail, "CHUNK_BYTES", 100)
        log.append(INCIDENT, tale.signer("server"))
        before, changed = log.path.read_bytes(), lines(log)
        changed[place] = changed[place].replace(b'"v":1', b'"v":2')
        log.path.write_bytes(b"".join(line + b"\n" for line in changed))

        with pytest.raises(AuditRefusedError, match=f"line {place + 1} chain"):
            log.checkpoint(tale.signer("server"))
        log.path.write_bytes(before)
        assert log.checkpoint(tale.signer("server")).root == log.root(3)

    def test_none_is_made_of_a_log_that_lost_lines(self, log):
        for content in (lines(log)[0] + b"\n", b""):
            log.path.write_bytes(content)
            with pytest.raises(AuditRefusedError, match="line 2 truncated"):
                log.checkpoint(tale.signer("server"))
        assert checkpoints.find(log.checkpoints_dir) == ()

    def test_a_clock_behind_does_not_date_it_before_what_it_covers(self, log, clock):
        clock.now = NOW - timedelta(days=1)
        assert log.checkpoint(tale.signer("server")).ts == log.state.ts

    def test_a_log_that_is_gone_is_not_begun_again(self, folder, setting, clock, log):
        log.checkpoint(tale.signer("server"))
        log.path.unlink()

        with pytest.raises(AuditRefusedError, match="line 2 truncated"):
            open_log(folder, setting, clock, opener=tale.signer("server"))
        assert not log.path.exists()

    def test_a_log_that_was_cut_off_is_not_opened(self, folder, setting, clock, log):
        log.checkpoint(tale.signer("server"))
        log.path.write_bytes(lines(log)[0] + b"\n")

        with pytest.raises(AuditRefusedError, match="line 2 truncated"):
            open_log(folder, setting, clock)

    def test_opening_takes_signatures_under_a_checkpoint_on_trust_and_verifying_does_not(
        self, folder, setting, clock, log, monkeypatch
    ):
        append_update(log)
        log.checkpoint(tale.signer("server"))
        append_update(log)
        checked, check = [], keys.signed_by
        monkeypatch.setattr(keys, "signed_by", lambda *given: checked.append(given[1]) or check(*given))

        opened = open_log(folder, setting, clock)
        assert [checked.count(kind) for kind in (keys.EVENT_DOMAIN, documents.domain("update"), keys.CHECKPOINT_DOMAIN)] == [
            1,
            1,
            1,
        ]
        checked.clear()
        opened.checkpoint(tale.signer("server"))
        assert [checked.count(kind) for kind in (keys.EVENT_DOMAIN, documents.domain("update"))] == [4, 2]
        opened.append(INCIDENT, tale.signer("server"))
        checked.clear()
        assert opened.checkpoint(tale.signer("server")).size == 5  # what was verified once is compared by its hashes
        assert set(checked) == {keys.CHECKPOINT_DOMAIN}

    def test_an_object_that_checked_every_line_states_them_without_checking_signatures_again(self, log, monkeypatch):
        append_update(log)
        checked, check = [], keys.signed_by
        monkeypatch.setattr(keys, "signed_by", lambda *given: checked.append(given[1]) or check(*given))

        made = log.checkpoint(tale.signer("server"))

        assert checked == [keys.CHECKPOINT_DOMAIN]
        assert verifier.verify(log.path.read_bytes(), log.setting, (made,)).anchored == 3

    def test_a_key_that_trusted_lines_add_is_one_that_admins_signed_for(self, folder, setting, clock):
        """Whoever can write the files and has no key adds one of their own, and states with it what nobody checks."""
        story = tale.opened()
        for admin in ("alice", "bob"):
            story.add_key("stranger", admin)
        story.add(INCIDENT)
        # no signature of the admins or the server: those of the thief stand in their place
        records = [json.loads(line) for line in story.lines]
        written, before = [], records[0]["prev"]
        for record in records:
            attached = record.get("attached")
            if attached:
                record["attached"] = tale.resigned(attached, "stranger")
            written.append(canonical.dumps(tale.sign_line({**record, "prev": before}, "stranger")))
            before = f"sha256:{merkle.leaf(written[-1]).hex()}"
        story.lines = written
        folder.mkdir(parents=True)
        (folder / "federation.jsonl").write_bytes(story.content)
        checkpoints.write(story.checkpoint(by="stranger"), folder / "checkpoints")

        with pytest.raises(AuditRefusedError, match="line 2 signature"):
            open_log(folder, setting, clock)
        with pytest.raises(AuditRefusedError, match="line 2 signature"):
            verifier.verify(story.content, replace(setting, trusted_size=4), (story.checkpoint(by="stranger"),))

    def test_what_is_taken_on_trust_must_be_what_the_checkpoint_covers(self, folder, setting, clock, log):
        """History written anew without keys: no signature would hold, and none is asked for; the root is."""
        log.checkpoint(tale.signer("server"))
        first, second = lines(log)
        log.path.write_bytes(first + b"\n" + second.replace(b"because", b"becouse") + b"\n")

        with pytest.raises(AuditRefusedError, match="line 2 checkpoint-root"):
            open_log(folder, setting, clock)
        trusting = verifier.setting_of(tale.found(), "federation", trusted_size=2)
        with pytest.raises(DataError, match="no checkpoint says that the first 2 lines are as they were"):
            verifier.verify(log.path.read_bytes(), trusting)

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"", "parse"),
            (b"{}\n", "schema"),
            (b"[]\n", "parse"),
            (b'{"size":0.5}\n', "parse"),
            (b'{"a":' + b"[" * 100_000, "parse"),
            (None, "not-canonical"),
        ],
    )
    def test_a_checkpoint_that_is_none_is_refused(self, log, content, code):
        log.checkpoint(tale.signer("server"))
        path = log.checkpoints_dir / "2.json"
        path.write_bytes(path.read_bytes()[:-1] if content is None else content)

        with pytest.raises(AuditRefusedError) as refused:
            log.refresh()
        assert (refused.value.code, refused.value.log) == (code, "2.json")

    def test_a_path_that_the_system_takes_for_none_is_an_error_of_one_line(self, tmp_path):
        with pytest.raises(DataError, match="cannot read"):
            checkpoints.find(tmp_path / ("a" * 300))
        (tmp_path / "0.json").mkdir()
        with pytest.raises(DataError, match="cannot read"):
            checkpoints.find(tmp_path)

    def test_a_checkpoint_that_is_made_while_a_log_is_read_is_not_held_against_it(self, log, monkeypatch):
        log.checkpoint(tale.signer("server"))
        find = checkpoints.find

        def find_and_go_on(path):
            found = find(path)
            monkeypatch.undo()
            log.append(INCIDENT, tale.signer("server"))
            log.checkpoint(tale.signer("server"))
            return found

        monkeypatch.setattr(checkpoints, "find", find_and_go_on)
        content, known = trail.read_anchored(log.path, log.checkpoints_dir)
        verdict = verifier.verify(content, log.setting, known)
        assert (verdict.size, verdict.anchored) == (3, 2)


class TestSites:
    def test_a_site_s_log_takes_its_keys_from_the_federation_s(self, folder, clock):
        story = tale.opened().add_key("new-carol", "alice", "bob").revoke_key("site-b", "alice", "bob")
        register = story.verify().state.register
        clock.now = NOW

        def open_of(site):
            setting = verifier.setting_of(tale.found(), site, register)
            return trail.open_trail(
                folder / f"{site}.jsonl", setting, folder / "checkpoints" / site, opener=tale.signer(site), clock=clock
            )

        log = open_of("site-a")
        log.append(Draft("data.validate", WHY, site="site-a"), tale.signer("site-a"))
        log.checkpoint(tale.signer("site-a"))
        assert log.refresh().anchored == 2
        with pytest.raises(AuditRefusedError, match="key-validity"):
            open_of("site-b")
        with pytest.raises(AuditRefusedError, match="not-authorised"):
            trail.open_trail(
                folder / "x.jsonl",
                verifier.setting_of(tale.found(), "site-a"),
                folder / "x",
                opener=tale.signer("site-b"),
                clock=clock,
            )

    def test_what_a_site_signed_before_its_key_was_revoked_counts_under_an_older_checkpoint(self):
        story = tale.Story("site-b")
        subject = Subject("founding", tale.FEDERATION, after=story.founding.digest)
        story.add(Draft("log.open", WHY, subject=subject), "site-b").add(INCIDENT, "site-b")
        federation = tale.opened()
        federation.now += timedelta(hours=1)
        register = federation.revoke_key("site-b", "alice", "bob").verify().state.register
        setting = verifier.setting_of(tale.found(), "site-b", register)

        def refusal(*known):
            with pytest.raises(AuditRefusedError) as refused:
                verifier.verify(story.content, setting, known)
            return refused.value.code, refused.value.line

        assert verifier.verify(story.content, setting, (story.checkpoint(by="server"),)).size == 2
        assert refusal() == ("key-validity", 2)
        assert refusal(story.checkpoint(1, by="server")) == ("key-validity", 2)
        # whoever stole the key can date its checkpoints as they like
        assert refusal(story.checkpoint(by="site-b")) == ("key-validity", 2)
        assert refusal(story.checkpoint(by="server", ts="2026-02-01T00:00:00.000000Z")) == ("key-validity", 2)

    @pytest.mark.parametrize("name", ["", "Federation", "../x", "a/b", "x.y"])
    def test_a_log_s_name_cannot_lead_elsewhere(self, name):
        with pytest.raises(DataError, match="as the name of a log"):
            verifier.setting_of(tale.found(), name)


def test_a_document_is_signed_as_what_it_is():
    """A signature over one type of document is none over another, even with the same fields."""
    document = tale.approval("first")
    for kind in documents.TYPES:
        holds = keys.signed_by(tale.signer("dave").public, documents.domain(kind), document)
        assert holds == (kind == "approval")
