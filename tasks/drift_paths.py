"""Where files of drift and of decisions lie; beside tasks.paths, on which every stage depends."""

from dataclasses import dataclass
from pathlib import Path

from fedsilo import names
from fedsilo.errors import ParamsError
from tasks.paths import RunPaths


@dataclass(frozen=True)
class DriftPaths:
    """Files of a cohort: features stay at the sites in ``drift/``, reports and decisions are in ``reports/``."""

    run: RunPaths

    def memory(self, site: str) -> Path:
        """Features of a site's cases; patient data, which no other room reads."""
        return self.run.workspace / "drift" / self.run.cohort / _checked(site) / "cases.parquet"

    def next_memory(self, site: str) -> Path:
        """The same with a window more, until that window was told of."""
        return self.memory(site).with_name("next.parquet")

    def reports_dir(self, site: str) -> Path:
        """Folder of a site's reports."""
        return self.run.workspace / "reports" / self.run.cohort / "drift" / _checked(site)

    def report(self, site: str, window: int) -> Path:
        """What a site tells of a window."""
        return self.reports_dir(site) / f"{window:04d}.json"

    def reports(self, site: str) -> list[Path]:
        """List a site's reports in the order of their windows."""
        return sorted(self.reports_dir(site).glob("[0-9][0-9][0-9][0-9].json"))

    @property
    def decisions_dir(self) -> Path:
        """Decisions whether to train again, each named by the first digits of its hash; the trail says which is the last."""
        return self.run.workspace / "reports" / self.run.cohort / "retrain"


def _checked(site: str) -> str:
    if not names.is_identifier(site):
        raise ParamsError(f"cannot use {site!r} as the name of a site: {names.RULE}")
    return site
