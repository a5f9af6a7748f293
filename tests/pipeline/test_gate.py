"""The gate on tiny runs: two seeds of one federation, by the trail and by exit code."""

import dataclasses
import json
import shutil

import pytest
import yaml

from fedsilo import files
from fedsilo.audit import documents
from fedsilo.audit.documents import Approval, Release
from fedsilo.audit.events import Draft, Subject, Why
from fedsilo.cohort import manifest
from flows import audit, federate, gate, inside, outside
from tasks import keyring, trails
from tasks.paths import RunPaths

QUICK = (
    "--metrics",
    "dice",
    "--set",
    "inside.methods=[global]",
    "--set",
    "outside.methods=[global]",
    "--set",
    "outside.adaptations={}",
)
FIRST, SECOND = "demo--s42", "demo--s7"


@pytest.fixture(scope="module")
def two(prepared, tmp_path_factory):
    """Two finished runs of a round, with seeds 42 and 7; read only."""
    made = prepared.copy(tmp_path_factory.mktemp("two") / "run")
    made.params.write_text(made.params.read_text().replace("rounds: 3", "rounds: 1"))
    seeds = ("--seeds", "42", "7")
    assert federate.main(made.arguments(*seeds)) == 0
    assert inside.main(made.arguments(*seeds, *QUICK)) == 0
    assert outside.main(made.arguments(*seeds, *QUICK)) == 0
    return made


@pytest.fixture
def runs(two, tmp_path):
    """A copy that a test may change, with a plan."""
    return two.copy(tmp_path / "copy")


def plan(made, repository, *, lenient):
    """The shipped plan; a lenient one passes whatever is valid and can fail nobody."""
    tree = yaml.safe_load((repository / "pccp.yaml").read_text())
    if lenient:
        tree["gate"] |= {"min_patients": 1, "unseen": 0.49, "resamples": 999}
        tree["gate"]["metrics"]["dice"] |= {"margins": {}, "margin_other": 0.99}
        tree["gate"]["catastrophe"] |= {"loss": 1.0, "tolerated_share": 0.99}
    path = made.folder / f"pccp-{lenient}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def judge(made, plan, *more, champion=FIRST):
    arguments = ["--cohort", str(made.cohort), "--params", str(made.params), "--workspace", str(made.folder)]
    compared = ["--champion", champion] if champion else []
    return gate.main([*arguments, *compared, "--candidate", SECOND, "--pccp", str(plan), *more])


def verdicts(made):
    return {path.name: json.loads(path.read_text()) for path in (made.folder / "audit/demo/gates").iterdir()}


def test_few_patients_are_inconclusive_and_the_trail_says_so(runs, repository, capsys):
    assert judge(runs, plan(runs, repository, lenient=False), "--reason", "new seed") == 3

    printed = capsys.readouterr().out
    ((name, found),) = verdicts(runs).items()
    path = runs.folder / "audit/demo/gates" / name
    assert name == f"{files.sha256_file(path)[:12]}.json"
    assert (found["verdict"], found["reason"]) == ("inconclusive", "new seed")
    assert "has 1 patients, needed are 299" in printed
    assert f"inconclusive: {path}, sha256 {files.sha256_file(path)}" in printed
    (check,) = runs.events("pccp.check")
    assert (check.decision.verdict, check.why.text) == ("inside", "differs from the champion in seed")
    (said,) = runs.events("gate.verdict")
    assert said.decision.metrics_ref == f"sha256:{files.sha256_file(path)}"
    assert said.subject.after == f"sha256:{files.sha256_file(runs.folder / f'runs/{SECOND}/global.safetensors')}"
    assert {entry.sha256 for entry in said.inputs if entry.name == f"{FIRST}/global"} == {found["champion"]}
    assert audit.main(["verify", "--workspace", str(runs.folder), "--dvc"]) == 0


def test_a_pass_ends_with_zero_and_is_said_once(runs, repository):
    lenient = plan(runs, repository, lenient=True)

    assert judge(runs, lenient, "--reason", "new seed") == 0
    assert judge(runs, lenient, "--reason", "new seed") == 0

    assert len(verdicts(runs)) == len(runs.events("gate.verdict")) == 1
    assert next(iter(verdicts(runs).values()))["uses"] == 0


def test_a_hold_out_counts_the_other_candidates_it_judged(runs, repository):
    lenient = plan(runs, repository, lenient=True)
    assert judge(runs, lenient, "--reason", "new seed") == 0

    other = ["--champion", SECOND, "--candidate", FIRST]
    assert judge(runs, lenient, "--reason", "back", *other) == 0

    assert sorted(found["uses"] for found in verdicts(runs).values()) == [0, 1]


