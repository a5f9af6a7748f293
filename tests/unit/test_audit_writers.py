"""Many writers of one log, writers that are killed, and lines that were cut off."""

import json
import subprocess
import sys
import threading
import time

import pytest

from fedsilo import files
from fedsilo.audit import canonical, recovery, trail, verifier
from fedsilo.audit.events import Draft, Why
from fedsilo.errors import AuditRefusedError, DataError
from tests import audit_story as tale
from tests import audit_writer
from tests.audit_story import WHY

WRITERS, EVENTS, KILLS = 4, 25, 6


def start(repository, folder, name, count):
    command = [sys.executable, "-m", "tests.audit_writer", str(folder), name, str(count)]
    return subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)


def events(folder):
    return [json.loads(line) for line in (folder / "federation.jsonl").read_bytes().splitlines()]


def verify(folder):
    return verifier.verify((folder / "federation.jsonl").read_bytes(), verifier.setting_of(tale.found(), "federation"))


def unread(folder):
    """A log whose file may be torn."""
    setting = verifier.setting_of(tale.found(), "federation")
    return trail.Trail(folder / "federation.jsonl", setting, folder / "checkpoints")


def recover(log):
    return recovery.recover(log.path, log.setting, log.checkpoints_dir, tale.signer("server"))


@pytest.fixture
def log(tmp_path):
    """A log with two lines."""
    made = audit_writer.open_log(tmp_path)
    made.append(Draft("incident", WHY), tale.signer("server"))
    return made


def test_processes_that_begin_and_append_at_once_lose_nothing(repository, tmp_path):
    writers = [start(repository, tmp_path, f"writer-{number}", EVENTS) for number in range(WRITERS)]
    told = [[int(seq) for seq in writer.communicate()[0].split()] for writer in writers]

    assert [writer.returncode for writer in writers] == [0] * WRITERS
    assert verify(tmp_path).size == 1 + WRITERS * EVENTS
    written = events(tmp_path)
    assert sorted(seq for each in told for seq in each) == list(range(1, 1 + WRITERS * EVENTS))
    for number, seqs in enumerate(told):
        assert [written[seq]["why"] for seq in seqs] == [
            {"request": f"writer-{number}", "text": f"number {place}"} for place in range(EVENTS)
        ]


