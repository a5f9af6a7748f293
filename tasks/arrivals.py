"""Tell a Prefect server that a site accepted data: what a deployment may start on."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import Event, Resource
from prefect.settings import get_current_settings

ACCEPTED = "fedsilo.data.accepted"
RETRIES = 3
DELAYS_SECONDS = [1.0, 5.0, 20.0]


@task(
    name="announce data", task_run_name="announce data of {site}", retries=RETRIES, retry_delay_seconds=DELAYS_SECONDS,
    cache_policy=NO_CACHE, persist_result=False,
)  # fmt: skip
def announce(server: str, cohort: str, site: str) -> None:
    """Send the event that a site has new data; it names the cohort and the site and says nothing of the data.

    Args:
        server: URL of the Prefect server's API.
        cohort: Whose data they are.
        site: That accepted them.
    """
    resource = Resource({"prefect.resource.id": f"fedsilo.site.{cohort}.{site}"})
    told = Event(event=ACCEPTED, resource=resource, payload={"cohort": cohort})
    login = get_current_settings().api.auth_string
    # not emit_event, which goes on before the event has arrived, if it does
    with SyncPrefectClient(server, auth_string=login.get_secret_value() if login else None) as api:
        api.request("POST", "/events", json=[told.model_dump(mode="json")]).raise_for_status()
