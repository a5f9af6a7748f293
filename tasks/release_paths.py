"""Where a federation's releases lie, relative to the workspace; apart from `tasks.paths`, on which what was trained depends."""

from dataclasses import dataclass
from pathlib import Path

from fedsilo.audit import releases
from tasks.paths import EMBEDDED, AuditPaths, RunPaths


@dataclass(frozen=True)
class ReleasePaths:
    """Files of a federation's releases, in ``releases/<federation>``."""

    workspace: Path
    federation: str

    @property
    def audit(self) -> AuditPaths:
        """Files of the federation's trail; its name is checked there."""
        return AuditPaths(self.workspace, self.federation)

    @property
    def root(self) -> Path:
        """Folder of all releases."""
        return self.audit.workspace / "releases" / self.federation

    @property
    def artifact(self) -> str:
        """Name of the model in the registry."""
        return releases.artifact_of(self.federation, EMBEDDED)

    @property
    def champion(self) -> Path:
        """Which release is in use, for whoever serves it; what it says is verified by `python -m flows.champion`."""
        return self.root / "champion.json"

    @property
    def journal(self) -> Path:
        """A promotion or rollback that has begun and not ended; git does not keep it."""
        return self.root / "journal.json"

    @property
    def lock(self) -> Path:
        """Held while the model in use changes; git does not keep it."""
        return self.root / ".lock"

    def run(self, run: str) -> RunPaths:
        """Files of a run of the federation."""
        return RunPaths(self.workspace, self.federation, run)

    def folder(self, version: str) -> Path:
        """A release.

        Raises:
            DataError: The version is none.
        """
        releases.check_version(version)
        return self.root / version
