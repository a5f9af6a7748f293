"""`python -m flows.audit`: what it says, what it writes, and its exit codes."""

import json
import shutil
import subprocess
import sys

import pytest

from fedsilo import files
from fedsilo.audit import forms
from flows import audit
from tests import audit_story as tale
from tests.unit.audit_command import REFUSED, UNCHECKED, VERIFIED, Command


@pytest.fixture
def trail(tmp_path, capsys):
    """A log of one line under a founding, as files."""
    return Command(tmp_path, capsys).begin()


class TestVerify:
    def test_without_a_checkpoint_it_could_not_be_checked(self, trail):
        code, out, err = trail.run("verify")

        assert (code, out) == (UNCHECKED, "")
        assert "1 lines hold together" in err
        assert "there is no checkpoint" in err

    def test_with_one_it_is_verified(self, trail):
        assert trail.told("checkpoint", "--key", trail.key("server")).startswith(
            "checkpoint of demo/federation: 1 lines, root sha256:"
        )

        assert trail.told("verify").startswith("verified demo/federation: 1 lines, root sha256:")
        verdict = json.loads(trail.told("verify", "--json"))
        assert (verdict["verdict"], verdict["size"], verdict["anchored"]) == ("verified", 1, 1)
        assert verdict["founding"] == tale.found().digest

    def test_a_refusal_is_one_line_with_log_line_and_code(self, trail):
        trail.told("checkpoint", "--key", trail.key("server"))
        trail.log.write_bytes(trail.log.read_bytes().replace(b"begins", b"begin5"))

        code, out, err = trail.run("verify")
        assert (code, out) == (REFUSED, "")
        assert err.startswith("fedsilo: refused demo/federation line 1 signature: ")
        assert err.count("\n") == 1
        code, out, _ = trail.run("verify", "--json")
        refusal = json.loads(out)
        assert (code, refusal["verdict"], refusal["line"], refusal["code"]) == (REFUSED, "refused", 1, "signature")

    @pytest.mark.parametrize("gone", ["log", "founding", "checkpoints"])
    def test_what_is_missing_could_not_be_checked(self, trail, tmp_path, gone):
        trail.told("checkpoint", "--key", trail.key("server"))
        paths = {
            "log": trail.log,
            "founding": trail.log.with_name("founding.json"),
            "checkpoints": tmp_path / "audit" / "checkpoints",
        }
        shutil.rmtree(paths[gone]) if gone == "checkpoints" else paths[gone].unlink()

        code, out, _ = trail.run("verify", "--json")
        assert (code, json.loads(out)["verdict"]) == (UNCHECKED, "unchecked")

    def test_an_empty_log_could_not_be_checked(self, trail):
        trail.log.write_bytes(b"")
        code, _, err = trail.run("verify")
        assert (code, err) == (UNCHECKED, "fedsilo: demo/federation has no line yet\n")

    def test_a_founding_that_nobody_signed_proves_nothing(self, trail):
        unsigned = forms.plain(tale.found())
        del unsigned["signatures"]
        trail.log.with_name("founding.json").write_text(json.dumps(unsigned))

        code, _, err = trail.run("verify")
        assert code == UNCHECKED
        assert "is signed by 0 admins, its quorum is 2" in err

    def test_a_stranger_needs_the_public_keys_the_log_and_a_checkpoint(self, trail, repository, tmp_path):
        trail.told("checkpoint", "--key", trail.key("server"))
        far = tmp_path / "far"
        far.mkdir()
        for path in (trail.log, trail.log.with_name("founding.json"), *tmp_path.glob("audit/checkpoints/demo/federation/1.json")):
            shutil.copy(path, far)
        command = ["verify", "--file", "federation.jsonl", "--keys", "founding.json", "--against", "1.json"]

        done = subprocess.run(
            [sys.executable, "-m", "flows.audit", *command],
            cwd=far,
            env={"PYTHONPATH": str(repository)},
            check=False,
            capture_output=True,
            text=True,
        )

        assert (done.returncode, done.stderr) == (VERIFIED, "")
        assert done.stdout.startswith("verified demo/federation: 1 lines")
        assert sorted(path.name for path in far.iterdir()) == ["1.json", "federation.jsonl", "founding.json"]

    def test_a_wrong_command_could_not_be_checked(self, capsys):
        for arguments in (["verify", "--no-such-option"], ["no-such-command"], []):
            with pytest.raises(SystemExit) as ended:
                audit.main(arguments)
            assert ended.value.code == UNCHECKED
        capsys.readouterr()

    def test_a_name_cannot_lead_elsewhere(self, trail):
        for option in ("--federation", "--log"):
            code, _, err = trail.run("verify", option, "../up")
            assert code == UNCHECKED
            assert "cannot use '../up' as the name of" in err

    def test_a_site_s_log_needs_the_federation_s_for_its_keys(self, trail, tmp_path):
        assert trail.told("open", "--log", "site-a", "--key", trail.key("site-a")) == "demo/site-a has 1 lines\n"
        trail.told("checkpoint", "--log", "site-a", "--key", trail.key("site-a"))
        code, _, err = trail.run("verify", "--log", "site-a")
        assert code == UNCHECKED
        assert "nobody can tell whether a revocation was cut off" in err
        trail.told("checkpoint", "--key", trail.key("server"))
        assert trail.told("verify", "--log", "site-a").startswith("verified demo/site-a: 1 lines")
        log = trail.log.with_name("site-a.jsonl")  # its name says which checkpoints are its
        assert trail.told("verify", "--file", log).startswith("verified demo/site-a: 1 lines")

        trail.log.write_bytes(trail.log.read_bytes().replace(b"begins", b"begin5"))
        assert trail.run("verify", "--log", "site-a")[0] == REFUSED
        trail.log.unlink()
        assert trail.run("verify", "--log", "site-a")[0] == UNCHECKED

    def test_a_revocation_that_was_cut_off_the_federation_s_log_is_missed(self, trail):
        trail.told("open", "--log", "site-a", "--key", trail.key("site-a"))
        trail.told("checkpoint", "--log", "site-a", "--key", trail.key("site-a"))
        before = trail.log.read_bytes()
        for admin in ("alice", "bob"):
            trail.told("keys", "revoke", tale.signer("site-a").key, "--key", trail.key(admin), "--why", "lost")
        trail.told("checkpoint", "--key", trail.key("server"))
        trail.log.write_bytes(before)

        code, _, err = trail.run("verify", "--log", "site-a")
        assert code == REFUSED
        assert "refused demo/federation line 3 truncated" in err

    @pytest.mark.parametrize("option", ["--against", "--file", "--keys", "--since", "--proof"])
    def test_a_path_that_the_system_takes_for_none_could_not_be_checked(self, trail, option):
        trail.told("checkpoint", "--key", trail.key("server"))
        for path in (f"{'a' * 300}", "no/such/file", "."):
            code, out, err = trail.run("verify", option, path)
            assert (code, out, err.count("\n")) == (UNCHECKED, "", 1)


