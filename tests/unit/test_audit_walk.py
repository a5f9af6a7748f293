"""An inspector's way through docs/audit.md, with what they would get and nothing else."""

import re
import shutil

import pytest

from flows import audit
from tests.unit.audit_command import REFUSED, UNCHECKED, Command


@pytest.fixture
def walk(repository):
    text = (repository / "docs" / "audit.md").read_text()
    return re.search(r"## Verify a model from a clean machine\n(.*?)\n## ", text, flags=re.DOTALL)[1]


@pytest.fixture
def given(tmp_path, capsys, monkeypatch):
    """A folder with the founding, the log, its checkpoints, and the one that somebody else kept; the current one."""
    trail = Command(tmp_path / "server", capsys).begin()
    trail.told("checkpoint", "--key", trail.key("server"))
    trail.told("keys", "add", trail.entry("new-carol"), "--key", trail.key("alice"), "--why", "a new approver")
    trail.told("checkpoint", "--key", trail.key("server"))
    folder = tmp_path / "inspector"
    folder.mkdir()
    for name in ("federation.jsonl", "founding.json"):
        shutil.copy(trail.log.with_name(name), folder / name)
    source = tmp_path / "server" / "audit" / "checkpoints" / "demo" / "federation"
    shutil.copytree(source, folder / "checkpoints")
    shutil.copy(max(source.glob("*.json"), key=lambda path: int(path.stem)), folder / "24.json")
    monkeypatch.chdir(folder)
    return folder


def run(command, capsys):
    code = audit.main(command.split()[3:])
    said = capsys.readouterr()
    return code, said.out, said.err


def commands(walk):
    return re.findall(r"^ +(python -m flows\.audit verify .*)$", walk, flags=re.MULTILINE)


def test_the_commands_verify_what_was_given(walk, given, capsys):
    assert len(commands(walk)) == 2
    for command in commands(walk):
        code, out, _ = run(command, capsys)
        assert code == 0
        assert re.match(r"verified demo/federation: 2 lines, root sha256:\w+, 2 under a checkpoint; founding \S+\n", out)


def test_a_changed_line_a_lost_one_and_a_lost_checkpoint_are_seen(walk, given, capsys):
    log, (first, second) = given / "federation.jsonl", commands(walk)
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b"a new approver", b"an old approve"))
    assert run(first, capsys)[0] == REFUSED
    log.write_bytes(whole.splitlines(keepends=True)[0])
    assert run(first, capsys)[0] == run(second, capsys)[0] == REFUSED
    log.write_bytes(whole)
    (given / "24.json").unlink()
    assert run(first, capsys)[0] == UNCHECKED


def test_a_line_is_kept_by_its_proof_and_the_log_by_a_copy(walk, given, capsys):
    located = "--file federation.jsonl --keys founding.json --against checkpoints/"
    code, out, _ = run(f"python -m flows.audit prove 1 {located}", capsys)
    assert code == 0
    (given / "proof.json").write_text(out)

    (given / "federation.jsonl").rename(given / "elsewhere")
    assert "verify --proof proof.json --keys founding.json" in walk
    code, out, _ = run("python -m flows.audit verify --proof proof.json --keys founding.json", capsys)
    assert code == 0
    assert out.startswith("verified demo/federation line 2 under the checkpoint of 2 lines")
    (given / "elsewhere").rename(given / "federation.jsonl")
    assert "python -m flows.audit export --format csv --out trail.csv" in walk
    assert run(f"python -m flows.audit export --format csv --out trail.csv {located}", capsys)[0] == 0
    assert len((given / "trail.csv").read_text().splitlines()) == 3
