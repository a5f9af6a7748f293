"""Kill phases at random moments: whatever was killed, the results are those of a run that nobody disturbed.

`python tests/chaos.py --seeds 1 2 3 --kills 10` kills ten times a seed and prints a table; exit code 1 if any result differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tiny_run

import flows  # noqa: F401  # sets the environment, before anything imports Prefect
from tasks import trails

PHASES = ("phantoms", "prepare", "federate", "inside", "outside", "report")
PARTS = ("data/prepared", "runs", "reports")
FIRST_SECOND = 1.0
"""Of a phase: before it, Python has hardly started."""


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives that nobody kills, and how long its phases take."""

    hashes: dict[str, str]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What became of a run with kills: how many by phase, which files differ, what the trail says."""

    seed: int
    kills: dict[str, int]
    differing: list[str]
    trail: str


def start(made, phase, api_url):
    """Start a phase as a process group of its own; what it writes goes to a file beside the workspace."""
    environment = {**os.environ, "PREFECT_API_URL": api_url}
    command = [sys.executable, "-m", f"flows.{phase}", *made.arguments()]
    with (made.folder / "chaos.log").open("ab") as log:
        return subprocess.Popen(command, cwd=tiny_run.ROOT, env=environment, start_new_session=True, stdout=log, stderr=log)


def finish(made, phase, api_url):
    """Run a phase to its end; return how long it took."""
    began = time.monotonic()
    code = start(made, phase, api_url).wait()
    assert code == 0, f"{phase} ended with {code}:\n{(made.folder / 'chaos.log').read_text()[-2000:]}"
    return time.monotonic() - began


def undisturbed(folder, api_url, phases=PHASES):
    """Run all phases once."""
    made = tiny_run.workspace(folder)
    seconds = {phase: finish(made, phase, api_url) for phase in phases}
    return Undisturbed(tiny_run.hashes(folder, PARTS), seconds)


def disturbed(made, expected, *, seed, num_kills, api_url, phases=PHASES):
    """Run phases, of which some are killed before they may end, and compare what comes of it."""
    draw = random.Random(seed)  # noqa: S311  # moments, no secrets
    kills = Counter(draw.choices(phases, weights=[expected.seconds[phase] for phase in phases], k=num_kills))
    for phase in phases:
        longest = expected.seconds[phase]
        for _ in range(kills[phase]):
            longest = kill(made, phase, longest, draw=draw, api_url=api_url)
        finish(made, phase, api_url)
    found = tiny_run.hashes(made.folder, PARTS)
    differing = sorted(name for name in found.keys() | expected.hashes.keys() if found.get(name) != expected.hashes.get(name))
    return Outcome(seed, dict(kills), differing, trails.summary(made.folder, "demo").rpartition("jsonl, ")[2].strip())


def kill(made, phase, longest, *, draw, api_url):
    """Start a phase and kill it, alone or with all that it started, before it ends; return how long it takes at most."""
    while True:
        began = time.monotonic()
        process = start(made, phase, api_url)
        try:
            code = process.wait(draw.uniform(FIRST_SECOND, max(longest, 2 * FIRST_SECOND)))
        except subprocess.TimeoutExpired:
            if draw.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
            else:  # its children must notice
                process.kill()
            process.wait()
            return longest
        assert code == 0, f"{phase} ended with {code} by itself:\n{(made.folder / 'chaos.log').read_text()[-2000:]}"
        longest = time.monotonic() - began  # it had less left to do than the undisturbed phase: aim earlier


def main():
    """Kill, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--kills", type=int, default=10, help="of each seed (default: %(default)s)")
    options = parser.parse_args()
    from flows import server

    outcomes = []
    with tempfile.TemporaryDirectory(prefix="fedsilo-chaos-") as folder, server.running() as api_url:
        expected = undisturbed(Path(folder) / "undisturbed", api_url)
        for seed in options.seeds:
            made = tiny_run.workspace(Path(folder) / f"seed-{seed}")
            outcomes.append(disturbed(made, expected, seed=seed, num_kills=options.kills, api_url=api_url))
    rows = [f"| seed | {' | '.join(PHASES)} | files compared | differing | trail |", f"|{'---|' * (len(PHASES) + 4)}"]
    for outcome in outcomes:
        counts = " | ".join(str(outcome.kills.get(phase, 0)) for phase in PHASES)
        rows.append(f"| {outcome.seed} | {counts} | {len(expected.hashes)} | {len(outcome.differing)} | {outcome.trail} |")
    sys.stdout.write("\n".join([*rows, ""]))
    return int(any(outcome.differing for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
