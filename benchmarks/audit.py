"""What the audit trail costs: events appended a second, one writer and several, and lines verified a second.

    python benchmarks/audit.py [--events N] [--writers N]

An event is an aggregation with two inputs and its environment, about 1,200 bytes. Appending checks the event as a stranger would,
signs and syncs it; with several writers each checks the lines of all others too. Opening checks hashes and order of all lines,
and signatures of those behind the newest checkpoint alone.
"""

import argparse
import concurrent.futures
import hashlib
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedsilo.audit import founding, keys, trail, verifier
from fedsilo.audit.events import Artifact, Draft, Environment, Subject, Why
from fedsilo.audit.founding import Founding, Policy
from fedsilo.audit.register import KeyEntry
from fedsilo.audit.trail import Trail

BEGIN, END = "2020-01-01T00:00:00.000000Z", "2120-01-01T00:00:00.000000Z"
SERVER = keys.of_seed(hashlib.sha256(b"benchmark server").digest())
ADMIN = keys.of_seed(hashlib.sha256(b"benchmark admin").digest())
HASH = hashlib.sha256(b"a model").hexdigest()


def found() -> Founding:
    """Found a federation of one server and one admin."""
    entries = [
        KeyEntry("server", "Server", SERVER.public, ("server",), BEGIN, END),
        KeyEntry("ada", "Ada", ADMIN.public, ("admin",), BEGIN, END),
    ]
    policy = Policy(quorum=1, approvals=1, separate_promoter=True)
    return founding.sign(founding.draw_up("bench", entries, policy=policy, created=BEGIN), ADMIN)


def open_log(folder: Path) -> Trail:
    """Open the log, or begin it."""
    setting = verifier.setting_of(found(), "federation")
    return trail.open_trail(folder / "federation.jsonl", setting, folder / "checkpoints", opener=SERVER)


def draft(round_index: int) -> Draft:
    """Make an event as a round writes it."""
    environment = Environment(
        "a" * 40, dirty=False, dvc_lock_sha256=HASH, constraints_sha256=HASH, python="3.11.2", torch="2.13.0"
    )
    return Draft(
        "aggregate",
        Why("run-1", "the updates of the round are averaged"),
        round_index=round_index,
        subject=Subject("model", "global", before=f"sha256:{HASH}", after=f"sha256:{HASH}"),
        inputs=tuple(Artifact(f"updates/{round_index}/{site}.safetensors", HASH) for site in ("site-a", "site-b")),
        env=environment,
    )


def append(folder: Path, num_events: int) -> float:
    """Append events; seconds."""
    log = open_log(folder)
    return seconds(lambda: [log.append(draft(number), SERVER) for number in range(num_events)])


def seconds(act: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Print rates as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--writers", type=int, default=4)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder, shared = Path(temporary) / "one", Path(temporary) / "several"
        appending = append(folder, options.events)
        content = (folder / "federation.jsonl").read_bytes()
        setting = verifier.setting_of(found(), "federation")
        verifying = seconds(lambda: verifier.verify(content, setting))
        open_log(folder).checkpoint(SERVER)
        opening = seconds(lambda: open_log(folder))
        part = options.events // options.writers
        with concurrent.futures.ProcessPoolExecutor(options.writers, multiprocessing.get_context("spawn")) as pool:
            writers = max(pool.map(append, [shared] * options.writers, [part] * options.writers))
        written = verifier.verify((shared / "federation.jsonl").read_bytes(), setting).size
    num_lines = options.events + 1
    result = {
        "machine": platform.processor() or platform.machine(),
        "bytes a line": round(len(content) / num_lines),
        "appended a second": round(options.events / appending),
        f"appended a second by {options.writers} writers together": round(part * options.writers / writers),
        "lines of the shared log that verify": [written, part * options.writers + 1],
        "lines verified a second": round(num_lines / verifying),
        "lines opened a second under a checkpoint": round(num_lines / opening),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
