"""Adapters of drift: a site measures features of its prepared cases, remembers them, and tells how new ones differ."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from fedsilo import files
from fedsilo.audit.events import Decision, Subject
from fedsilo.errors import DataError
from fedsilo.trigger_params import DriftPolicy
from tasks import scoring, trails, workers
from tasks.drift_paths import DriftPaths
from tasks.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedsilo.cohort.manifest import ManifestRow
    from fedsilo.cohort.windows import Memory
    from fedsilo.evaluation.drift_reports import DriftReport
    from tasks.scoring import Predictor

RULE = "drift"
REFERENCE, NONE = "reference", "none"
"""Verdicts of events without a report."""
NOTHING_NEW = "no new case since the last window"


@dataclass(frozen=True)
class Watch:
    """Whose cases are looked at, by which policy; with ``predict`` also by the eyes of the run's global model."""

    federation: Federation
    policy: DriftPolicy
    predict: bool = False

    @property
    def paths(self) -> DriftPaths:
        """Where features and reports lie."""
        return DriftPaths(self.federation.paths)

    def origin(self) -> str:
        """Hash how features are made."""
        from fedsilo.cohort import features

        params, run = self.federation.params.prepare, self.federation.paths
        plan = files.sha256_file(run.docs_dir / "plan.json") if params.plan == "federated" else ""
        model = files.sha256_file(run.global_state) if self.predict else ""
        return features.origin(
            params.model_dump(mode="json", exclude={"contract", "val_share", "test_share"}), plan=plan, model=model
        )


@task(name="remember cases", task_run_name="{site}: remember cases", cache_policy=NO_CACHE, persist_result=False)
def remember(site: str, watch: Watch) -> Path:
    """Take all that a site has now as the reference, as its champion knows it; earlier windows and reports end."""
    path = workers.run(remember_site, site=site, watch=watch)
    shutil.rmtree(watch.paths.reports_dir(site), ignore_errors=True)
    scribe = trails.scribe(watch.federation.audit)
    subject = Subject("dataset", _dataset(watch, site), after=trails.hashed(_listed(watch, site)))
    text = "prepared cases taken as the reference of drift"
    scribe.append("drift.report", text, actor=site, site=site, subject=subject, decision=Decision(RULE, REFERENCE))
    get_run_logger().info("%s: features of the reference stay in %s", site, path)
    return path


@task(name="look for drift", task_run_name="{site}: look for drift", cache_policy=NO_CACHE, persist_result=False)
def look(site: str, watch: Watch) -> Path | None:
    """Compare a site's new cases with its reference and tell the trail; without a new case there is no report, and None."""
    path = workers.run(look_site, site=site, watch=watch)
    scribe = trails.scribe(watch.federation.audit)
    subject = Subject("dataset", _dataset(watch, site), after=trails.hashed(_listed(watch, site)))
    if path is None:
        scribe.append("drift.report", NOTHING_NEW, actor=site, site=site, subject=subject, decision=Decision(RULE, NONE))
        get_run_logger().info("%s: %s", site, NOTHING_NEW)
        return None
    from fedsilo.evaluation import drift_reports

    told = drift_reports.read(path)
    decision = Decision(RULE, told.verdict, trails.hashed(path))
    outputs = [trails.artifact(path, path.relative_to(watch.federation.paths.workspace).as_posix())]
    text = f"window {told.window}: {_counted(told)}"
    scribe.append("drift.report", text, actor=site, site=site, subject=subject, outputs=outputs, decision=decision)
    if told.verdict != "too few":
        watch.paths.next_memory(site).replace(watch.paths.memory(site))  # told of first: a run that is cut off tells it again
    get_run_logger().info("%s: %s, %s", site, line(told), path)
    return path


def is_comparable(site: str, watch: Watch) -> bool:
    """Say whether a site remembers cases whose features were made as they are made now."""
    from fedsilo.cohort import windows

    path = watch.paths.memory(site)
    return path.is_file() and windows.read(path).origin == watch.origin()


def remember_site(*, site: str, watch: Watch, device: str) -> Path:
    """Measure and keep a site's cases; runs in a worker process."""
    from fedsilo.cohort import windows

    rows = {row.content_hash: row for row in _rows(watch, site)}
    if not rows:
        raise DataError(f"site {site} has no prepared case to remember")
    found = _features(site, watch, rows, device)
    return windows.write(windows.reference(found, _patients(rows), origin=watch.origin()), watch.paths.memory(site))


