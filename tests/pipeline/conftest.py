"""Tiny runs of the whole pipeline, in a folder of their own, against the session's one Prefect backend."""

import multiprocessing
import shutil
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import pytest
import yaml

from tasks import workers

ROOT = Path(__file__).parents[2]

TINY = {
    "phantoms": {"grid_zyx": [8, 16, 24], "spacing_zyx_mm": [24.0, 18.0, 16.0], "inside_cases": 4, "outside_cases": 2},
    "prepare": {"spacing_zyx_mm": [None, 18.0, 16.0], "val_share": 0.25, "test_share": 0.25},
    "federate": {"rounds": 3, "patch_zyx": [8, 16, 24]},
    "report": {"bootstrap_resamples": 99},
}


def tiny_params():
    """The project's params with a run of seconds in mind."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, changes in TINY.items():
        tree[section].update(changes)
    tree["federate"]["network"].update(channels=[4, 8], num_res_units=0)
    tree["prepare"]["contract"].update(spacing_mm=[0.2, 30.0], min_edge_3d=4)
    tree["runtime"]["device"] = "cpu"
    return tree


@pytest.fixture(scope="session", autouse=True)
def one_fork_server():
    """A process has one fork server: start it with all that any phase needs, whichever test comes first."""
    multiprocessing.set_forkserver_preload(list(workers.NETWORKS))
    forkserver.ensure_running()


@dataclass(frozen=True)
class Workspace:
    """A folder with params and a cohort file; phases run in it."""

    folder: Path
    cohort: Path
    params: Path

    def arguments(self, *more):
        """Options that every phase needs here."""
        return ["--cohort", str(self.cohort), "--params", str(self.params), "--workspace", str(self.folder), *more]

    def cohort_tree(self):
        """The cohort file as a tree, to change and write back."""
        return yaml.safe_load(self.cohort.read_text())

    def copy(self, folder):
        """Copy everything to another folder."""
        shutil.copytree(self.folder, folder)
        return Workspace(folder, folder / self.cohort.name, folder / self.params.name)

    def write_cohort(self, tree):
        """Write a changed cohort file."""
        self.cohort.write_text(yaml.safe_dump(tree))


def workspace(folder, *, parallel_sites=2):
    """Make a workspace with tiny params."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = tiny_params()
    tree["runtime"]["parallel_sites"] = parallel_sites
    made = Workspace(folder, folder / "demo.yaml", folder / "params.yaml")
    made.params.write_text(yaml.safe_dump(tree))
    shutil.copy(ROOT / "cohorts" / "demo.yaml", made.cohort)
    return made


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, prefect_backend):
    """A workspace with phantoms and prepared cases; copy it, do not change it."""
    from flows import phantoms, prepare

    made = workspace(tmp_path_factory.mktemp("prepared"))
    assert phantoms.main(made.arguments()) == 0
    assert prepare.main(made.arguments()) == 0
    return made


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared workspace that a test may damage."""
    return prepared.copy(tmp_path / "copy")


@pytest.fixture(scope="session")
def make_workspace():
    """Make a workspace with tiny params in a folder, for some number of parallel sites."""
    return workspace
