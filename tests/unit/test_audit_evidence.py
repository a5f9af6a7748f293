"""`verify` against checkpoints and files that lie elsewhere, and `show`, by `python -m flows.audit`."""

import json
import shutil
import subprocess

import pytest

from fedsilo import files
from fedsilo.audit import keys, trail, verifier
from fedsilo.audit.events import Artifact, Draft, Environment, Subject
from tests import audit_story as tale
from tests.audit_run import WHY, played
from tests.audit_story import INCIDENT, hash_of, hex_of
from tests.unit.audit_command import REFUSED, UNCHECKED, Command


@pytest.fixture
def command(tmp_path, capsys):
    """A log of one line under a founding, as files."""
    return Command(tmp_path, capsys).begin()


@pytest.fixture
def opened(command):
    """The same log, open to be written."""
    setting = verifier.setting_of(tale.found(), "federation")
    return trail.open_trail(command.log, setting, command.workspace / "audit" / "checkpoints" / "demo" / "federation")


@pytest.fixture
def run(opened):
    """A log with a run and a checkpoint."""
    made = played(opened)
    opened.checkpoint(tale.signer("server"))
    return made


@pytest.fixture
def rewritten(command, opened, tmp_path):
    """A log that was written anew behind its first line, with its old checkpoints in another folder."""
    opened.append(INCIDENT, tale.signer("server"))
    opened.checkpoint(tale.signer("server"))
    kept = tmp_path / "kept"
    shutil.move(opened.checkpoints_dir, kept)
    command.log.write_bytes(command.log.read_bytes().splitlines(keepends=True)[0])
    other = trail.open_trail(command.log, opened.setting, opened.checkpoints_dir)
    for _ in range(2):
        other.append(Draft("incident", WHY), tale.signer("server"))
    other.checkpoint(tale.signer("server"))
    return kept


def git(folder, *arguments):
    options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *options, *arguments], cwd=folder, check=True, capture_output=True)


