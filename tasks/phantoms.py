"""Adapters of the embedded cohort: one task a site."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from fedsilo.cohort.roster import SiteEntry
from fedsilo.params import PhantomsParams
from tasks import workers


@task(name="check scanners", task_run_name="check scanners", cache_policy=NO_CACHE, persist_result=False)
def check(sites: list[SiteEntry]) -> None:
    """Make sure that every site has a phantom scanner, before any is rendered."""
    from fedsilo.cohort.phantoms import cohort

    for site in sites:
        cohort.scanner_of(site)


@task(name="render site", task_run_name="{site.name}: render phantoms", cache_policy=NO_CACHE, persist_result=False)
def render_site(site: SiteEntry, phantoms: PhantomsParams, root: Path, seed: int) -> Path:
    """Write a site's phantoms in nnU-Net raw layout."""
    folder = workers.run(write_site, site=site, phantoms=phantoms, root=root, seed=seed)
    get_run_logger().info("%s: %s", site.name, folder)
    return folder


def write_site(*, site: SiteEntry, phantoms: PhantomsParams, root: Path, seed: int, device: str) -> Path:  # noqa: ARG001  # phantoms are numpy
    """Render one site; runs in a worker process."""
    from fedsilo.cohort.phantoms import cohort

    return cohort.write_site(site, phantoms, root, seed=seed)
