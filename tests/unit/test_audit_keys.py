"""Keys by `python -m flows.audit keys`: made, founded on, added and revoked."""

import json
import stat

import pytest

from fedsilo.audit import founding, keys
from tests import audit_story as tale
from tests.unit.audit_command import REFUSED, UNCHECKED, Command


@pytest.fixture
def trail(tmp_path, capsys):
    """A log of one line under a founding, as files."""
    return Command(tmp_path, capsys).begin()


class TestKeys:
    def test_a_federation_is_founded_by_its_admins(self, tmp_path, capsys):
        trail = Command(tmp_path, capsys)
        entries = []
        for actor, *roles in (("server", "server"), ("ada", "admin"), ("ben", "admin", "auditor"), ("site-x", "site")):
            private, entry = tmp_path / "keys" / f"{actor}.pem", tmp_path / f"{actor}.json"
            assert trail.told("keys", "new", private).startswith("ed25519:")
            assert stat.S_IMODE(private.stat().st_mode) == 0o600
            given = [word for role in roles for word in ("--role", role)]
            given += ["--site", "x"] if actor == "site-x" else []
            name = actor.title()
            entry.write_text(trail.told("keys", "show", private, "--actor", actor, "--name", name, *given))
            assert json.loads(entry.read_text())["public"] == keys.load(private).public
            entries.append(entry)

        trail.told("keys", "found", *entries, "--approvals", 2, "--one-person")
        path = tmp_path / "audit" / "demo" / "founding.json"
        assert founding.read_unsigned(path).policy == founding.Policy(2, 2, separate_promoter=False)
        assert trail.run("keys", "found", *entries)[0] == UNCHECKED  # once
        assert trail.run("open", "--key", tmp_path / "keys" / "server.pem")[0] == UNCHECKED  # not signed yet
        assert "1 signatures of 2" in trail.told("keys", "sign", "--key", tmp_path / "keys" / "ada.pem")
        assert trail.run("keys", "sign", "--key", tmp_path / "keys" / "server.pem")[0] == UNCHECKED
        assert "2 signatures of 2" in trail.told("keys", "sign", "--key", tmp_path / "keys" / "ben.pem")
        assert trail.told("open", "--key", tmp_path / "keys" / "server.pem") == "demo/federation has 1 lines\n"
        assert trail.run("keys", "new", tmp_path / "keys" / "ada.pem")[0] == UNCHECKED  # never overwritten

    def test_a_key_is_added_and_revoked_by_two_persons(self, trail):
        name = tale.signer("new-carol").key
        why = ("--why", "a new approver", "--request", "ticket-1")

        assert trail.told("keys", "add", trail.entry("new-carol"), "--key", trail.key("alice"), *why).endswith(
            f"{name} signed by 1 of 2\n"
        )
        assert f"waiting: key.add {name}, signed by alice" in trail.told("keys", "list")
        assert trail.run("keys", "add", trail.entry("new-carol"), "--key", trail.key("alice"), *why)[0] == REFUSED
        assert trail.told("keys", "add", trail.entry("new-carol"), "--key", trail.key("bob"), *why).endswith(
            f"{name} takes effect\n"
        )
        listed = trail.told("keys", "list")
        assert name in listed
        assert "waiting" not in listed

        trail.told("keys", "revoke", name, "--key", trail.key("alice"), "--why", "left")
        trail.told("checkpoint", "--key", trail.key("server"))  # a line or a checkpoint in between changes nothing
        assert trail.told("keys", "revoke", name, "--key", trail.key("gina"), "--why", "left").endswith(f"{name} takes effect\n")
        trail.told("checkpoint", "--key", trail.key("server"))
        assert trail.told("verify").startswith("verified demo/federation: 5 lines")
        row = next(line for line in trail.told("keys", "list").splitlines() if line.startswith(name))
        assert not row.endswith("-")
        assert trail.run("keys", "revoke", tale.signer("stranger").key, "--key", trail.key("alice"), "--why", "x")[0] == UNCHECKED

    def test_a_key_that_signed_between_two_signatures_is_revoked_from_then_on(self, trail, tmp_path):
        """What the first admin signed to stand holds no longer; the second signs anew, and so must another."""
        name = tale.signer("frank").key
        out = tmp_path / "trail.csv"
        trail.told("keys", "revoke", name, "--key", trail.key("alice"), "--why", "left")
        trail.told("export", "--format", "csv", "--out", out, "--key", trail.key("frank"))
        assert trail.told("keys", "revoke", name, "--key", trail.key("bob"), "--why", "left").endswith("signed by 1 of 2\n")
        assert trail.told("keys", "revoke", name, "--key", trail.key("alice"), "--why", "left").endswith("takes effect\n")
        trail.told("checkpoint", "--key", trail.key("server"))
        assert trail.told("verify").startswith("verified demo/federation: 5 lines")

    def test_what_a_lost_key_signed_can_be_disowned(self, trail, tmp_path):
        name = tale.signer("frank").key
        trail.told("checkpoint", "--key", trail.key("server"))
        trail.told("export", "--format", "csv", "--out", tmp_path / "trail.csv", "--key", trail.key("frank"))
        revoke = ("keys", "revoke", name, "--why", "lost on Monday", "--lines", 1, "--key")
        before = trail.log.read_bytes()
        code, _, err = trail.run(*revoke, trail.key("alice"))
        assert code == UNCHECKED
        assert "signed line 2: when the quorum has signed" in err
        assert "this log is refused for ever" in err
        assert trail.log.read_bytes() == before
        for admin in ("alice", "bob"):
            trail.told(*revoke, trail.key(admin), "--end-log")

        code, _, err = trail.run("verify")
        assert code == REFUSED
        assert "line 2 key-validity" in err
        assert trail.run("keys", "revoke", name, "--key", trail.key("gina"), "--why", "x", "--lines", 99)[0] == UNCHECKED

    def test_lines_that_leave_all_its_acts_standing_need_no_consent(self, trail):
        name = tale.signer("frank").key
        for admin in ("alice", "bob"):
            trail.told("keys", "revoke", name, "--key", trail.key(admin), "--why", "lost on Monday", "--lines", 1)
        trail.told("checkpoint", "--key", trail.key("server"))
        assert trail.told("verify").startswith("verified demo/federation: 3 lines")

    def test_nobody_signs_the_end_of_their_own_key(self, trail):
        """The line would be an act of the key after what is left standing."""
        code, _, err = trail.run("keys", "revoke", tale.signer("alice").key, "--key", trail.key("alice"), "--why", "left")
        assert code == UNCHECKED
        assert "cannot sign its own end" in err

    def test_a_key_that_others_may_read_is_refused(self, trail):
        trail.key("server").chmod(0o640)
        code, _, err = trail.run("checkpoint", "--key", trail.key("server"))
        assert code == UNCHECKED
        assert "expected mode 0600" in err

    @pytest.mark.parametrize("roles", [["server", "admin"], ["site"], ["king"], ["auditor", "approver"]])
    def test_roles_that_do_not_go_together_are_refused(self, trail, roles):
        given = [word for role in roles for word in ("--role", role)]
        assert trail.run("keys", "show", trail.key("alice"), "--actor", "alice", "--name", "Alice", *given)[0] == UNCHECKED
