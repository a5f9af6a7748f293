"""What a person sees of a long phase, with and without a terminal."""

import logging
import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from tasks import progress

IN_A_TERMINAL = """
from prefect.logging import get_logger
from prefect.logging.configuration import setup_logging
from tasks import progress
setup_logging()
with progress.view(4, "train", done=1) as advance:
    get_logger("tests").warning("a line of the log")
    advance(site="ct-a", round_index=3, loss=0.5, dice=0.25)
"""


def test_lines_tell_how_far_it_is_and_what_was_done(capsys):
    with progress.view(2, "train") as advance:
        advance(site="ct-a", round_index=0, loss=0.5, dice=0.25)
        advance(site="mr-a")

    assert capsys.readouterr().err == "train: 1/2  ct-a  round 0  loss 0.500  Dice 0.250\ntrain: 2/2  mr-a\n"


def test_lines_between_the_first_and_the_last_are_few(capsys):
    with progress.view(1000, "train") as advance:
        for _ in range(1000):
            advance(site="ct-a")

    lines = capsys.readouterr().err.splitlines()
    assert [lines[0], lines[-1]] == ["train: 1/1000  ct-a", "train: 1000/1000  ct-a"]
    assert len(lines) < 10


def test_a_run_that_goes_on_starts_where_it_was(capsys):
    with progress.view(3, "train", done=2) as advance:
        advance(site="ct-a")

    assert capsys.readouterr().err == "train: 3/3  ct-a\n"


def test_threads_may_advance_and_none_is_lost(capsys):
    with progress.view(400, "train"), ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda site: progress.advance(site=str(site)), range(400)))

    assert capsys.readouterr().err.splitlines()[-1].startswith("train: 400/400")


def test_the_view_opened_last_is_advanced_and_without_one_nothing_happens(capsys):
    progress.advance(site="nobody")
    with progress.view(1, "outer"):
        with progress.view(1, "inner"):
            progress.advance(site="a")
        progress.advance(site="b")

    assert capsys.readouterr().err == "inner: 1/1  a\nouter: 1/1  b\n"


def test_a_terminal_gets_a_bar_and_log_lines_of_their_own(repository):
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", IN_A_TERMINAL], cwd=repository, env=variables, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # how a pseudo-terminal says that the other end is closed
            pass
        os.close(ours)

    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0, text
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert [line for line in lines if "a line of the log" in line and "train" not in line]
    assert "2/4" in lines[-1]
    assert lines[-1].endswith("ct-a  round 3  loss 0.500  Dice 0.250")


def test_the_bar_gives_the_log_back():
    from prefect.logging.handlers import PrefectConsoleHandler

    handler, console = PrefectConsoleHandler(), Console()
    own = handler.console
    logger = logging.getLogger("fedsilo.test_progress")
    logger.addHandler(handler)
    try:
        with progress._logs_through(console):
            assert handler.console is console
        assert handler.console is own
    finally:
        logger.removeHandler(handler)
