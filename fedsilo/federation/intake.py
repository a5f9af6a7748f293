"""What a server keeps of a round beside the states: its orders, what came in, what it decided, and each site's drift so far.

Layout, under a journal's folder::

    intake/begun.json                     lines of the federation's log when the journal was begun
    intake/<round>/orders/<site>.json     as they were sent
    intake/<round>/received/<site>.json   when an update came, and its hashes
    intake/<round>/absent/<site>.json     why none came
    intake/<round>/decision.json          which updates count; written once a quorum of them does
    intake/<round>/veto/                  sites' scores of the state that the round led to (tasks.vetoing)
    intake/<round>/history.json, drift/<site>.safetensors   sums over earlier rounds, as the round opens
    sites/<site>/orders.json              the site's own: nonces and the last round that it accepted an order for
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.errors import CheckpointError
from fedsilo.federation import records, states
from fedsilo.federation.admission import History, Refusal
from fedsilo.federation.stored_state import StoredState
from fedsilo.tensors import StateDict


@dataclass(frozen=True)
class Received:
    """An update that came: when, by the server's clock, and its hashes."""

    received: str
    manifest_sha256: str
    weights_sha256: str


@dataclass(frozen=True)
class Decision:
    """What became of those that were asked in a round: weights' hashes of updates that count, refusals, reasons of absence."""

    admitted: Mapping[str, str]
    refused: Mapping[str, Refusal]
    missing: Mapping[str, str]
    compared: bool


@dataclass(frozen=True)
class Memory:
    """What a site remembers of the orders that it accepted."""

    last_round: int | None
    nonces: frozenset[str]


