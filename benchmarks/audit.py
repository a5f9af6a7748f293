"""What the audit trail costs: events appended a second, one writer and several, and what a long log costs to open and to state.

    python benchmarks/audit.py [--events N] [--writers N] [--lines N ...]

An event is an aggregation with two inputs and its environment, about 1,200 bytes. Appending checks the event as a stranger would,
signs and syncs it; with several writers each checks the lines of all others too. Long logs have rounds: an opening, two updates
with their sites' manifests, an aggregation, an evaluation of a model that is new. Opening checks hashes and order of all lines,
and signatures of those behind the newest checkpoint alone; an object that took lines on trust verifies all before it states them.
"""

import argparse
import concurrent.futures
import hashlib
import json
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedsilo.audit import canonical, documents, forms, founding, keys, merkle, trail, verifier
from fedsilo.audit.documents import Update
from fedsilo.audit.events import Artifact, Decision, Draft, Environment, Subject, Why
from fedsilo.audit.founding import Founding, Policy
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.audit.register import KeyEntry
from fedsilo.audit.trail import Trail

BEGIN, END = "2020-01-01T00:00:00.000000Z", "2120-01-01T00:00:00.000000Z"
SERVER = keys.of_seed(hashlib.sha256(b"benchmark server").digest())
ADMIN = keys.of_seed(hashlib.sha256(b"benchmark admin").digest())
SITES = {name: keys.of_seed(hashlib.sha256(name.encode()).digest()) for name in ("site-a", "site-b")}
HASH = hashlib.sha256(b"a model").hexdigest()
WHY = Why("run-1", "as it is done")


def found() -> Founding:
    """Found a federation of one server, one admin and two sites."""
    entries = [
        KeyEntry("server", "Server", SERVER.public, ("server",), BEGIN, END),
        KeyEntry("ada", "Ada", ADMIN.public, ("admin",), BEGIN, END),
        *(KeyEntry(name, name.title(), signer.public, ("site",), BEGIN, END, name) for name, signer in SITES.items()),
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


def rounds() -> Iterator[Draft]:
    """Make the events of one round after another."""
    round_index, before = 0, f"sha256:{HASH}"
    while True:
        yield Draft("round.open", WHY, round_index=round_index, subject=Subject("model", "bench/server", after=before))
        counted = []
        for site, signer in SITES.items():
            sha256 = hashlib.sha256(f"{site} {round_index}".encode()).hexdigest()
            manifest = documents.sign(Update("bench", site, round_index, sha256), signer, {"num_cases": 12})
            subject = Subject("update", f"bench/{site}", before, f"sha256:{sha256}")
            yield Draft("update.submit", WHY, site=site, round_index=round_index, subject=subject, attached=manifest)
            counted.append(Artifact(site, sha256))
        after = f"sha256:{hashlib.sha256(str(round_index).encode()).hexdigest()}"
        subject = Subject("model", "bench/server", before, after)
        yield Draft("aggregate", WHY, round_index=round_index, subject=subject, inputs=tuple(counted))
        decision = Decision("inside", "scored", after)
        yield Draft("evaluate", WHY, subject=Subject("model", f"bench-{round_index}/global", after=after), decision=decision)
        round_index, before = round_index + 1, after


def write_rounds(folder: Path, num_lines: int) -> None:
    """Write a log of rounds at once; it is verified when it is opened."""
    opened = open_log(folder)
    prev, now = opened.state.prev, datetime.now(tz=UTC)
    server = {"actor": "server", "actor_name": "Server", "role": "server", "key": SERVER.key, "log": opened.setting.log}
    drafts = rounds()
    with opened.path.open("ab") as log:
        for seq in range(1, num_lines):
            now += timedelta(microseconds=10)
            record = {**forms.plain(next(drafts)), **server, "v": 1, "seq": seq, "ts": now.strftime(TIME_FORMAT), "prev": prev}
            line = canonical.dumps({**record, "sig": SERVER.sign(keys.EVENT_DOMAIN, record)})
            log.write(line + b"\n")
            prev = f"sha256:{merkle.leaf(line).hex()}"


def long_log(folder: Path, num_lines: int) -> dict[str, float]:
    """Time what a long log costs; seconds."""
    write_rounds(folder, num_lines)
    whole: list[Trail] = []
    trusting: list[Trail] = []
    found = {"lines": num_lines, "open, no checkpoint": seconds(lambda: whole.append(open_log(folder)))}
    found["first checkpoint"] = seconds(lambda: whole[0].checkpoint(SERVER))
    found["open under a checkpoint"] = seconds(lambda: trusting.append(open_log(folder)))
    for opened in (whole[0], trusting[0]):
        opened.append(draft(0), SERVER)
    found["checkpoint by who checked every line"] = seconds(lambda: whole[0].checkpoint(SERVER))
    trusting[0].append(draft(0), SERVER)
    found["checkpoint by who took lines on trust"] = seconds(lambda: trusting[0].checkpoint(SERVER))
    trusting[0].append(draft(0), SERVER)
    found["its next checkpoint"] = seconds(lambda: trusting[0].checkpoint(SERVER))
    return found


def ratios(short: dict[str, float], found: dict[str, float]) -> dict[str, float]:
    """Compare a long log with a short one, a line each, and trust with none."""
    per_line = found["lines"] / short["lines"]
    names = [name for name in found if name != "lines"]
    return {
        "lines": found["lines"],
        **{f"a line against {short['lines']} lines: {name}": round(found[name] / short[name] / per_line, 2) for name in names},
        "opening: no checkpoint / under one": round(found["open, no checkpoint"] / found["open under a checkpoint"], 1),
        "checkpoint: lines on trust / every line checked": round(
            found["checkpoint by who took lines on trust"] / found["checkpoint by who checked every line"], 1
        ),
    }


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
    parser.add_argument("--lines", type=int, nargs="*", default=[1_000, 10_000, 100_000])
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
        long = [long_log(Path(temporary) / str(lines), lines) for lines in options.lines]
    num_lines = options.events + 1
    result = {
        "machine": platform.processor() or platform.machine(),
        "bytes a line": round(len(content) / num_lines),
        "appended a second": round(options.events / appending),
        f"appended a second by {options.writers} writers together": round(part * options.writers / writers),
        "lines of the shared log that verify": [written, part * options.writers + 1],
        "lines verified a second": round(num_lines / verifying),
        "lines opened a second under a checkpoint": round(num_lines / opening),
        "long logs, seconds": [{name: round(value, 3) for name, value in found.items()} for found in long],
        "ratios": [ratios(long[0], found) for found in long],
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
