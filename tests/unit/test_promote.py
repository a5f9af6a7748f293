"""`python -m flows.promote`, `rollback` and `champion`: which model is in use, by whose word, with every file as signed."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedsilo import files
from fedsilo.audit import founding as foundings
from fedsilo.audit import keys, releases, trail, verifier
from fedsilo.errors import AuditRefusedError, DataError
from flows import audit
from tasks import promoting, release_steps
from tests.unit.release_scene import SITES, Scene, copied, dvc, found_with_two_approvers, git, repository, run

FILES = {
    "annex_iv.md", "approvals.json", "environment.json", "federation.json", "metadata.json", "metrics.json",
    "model_card.json", "model_card.md", "sbom.json", "verdict.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A repository; copy it, do not change it."""
    return repository(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture
def scene(template, tmp_path, capsys):
    return copied(template, tmp_path / "work", capsys)


@pytest.fixture(autouse=True)
def small_bill(monkeypatch):
    """List a package, not the whole environment: tests of the bill of materials are elsewhere."""
    from fedsilo.report import packages

    whole = packages.installed(["fedsilo"])
    own = tuple(dataclasses.replace(package, needs=()) for package in whole if package.name == "fedsilo")
    monkeypatch.setattr(packages, "installed", lambda _: own)


def test_a_model_is_promoted_then_another_and_the_first_comes_back(scene):
    out = scene.release("demo", "v1.0.0")
    first = scene.model("demo")
    assert (
        out == f"demo/model v1.0.0 is in use: {first}\nwarning: the tags are not signed; add --tag-key with an ssh-ed25519 key\n"
    )
    found = scene.champion_json()
    assert (found["version"], found["sha256"], found["run"], found["event"]) == ("v1.0.0", first, "demo", "promote")
    assert (found["by"], found["why"], found["missing"]) == ("demo-promoter", "demo is better", [])
    assert [(entry["by"], entry["reason"]) for entry in found["approved"]] == [("demo-approver", "approve demo")]
    assert sorted(found["models"]) == ["global.safetensors", *(f"inside/{site}.safetensors" for site in SITES)]
    assert sorted(scene.tags()) == ["model#prod#1", "model@v1.0.0"]

    scene.release("demo-2", "v1.1.0")
    assert scene.champion_json()["version"] == "v1.1.0"
    promoted = scene.events("promote")[-1]
    assert (promoted.subject.before, promoted.subject.after) == (first, scene.model("demo-2"))

    # the old models are nowhere but in DVC's cache
    folder = scene.paths.folder("v1.0.0")
    for name in found["models"]:
        (folder / name).unlink()
    code, out, err = scene.rollback("v1.0.0")
    assert (code, err) == (0, "")
    assert out.startswith(f"demo/model v1.0.0 is back in use: {first}\n")
    back = scene.champion_json()
    assert (back["version"], back["sha256"], back["event"], back["why"]) == ("v1.0.0", first, "rollback", "it fails on new scans")
    assert back["missing"] == []
    for name in ("global", *(f"inside/{site}" for site in SITES)):
        assert (folder / f"{name}.safetensors").read_bytes() == (
            scene.folder / "runs" / "demo" / f"{name}.safetensors"
        ).read_bytes()
    tags = scene.tags()
    assert tags["model#prod#3"] == tags["model@v1.0.0"] != tags["model@v1.1.0"] == tags["model#prod#2"]
    assert scene.rollback("v1.0.0")[1].startswith("demo/model v1.0.0 is in use already")
    assert git(scene.folder, "status", "--porcelain", "--", "releases", "audit") == ""

    # what reads registries reads this one
    shown = json.loads(run(str(Path(sys.executable).with_name("gto")), "show", "--json", cwd=scene.folder))
    assert shown["model"]["version"] == "v1.1.0"
    assert shown["model"]["stage"] == {"prod": "v1.0.0"}
    # and the trail holds, with its files and the commit's checkpoints
    assert audit.main(["verify", "--dvc", "--against", "git:HEAD", "--workspace", str(scene.folder)]) == 0


class TestWhatIsReleased:
    def test_a_release_has_all_that_was_known(self, scene):
        scene.release("demo", "v1.0.0")
        folder = scene.paths.folder("v1.0.0")
        manifest = releases.read(folder)

        assert {entry.name for entry in manifest.files} == FILES
        assert manifest.verdict == f"sha256:{files.sha256_file(scene.folder / 'verdict-demo.json')}"
        assert (manifest.version, manifest.run, manifest.replaces) == ("v1.0.0", "demo", None)
        (promoted,) = scene.events("promote")
        assert promoted.outputs[0].name == "releases/demo/v1.0.0/manifest.json"
        assert promoted.seq >= manifest.checkpoint.size
        (document,) = json.loads((folder / "approvals.json").read_text())["approvals"]
        assert document["candidate"] == manifest.model
        card = json.loads((folder / "model_card.json").read_text())
        assert (card["version"], card["organs"], card["inside_sites"]) == ("v1.0.0", ["liver"], ["ct-a", "mr-a"])
        assert [(row["method"], row["mean"], row["num_patients"]) for row in card["dice"]] == [
            ("global", 0.85, 2),
            ("inside", 0.85, 2),
        ]
        text = (folder / "model_card.md").read_text()
        assert "| ct-a | inside | liver | global | 0.850 | 2 |" in text
        assert "- replaces: nothing, it is the first" in text
        assert "approve demo" in (folder / "annex_iv.md").read_text()
        environment = json.loads((folder / "environment.json").read_text())
        assert environment.keys() >= {"python", "torch", "git", "constraints_sha256", "dvc_lock_sha256", "machine", "fedsilo"}
        assert json.loads((folder / "metadata.json").read_text())["version"] == "1.0.0"

    def test_only_the_global_model_may_leave(self, scene):
        far = scene.folder.parent / "far"
        dvc(scene.folder, "remote", "add", "-d", "shared", str(far / "shared"))
        dvc(scene.folder, "remote", "add", "ct", str(far / "ct"))
        files.write_text(
            scene.folder / "data/raw/demo/ct-a.dvc",
            "outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e\n  path: ct-a\n  remote: ct\n",
        )
        scene.release("demo", "v1.0.0")

        def pushed(remote):
            return {path.read_bytes() for path in (far / remote).rglob("*") if path.is_file()}

        assert pushed("shared") == {b"global of demo"}
        assert pushed("ct") == {b"ct-a of demo"}
        committed = git(scene.folder, "ls-files", "releases").splitlines()
        assert not [name for name in committed if name.endswith(".safetensors")]
        assert "releases/demo/v1.0.0/inside/mr-a.safetensors.dvc" in committed

    def test_what_else_was_changed_is_not_committed(self, scene):
        (scene.folder / "other").write_text("mine")
        git(scene.folder, "add", "other")
        scene.release("demo", "v1.0.0")

        assert git(scene.folder, "status", "--porcelain", "--", "other") == "A  other"
        assert "dvc.lock" not in git(scene.folder, "status", "--porcelain")


class TestWhoMay:
    def refused(self, scene, reason, *arguments, **options):
        code, out, err = scene.promote(*arguments, **options)
        assert (code, out) == (1, "")
        assert reason in err
        assert scene.events("promote") == []
        assert not (scene.paths.root / "v1.0.0").exists()
        assert not scene.paths.journal.exists()
        assert not list(scene.folder.rglob("refs/tags/*"))

    def test_nobody_without_an_approval(self, scene):
        scene.train("demo")
        self.refused(scene, "0 approvals of sha256", "demo", "v1.0.0")
        assert scene.approve("demo", decision="reject")[0] == 0
        self.refused(scene, "0 approvals of sha256", "demo", "v1.0.0")

    def test_nobody_who_is_no_promoter(self, scene):
        scene.train("demo")
        scene.approve("demo")
        self.refused(scene, "is no promoter", "demo", "v1.0.0", key="demo-approver")

    def test_two_approvals_if_the_policy_says_so(self, scene):
        found_with_two_approvers(scene)
        scene.train("demo")
        assert scene.approve("demo", key="ann")[0] == 0
        self.refused(scene, "1 approvals of sha256", "demo", "v1.0.0")
        assert scene.approve("demo", key="ben")[0] == 0
        assert scene.promote("demo", "v1.0.0")[0] == 0
        assert [entry["by"] for entry in scene.champion_json()["approved"]] in (["ann", "ben"], ["ben", "ann"])

    def test_no_verdict_but_the_one_that_was_approved(self, scene):
        scene.train("demo")
        scene.approve("demo")
        (scene.folder / "verdict-demo.json").write_text("{}")
        self.refused(scene, "the gate's last verdict on", "demo", "v1.0.0")

    def test_no_model_but_the_runs(self, scene):
        scene.train("demo")
        scene.approve("demo")
        files.write_bytes(scene.folder / "runs/demo/inside/ct-a.safetensors", b"another")
        self.refused(scene, "ct-a.safetensors is missing, or not the model", "demo", "v1.0.0")
        path = scene.folder / "runs/demo/federation.json"
        files.write_json(path, {**json.loads(path.read_text()), "cohort": "liver"})
        self.refused(scene, "demo is a run of liver, not of demo", "demo", "v1.0.0")

    @pytest.mark.parametrize("version", ["1.0.0", "v1.0", "v01.0.0", "v1.0.0\n", "../v1.0.0"])
    def test_no_odd_version(self, scene, version):
        scene.train("demo")
        scene.approve("demo")
        code, _, err = scene.promote("demo", version)
        assert code == 1
        assert "expected vX.Y.Z" in err

    def test_no_version_twice(self, scene):
        scene.release("demo", "v1.0.0")
        assert scene.promote("demo", "v1.0.0")[1].startswith("demo/model v1.0.0 is in use already")
        scene.train("demo-2")
        scene.approve("demo-2")
        code, _, err = scene.promote("demo-2", "v1.0.0")
        assert code == 1
        assert "v1.0.0 was released before" in err
        assert len(scene.events("promote")) == 1

    def test_nothing_comes_back_that_was_not_in_use(self, scene):
        scene.release("demo", "v1.0.0")
        code, _, err = scene.rollback("v0.9.0")
        assert code == 1
        assert "there is no release" in err
        scene.release("demo-2", "v1.1.0")
        code, _, err = scene.rollback("v1.0.0", key="demo-approver")
        assert code == 1
        assert "is no promoter" in err
        assert scene.events("rollback") == []

    def test_nowhere_without_git_and_dvc(self, tmp_path, capsys):
        scene = Scene(tmp_path, capsys)
        scene.train("demo")
        scene.approve("demo")
        self.refused(scene, "git rev-parse in", "demo", "v1.0.0")


class TestAKill:
    """After any step the same command ends what was begun, and nothing happens twice."""

    def plant(self, monkeypatch, name, index, fault):
        steps = getattr(release_steps, name)
        planted = (*steps[:index], fault, *steps[index:])
        monkeypatch.setattr(promoting, name, planted)

    def test_a_promotion_goes_on_from_any_step(self, scene, monkeypatch):
        scene.train("demo")
        scene.approve("demo")
        for index in range(len(release_steps.PROMOTION) + 1):
            with monkeypatch.context() as patched:
                self.plant(patched, "PROMOTION", index, broken)
                with pytest.raises(BrokenError):
                    scene.promote("demo", "v1.0.0")
            assert scene.paths.journal.is_file()
            if index == 5:  # a run that is trained anew does not matter once there is a release
                files.write_bytes(scene.folder / "runs/demo/global.safetensors", b"another")

        self.promoted_once(scene)

    def test_a_process_that_dies_leaves_nothing_that_cannot_go_on(self, scene):
        scene.train("demo")
        scene.approve("demo")
        code = (
            "import os, sys; from tasks import promoting; from flows import promote\n"
            "promoting.PROMOTION = (*promoting.PROMOTION[:3], lambda work: os._exit(9))\n"
            "sys.exit(promote.main(sys.argv[1:]))"
        )
        options = ["--candidate", "demo", "--version", "v1.0.0", "--verdict", str(scene.folder / "verdict-demo.json")]
        options += ["--why", "demo is better", "--key", str(scene.key("demo-promoter")), "--workspace", str(scene.folder)]
        done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (9, "")
        assert len(scene.events("promote")) == 1
        code, _, err = scene.champion()
        assert code == 2
        assert "v1.0.0 is in use by the trail, but what began has not ended" in err

        self.promoted_once(scene)

    def promoted_once(self, scene):
        scene.train("demo-2")
        code, _, err = scene.promote("demo-2", "v1.1.0")
        assert code == 1
        assert "promote of v1.0.0" in err
        assert "has begun and not ended" in err

        code, out, err = scene.promote("demo", "v1.0.0")
        assert (code, err) == (0, "")
        assert out.startswith("demo/model v1.0.0 is in use")
        assert not scene.paths.journal.exists()
        assert len(scene.events("promote")) == 1
        assert sorted(scene.tags()) == ["model#prod#1", "model@v1.0.0"]
        assert git(scene.folder, "rev-list", "--count", "HEAD") == "2"
        assert scene.champion_json()["version"] == "v1.0.0"

    def test_a_run_that_is_trained_anew_in_between_is_not_released(self, scene, monkeypatch):
        for name in ("demo", "demo-2"):
            scene.train(name)
        assert scene.approve("demo")[0] == 0
        assemble = release_steps.folders.assemble

        def of_another(contents, folder, server):
            assemble(dataclasses.replace(contents, run=scene.paths.run("demo-2")), folder, server)

        with monkeypatch.context() as patched:
            patched.setattr(release_steps.folders, "assemble", of_another)
            code, _, err = scene.promote("demo", "v1.0.0")
        assert code == 1
        assert "demo has another model now" in err
        assert not scene.paths.folder("v1.0.0").exists()
        assert scene.events("promote") == []

        assert scene.promote("demo", "v1.0.0")[0] == 0
        assert scene.champion_json()["sha256"] == scene.model("demo")

    def test_a_rollback_goes_on_from_any_step(self, scene, monkeypatch):
        scene.release("demo", "v1.0.0")
        scene.release("demo-2", "v1.1.0")
        for index in range(len(release_steps.RETURN) + 1):
            with monkeypatch.context() as patched:
                self.plant(patched, "RETURN", index, broken)
                with pytest.raises(BrokenError):
                    scene.rollback("v1.0.0")

        assert scene.rollback("v1.0.0")[0] == 0
        assert len(scene.events("rollback")) == 1
        assert sorted(scene.tags()) == ["model#prod#1", "model#prod#2", "model#prod#3", "model@v1.0.0", "model@v1.1.0"]
        assert scene.champion_json()["version"] == "v1.0.0"

    def test_what_the_trail_has_not_makes_room_for_something_else(self, scene, monkeypatch):
        scene.train("demo")
        scene.train("demo-2")
        scene.approve("demo")
        scene.approve("demo-2")
        with monkeypatch.context() as patched:
            self.plant(patched, "PROMOTION", 2, broken)
            with pytest.raises(BrokenError):
                scene.promote("demo", "v1.0.0")

        assert scene.promote("demo-2", "v1.1.0")[0] == 0
        assert not scene.paths.folder("v1.0.0").exists()
        code, _, err = scene.promote("demo", "v1.0.0")
        assert code == 1, "its verdict does not compare it with the model that is in use now"
        assert f"is about the champion none, expected {scene.model('demo-2')}" in err
        scene.judge("demo")
        assert scene.approve("demo")[0] == 0
        assert scene.promote("demo", "v1.0.0")[0] == 0
        assert [event.subject.after for event in scene.events("promote")] == [scene.model("demo-2"), scene.model("demo")]

    def test_a_model_that_is_nowhere_does_not_come_back(self, scene):
        scene.release("demo", "v1.0.0")
        scene.release("demo-2", "v1.1.0")
        (scene.paths.folder("v1.0.0") / "global.safetensors").unlink()
        shutil.rmtree(scene.folder / ".dvc" / "cache")
        code, _, err = scene.rollback("v1.0.0")
        assert code == 1
        assert "global.safetensors is not in DVC's cache here: `dvc pull" in err
        assert scene.events("rollback") == []
        scene.train("demo-3")
        scene.approve("demo-3")
        assert scene.promote("demo-3", "v1.2.0")[0] == 0

    def test_what_was_rejected_meanwhile_is_taken_back(self, scene, monkeypatch):
        scene.train("demo")
        scene.approve("demo")
        with monkeypatch.context() as patched:
            self.plant(patched, "PROMOTION", 2, broken)
            with pytest.raises(BrokenError):
                scene.promote("demo", "v1.0.0")
        assert scene.paths.folder("v1.0.0").exists()
        assert scene.approve("demo", decision="reject")[0] == 0

        code, _, err = scene.promote("demo", "v1.0.0")
        assert code == 1
        assert "0 approvals" in err
        assert not scene.paths.folder("v1.0.0").exists()
        assert not scene.paths.journal.exists()
        code, _, err = scene.approve("demo")
        assert code == 1, "it was rejected"
        assert "there is no verdict since" in err
        scene.judge("demo")
        assert scene.approve("demo")[0] == 0
        assert scene.promote("demo", "v1.0.0")[0] == 0

    def test_a_rollback_that_the_trail_has_not_leaves_the_release(self, scene, monkeypatch):
        scene.release("demo", "v1.0.0")
        scene.release("demo-2", "v1.1.0")
        with monkeypatch.context() as patched:
            self.plant(patched, "RETURN", 0, broken)
            with pytest.raises(BrokenError):
                scene.rollback("v1.0.0")
        assert scene.paths.journal.exists()
        scene.train("demo-3")
        assert scene.approve("demo-3")[0] == 0

        assert scene.promote("demo-3", "v1.2.0")[0] == 0

        assert not scene.paths.journal.exists()
        assert scene.events("rollback") == []
        assert releases.read(scene.paths.folder("v1.0.0")).model == scene.model("demo")
        assert scene.rollback("v1.0.0")[0] == 0

    def test_what_was_superseded_meanwhile_is_approved_no_more(self, scene):
        scene.train("demo")
        scene.train("demo-2")
        assert scene.approve("demo")[0] == 0
        assert scene.promote("demo", "v1.0.0")[0] == 0

        code, _, err = scene.approve("demo-2")

        assert code == 1
        assert f"compares it with nothing, in use is {scene.model('demo')}" in err


class BrokenError(Exception):
    """A fault that is planted between two steps."""


def broken(_work):
    raise BrokenError


class TestTheChampion:
    def test_there_is_none_before_a_promotion(self, scene):
        assert scene.champion()[0] == 2
        scene.train("demo")
        code, _, err = scene.champion()
        assert code == 2
        assert "no demo/model was promoted" in err

    def test_it_is_told_in_lines(self, scene):
        scene.release("demo", "v1.0.0")
        code, out, _ = scene.champion()
        lines = out.splitlines()
        assert code == 0
        assert lines[0] == f"demo/model v1.0.0 {scene.model('demo')}"
        assert lines[1].endswith("of demo-promoter: demo is better")
        assert lines[2].startswith("approved by demo-approver, ")
        assert lines[3] == "files: as the trail says; tags: at their commit, signatures not checked"

    @pytest.mark.parametrize("tag", ["model@v1.1.0", "model#prod#2"])
    def test_a_tag_that_was_moved_is_refused(self, scene, tag):
        scene.release("demo", "v1.0.0")
        scene.release("demo-2", "v1.1.0")
        (scene.folder / "code.py").write_text("other = True")
        git(scene.folder, "add", "code.py")
        git(scene.folder, "commit", "-qm", "other code beside the same release")
        for target in ("HEAD", "refs/tags/model@v1.0.0"):
            git(scene.folder, "tag", "--force", "-m", "moved", tag, target)

            code, _, err = scene.champion()

            assert code == 1
            assert f"the tag {tag} is not at the commit that released" in err

    def test_a_tag_that_is_not_here_cannot_be_checked(self, scene):
        scene.release("demo", "v1.0.0")
        git(scene.folder, "tag", "--delete", "model@v1.0.0")
        code, _, err = scene.champion()
        assert code == 2
        assert "there is no tag model@v1.0.0" in err

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("v1.0.0/global.safetensors", "is not the model that was signed"),
            ("v1.0.0/inside/mr-a.safetensors", "is not the model that was signed"),
            ("v1.0.0/verdict.json", "verdict.json is missing, or not what was signed"),
            ("v1.0.0/manifest.json", "manifest.json is not as the trail says"),
        ],
    )
    def test_a_changed_file_is_refused(self, scene, name, reason):
        scene.release("demo", "v1.0.0")
        path = scene.paths.root / name
        path.chmod(0o644)
        path.write_bytes(b"changed")
        code, _, err = scene.champion()
        assert code == 1
        assert f"artifact: {reason}" in err or reason in err

    def test_a_pointer_to_another_is_refused(self, scene):
        scene.release("demo", "v1.0.0")
        files.write_json(scene.paths.champion, {"version": "v9.0.0", "model": scene.model("demo"), "number": 1})
        code, _, err = scene.champion()
        assert code == 1
        assert "champion.json speaks of v9.0.0" in err

    def test_a_pointer_to_another_folder_is_refused(self, scene):
        scene.release("demo", "v1.0.0")
        pointer = files.read_json(scene.paths.champion)
        files.write_json(scene.paths.champion, pointer | {"folder": "releases/demo/v0.9.0"})
        code, _, err = scene.champion()
        assert code == 1
        assert "speaks of v1.0.0 in releases/demo/v0.9.0" in err

    def test_a_global_model_that_is_not_here_cannot_be_checked(self, scene):
        scene.release("demo", "v1.0.0")
        (scene.paths.folder("v1.0.0") / "global.safetensors").unlink()
        code, _, err = scene.champion()
        assert code == 2
        assert "global.safetensors is not here: `dvc pull " in err

    def test_inside_models_that_are_at_their_sites_are_told_of(self, scene):
        scene.release("demo", "v1.0.0")
        (scene.paths.folder("v1.0.0") / "inside/mr-a.safetensors").unlink()
        assert scene.champion_json()["missing"] == ["inside/mr-a.safetensors"]

    def test_tags_are_signed_by_whom_one_trusts(self, scene, tmp_path):
        for name in ("own", "other"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name), cwd=tmp_path)
            public = (tmp_path / f"{name}.pub").read_text()
            (tmp_path / f"{name}-signers").write_text(f'releases@demo namespaces="git" {public}')
        out = scene.release("demo", "v1.0.0", "--tag-key", tmp_path / "own")

        assert "warning" not in out
        assert scene.champion("--allowed-signers", tmp_path / "own-signers")[0] == 0
        code, _, err = scene.champion("--allowed-signers", tmp_path / "other-signers")
        assert code == 2
        assert "git verify-tag in" in err


