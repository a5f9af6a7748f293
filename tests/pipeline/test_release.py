"""From a trained run to a model in use, another beside it in the shadow, and back: by command lines, on a tiny federation."""

import csv
import json
import subprocess
import sys

import pytest
import safetensors.torch

from fedsilo import files
from fedsilo.audit.events import Artifact, Decision, Subject
from flows import approve, audit, champion, federate, inside, promote, rollback, shadow
from tasks import trails
from tasks.paths import RunPaths


def run(*command, cwd):
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def released(copied):
    """Two runs with different seeds, in a repository."""
    folder = copied.folder
    run("git", "init", "-q", cwd=folder)
    run("git", "config", "user.email", "test@example.org", cwd=folder)
    run("git", "config", "user.name", "test", cwd=folder)
    run(sys.executable, "-m", "dvc", "init", "-q", cwd=folder)
    run("git", "commit", "-qm", "start", cwd=folder)
    for name, seed in (("demo", 42), ("second", 43)):
        assert federate.main(copied.arguments("--run", name, "--set", f"seed={seed}", "--set", "federate.rounds=1")) == 0
    assert inside.main(copied.arguments("--metrics", "dice", "--set", "inside.methods=[global, inside]")) == 0
    return copied


def judge(folder, name):
    """Let the gate pass a run against the model in use; give the verdict's file."""
    paths = RunPaths(folder, "demo", name)
    with trails.held(paths, ()) as scribe:
        champion = scribe.opened.state.champions.get("demo/model")
        against = champion.current.removeprefix("sha256:") if champion else None
        content = {"verdict": "pass", "candidate": files.sha256_file(paths.global_state), "champion": against}
        verdict = files.write_json(folder / f"{name}.json", content)
        subject = Subject("model", f"{name}/global", after=trails.hashed(paths.global_state))
        compared, decision = [Artifact("champion", against)] if against else [], Decision("gate", "pass", trails.hashed(verdict))
        scribe.append("gate.verdict", "judged", subject=subject, inputs=compared, decision=decision)
    return verdict


def read(table):
    with table.open() as handle:
        return list(csv.DictReader(handle))


def test_a_model_goes_into_use_and_comes_back(released, capsys):
    folder = released.folder
    keys = folder / "keys" / "demo"

    def said(main, *arguments):
        code = main([*map(str, arguments), "--workspace", str(folder)])
        told = capsys.readouterr()
        assert code == 0, told.err
        return told.out

    for name, version in (("demo", "v1.0.0"), ("second", "v1.1.0")):
        judged = ["--candidate", folder / "runs" / name / "global.safetensors", "--verdict", judge(folder, name)]
        said(approve.main, *judged, "--decision", "approve", "--reason", "good", "--key", keys / "demo-approver.pem")
        released_as = ["--candidate", name, "--version", version, "--verdict", folder / f"{name}.json"]
        said(promote.main, *released_as, "--why", "better", "--key", keys / "demo-promoter.pem")
    assert said(champion.main).startswith("demo/model v1.1.0 ")
    release = folder / "releases" / "demo" / "v1.0.0"
    card = json.loads((release / "model_card.json").read_text())
    assert {row["method"] for row in card["dice"]} == {"global", "inside"}
    assert card["inside_sites"] == ["ct-a", "ct-b", "mr-a", "mr-b"]

    # the shadow run sees no labels: there are none
    site = folder / "data" / "prepared" / "demo" / "ct-c"
    for path in (site / "cases").glob("*.safetensors"):
        with safetensors.safe_open(path, framework="pt") as handle:
            image, metadata = handle.get_tensor("image"), handle.metadata()
        safetensors.torch.save_file({"image": image}, path, metadata)
    beside = ["--candidate", "demo", "--champion", "v1.1.0", "--site", "ct-c", "--why", "before it comes back"]
    capsys.readouterr()
    assert shadow.main(released.arguments(*beside, "--key", str(keys / "demo-promoter.pem"))) == 0
    told = capsys.readouterr().out
    assert " between demo and v1.1.0 at ct-c, 2 cases: " in told
    table = folder / "runs" / "demo" / "shadow" / "ct-c.csv"
    rows = read(table)
    assert len(rows) == 2 * 5
    assert all(row["dice"] == "" or 0 <= float(row["dice"]) <= 1 for row in rows)
    (event,) = released.events("deploy.shadow")
    assert event.inputs == (Artifact("champion", files.sha256_file(folder / "runs/second/global.safetensors")),)
    assert (event.subject.name, event.site, event.decision.metrics_ref) == ("demo/global", "ct-c", trails.hashed(table))
    same = ["--candidate", "second", "--champion", "v1.1.0", "--site", "ct-c", "--why", "it is the same"]
    assert shadow.main(released.arguments(*same, "--key", str(keys / "demo-promoter.pem"))) == 0
    assert {row["dice"] for row in read(folder / "runs/demo/shadow/ct-c.csv")} <= {"", "1.000000"}
    other = ["--candidate", "second", "--champion", "v1.0.0", "--site", "ct-c", "--why", "it is not in use"]
    assert shadow.main(released.arguments(*other, "--key", str(keys / "demo-promoter.pem"))) == 1
    assert "v1.0.0 is sha256:" in (err := capsys.readouterr().err)
    assert f"in use is {trails.hashed(folder / 'runs/second/global.safetensors')}" in err
    assert shadow.main(released.arguments(*beside, "--key", str(keys / "demo-approver.pem"))) == 1
    assert "is no promoter" in capsys.readouterr().err
    assert trails.hashed(table) == released.events("deploy.shadow")[-1].decision.metrics_ref

    said(rollback.main, "--to", "v1.0.0", "--why", "fails on new scans", "--key", keys / "demo-promoter.pem")
    found = json.loads(said(champion.main, "--json"))
    assert (found["version"], found["event"], found["missing"]) == ("v1.0.0", "rollback", [])
    for name, sha256 in json.loads((folder / "runs/demo/federation.json").read_text())["model_sha256"].items():
        if f"{name}.safetensors" in found["models"]:
            assert files.sha256_file(release / f"{name}.safetensors") == sha256
    assert audit.main(["verify", "--workspace", str(folder)]) == 0
