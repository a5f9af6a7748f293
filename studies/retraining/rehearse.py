"""Rehearse a federation's whole life in a scratch repository, by the commands that its operators give.

    python studies/retraining/rehearse.py

Hospitals' exports come in and a first model goes into use. One scanner changes: drift is found, a retraining follows, and the
gate is not sure of it. More cases come, the gate passes, a person signs, the model goes into use. The trail is verified, a bit of
it and one of the model are flipped and found, and the first model comes back. Each command must end as the story says.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedsilo import sections
from fedsilo.audit import trail, verifier
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.phantoms import cohort as phantoms
from flows import cli, server

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NAME = "rehearsal"
COHORT = f"cohorts/{NAME}.yaml"
MODEL = f"runs/{NAME}/global.safetensors"
DONE, NO, STAYS, WAITS = 0, 3, 4, 5
"""Exit codes of `flows.retrain`: promoted, nothing to do, the champion stays, approvals are missing."""
REFUSED = 1


class StoryError(Exception):
    """The story went another way than it should."""


@dataclass(frozen=True)
class Scratch:
    """A repository of one's own in which the story goes on, beside the hospitals' exports and a remote for models."""

    folder: Path
    cohort: Path
    plan: Path
    times: list[tuple[str, float]] = field(default_factory=list)

    @property
    def repository(self) -> Path:
        """Clone of this repository."""
        return self.folder / "repository"

    @property
    def exports(self) -> Path:
        """What the hospitals export."""
        return self.folder / "exports"

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Say what comes now, and keep how long it took."""
        _say(f"\n== {title}")
        begun = time.monotonic()
        yield
        self.times.append((title, time.monotonic() - begun))

    def run(self, *arguments: object, code: int = DONE) -> str:
        """Give a command, show it and what it says, and return that.

        Raises:
            StoryError: It ended with another code.
        """
        command = [str(argument) for argument in arguments]
        _say(f"$ {' '.join(_quoted(part) for part in command)}")
        program = [sys.executable, *command[1:]] if command[0] == "python" else command
        with (self.folder / "story.log").open("ab") as log:
            done = subprocess.run(program, cwd=self.repository, capture_output=True, check=False, text=True)
            log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}".encode())
        errors = [line for line in done.stderr.splitlines() if line.startswith("fedsilo:")]
        for line in [*done.stdout.splitlines(), *errors]:
            if line and "| INFO" not in line:
                _say(f"    {line}")
        if done.returncode != code:
            raise StoryError(
                f"{' '.join(command)} ended with {done.returncode}, not {code}; {self.folder / 'story.log'} has all it said:\n"
                + done.stderr[-2000:]
            )
        return done.stdout

    def commit(self, message: str) -> None:
        """Commit what is new."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def key(self, person: str) -> str:
        """Private key of a person of the demonstration."""
        return f"keys/{NAME}/{person}.pem"


def make(scratch: Scratch) -> None:
    """Clone this repository as it is committed, and set it up for the rehearsal's federation."""
    scratch.folder.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, scratch.repository], check=True)
    shutil.copy(scratch.cohort, scratch.repository / COHORT)
    shutil.copy(scratch.plan, scratch.repository / "pccp.yaml")
    _replace(scratch.repository / "params.yaml", "../shared/data/abdomen", f"data/raw/{NAME}")
    _replace(scratch.repository / "cohorts" / "dvc.yaml", "cohorts: [kidneys, liver]", f"cohorts: [{NAME}]")
    scratch.run("git", "config", "user.name", "Rehearsal")
    scratch.run("git", "config", "user.email", "rehearsal@example.org")
    scratch.run("git", "config", "commit.gpgSign", "false")
    scratch.run("python", "-m", "dvc", "remote", "add", "--quiet", "--default", "shared", scratch.folder.resolve() / "remote")
    scratch.commit("A federation to rehearse with")


def export(scratch: Scratch, subjects: Mapping[str, int], changed: Mapping[str, tuple[int, str]]) -> None:
    """Write what hospitals export: so many subjects a site, from a subject on from another scanner."""
    roster, params = rosters.load_run(scratch.repository / COHORT, scratch.repository / "params.yaml")
    for site, number in subjects.items():
        own = phantoms.scanner_of(roster.site(site))
        since, other = changed.get(site, (number, site))
        scanners = [own if subject < since else phantoms.SCANNERS[other] for subject in range(number)]
        phantoms.write_subjects(scratch.exports / site, site, scanners, params.phantoms, seed=params.seed)


def bring_in(scratch: Scratch, sites: Sequence[str], *, update: bool) -> None:
    """Import exports as sites, each versioned and committed."""
    for site in sites:
        more = ["--update"] if update else []
        scratch.run("python", "-m", "flows.ingest", scratch.exports / site, "--site", site, "--cohort", COHORT, *more)


