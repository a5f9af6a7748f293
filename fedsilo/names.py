"""Names that become parts of paths: what they may be, so that none leads elsewhere on any system that holds the files."""

import re

IDENTIFIER = re.compile(r"[a-z][a-z0-9_-]{0,39}")
RUN_PART = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
CASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
FOLDER_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,78}[A-Za-z0-9_-])?")
MAX_FOLDER_PARTS = 8
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))})
"""Names that Windows takes for devices, whatever stands behind a dot or blank."""
RULE = "a-z first, then a-z, 0-9, _ and -, at most 40, and no name of a device such as nul"


def is_identifier(name: str) -> bool:
    """Say whether a name can be that of a site, cohort, federation, participant, fold, method or actor.

    Example:
        >>> [is_identifier(name) for name in ("ct-a", "../ct-a", "ct-a/x", "CT-A", "nul", "")]
        [True, False, False, False, False, False]
    """
    return _is(IDENTIFIER, name)


def is_run(name: str) -> bool:
    """Say whether a name can be that of a run: one part, or that of a study and one."""
    parts = name.split("/")
    return len(parts) <= 2 and all(_is(RUN_PART, part) for part in parts)  # noqa: PLR2004  # study and run


def is_case(name: str) -> bool:
    """Say whether a name can be that of a case, which a hospital chooses."""
    return _is(CASE, name)


def is_folder(name: str) -> bool:
    """Say whether a name leads to a folder below another, in a few plain parts.

    Example:
        >>> [is_folder(name) for name in ("ct-a", "Clinic 3/ct", "/ct-a", "a/../b", "a//b")]
        [True, True, False, False, False]
    """
    parts = name.split("/")
    return len(parts) <= MAX_FOLDER_PARTS and all(_is(FOLDER_PART, part) for part in parts)


def _is(pattern: re.Pattern[str], name: str) -> bool:
    # fullmatch: with match, $ would let a line feed at the end pass
    return pattern.fullmatch(name) is not None and name.partition(".")[0].rstrip(" ").lower() not in DEVICES
