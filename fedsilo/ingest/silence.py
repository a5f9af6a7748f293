"""Readers that keep to themselves: warnings and logs of other packages quote headers, which name people."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

LOGGERS = ("pydicom", "nibabel", "nibabel.global", "highdicom", "PIL")


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let nothing of what pydicom, highdicom, nibabel and Pillow have to say reach a log or terminal.

    Nothing is lost: what makes a file unusable raises, and what a header says too much is not passed on.
    """
    before = {name: logging.getLogger(name).disabled for name in LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LOGGERS:
            logging.getLogger(name).disabled = True
        try:
            yield
        finally:
            for name, disabled in before.items():
                logging.getLogger(name).disabled = disabled