def test_threads_may_share_a_log(log):
    def append(name):
        for number in range(5):
            log.append(Draft("incident", Why(name, f"number {number}")), tale.signer("server"))

    threads = [threading.Thread(target=append, args=(f"thread-{number}",)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert log.refresh().size == 2 + 5 * WRITERS


def test_what_counted_survives_a_kill(repository, tmp_path):
    """After each kill the log verifies, or has a torn tail that `recover` moves aside; every event that was told of is there."""
    told = {}
    for kill in range(KILLS):
        writer = start(repository, tmp_path, f"kill-{kill}", 100_000)
        seqs = [int(writer.stdout.readline())]
        time.sleep(0.02 * kill)
        writer.kill()
        seqs += [int(line) for line in writer.stdout if line.endswith("\n")]
        writer.stdout.close()
        assert writer.wait() == -9
        told |= dict.fromkeys(seqs, f"kill-{kill}")
        recover(unread(tmp_path))

        assert verify(tmp_path).size > max(told)
        written = events(tmp_path)
        assert {seq: written[seq]["why"]["request"] for seq in told} == told
    assert len(told) > KILLS


class TestRecovery:
    def test_a_line_cut_off_anywhere_is_moved_aside_and_told_of(self, log):
        whole = log.path.read_bytes()
        first, last = whole.splitlines(keepends=True)
        for length in (1, 2, 40, len(last) // 2, len(last) - 2, len(last) - 1):
            log.path.write_bytes(first + last[:length])

            (event,) = recover(log)

            aside = log.path.with_name(event.subject.name)
            assert aside.read_bytes() == last[:length]
            assert event.subject.before == canonical.digest(last[:length])
            assert (event.kind, event.seq) == ("log.recover", 1)
            assert verify(log.path.parent).size == 2
            aside.unlink()

    def test_a_log_that_is_whole_stays_as_it_is(self, log):
        before = log.path.read_bytes()

        assert recover(log) == []
        assert log.path.read_bytes() == before

    def test_it_is_told_of_once(self, log):
        log.path.write_bytes(log.path.read_bytes()[:-5])

        assert len(recover(log)) == 1
        assert recover(log) == []

    @pytest.mark.parametrize("killed", ["before the tail is cut", "before it is told of"])
    def test_a_recovery_that_was_killed_goes_on(self, log, monkeypatch, killed):
        log.path.write_bytes(log.path.read_bytes()[:-5])
        where = (recovery.os, "ftruncate") if killed == "before the tail is cut" else (recovery.trail, "open_trail")

        def kill(*_given, **_more):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(*where, kill)
            with pytest.raises(KeyboardInterrupt):
                recover(log)

        (event,) = recover(log)
        assert verify(log.path.parent).size == 2
        assert log.path.with_name(event.subject.name).exists()

    def test_a_log_whose_first_line_was_cut_off_begins_again(self, log):
        log.path.write_bytes(log.path.read_bytes()[:100])

        (event,) = recover(log)
        assert [entry["event"] for entry in events(log.path.parent)] == ["log.open", "log.recover"]
        assert event.subject.before == canonical.digest(log.path.with_name(event.subject.name).read_bytes())

    def test_lines_that_a_checkpoint_knows_are_not_taken_for_a_tail(self, log):
        log.checkpoint(tale.signer("server"))
        torn = log.path.read_bytes()[:-5]
        log.path.write_bytes(torn)

        with pytest.raises(AuditRefusedError, match="line 2 truncated"):
            recover(log)
        assert log.path.read_bytes() == torn
        assert not list(log.path.parent.glob("*.torn-*"))

    def test_a_log_that_is_refused_is_not_recovered(self, log):
        torn = log.path.read_bytes().replace(b"because", b"becouse") + b"{"
        log.path.write_bytes(torn)

        with pytest.raises(AuditRefusedError, match="line 2 signature"):
            recover(log)
        assert log.path.read_bytes() == torn

    def test_a_line_with_a_hole_in_it_is_a_torn_tail_too(self, log):
        """A power cut can keep a line's length and its end, and zeros where its first pages were."""
        first, last = log.path.read_bytes().splitlines(keepends=True)
        torn = bytes(40) + last[40:]
        log.path.write_bytes(first + torn)

        (event,) = recover(log)
        assert log.path.with_name(event.subject.name).read_bytes() == torn
        assert (event.seq, verify(log.path.parent).size) == (1, 2)

    def test_a_hole_before_the_last_line_is_no_tail(self, log):
        first, last = log.path.read_bytes().splitlines(keepends=True)
        log.path.write_bytes(bytes(40) + first[40:] + last)

        assert recover(log) == []
        assert log.path.read_bytes()[:40] == bytes(40)

    def test_a_tail_is_on_the_disk_before_it_is_cut(self, log, monkeypatch):
        log.path.write_bytes(log.path.read_bytes()[:-5])
        done = []
        cut, sync = recovery.os.ftruncate, files.sync_folder
        monkeypatch.setattr(recovery.os, "ftruncate", lambda *given: done.append("cut") or cut(*given))
        monkeypatch.setattr(files, "sync_folder", lambda folder: done.append("folder synced") or sync(folder))

        recover(log)
        assert done[:2] == ["folder synced", "cut"]

    def test_only_what_was_moved_aside_is_told_of(self, log):
        names = ["", "note", "A" * 64, "0" * 63]
        for name in names:
            log.path.with_name(f"{log.path.name}.torn-{name}").write_text("not ours")

        assert recover(log) == []
        aside = log.path.with_name(f"{log.path.name}.torn-{'0' * 64}")
        aside.write_text("of another name")
        with pytest.raises(DataError, match="is not what was moved aside"):
            recover(log)
        aside.unlink()
        aside.mkdir()
        with pytest.raises(DataError, match="cannot read"):
            recover(log)
