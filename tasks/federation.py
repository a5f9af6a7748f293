"""Who trains, on which cases, with which params: what every task of one federation is handed."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsilo.cohort.roster import Roster
from fedsilo.errors import ParamsError
from fedsilo.federation.records import INSIDE
from fedsilo.params import Params
from fedsilo.types import SiteRole
from tasks.paths import AuditPaths, RunPaths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsilo.federation.journal import Journal
    from tasks.sites import Holding, SiteInputs


@dataclass(frozen=True)
class Federation:
    """What every task of one federation needs: ids, paths and frozen params.

    ``surfaces``: whether scores hold distances between surfaces; no model depends on it. ``by_order``: whether sites train under
    signed orders and answer with signed updates; a site that trains alone does not.
    """

    roster: Roster
    params: Params
    paths: RunPaths
    journal_name: str = "federate"
    surfaces: bool = True
    by_order: bool = True

    @property
    def members(self) -> Mapping[str, Mapping[str, int | None]]:
        """Inside sites behind each participant, and how many of their training patients take part (None: all)."""
        inside = {site.name for site in self.roster.inside}
        asked = self.params.federate.participants or {name: {name: None} for name in sorted(inside)}
        # a site that the data contract stopped is not in the roster
        held = {name: {site: number for site, number in sites.items() if site in inside} for name, sites in asked.items()}
        return {name: sites for name, sites in held.items() if sites}

    @property
    def sites(self) -> list[str]:
        """Participants by name: the inside sites, unless ``federate.participants`` says otherwise."""
        return sorted(self.members)

    def taking_part(self, round_index: int) -> list[str]:
        """Name the participants that train in a round, by name: a share of them that the seed draws, at least one.

        Participants are ranked by ``sha256("seed/participation/round/participant")``.
        """
        federate, seed = self.params.federate, self.params.seed
        ranked = sorted(
            self.sites, key=lambda site: hashlib.sha256(f"{seed}/participation/{round_index}/{site}".encode()).hexdigest()
        )
        return sorted(ranked[: math.ceil(round(federate.participation * len(ranked), 6))])

    def turns(self, site: str) -> list[int]:
        """List the rounds that a participant trains in."""
        return [index for index in range(self.params.federate.rounds) if site in self.taking_part(index)]

    def modalities(self, site: str) -> tuple[str, ...]:
        """List the modalities of a participant's data."""
        return tuple(sorted({self.roster.site(member).modality for member in self.members[site]}))

    def holdings(self, site: str) -> tuple[Holding, ...]:
        """Name the folders that a participant trains on, sorted by site."""
        from tasks.sites import Holding

        return tuple(
            # a seed chooses among patients; where all take part, runs of different seeds share what they load
            Holding(self.paths.prepared_site(member), number, 0 if number is None else self.params.seed)
            for member, number in sorted(self.members[site].items())
        )

    def inputs(self, site: str) -> SiteInputs:
        """Load a participant's training and validation cases."""
        from tasks import sites

        return sites.load(self.holdings(site), spatial_dims=self.params.federate.network.spatial_dims)

    @property
    def run_roster(self) -> Roster:
        """The cohort as this run sees it: inside is who takes part, any other site is outside."""
        if self.params.federate.participants is None:
            return self.roster
        held = {member for members in self.members.values() for member in members}
        roles: dict[bool, SiteRole] = {True: "inside", False: "outside"}
        sites = tuple(site.model_copy(update={"role": roles[site.name in held]}) for site in self.roster.sites)
        return self.roster.model_copy(update={"sites": sites})

    def require_sites(self, phase: str) -> None:
        """Refuse a phase for which every participant must be one inside site, under its name.

        Raises:
            ParamsError: A participant is something else.
        """
        for name, members in self.members.items():
            if set(members) != {name}:
                raise ParamsError(
                    f"{phase} takes every participant for one inside site, but {name} holds {', '.join(sorted(members))}: "
                    "use flows.compare"
                )

    @property
    def num_classes(self) -> int:
        """Organs and background."""
        return len(self.roster.organs)

    @property
    def journal_dir(self) -> Path:
        """Folder of the journal."""
        return self.paths.checkpoints_dir / self.journal_name

    @property
    def audit(self) -> AuditPaths:
        """Files of the federation's trail."""
        return self.paths.audit

    def journal(self) -> Journal:
        """Name the journal's files."""
        from fedsilo.federation.journal import Journal

        return Journal(self.journal_dir, self.sites)

    def alone(self, site: str) -> Federation:
        """Restrict the federation to one site that keeps its Adam moments and has no teacher: plain local training."""
        federate = self.params.federate
        changes = {
            "optimizer": federate.optimizer.model_copy(update={"moments": "keep"}),
            "distillation": federate.distillation.model_copy(update={"first_weight": 0.0, "last_weight": 0.0}),
            "algorithm": federate.algorithm.model_copy(update={"name": "fedavg"}),
            "folds": {INSIDE: federate.folds[INSIDE]},
            "participants": None,
            "participation": 1.0,
        }
        federate = federate.model_copy(update=changes)
        params = self.params.model_copy(update={"federate": federate})
        roster = self.roster.model_copy(update={"sites": (self.roster.site(site),)})
        return Federation(roster=roster, params=params, paths=self.paths, journal_name=f"local/{site}", by_order=False)
