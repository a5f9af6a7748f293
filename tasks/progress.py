"""How far a long phase is: a bar in a terminal, plain lines elsewhere; both on standard error, beside the logs."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_SECONDS = 5.0


class Advance(Protocol):
    """One unit of work is done."""

    def __call__(
        self, *, site: str, round_index: int | None = None, loss: float | None = None, dice: float | None = None
    ) -> None:
        """Move on by one and show what is known about the unit."""


_open_views: list[Advance] = []


@contextlib.contextmanager
def view(total: int, description: str, *, done: int = 0) -> Iterator[Advance]:
    """Show the progress of ``total`` units while the body runs; it may be advanced from several threads.

    Args:
        total: Units of work of the whole phase.
        description: What is done; stands before the bar.
        done: Units that an earlier run has finished.

    Yields:
        A function to call after each unit.
    """
    make = _bar if sys.stderr.isatty() else _lines
    with make(total, description, done) as advance:
        _open_views.append(advance)
        try:
            yield advance
        finally:
            _open_views.remove(advance)


def advance(*, site: str, round_index: int | None = None, loss: float | None = None, dice: float | None = None) -> None:
    """Move the view that is open on by one; nothing is shown if none is. For tasks, whose flow holds the view."""
    if _open_views:
        _open_views[-1](site=site, round_index=round_index, loss=loss, dice=dice)


@contextlib.contextmanager
def _bar(total: int, description: str, done: int) -> Iterator[Advance]:
    """Draw a bar that stays below the log lines."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[unit]}"),
    )
    console = Console(stderr=True, markup=False, highlight=False)  # a log line may hold [brackets]
    with _logs_through(console), progress.Progress(*columns, console=console) as bar:
        row = bar.add_task(description, total=total, completed=done, unit="")

        def move_on(*, site: str, round_index: int | None = None, loss: float | None = None, dice: float | None = None) -> None:
            bar.update(row, advance=1, unit=_unit(site, round_index, loss, dice))

        yield move_on


@contextlib.contextmanager
def _lines(total: int, description: str, done: int) -> Iterator[Advance]:
    """Write a line for the first unit, the last one, and at most one every few seconds between them."""
    lock = threading.Lock()
    count, written_at = done, -PLAIN_SECONDS

    def move_on(*, site: str, round_index: int | None = None, loss: float | None = None, dice: float | None = None) -> None:
        nonlocal count, written_at
        with lock:
            count += 1
            now = time.monotonic()
            if count < total and now - written_at < PLAIN_SECONDS:
                return
            written_at = now
            sys.stderr.write(f"{description}: {count}/{total}  {_unit(site, round_index, loss, dice)}\n")

    yield move_on


@contextlib.contextmanager
def _logs_through(console: "Console") -> Iterator[None]:
    """Send Prefect's console logs through the console that draws the bar: it puts other lines above it."""
    from prefect.logging.handlers import PrefectConsoleHandler

    known = [logging.getLogger(), *(logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict))]
    handlers = [handler for logger in known for handler in logger.handlers if isinstance(handler, PrefectConsoleHandler)]
    before = [handler.console for handler in handlers]
    for handler in handlers:
        handler.console = console
    try:
        yield
    finally:
        for handler, own in zip(handlers, before, strict=True):
            handler.console = own


def _unit(site: str, round_index: int | None, loss: float | None, dice: float | None) -> str:
    """Say what a unit of work was: ``ct-a  round 3  loss 0.412  Dice 0.731``."""
    parts = [site]
    if round_index is not None:
        parts.append(f"round {round_index}")
    if loss is not None:
        parts.append(f"loss {loss:.3f}")
    if dice is not None:
        parts.append(f"Dice {dice:.3f}")
    return "  ".join(parts)