def test_a_manifest_is_no_one_elses(scene, tmp_path):
    scene.release("demo", "v1.0.0")
    folder = scene.paths.folder("v1.0.0")
    setting = verifier.setting_of(foundings.read(scene.paths.audit.founding), "federation")
    register = verifier.replay(trail.read(scene.paths.audit.log("federation")), setting).state.register
    assert releases.check(folder, register).missing == ()

    shutil.copytree(folder, tmp_path / "v2.0.0")
    with pytest.raises(AuditRefusedError, match=r"the manifest is of v1\.0\.0"):
        releases.check(tmp_path / "v2.0.0", register)
    manifest = json.loads((folder / releases.MANIFEST).read_text())
    listed = [entry for entry in releases.read(folder).models if entry.name == releases.GLOBAL]
    fields = {name: value for name, value in manifest.items() if name not in ("files", "models", "key", "sig")}
    for signer, code in ((keys.of_seed(b"7" * 32), "unknown-key"), (keys.load(scene.key("demo-promoter")), "unknown-key")):
        (folder / releases.MANIFEST).unlink()
        releases.sign(folder, fields, listed, signer)
        with pytest.raises(AuditRefusedError) as refused:
            releases.check(folder, register)
        assert refused.value.code == code
    (folder / releases.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(AuditRefusedError, match="not one line in canonical form"):
        releases.read(folder)
    (folder / releases.MANIFEST).unlink()
    with pytest.raises(DataError, match="No such file"):
        releases.read(folder)
