"""A candidate runs beside the model in use on cases without labels: how far they agree, told in the trail and nowhere used."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING

from fedsilo import files
from fedsilo.audit import documents, releases, trail
from fedsilo.audit.documents import Release
from fedsilo.audit.events import CHAMPION, Artifact, Decision, Draft, Subject, Why
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.audit.register import SERVER
from fedsilo.errors import DataError
from tasks import keyring, scoring, sites, trails
from tasks.release_paths import ReleasePaths

if TYPE_CHECKING:
    from pathlib import Path

    from fedsilo.audit.keys import Signer
    from tasks.federation import Federation

SHADOW = "deploy.shadow"
COLUMNS = ("case", "organ", "dice", "candidate", "champion", "unit")


def model_of(paths: ReleasePaths, name: str) -> tuple[str, Path]:
    """Find a global model by its version or run; give its name in the trail too.

    Raises:
        DataError: There is none.
        ParamsError: The name is neither a version's nor a run's.
    """
    if releases.VERSION_TEXT.fullmatch(name):
        found = releases.name_of(paths.federation), paths.folder(name) / releases.GLOBAL
    else:
        found = f"{name}/global", paths.run(name).global_state
    if not found[1].is_file():
        raise DataError(f"there is no {found[1]}")
    return found


def compare(federation: Federation, site: str, candidate: Path, champion: Path, *, device: str) -> list[tuple[object, ...]]:
    """Let two models predict a site's cases, of which only images are read; give a row a case and organ.

    At a site that trained, cases that it did not train on.

    Raises:
        CheckpointError: A model cannot be read.
        DataError: The site has no such case.
        StateMismatchError: A model is of another network than the params say.
    """
    from fedsilo.cohort import preprocess, unlabelled
    from fedsilo.evaluation import agreement
    from fedsilo.federation import states

    folder = federation.paths.prepared_site(site)
    trained = site in {name for members in federation.members.values() for name in members}
    rows = sites.rows_of(folder, "test") if trained else sites.all_rows(folder)
    if not rows:
        raise DataError(f"site {site} has no case that it did not train on")
    organs = {value: organ for value, organ in enumerate(federation.roster.organs) if value}
    predictor, known = scoring.predictor(federation, device), [states.load(path) for path in (candidate, champion)]
    found: list[tuple[object, ...]] = []
    for row in rows:
        case = unlabelled.load(folder / row.file)
        first, second = (preprocess.to_native(predictor.predict(case.image, state), case.recipe) for state in known)
        spacing_mm = preprocess.native_spacing(case.recipe)
        for entry in agreement.compare(first, second, organs=organs, spacing_mm=spacing_mm):
            dice = "" if entry.dice is None else f"{entry.dice:.6f}"
            volumes = (f"{entry.candidate:.3f}", f"{entry.champion:.3f}")
            found.append((row.case, entry.organ, dice, *volumes, entry.unit))
    return found


def run(
    federation: Federation, site: str, candidate: str, champion: str, why: str, *, signer: Signer, device: str
) -> tuple[Path, str]:
    """Run a candidate beside the model in use at a site, and say in the trail that it was done.

    Args:
        federation: Whose.
        site: Whose cases.
        candidate: A run's name or a version.
        champion: The version in use, or the run that it was made from.
        why: The reason.
        signer: The promoter, who answers for it.
        device: Where to compute.

    Returns:
        The table, which names cases and stays with the run's results; and a line that says what came out.

    Raises:
        AuditRefusedError: This person may not deploy; nothing was done.
        DataError: A model or the site cannot be used, or the champion is not the model in use.
        OutputError: The table cannot be written.
    """
    paths = ReleasePaths(federation.paths.workspace, federation.roster.name)
    keyring.check_founded(paths.audit)
    (name, first), (_, second) = model_of(paths, candidate), model_of(paths, champion)
    model, created = trails.hashed(first), trail.utc_now().strftime(TIME_FORMAT)
    with trails.held(federation.paths, ()) as scribe:
        in_use, found = scribe.opened.state.champions.get(releases.name_of(paths.federation)), trails.hashed(second)
        if in_use is None or found != in_use.current:
            raise DataError(f"{champion} is {found}, in use is {in_use.current if in_use else 'no model'}: name that one")
        server = keyring.signer(paths.audit, SERVER)
        draft = Draft(
            SHADOW,
            Why(champion, why),
            site=site,
            subject=Subject("model", name, after=model),
            inputs=(Artifact(CHAMPION, found.removeprefix("sha256:")),),
            env=scribe.made_with,
            attached=documents.sign(Release(paths.federation, SHADOW, name, model, why, created), signer),
        )
        scribe.opened.check(draft, server)
        rows = compare(federation, site, first, second, device=device)
        table = _write(rows, federation.paths.run_dir / "shadow" / f"{site}.csv")
        known = [float(str(row[2])) for row in rows if row[2]]
        mean = f"mean Dice {sum(known) / len(known):.4f}" if known else "no organ found"
        told = f"{mean} between {candidate} and {champion} at {site}, {len({row[0] for row in rows})} cases"
        outputs = (trails.artifact(table, table.relative_to(paths.workspace).as_posix()),)
        decision = Decision("shadow", told, trails.hashed(table))
        scribe.opened.append(replace(draft, outputs=outputs, decision=decision), server)
    return table, f"{told}: {table}\n"


def _write(rows: list[tuple[object, ...]], path: Path) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return files.write_text(path, text.getvalue())
