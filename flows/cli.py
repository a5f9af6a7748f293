"""The command line shared by all phases: which cohort, which params, where."""

import argparse
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from fedsilo.cohort import roster as rosters
from fedsilo.cohort.roster import Roster
from fedsilo.errors import FedsiloError
from fedsilo.params import Params
from tasks import verdicts
from tasks.paths import RunPaths

ENGINE_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
ALL_METRICS = "all"
INTERRUPTED = 130


@dataclass(frozen=True)
class Run:
    """What a phase is asked to do; several times over if there are ``seeds``; scored with distances if ``surfaces``."""

    roster: Roster
    params: Params
    paths: RunPaths
    data_root: Path
    seeds: tuple[int, ...] = ()
    surfaces: bool = True

    @property
    def standing(self) -> Roster:
        """The cohort without the sites that the data contract stopped."""
        return verdicts.standing(self.roster, self.paths)

    def repeats(self) -> tuple["Run", ...]:
        """Give the run once for each seed, with results in ``<run>--s<seed>``; without seeds the run as it is."""
        if not self.seeds:
            return (self,)
        return tuple(
            replace(
                self,
                params=self.params.model_copy(update={"seed": seed}),
                paths=replace(self.paths, run=f"{self.paths.run}--s{seed}"),
                seeds=(),
            )
            for seed in self.seeds
        )


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser with the options that every phase has."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--cohort", type=Path, default=Path("cohorts/demo.yaml"), help="cohort file (default: %(default)s)")
    made.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (default: %(default)s)")
    made.add_argument(
        "--overlay", type=Path, action="append", default=[], metavar="FILE", help="file with a part of params.yaml to change"
    )
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one param, e.g. federate.rounds=10")
    made.add_argument("--run", help="name of the results' folders (default: the cohort's name)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder that holds data/, runs/, reports/ (default: here)")
    return made


def cohort_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of the commands that reproduce a whole cohort or study."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    what = made.add_mutually_exclusive_group()
    what.add_argument("--cohort", default="demo", help="name of a file in cohorts/, without .yaml (default: %(default)s)")
    what.add_argument("--study", help="name of a folder in studies/, instead of a cohort")
    made.add_argument("--workspace", default=".", help="folder of the repository (default: here)")
    return made


def resolve(options: argparse.Namespace) -> Run:
    """Read the files that the options name.

    Raises:
        ParamsError: A params file, cohort file or assignment is wrong.
    """
    roster, params = rosters.load_run(options.cohort, options.params, options.set, overlays=options.overlay)
    paths = RunPaths(workspace=options.workspace, cohort=roster.name, run=options.run or roster.name)
    root = options.workspace / rosters.data_root(roster, params)
    given = vars(options)
    seeds = tuple(dict.fromkeys(given.get("seeds") or ()))
    surfaces = given.get("metrics", ALL_METRICS) == ALL_METRICS
    return Run(roster=roster, params=params, paths=paths, data_root=root, seeds=seeds, surfaces=surfaces)


def add_metrics(made: argparse.ArgumentParser) -> None:
    """Add the option of phases that score."""
    made.add_argument(
        "--metrics", choices=(ALL_METRICS, "dice"), default=ALL_METRICS, help="dice: no surface distances (default: %(default)s)"
    )


def phase(
    description: str | None,
    body: Callable[[Run], object],
    argv: Sequence[str] | None = None,
    *,
    repeatable: bool = False,
    scoring: bool = False,
) -> int:
    """Run one phase: read the options, call ``body``, and turn an error a user can act on into one line and exit code 1.

    A ``repeatable`` phase has the option ``--seeds``, one that is ``scoring`` has ``--metrics``.
    """
    made = parser(description)
    if scoring:
        add_metrics(made)
    if repeatable:
        made.add_argument(
            "--seeds", type=_seed, nargs="+", metavar="SEED", help="run once for each seed, side by side, as NAME--s<seed>"
        )
    options = made.parse_args(argv)
    return guard(lambda: body(resolve(options)))


def _seed(text: str) -> int:
    """Read a seed, as `seed` in params.yaml is checked."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


@contextlib.contextmanager
def terminations() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the body as Ctrl-C does, so that it cleans up; only the main thread can."""

    def interrupt(_signal_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def guard(body: Callable[[], object]) -> int:
    """Call ``body``; 0 if it returns, 1 and one line on stderr if it raises an error that a user can act on.

    Ctrl-C, SIGTERM and SIGHUP end it with 130, as shells have it, once everything that it started is gone.
    """
    for name in ENGINE_LOGGERS:
        logging.getLogger(name).addFilter(_drop_traceback)
    try:
        with terminations():
            body()
    except FedsiloError as error:
        sys.stderr.write(f"fedsilo: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("fedsilo: interrupted; the next run goes on from the last finished step\n")
        return INTERRUPTED
    return 0


def _drop_traceback(record: logging.LogRecord) -> bool:
    """Let Prefect log an error that a user can act on without its traceback: the message says it all."""
    if record.exc_info and isinstance(record.exc_info[1], FedsiloError):
        record.exc_info = None
    return True
