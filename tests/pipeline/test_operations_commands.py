"""docs/operations.md takes a reader from an empty machine to a nightly run: its blocks are run as they are written, in order.

In a home folder of their own: a Postgres and an S3 server of this machine, tiny params, and small programs that stand in for
what cannot be installed or started here (apt-get, sudo, systemctl). Ports and addresses are the only words that are changed.
"""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import object_store
import postgres
import pytest
import serving
import tiny_run
import yaml

pytestmark = [
    pytest.mark.skipif(postgres.program("createdb") is None, reason="needs Debian's package postgresql"),
    pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="needs a virtual environment, as the page has"),
]

SECTION = "From an empty machine to a nightly run"

STAND_INS = {
    # with PGUSER and PGPASSWORD of who administers the database; what it would install is here
    "sudo": """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift 2; done
[[ $1 == apt-get || $1 == loginctl ]] || exec "$@"
""",
    "systemctl": """#!{python}
import os, pathlib, subprocess, sys
home = os.environ["HOME"]
if sys.argv[1:] == ["--user", "enable", "--now", "fedsilo"]:
    unit = pathlib.Path(home, ".config/systemd/user/fedsilo.service").read_text().replace("%h", home)
    options = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    variables = dict(line.split("=", 1) for line in pathlib.Path(options["EnvironmentFile"]).read_text().splitlines())
    variables |= {{"HOME": home, "PATH": os.environ["PATH"], "PREFECT_HOME": os.environ["PREFECT_HOME"]}}
    with open(pathlib.Path(home, "service.log"), "w") as log:
        process = subprocess.Popen(options["ExecStart"].split(), cwd=options["WorkingDirectory"], env=variables, stdout=log,
            stderr=log, start_new_session=True)
    pathlib.Path(home, "service.pid").write_text(str(process.pid))
""",
}


def blocks(text):
    """Give the commands of the section, a block each."""
    section = re.search(rf"^## {SECTION}\n(.*?)^## ", text, flags=re.DOTALL | re.MULTILINE)[1]
    return re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "docs" / "operations.md").read_text()


@pytest.fixture(scope="module")
def database():
    """A Postgres that Debian's package would have started."""
    with postgres.running("postgres") as found:
        yield found


@pytest.fixture(scope="module")
def bucket():
    """A server of S3's interface with an empty bucket."""
    moto = pytest.importorskip("moto.server", reason="needs the development extra: moto")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    object_store.empty(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        login = {"aws_access_key_id": "KEY", "aws_secret_access_key": "SECRET"}  # as the page has it
        client = boto3.client("s3", endpoint_url=url, region_name="eu-central-1", **login)
        client.create_bucket(Bucket="fedsilo", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield url, client
    server.stop()


def clone(repository, folder):
    """Make what `git clone` will find: the files of the working tree that git knows, with tiny params."""
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=repository, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (repository / name).is_file() and not name.startswith("studies/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, folder / name)
    tree = tiny_run.tiny_params()
    tree["federate"]["rounds"] = 1
    tree["outside"]["methods"] = ["global", "ensemble"]
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    for command in (["init", "-q", "-b", "main"], ["add", "--all"], ["commit", "-qm", "start"]):
        subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test", *command], cwd=folder, check=True)
    return folder


def environment_of(folder):
    """Let a folder be a virtual environment with the packages of the present one, as `make install` leaves it."""
    folder.mkdir()
    for name in ("bin", "lib"):
        (folder / name).symlink_to(Path(sys.prefix) / name)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder)
    (folder / ".installed").touch()


@pytest.fixture(scope="module")
def machine(repository, tmp_path_factory, database, bucket):
    """A home folder, the environment of a shell in it, and what to write for ports and addresses of the page."""
    home = tmp_path_factory.mktemp("machine")
    source = clone(repository, home / "source")
    (home / "bin").mkdir()
    for name, program in STAND_INS.items():
        (home / "bin" / name).write_text(program.format(python=sys.executable) if "{python}" in program else program)
        (home / "bin" / name).chmod(0o755)
    port = serving.free_port()
    variables = {
        "HOME": str(home),
        "USER": "fedsilo",
        "LANG": "C.UTF-8",
        "PATH": f"{home / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "PREFECT_HOME": str(home / "prefect"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "OMP_NUM_THREADS": "1",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(database.port),
        "PGUSER": database.user,
        "PGPASSWORD": postgres.PASSWORD,
        "PGDATABASE": "postgres",
    }
    words = {
        "https://example.org/fedsilo.git": str(source),
        "https://s3.example.org": bucket[0],
        "127.0.0.1:5432": f"127.0.0.1:{database.port}",
        "127.0.0.1:4200": f"127.0.0.1:{port}",
        "--port 4200": f"--port {port}",
    }
    yield home, variables, words
    number = home / "service.pid"
    if number.is_file():
        os.kill(int(number.read_text()), signal.SIGTERM)
        deadline = time.monotonic() + 60
        while serving.processes_with(f"PREFECT_HOME={home / 'prefect'}") and time.monotonic() < deadline:
            time.sleep(0.5)


@pytest.fixture(scope="module")
def said(text, machine):
    """Run all blocks in one shell; give what each wrote."""
    home, variables, words = machine
    script = "".join(f"echo '== {number}'\n{block}\n" for number, block in enumerate(blocks(text)))
    for word, here in words.items():
        script = script.replace(word, here)
    # newer than what it is made from, or it would be made anew
    script = script.replace("make install", "cp --recursive ~/environment .venv; touch .venv/.installed; make install")
    environment_of(home / "environment")
    (home / "script").write_text(script)
    log = home / "script.log"
    with log.open("w") as output:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "script"], cwd=home, env=variables, stdout=output, stderr=subprocess.STDOUT,
            check=False, timeout=900,
        )  # fmt: skip
    written = log.read_text()
    service = home / "service.log"
    assert done.returncode == 0, written[-4000:] + (service.read_text()[-3000:] if service.is_file() else "")
    return re.split(r"^== \d+\n", written, flags=re.MULTILINE)[1:]


