"""Where a run's files lie, relative to the workspace; the only place that joins these names."""

import re
from dataclasses import dataclass
from pathlib import Path

from fedsilo import names
from fedsilo.errors import ParamsError

EMBEDDED = "demo"
"""The cohort that is made of phantoms and reproduced by the top dvc.yaml."""
OUTER_RUN = "FEDSILO_OUTER_RUN"
"""Variable that carries the id of the flow run which called ``dvc repro``; inner runs wear it as a tag."""


@dataclass(frozen=True)
class RunPaths:
    """Folders and files of one run over one cohort.

    ``cohort`` names the data, ``run`` the results; they are equal unless a study runs one cohort several times. A run may
    lie in a folder with others, ``study/run``.
    """

    workspace: Path
    cohort: str
    run: str

    def __post_init__(self) -> None:
        """Refuse a name that could lead elsewhere.

        Raises:
            ParamsError: The name of the cohort is none; or that of the run has other characters than a-z, 0-9, _ and -, more
                than one slash, or more than 80 characters before or behind it.
        """
        _check_name(self.cohort, "a cohort")
        if not names.is_run(self.run):
            raise ParamsError(f"cannot use {self.run!r} as the name of a run: a-z, 0-9, _, - and at most one / inside")

    @property
    def artifact_suffix(self) -> str:
        """The run's name as keys of Prefect's artifacts allow it."""
        return re.sub(r"[^a-z0-9]+", "-", self.run)

    @property
    def audit(self) -> "AuditPaths":
        """Files of the trail of the cohort's federation."""
        return AuditPaths(self.workspace, self.cohort)

    @property
    def lock_file(self) -> Path:
        """DVC's lock file of the graph that the run is a part of."""
        study, _, within = self.run.partition("/")
        if within:
            return self.workspace / "studies" / study / "dvc.lock"
        return self.workspace / "dvc.lock" if self.cohort == EMBEDDED else self.workspace / "cohorts" / "dvc.lock"

    def prepared_site(self, site: str) -> Path:
        """Folder of a site's prepared cases: manifest.csv, facts.parquet, contract.json, cases/."""
        _check_name(site, "a site")
        return self.workspace / "data" / "prepared" / self.cohort / site

    @property
    def docs_dir(self) -> Path:
        """Folder of the contract's Data Docs pages, one subfolder a site."""
        return self.workspace / "reports" / self.cohort / "contract"

    @property
    def contract_stop(self) -> Path:
        """There while the contract stops the federation: what stopped it."""
        return self.workspace / "data" / "prepared" / self.cohort / "stopped.json"

    def sheet(self, site: str) -> Path:
        """Pictures of a site's cases; patient data, which stay where the cases are."""
        _check_name(site, "a site")
        return self.workspace / "data" / "sheets" / self.cohort / f"{site}.png"

    @property
    def run_dir(self) -> Path:
        """Folder of a run's results."""
        return self.workspace / "runs" / self.run

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of a run's journal and checkpoints; kept between runs, never an output."""
        return self.workspace / "checkpoints" / self.run

    @property
    def global_state(self) -> Path:
        """The global model."""
        return self.run_dir / "global.safetensors"

    def inside_state(self, site: str) -> Path:
        """A site's inside model."""
        _check_name(site, "a site")
        return self.run_dir / "inside" / f"{site}.safetensors"

    def fold_state(self, site: str, fold: str) -> Path:
        """Another average of a site's rounds, by its name."""
        _check_name(site, "a site")
        _check_name(fold, "a fold")
        return self.run_dir / "inside" / "folds" / fold / f"{site}.safetensors"

    def held_state(self, site: str) -> Path:
        """The global model as a site has it, where an algorithm keeps a part of it at the sites."""
        _check_name(site, "a site")
        return self.run_dir / "inside" / "held" / f"{site}.safetensors"

    def baseline_state(self, site: str, method: str) -> Path:
        """A site's baseline model: ``local``, ``finetuned`` or ``finetuned_best``."""
        _check_name(site, "a site")
        _check_name(method, "a method")
        return self.baselines_dir / site / f"{method}.safetensors"

    @property
    def baselines_dir(self) -> Path:
        """Folder of all baseline models."""
        return self.run_dir / "baselines"

    @property
    def rounds_table(self) -> Path:
        """One row a site and round."""
        return self.run_dir / "rounds.csv"

    @property
    def federation_record(self) -> Path:
        """What was trained: hashes, selected rounds, sizes of updates."""
        return self.run_dir / "federation.json"

    def phase_dir(self, phase: str) -> Path:
        """Results of ``inside`` or ``outside``: cases.csv, routes.csv, overlays/."""
        return self.run_dir / f"{phase}_evaluation"

    def cases_table(self, phase: str) -> Path:
        """The cases table of ``inside`` or ``outside``."""
        return self.phase_dir(phase) / "cases.csv"

    @property
    def compared_table(self) -> Path:
        """The cases table of a comparison of several runs."""
        return self.run_dir / "cases.csv"

    @property
    def report_dir(self) -> Path:
        """The report's page, metrics and plots."""
        return self.workspace / "reports" / self.run / "report"


@dataclass(frozen=True)
class AuditPaths:
    """Files of a federation's audit trail: in ``audit/<federation>``, checkpoints in ``audit/checkpoints/<federation>``."""

    workspace: Path
    federation: str

    def __post_init__(self) -> None:
        """Refuse a name that could lead elsewhere.

        Raises:
            ParamsError: The name of the federation is none.
        """
        _check_name(self.federation, "a federation")

    @property
    def founding(self) -> Path:
        """The first keys and the policy."""
        return self.workspace / "audit" / self.federation / "founding.json"

    def log(self, name: str) -> Path:
        """A log: ``federation``, or the name of the site whose log it is."""
        _check_name(name, "a log")
        return self.workspace / "audit" / self.federation / f"{name}.jsonl"

    def checkpoints_dir(self, name: str) -> Path:
        """Folder of a log's checkpoints."""
        _check_name(name, "a log")
        return self.workspace / "audit" / "checkpoints" / self.federation / name

    def witness(self, site: str) -> Path:
        """What a site saw of the federation's log when it last looked."""
        _check_name(site, "a site")
        return self.workspace / "audit" / self.federation / "witness" / f"{site}.json"

    def private_key(self, actor: str) -> Path:
        """An actor's private key, where it lies unless they keep it elsewhere."""
        _check_name(actor, "an actor")
        return self.workspace / "keys" / self.federation / f"{actor}.pem"


def _check_name(name: str, what: str) -> None:
    if not names.is_identifier(name):
        raise ParamsError(f"cannot use {name!r} as the name of {what}: {names.RULE}")
