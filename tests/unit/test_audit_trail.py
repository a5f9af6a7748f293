"""A log on the disk: opened, appended to by many, held against its clock and its disk."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedsilo.audit import canonical, documents, forms, trail, verifier
from fedsilo.audit.documents import Change
from fedsilo.audit.events import Draft, Subject, Why
from fedsilo.audit.register import Anchor
from fedsilo.errors import AuditRefusedError, DataError, OutputError
from tests import audit_story as tale
from tests.audit_story import INCIDENT, WHY
from tests.unit.audit_log import NOW, lines, open_log


class TestAppending:
    def test_a_log_begins_with_its_founding(self, folder, setting, clock):
        log = open_log(folder, setting, clock, opener=tale.signer("server"))

        (line,) = lines(log)
        event = json.loads(line)
        assert (event["event"], event["log"], event["seq"], event["actor"]) == ("log.open", "demo/federation", 0, "server")
        assert event["subject"]["after"] == tale.found().digest
        assert open_log(folder, setting, clock, opener=tale.signer("server")).state.size == 1  # it is begun once

    def test_an_event_is_one_line_with_who_when_and_where(self, log):
        event = log.append(Draft("round.open", Why("nightly", "it is time"), round_index=3), tale.signer("server"))

        assert log.path.read_bytes().endswith(canonical.dumps(forms.plain(event)) + b"\n")
        assert (event.seq, event.actor, event.actor_name, event.role) == (2, "server", "Server", "server")
        assert event.ts.startswith("2026-05-01T00:00:00.0000")
        assert verifier.verify(log.path.read_bytes(), log.setting).size == 3

    def test_a_person_s_role_is_the_one_that_may_sign_this(self, log):
        tale_of = [("evaluate", "server"), ("gate.verdict", "server")]
        decision = tale.Decision("gate", "pass", tale.hash_of("gate"))
        for kind, name in tale_of:
            log.append(Draft(kind, WHY, subject=tale.model("m"), decision=decision), tale.signer(name))
        approve = Draft("approve", WHY, subject=tale.model("m"), meaning="approval", attached=tale.approval("m"))
        assert log.append(approve, tale.signer("server")).role == "server"
        promote = Draft("promote", WHY, subject=tale.model("m"), attached=tale.release("m", by="carol"))
        assert log.append(promote, tale.signer("carol")).role == "promoter"

    @pytest.mark.parametrize(
        ("draft", "by", "code"),
        [
            (Draft("promote", WHY, subject=tale.model("m")), "erin", "sequence"),
            (Draft("export", WHY, outputs=(tale.Artifact("x", tale.hex_of("x")),)), "server", "not-authorised"),
            (Draft("round.open", WHY), "server", "schema"),
            (Draft("no.such.kind", WHY), "server", "schema"),
            (Draft("incident", Why("", "because")), "server", "schema"),
            (Draft("log.open", WHY, subject=Subject("founding", "demo", after=tale.found().digest)), "server", "sequence"),
            (INCIDENT, "stranger", "unknown-key"),
            (INCIDENT, "old-server", "key-validity"),
        ],
    )
    def test_what_would_be_refused_is_not_written(self, log, draft, by, code):
        before = log.path.read_bytes()

        with pytest.raises(AuditRefusedError) as refused:
            log.append(draft, tale.signer(by))

        assert (refused.value.code, refused.value.line) == (code, 3)
        assert log.path.read_bytes() == before
        assert log.append(INCIDENT, tale.signer("server")).seq == 2

    @pytest.mark.parametrize("why", [Why("1", "two\nlines"), Why("1", "\x1b[31mred")])
    def test_what_has_no_canonical_form_is_not_written(self, log, why):
        before = log.path.read_bytes()

        with pytest.raises(DataError, match="cannot sign"):
            log.append(Draft("incident", why), tale.signer("server"))

        assert log.path.read_bytes() == before

    def test_what_is_checked_only_is_refused_as_it_would_be_and_not_written(self, log):
        before = log.path.read_bytes()
        event = log.check(INCIDENT, tale.signer("server"))
        with pytest.raises(AuditRefusedError, match="not-authorised"):
            log.check(Draft("promote", WHY, subject=tale.model("m")), tale.signer("server"))

        assert (event.kind, event.seq) == (INCIDENT.kind, 2)
        assert log.path.read_bytes() == before
        assert log.append(INCIDENT, tale.signer("server")).seq == 2  # nothing of it is remembered

    def test_a_log_that_is_not_there_is_not_begun_unasked(self, folder, setting, clock):
        with pytest.raises(OutputError, match="No such file"):
            open_log(folder, setting, clock)
        folder.mkdir(parents=True)
        (folder / "federation.jsonl").touch()
        with pytest.raises(DataError, match="has no line yet"):
            open_log(folder, setting, clock)

    def test_only_a_server_begins_the_federation_s_log(self, folder, setting, clock):
        with pytest.raises(AuditRefusedError, match="not-authorised: site may not sign log"):
            open_log(folder, setting, clock, opener=tale.signer("site-a"))

    def test_the_log_is_readable_and_its_writer_s(self, log):
        assert stat.S_IMODE(log.path.stat().st_mode) & 0o022 == 0


class TestOthers:
    def test_lines_of_another_writer_are_read_and_checked(self, folder, setting, clock, log):
        other = open_log(folder, setting, clock)

        other.append(INCIDENT, tale.signer("server"))
        log.append(INCIDENT, tale.signer("server"))
        other.append(INCIDENT, tale.signer("server"))

        assert [json.loads(line)["seq"] for line in lines(log)] == [0, 1, 2, 3, 4]
        assert log.refresh().size == 5

    def test_nothing_is_added_to_a_line_of_another_that_is_wrong(self, log):
        with log.path.open("ab") as handle:
            handle.write(lines(log)[1] + b"\n")

        with pytest.raises(AuditRefusedError, match="line 3 seq"):
            log.append(INCIDENT, tale.signer("server"))

    def test_nothing_is_added_to_a_torn_tail(self, log):
        with log.path.open("ab") as handle:
            handle.write(b'{"v":1')

        for act in (lambda: log.append(INCIDENT, tale.signer("server")), log.refresh):
            with pytest.raises(AuditRefusedError, match=r"line 3 torn-tail: .* `recover` moves it aside"):
                act()

    @pytest.mark.parametrize(("change", "code"), [(lambda content: content[:-20], "truncated"), (lambda content: b"", "truncated"),
                                                  (lambda content: content.replace(b"because", b"becouse"), "chain")])  # fmt: skip
    def test_a_line_that_was_there_and_is_gone_is_noticed(self, log, change, code):
        log.path.write_bytes(change(log.path.read_bytes()))

        with pytest.raises(AuditRefusedError) as refused:
            log.append(INCIDENT, tale.signer("server"))
        assert (refused.value.code, refused.value.line) == (code, 2)


class TestRevoking:
    def revoke(self, log, name, admin, size, **options):
        """Sign that the acts of a key in the first lines stand."""
        content = forms.plain(Anchor(size, log.root(size)))
        subject = tale.key_subject(tale.signer(name).key, content)
        change = documents.sign(Change(tale.FEDERATION, "key.revoke", subject, "lost", tale.BEGIN, content), tale.signer(admin))
        return log.append(Draft("key.revoke", WHY, subject=subject, attached=change), tale.signer(admin), **options)

    def test_a_key_that_signs_while_it_is_revoked_does_not_end_the_log(self, log):
        """The second admin's line comes after one of the key: what the first signed to stand is no longer all."""
        size = log.state.size
        self.revoke(log, "server", "alice", size)
        log.append(INCIDENT, tale.signer("server"))
        before = log.path.read_bytes()

        with pytest.raises(AuditRefusedError, match=r"line 4 key-validity: .* only what it signed in the first 2"):
            self.revoke(log, "server", "bob", size)

        assert log.path.read_bytes() == before
        self.revoke(log, "server", "bob", log.state.size)
        self.revoke(log, "server", "gina", log.state.size - 1)
        assert log.refresh().size == 6

    def test_it_does_by_consent(self, log):
        self.revoke(log, "server", "alice", 1)
        self.revoke(log, "server", "bob", 1, end_log=True)

        with pytest.raises(AuditRefusedError, match="line 2 key-validity"):
            log.refresh()


