"""Laws of storing and admitting updates."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsilo.errors import UpdateRefusedError
from fedsilo.federation import states, updates
from fedsilo.federation.updates import SiteUpdate

ROLES = {"layer.weight": "parameter", "norm.running_var": "norm_variance", "norm.num_batches_tracked": "counter"}
STATE = {
    "layer.weight": torch.tensor([1.0, 2.0]),
    "norm.running_var": torch.tensor([1.0]),
    "norm.num_batches_tracked": torch.tensor(4),
}
GOOD = SiteUpdate(
    site="a",
    round_index=1,
    base_sha256="base",
    num_cases=2,
    num_slices=20,
    train_loss=0.5,
    val_dice_global=0.5,
    val_dice_inside=0.5,
    latent_size=None,
    state=STATE,
)
DEFECTS = {
    "membership": lambda update: replace(update, site="stranger"),
    "round": lambda update: replace(update, round_index=0),
    "base": lambda update: replace(update, base_sha256="other"),
    "cases": lambda update: replace(update, num_cases=0),
    "schema": lambda update: replace(update, state={**update.state, "extra": torch.tensor(0.0)}),
    "finite": lambda update: replace(update, state={**update.state, "layer.weight": torch.tensor([1.0, torch.inf])}),
    "buffers": lambda update: replace(update, state={**update.state, "norm.running_var": torch.tensor([-1.0])}),
}

scores = st.floats(width=64, allow_nan=False)


def admit(update):
    updates.admit(update, expected_sites=["a"], round_index=1, base_sha256="base", reference_state=STATE, roles=ROLES)


@pytest.mark.parametrize("chosen", [pair for count in (1, 2, 7) for pair in combinations(DEFECTS, count)])
def test_the_cheapest_failing_check_is_the_one_named(chosen):
    update = GOOD
    for check in reversed(chosen):
        update = DEFECTS[check](update)

    with pytest.raises(UpdateRefusedError) as refusal:
        admit(update)

    assert refusal.value.check == chosen[0]


def test_an_unchanged_state_is_admitted():
    admit(GOOD)


@settings(deadline=None, max_examples=25)
@given(
    site=st.from_regex(r"[a-z][a-z0-9_-]{0,39}", fullmatch=True),
    round_index=st.integers(0, 10**6),
    num_cases=st.integers(0, 10**9),
    train_loss=scores,
    dice=st.none() | scores,
    weights=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
)
def test_any_update_survives_its_files(*, site, round_index, num_cases, train_loss, dice, weights):
    update = replace(GOOD, site=site, round_index=round_index, num_cases=num_cases, train_loss=train_loss, val_dice_inside=dice)
    update = replace(update, state={"w": torch.tensor(weights), "n": torch.tensor(num_cases)})

    with TemporaryDirectory() as folder:
        loaded = updates.load(updates.save(update, Path(folder)))

    assert (loaded.site, loaded.round_index, loaded.num_cases) == (site, round_index, num_cases)
    assert (loaded.train_loss, loaded.val_dice_inside) == (train_loss, dice)
    assert states.digest(loaded.state) == states.digest(update.state)
