"""In which folder a flow may work: a process that serves has a list, a run of a deployment without one its own folder alone."""

import os

import pytest

from fedsilo.errors import ParamsError
from flows import environment


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders to serve, in the first of which the process works, and a third."""
    found = [tmp_path / name for name in ("served", "also", "other")]
    for folder in found:
        folder.mkdir()
    monkeypatch.chdir(found[0])
    monkeypatch.delenv(environment.WORKSPACES, raising=False)
    return found


def deployed(monkeypatch, value):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", value)


def test_a_person_chooses_any_folder(folders):
    assert [environment.workspace(str(folder)) for folder in folders] == folders


def test_a_process_that_serves_works_in_its_folders_whatever_the_server_says_of_the_run(folders, monkeypatch):
    served, also, other = folders
    monkeypatch.setenv(environment.WORKSPACES, os.pathsep.join([".", str(also)]))

    assert environment.workspace(".").resolve() == environment.workspace(str(served)) == served
    assert environment.workspace(str(also)) == also
    for asked in (str(other), "..", f"{also}/../other"):
        with pytest.raises(ParamsError, match="may not choose its workspace"):
            environment.workspace(asked)


def test_a_run_of_a_deployment_without_a_list_works_where_its_process_does(folders, monkeypatch):
    deployed(monkeypatch, "0199a1c2-0000-7000-8000-000000000000")

    assert environment.workspace(".").resolve() == folders[0]
    with pytest.raises(ParamsError, match="may not choose its workspace"):
        environment.workspace(str(folders[1]))
