"""The change plan: what a retrained model may change, and what the gate asks of it; read from pccp.yaml and nowhere else.

PCCP: predetermined change control plan. What is not allowed there is outside it, and takes people, not a schedule.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from fedsilo import sections
from fedsilo.params import Params
from fedsilo.sections import Count, Identifier, Positive, Section, Share
from fedsilo.trigger_params import TriggerPolicy
from fedsilo.types import SiteRole

ARCHITECTURE = "federate.network"
"""What no plan can allow to change."""

RELEVANT = ("seed", "prepare", "federate")
"""Sections of params.yaml on which a global model depends; those of a phase too where a method of its own is in use."""

Metric = Literal["dice", "iou", "nsd"]
"""Scores between 0 and 1, where more is better: the gate's arithmetic rests on it."""

VolumeUnit = Literal["ml", "px"]
"""Of volumes in the cases table; pixels where a site has no spacing."""

Margin = Annotated[float, Field(gt=0, lt=1)]
Use = Literal["gate", "report"]


class ChangeParams(Section):
    """What a candidate may differ in from the champion; the architecture and the organs never."""

    data: bool = Field(description="cases at sites that stay: new, left out, or in other splits")
    sites: bool = Field(description="sites that join or leave, or change their role")
    ranges: dict[str, tuple[float, float]] = Field(description="params that may change, and from where to where")
    values: dict[str, tuple[str | int | float | bool | None, ...]] = Field(description="params that may change, and to what")

    @model_validator(mode="after")
    def _never_the_architecture(self) -> "ChangeParams":
        for name in (*self.ranges, *self.values):
            if name == ARCHITECTURE or name.startswith(f"{ARCHITECTURE}."):
                raise ValueError(f"{name} is the architecture, which no plan can allow to change")
        twice = sorted(self.ranges.keys() & self.values.keys())
        if twice:
            raise ValueError(f"{twice[0]} has a range and a list of values")
        wrong = [name for name, (low, high) in self.ranges.items() if not low <= high]
        if wrong:
            raise ValueError(f"the range of {wrong[0]} ends before it begins")
        return self


class MetricParams(Section):
    """A score that candidate and champion are compared by."""

    use: Use = Field(description="gate: decides; report: only told")
    margins: dict[str, Margin] = Field(description="by organ, the largest loss that does not matter")
    margin_other: Margin = Field(description="of any other organ")

    def margin(self, organ: str) -> float:
        """Look up the margin of an organ."""
        return self.margins.get(organ, self.margin_other)


class CatastropheParams(Section):
    """How many patients may be lost."""

    loss: Share = Field(description="of Dice in any organ, above which a patient is lost; one newly missed always is")
    seed_sd: dict[str, Positive] = Field(
        description="by organ, SD of a patient's Dice between runs that differ in the seed alone"
    )
    num_seed_sds: Positive = Field(description="of those SDs that noise may cost: the loss is at least that many")
    false_volume: dict[VolumeUnit, Positive] = Field(
        description="of an organ that is absent, above which it is marked; one newly marked makes its patient lost"
    )
    tolerated_share: Margin = Field(description="of patients, that the bound of the lost ones' share may reach")

    @model_validator(mode="after")
    def _in_both_units(self) -> "CatastropheParams":
        if self.false_volume.keys() != set(get_args(VolumeUnit)):
            raise ValueError("false_volume needs ml and px, the units of volumes")
        return self

    def threshold(self, organ: str) -> float:
        """Give the loss above which a patient is lost."""
        return max(self.loss, self.num_seed_sds * self.seed_sd.get(organ, 0.0))


class SubgroupParams(Section):
    """Groups of sites that are looked at as one."""

    role: Use
    modality: Use


class MethodParams(Section):
    """What predicts where the model is in use."""

    inside: Identifier = Field(description="method of the cases table at inside sites: global, inside")
    outside: Identifier = Field(description="at outside sites: global, router, ensemble")

    def of(self, role: SiteRole) -> str:
        """Name the method of a role."""
        return self.inside if role == "inside" else self.outside

    @property
    def phases(self) -> tuple[SiteRole, ...]:
        """Phases whose params decide what is in use: those whose method is not the global model as it is."""
        return tuple(role for role in get_args(SiteRole) if self.of(role) != "global")


class GateParams(Section):
    """What a candidate must show against the champion."""

    seed: Annotated[int, Field(ge=0)] = Field(description="of the resamples, so that a verdict can be computed again")
    resamples: Annotated[int, Field(ge=999)]
    methods: MethodParams
    metrics: dict[Metric, MetricParams]
    unseen: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        description="chance that patients may all do well although their like lose everything at a rate of the margin"
    )
    unseen_organs: Use = Field(description="of organs that a site annotates and none of its test cases shows; gate: inconclusive")
    min_patients: Count = Field(description="of a site, below which it says nothing, not even that it is the worst")
    worst_site_margins: Positive = Field(description="that the mean loss of a site may not reach")
    catastrophe: CatastropheParams
    reasons: tuple[Identifier, ...] = Field(description="kinds that replace a champion which is as good")
    subgroups: SubgroupParams
    holdout_uses: Count = Field(description="verdicts that one hold-out gives; any more are inconclusive")

    @model_validator(mode="after")
    def _dice_decides(self) -> "GateParams":
        if "dice" not in self.metrics or self.metrics["dice"].use != "gate":
            raise ValueError("metrics lacks dice with use gate: catastrophes are losses of Dice")
        return self

    def patients_needed(self, margin: float) -> int:
        """Count the patients without whom no comparison at this margin passes: the smallest n with (1 - margin)^n <= unseen."""
        return max(self.min_patients, math.ceil(round(math.log(self.unseen) / math.log1p(-margin), 9)))


