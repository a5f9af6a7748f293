"""What a run of the retraining's deployment does around the retraining: it waits by name, and looks again at data that came in."""

import shutil

import pytest

from flows import notices, retrain, retraining
from flows.retraining import Ending
from tasks import repro


@pytest.fixture
def workspace(tmp_path, repository, monkeypatch):
    """A workspace with a cohort file alone, in which the process works."""
    (tmp_path / "cohorts").mkdir()
    shutil.copy(repository / "cohorts" / "liver.yaml", tmp_path / "cohorts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(repro, "target_of", lambda folder, cohort: None)
    return tmp_path


def ending_with(monkeypatch, *endings):
    """Let each retraining end so, after what comes with it happened; list the orders."""
    given, left = [], list(endings)

    def once(order):
        given.append(order)
        code, happens = left.pop(0)
        if happens:
            happens()
        return Ending(code, "as it is")

    monkeypatch.setattr(retraining, "retrain_once", once)
    return given


def arrive(workspace, content):
    def happens():
        path = workspace / "data" / "raw" / "liver" / "ct-a.dvc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    return happens


@pytest.mark.parametrize(("code", "name"), [(retraining.DONE, "Completed"), (retraining.STAYS, "Completed"), (5, "Waiting")])
def test_it_is_named_how_it_ends(workspace, monkeypatch, code, name):
    orders = ending_with(monkeypatch, (code, None))

    state = retrain.retrain.fn("liver", manual="security: a reason")

    assert (state.name, state.is_completed(), state.message) == (name, True, "as it is")
    assert [order.manual for order in orders] == ["security: a reason"]


def test_data_that_came_in_meanwhile_are_looked_at_and_nobody_has_asked_for_that(workspace, monkeypatch):
    orders = ending_with(monkeypatch, (retraining.DONE, arrive(workspace, "one")), (retraining.NO, None))

    state = retrain.retrain.fn("liver", manual="security: a reason", upstream="torch")

    assert state.name == "Completed"
    assert [(order.manual, order.upstream) for order in orders] == [("security: a reason", "torch"), ("", "")]


def test_while_persons_are_asked_data_wait(workspace, monkeypatch):
    orders = ending_with(monkeypatch, (retraining.WAITS, arrive(workspace, "one")))

    assert retrain.retrain.fn("liver").name == notices.WAITING
    assert len(orders) == 1


def test_who_must_answer_is_told(monkeypatch):
    from types import SimpleNamespace

    told = []
    monkeypatch.setattr(notices, "tell", lambda *what: told.append(what))
    (hook,) = retrain.retrain.on_completion_hooks
    for name in ("Completed", notices.WAITING):
        hook("flow", "run", SimpleNamespace(name=name))

    assert [state.name for _, _, state in told] == [notices.WAITING]


def test_scores_of_labelled_cases_come_from_the_environment(workspace, monkeypatch, tmp_path):
    orders = ending_with(monkeypatch, (retraining.NO, None))
    monkeypatch.setenv(retrain.AUDITED, str(tmp_path / "audited.json"))

    retrain.retrain.fn("liver")

    assert orders[0].audited == tmp_path / "audited.json"
