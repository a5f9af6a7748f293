"""Checkpoints of a log on the disk, and the logs of sites."""

from datetime import timedelta

import pytest

from fedsilo.audit import canonical, checkpoints, documents, forms, keys, trail, verifier
from fedsilo.audit.events import Draft, Subject
from fedsilo.errors import AuditRefusedError, DataError
from tests import audit_story as tale
from tests.audit_story import INCIDENT, WHY
from tests.unit.audit_log import NOW, Clock, lines, open_log


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def setting():
    return verifier.setting_of(tale.found(), "federation")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audit" / "demo"


@pytest.fixture
def log(folder, setting, clock):
    """A log with two lines."""
    made = open_log(folder, setting, clock, opener=tale.signer("server"))
    made.append(INCIDENT, tale.signer("server"))
    return made


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

        with pytest.raises(AuditRefusedError, match="line 1 signature"):
            log.checkpoint(tale.signer("server"))
        assert checkpoints.find(log.checkpoints_dir) == ()

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
        [(b"", "parse"), (b"{}\n", "schema"), (b"[]\n", "parse"), (b'{"size":0.5}\n', "parse"), (None, "not-canonical")],
    )
    def test_a_checkpoint_that_is_none_is_refused(self, log, content, code):
        log.checkpoint(tale.signer("server"))
        path = log.checkpoints_dir / "2.json"
        path.write_bytes(path.read_bytes()[:-1] if content is None else content)

        with pytest.raises(AuditRefusedError) as refused:
            log.refresh()
        assert (refused.value.code, refused.value.log) == (code, "2.json")


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

        assert verifier.verify(story.content, setting, (story.checkpoint(by="site-b"),)).size == 2
        assert refusal() == ("key-validity", 2)
        assert refusal(story.checkpoint(1, by="site-b")) == ("key-validity", 2)
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
