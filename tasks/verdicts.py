"""What the data contract said of each site, for the phases after the preparation."""

from fedsilo import files
from fedsilo.cohort.roster import Roster
from tasks.paths import RunPaths


def standing(roster: Roster, paths: RunPaths) -> Roster:
    """Leave out the sites that the data contract stopped."""
    stopped = set()
    for site in roster.sites:
        verdict = paths.prepared_site(site.name) / "contract.json"
        if verdict.is_file() and files.read_json(verdict).get("success") is False:
            stopped.add(site.name)
    if not stopped:
        return roster
    return roster.model_copy(update={"sites": tuple(site for site in roster.sites if site.name not in stopped)})
