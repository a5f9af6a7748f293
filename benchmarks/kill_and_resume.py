"""Does a federation that is killed and started again end with the same bits?

Trains the embedded cohort, reduced, once undisturbed and once with SIGKILL to the whole process group at random moments, each
time started again. Compares the SHA-256 of everything under ``runs/``. Exit code 1 if a file differs.

    python benchmarks/kill_and_resume.py [--kills 5] [--rounds 6] [--seed 0]
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedsilo import files
from flows import server

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = ("phantoms.inside_cases=6", "phantoms.outside_cases=2")
POLL_SECONDS = 0.05


def command(phase: str, workspace: Path, rounds: int) -> list[str]:
    """Write the command of a phase in a workspace."""
    settings = [part for setting in (*SMALL, f"federate.rounds={rounds}") for part in ("--set", setting)]
    return [sys.executable, "-m", f"flows.{phase}", "--workspace", str(workspace), *settings]


def start(phase: str, workspace: Path, rounds: int, log: Path) -> "subprocess.Popen[bytes]":
    """Start a phase as the leader of a process group."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command(phase, workspace, rounds), cwd=REPOSITORY, stdout=output, stderr=output, start_new_session=True
        )


def first_file(folder: Path, process: "subprocess.Popen[bytes]") -> float:
    """Wait until a run writes into its folder of checkpoints; return the moment."""
    while process.poll() is None and not any(path.is_file() and path.name != ".lock" for path in folder.rglob("*")):
        time.sleep(POLL_SECONDS)
    return time.monotonic()


def hashes(workspace: Path) -> dict[str, str]:
    """Hash every result of a run."""
    folder = workspace / "runs"
    return {path.relative_to(folder).as_posix(): files.sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def undisturbed(workspace: Path, rounds: int, log: Path) -> tuple[float, float]:
    """Run without a kill; return the seconds before the first checkpoint and those of the work after it."""
    began = time.monotonic()
    process = start("federate", workspace, rounds, log)
    working = first_file(workspace / "checkpoints" / "demo" / "federate", process)
    if process.wait():
        sys.exit(f"the undisturbed run failed; its log:\n{log.read_text()}")
    return working - began, time.monotonic() - working


def disturbed(workspace: Path, rounds: int, log: Path, delays: list[float]) -> int:
    """Run with a kill after each delay, then to the end; return how many kills met a living run."""
    met = 0
    for delay in delays:
        process = start("federate", workspace, rounds, log)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            met += 1
        os.killpg(process.pid, signal.SIGKILL) if process.returncode is None else None
        process.wait()
        print(f"  killed after {delay:.1f} s" if process.returncode == -signal.SIGKILL else "  ended before its kill", flush=True)
    if start("federate", workspace, rounds, log).wait():
        sys.exit(f"the run did not go on; its log:\n{log.read_text()}")
    return met


def main() -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311  # moments, not secrets
    with tempfile.TemporaryDirectory(prefix="fedsilo-kill-") as folder:
        os.environ["PREFECT_HOME"] = str(Path(folder) / "prefect")
        whole, killed, log = Path(folder) / "whole", Path(folder) / "killed", Path(folder) / "log"
        with server.running():
            for phase in ("phantoms", "prepare"):
                if start(phase, whole, options.rounds, log).wait():
                    sys.exit(f"{phase} failed; its log:\n{log.read_text()}")
            shutil.copytree(whole, killed)
            before, work = undisturbed(whole, options.rounds, log)
            # a kill throws away some work, so a run never gets further than these cuts of the undisturbed one
            cuts = sorted(draw.random() for _ in range(options.kills))
            delays = [before + work * (cut - last) for last, cut in zip([0.0, *cuts], cuts, strict=False)]
            print(f"undisturbed: {before:.1f} s to the first checkpoint, {work:.1f} s of work")
            print(f"kills at {', '.join(f'{cut:.2f}' for cut in cuts)} of the work")
            met = disturbed(killed, options.rounds, log, delays)
        expected, found = hashes(whole), hashes(killed)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    print(f"{len(expected)} files, {len(different)} differ after {met} of {options.kills} kills")
    for name in different:
        print(f"  {name}: {expected.get(name)} undisturbed, {found.get(name)} killed and resumed")
    return 1 if different or met < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
