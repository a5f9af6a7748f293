"""What all tests of a process share: the environment, one thread, the same examples every time, one Prefect server."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="fedsilo-tests-")
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two busy pools of threads are slower than one thread each
os.environ.pop("PREFECT_API_URL", None)

import hypothesis

import flows  # noqa: F401  # sets the rest of the environment, before anything imports Prefect

hypothesis.settings.register_profile("fedsilo", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("fedsilo")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute with one thread, also where torch was imported earlier than this file."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded_torch() -> None:
    """Give networks that a test builds without a generator the same weights whichever tests ran before."""
    import torch

    torch.manual_seed(0)  # noqa: TID251  # tests only; fedsilo itself never draws from the global generator


@pytest.fixture(scope="session")
def prefect_backend() -> Iterator[None]:
    """One Prefect server for all tests that run flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY
