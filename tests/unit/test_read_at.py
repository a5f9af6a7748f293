"""Files as they were at a commit: by git, by DVC's cache, and what is said where it is gone."""

import shutil
import subprocess
import sys

import pytest
import yaml

from fedsilo.errors import DataError
from tasks import versioned

MANIFEST = "data/prepared/demo/ct-a/manifest.csv"
STAGE = {
    "cmd": "mkdir -p data/prepared/demo/ct-a && cp source data/prepared/demo/ct-a/manifest.csv",
    "deps": ["source"],
    "outs": [{"data/prepared/demo": {"push": False}}],
}


def call(folder, *command):
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with two versions of a site's manifest, and their commits."""
    folder = tmp_path_factory.mktemp("versions")
    call(folder, "git", "init", "-q")
    call(folder, sys.executable, "-m", "dvc", "init", "-q")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"prepare": STAGE}}))
    commits = []
    for content in ("old", "new"):
        (folder / "source").write_text(content)
        call(folder, sys.executable, "-m", "dvc", "repro")
        call(folder, "git", "add", "-A")
        call(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", content)
        commits.append(call(folder, "git", "rev-parse", "HEAD"))
    return folder, commits


def test_each_commit_has_its_version(made):
    folder, (old, new) = made

    assert versioned.read_at(folder, MANIFEST, old) == b"old"
    assert versioned.read_at(folder, MANIFEST, new) == b"new"
    assert versioned.read_at(folder, "source", old) == b"old"
    assert (folder / MANIFEST).read_text() == "new", "the workspace stays as it is"


def test_what_was_not_there_is_none(made):
    folder, (old, _) = made

    assert versioned.read_at(folder, "data/prepared/demo/ct-z/manifest.csv", old) is None


@pytest.mark.parametrize("commit", ["no-such-tag", "-x"])
def test_a_commit_that_is_not_there_is_said(made, commit):
    with pytest.raises(DataError, match="as it was at"):
        versioned.read_at(made[0], MANIFEST, commit)


@pytest.mark.parametrize("lost", ["cache", "all"])
def test_a_cache_that_lost_it_is_an_error_and_not_a_site_without_cases(made, tmp_path, lost):
    folder, (old, _) = made
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / ".dvc/cache")
    if lost == "all":
        shutil.rmtree(copy / ".dvc/tmp", ignore_errors=True)
        shutil.rmtree(copy / "data")

    with pytest.raises(DataError, match="as it was at"):
        versioned.read_at(copy, MANIFEST, old)