class TestRecover:
    def test_a_torn_tail_is_moved_aside(self, trail):
        with trail.log.open("ab") as handle:
            handle.write(b'{"v":1')

        assert trail.run("verify")[0] == REFUSED
        assert "6 bytes of a line that was cut off are moved aside" in trail.told("recover", "--key", trail.key("server"))
        assert trail.told("recover", "--key", trail.key("server")).endswith("has no torn tail\n")


class TestExport:
    @pytest.mark.parametrize("form", ["csv", "prov", "openlineage"])
    def test_an_export_is_written_and_told_of(self, trail, tmp_path, form):
        out = tmp_path / "out"
        assert trail.told("export", "--format", form, "--out", out, "--key", trail.key("frank")) == f"wrote {out}\n"

        event = json.loads(trail.log.read_bytes().splitlines()[-1])
        assert (event["event"], event["outputs"][0]["name"]) == ("export", "out")
        assert event["outputs"][0]["sha256"] == files.sha256_file(out)

    @pytest.mark.parametrize("name", ["demo/federation.jsonl", "demo/founding.json", "checkpoints/demo/federation/1.json"])
    def test_nothing_of_the_trail_is_written_over(self, trail, tmp_path, name):
        trail.told("checkpoint", "--key", trail.key("server"))
        (tmp_path / "link").symlink_to(tmp_path / "audit")
        before = (tmp_path / "audit" / name).read_bytes()

        for out in (tmp_path / "audit" / name, tmp_path / "link" / name):
            code, _, err = trail.run("export", "--format", "csv", "--out", out)
            assert code == UNCHECKED
            assert "a file of the trail" in err
        assert (tmp_path / "audit" / name).read_bytes() == before

    def test_a_log_that_is_refused_is_not_exported(self, trail, tmp_path):
        trail.log.write_bytes(trail.log.read_bytes().replace(b"begins", b"begin5"))

        assert trail.run("export", "--format", "csv", "--out", tmp_path / "out")[0] == REFUSED
        assert not (tmp_path / "out").exists()


def test_the_command_starts_without_what_it_does_not_need(repository):
    heavy = {"torch", "monai", "numpy", "pandas", "prefect", "great_expectations", "pydantic", "dvc", "yaml"}
    code = f"import flows.audit, sys; print(*sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
