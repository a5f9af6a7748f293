"""The plan that follows from the histograms of all sites, and its use in the preparation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fedsilo.errors import ParamsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsilo.cohort.facts import Facts
    from fedsilo.params import PrepareParams


def made_from(sites: Sequence[Sequence[Facts]]) -> dict[str, object]:
    """Merge the fingerprints of sites and say what follows; empty where no case has a spacing."""
    from fedsilo.cohort import fingerprint

    shapes = [fingerprint.case_shapes(rows) for rows in sites]
    parts = [fingerprint.of_site(found) for found in shapes if found]
    if not parts:
        return {}
    merged = fingerprint.merge(parts)
    return {"num_sites": len(parts), "num_cases": merged.num_cases, **vars(fingerprint.plan(merged))}


def followed(params: PrepareParams, plan_path: Path) -> PrepareParams:
    """Put the plan's spacing and CT clip in the place of those of the params, if these say so; a null z keeps the slices.

    Raises:
        ParamsError: The plan is asked for and empty.
    """
    if params.plan == "params":
        return params
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    if not plan:
        raise ParamsError("prepare.plan is federated, but no inside site that takes part has cases with a spacing")
    z, y, x = plan["spacing_zyx"]
    keeps_slices = params.spacing_zyx_mm[0] is None
    clip = {"ct_clip_hu": tuple(plan["clip_hu"])} if plan["clip_hu"] else {}
    return params.model_copy(update={"spacing_zyx_mm": (None if keeps_slices else z, y, x), **clip})