class TestAgainst:
    def test_checkpoints_of_another_folder_must_hold_too(self, command, rewritten):
        assert command.told("verify").startswith("verified demo/federation: 3 lines")

        for spec in (rewritten, rewritten / "2.json"):
            code, out, err = command.run("verify", "--against", spec)
            assert (code, out) == (REFUSED, "")
            assert "line 2 checkpoint-root" in err

    def test_a_log_that_lost_what_others_know_is_refused(self, command, opened, tmp_path):
        opened.append(INCIDENT, tale.signer("server"))
        opened.checkpoint(tale.signer("server"))
        shutil.move(opened.checkpoints_dir / "2.json", tmp_path / "2.json")
        command.log.write_bytes(command.log.read_bytes().splitlines(keepends=True)[0])
        command.told("checkpoint", "--key", command.key("server"))
        assert command.told("verify").startswith("verified demo/federation: 1 lines")

        code, _, err = command.run("verify", "--against", tmp_path / "2.json")
        assert code == REFUSED
        assert "line 2 truncated" in err

    @pytest.mark.parametrize("where", ["demo/federation", "audit/checkpoints/demo/federation", ""])
    def test_a_folder_may_have_them_as_a_workspace_has(self, command, opened, tmp_path, where):
        opened.append(INCIDENT, tale.signer("server"))
        opened.checkpoint(tale.signer("server"))
        far = tmp_path / "far" / where
        far.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(opened.checkpoints_dir, far)

        assert command.run("verify")[0] == UNCHECKED
        said = command.told("verify", "--against", tmp_path / "far")
        assert said.startswith("verified demo/federation: 2 lines")
        assert "2 under a checkpoint" in said

    def test_all_that_are_named_must_be_there(self, command, run, tmp_path):
        (tmp_path / "empty").mkdir()
        kept = tmp_path / "audit" / "checkpoints"
        for spec in (tmp_path / "empty", tmp_path / "none"):
            code, _, err = command.run("verify", "--against", kept, "--against", spec)
            assert code == UNCHECKED
            assert f"there is no checkpoint of demo/federation in {spec}" in err

    def test_what_is_no_checkpoint_is_refused(self, command, run, tmp_path):
        (tmp_path / "odd.json").write_text("{")
        code, _, err = command.run("verify", "--against", tmp_path / "odd.json")
        assert code == REFUSED
        assert "refused odd.json line 1 parse" in err

    def test_a_log_elsewhere_is_not_held_against_the_workspace_s_own(self, command, rewritten, tmp_path):
        """A stranger with a trail of their own verifies that of another with the checkpoint that they were given."""
        far = tmp_path / "far" / "federation.jsonl"
        far.parent.mkdir()
        shutil.copy(command.log, far)
        shutil.copy(tmp_path / "audit" / "checkpoints" / "demo" / "federation" / "3.json", far.parent)
        shutil.rmtree(tmp_path / "audit" / "checkpoints" / "demo" / "federation")
        shutil.move(rewritten, tmp_path / "audit" / "checkpoints" / "demo" / "federation")

        assert command.run("verify", "--file", far)[0] == REFUSED
        assert command.told("verify", "--file", far, "--against", far.parent / "3.json").startswith("verified demo/federation: 3")

    def test_checkpoints_of_a_commit_must_hold(self, command, rewritten, tmp_path):
        place = tmp_path / "audit" / "checkpoints" / "demo" / "federation"
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", "audit/checkpoints")
        git(tmp_path, "commit", "-qm", "anchored")
        git(tmp_path, "tag", "good")
        shutil.copy(rewritten / "2.json", place)
        (place / "note.txt").write_text("not a checkpoint")
        git(tmp_path, "add", "audit/checkpoints")
        git(tmp_path, "commit", "-qm", "another history")
        (place / "2.json").unlink()

        assert command.told("verify", "--against", "git:good").startswith("verified demo/federation: 3 lines")
        for ref in ("HEAD", "HEAD~0", "main" if (tmp_path / ".git/refs/heads/main").exists() else "master"):
            code, _, err = command.run("verify", "--against", f"git:{ref}")
            assert code == REFUSED
            assert "line 2 checkpoint-root" in err

    def test_a_workspace_may_lie_inside_a_repository(self, command, run, tmp_path):
        git(tmp_path.parent, "init", "-q")
        try:
            git(tmp_path.parent, "add", str(tmp_path / "audit" / "checkpoints"))
            git(tmp_path.parent, "commit", "-qm", "anchored")
            assert command.told("verify", "--against", "git:HEAD").startswith("verified demo/federation")
        finally:
            shutil.rmtree(tmp_path.parent / ".git")

    @pytest.mark.parametrize("ref", ["none", "", "--help", "--output=x", "HEAD:audit", "a b", "$(touch x)"])
    def test_what_is_no_commit_could_not_be_checked(self, command, run, tmp_path, ref):
        git(tmp_path, "init", "-q")
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "nothing")
        before = sorted(tmp_path.iterdir())

        code, out, err = command.run("verify", "--against", f"git:{ref}")
        assert (code, out, err.count("\n")) == (UNCHECKED, "", 1)
        assert sorted(tmp_path.iterdir()) == before
        assert "no checkpoint of demo/federation in git:HEAD" in command.run("verify", "--against", "git:HEAD")[2]

    def test_without_a_repository_or_git_it_could_not_be_checked(self, command, run, monkeypatch):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(command.workspace.parent))
        assert command.run("verify", "--against", "git:HEAD")[0] == UNCHECKED
        monkeypatch.setenv("PATH", "")
        code, _, err = command.run("verify", "--against", "git:HEAD")
        assert code == UNCHECKED
        assert "cannot run git" in err


class TestSince:
    def test_signatures_under_it_are_not_checked_again(self, command, opened, monkeypatch):
        for _ in range(3):
            opened.append(INCIDENT, tale.signer("server"))
        opened.checkpoint(tale.signer("server"))
        opened.append(INCIDENT, tale.signer("server"))
        checked, check = [], keys.signed_by
        monkeypatch.setattr(keys, "signed_by", lambda *given: checked.append(given[1]) or check(*given))

        said = command.told("verify", "--since", opened.checkpoints_dir / "4.json")
        assert said.startswith("verified demo/federation: 5 lines")
        assert "4 under a checkpoint, signatures of the first 4 taken on trust" in said
        assert checked.count(keys.EVENT_DOMAIN) == 1
        assert json.loads(command.told("verify", "--json", "--since", opened.checkpoints_dir))["trusted"] == 4
        assert json.loads(command.told("verify", "--json"))["trusted"] == 0

    def test_the_lines_must_be_those_that_it_covers(self, command, opened, tmp_path):
        opened.append(INCIDENT, tale.signer("server"))
        opened.checkpoint(tale.signer("server"))
        kept = shutil.move(opened.checkpoints_dir / "2.json", tmp_path / "2.json")
        command.log.write_bytes(command.log.read_bytes().replace(b"begins", b"begin5", 1))
        records = [json.loads(line) for line in command.log.read_bytes().splitlines()]
        assert records[0]["why"]["text"] == "the log begin5"

        code, _, err = command.run("verify", "--since", kept)
        assert code == REFUSED
        assert " chain: " in err or " checkpoint-root: " in err

    def test_it_must_be_there(self, command, run, tmp_path):
        code, _, err = command.run("verify", "--since", tmp_path / "none")
        assert code == UNCHECKED
        assert "there is no checkpoint in" in err


