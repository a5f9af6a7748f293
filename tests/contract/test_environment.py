"""Nothing calls home, versions fit, and the pinned server can be built."""

import configparser
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flows import environment

# stands in for a firewall in every Python process of a run: refuses and records whatever is not this machine
GUARD = """
import os, socket
LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "")
def check(host):
    if str(host) not in LOCAL:
        with open(os.environ["FEDSILO_TEST_CALLS"], "a") as log:
            log.write(f"{host}\\n")
        raise OSError(f"no network in this test: {host}")
class Socket(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            check(address[0])
        return super().connect(address)
    def connect_ex(self, address):
        if self.family != socket.AF_UNIX:
            check(address[0])
        return super().connect_ex(address)
def getaddrinfo(host, *arguments, _resolve=socket.getaddrinfo, **options):
    check(host.decode() if isinstance(host, bytes) else host or "")
    return _resolve(host, *arguments, **options)
socket.socket, socket.getaddrinfo = Socket, getaddrinfo
"""

TINY = {
    "phantoms": {"grid_zyx": [8, 16, 24], "spacing_zyx_mm": [24.0, 18.0, 16.0], "inside_cases": 4, "outside_cases": 1},
    "prepare": {"spacing_zyx_mm": [None, 18.0, 16.0], "val_share": 0.25, "test_share": 0.25},
}


def bare_environment(**more):
    """Our environment without what a run sets itself."""
    return {name: value for name, value in os.environ.items() if name not in environment.DEFAULTS} | more


def pins(repository):
    """Versions in constraints.txt by name."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines if line and line[0] != "#"}


def asked_for(repository):
    """Requirements of the project with its development extra."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])]


def test_the_flows_set_what_is_not_set(repository):
    code = "import flows, os; print(os.environ['DO_NOT_TRACK'], os.environ['DVC_NO_ANALYTICS'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env=bare_environment(DO_NOT_TRACK="mine"),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["mine", environment.DEFAULTS["DVC_NO_ANALYTICS"]]


def test_ci_sets_the_same(repository):
    exported = dict(re.findall(r"^export (\w+)=(.*)$", (repository / ".ci" / "run").read_text(), flags=re.MULTILINE))

    assert exported.items() <= environment.DEFAULTS.items()
    assert {"DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "DVC_NO_ANALYTICS", "GX_ANALYTICS_ENABLED"} <= exported.keys()


def test_dvc_is_told_in_its_own_config(repository):
    config = configparser.ConfigParser()
    config.read(repository / ".dvc" / "config")

    assert config["core"]["analytics"] == config["core"]["check_update"] == "false"


def test_everything_asked_for_is_pinned_within_its_bounds(repository):
    pinned = pins(repository)

    for requirement in asked_for(repository):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_pins_carry_no_local_build(repository):
    assert [f"{name}=={version}" for name, version in pins(repository).items() if not re.fullmatch(r"[0-9a-z.]+", version)] == []


def test_the_pinned_server_can_be_built():
    from prefect.server.api.server import create_app

    assert "/api" in {getattr(route, "path", None) for route in create_app().routes}


def test_make_has_a_target_for_each_command_in_the_documents(repository):
    targets = set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text(), flags=re.MULTILINE))
    texts = "\n".join((repository / name).read_text() for name in ("CONTRIBUTING.md", "README.md"))

    assert set(re.findall(r"^(?:\$ )?make ([a-z]+)", texts, flags=re.MULTILINE)) <= targets


@pytest.fixture
def tiny(repository, tmp_path):
    """Params of a run of seconds, in a workspace of its own."""
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    for section, changes in TINY.items():
        tree[section].update(changes)
    tree["prepare"]["contract"].update(spacing_mm=[0.2, 30.0], min_edge_3d=4)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def test_a_run_talks_to_this_machine_only(repository, tiny):
    """Phantoms and preparation, with a Prefect server of their own and Great Expectations, behind a firewall."""
    calls, guard = tiny / "calls", tiny / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    arguments = [
        "--cohort",
        str(repository / "cohorts" / "demo.yaml"),
        "--params",
        str(tiny / "params.yaml"),
        "--workspace",
        str(tiny),
    ]
    code = f"import sys; from flows import phantoms, prepare; sys.exit(phantoms.main({arguments}) or prepare.main({arguments}))"
    variables = bare_environment(PYTHONPATH=str(guard), FEDSILO_TEST_CALLS=str(calls), PREFECT_HOME=str(tiny / "prefect"))

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=variables, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert not calls.exists(), calls.read_text()
    assert (tiny / "data/prepared/demo/ct-a/manifest.csv").exists()
