"""Who trains: participants over the same prepared cohort, and the comparison of what they made."""

import csv
import json
import shutil

import pytest

from fedsilo import files
from fedsilo.evaluation import cases
from flows import compare, federate, inside, outside, report

ONE_ROUND = ("--set", "federate.rounds=1")
SITES = "{ct-a: {ct-a: null}, ct-b: {ct-b: null}, mr-a: {mr-a: null}, mr-b: {mr-b: null}}"


def train(made, participants, run):
    arguments = made.arguments(*ONE_ROUND, "--set", f"federate.participants={participants}", "--run", run)
    assert federate.main(arguments) == 0
    return made.folder / "runs" / run


def table(folder):
    with (folder / "rounds.csv").open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def made(tmp_path_factory, prepared):
    """A workspace with two finished runs of a study; read only."""
    workspace = prepared.copy(tmp_path_factory.mktemp("participants") / "run")
    train(workspace, "{few: {mr-a: 1}, many: {ct-a: null, ct-b: 1}}", "study/few-and-many")
    train(workspace, "{pool: {mr-a: null, ct-a: null}}", "study/pool")
    return workspace


def test_every_site_for_itself_is_what_null_means(made, tmp_path):
    named = train(made, SITES, "named")
    assert federate.main(made.arguments(*ONE_ROUND, "--run", "plain")) == 0

    for name in ("global.safetensors", "rounds.csv", "inside/mr-a.safetensors"):
        assert files.sha256_file(named / name) == files.sha256_file(made.folder / "runs/plain" / name)


def test_seeds_side_by_side_are_runs_of_their_own(made):
    """Also one that goes on where it was, beside one that starts."""
    participants = "federate.participants={few: {mr-a: 1}, many: {ct-a: null}}"
    arguments = made.arguments("--set", "federate.rounds=2", "--set", participants)
    for seed in (7, 8):
        assert federate.main([*arguments, "--set", f"seed={seed}", "--run", f"alone-{seed}"]) == 0
    shutil.copytree(made.folder / "checkpoints/alone-8", made.folder / "checkpoints/both--s8")
    (made.folder / "checkpoints/both--s8/federate/server/00002.json").unlink()

    assert federate.main([*arguments, "--seeds", "7", "8", "7", "--run", "both"]) == 0

    for seed in (7, 8):
        for name in ("global.safetensors", "rounds.csv", "inside/few.safetensors"):
            path = made.folder / "runs" / f"both--s{seed}" / name
            assert files.sha256_file(path) == files.sha256_file(made.folder / f"runs/alone-{seed}" / name)
        assert json.loads((made.folder / f"runs/both--s{seed}/federation.json").read_text())["seed"] == seed
    assert not (made.folder / "runs/both").exists()


def test_a_participant_trains_on_all_its_sites_and_no_more_patients_than_asked(made):
    few_and_many = {row["site"]: row for row in table(made.folder / "runs/study/few-and-many")}
    (pool,) = table(made.folder / "runs/study/pool")

    assert {site: int(row["num_cases"]) for site, row in few_and_many.items()} == {"few": 1, "many": 3}
    assert int(pool["num_cases"]) == 4
    assert float(pool["weight"]) == 1
    assert {path.stem for path in (made.folder / "runs/study/few-and-many/inside").iterdir()} == {"few", "many"}


def test_the_record_names_the_data_of_every_member(made):
    record = json.loads((made.folder / "runs/study/few-and-many/federation.json").read_text())

    assert set(record["identity"]["manifest_sha256"]) == {"mr-a", "ct-a", "ct-b"}


def test_a_comparison_scores_every_run_on_every_site(made):
    assert compare.main(made.arguments("--runs", "study/*", "--run", "compared", "--metrics", "dice")) == 0

    scored = cases.read(made.folder / "runs/compared/cases.csv")
    assert set(scored["method"]) == {"study/few-and-many", "study/pool"}
    assert set(scored["site"]) == {"ct-a", "ct-b", "ct-c", "mr-a", "mr-b", "mr-c", "mr-d"}
    assert {"dice", "iou"} <= set(scored["metric"]) <= {"dice", "iou", "volume_ml", "volume_error_ml"}
    for method, rows in scored.groupby("method"):
        record = json.loads((made.folder / "runs" / str(method) / "federation.json").read_text())
        assert set(rows["model"]) == {record["model_sha256"]["global"]}


def test_a_comparison_agrees_with_the_outside_comparison(made):
    assert federate.main(made.arguments(*ONE_ROUND, "--run", "own")) == 0
    assert (
        outside.main(
            made.arguments(*ONE_ROUND, "--run", "own", "--set", "outside.methods=[global]", "--set", "outside.adaptations={}")
        )
        == 0
    )
    assert compare.main(made.arguments("--runs", "own", "--run", "again")) == 0

    names = ["site", "case", "organ", "metric"]
    first = cases.read(made.folder / "runs/own/outside_evaluation/cases.csv").set_index(names)["value"]
    again = cases.read(made.folder / "runs/again/cases.csv").set_index(names)["value"]
    assert first.equals(again.loc[first.index])


def test_a_comparison_refuses_runs_that_are_not_there_or_have_not_ended(made, capsys):
    (made.folder / "runs/torn").mkdir(exist_ok=True)

    for runs, message in (
        ("nothing", "has no run nothing"),
        ("torn", "run torn has not ended"),
        ("/abs", "cannot use '/abs' as a run"),
        ("", "cannot use '' as a run"),
    ):
        assert compare.main(made.arguments("--runs", runs, "--run", "compared")) == 1
        assert message in capsys.readouterr().err


def test_a_comparison_refuses_a_run_that_saw_other_splits(made, tmp_path, capsys):
    """Its test cases may be ones that the run was trained on."""
    copy = made.copy(tmp_path / "copy")
    manifest = copy.folder / "data/prepared/demo/mr-a/manifest.csv"
    text = manifest.read_text()
    manifest.write_text(text.replace("train", "swap").replace("test", "train").replace("swap", "test"))

    assert compare.main(copy.arguments("--runs", "study/pool", "--run", "compared")) == 1
    assert "run study/pool was trained on other preparations of mr-a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("participants", "message"),
    [
        ("{}", "participants is empty"),
        ("{a: {}}", "participant a holds no site"),
        ("{a: {mr-a: 1}, b: {mr-a: 1}}", "two participants hold site mr-a"),
        ("{a: {mr-z: 1}}", "participant a holds mr-z, which is no inside site of demo"),
        ("{a: {mr-c: 1}}", "participant a holds mr-c, which is no inside site of demo"),
        ("{a: {mr-a: 3}}", "site mr-a has 2 training patients, expected 3"),
        ("{a: {mr-a: 0}}", "participants.a.mr-a"),
        ("{../a: {mr-a: 1}}", "participants.../a"),
    ],
)
def test_wrong_participants_are_one_line(prepared, capsys, participants, message):
    assert federate.main(prepared.arguments("--set", f"federate.participants={participants}", "--run", "wrong")) == 1

    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]


@pytest.mark.parametrize("phase", [inside, outside, report])
def test_phases_about_inside_sites_refuse_other_participants(prepared, capsys, phase):
    assert phase.main(prepared.arguments("--set", "federate.participants={a: {mr-a: 1}}")) == 1

    assert "use flows.compare" in capsys.readouterr().err
