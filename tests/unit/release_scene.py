"""A workspace with git, DVC, a trail under demo keys and runs that a gate has judged, to promote and roll back."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime

from fedsilo import files
from fedsilo.audit import founding, trail, verifier
from fedsilo.audit.events import Artifact, Decision, Subject
from fedsilo.audit.founding import Policy
from fedsilo.evaluation import cases
from fedsilo.evaluation.metrics import Score
from flows import approve, champion, promote, rollback
from tasks import keyring, trails
from tasks.paths import RunPaths
from tasks.release_paths import ReleasePaths

SITES = ("ct-a", "mr-a")
RECORD = {
    "cohort": "demo",
    "rounds": 18,
    "seed": 42,
    "in_channels": 1,
    "num_parameters": 1234,
    "inside_rounds": {"ct-a": 14, "mr-a": 16},
    "network": {"spatial_dims": 2, "channels": [8, 16], "num_res_units": 0},
    "identity": {"organs": ["background", "liver"], "manifest_sha256": {"ct-a": "1" * 64, "mr-a": "2" * 64}},
}
IGNORED = (
    "/runs/\n/keys/\n/audit/*/*\n!/audit/*/founding.json\n!/audit/checkpoints/*\n/releases/*/journal.json\n/releases/*/.lock\n"
)


def run(*command, cwd):
    """Run a program that must end well; give what it wrote."""
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def git(folder, *arguments):
    return run("git", *arguments, cwd=folder).strip()


def dvc(folder, *arguments):
    return run(sys.executable, "-m", "dvc", *arguments, cwd=folder)


def repository(folder):
    """Make a repository of git and DVC with one commit."""
    folder.mkdir()
    git(folder, "init", "-q")
    for name, value in (("user.email", "test@example.org"), ("user.name", "test"), ("commit.gpgsign", "false")):
        git(folder, "config", name, value)
    dvc(folder, "init", "-q")
    (folder / ".gitignore").write_text(IGNORED)
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "start")
    return folder


class Scene:
    """A workspace; commands give exit code and what was written."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.paths = ReleasePaths(folder, "demo")

    def key(self, actor):
        return self.folder / "keys" / "demo" / f"{actor}.pem"

    def train(self, name, *, verdict="pass", judged=True):
        """Leave a finished run of which the trail speaks, and the gate's verdict on it; give the verdict's file."""
        paths = RunPaths(self.folder, "demo", name)
        files.write_bytes(paths.global_state, f"global of {name}".encode())
        for site in SITES:
            files.write_bytes(paths.inside_state(site), f"{site} of {name}".encode())
        hashes = {"global": files.sha256_file(paths.global_state)}
        hashes |= {f"inside/{site}": files.sha256_file(paths.inside_state(site)) for site in SITES}
        files.write_json(paths.federation_record, {**RECORD, "run": name, "model_sha256": hashes})
        cases.write(table(), paths.cases_table("inside"))
        subject = Subject("model", f"{name}/global", after=f"sha256:{hashes['global']}")
        with trails.held(paths, SITES) as scribe:
            scribe.append("evaluate", "the best", subject=subject, decision=Decision("selection", "round 17"))
        return self.judge(name, verdict) if judged else self.folder / f"verdict-{name}.json"

    def judge(self, name, verdict="pass"):
        """Let the gate compare a run with the model in use; give the verdict's file."""
        paths = RunPaths(self.folder, "demo", name)
        model = files.sha256_file(paths.global_state)
        with trails.held(paths, SITES) as scribe:
            champion = scribe.opened.state.champions.get("demo/model")
            against = champion.current.removeprefix("sha256:") if champion else None
            content = {"verdict": verdict, "run": name, "candidate": model, "champion": against}
            written = files.write_json(self.folder / f"verdict-{name}.json", content)
            scribe.append(
                "gate.verdict",
                "judged",
                subject=Subject("model", f"{name}/global", after=f"sha256:{model}"),
                inputs=[Artifact("champion", against)] if against else [],
                decision=Decision("gate", verdict, trails.hashed(written)),
            )
        return written

    def model(self, name):
        return f"sha256:{files.sha256_file(RunPaths(self.folder, 'demo', name).global_state)}"

    def said(self, main, *arguments):
        code = main([*map(str, arguments), "--workspace", str(self.folder)])
        told = self.capsys.readouterr()
        return code, told.out, told.err

    def approve(self, name, *more, key="demo-approver", decision="approve"):
        options = ["--candidate", self.model(name), "--verdict", self.folder / f"verdict-{name}.json", "--key", self.key(key)]
        return self.said(approve.main, *options, "--decision", decision, "--reason", f"{decision} {name}", *more)

    def promote(self, name, version, *more, key="demo-promoter"):
        options = ["--candidate", name, "--version", version, "--verdict", self.folder / f"verdict-{name}.json"]
        return self.said(promote.main, *options, "--why", f"{name} is better", "--key", self.key(key), *more)

    def rollback(self, version, *more, key="demo-promoter"):
        return self.said(rollback.main, "--to", version, "--why", "it fails on new scans", "--key", self.key(key), *more)

    def champion(self, *more):
        return self.said(champion.main, *more)

    def champion_json(self):
        code, out, err = self.champion("--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    def release(self, name, version, *more):
        """Train, approve and promote."""
        self.train(name)
        code, _, err = self.approve(name)
        assert code == 0, err
        code, out, err = self.promote(name, version, *more)
        assert (code, err) == (0, "")
        return out

    def events(self, *kinds):
        events = verifier.read_events(trail.read(self.paths.audit.log("federation")))
        return [event for event in events if event.kind in kinds]

    def tags(self):
        """Tags with the versions that their commits have."""
        lines = git(self.folder, "for-each-ref", "--format=%(refname:short) %(*objectname)", "refs/tags").splitlines()
        return dict(line.split() for line in lines)


def table():
    """A cases table of two patients at one site."""
    rows = []
    for patient, value in (("p1", 0.8), ("p2", 0.9)):
        for method in ("global", "inside", "local"):
            scores = [Score("liver", "dice", value, "1", ""), Score("liver", "hd95", None, "mm", "absent")]
            rows += cases.rows(
                scores, cohort="demo", site="ct-a", role="inside", patient=patient, case=patient, method=method, seed=42,
                round_index=17, spacing_mm=None, model="0" * 64,
            )  # fmt: skip
    return rows


def copied(template, folder, capsys):
    shutil.copytree(template, folder)
    return Scene(folder, capsys)


def found_with_two_approvers(scene):
    """Found a federation whose models two persons approve and a third promotes."""
    paths = scene.paths.audit
    persons = {"ann": ("approver",), "ben": ("approver",), "demo-promoter": ("promoter",), "demo-admin": ("admin",)}
    entries = [keyring.demo_entry(paths, "server", "Server", ("server",))]
    entries += [keyring.demo_entry(paths, name, name.title(), roles) for name, roles in persons.items()]
    created = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    made = founding.draw_up("demo", entries, policy=Policy(1, 2, separate_promoter=True), created=created)
    founding.write(founding.sign(made, keyring.signer(paths, "demo-admin")), paths.founding)
