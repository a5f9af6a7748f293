"""What training and routing recorded: curves by round, routes by expert, losses by step."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas

from fedsilo.report.inputs import Routing

LOW_DISAGREEMENT = 0.02


@dataclass(frozen=True)
class Curve:
    """One inside site over the rounds; values that were not measured are None.

    Attributes:
        site: The site.
        rounds: Rounds, ascending.
        train_loss: Mean loss of the round at the site.
        val_dice_global: Validation Dice of the global model that the round led to.
        val_dice_inside: Validation Dice of the site's inside model.
        selected_global: Round whose global model is evaluated; None if it is none of these.
        selected_inside: Round whose inside model is evaluated; None if it is none of these.
    """

    site: str
    rounds: tuple[int, ...]
    train_loss: tuple[float | None, ...]
    val_dice_global: tuple[float | None, ...]
    val_dice_inside: tuple[float | None, ...]
    selected_global: int | None
    selected_inside: int | None


@dataclass(frozen=True)
class Route:
    """Mean weight of one expert over cases and layers of a site, before the first and after the last step."""

    site: str
    method: str
    expert: str
    before: float
    after: float


@dataclass(frozen=True)
class Objective:
    """Mean unlabelled loss over cases of a site, before the first and after the last step."""

    site: str
    method: str
    num_cases: int
    num_steps: int
    before: float
    after: float


@dataclass(frozen=True)
class Disagreement:
    """How much pairs of experts differ at a site: share of voxels where either sees an organ and they do not agree.

    Attributes:
        site: The site.
        num_pairs: Pairs of experts.
        lowest: Pair that differs least.
        highest: Pair that differs most.
    """

    site: str
    num_pairs: int
    lowest: float
    highest: float

    @property
    def is_low(self) -> bool:
        """Whether no pair differs by two percent, so that there is little to route."""
        return self.highest < LOW_DISAGREEMENT


@dataclass(frozen=True)
class RouterUse:
    """What the router did at a site.

    Attributes:
        site: The site.
        num_cases: Its cases.
        num_kept: Those that the averaged model predicted; the others were left to the fallback.
        passes: Mean cost of a case, in forward passes of one model over it.
        weights: Mean weight of each expert, the global model first.
    """

    site: str
    num_cases: int
    num_kept: int
    passes: float
    weights: tuple[tuple[str, float], ...]


def curves(rounds: pandas.DataFrame) -> tuple[Curve, ...]:
    """Read the training curves, sorted by site."""
    return tuple(_curve(str(site), part.sort_values("round")) for site, part in rounds.groupby("site"))


def _curve(site: str, part: pandas.DataFrame) -> Curve:
    return Curve(
        site=site,
        rounds=tuple(int(value) for value in part["round"]),
        train_loss=_measured(part["train_loss"]),
        val_dice_global=_measured(part["val_dice_global"]),
        val_dice_inside=_measured(part["val_dice_inside"]),
        selected_global=_selected(part, "selected_global"),
        selected_inside=_selected(part, "selected_inside"),
    )


def _measured(values: "pandas.Series[float]") -> tuple[float | None, ...]:
    return tuple(None if pandas.isna(value) else float(value) for value in values)


def _selected(part: pandas.DataFrame, column: str) -> int | None:
    chosen = part.loc[part[column] == 1, "round"]
    return int(chosen.iloc[0]) if len(chosen) else None


def routes(routing: Routing) -> tuple[Route, ...]:
    """Average the routes over cases and layers, at the first and the last step; sorted by site, method, expert (global first)."""
    found: list[Route] = []
    for (site, method), part in routing.routes.groupby(["site", "method"]):
        first, last = (part[part["step"] == step].groupby("expert")["weight"].mean() for step in _ends(part))
        experts = sorted((str(expert) for expert in first.index), key=lambda expert: (expert != "global", expert))
        found += [Route(str(site), str(method), expert, float(first[expert]), float(last[expert])) for expert in experts]
    return tuple(found)


def objectives(routing: Routing) -> tuple[Objective, ...]:
    """Average the unlabelled loss over cases, at the first and the last step; sorted by method and site."""
    found: list[Objective] = []
    for (method, site), part in routing.objective.groupby(["method", "site"]):
        first, last = _ends(part)
        before, after = (float(part.loc[part["step"] == step, "total"].mean()) for step in (first, last))
        found.append(Objective(str(site), str(method), part["case"].nunique(), last - first, before, after))
    return tuple(found)


def _ends(part: pandas.DataFrame) -> tuple[int, int]:
    return int(part["step"].min()), int(part["step"].max())


def disagreements(routing: Routing) -> tuple[Disagreement, ...]:
    """Summarise how much the experts differ at each site; pairs that saw no organ are left out."""
    found: list[Disagreement] = []
    for site, part in routing.disagreement.groupby("site"):
        shares = part["disagreement"].dropna()
        if len(shares):
            found.append(Disagreement(str(site), len(shares), float(shares.min()), float(shares.max())))
    return tuple(found)


def router_use(routing: Routing) -> tuple[RouterUse, ...]:
    """Summarise the router, sorted by site; nothing if it was not run."""
    found: list[RouterUse] = []
    for site, part in routing.router.groupby("site"):
        weights = part.groupby("expert")["weight"].mean()
        experts = sorted((str(expert) for expert in weights.index), key=lambda expert: (expert != "global", expert))
        a_case = part.drop_duplicates("case")
        shares = tuple((expert, float(weights[expert])) for expert in experts)
        found.append(RouterUse(str(site), len(a_case), int(a_case["kept"].sum()), float(a_case["passes"].mean()), shares))
    return tuple(found)


def flattened(record: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """List the leaves of a nested record with their paths, sorted.

    Example:
        >>> flattened({"b": {"x": 1}, "a": [1, 2]})
        [('a', [1, 2]), ('b.x', 1)]
    """
    leaves: list[tuple[str, object]] = []
    for key in sorted(record):
        value = record[key]
        if isinstance(value, Mapping):
            leaves += flattened(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves
