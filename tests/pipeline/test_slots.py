"""One site a device across runs: a slot is held by one at a time, and a limit that is not there lets nobody in."""

import threading

import pytest

from fedsilo.errors import FedsiloError
from tasks import slots, workers


@pytest.fixture
def limit(prefect_backend):
    """The limit of the first device."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as api:
        api.upsert_global_concurrency_limit_by_name(slots.name(0), 1)
        yield slots.name(0)
        api.delete_global_concurrency_limit_by_name(slots.name(0))


def where(device):
    """Say on which device a job runs."""
    return device


def test_a_job_waits_for_the_slot_of_its_device(limit):
    done = []
    with workers.pool(1, "cpu", preload=["torch"], shared=True) as pool:
        with slots.hold(limit):
            job = threading.Thread(target=lambda: done.append(pool.run(where, {})))
            job.start()
            job.join(3)
            assert done == [], "another run is on the device"
        job.join(60)

    assert done == ["cpu"]


def test_a_missing_limit_is_refused(prefect_backend):
    with (
        workers.pool(1, "cpu", preload=["torch"], shared=True) as pool,
        pytest.raises(FedsiloError, match=r"no global concurrency limit device-0; `make serve` makes it"),
    ):
        pool.run(where, {})


def test_runs_that_share_no_devices_need_no_server(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")

    with workers.pool(1, "cpu", preload=["torch"]) as pool:
        assert pool.run(where, {}) == "cpu"


def test_two_pools_do_not_share_a_device(limit):
    order = []
    inside = threading.Semaphore(1)

    def job(pool):
        with slots.hold(limit):
            assert inside.acquire(blocking=False), "two at once"
            order.append(pool)
            inside.release()

    threads = [threading.Thread(target=job, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert sorted(order) == [0, 1, 2]
