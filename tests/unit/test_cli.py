"""The command line that all phases share."""

import logging
from pathlib import Path

import pytest

from fedsilo.errors import DataError
from flows import cli


@pytest.fixture
def files(repository):
    return ["--cohort", str(repository / "cohorts" / "liver.yaml"), "--params", str(repository / "params.yaml")]


def test_options_become_a_run(files):
    seen = []

    assert cli.phase("Do it.", seen.append, [*files, "--set", "federate.rounds=2", "--run", "trial", "--workspace", "here"]) == 0

    (run,) = seen
    assert run.roster.name == "liver"
    assert run.params.federate.rounds == 2
    assert run.paths.run_dir == Path("here/runs/trial")
    assert run.paths.prepared_site("curvas_ct") == Path("here/data/prepared/liver/curvas_ct")
    assert run.data_root == Path("here/../shared/data/abdomen")


def test_a_run_has_the_name_of_its_cohort_unless_told_otherwise(files):
    seen = []

    cli.phase("Do it.", seen.append, files)

    assert seen[0].paths.run == "liver"


def test_an_error_of_ours_is_one_line_and_exit_code_1(files, capsys):
    def fail(_run):
        raise DataError("site a has no b")

    assert cli.phase("Do it.", fail, files) == 1
    assert capsys.readouterr().err == "fedsilo: site a has no b\n"


def test_prefect_logs_an_error_of_ours_without_a_traceback_and_a_fault_with_one(files):
    cli.guard(lambda: None)
    logger = logging.getLogger("prefect.flow_runs")

    for error, kept in ((DataError("x"), False), (KeyError("x"), True)):
        record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "", 0, "failed", (), (type(error), error, None))
        assert logger.filter(record)
        assert bool(record.exc_info) == kept


def test_a_fault_of_ours_is_not_hidden(files):
    def fail(_run):
        raise KeyError("planted")

    with pytest.raises(KeyError):
        cli.phase("Do it.", fail, files)


def test_a_wrong_key_is_one_line_and_the_body_does_not_run(files, capsys):
    seen = []

    assert cli.phase("Do it.", seen.append, [*files, "--set", "federate.round=2"]) == 1

    assert seen == []
    assert "unknown key federate.round (did you mean rounds?)" in capsys.readouterr().err


def test_an_unknown_option_ends_with_usage(files):
    with pytest.raises(SystemExit) as ended:
        cli.phase("Do it.", print, [*files, "--cohorts"])

    assert ended.value.code == 2


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b/c", "a//b", "", "A", "a/", ".hidden"])
def test_a_run_s_name_cannot_lead_elsewhere(files, capsys, name):
    seen = []

    assert cli.phase("Do it.", seen.append, [*files, f"--run={name}"]) == (0 if name == "" else 1)

    if name:
        assert seen == []
        assert "as the name of a run" in capsys.readouterr().err


def test_a_run_may_lie_in_a_study_s_folder(files):
    seen = []

    cli.phase("Do it.", seen.append, [*files, "--run", "study/one--gin--s42"])

    assert seen[0].paths.run_dir == Path("runs/study/one--gin--s42")
    assert seen[0].paths.artifact_suffix == "study-one-gin-s42"