def test_a_table_that_the_trail_does_not_know_fails(runs, repository):
    table = runs.folder / f"runs/{SECOND}/inside_evaluation/cases.csv"
    table.write_text(table.read_text().replace("0.", "0.9", 1))

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "new seed") == 4

    (found,) = verdicts(runs).values()
    assert found["decided_by"] == ["validity"]
    assert "candidate: nothing says on which hold-out of ct-a it was scored" in found["rules"][1]["why"]
    assert found["units"] == []


def test_cases_that_were_prepared_anew_are_another_hold_out(runs, repository):
    path = runs.folder / "data/prepared/demo/ct-a/manifest.csv"
    rows = [dataclasses.replace(row, sha256="0" * 64) if row.split == "test" else row for row in manifest.read(path)]
    manifest.write(rows, path)

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "new data") == 4

    (found,) = verdicts(runs).values()
    assert "champion: it was scored on another hold-out of ct-a" in found["rules"][1]["why"]


def test_params_that_a_run_was_not_trained_with_are_refused(runs, repository, capsys):
    other = runs.folder / "other.yaml"
    other.write_text(runs.params.read_text().replace("local_epochs: 1", "local_epochs: 2"))

    assert judge(runs, plan(runs, repository, lenient=True), "--champion-params", str(other)) == 1

    assert f"run {FIRST} was trained with other params than those given for it" in capsys.readouterr().err
    assert not (runs.folder / "audit/demo/gates").exists()


def test_a_run_that_is_not_there_is_one_line(runs, repository, capsys):
    shutil.rmtree(runs.folder / f"runs/{FIRST}")

    assert judge(runs, plan(runs, repository, lenient=True)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_scores_of_another_model_do_not_count(runs, repository):
    for phase in ("inside", "outside"):
        table = f"{phase}_evaluation/cases.csv"
        shutil.copy(runs.folder / "runs" / FIRST / table, runs.folder / "runs" / SECOND / table)

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "new seed") == 4

    (found,) = verdicts(runs).values()
    assert "candidate: nothing says on which hold-out of ct-a it was scored" in found["rules"][1]["why"]


def test_once_a_model_is_in_use_no_other_is_compared_with(runs, repository, capsys):
    lenient = plan(runs, repository, lenient=True)
    assert judge(runs, lenient, "--reason", "new seed") == 0
    paths = RunPaths(runs.folder, "demo", SECOND)
    model, (verdict,) = trails.hashed(paths.global_state), runs.events("gate.verdict")
    created = verdict.ts
    approval = Approval("demo", model, verdict.decision.metrics_ref, "approve", "approval", "good", created)
    release = Release("demo", "promote", "demo/model", model, "better", created)
    with trails.held(paths, ()) as scribe:
        for document, actor, subject in (
            (approval, "demo-approver", verdict.subject),
            (release, "demo-promoter", Subject("model", "demo/model", after=model)),
        ):
            signed = documents.sign(document, keyring.signer(paths.audit, actor))
            meaning = "approval" if document is approval else None
            kind = "approve" if document is approval else "promote"
            draft = Draft(kind, Why("test", "good"), meaning=meaning, subject=subject, attached=signed)
            scribe.opened.append(draft, keyring.signer(paths.audit, "server"))
    capsys.readouterr()

    assert judge(runs, lenient, "--reason", "again") == 1

    assert f"{FIRST}/global is " in (told := capsys.readouterr().err)
    assert f"in use is {model}: score and name that one" in told
    assert judge(runs, lenient, champion=None) == 1
    assert f"in use is {model}: score it and name its run" in capsys.readouterr().err


def test_a_first_model_is_inconclusive_as_there_is_nothing_to_compare_with(runs, repository):
    assert judge(runs, plan(runs, repository, lenient=True), champion=None) == 3

    (found,) = verdicts(runs).values()
    assert (found["champion"], found["decided_by"]) == (None, ["champion"])
    assert runs.events("pccp.check") == []
    (said,) = runs.events("gate.verdict")
    assert [entry.name for entry in said.inputs if "/cases.csv" in entry.name] == [
        f"runs/{SECOND}/{phase}_evaluation/cases.csv" for phase in ("inside", "outside")
    ]


def test_params_of_no_champion_are_a_wrong_command(runs, repository, capsys):
    with pytest.raises(SystemExit) as ended:
        judge(runs, plan(runs, repository, lenient=True), "--champion-params", str(runs.params), champion=None)

    assert ended.value.code == 2
    assert "--champion-params are of a --champion" in capsys.readouterr().err
