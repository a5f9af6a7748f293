"""What DVC's users type, on a small repository with this project's params, remotes and templates: each command says what README says."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import object_store
import pytest
import yaml

STAGE = """
import csv, json, pathlib, yaml
params = yaml.safe_load(pathlib.Path("params.yaml").read_text())
rounds = params["federate"]["rounds"]
curve = [1 - 0.5 ** (index + 1) for index in range(rounds)]
for folder in ("data", "reports"):
    pathlib.Path(folder).mkdir(exist_ok=True)
pathlib.Path("data/cases").write_text(f"patients of seed {params['seed']}")
pathlib.Path("reports/index.html").write_text(f"<p>{curve[-1]}</p>")
pathlib.Path("reports/metrics.json").write_text(json.dumps({"dice": curve[-1]}))
with open("reports/training.csv", "w", newline="") as table:
    rows = csv.writer(table)
    rows.writerow(["round", "site", "val_dice_global"])
    rows.writerows([index, site, dice] for index, dice in enumerate(curve) for site in ("ct-a", "mr-a"))
"""

GRAPH = {
    "stages": {
        "federate": {
            "cmd": "python stage.py",
            "deps": ["stage.py"],
            "params": ["seed", "federate"],
            "outs": [{"data": {"push": False}}, "reports/index.html"],
            "metrics": [{"reports/metrics.json": {"cache": False}}],
            "plots": [{"reports/training.csv": {"template": "by_site", "x": "round", "y": "val_dice_global"}}],
        }
    }
}


class Repository:
    """A folder under git and DVC."""

    def __init__(self, folder):
        self.folder = folder

    def dvc(self, *arguments, **environment):
        variables = {**os.environ, **environment}
        # the stage runs `python`, which has to be ours
        variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.dvc(*arguments, "--json"))

    def git(self, *arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def set_rounds(self, number):
        path = self.folder / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        tree["federate"]["rounds"] = number
        path.write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.fixture(scope="module")
def made(tmp_path_factory, repository):
    """A repository whose stage ran for three rounds, committed; copy it, do not change it."""
    folder = tmp_path_factory.mktemp("dvc") / "made"
    folder.mkdir()
    work = Repository(folder)
    work.git("init", "--quiet")
    work.dvc("init", "--quiet")
    shutil.copy(repository / "params.yaml", folder)
    shutil.copy(repository / ".dvc" / "config", folder / ".dvc")
    shutil.copytree(repository / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(yaml.safe_dump(GRAPH))
    (folder / ".gitignore").write_text("/data\n/reports/index.html\n/reports/training.csv\n")
    work.set_rounds(3)
    work.dvc("repro")
    work.commit("three rounds")
    return work


@pytest.fixture
def work(made, tmp_path):
    """A copy that a test may change."""
    return Repository(shutil.copytree(made.folder, tmp_path / "work", symlinks=True))


def stored(remote):
    """Contents that a remote of files holds."""
    return {path.read_text() for path in remote.rglob("*") if path.is_file() and not path.name.endswith(".dir")}


def test_nothing_has_changed_after_a_run(work):
    assert work.json("status") == {}
    assert work.json("params", "diff") == {}
    assert work.json("metrics", "diff") == {}


def test_what_changed_in_params_metrics_and_plots(work):
    work.set_rounds(2)
    work.dvc("repro")

    assert work.json("params", "diff") == {"params.yaml": {"federate.rounds": {"old": 3, "new": 2, "diff": -1}}}
    changed = work.json("metrics", "diff")["reports/metrics.json"]["dice"]
    assert changed == {"old": 0.875, "new": 0.75, "diff": -0.125}
    shown = json.loads(work.dvc("plots", "diff", "--show-vega", "HEAD", "--targets", "reports/training.csv"))
    values = shown["data"]["values"]
    assert {row["rev"]: sum(other["rev"] == row["rev"] for other in values) for row in values} == {"HEAD": 6, "workspace": 4}


def test_an_experiment_is_run_shown_and_compared(work):
    work.dvc("exp", "run", "--name", "longer", "--set-param", "federate.rounds=5")

    assert work.json("status") == {}
    table = list(csv.DictReader(io.StringIO(work.dvc("exp", "show", "--csv"))))
    (row,) = [row for row in table if row["Experiment"] == "longer"]
    assert float(row["dice"]) == 1 - 0.5**5
    assert row["federate.rounds"] == "5"
    assert work.json("metrics", "diff", "HEAD", "longer")["reports/metrics.json"]["dice"]["old"] == 0.875
    assert list(work.json("params", "diff", "HEAD", "longer")["params.yaml"]) == ["federate.rounds"]


def test_a_grid_is_queued_and_run(work):
    work.dvc("exp", "run", "--queue", "--set-param", "federate.rounds=1,2", "--set-param", "seed=43")
    work.dvc("exp", "run", "--run-all")

    table = list(csv.DictReader(io.StringIO(work.dvc("exp", "show", "--csv"))))
    found = {(row["federate.rounds"], row["seed"], row["dice"]) for row in table}
    assert {("1", "43", "0.5"), ("2", "43", "0.75")} <= found
    assert work.json("status") == {}, "the workspace is as it was"


def test_reports_are_pushed_and_patient_data_stay(work, tmp_path):
    remote = tmp_path / "remote"
    work.dvc("remote", "add", "--default", "shared", str(remote))
    work.dvc("push")

    assert "<p>0.875</p>" in stored(remote)
    assert not any("patients" in content for content in stored(remote))

    (work.folder / "reports" / "index.html").unlink()
    shutil.rmtree(work.folder / ".dvc" / "cache")
    work.dvc("pull", "reports/index.html")
    assert (work.folder / "reports" / "index.html").read_text() == "<p>0.875</p>"


def test_a_site_has_a_remote_of_its_own(work, tmp_path):
    from tasks import repro

    site, shared = tmp_path / "site", tmp_path / "shared"
    work.dvc("remote", "add", "--default", "shared", str(shared))
    work.dvc("remote", "add", "ct-a", str(site))
    folder = work.folder / "imported" / "ct-a"
    folder.mkdir(parents=True)
    (folder / "case").write_text("patients of ct-a")

    repro.version_folder(work.folder, folder, remote="ct-a")
    work.dvc("push")

    assert stored(site) == {"patients of ct-a"}
    assert "<p>0.875</p>" in stored(shared)
    assert not any("patients" in content for content in stored(shared))


def test_reports_are_pushed_to_s3(work, monkeypatch):
    """Against a server of S3's interface on this machine."""
    server = pytest.importorskip("moto.server", reason="needs the development extra: moto")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        url = f"http://{host}:{port}"
        object_store.empty(url)
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="fedsilo", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        work.dvc("remote", "add", "--default", "shared", "s3://fedsilo/dvc")
        work.dvc("remote", "modify", "shared", "endpointurl", url)
        work.dvc("push")

        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="fedsilo")["Contents"]]
        contents = [client.get_object(Bucket="fedsilo", Key=key)["Body"].read() for key in keys]
        assert b"<p>0.875</p>" in contents
        assert not any(b"patients" in content for content in contents)

        (work.folder / "reports" / "index.html").unlink()
        shutil.rmtree(work.folder / ".dvc" / "cache")
        work.dvc("pull", "reports/index.html")
        assert (work.folder / "reports" / "index.html").read_text() == "<p>0.875</p>"
    finally:
        s3.stop()
