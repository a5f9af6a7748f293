"""What a report is made of: result tables of a run, and manifest and contract of its sites. Never a model or a volume."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas

from fedsilo import files
from fedsilo.cohort import manifest
from fedsilo.cohort.manifest import ManifestRow
from fedsilo.cohort.roster import Roster, SiteEntry
from fedsilo.errors import DataError
from fedsilo.evaluation import cases, overlays
from fedsilo.evaluation.overlays import OverlayRow
from fedsilo.types import SiteRole

ROUNDS_COLUMNS = (
    "round",
    "site",
    "num_cases",
    "num_slices",
    "weight",
    "train_loss",
    "val_dice_global",
    "val_dice_inside",
    "update_norm",
    "update_bytes",
    "latent_size",
    "selected_global",
    "selected_inside",
)
ROUTES_COLUMNS = ("site", "case", "method", "step", "layer", "expert", "weight")
OBJECTIVE_COLUMNS = ("site", "case", "method", "step", "consistency", "shape", "entropy", "total")
DISAGREEMENT_COLUMNS = ("site", "expert_a", "expert_b", "disagreement")
ROUTER_COLUMNS = ("site", "case", "expert", "weight", "quality", "fallback_quality", "kept", "passes")
ROUTING_TABLES = ("routes.csv", "objective.csv", "disagreement.csv", "router.csv")
TEXT_COLUMNS = ("site", "case", "method", "expert", "layer", "expert_a", "expert_b")


@dataclass(frozen=True)
class Sources:
    """Where the inputs lie.

    Attributes:
        workspace: Folder that the names of inputs are relative to.
        rounds: rounds.csv.
        federation: federation.json.
        phases: Folder of the ``inside`` and the ``outside`` evaluation: cases.csv, overlays.csv with the pictures it names,
            and outside routes.csv, objective.csv, disagreement.csv and router.csv.
        prepared: Folder of each site's prepared data: manifest.csv, contract.json.
        stopped: The same of sites that the contract stopped, which hold a contract.json.
    """

    workspace: Path
    rounds: Path
    federation: Path
    phases: Mapping[SiteRole, Path]
    prepared: Mapping[str, Path]
    stopped: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Overlay:
    """A picture of one test case with the outlines of reference and prediction, and its row in the table of pictures."""

    row: OverlayRow
    path: Path


@dataclass(frozen=True)
class Phase:
    """Results at the inside or at the outside sites."""

    role: SiteRole
    cases: pandas.DataFrame
    overlays: tuple[Overlay, ...]


@dataclass(frozen=True)
class Routing:
    """What test-time routing recorded at the outside sites."""

    routes: pandas.DataFrame
    objective: pandas.DataFrame
    disagreement: pandas.DataFrame
    router: pandas.DataFrame


@dataclass(frozen=True)
class Site:
    """What is known of a site besides results."""

    entry: SiteEntry
    rows: tuple[ManifestRow, ...]
    contract: Mapping[str, object]


@dataclass(frozen=True)
class Inputs:
    """Everything that a report may say, and the SHA-256 of every file it was read from."""

    roster: Roster
    rounds: pandas.DataFrame
    federation: Mapping[str, object]
    phases: tuple[Phase, ...]
    routing: Routing | None
    sites: tuple[Site, ...]
    stopped: Mapping[str, Mapping[str, object]]
    hashes: Mapping[str, str]


def load(roster: Roster, sources: Sources) -> Inputs:
    """Read all inputs of a report.

    Overlays of a site whose roster entry says ``show_images: false`` are not read, whatever the folders hold.

    Raises:
        DataError: A file is missing or has other columns than agreed.
    """
    entries = (*roster.inside, *roster.outside)
    phases = tuple(_phase(roster, role, sources.phases[role]) for role in _roles(roster))
    sites = tuple(_site(entry, sources.prepared[entry.name]) for entry in entries)
    return Inputs(
        roster=roster,
        rounds=_table(sources.rounds, ROUNDS_COLUMNS),
        federation=files.read_json(sources.federation),
        phases=phases,
        routing=_routing(sources.phases["outside"]) if roster.outside else None,
        sites=sites,
        stopped={name: files.read_json(folder / "contract.json") for name, folder in sources.stopped.items()},
        hashes=_hashes(sources, roster, phases),
    )


def _roles(roster: Roster) -> tuple[SiteRole, ...]:
    return ("inside", "outside") if roster.outside else ("inside",)


def _hashes(sources: Sources, roster: Roster, phases: tuple[Phase, ...]) -> dict[str, str]:
    paths = [sources.rounds, sources.federation]
    for phase in phases:
        folder = sources.phases[phase.role]
        paths += [folder / "cases.csv", folder / "overlays.csv", *(overlay.path for overlay in phase.overlays)]
    if roster.outside:
        paths += [sources.phases["outside"] / name for name in ROUTING_TABLES]
    for entry in roster.sites:
        paths += [sources.prepared[entry.name] / name for name in ("contract.json", "manifest.csv")]
    paths += [folder / "contract.json" for folder in sources.stopped.values()]
    lost = [path for path in paths if not path.is_file()]
    if lost:
        raise DataError(f"cannot read {lost[0]}: there is no such file")
    return {path.relative_to(sources.workspace).as_posix(): files.sha256_file(path) for path in sorted(paths)}


def _phase(roster: Roster, role: SiteRole, folder: Path) -> Phase:
    table = cases.read(folder / "cases.csv")
    if table.empty:
        raise DataError(f"cannot use {folder / 'cases.csv'}: it has no rows")
    if table["seed"].nunique() > 1:
        raise DataError(
            f"cannot use {folder / 'cases.csv'}: expected the cases of one seed, got {sorted(table['seed'].unique().tolist())}"
        )
    return Phase(
        role=role,
        cases=table,
        overlays=_overlays(roster, folder),
    )


def _routing(folder: Path) -> Routing:
    routes, objective, disagreement, router = (folder / name for name in ROUTING_TABLES)
    return Routing(
        routes=_table(routes, ROUTES_COLUMNS),
        objective=_table(objective, OBJECTIVE_COLUMNS),
        disagreement=_table(disagreement, DISAGREEMENT_COLUMNS),
        router=_table(router, ROUTER_COLUMNS),
    )


def _overlays(roster: Roster, folder: Path) -> tuple[Overlay, ...]:
    return tuple(
        Overlay(row, folder / row.file)
        for row in overlays.read_index(folder / "overlays.csv")
        if roster.site(row.site).show_images
    )


def _site(entry: SiteEntry, folder: Path) -> Site:
    return Site(entry, tuple(manifest.read(folder / "manifest.csv")), files.read_json(folder / "contract.json"))


def _table(path: Path, columns: tuple[str, ...]) -> pandas.DataFrame:
    try:
        table = pandas.read_csv(path, dtype="str", keep_default_na=False)
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise DataError(f"cannot use {path}: column {missing[0]} is missing; it has {','.join(table.columns)}")
        for column in columns:
            if column not in TEXT_COLUMNS:
                table[column] = pandas.to_numeric(table[column].replace("", None))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return table