def look_site(*, site: str, watch: Watch, device: str) -> Path | None:
    """Write the report of a site's next window; runs in a worker process.

    New cases of patients whom the reference has are in the window, and count for nothing: they resemble what is there.
    """
    from fedsilo.cohort import features, windows
    from fedsilo.evaluation import drift_reports
    from fedsilo.evaluation.drift_reports import Samples

    memory = _memory(site, watch)
    listed = {row.content_hash: row for row in _rows(watch, site)}
    rows = {content: listed[content] for content in memory.new(list(listed))}
    if not rows:
        return None
    names, before = features.table(memory.of_window(windows.REFERENCE))
    found = _features(site, watch, rows, device)
    new_names, now = features.table([found[content] for content in sorted(found)])
    if names != new_names:
        raise DataError(f"site {site}: its cases have other features than those remembered; run flows.drift --remember")
    owners, known = _patients(rows), [memory.patients[content] for content in memory.cases(windows.REFERENCE)]
    counting = memory.strangers(owners)
    chosen = [index for index, content in enumerate(sorted(found)) if content in set(counting)]
    report = drift_reports.report(
        Samples(
            names,
            {name: features.step_of(name) for name in names},
            before,
            now[chosen],
            (known, [owners[content] for content in counting]),
            memory.origin,
        ),
        cohort=watch.federation.roster.name,
        site=site,
        window=memory.newest + 1,
        alpha=watch.policy.alpha,
        permutations=watch.policy.permutations,
        seed=watch.federation.params.seed,
        fewest=watch.policy.fewest,
    )
    windows.write(memory.grown(report.window, found, _patients(rows)), watch.paths.next_memory(site))
    return drift_reports.write(report, watch.paths.report(site, report.window))


def line(report: DriftReport) -> str:
    """Say what a report says, in a line."""
    if report.p_value is None:
        return f"{report.verdict}: {_counted(report)}"
    moved = [feature.name for feature in report.features if feature.p_adjusted <= report.alpha]
    features = f", {', '.join(moved)}" if moved else ""
    return f"{report.verdict}: p {report.p_value:.3f} (MMD {report.mmd_p:.3f}, KS {report.ks_p:.3f}){features}"


def _counted(report: DriftReport) -> str:
    """Say how much was compared."""
    new = f"{report.num_window} new cases of {report.window_patients} patients"
    return f"{new} beside {report.num_reference} of {report.reference_patients}"


def _patients(rows: Mapping[str, ManifestRow]) -> dict[str, str]:
    """Name the patients of cases."""
    return {content: row.patient for content, row in rows.items()}


def _memory(site: str, watch: Watch) -> Memory:
    """Read what a site remembers, if it was made as features are made now."""
    from fedsilo.cohort import windows

    path = watch.paths.memory(site)
    if not path.is_file():
        raise DataError(f"site {site} remembers no reference; run flows.drift --remember once its champion is in use")
    memory = windows.read(path)
    if memory.origin != watch.origin():
        raise DataError(f"site {site}: params or model are other than those of its reference; run flows.drift --remember")
    return memory


def _rows(watch: Watch, site: str) -> list[ManifestRow]:
    from fedsilo.cohort import manifest

    return manifest.read(_listed(watch, site))


def _features(site: str, watch: Watch, rows: Mapping[str, ManifestRow], device: str) -> dict[str, Mapping[str, float]]:
    """Measure cases, one in memory at a time."""
    import pandas

    from fedsilo.cohort import features, preprocess
    from fedsilo.cohort.features import Seen
    from fedsilo.federation import states

    federation, folder = watch.federation, watch.federation.paths.prepared_site(site)
    facts = {str(row["case"]): row for row in pandas.read_parquet(folder / "facts.parquet").to_dict("records")}
    in_hu = federation.roster.site(site).intensity_unit == "hu"
    predictor: Predictor | None = scoring.predictor(federation, device) if watch.predict else None
    state = states.load(federation.paths.global_state) if watch.predict else None
    found: dict[str, Mapping[str, float]] = {}
    for content, row in rows.items():
        case = preprocess.load(folder / row.file)
        stored = {name: facts[row.case][name] for name in features.IN_HU} if in_hu else None
        seen = None
        if predictor is not None and state is not None:
            seen = Seen(predictor.predict(case.image, state), tuple(federation.roster.organs))
        found[content] = features.of_case(case, stored=stored, seen=seen)
    return found


def _listed(watch: Watch, site: str) -> Path:
    return watch.federation.paths.prepared_site(site) / "manifest.csv"


def _dataset(watch: Watch, site: str) -> str:
    return f"{watch.federation.roster.name}/{site}"
