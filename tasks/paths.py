"""Where a run's files lie, relative to the workspace; the only place that joins these names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """Folders and files of one run over one cohort.

    ``cohort`` names the data, ``run`` the results; they are equal unless a study runs one cohort several times.
    """

    workspace: Path
    cohort: str
    run: str

    def prepared_site(self, site: str) -> Path:
        """Folder of a site's prepared cases: manifest.csv, facts.parquet, contract.json, cases/."""
        return self.workspace / "data" / "prepared" / self.cohort / site

    @property
    def docs_dir(self) -> Path:
        """Folder of the contract's Data Docs pages, one subfolder a site."""
        return self.workspace / "reports" / self.cohort / "contract"

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
        return self.run_dir / "inside" / f"{site}.safetensors"

    def baseline_state(self, site: str, method: str) -> Path:
        """A site's baseline model: ``local`` or ``finetuned``."""
        return self.run_dir / "baselines" / site / f"{method}.safetensors"

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
    def report_dir(self) -> Path:
        """The report's page, metrics and plots."""
        return self.workspace / "reports" / self.run / "report"
