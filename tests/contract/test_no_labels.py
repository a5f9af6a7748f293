"""Test-time routing cannot see labels: no name in its modules has to do with them."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest

from fedsilo import routing
from fedsilo.routing import adaptation, baselines, dg_tta, router

FORBIDDEN = re.compile(r"label|target|annot(?!ation)|reference|truth|onehot|ground|dice|score|mask|cohort|metrics", re.IGNORECASE)
MODULES = [importlib.import_module(f"{routing.__name__}.{found.name}") for found in pkgutil.iter_modules(routing.__path__)]


def names(tree):
    """Every identifier of a module: parameters, variables, attributes, keywords and imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield getattr(node, "module", "") or ""
            for alias in node.names:
                yield alias.name
                yield alias.asname or ""


def test_every_module_of_the_room_is_read(repository):
    files = {path.stem for path in (repository / "fedsilo" / "routing").rglob("*.py")} - {"__init__"}

    assert {module.__name__.rpartition(".")[2] for module in MODULES} == files


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_no_name_has_to_do_with_labels(module):
    found = sorted({name for name in names(ast.parse(inspect.getsource(module))) if FORBIDDEN.search(name)})

    assert found == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_imports_are_of_the_network_not_of_the_cohort(module):
    tree = ast.parse(inspect.getsource(module))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("fedsilo")}

    allowed = {
        "fedsilo.errors", "fedsilo.outside_params", "fedsilo.types", "fedsilo.tensors", "fedsilo.segmentation", "fedsilo.federation",
    }  # fmt: skip
    assert {name for name in imported if not name.startswith("fedsilo.routing")} <= allowed


def test_adaptation_takes_images_and_settings_only():
    assert list(inspect.signature(adaptation.adapt).parameters) == ["images", "method", "start", "draws"]
    assert [field.name for field in dataclasses.fields(adaptation.Image)] == ["name", "voxels", "spacing_zyx_mm"]
    assert list(inspect.signature(dg_tta.adapt).parameters) == [
        "template", "state", "image", "params", "batch_size", "geometry", "generator", "device",
    ]  # fmt: skip
    assert list(inspect.signature(baselines.uniform_soup).parameters) == ["states"]
    assert list(inspect.signature(baselines.ensemble_probs).parameters) == ["probs"]
    assert list(inspect.signature(router.route).parameters) == ["template", "states", "image", "params", "geometry", "device"]


@pytest.mark.parametrize("source", ["def f(labels): ...", "case.label", "from fedsilo.cohort import preprocess", "f(target=1)"])
def test_the_search_finds_what_it_looks_for(source):
    assert any(FORBIDDEN.search(name) for name in names(ast.parse(source)))