class TestClock:
    def test_a_clock_that_stands_is_held_by_a_microsecond(self, log, clock):
        last = json.loads(lines(log)[-1])["ts"]
        for seconds in (0, 1, 299):
            clock.now = datetime.fromisoformat(last) - timedelta(seconds=seconds, microseconds=10)
            event = log.append(INCIDENT, tale.signer("server"))
            assert event.clock_held
            assert datetime.fromisoformat(event.ts) - datetime.fromisoformat(last) == timedelta(microseconds=1)
            last = event.ts
        clock.now = datetime.fromisoformat(last)
        assert not log.append(INCIDENT, tale.signer("server")).clock_held
        assert log.refresh().size == 6

    def test_a_clock_far_behind_stops_the_log(self, log, clock):
        clock.now = NOW - timedelta(minutes=6)
        before = log.path.read_bytes()

        with pytest.raises(OutputError, match="set the clock"):
            log.append(INCIDENT, tale.signer("server"))
        assert log.path.read_bytes() == before

    def test_without_a_clock_it_is_now(self, folder, setting):
        log = open_log(folder, setting, trail.utc_now, opener=tale.signer("server"))
        written = datetime.fromisoformat(json.loads(lines(log)[0])["ts"])
        assert abs(datetime.now(tz=UTC) - written) < timedelta(minutes=1)


