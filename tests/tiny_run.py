"""Tiny runs of the whole pipeline: phases in a folder of their own, in seconds."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedsilo import files
from fedsilo.audit import trail, verifier
from fedsilo.federation.journal import Journal

SITES = ("ct-a", "ct-b", "mr-a", "mr-b")
"""Inside sites of the demo cohort."""

ROOT = Path(__file__).parents[1]

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

    def journal(self):
        """Journal of the demo federation."""
        return Journal(self.folder / "checkpoints" / "demo" / "federate", SITES)

    def events(self, *kinds):
        """What the trail has of some kinds."""
        log = trail.read(self.folder / "audit" / "demo" / "federation.jsonl")
        return [event for event in verifier.read_events(log) if event.kind in kinds]

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


def hashes(folder, parts=("runs", "reports")):
    """SHA-256 of every result: models, tables, metrics, plots, overlays."""
    return {
        str(path.relative_to(folder)): files.sha256_file(path)
        for part in parts
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }
