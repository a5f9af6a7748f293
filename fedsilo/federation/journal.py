"""What a federation has done so far, on disk: enough to go on after a kill at any moment, with the same bits.

Layout of a journal folder::

    identity.json                          what the run is made from; another identity starts a new journal
    server/<round>.safetensors, .json      the global state at the start of a round, and how it came about
    sites/<site>/<round>/validation.json   the site's validation Dice of the global state that opened the round
    sites/<site>/<round>/update/           the SiteUpdate: the part that leaves the site
    sites/<site>/<round>/inside.safetensors, moments.safetensors, remapper.safetensors   private to the site
    sites/<site>/<round>/done.json         hashes and numbers of the above, written last

A record names the SHA-256 of the states beside it. States of rounds that nothing needs any more are removed, records stay.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.errors import CheckpointError, DataError
from fedsilo.federation import states, updates
from fedsilo.tensors import StateDict

KEEP_ROUNDS = 3
"""Rounds whose states are kept, so that one bad file costs a round and not the run."""


@dataclass(frozen=True)
class SiteRecord:
    """A site's finished round: numbers, and hashes of the files beside the record."""

    site: str
    round_index: int
    num_cases: int
    num_slices: int
    train_loss: float
    val_dice_inside: float | None
    update_sha256: str
    update_bytes: int
    inside_sha256: str
    moments_sha256: str | None
    latent_size: float | None
    remapper_sha256: str | None
    remapper: Mapping[str, float | None] | None


