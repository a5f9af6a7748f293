"""A few kills at random moments; `make chaos` is the long version."""

import chaos
import pytest
from prefect.settings import PREFECT_API_URL

PHASES = ("prepare", "federate", "outside")


@pytest.fixture(scope="module")
def expected(prepared, tmp_path_factory):
    """A run that nobody disturbs, from prepared cases on."""
    made = prepared.copy(tmp_path_factory.mktemp("undisturbed") / "run")
    url = str(PREFECT_API_URL.value())
    seconds = {phase: chaos.finish(made, phase, url) for phase in PHASES}
    return chaos.Undisturbed(chaos.tiny_run.hashes(made.folder, chaos.PARTS), seconds)


def test_killed_phases_go_on_to_the_same_bytes_and_a_whole_trail(expected, copied):
    outcome = chaos.disturbed(copied, expected, seed=7, num_kills=4, api_url=str(PREFECT_API_URL.value()), phases=PHASES)

    assert sum(outcome.kills.values()) == 4
    assert outcome.differing == []
    assert "lines verified" in outcome.trail
