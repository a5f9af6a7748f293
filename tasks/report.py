"""Adapter of the report: result tables to one page, metrics and plots."""

from __future__ import annotations

import platform
import re
import shutil
from importlib.metadata import requires, version
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.federation import Federation


@task(name="build report", task_run_name="report of {federation.paths.run}", cache_policy=NO_CACHE, persist_result=False)
def build_report(federation: Federation, stopped: tuple[str, ...]) -> Path:
    """Write the page, metrics.json and the plots' tables; return the page. Names the sites that the contract stopped."""
    from fedsilo import files
    from fedsilo.report import document, inputs, numbers, page, tables

    paths, roster, params = federation.paths, federation.run_roster, federation.params
    sources = inputs.Sources(
        workspace=paths.workspace,
        rounds=paths.rounds_table,
        federation=paths.federation_record,
        phases={"inside": paths.phase_dir("inside"), "outside": paths.phase_dir("outside")},
        prepared={site.name: paths.prepared_site(site.name) for site in roster.sites},
        stopped={name: paths.prepared_site(name) for name in stopped},
    )
    loaded = inputs.load(roster, sources)
    built = document.build(loaded, params.report, run=paths.run, seed=params.seed, environment=_environment())
    files.write_json(paths.report_dir / "metrics.json", numbers.metrics(built))
    shutil.rmtree(paths.report_dir / "plots", ignore_errors=True)
    for name, text in numbers.plots(built).items():
        files.write_text(paths.report_dir / "plots" / name, text)
    path = files.write_text(paths.report_dir / "index.html", page.render(built))
    headline = tables.headline_text(built.headline, confidence=params.report.confidence)
    create_markdown_artifact(
        key=f"report-{paths.artifact_suffix}",
        markdown=f"Report of {paths.run}: `{path}`\n\n```\n{headline}```\n",
        description=f"Headline of {paths.run}",
    )
    create_link_artifact(
        key=f"report-page-{paths.artifact_suffix}",
        link=path.resolve().as_uri(),
        link_text="report",
        description=f"Report of {paths.run}",
    )
    get_run_logger().info("%s", path)
    return path


def _environment() -> dict[str, str]:
    """List Python, the machine, fedsilo and every package it asks for, with versions."""
    asked = [requirement for requirement in requires("fedsilo") or () if "extra ==" not in requirement]
    names = ["fedsilo", *sorted(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in asked)]
    return {"python": platform.python_version(), "machine": platform.machine(), **{name: version(name) for name in names}}
