"""What the contract tests look at: the code's import graph and the stages of both dvc.yaml files."""

import ast
import json
from dataclasses import dataclass

import grimp
import pytest
import yaml

PACKAGES = ("flows", "tasks", "fedsilo")


@dataclass(frozen=True)
class Code:
    """The import graph and the files behind its modules."""

    root: object
    graph: object

    def path(self, module):
        """File of a module, relative to the repository."""
        stem = self.root.joinpath(*module.split("."))
        path = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
        return path.relative_to(self.root).as_posix()

    def closure(self, module):
        """Every module of ours that runs when a module is imported: what it imports, and packages that do more than exist."""
        found = {module} | self.graph.find_upstream_modules(module)
        while True:
            packages = {name.rpartition(".")[0] for name in found} - {""}
            busy = {package for package in packages if self.does_something(package)} | found
            busy |= set().union(*(self.graph.find_upstream_modules(name) for name in busy))
            if busy == found:
                return {name for name in found if self.does_something(name)}
            found = busy

    def assets(self, modules):
        """Files that packages of these modules carry beside their code."""
        folders = {(self.root / self.path(module)).parent for module in modules if module.startswith("fedsilo")}
        found = {path for folder in folders for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
        return {path.relative_to(self.root).as_posix() for path in found}

    def does_something(self, module):
        """Say whether a module holds anything but its docstring."""
        body = ast.parse((self.root / self.path(module)).read_text()).body
        return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


@pytest.fixture(scope="session")
def code(repository):
    return Code(repository, grimp.build_graph(*PACKAGES, cache_dir=None))


@pytest.fixture(scope="session")
def stages(repository):
    """Stages by cohort and name, as they are written, with the cohort filled in: top dvc.yaml, then cohorts/dvc.yaml."""
    top = yaml.safe_load((repository / "dvc.yaml").read_text())
    (settings,) = top["vars"]
    by_cohort = {settings["cohort"]: {name: fill(stage, settings) for name, stage in top["stages"].items()}}
    real = yaml.safe_load((repository / "cohorts" / "dvc.yaml").read_text())
    for name, stage in real["stages"].items():
        for cohort in real["vars"][0]["cohorts"]:
            written = {key: value for key, value in stage.items() if key not in ("matrix", "wdir")}
            by_cohort.setdefault(cohort, {})[name] = fill(written, {"item.cohort": cohort, "data.root": "DATA"})
    return by_cohort


def fill(stage, values):
    """Put values in the place of their names."""
    text = json.dumps(stage)
    for name, value in values.items():
        text = text.replace("${" + name + "}", value)
    return json.loads(text)
