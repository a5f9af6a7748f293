"""A log on the disk whose clock a test sets."""

from datetime import UTC, datetime, timedelta

from fedsilo.audit import trail

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        self.now += timedelta(microseconds=10)
        return self.now


def open_log(folder, setting, clock, **options):
    """Open the federation's log."""
    return trail.open_trail(folder / "federation.jsonl", setting, folder / "checkpoints", clock=clock, **options)


def lines(log):
    """Its lines."""
    return log.path.read_bytes().splitlines()