class TestFiles:
    @pytest.fixture
    def workspace(self, command, run, opened, tmp_path):
        """Files as the run says they are."""

        def put(path, word):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(word)

        put("runs/demo/global.safetensors", "state 2")
        put("runs/demo/rounds.csv", "rounds.csv")
        put("runs/demo/inside/site-a.safetensors", "inside a")
        for site in ("site-a", "site-b"):
            put(f"data/prepared/demo/{site}/manifest.csv", f"data {site}")
            for name in ("facts.parquet", "contract.json"):
                put(f"data/prepared/demo/{site}/{name}", f"{name} {site}")
        return tmp_path

    def say(self, opened, kind, by="server", **parts):
        return opened.append(Draft(kind, WHY, **parts), tale.signer(by)).seq + 1

    def test_files_that_are_as_the_trail_says_are_counted(self, command, workspace):
        said = command.told("verify", "--dvc")
        assert "files: 9 as the trail says; dvc.lock: missing\n" in said
        assert "missing: " not in said.replace("dvc.lock: missing", "")

    @pytest.mark.parametrize(
        "path",
        [
            "runs/demo/global.safetensors",
            "runs/demo/rounds.csv",
            "runs/demo/inside/site-a.safetensors",
            "data/prepared/demo/site-b/manifest.csv",
            "data/prepared/demo/site-a/facts.parquet",
        ],
    )
    def test_one_that_differs_is_refused_by_a_code_of_its_own(self, command, workspace, path):
        (workspace / path).write_text("another")

        code, out, err = command.run("verify", "--dvc")
        assert (code, out) == (REFUSED, "")
        assert f" artifact: not as the trail says: {path}\n" in err
        assert command.told("verify").startswith("verified")
        code, out, _ = command.run("verify", "--dvc", "--json")
        assert (code, json.loads(out)["code"]) == (REFUSED, "artifact")

    def test_one_that_is_missing_is_told_of(self, command, workspace):
        (workspace / "runs/demo/global.safetensors").unlink()

        assert "missing: runs/demo/global.safetensors, of line " in command.told("verify", "--dvc")
        told = json.loads(command.told("verify", "--dvc", "--json"))
        assert [entry["path"] for entry in told["files"]["missing"]] == ["runs/demo/global.safetensors"]
        assert len(told["files"]["same"]) == 8

    def test_what_was_said_last_counts(self, command, workspace, opened):
        path = workspace / "reports/demo/contract/site-a/contract.json"
        path.parent.mkdir(parents=True)
        path.write_text("verdict 2")
        for verdict in (1, 2):
            outputs = (Artifact("demo/site-a/contract.json", hex_of(f"verdict {verdict}")),)
            self.say(opened, "data.validate", "site-a", site="site-a", outputs=outputs)
        outputs = (Artifact("runs/demo/global.safetensors", hex_of("restored")),)
        line = self.say(opened, "run.restored", outputs=outputs)
        opened.checkpoint(tale.signer("server"))

        code, _, err = command.run("verify", "--dvc")
        assert code == REFUSED
        assert f"line {line} artifact: not as the trail says: runs/demo/global.safetensors\n" in err
        (workspace / "runs/demo/global.safetensors").write_text("restored")
        assert "files: 10 as the trail says" in command.told("verify", "--dvc")

    def test_names_that_are_no_paths_lead_nowhere(self, command, workspace, opened):
        (workspace.parent / "secret").write_text("x")
        names = ["../secret", "/etc/passwd", "a/../../secret", "trail.csv", "a//b", "./a/b", "a\\b/c"]
        outputs = tuple(Artifact(name, hex_of("y")) for name in names)
        self.say(opened, "run.restored", outputs=outputs)
        for name in ("../global", "demo/inside/../../x", "x/y/z/global", "Demo/global", "demo/inside/X"):
            self.say(opened, "evaluate", subject=Subject("model", name, after=hash_of("y")))
        for name in ("../site-a", "demo/../x", "demo"):
            self.say(opened, "data.accept", "site-a", site="site-a", subject=Subject("dataset", name, after=hash_of("y")))
        opened.checkpoint(tale.signer("server"))

        assert "files: 9 as the trail says" in command.told("verify", "--dvc")

    def test_a_lock_file_that_an_event_behind_the_graph_names_must_be_the_same(self, command, workspace, opened):
        lock = workspace / "dvc.lock"
        lock.write_text("stages: {}\n")
        env = Environment(dvc_lock_sha256=files.sha256_file(lock))
        outputs = (Artifact("runs/demo/global.safetensors", hex_of("state 2")),)
        line = self.say(opened, "run.restored", outputs=outputs, env=env)
        opened.checkpoint(tale.signer("server"))
        assert "dvc.lock: same" in command.told("verify", "--dvc")

        lock.write_text("stages: {x: {}}\n")
        code, _, err = command.run("verify", "--dvc")
        assert code == REFUSED
        assert f"line {line} artifact: not as the trail says: dvc.lock\n" in err

    def test_a_lock_file_that_a_stage_names_is_older_than_the_stage_s_end(self, command, workspace, run, opened):
        (workspace / "dvc.lock").write_text("stages: {}\n")
        line = run.select("state 2", 1).seq + 1
        run.name = "study/six"
        run.env = Environment(dvc_lock_sha256=hex_of("lock of the study"))
        run.select("elsewhere", 0)  # a study has a lock file of its own
        opened.checkpoint(tale.signer("server"))

        said = command.told("verify", "--dvc")
        assert f"dvc.lock: line {line} names it as it was before that stage was done\n" in said
        assert "missing: runs/study/six/global.safetensors" in said

    def test_outputs_of_which_no_event_speaks_are_told(self, command, workspace, run, opened):
        run.select("state 2", 1)
        opened.checkpoint(tale.signer("server"))
        (workspace / "dvc.lock").write_text(
            "stages:\n  federate:\n    outs:\n    - path: runs/demo/global.safetensors\n    - path: runs/demo/inside\n"
            "    - path: runs/demo/extra\n    - path: runs/another/extra\n  report: {}\n"
        )
        said = command.told("verify", "--dvc")
        assert [line for line in said.splitlines() if line.startswith("in dvc.lock")] == [
            "in dvc.lock and in no event: runs/demo/extra"
        ]


