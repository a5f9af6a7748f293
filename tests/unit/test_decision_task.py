"""What a decision is made from: new cases against the champion's manifest, who is the champion, scores of cases in use."""

import json
import subprocess
from dataclasses import replace

import pytest

from fedsilo.audit.events import Artifact, Environment, Event, Why
from fedsilo.cohort import manifest
from fedsilo.cohort.manifest import ManifestRow
from fedsilo.errors import DataError
from fedsilo.evaluation import pccp
from fedsilo.evaluation.triggers import Decay, News
from tasks import triggers, versioned
from tasks.paths import RunPaths
from tasks.triggers import Question
from tests.unit import raw_site


def rows(*contents):
    return [
        ManifestRow(
            f"c{index}", f"p{index}", "train", f"cases/c{index}.safetensors", "0" * 64, content, "", "MR", "mm", "1", 9, "5|3|2"
        )
        for index, content in enumerate(contents)
    ]


@pytest.fixture
def question(repository, tmp_path):
    """A site with three cases."""
    made = Question(raw_site.roster("inside"), RunPaths(tmp_path, "tiny", "tiny"), pccp.load(repository / "pccp.yaml").triggers)
    manifest.write(rows("a", "b", "c"), made.paths.prepared_site("site-a") / "manifest.csv")
    return made


def champion_had(monkeypatch, folder, contents):
    """Let DVC have a manifest at the commit `then`, or none."""
    content = None if contents is None else manifest.write(rows(*contents), folder / "then.csv").read_bytes()

    def read_at(workspace, path, commit):
        assert (path, commit) == ("data/prepared/tiny/site-a/manifest.csv", "then")
        return content

    monkeypatch.setattr(versioned, "read_at", read_at)


@pytest.mark.parametrize(("then", "counts"), [(("a", "b", "c"), (3, 0)), (("c", "gone"), (2, 2)), ((), (0, 3)), (None, (0, 3))])
def test_cases_are_new_by_their_images(question, monkeypatch, tmp_path, then, counts):
    champion_had(monkeypatch, tmp_path, then)

    assert triggers.news_of(question, "site-a", "then") == News("site-a", *counts)


def test_without_a_champion_all_cases_are_new(question):
    assert triggers.news_of(question, "site-a", "") == News("site-a", 0, 3)


def test_a_site_that_lost_its_cases_has_none_that_are_new(question, monkeypatch, tmp_path):
    champion_had(monkeypatch, tmp_path, ("a", "b"))
    (question.paths.prepared_site("site-a") / "manifest.csv").unlink()

    assert triggers.news_of(question, "site-a", "then") == News("site-a", 2, 0)


def promoted(version, kind="promote"):
    named = {"log": "tiny/federation", "actor": "ada", "actor_name": "Ada", "role": "promoter", "key": f"ed25519:{'0' * 32}"}
    signed = {"v": 1, "seq": 1, "ts": "2026-01-01T00:00:00.000000Z", "prev": "", "sig": ""}
    outputs = (Artifact(f"releases/tiny/{version}/manifest.json", "1" * 64),) if version else ()
    return Event(kind=kind, why=Why("x", "better"), outputs=outputs, env=Environment(git="a" * 40), **named, **signed)


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def tagged(question):
    """The question in a repository whose release v1.0.0 is of another commit than its code, and where more came since."""
    folder = question.paths.workspace
    git(folder, "init", "-q")
    for content, tag in (("a",), None), (("a", "b"), "model-tiny@v1.0.0"), (("a", "b", "c"), "model-tiny@v1.1.0"):
        manifest.write(rows(*content), question.paths.prepared_site("site-a") / "manifest.csv")
        git(folder, "add", "-A")
        git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "more")
        if tag:
            git(folder, "tag", tag)
    manifest.write(rows("a", "b", "c", "d"), question.paths.prepared_site("site-a") / "manifest.csv")
    return question


def test_new_cases_are_those_that_the_version_in_use_was_not_released_with(tagged, monkeypatch):
    def read_at(workspace, path, commit):
        return git(workspace, "show", f"{commit}:{path}").encode() + b"\n"

    monkeypatch.setattr(versioned, "read_at", read_at)
    first, second = promoted("v1.0.0"), promoted("v1.1.0")

    def news(*events):
        return triggers.news_of(tagged, "site-a", triggers.champion_tag(tagged, list(events)))

    assert news(first) == News("site-a", 2, 2)
    assert news(first, second) == News("site-a", 3, 1)
    assert news(first, second, promoted("v1.0.0", "rollback")) == News("site-a", 2, 2), "the version that came back knew less"
    assert news() == News("site-a", 0, 4)


def test_a_promotion_without_a_version_or_its_tag_asks_for_a_commit(tagged):
    with pytest.raises(DataError, match="does not say which version is in use; name the commit with its data by --champion"):
        triggers.champion_tag(tagged, [promoted(None)])
    with pytest.raises(DataError, match=r"there is no tag model-tiny@v9\.0\.0 .* by --champion"):
        triggers.champion_tag(tagged, [promoted("v9.0.0")])


def audited(question, tmp_path, content):
    path = tmp_path / "audited.json"
    path.write_text(json.dumps(content))
    return replace(question, audited=path)


def test_scores_in_use_are_summed_by_site(question, tmp_path):
    content = {"site-a": {"mean": 0.9, "deviation": 0.1, "scores": [0.9, 0.1]}}

    assert triggers.audited_scores(audited(question, tmp_path, content), ["site-a"]) == (Decay("site-a", 2, 7.5, alarm=True),)
    assert triggers.audited_scores(question, ["site-a"]) == ()


@pytest.mark.parametrize(
    "content",
    [
        {"site-b": {"mean": 0.9, "deviation": 0.1, "scores": []}},
        {"site-a": {"mean": 0.9, "scores": []}},
        {"site-a": {"mean": 0.9, "deviation": 0.1, "scores": 0.5}},
        {"site-a": {"mean": 0.9, "deviation": 0.1, "scores": ["x"]}},
        {"site-a": {"mean": True, "deviation": 0.1, "scores": []}},
    ],
)
def test_scores_that_cannot_be_used(question, tmp_path, content):
    with pytest.raises(DataError, match="cannot use"):
        triggers.audited_scores(audited(question, tmp_path, content), ["site-a"])


@pytest.mark.parametrize("content", [{}, {"decision": "yes"}, {"decision": {"verdict": "maybe"}}])
def test_a_file_that_is_no_decision(tmp_path, content):
    (tmp_path / "decision.json").write_text(json.dumps(content))

    with pytest.raises(DataError, match="expected a decision"):
        triggers.verdict_of(tmp_path / "decision.json")
