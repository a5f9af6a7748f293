"""What SECURITY.md and docs/regulation.md point to is there: tests, files, links, commands, kinds, fields and codes."""

import re

import pytest
import yaml

from fedsilo.audit import events, forms, verifier
from fedsilo.audit.events import Draft, Event
from flows import audit

DOCUMENTS = ("SECURITY.md", "docs/regulation.md")


def lines_of(repository, document):
    return (repository / document).read_text().splitlines()


def quoted(line):
    return re.findall(r"`([^`]+)`", line)


def named_tests(line):
    return [word for word in quoted(line) if re.fullmatch(r"(tests/[\w/]*)?test_\w+\.py", word)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_is_named_is_there(repository, document):
    named = [word for line in lines_of(repository, document) for word in named_tests(line)]
    there = {path.relative_to(repository).as_posix() for path in (repository / "tests").rglob("test_*.py")}
    there |= {path.rpartition("/")[2] for path in there}

    assert [word for word in named if word not in there] == []
    assert named


def test_every_promise_says_what_shows_it(repository):
    table = "\n".join(lines_of(repository, "SECURITY.md")).partition("## Promised")[2].partition("## Not promised")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "| shown by |" not in line]

    assert [row for row in rows if not named_tests(row)] == []
    assert len(rows) > 15


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/audit.md"])
def test_every_link_leads_to_a_file(repository, document):
    folder = (repository / document).parent
    links = [
        link.partition("#")[0]
        for line in (repository / document).read_text().splitlines()
        for link in re.findall(r"\]\(([^)]+)\)", line)
        if "://" not in link
    ]

    assert [link for link in links if not (folder / link).exists()] == []
    assert links


@pytest.mark.parametrize("document", DOCUMENTS)
def test_kinds_fields_codes_and_commands_are_those_of_the_trail(repository, document):
    words = {word for line in lines_of(repository, document) for word in quoted(line)}
    fields = {place.name for place in forms.places(Event)} | {
        f"{place.name}.{part.name}" for place in forms.places(Draft) if place.part for part in forms.places(place.part)
    }
    dotted = {
        word for word in words if re.fullmatch(r"[a-z_]+\.[a-z_]+", word) and not re.search(r"\.(md|py|txt|csv|yaml|lock)$", word)
    }
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    dotted -= {f"{section}.{key}" for section, keys in tree.items() if isinstance(keys, dict) for key in keys} | {"torch.load"}

    assert dotted - fields - set(events.KINDS) == set()
    commands = {word.split()[3] for word in words if word.startswith("python -m flows.audit ")}
    assert commands <= set(audit.COMMANDS)
    assert {word for word in words if word in verifier.CODES} or document == "SECURITY.md"