def approve(scratch: Scratch, person: str, reason: str, *, missing: str | None = None) -> None:
    """Let a person sign for the gate's last verdict."""
    verdict = max((scratch.repository / "audit" / NAME / "gates").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    more = [] if missing is None else ["--missing", missing]
    inner = verdict.relative_to(scratch.repository)
    told = ["--candidate", MODEL, "--verdict", inner, "--decision", "approve", "--reason", reason]
    scratch.run("python", "-m", "flows.approve", "--federation", NAME, *told, *more, "--key", scratch.key(person))


def retrain(scratch: Scratch, code: int, *more: str) -> str:
    """Give the one command of a retraining."""
    return scratch.run("python", "-m", "flows.retrain", "--cohort", COHORT, *more, code=code)


def expect(scratch: Scratch, kind: str, verdict: str) -> None:
    """See that the last event of a kind in the trail says so.

    Raises:
        StoryError: It says something else.
    """
    log = trail.read(scratch.repository / "audit" / NAME / "federation.jsonl")
    said = [event.decision.verdict for event in verifier.read_events(log) if event.kind == kind and event.decision]
    if said[-1:] != [verdict]:
        raise StoryError(f"{kind} says {said[-1:]}, not {verdict}")


def champion(scratch: Scratch, version: str) -> None:
    """Ask which version is in use, which must be this one."""
    found = json.loads(scratch.run("python", "-m", "flows.champion", "--federation", NAME, "--json"))
    if found["version"] != version:
        raise StoryError(f"in use is {found['version']}, not {version}")


def flip(scratch: Scratch, inner: str, *command: object) -> None:
    """Flip one bit in the middle of a file, see a command refuse it, and put it right."""
    path = scratch.repository / inner
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    _say(f"    (one bit of {inner} is flipped)")
    scratch.run(*command, code=REFUSED)
    path.write_bytes(whole)


def tell(scratch: Scratch, story: Mapping[str, Mapping[str, int]], scanners: Mapping[str, str]) -> None:
    """Go through the story."""
    first = story["first"]
    sites = list(first)
    verify = ("python", "-m", "flows.audit", "verify", "--federation", NAME)
    with scratch.chapter("Hospitals' exports come in"):
        make(scratch)
        export(scratch, first, {})
        bring_in(scratch, sites, update=False)
    with scratch.chapter("A first model: nothing to compare with, so two persons answer for it"):
        retrain(scratch, WAITS, "--manual", "first model")
        for person in ("demo-approver", "demo-reviewer"):
            approve(scratch, person, "there is no model yet", missing="a champion to compare with")
        retrain(scratch, DONE, "--version", "v1.0.0")
        champion(scratch, "v1.0.0")
    changed = {site: (first[site], other) for site, other in scanners.items()}
    with scratch.chapter("One scanner changes; the gate is not sure, and the champion stays"):
        export(scratch, story["drifted"], changed)
        bring_in(scratch, list(story["drifted"]), update=True)
        retrain(scratch, STAYS)
        expect(scratch, "gate.verdict", "inconclusive")
        champion(scratch, "v1.0.0")
    with scratch.chapter("More cases at the other sites; the gate passes, a person signs"):
        export(scratch, story["more"], {})
        bring_in(scratch, list(story["more"]), update=True)
        retrain(scratch, WAITS)
        expect(scratch, "gate.verdict", "pass")
        approve(scratch, "demo-approver", "no site loses, and it knows the new scanner")
        retrain(scratch, DONE, "--version", "v1.1.0")
        champion(scratch, "v1.1.0")
    with scratch.chapter("The trail holds; whoever changes a byte is found"):
        scratch.run(*verify, "--dvc")
        flip(scratch, f"audit/{NAME}/federation.jsonl", *verify)
        flip(scratch, f"releases/{NAME}/v1.1.0/global.safetensors", "python", "-m", "flows.champion", "--federation", NAME)
    with scratch.chapter("The first model comes back"):
        more = ["--to", "v1.0.0", "--why", "the rehearsal's end", "--key", scratch.key("demo-promoter")]
        scratch.run("python", "-m", "flows.rollback", "--federation", NAME, *more)
        champion(scratch, "v1.0.0")
        scratch.run(*verify)


def rehearse(scratch: Scratch, story_path: Path) -> None:
    """Go through the story with one Prefect server for all of it.

    Raises:
        StoryError: It went another way.
    """
    tree = sections.read_yaml(story_path)
    scanners = tree.pop("scanners")
    with server.running():
        tell(scratch, tree, scanners)  # type: ignore[arg-type]  # the file is ours
    total = sum(seconds for _, seconds in scratch.times)
    _say("\n" + "\n".join(f"{seconds:6.0f} s  {title}" for title, seconds in scratch.times) + f"\n{total:6.0f} s  in all")


def _replace(path: Path, old: str, new: str) -> None:
    """Change one passage of a file."""
    text = path.read_text()
    if text.count(old) != 1:
        raise StoryError(f"{path} has {text.count(old)} passages {old!r}, not one")
    path.write_text(text.replace(old, new))


def _quoted(part: str) -> str:
    return f'"{part}"' if " " in part else part


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Rehearse; 1 if the story went another way."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "retraining", help="made anew (default: %(default)s)")
    made.add_argument("--cohort", type=Path, default=HERE / "cohort.yaml", help="sites and sizes (default: %(default)s)")
    made.add_argument("--plan", type=Path, default=HERE / "pccp.yaml", help="change plan (default: %(default)s)")
    made.add_argument("--story", type=Path, default=HERE / "story.yaml", help="subjects by chapter (default: %(default)s)")
    options = made.parse_args(argv)
    if (options.folder / "story.log").is_file():
        shutil.rmtree(options.folder)
    try:
        return cli.guard(lambda: rehearse(Scratch(options.folder.resolve(), options.cohort, options.plan), options.story))
    except StoryError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
