"""Tiny runs of the whole pipeline, in a folder of their own, against the session's one Prefect backend."""

import multiprocessing
from multiprocessing import forkserver

import pytest
from tiny_run import workspace

from tasks import workers


@pytest.fixture(scope="session", autouse=True)
def one_fork_server():
    """A process has one fork server: start it with all that any phase needs, whichever test comes first."""
    multiprocessing.set_forkserver_preload(list(workers.NETWORKS))
    forkserver.ensure_running()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, prefect_backend):
    """A workspace with phantoms and prepared cases; copy it, do not change it."""
    from flows import phantoms, prepare

    made = workspace(tmp_path_factory.mktemp("prepared"))
    assert phantoms.main(made.arguments()) == 0
    assert prepare.main(made.arguments()) == 0
    return made


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared workspace that a test may damage."""
    return prepared.copy(tmp_path / "copy")


@pytest.fixture(scope="session")
def make_workspace():
    """Make a workspace with tiny params in a folder, for some number of parallel sites."""
    return workspace