@dataclass(frozen=True)
class ServerRecord:
    """A global state: the round it opens, its hash, the weights of the updates it was made from, and their smoothed sizes."""

    round_index: int
    sha256: str
    weights: Mapping[str, float]
    update_norms: Mapping[str, float]
    latent_sizes: Mapping[str, float]


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

    def inside_path(self, site: str, round_index: int) -> Path:
        """Return the file of a site's inside model after a round."""
        return self.site_dir(site, round_index) / "inside.safetensors"

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
        weights: Mapping[str, float],
        update_norms: Mapping[str, float],
        latent_sizes: Mapping[str, float],
    ) -> Path:
        """Store the global state that opens a round, then its record."""
        path = self.server_path(round_index)
        sha256 = states.save(state, path)
        record = {
            "round": round_index,
            "sha256": sha256,
            "weights": dict(weights),
            "update_norms": dict(update_norms),
            "latent_sizes": dict(latent_sizes),
        }
        files.write_json(path.with_suffix(".json"), record)
        return path

    def read_server(self, round_index: int) -> StateDict:
        """Load the global state that opens a round, checked against its record.

        Raises:
            CheckpointError: Record or state is missing, cut off or changed.
        """
        record = self.server_record(round_index)
        return states.load(self.server_path(round_index), record.sha256)

    def server_record(self, round_index: int) -> ServerRecord:
        """Read how a global state came about.

        Raises:
            CheckpointError: The record is missing or damaged.
        """
        content = _read_record(self.server_path(round_index).with_suffix(".json"))
        try:
            return ServerRecord(
                round_index=int(str(content["round"])),
                sha256=str(content["sha256"]),
                weights=_numbers(content["weights"]),
                update_norms=_numbers(content["update_norms"]),
                latent_sizes=_numbers(content["latent_sizes"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"record of round {round_index} in {self.folder / 'server'} is damaged: {error}") from error

    def write_site(self, record: SiteRecord) -> Path:
        """Store a site's record; its states must be on disk already."""
        return files.write_json(self.site_dir(record.site, record.round_index) / "done.json", vars(record))

    def site_record(self, site: str, round_index: int) -> SiteRecord:
        """Read a site's record.

        Raises:
            CheckpointError: The record is missing or damaged.
        """
        path = self.site_dir(site, round_index) / "done.json"
        content = _read_record(path)
        try:
            return SiteRecord(**content)  # type: ignore[arg-type]  # a wrong key or kind is caught below
        except TypeError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

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
        value = _read_record(path).get("dice")
        return None if value is None else float(str(value))

    def site_done(self, site: str, round_index: int) -> bool:
        """Say whether a site's round is finished and every file of it is as recorded."""
        if not (self.site_dir(site, round_index) / "done.json").exists():
            return False
        try:
            self.check_private(site, round_index)
            manifest = self.update_manifest(site, round_index)
            _check_file(manifest, self.site_record(site, round_index).update_sha256)
            updates.load(manifest)
        except CheckpointError:
            return False
        return True

    def check_private(self, site: str, round_index: int) -> None:
        """Check what a site keeps of a finished round against its record.

        Raises:
            CheckpointError: A file is missing or differs from its recorded hash; names it.
        """
        record = self.site_record(site, round_index)
        _check_file(self.inside_path(site, round_index), record.inside_sha256)
        if record.moments_sha256 is not None:
            _check_file(self.moments_path(site, round_index), record.moments_sha256)
        if record.remapper_sha256 is not None:
            _check_file(self.remapper_path(site, round_index), record.remapper_sha256)

    def resume_point(self, rounds: int) -> ResumePoint:
        """Find the latest round that can be gone on with.

        A round can be opened if its global state is as recorded, every site's private files of the round before are, the
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
            values = [self.validation(site, round_index) for site in self.sites]
            known = [value for value in values if value is not None]
            if known:
                scored.append((sum(known) / len(known), -round_index))
        return -max(scored)[1] if scored else last_round

    def best_inside(self, site: str, last_round: int) -> int:
        """Return the round whose inside model has the best validation Dice at its own site; the earliest of equals."""
        records = [self.site_record(site, round_index) for round_index in range(last_round + 1)]
        scored = [(record.val_dice_inside, -record.round_index) for record in records if record.val_dice_inside is not None]
        return -max(scored)[1] if scored else last_round

    def prune(self, opened_round: int) -> None:
        """Remove states that neither the last rounds nor the selection need; records stay."""
        last_done = opened_round - 1
        if last_done < 0:
            return
        oldest = opened_round - KEEP_ROUNDS
        keep_global = {self.best_global(last_done)}
        for round_index in range(max(oldest, 0)):
            if round_index not in keep_global:
                self.server_path(round_index).unlink(missing_ok=True)
        for site in self.sites:
            keep_inside = self.best_inside(site, last_done)
            for round_index in range(max(oldest, 0)):
                self.moments_path(site, round_index).unlink(missing_ok=True)
                self.remapper_path(site, round_index).unlink(missing_ok=True)
                shutil.rmtree(self.update_dir(site, round_index), ignore_errors=True)
                if round_index != keep_inside:
                    self.inside_path(site, round_index).unlink(missing_ok=True)

    def _check_open(self, round_index: int) -> None:
        """Check all that opening a round needs."""
        self.read_server(round_index)
        for earlier in range(round_index):
            self.server_record(earlier)
            for site in self.sites:
                self.site_record(site, earlier)
        if round_index == 0:
            return
        for site in self.sites:
            self.check_private(site, round_index - 1)
            best = self.best_inside(site, round_index - 1)
            _check_file(self.inside_path(site, best), self.site_record(site, best).inside_sha256)
        self.read_server(self.best_global(round_index - 1))


def _read_record(path: Path) -> dict[str, object]:
    """Read a record; any failure is a checkpoint's."""
    try:
        return files.read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def _check_file(path: Path, sha256: str) -> None:
    """Compare a file with its recorded hash."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    found = files.sha256_file(path)
    if found != sha256:
        raise CheckpointError(f"{path} is refused: expected SHA-256 {sha256[:12]}, got {found[:12]}")


def _numbers(content: object) -> dict[str, float]:
    """Read a mapping of numbers by site."""
    if not isinstance(content, dict):
        raise TypeError(f"expected numbers by site, got {type(content).__name__}")
    return {str(site): float(value) for site, value in content.items()}
