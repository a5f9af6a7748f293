"""What the trail says of models that are in their place: which were chosen, and on whom they were evaluated."""

from __future__ import annotations

import csv
import hashlib
from typing import TYPE_CHECKING

from fedsilo.audit.events import Artifact, Decision, Subject
from fedsilo.federation.records import INSIDE
from tasks import trails

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.federation import Federation

SELECTION = "selection"
HOLDOUT = "holdout/"
"""Before a site's name: its test cases, on which a global model was scored."""


def selected(federation: Federation, *, global_round: int, inside_rounds: dict[str, int]) -> None:
    """Say which rounds' models were saved: the server of the global one, each site of its own.

    Args:
        federation: Whose.
        global_round: Round that the global state opens.
        inside_rounds: By site the round after which its inside model stood.
    """
    journal, paths, scribe = federation.journal(), federation.paths, trails.scribe(federation.audit)
    table = trails.hashed(paths.rounds_table)
    scribe.append(
        "evaluate",
        "the best state by validation Dice",
        subject=Subject("model", f"{paths.run}/global", after=trails.hashed(paths.global_state)),
        decision=Decision(SELECTION, f"round {global_round}", table),
    )
    for site, last in inside_rounds.items():
        states = [journal.server_record(index).sha256 for index in journal.turns(site, last + 1)]
        scribe.append(
            "evaluate",
            f"the best {INSIDE} model by the site's validation Dice",
            actor=site,
            site=site,
            subject=Subject("model", f"{paths.run}/{INSIDE}/{site}", after=trails.hashed(paths.inside_state(site))),
            inputs=[Artifact(f"{paths.run}/server", sha256) for sha256 in states],
            decision=Decision(SELECTION, f"round {last}", table),
        )


def evaluated(federation: Federation, phase: str, table: Path) -> None:
    """Say which models were evaluated: the global one, and inside models at their own sites."""
    paths = federation.paths
    models = {f"{paths.run}/global": paths.global_state}
    if phase == INSIDE:
        models |= {f"{paths.run}/{INSIDE}/{site}": paths.inside_state(site) for site in federation.sites}
    scored(federation, phase, table, models, made_with=trails.params_section(federation.params, phase))


def scored(
    federation: Federation, gate: str, table: Path, models: Mapping[str, Path], *, made_with: Sequence[Artifact] = ()
) -> None:
    """Say that models, by their names, have scores in a table, and of a global one on which test cases and with which params."""
    paths, scribe = federation.paths, trails.scribe(federation.audit)
    decision = Decision(gate, "scored", trails.hashed(table))
    outputs = [trails.artifact(table, table.relative_to(paths.workspace).as_posix())]
    with table.open(newline="", encoding="utf-8") as handle:
        sites = sorted({row["site"] for row in csv.DictReader(handle)})
    holdout = [Artifact(f"{HOLDOUT}{site}", holdout_sha256(paths.prepared_site(site))) for site in sites]
    for name, path in models.items():
        subject = Subject("model", name, after=trails.hashed(path))
        # inputs of an inside model are the states that it was folded over
        inputs = [*holdout, *made_with] if name.endswith("/global") else []
        scribe.append("evaluate", f"{gate} evaluation", subject=subject, inputs=inputs, outputs=outputs, decision=decision)


def holdout_sha256(folder: Path) -> str:
    """Hash a site's test cases: whose they are, and all that a score of them depends on; hex.

    Raises:
        DataError: The site was not prepared.
    """
    from tasks import sites

    rows = sites.rows_of(folder, "test")
    lines = "".join(f"{row.patient}\t{row.case}\t{row.sha256}\t{row.label_hash}\t{row.annotated}\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()
