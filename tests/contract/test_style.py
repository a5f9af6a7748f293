"""What style asks for and no linter checks."""

import ast
import re

import pytest

MAX_LINES = 350  # docstrings included
BANNED_NAMES = {"utils.py", "helpers.py", "base.py", "common.py", "misc.py"}
FOREIGN_WORDS = re.compile(r"(?:^|_)(clients?|hospitals?|silos?|epoch_idx|idx)(?:_|$)")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")


def sources(repository, *packages):
    return [path for package in packages for path in sorted((repository / package).rglob("*.py"))]


def names(tree):
    """Names that a module gives to things."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@pytest.fixture(scope="module")
def modules(repository):
    return {
        path.relative_to(repository).as_posix(): path.read_text() for path in sources(repository, "fedsilo", "tasks", "flows")
    }


def test_a_module_has_one_idea(modules):
    assert [path for path in modules if path.rpartition("/")[2] in BANNED_NAMES] == []
    assert {path: lines for path, text in modules.items() if (lines := text.count("\n")) > MAX_LINES} == {}


def test_every_module_is_packaged(repository, modules):
    import tomllib

    packaged = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]

    assert sorted({path.rpartition("/")[0].replace("/", ".") for path in modules}) == sorted(packaged)


def test_nothing_is_left_unfinished(modules):
    assert [path for path, text in modules.items() if UNFINISHED.search(text)] == []


def test_names_come_from_the_glossary(modules):
    found = {
        f"{path}: {name}"
        for path, text in modules.items()
        for name in names(ast.parse(text))
        if FOREIGN_WORDS.search(name.lower())
    }

    assert sorted(found) == []


def test_values_of_a_params_section_have_no_default(repository):
    """params.yaml is the only place of defaults."""
    tree = ast.parse((repository / "fedsilo" / "params.py").read_text())
    defaults = [
        f"{section.name}.{node.target.id}"
        for section in tree.body
        if isinstance(section, ast.ClassDef)
        for node in section.body
        if isinstance(node, ast.AnnAssign) and node.value is not None and not _is_field(node.value)
    ]

    assert defaults == []


def _is_field(value):
    """Say whether a value is ``Field(...)`` without a default."""
    return (
        isinstance(value, ast.Call)
        and getattr(value.func, "id", "") == "Field"
        and not value.args
        and not {"default", "default_factory"} & {keyword.arg for keyword in value.keywords}
    )


def test_no_path_of_a_machine_stands_in_the_code(modules):
    assert [path for path, text in modules.items() if re.search(r"[\"'](/home|/work|/tmp|/root|/Users)\b", text)] == []