class Intake:
    """File names and records of what a server asked and got."""

    def __init__(self, folder: Path) -> None:
        """Name the journal's folder; touches no file."""
        self.folder = folder

    def round_dir(self, round_index: int) -> Path:
        """Return the folder of a round."""
        return self.folder / "intake" / f"{round_index:05d}"

    def begin(self, num_lines: int) -> None:
        """Note how many lines the federation's log has, the first time."""
        path = self.folder / "intake" / "begun.json"
        if not path.exists():
            files.write_json(path, {"lines": num_lines})

    def begun(self) -> int:
        """Read how many lines the federation's log had.

        Raises:
            CheckpointError: The note is missing or damaged.
        """
        return int(str(records.read(self.folder / "intake" / "begun.json").get("lines", 0)))

    def order_path(self, site: str, round_index: int) -> Path:
        """Return the file of the order to a site."""
        return self.round_dir(round_index) / "orders" / f"{site}.json"

    def write_order(self, site: str, round_index: int, content: bytes) -> Path:
        """Store an order; what answered an earlier one of the round is answered no more."""
        for kind in ("received", "absent"):
            self._note(kind, site, round_index).unlink(missing_ok=True)
        return files.write_bytes(self.order_path(site, round_index), content)

    def last_asked(self, site: str) -> int | None:
        """Return the latest round of an order to a site; None if there is none."""
        rounds = [int(path.parents[1].name) for path in self.folder.glob(f"intake/*/orders/{site}.json")]
        return max(rounds, default=None)

    def write_received(self, site: str, round_index: int, received: Received) -> Path:
        """Note that an update came."""
        return files.write_json(self._note("received", site, round_index), asdict(received))

    def received(self, site: str, round_index: int) -> Received | None:
        """Read whether and when an update came.

        Raises:
            CheckpointError: The note is damaged.
        """
        path = self._note("received", site, round_index)
        if not path.exists():
            return None
        try:
            return Received(**records.read(path))  # type: ignore[arg-type]  # a wrong key is caught below
        except TypeError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def write_absence(self, site: str, round_index: int, reason: str) -> Path:
        """Note why no update came."""
        return files.write_json(self._note("absent", site, round_index), {"reason": reason})

    def absence(self, site: str, round_index: int) -> str:
        """Read why no update came."""
        path = self._note("absent", site, round_index)
        return str(records.read(path).get("reason")) if path.exists() else "no update came"

    def write_decision(self, round_index: int, decision: Decision) -> Path:
        """Store what was decided, once: it stays so for the round."""
        return files.write_json(self.round_dir(round_index) / "decision.json", asdict(decision))

    def decision(self, round_index: int) -> Decision | None:
        """Read what was decided; None if nothing was yet.

        Raises:
            CheckpointError: The record is damaged.
        """
        path = self.round_dir(round_index) / "decision.json"
        if not path.exists():
            return None
        content = records.read(path)
        try:
            return Decision(
                admitted=_texts(content["admitted"]),
                refused={site: Refusal(**refusal) for site, refusal in dict(content["refused"]).items()},  # type: ignore[call-overload]  # the same
                missing=_texts(content["missing"]),
                compared=content["compared"] is True,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def drop_decision(self, round_index: int) -> None:
        """Forget what was decided, so that the round is judged anew."""
        (self.round_dir(round_index) / "decision.json").unlink(missing_ok=True)

    def write_history(self, round_index: int, drift: Callable[[str], StateDict], num_rounds: Mapping[str, int]) -> None:
        """Store each site's sum as a round opens, one after the other: ``drift(site)``, over so many rounds."""
        noted: dict[str, object] = {}
        for site in sorted(num_rounds):
            sha256 = states.save(drift(site), self._sum_path(site, round_index))
            noted[site] = {"sha256": sha256, "rounds": num_rounds[site]}
        files.write_json(self.round_dir(round_index) / "history.json", noted)

    def history(self, round_index: int) -> History:
        """Open what earlier rounds left; sums stay in their files.

        Raises:
            CheckpointError: A record or sum is missing or damaged.
        """
        noted = self._history(round_index)
        sums = {site: StoredState(self._sum_path(site, round_index)) for site in noted}
        return History(sums, {site: number for site, (_, number) in noted.items()})

    def check_history(self, round_index: int) -> None:
        """Check what earlier rounds left against its record.

        Raises:
            CheckpointError: A sum is missing or differs from its recorded hash.
        """
        for site, (sha256, _) in self._history(round_index).items():
            path = self._sum_path(site, round_index)
            if not path.is_file() or files.sha256_file(path) != sha256:
                raise CheckpointError(f"{path} is missing, or has another SHA-256 than {sha256[:12]}")

    def drop_history(self, round_index: int) -> None:
        """Remove the sums of a round."""
        (self.round_dir(round_index) / "history.json").unlink(missing_ok=True)
        shutil.rmtree(self.round_dir(round_index) / "drift", ignore_errors=True)

    def remember(self, site: str, round_index: int, nonce: str) -> Path:
        """Let a site remember an order that it accepts."""
        known = self.memory(site)
        return files.write_json(self._memory_path(site), {"last_round": round_index, "nonces": sorted({*known.nonces, nonce})})

    def memory(self, site: str) -> Memory:
        """Read what a site remembers.

        Raises:
            CheckpointError: It cannot be read.
        """
        path = self._memory_path(site)
        if not path.exists():
            return Memory(None, frozenset())
        content = records.read(path)
        try:
            return Memory(int(str(content["last_round"])), frozenset(list(content["nonces"])))  # type: ignore[call-overload]  # the same
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def _memory_path(self, site: str) -> Path:
        return self.folder / "sites" / site / "orders.json"

    def _sum_path(self, site: str, round_index: int) -> Path:
        return self.round_dir(round_index) / "drift" / f"{site}.safetensors"

    def _note(self, kind: str, site: str, round_index: int) -> Path:
        return self.round_dir(round_index) / kind / f"{site}.json"

    def _history(self, round_index: int) -> dict[str, tuple[str, int]]:
        """Read the hash of each site's sum, and over how many rounds it is."""
        path = self.round_dir(round_index) / "history.json"
        if not path.exists():
            return {}
        try:
            return {site: (str(noted["sha256"]), int(noted["rounds"])) for site, noted in dict(records.read(path)).items()}  # type: ignore[index]  # the same
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


def _texts(content: object) -> dict[str, str]:
    """Read a mapping of texts by site."""
    if not isinstance(content, dict):
        raise TypeError(f"expected texts by site, got {type(content).__name__}")
    return {str(site): str(value) for site, value in content.items()}
