"""Which states of a journal's old rounds can go: nothing needs them any more. Records stay."""

import shutil
from collections.abc import Sequence

from fedsilo.federation.journal import Journal

KEEP_ROUNDS = 3
"""Rounds whose states are kept, so that one bad file costs a round and not the run."""


def prune(journal: Journal, opened_round: int) -> None:
    """Remove states that neither the last rounds nor the selection need."""
    last_done = opened_round - 1
    if last_done < 0:
        return
    oldest = max(opened_round - KEEP_ROUNDS, 0)
    best_global = journal.best_global(last_done)
    for round_index in range(oldest):
        if round_index != best_global:
            journal.server_path(round_index).unlink(missing_ok=True)
        journal.server_moments_path(round_index).unlink(missing_ok=True)
        journal.intake.drop_history(round_index)
    for site in journal.sites:
        turns = journal.turns(site, opened_round)
        _prune_turns(journal, site, turns, oldest=oldest, best_global=best_global)
        for round_index in set(range(oldest)) - set(turns):
            _drop_uncounted(journal, site, round_index)


def _prune_turns(journal: Journal, site: str, turns: Sequence[int], *, oldest: int, best_global: int) -> None:
    """Remove a site's states of turns before ``oldest`` that neither its next turn nor the selection needs."""
    # going back to the oldest kept round needs the turn before it, however long ago that was
    needed = max((index for index in turns if index <= oldest), default=oldest)
    old = [index for index in turns if index < needed]
    if not old:
        return
    held = max((index for index in turns if index < best_global), default=None)
    for index in old:
        journal.moments_path(site, index).unlink(missing_ok=True)
        journal.remapper_path(site, index).unlink(missing_ok=True)
        shutil.rmtree(journal.update_dir(site, index), ignore_errors=True)
        if index != held:
            journal.private_path(site, index).unlink(missing_ok=True)
    for fold in journal.site_record(site, turns[-1]).fold_sha256:
        best = journal.best_fold(site, turns[-1], fold)
        for index in old:
            if index != best:
                journal.fold_path(site, index, fold).unlink(missing_ok=True)


def _drop_uncounted(journal: Journal, site: str, round_index: int) -> None:
    """Remove all states of a round in which a site trained but did not count."""
    for path in (journal.moments_path, journal.remapper_path, journal.private_path):
        path(site, round_index).unlink(missing_ok=True)
    shutil.rmtree(journal.update_dir(site, round_index), ignore_errors=True)
    shutil.rmtree(journal.fold_path(site, round_index).parent, ignore_errors=True)
