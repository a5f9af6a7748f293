"""A process that appends to a log: `python -m tests.audit_writer FOLDER NAME COUNT`; writes the seq of each event once it counts."""

import sys
from pathlib import Path

from fedsilo.audit import trail, verifier
from fedsilo.audit.events import Draft, Why
from fedsilo.audit.trail import Trail
from tests import audit_story as tale


def open_log(folder: Path) -> Trail:
    """Open the federation's log, or begin it."""
    setting = verifier.setting_of(tale.found(), "federation")
    return trail.open_trail(folder / "federation.jsonl", setting, folder / "checkpoints", opener=tale.signer("server"))


def main(folder: str, name: str, count: str) -> None:
    """Append so many incidents."""
    log = open_log(Path(folder))
    for number in range(int(count)):
        event = log.append(Draft("incident", Why(name, f"number {number}")), tale.signer("server"))
        sys.stdout.write(f"{event.seq}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
