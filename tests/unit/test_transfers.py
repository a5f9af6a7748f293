"""Which of DVC's failures may pass when the same is tried again: what it said of a closed port, a missing server and so on."""

import pytest

from fedsilo.errors import FedsiloError
from tasks import repro, transfers
from tasks.transfers import UnreachableError

# what `dvc push` of 3.67.1 with s3fs wrote
PASSING = [
    'unexpected error - Could not connect to the endpoint URL: "http://127.0.0.1:9/bucket/x/files/md5/b1/946a"',
    "unexpected error - [Errno 16] Service Unavailable: An error occurred (503) when calling the HeadObject operation",
    "unexpected error - [Errno 121] Internal Server Error: An error occurred (500) when calling the HeadObject operation",
]
LASTING = [
    "failed to push data to the cloud - config file error: no remote specified in .. Create a default remote with",
    "failed to push data to the cloud - config file error: remote 'nothere' doesn't exist",
    "unexpected error - Forbidden: An error occurred (403) when calling the HeadObject operation: Forbidden",
    "unexpected error - Unable to locate credentials",
    "unexpected error - [Errno 20] Not a directory: 'nofolder/x/files/md5/b1'",
    "unexpected error - ssh is supported, but requires 'dvc-ssh' to be installed: No module named 'dvc_ssh'",
]


def failing(monkeypatch, said):
    def run_dvc(workspace, *arguments):
        raise FedsiloError(f"dvc {arguments[0]} failed with exit code 255: ERROR: {said}")

    monkeypatch.setattr(repro, "run_dvc", run_dvc)


@pytest.mark.parametrize("said", PASSING)
def test_a_network_that_failed_may_be_there_the_next_time(monkeypatch, tmp_path, said):
    failing(monkeypatch, said)

    with pytest.raises(UnreachableError, match="dvc push failed with exit code 255"):
        transfers.transfer(tmp_path, "push", ["dvc.yaml"])


@pytest.mark.parametrize("said", LASTING)
def test_what_stays_as_it_is_is_no_fault_of_the_network(monkeypatch, tmp_path, said):
    failing(monkeypatch, said)

    with pytest.raises(FedsiloError) as raised:
        transfers.transfer(tmp_path, "push", ["dvc.yaml"])
    assert type(raised.value) is FedsiloError


def passing_after(monkeypatch, fails, said):
    """Fail so many times, then succeed; give what was asked of dvc and how long was waited."""
    asked, waited = [], []

    def run_dvc(workspace, *arguments):
        asked.append(arguments)
        if len(asked) <= fails:
            raise FedsiloError(f"dvc push failed with exit code 255: ERROR: {said}")
        return "2 files pushed\n"

    monkeypatch.setattr(repro, "run_dvc", run_dvc)
    monkeypatch.setattr(transfers.time, "sleep", waited.append)
    return asked, waited


def test_a_network_that_comes_back_is_met_with_patience(monkeypatch, tmp_path):
    asked, waited = passing_after(monkeypatch, 2, PASSING[0])

    assert transfers.insist(tmp_path, "push", ["model.dvc"]) == "2 files pushed"
    assert asked == [("push", "model.dvc")] * 3
    assert waited == list(transfers.WAITS_SECONDS[:2])


def test_patience_has_an_end(monkeypatch, tmp_path):
    asked, waited = passing_after(monkeypatch, 99, PASSING[0])

    with pytest.raises(UnreachableError):
        transfers.insist(tmp_path, "push", ["model.dvc"])
    assert len(asked) == 1 + len(waited) == 1 + len(transfers.WAITS_SECONDS)


def test_what_stays_as_it_is_is_not_tried_again(monkeypatch, tmp_path):
    asked, waited = passing_after(monkeypatch, 99, LASTING[0])

    with pytest.raises(FedsiloError):
        transfers.insist(tmp_path, "push", ["model.dvc"])
    assert (len(asked), waited) == (1, [])