class ApprovalParams(Section):
    """How long persons have to answer."""

    within_hours: Positive = Field(description="of the gate's verdict, after which no answer is a no")


class Plan(Section):
    """The whole file."""

    changes: ChangeParams
    gate: GateParams
    approval: ApprovalParams
    triggers: TriggerPolicy


@dataclass(frozen=True)
class Make:
    """What a model is made of.

    Attributes:
        params: Those it was trained with.
        organs: In the order of their label values, the background first.
        sites: Those it was trained on, inside; others that it was scored on, outside.
        data: By site a hash of its prepared cases.
        unknown: Sections of params of which nothing says that they are those.
    """

    params: Params
    organs: tuple[str, ...]
    sites: Mapping[str, SiteRole]
    data: Mapping[str, str]
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Change:
    """A difference between champion and candidate, and whether the plan allows it; values are text."""

    name: str
    before: str
    after: str
    allowed: bool
    why: str


@dataclass(frozen=True)
class ChangeCheck:
    """All differences, by name; ``inside`` the plan if it allows each."""

    changes: tuple[Change, ...]

    @property
    def verdict(self) -> Literal["inside", "outside"]:
        """Say whether the candidate is inside the plan."""
        return "inside" if all(change.allowed for change in self.changes) else "outside"


def load(path: Path) -> Plan:
    """Read pccp.yaml.

    Raises:
        ParamsError: The file is missing or not YAML, or keys are unknown, missing or wrong; one line that names each.
    """
    return sections.validate(Plan, sections.read_yaml(path), source=str(path))


def check_changes(champion: Make, candidate: Make, plan: ChangeParams, *, methods: MethodParams) -> ChangeCheck:
    """Name all that differs between what two models are made of, and whether the plan allows it.

    Args:
        champion: What the model in use is made of.
        candidate: What the model is made of that may replace it.
        plan: What may differ.
        methods: What predicts where the models are in use; params of others are not compared.
    """
    found = []
    if champion.organs != candidate.organs:
        before, after = " ".join(champion.organs), " ".join(candidate.organs)
        found.append(Change("organs", before, after, allowed=False, why="organs never change under a plan"))
    for site in sorted(champion.sites.keys() | candidate.sites.keys()):
        before, after = champion.sites.get(site, "none"), candidate.sites.get(site, "none")
        if before != after:
            found.append(Change(f"sites.{site}", before, after, allowed=plan.sites, why=_allowed(plan.sites, "changes.sites")))
    for site in sorted(champion.data.keys() & candidate.data.keys()):
        before, after = champion.data[site], candidate.data[site]
        if before != after:
            found.append(Change(f"data.{site}", before, after, allowed=plan.data, why=_allowed(plan.data, "changes.data")))
    for section in sorted(champion.unknown | candidate.unknown):
        before, after = ("unknown" if section in made.unknown else "given" for made in (champion, candidate))
        found.append(Change(section, before, after, allowed=False, why=f"nothing says with which params of {section}"))
    before_params, after_params = _flat(champion.params, methods), _flat(candidate.params, methods)
    for name in sorted(before_params.keys() | after_params.keys()):
        before_value, after_value = before_params.get(name, "none"), after_params.get(name, "none")
        if before_value != after_value:
            allowed, why = _allows(name, after_value, plan)
            found.append(Change(name, str(before_value), str(after_value), allowed=allowed, why=why))
    return ChangeCheck(tuple(found))


def _allowed(allowed: bool, key: str) -> str:  # noqa: FBT001  # said, not switched
    return f"{key} is {str(allowed).lower()}"


def _allows(name: str, value: object, plan: ChangeParams) -> tuple[bool, str]:
    """Say whether a param may have a new value, and by which words of the plan."""
    if name in plan.values:
        allowed = plan.values[name]
        same = any(type(value) is type(entry) and value == entry for entry in allowed)
        return same, f"the plan allows {', '.join(map(str, allowed))}"
    if name in plan.ranges and isinstance(value, int | float) and not isinstance(value, bool):
        low, high = plan.ranges[name]
        return low <= value <= high, f"the plan allows {low:g} to {high:g}"
    return False, "the plan does not name it"


def _flat(params: Params, methods: MethodParams) -> dict[str, object]:
    """List the params on which what is in use depends by their dotted names; lists are one value."""
    found: dict[str, object] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif _decides(prefix, methods):
            found[prefix] = value

    walk("", params.model_dump(mode="json"))
    return found


def _decides(name: str, methods: MethodParams) -> bool:
    """Say whether what is in use depends on a param: not on which methods are scored, nor on learning methods but one in use."""
    section, _, rest = name.partition(".")
    if section in RELEVANT:
        return True
    part, _, more = rest.partition(".")
    if section not in methods.phases or part == "methods":
        return False
    return part != "adaptations" or more.partition(".")[0] in (methods.inside, methods.outside)
