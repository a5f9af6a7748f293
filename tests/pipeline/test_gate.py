"""The gate on tiny runs: two seeds of one federation, by the trail and by exit code."""

import dataclasses
import json
import shutil

import pytest
import yaml

from fedsilo import files
from fedsilo.audit import documents
from fedsilo.audit.documents import Approval, Release
from fedsilo.audit.events import Decision, Draft, Subject, Why
from fedsilo.cohort import manifest
from fedsilo.errors import AuditRefusedError
from flows import audit, gate
from tasks import approving, keyring, trails
from tasks.paths import RunPaths

FIRST, SECOND = "demo--s42", "demo--s7"


@pytest.fixture
def runs(two_seeds, tmp_path):
    """A copy that a test may change."""
    return two_seeds.copy(tmp_path / "copy")


def plan(made, repository, *, lenient):
    """The shipped plan; a lenient one passes whatever is valid and can fail nobody."""
    tree = yaml.safe_load((repository / "pccp.yaml").read_text())
    if lenient:
        tree["gate"] |= {"min_patients": 1, "unseen": 0.49, "resamples": 999, "unseen_organs": "report"}
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
    assert judge(runs, plan(runs, repository, lenient=False), "--reason", "security: a fault is mended") == 3

    printed = capsys.readouterr().out
    ((name, found),) = verdicts(runs).items()
    path = runs.folder / "audit/demo/gates" / name
    assert name == f"{files.sha256_file(path)[:12]}.json"
    assert (found["verdict"], found["reason"]) == ("inconclusive", "security: a fault is mended")
    assert "has 1 patients, needed are 299" in printed
    assert f"inconclusive: {path}, sha256 {files.sha256_file(path)}" in printed
    (check,) = runs.events("pccp.check")
    assert (check.decision.verdict, check.why.text) == ("inside", "differs from the champion in seed")
    (said,) = runs.events("gate.verdict")
    assert said.decision.metrics_ref == f"sha256:{files.sha256_file(path)}"
    assert said.subject.after == f"sha256:{files.sha256_file(runs.folder / f'runs/{SECOND}/global.safetensors')}"
    assert {entry.sha256 for entry in said.inputs if entry.name == "champion"} == {found["champion"]}
    assert audit.main(["verify", "--workspace", str(runs.folder), "--dvc"]) == 0


def test_a_pass_ends_with_zero_and_is_said_once(runs, repository):
    lenient = plan(runs, repository, lenient=True)

    assert judge(runs, lenient, "--reason", "security: a fault is mended") == 0
    assert judge(runs, lenient, "--reason", "security: a fault is mended") == 0

    assert len(verdicts(runs)) == len(runs.events("gate.verdict")) == 1
    assert set(next(iter(verdicts(runs).values()))["uses"].values()) == {0}


def test_a_hold_out_counts_the_other_candidates_it_judged(runs, repository):
    lenient = plan(runs, repository, lenient=True)
    assert judge(runs, lenient, "--reason", "security: a fault is mended") == 0

    other = ["--champion", SECOND, "--candidate", FIRST]
    assert judge(runs, lenient, "--reason", "security: back", *other) == 0

    assert sorted(found["uses"]["ct-a"] for found in verdicts(runs).values()) == [0, 1]


def test_a_new_case_at_one_site_makes_the_others_no_fresher(runs, repository):
    lenient = plan(runs, repository, lenient=True)
    assert judge(runs, lenient, "--reason", "security: a fault is mended") == 0
    path = runs.folder / "data/prepared/demo/ct-a/manifest.csv"
    rows = [dataclasses.replace(row, sha256="0" * 64) if row.split == "test" else row for row in manifest.read(path)]
    manifest.write(rows, path)

    assert judge(runs, lenient, "--champion", SECOND, "--candidate", FIRST) == 4, "it must be scored again"

    (uses,) = [found["uses"] for found in verdicts(runs).values() if found["verdict"] == "fail"]
    assert (uses.pop("ct-a"), set(uses.values())) == (0, {1})


def test_a_table_that_the_trail_does_not_know_fails(runs, repository):
    table = runs.folder / f"runs/{SECOND}/inside_evaluation/cases.csv"
    table.write_text(table.read_text().replace("0.", "0.9", 1))

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "security: a fault is mended") == 4

    (found,) = verdicts(runs).values()
    assert found["decided_by"] == ["validity"]
    assert "candidate: nothing says on which hold-out of ct-a it was scored" in found["rules"][1]["why"]
    assert found["units"] == []


def test_cases_that_were_prepared_anew_are_another_hold_out(runs, repository):
    path = runs.folder / "data/prepared/demo/ct-a/manifest.csv"
    rows = [dataclasses.replace(row, sha256="0" * 64) if row.split == "test" else row for row in manifest.read(path)]
    manifest.write(rows, path)

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "new-data: March") == 4

    (found,) = verdicts(runs).values()
    assert "champion: it was scored on another hold-out of ct-a" in found["rules"][1]["why"]