class TestShow:
    def test_a_model_is_shown_by_its_hash_or_its_file(self, command, run, tmp_path):
        model = tmp_path / "global.safetensors"
        model.write_text("state 2")

        said = command.told("show", hex_of("state 2"))
        assert said == command.told("show", hash_of("state 2")) == command.told("show", model)
        assert said.startswith(f"model {hash_of('state 2')}\n  global model of the run demo")

    def test_a_stranger_is_shown_it_by_the_log_the_founding_and_a_checkpoint(self, run, opened, command):
        far = command.workspace / "far"
        far.mkdir()
        for path in (command.log, command.log.with_name("founding.json"), *opened.checkpoints_dir.iterdir()):
            shutil.move(path, far)
        (far / "global.safetensors").write_text("state 2")
        (anchor,) = far.glob("[0-9]*.json")

        arguments = ["--file", far / "federation.jsonl", "--keys", far / "founding.json", "--against", anchor]
        assert command.told("show", far / "global.safetensors", *arguments).startswith(f"model {hash_of('state 2')}\n")
        assert command.run("show", hex_of("another"), *arguments)[0] == REFUSED
        assert command.told("verify", *arguments).startswith("verified demo/federation")

    def test_all_of_it_is_json(self, command, run):
        told = json.loads(command.told("show", hex_of("inside a"), "--json"))

        assert (told["sort"], told["site"], told["model"]) == ("inside", "site-a", hash_of("inside a"))
        assert [entry["index"] for entry in told["rounds"]] == [0, 1, 2]
        assert told["verified"]["log"] == "demo/federation"
        assert told["verified"]["founding"] == tale.found().digest

    def test_a_model_that_is_not_in_the_log_is_told_as_such(self, command, run, tmp_path):
        code, out, err = command.run("show", hex_of("another"))
        assert (code, out) == (REFUSED, "")
        assert "is in no line of" in err
        code, out, _ = command.run("show", hex_of("another"), "--json")
        assert (code, json.loads(out)["verdict"]) == (REFUSED, "unknown")

    def test_a_file_that_is_not_there_could_not_be_checked(self, command, run, tmp_path):
        for model in (tmp_path / "none", tmp_path, "a" * 300, "a" * 63):
            code, out, err = command.run("show", model)
            assert (code, out, err.count("\n")) == (UNCHECKED, "", 1)

    def test_nothing_is_shown_of_a_log_that_does_not_hold(self, command, run, tmp_path):
        command.log.write_bytes(command.log.read_bytes().replace(b"as it is done", b"as it was done", 1))
        code, out, _ = command.run("show", hex_of("state 2"))
        assert (code, out) == (REFUSED, "")
        shutil.rmtree(tmp_path / "audit" / "checkpoints")
        assert command.run("show", hex_of("state 2"))[0] == REFUSED

    def test_nothing_is_shown_without_a_checkpoint(self, command, run, tmp_path):
        shutil.move(tmp_path / "audit" / "checkpoints", tmp_path / "kept")
        assert command.run("show", hex_of("state 2"))[0] == UNCHECKED
        assert command.told("show", hex_of("state 2"), "--against", tmp_path / "kept")
