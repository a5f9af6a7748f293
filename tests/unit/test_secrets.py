"""No command, message, record or trace of an error says anything of a private key."""

import dataclasses
import os
import stat
import traceback

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from fedsilo.audit import keys
from fedsilo.errors import FedsiloError
from fedsilo.ingest import identities
from tasks import keyring, trails
from tasks.paths import AuditPaths, RunPaths
from tests import audit_story as tale
from tests import secrets_of
from tests.unit.audit_command import Command

PERSONS = ("server", "alice", "bob", "gina", "frank")


@pytest.fixture
def trail(tmp_path, capsys):
    return Command(tmp_path, capsys).begin()


@pytest.fixture
def secrets(trail):
    """Forms of all demo keys that commands are given."""
    return set().union(*(secrets_of.forms(trail.key(name).read_bytes()) for name in PERSONS))


def test_the_search_finds_a_key_where_there_is_one(trail, secrets):
    pem = trail.key("server").read_bytes()

    assert secrets_of.found_in(secrets, b"so it is: " + pem)
    assert secrets_of.found_in(secrets, tale.seed("server").hex().encode())
    assert secrets_of.found_in(secrets, f"{list(tale.seed('bob'))}".encode())
    assert secrets_of.files_with(secrets, trail.workspace) == [f"keys/{name}.pem" for name in sorted(PERSONS)]


def test_no_command_says_or_writes_a_key(trail, secrets, caplog, tmp_path):
    caplog.set_level(0)
    why, carol = ("--why", "she left", "--request", "t-1"), tale.signer("new-carol").key
    shown = ("--actor", "server", "--name", "Server", "--role", "server")
    commands = [
        ("keys", "show", trail.key("server"), *shown),
        ("keys", "add", trail.entry("new-carol"), "--key", trail.key("alice"), *why),
        ("keys", "add", trail.entry("new-carol"), "--key", trail.key("bob"), *why),
        ("keys", "revoke", carol, "--key", trail.key("alice"), *why),
        ("keys", "revoke", carol, "--key", trail.key("gina"), *why),
        ("keys", "list"),
        ("checkpoint", "--key", trail.key("server")),
        ("verify",),
        ("verify", "--json"),
        ("prove", 0),
        ("recover", "--key", trail.key("server")),
        ("open", "--key", trail.key("server")),
        *(("export", "--format", form, "--out", tmp_path / form, "--key", trail.key("frank")) for form in ("csv", "prov")),
    ]
    wrong = [
        ("keys", "new", trail.key("server")),
        ("keys", "show", trail.key("server"), "--actor", "No Name", "--name", "x", "--role", "server"),
        ("keys", "show", trail.key("server"), "--actor", "x", "--name", "x", "--role", "king"),
        ("checkpoint", "--key", trail.key("frank")),
        ("keys", "add", trail.key("bob"), "--key", trail.key("alice"), *why),
        ("keys", "found", trail.key("alice")),
        ("verify", "--proof", trail.key("alice")),
        ("verify", "--keys", trail.key("alice")),
        ("verify", "--file", trail.key("alice")),
        ("verify", "--against", trail.key("alice")),
    ]
    said = ""
    for arguments in commands:
        code, out, err = trail.run(*arguments)
        assert code == 0, err
        said += out + err
    for arguments in wrong:
        code, out, err = trail.run(*arguments)
        assert code in (1, 2), arguments
        said += out + err

    assert secrets_of.found_in(secrets, (said + caplog.text).encode()) == []
    assert secrets_of.files_with(secrets, tmp_path, but=[tmp_path / "keys"]) == []


def test_no_value_shows_its_key(secrets, trail, tmp_path):
    signer = keys.load(trail.key("server"))

    shown = [repr(signer), str(signer), f"{signer}", repr([signer]), repr(dataclasses.replace(signer)), repr(signer._private)]
    assert not secrets_of.found_in(secrets, "".join(shown).encode())
    with trails.held(RunPaths(tmp_path / "other", "demo", "demo"), ["ct-a"]) as scribe:
        pems = (tmp_path / "other" / "keys").rglob("*.pem")
        made = set().union(*(secrets_of.forms(path.read_bytes()) for path in pems))
        assert not secrets_of.found_in(made, (repr(scribe) + repr(scribe.register) + repr(scribe.founding)).encode())


def damaged(pem):
    lines = pem.splitlines()
    return {
        "cut off": pem[:-30],
        "without its end": b"\n".join(lines[:-1]),
        "a line too much": b"\n".join([lines[0], lines[1], lines[1], lines[2]]),
        "other bytes behind it": pem + b"x" * 8000,
        "its seed": secrets_of.forms(pem).pop(),
    }


def other_kinds():
    private = Ed25519PrivateKey.generate()
    return {
        "RSA": rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "P-256": ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "locked": private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"canary words")),
        "OpenSSH": private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
    }


def test_an_error_about_a_key_quotes_nothing_of_it(trail, tmp_path, caplog):
    caplog.set_level(0)
    pem = trail.key("server").read_bytes()
    for index, (name, content) in enumerate((damaged(pem) | other_kinds()).items()):
        path = tmp_path / f"damaged-{index}.pem"
        path.write_bytes(content)
        path.chmod(0o600)
        words = [content[start : start + 24] for start in range(30, max(31, len(content) - 24), 8)]
        try:
            keys.load(path)
        except FedsiloError as error:
            told = "".join(traceback.format_exception(error)) + repr(error) + caplog.text
            assert not secrets_of.found_in(secrets_of.forms(pem) | set(words), told.encode()), name
        else:
            assert name in {"other bytes behind it", "OpenSSH"}, name  # what stands behind a key is no part of it


def test_a_key_that_others_may_read_is_refused_without_a_word_of_it(trail, secrets):
    path = trail.key("server")
    for mode in (0o644, 0o640, 0o604, 0o660):
        path.chmod(mode)
        code, out, err = trail.run("checkpoint", "--key", path)
        assert code == 2
        assert "expected mode 0600" in err
        assert secrets_of.found_in(secrets, (out + err).encode()) == []


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077, 0o777 & ~0o700])
def test_keys_are_their_owner_s_alone_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        keys.make(tmp_path / "federation" / "ada.pem")
        identities.load_key(tmp_path / "site" / "ct-a.key")
        keyring.founding(AuditPaths(tmp_path / "workspace", "demo"), ["ct-a"])
    finally:
        os.umask(before)

    made = [path for path in tmp_path.rglob("*") if path.suffix in (".pem", ".key")]
    assert len(made) == 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in made} == {0o700}
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith(".part")] == []


def test_keys_are_no_part_of_git_nor_of_dvc(repository):
    assert "/keys/" in (repository / ".gitignore").read_text().splitlines()
    assert "keys/" in (repository / ".dvcignore").read_text().splitlines()