def test_params_that_a_run_was_not_trained_with_are_refused(runs, repository, capsys):
    other = runs.folder / "other.yaml"
    other.write_text(runs.params.read_text().replace("local_epochs: 1", "local_epochs: 2"))

    assert judge(runs, plan(runs, repository, lenient=True), "--champion-params", str(other)) == 1

    assert f"run {FIRST} was trained with other params than those given for it" in capsys.readouterr().err
    assert not (runs.folder / "audit/demo/gates").exists()


def test_params_that_data_were_not_prepared_with_are_refused(runs, repository, capsys):
    other = runs.folder / "other.yaml"
    other.write_text(runs.params.read_text().replace("crop: none", "crop: nonzero"))

    assert judge(runs, plan(runs, repository, lenient=True), "--champion-params", str(other)) == 1

    assert f"run {FIRST} was made with other params of prepare than those given for it" in capsys.readouterr().err


def test_params_of_a_method_in_use_are_those_it_was_scored_with(runs, repository, capsys):
    lenient = plan(runs, repository, lenient=True)
    lenient.write_text(lenient.read_text().replace("outside: global", "outside: router"))

    other = runs.folder / "other.yaml"
    other.write_text(runs.params.read_text().replace("gain: 0.015", "gain: 0.5"))

    assert judge(runs, lenient, "--champion-params", str(other)) == 1

    assert f"run {FIRST} was made with other params of outside than those given for it" in capsys.readouterr().err
    assert judge(runs, lenient) == 4, "nothing was scored by the router"


def changed_record(made, change):
    """Let the record of the first run name other data that its model was trained on."""
    path = made.folder / f"runs/{FIRST}/federation.json"
    record = json.loads(path.read_text())
    change(record["identity"]["manifest_sha256"])
    path.write_text(json.dumps(record))


def test_a_site_that_left_the_training_is_a_change_of_sites(runs, repository):
    changed_record(runs, lambda trained_on: trained_on.update({"us-a": "1" * 64}))

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "security: a fault is mended") == 3

    (found,) = verdicts(runs).values()
    changes = {change["name"]: (change["before"], change["after"]) for change in found["changes"]["changes"]}
    assert changes["sites.us-a"] == ("inside", "none")
    assert changes["prepare"] == ("unknown", "given"), "nobody told of the data of us-a"
    assert found["decided_by"] == ["plan"]


def test_a_site_that_joined_the_training_is_a_change_of_sites(runs, repository):
    changed_record(runs, lambda trained_on: trained_on.pop("ct-a"))

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "security: a fault is mended") == 3

    (found,) = verdicts(runs).values()
    changes = {change["name"]: (change["before"], change["after"]) for change in found["changes"]["changes"]}
    assert changes == {"seed": ("42", "7"), "sites.ct-a": ("outside", "inside")}
    assert found["decided_by"] == ["plan"]


def test_a_run_that_is_not_there_is_one_line(runs, repository, capsys):
    shutil.rmtree(runs.folder / f"runs/{FIRST}")

    assert judge(runs, plan(runs, repository, lenient=True)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_scores_of_another_model_do_not_count(runs, repository):
    for phase in ("inside", "outside"):
        table = f"{phase}_evaluation/cases.csv"
        shutil.copy(runs.folder / "runs" / FIRST / table, runs.folder / "runs" / SECOND / table)

    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "security: a fault is mended") == 4

    (found,) = verdicts(runs).values()
    assert "candidate: nothing says on which hold-out of ct-a it was scored" in found["rules"][1]["why"]


def test_once_a_model_is_in_use_no_other_is_compared_with(runs, repository, capsys):
    lenient, paths = plan(runs, repository, lenient=True), RunPaths(runs.folder, "demo", SECOND)
    model, passed = trails.hashed(paths.global_state), Decision("gate", "pass", f"sha256:{'1' * 64}")
    with trails.held(paths, ()) as scribe:
        verdict = scribe.append(
            "gate.verdict", "the first", subject=Subject("model", f"{SECOND}/global", after=model), decision=passed
        )
        approval = Approval("demo", model, passed.metrics_ref, "approve", "approval", "good", verdict.ts)
        release = Release("demo", "promote", "demo/model", model, "better", verdict.ts)
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

    assert judge(runs, lenient, "--reason", "security: again") == 1

    assert f"{FIRST}/global is " in (told := capsys.readouterr().err)
    assert f"in use is {model}: score and name that one" in told
    assert judge(runs, lenient, champion=None) == 1
    assert f"in use is {model}: score it and name its run" in capsys.readouterr().err


def test_a_verdict_against_a_model_that_is_not_in_use_is_approved_by_nobody(runs, repository):
    assert judge(runs, plan(runs, repository, lenient=True), "--reason", "security: a fault is mended") == 0
    paths, (verdict,) = RunPaths(runs.folder, "demo", SECOND), runs.events("gate.verdict")
    model = trails.hashed(paths.global_state)
    approval = Approval("demo", model, verdict.decision.metrics_ref, "approve", "approval", "good", verdict.ts)
    signed = documents.sign(approval, keyring.signer(paths.audit, "demo-approver"))

    with pytest.raises(AuditRefusedError, match="in use is no model"):
        approving.append(paths.audit, signed, hours=72)


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