class TestDisk:
    @pytest.mark.parametrize("fails", ["write", "short write", "sync"])
    def test_a_disk_that_fails_leaves_the_log_as_it_was(self, log, monkeypatch, fails):
        before, write = log.path.read_bytes(), os.write

        def full(handle, content):
            write(handle, content[:100])
            if fails == "write":
                raise OSError(28, "No space left on device")
            return 100 if fails == "short write" else write(handle, content[100:]) + 100

        def broken(_handle):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(trail.os, "write", full)
        if fails == "sync":
            monkeypatch.setattr(trail.os, "fsync", broken)
        with pytest.raises(OutputError, match="cannot write"):
            log.append(INCIDENT, tale.signer("server"))
        assert log.path.read_bytes() == before

        monkeypatch.undo()
        log.append(INCIDENT, tale.signer("server"))
        assert log.refresh().size == 3

    def test_a_line_is_on_the_disk_before_it_counts(self, log, monkeypatch):
        synced = []
        fsync = os.fsync

        def remember(handle):
            synced.append(os.fstat(handle).st_size)
            fsync(handle)

        monkeypatch.setattr(trail.os, "fsync", remember)
        log.append(INCIDENT, tale.signer("server"))
        assert synced == [log.path.stat().st_size]

    def test_a_new_log_is_there_after_a_power_cut(self, folder, setting, clock, monkeypatch):
        synced = []
        monkeypatch.setattr(trail.os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
        open_log(folder, setting, clock, opener=tale.signer("server")).checkpoint(tale.signer("server"))

        assert synced[:2] == [str(folder), str(folder.parent)]
        assert synced[2] == str(folder / "federation.jsonl")
        assert synced[-1] == str(folder / "checkpoints")

    def test_a_long_log_is_read_in_as_many_pieces_as_the_system_gives(self, folder, setting, clock, log, monkeypatch):
        pread = os.pread
        monkeypatch.setattr(trail.os, "pread", lambda handle, size, start: pread(handle, min(size, 50), start))

        assert open_log(folder, setting, clock).state.size == 2
