"""What the data contract said of each site, for the phases after the preparation."""

from fedsilo import files
from fedsilo.cohort.roster import Roster
from fedsilo.errors import ContractError
from tasks.paths import RunPaths


def standing(roster: Roster, paths: RunPaths) -> Roster:
    """Leave out the sites that the data contract stopped.

    Raises:
        ContractError: It stopped the federation.
    """
    if paths.contract_stop.is_file():
        findings = files.read_json(paths.contract_stop)["findings"]
        raise ContractError(f"the data contract stopped {roster.name}; run flows.prepare once this is mended: {findings}")
    stopped = set()
    for site in roster.sites:
        verdict = paths.prepared_site(site.name) / "contract.json"
        if verdict.is_file() and files.read_json(verdict).get("success") is False:
            stopped.add(site.name)
    if not stopped:
        return roster
    return roster.model_copy(update={"sites": tuple(site for site in roster.sites if site.name not in stopped)})