def test_every_word_that_is_changed_is_on_the_page(text, machine):
    commands = "\n".join(blocks(text))
    assert [word for word in machine[2] if word not in commands] == []
    assert len(blocks(text)) > 8


def test_they_run_as_they_are_written(said, text):
    assert len(said) == len(blocks(text))
    everything = "".join(said)
    assert "Data and pipelines are up to date." in everything
    assert "0 2 * * *" in everything
    assert said[-1].splitlines()[-1].startswith("verified demo/federation: ")


def test_the_server_keeps_its_runs_in_postgres(said, database):
    query = "select flow.name, flow_run.state_type::text from flow_run join flow on flow.id = flow_run.flow_id"
    found = database.rows(query, "prefect")

    assert ("retrain", "COMPLETED") in found
    assert {state for _, state in found} <= {"COMPLETED", "SCHEDULED"}


def test_what_is_of_the_whole_federation_is_at_the_remote_and_nothing_else(said, machine, bucket):
    home = machine[0]
    keys = {entry["Key"] for entry in bucket[1].list_objects_v2(Bucket="fedsilo")["Contents"]}
    lock = yaml.safe_load((home / "fedsilo" / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"] if "md5" in out}

    def is_there(path):
        return f"dvc/files/md5/{outs[path][:2]}/{outs[path][2:]}" in keys

    found = {path for path in outs if is_there(path)}
    plots = {f"reports/demo/report/plots/{name}.csv" for name in ("training", "dice", "routes")}
    assert found == {f"runs/demo/{name}" for name in ("global.safetensors", "rounds.csv", "federation.json")} | plots


def test_settings_are_for_their_owner_and_two_must_approve(said, machine):
    home = machine[0]
    assert (home / ".config" / "fedsilo.env").stat().st_mode & 0o077 == 0
    policy = json.loads((home / "fedsilo" / "audit" / "demo" / "founding.json").read_text())["policy"]
    assert (policy["approvals"], policy["quorum"]) == (2, 2)


def test_the_server_asks_for_the_login_and_data_are_announced_with_it(said, machine):
    home, variables, words = machine
    host = words["127.0.0.1:4200"]
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", "/api/admin/version")
    assert connection.getresponse().status == 401
    connection.close()

    url = f"http://{host}/api"
    announce = f"from tasks import arrivals; arrivals.announce.fn({url!r}, 'demo', 'ct-a')"
    settings = dict(line.split("=", 1) for line in (home / ".config" / "fedsilo.env").read_text().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", announce], cwd=home / "fedsilo", env=variables | settings, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
