"""What a federation has done so far, on disk: enough to go on after a kill at any moment, with the same bits.

Layout of a journal folder::

    identity.json                          what the run is made from; another identity starts a new journal
    server/<round>.safetensors, .json      the global state at the start of a round, and how it came about
    server/<round>.moments.safetensors     of the server's optimiser, if there is one
    sites/<site>/<round>/validation.json   the site's validation Dice of the global state that opened the round
    sites/<site>/<round>/update/           the SiteUpdate: the part that leaves the site
    intake/<round>/                        orders, what came in, what was admitted (`intake`)
    sites/<site>/<round>/folds/<fold>.safetensors   averages over the site's rounds, `inside` among them; private to the site
    sites/<site>/<round>/private.safetensors, moments.safetensors, remapper.safetensors   the same
    sites/<site>/<round>/done.json         hashes and numbers of the above, written last

A site that does not take part in a round has no folder for it. A record names the SHA-256 of the states beside it. States of
rounds that nothing needs any more are removed, records stay.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.errors import CheckpointError, DataError
from fedsilo.federation import records, server_optimizer, states
from fedsilo.federation.aggregation import AggregationRecord
from fedsilo.federation.intake import Intake
from fedsilo.federation.records import INSIDE, ServerRecord, SiteRecord
from fedsilo.federation.server_optimizer import Moments
from fedsilo.tensors import StateDict


@dataclass(frozen=True)
class ResumePoint:
    """The round to go on with, and what was refused on the way to it."""

    round_index: int
    refused: tuple[str, ...]


class Journal:
    """File names and records of one federation's progress."""

    def __init__(self, folder: Path, sites: Sequence[str]) -> None:
        """Name the folder and the sites; touches no file."""
        self.folder = folder
        self.sites = tuple(sorted(sites))
        self.intake = Intake(folder)

    def open(self, identity: Mapping[str, object]) -> bool:
        """Keep what belongs to ``identity`` and drop anything else; True if there was something to drop.

        Raises:
            OutputError: The folder cannot be written.
        """
        path = self.folder / "identity.json"
        dropped = False
        if self.folder.exists():
            try:
                same = path.is_file() and files.read_json(path) == dict(identity)
            except DataError:
                same = False
            if not same:
                dropped = any(self.folder.iterdir())
                for child in self.folder.iterdir():
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
        files.write_json(path, identity)
        return dropped

    def server_path(self, round_index: int) -> Path:
        """Return the file of the global state that opens a round."""
        return self.folder / "server" / f"{round_index:05d}.safetensors"

    def site_dir(self, site: str, round_index: int) -> Path:
        """Return the folder of a site's round."""
        return self.folder / "sites" / site / f"{round_index:05d}"

    def update_dir(self, site: str, round_index: int) -> Path:
        """Return the folder of what leaves a site in a round."""
        return self.site_dir(site, round_index) / "update"

    def update_manifest(self, site: str, round_index: int) -> Path:
        """Return the manifest of what leaves a site in a round."""
        return self.update_dir(site, round_index) / f"{site}.json"

    def weights_path(self, site: str, round_index: int) -> Path:
        """Return the state in what leaves a site in a round."""
        return self.update_dir(site, round_index) / f"{site}.safetensors"

    def fold_path(self, site: str, round_index: int, fold: str = INSIDE) -> Path:
        """Return the file of a site's inside model, or of another fold, after a round."""
        return self.site_dir(site, round_index) / "folds" / f"{fold}.safetensors"

    def private_path(self, site: str, round_index: int) -> Path:
        """Return the file of what the algorithm keeps at a site after a round."""
        return self.site_dir(site, round_index) / "private.safetensors"

    def moments_path(self, site: str, round_index: int) -> Path:
        """Return the file of a site's optimiser moments after a round."""
        return self.site_dir(site, round_index) / "moments.safetensors"

    def remapper_path(self, site: str, round_index: int) -> Path:
        """Return the file of a site's learned remapping after a round."""
        return self.site_dir(site, round_index) / "remapper.safetensors"

    def write_server(
        self,
        state: StateDict,
        round_index: int,
        *,
        made: AggregationRecord | None = None,
        moments: Moments | None = None,
        latent_sizes: Mapping[str, float] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> Path:
        """Store the global state that opens a round and the optimiser's moments, then the record.

        Args:
            state: The global state.
            round_index: The round.
            made: How it was made; None of the first.
            moments: Of the server's optimiser, if there is one.
            latent_sizes: Smoothed, of weighting latent.
            tell: Called with the state's hash before the record, with which it counts.
        """
        path = self.server_path(round_index)
        sha256 = states.save(state, path)
        record = {
            "round": round_index,
            "sha256": sha256,
            "weights": dict(made.weights) if made else {},
            "shares": dict(made.shares) if made else {},
            "update_norms": dict(made.delta_norms) if made else {},
            "latent_sizes": dict(latent_sizes or {}),
            "num_steps": moments.num_steps if moments else 0,
            "moments_sha256": states.save(server_optimizer.to_state(moments), self.server_moments_path(round_index))
            if moments
            else None,
        }
        if tell is not None:
            tell(sha256)
        files.write_json(path.with_suffix(".json"), record)
        return path

    def read_server(self, round_index: int) -> StateDict:
        """Load the global state that opens a round, checked against its record.

        Raises:
            CheckpointError: Record or state is missing, cut off or changed.
        """
        record = self.server_record(round_index)
        return states.load(self.server_path(round_index), record.sha256)

    def server_moments_path(self, round_index: int) -> Path:
        """Return the file of the server optimiser's moments when a round opens."""
        return self.folder / "server" / f"{round_index:05d}.moments.safetensors"

    def read_moments(self, round_index: int) -> Moments | None:
        """Load the moments of the server's optimiser, checked against the record; None if it has none.

        Raises:
            CheckpointError: Record or moments are missing, cut off or changed.
        """
        record = self.server_record(round_index)
        if record.moments_sha256 is None:
            return None
        stored = states.load(self.server_moments_path(round_index), record.moments_sha256)
        return server_optimizer.from_state(stored, record.num_steps)

    def server_record(self, round_index: int) -> ServerRecord:
        """Read how a global state came about.

        Raises:
            CheckpointError: The record is missing or damaged.
        """
        return records.read_server(self.server_path(round_index).with_suffix(".json"))

    def write_site(self, record: SiteRecord) -> Path:
        """Store a site's record; its states must be on disk already."""
        return files.write_json(self.site_dir(record.site, record.round_index) / "done.json", records.site_json(record))

    def site_record(self, site: str, round_index: int) -> SiteRecord:
        """Read a site's record.

        Raises:
            CheckpointError: The record is missing or damaged.
        """
        return records.read_site(self.site_dir(site, round_index) / "done.json")

    def write_validation(self, site: str, round_index: int, dice: float | None) -> Path:
        """Store a site's validation Dice of the global state that opens a round; None if it has nothing to score."""
        return files.write_json(self.site_dir(site, round_index) / "validation.json", {"dice": dice})

    def validation(self, site: str, round_index: int) -> float | None:
        """Read a site's validation Dice of the global state that opens a round; None if that was not validated.

        Raises:
            CheckpointError: The record is damaged.
        """
        path = self.site_dir(site, round_index) / "validation.json"
        if not path.exists():
            return None
        value = records.read(path).get("dice")
        return None if value is None else float(str(value))

    def site_done(self, site: str, round_index: int) -> bool:
        """Say whether a site's round is finished and every file of it is as recorded."""
        if not (self.site_dir(site, round_index) / "done.json").exists():
            return False
        try:
            self.check_private(site, round_index)
            record = self.site_record(site, round_index)
            _check_file(self.weights_path(site, round_index), record.update_sha256)
            if record.manifest_sha256 is not None:
                _check_file(self.update_manifest(site, round_index), record.manifest_sha256)
        except CheckpointError:
            return False
        return True

    def forget(self, site: str, round_index: int) -> None:
        """Drop the record of a site's round, so that it is trained anew."""
        (self.site_dir(site, round_index) / "done.json").unlink(missing_ok=True)

    def check_private(self, site: str, round_index: int) -> None:
        """Check what a site keeps of a finished round against its record.

        Raises:
            CheckpointError: A file is missing or differs from its recorded hash; names it.
        """
        record = self.site_record(site, round_index)
        for fold, sha256 in record.fold_sha256.items():
            _check_file(self.fold_path(site, round_index, fold), sha256)
        if record.private_sha256 is not None:
            _check_file(self.private_path(site, round_index), record.private_sha256)
        if record.moments_sha256 is not None:
            _check_file(self.moments_path(site, round_index), record.moments_sha256)
        if record.remapper_sha256 is not None:
            _check_file(self.remapper_path(site, round_index), record.remapper_sha256)

    def turns(self, site: str, before: int) -> list[int]:
        """List the rounds before one that a site took part in: it is among those that the aggregate was made from.

        Raises:
            CheckpointError: A record is missing or damaged.
        """
        return [index for index in range(before) if site in self.server_record(index + 1).weights]

    def resume_point(self, rounds: int) -> ResumePoint:
        """Find the latest round that can be gone on with.

        A round can be opened if its global state is as recorded, every site's private files of its last turn are, the
        best states so far are, and the records of all earlier rounds are readable. A round that fails is named in
        ``refused``; if none holds, the run starts again at round 0, which gives the same bits.
        """
        refused: list[str] = []
        for round_index in range(rounds, -1, -1):
            if not self.server_path(round_index).with_suffix(".json").exists():
                continue
            try:
                self._check_open(round_index)
            except CheckpointError as error:
                refused.append(str(error))
            else:
                return ResumePoint(round_index, tuple(refused))
        return ResumePoint(0, tuple(refused))

    def best_global(self, last_round: int) -> int:
        """Return the round that the best global state so far opens: by mean validation Dice over sites, earliest of equals.

        A state counts once every site has validated it. Without any validation, ``last_round`` is the answer.
        """
        scored = []
        for round_index in range(last_round + 1):
            if not all((self.site_dir(site, round_index) / "validation.json").exists() for site in self.sites):
                continue
            values = [self.validation(site, round_index) for site in self.sites]
            known = [value for value in values if value is not None]
            if known:
                scored.append((sum(known) / len(known), -round_index))
        return -max(scored)[1] if scored else last_round

    def best_fold(self, site: str, last_round: int, fold: str = INSIDE) -> int:
        """Return the round whose inside model, or other fold, has the best validation Dice at its own site.

        The earliest of equals; without any validation the site's last turn.
        """
        turns = self.turns(site, last_round + 1)
        scores = {index: self.site_record(site, index).val_dice_folds[fold] for index in turns}
        scored = [(score, -index) for index, score in scores.items() if score is not None]
        return -max(scored)[1] if scored else turns[-1]

    def _check_open(self, round_index: int) -> None:
        """Check all that opening a round needs."""
        self.read_server(round_index)
        self.read_moments(round_index)
        self.intake.check_history(round_index)
        for earlier in range(round_index):
            self.server_record(earlier)
        if round_index == 0:
            return
        best_global = self.best_global(round_index - 1)
        self.read_server(best_global)
        for site in self.sites:
            self._check_site(site, self.turns(site, round_index), best_global=best_global)

    def _check_site(self, site: str, turns: Sequence[int], *, best_global: int) -> None:
        """Check what a site's next turn and the selection need."""
        turn_records = {index: self.site_record(site, index) for index in turns}
        if not turns:
            return
        self.check_private(site, turns[-1])
        for fold in turn_records[turns[-1]].fold_sha256:
            best = self.best_fold(site, turns[-1], fold)
            _check_file(self.fold_path(site, best, fold), turn_records[best].fold_sha256[fold])
        held = max((index for index in turns if index < best_global), default=None)
        sha256 = turn_records[held].private_sha256 if held is not None else None
        if held is not None and sha256 is not None:
            _check_file(self.private_path(site, held), sha256)


def _check_file(path: Path, sha256: str) -> None:
    """Compare a file with its recorded hash."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    found = files.sha256_file(path)
    if found != sha256:
        raise CheckpointError(f"{path} is refused: expected SHA-256 {sha256[:12]}, got {found[:12]}")
