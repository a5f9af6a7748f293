"""A release's folder: what was known when a model was promoted, collected from the run, the trail and the environment."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, forms, releases
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.events import Artifact, Environment
from fedsilo.audit.keys import Signer
from fedsilo.errors import DataError
from tasks import packs, sbom, versions
from tasks.paths import RunPaths

VERDICT, APPROVALS, METADATA, RECORD = "verdict.json", "approvals.json", "metadata.json", "federation.json"
CARD, CARD_TEXT, METRICS, BILL = "model_card.json", "model_card.md", "metrics.json", "sbom.json"
ENVIRONMENT, ANNEX = "environment.json", "annex_iv.md"


@dataclass(frozen=True)
class Contents:
    """What a release is made of.

    Attributes:
        run: The run whose models it has.
        federation: Whose.
        version: ``vX.Y.Z``.
        replaces: Hash of the model in use before.
        verdict: The gate's verdict.
        approvals: Documents by which the model is approved.
        checkpoint: Of the log, over both.
        environment: Code and lock files that the release is made with.
        why: Reason of the promotion.
        created: When.
    """

    run: RunPaths
    federation: str
    version: str
    replaces: str | None
    verdict: Path
    approvals: Sequence[Mapping[str, object]]
    checkpoint: Checkpoint
    environment: Environment
    why: str
    created: str


def models_of(run: RunPaths) -> dict[str, Path]:
    """Find a run's models, by their paths in a release: the global one and the inside models that go with it.

    Raises:
        DataError: The run is another cohort's; or a model is missing, or is not the one that the run's record speaks of.
    """
    record = files.read_json(run.federation_record)
    if record.get("cohort") != run.cohort:
        raise DataError(f"{run.run} is a run of {record.get('cohort')}, not of {run.cohort}")
    known = record.get("model_sha256")
    if not isinstance(known, dict) or "global" not in known:
        raise DataError(f"cannot use {run.federation_record}: it lacks model_sha256")
    chosen = [key for key in sorted(known) if key == "global" or key.startswith("inside/")]
    found = {f"{key}.safetensors": run.run_dir / f"{key}.safetensors" for key in chosen}
    for key, path in zip(chosen, found.values(), strict=True):
        if not path.is_file() or files.sha256_file(path) != known[key]:
            raise DataError(f"{path} is missing, or not the model that {run.federation_record} speaks of")
    return found


def assemble(contents: Contents, folder: Path, server: Signer) -> None:
    """Make a release's folder; one that is whole and of this promotion stays.

    Raises:
        DataError: Something that it is made of is missing.
        OutputError: It cannot be written.
    """
    if folder.exists():
        if releases.read(folder).created != contents.created:
            raise DataError(f"{folder} is another release")
        return
    building = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    models = models_of(contents.run)
    for name, path in models.items():
        (building / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, building / name)
    listed = [Artifact(name, files.sha256_file(building / name)) for name in models]
    model = next(f"sha256:{entry.sha256}" for entry in listed if entry.name == releases.GLOBAL)
    _describe(contents, building, model)
    record = {
        "federation": contents.federation,
        "name": releases.name_of(contents.federation),
        "version": contents.version,
        "run": contents.run.run,
        "model": model,
        "verdict": f"sha256:{files.sha256_file(building / VERDICT)}",
        "checkpoint": forms.plain(contents.checkpoint),
        "created": contents.created,
        **({"replaces": contents.replaces} if contents.replaces else {}),
    }
    releases.sign(building, record, listed, server)
    files.place_folder(building, folder)


def _describe(contents: Contents, folder: Path, model: str) -> None:
    """Write all files of a release but models and manifest."""
    from fedsilo.evaluation import cases  # reads tables with pandas
    from fedsilo.report import released
    from fedsilo.report import sbom as bills

    run, verdict = contents.run, contents.verdict.read_bytes()
    files.write_bytes(folder / VERDICT, verdict)
    files.write_bytes(folder / APPROVALS, canonical.dumps({"approvals": list(contents.approvals)}) + b"\n")
    record = files.read_json(run.federation_record)
    files.write_bytes(folder / RECORD, run.federation_record.read_bytes())
    described = packs.metadata(releases.name_of(contents.federation), record)
    described |= {"version": contents.version.removeprefix("v"), "changelog": {contents.version.removeprefix("v"): contents.why}}
    files.write_json(folder / METADATA, described)
    environment = forms.plain(contents.environment) | {"machine": os.uname().machine, "fedsilo": versions.installed()}
    files.write_json(folder / ENVIRONMENT, environment)
    name, installed = sbom.listed(versions.CODE)
    files.write_text(folder / BILL, bills.document(installed, root=name, properties={}, epoch=None))
    tables = [run.cases_table(phase) for phase in ("inside", "outside") if run.cases_table(phase).is_file()]
    rows = [row for table in tables for row in released.rows(cases.read(table))]
    facts = released.Facts(
        name=releases.name_of(contents.federation),
        version=contents.version,
        model=model,
        replaces=contents.replaces,
        why=contents.why,
        created=contents.created,
        record=record,
        environment=environment,
        verdict=files.read_json(contents.verdict),
        verdict_sha256=f"sha256:{files.sha256_file(contents.verdict)}",
        approvals=contents.approvals,
        rows=rows,
    )
    files.write_json(folder / METRICS, released.metrics(rows))
    files.write_json(folder / CARD, released.card(facts))
    files.write_text(folder / CARD_TEXT, released.card_text(facts))
    files.write_text(folder / ANNEX, released.annex_iv(facts))
