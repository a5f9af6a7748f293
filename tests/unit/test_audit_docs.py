"""docs/audit.md says what is: its commands run as written, its tables are the code's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedsilo.audit import forms, keys, register, verifier
from fedsilo.audit.events import Draft, Event
from flows import audit


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "docs" / "audit.md").read_text()


@pytest.fixture(scope="module")
def workspace(repository, text, tmp_path_factory):
    """A folder in which the first block of commands was run as it is written."""
    folder = tmp_path_factory.mktemp("workspace")
    block = re.search(r"## Begin\n\n```\n(.*?)```", text, flags=re.DOTALL)[1]
    variables = {**os.environ, "PYTHONPATH": str(repository), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("verified demo/federation: 1 lines")
    return folder


def test_code_runs_as_written(text, workspace):
    block = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1]
    names = {
        "founding_path": workspace / "audit" / "demo" / "founding.json",
        "log_path": workspace / "audit" / "demo" / "federation.jsonl",
        "checkpoints_dir": workspace / "audit" / "checkpoints" / "demo" / "federation",
        "server": keys.load(workspace / "keys" / "demo" / "server.pem"),
    }
    exec(block, names)  # noqa: S102  # our own document

    assert (names["event"].round_index, names["checkpoint"].size) == (3, 2)
    assert names["log"].refresh().anchored == 2


def test_every_command_option_and_code_is_told(text):
    told = set(re.findall(r"`([a-z-]+)[ `,\[]", text)) | {"new", "show", "found", "sign", "add", "revoke", "list"}
    assert audit.COMMANDS.keys() - {"keys"} <= told
    assert set(audit.ACTIONS) <= told
    assert all(f"`{code}`" in text for code in verifier.CODES)


@pytest.mark.parametrize("command", [["verify"], ["show"], ["keys", "revoke"]])
def test_every_option_is_told(text, command, capsys):
    with pytest.raises(SystemExit):
        audit.main([*command, "--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, flags=re.MULTILINE))
    assert {
        option for option in options if f"`{option}" not in text and f"{option} " not in text and f"[{option}" not in text
    } <= {"--help"}


def test_every_field_is_told(text):
    described = re.search(r"\*\*Event\.\*\*(.*?)\n\n", text, flags=re.DOTALL)[1]
    named = set(re.findall(r"`(\w+)`", described)) - {"NEEDED"}
    required = set(re.findall(r"`(\w+)`", described.partition("May be there")[0]))
    assert {place.name for place in forms.places(Event)} | {
        part.name for place in forms.places(Draft) if place.part for part in forms.places(place.part)
    } == named
    assert {place.name for place in forms.places(Event) if place.required} == required - {"request", "text"}


@pytest.mark.parametrize("role", register.MAY_SIGN)
def test_the_table_of_roles_is_the_code_s(text, role):
    row = next(line for line in text.splitlines() if line.startswith(f"| {role}"))
    kinds = set(
        re.findall(r"[a-z]+\.[a-z]+|\b(?:aggregate|evaluate|incident|approve|reject|promote|rollback|erasure|export)\b", row)
    )

    own_log = {"log.open", "log.recover"} if role == "site" else set()
    assert kinds == register.MAY_SIGN[role] | own_log


def test_domains_are_told(text):
    for domain in (keys.EVENT_DOMAIN, keys.CHECKPOINT_DOMAIN, keys.FOUNDING_DOMAIN):
        assert f"`{domain[:-1].decode()}`" in text
        assert domain.endswith(b"\0")
