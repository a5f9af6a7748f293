"""The journal: what it keeps, what it refuses, and where it goes on."""

import json
import math
from dataclasses import replace

import pytest
import torch

from fedsilo.errors import CheckpointError
from fedsilo.federation import pruning, states
from fedsilo.federation.aggregation import AggregationRecord
from fedsilo.federation.journal import Journal
from fedsilo.federation.pruning import KEEP_ROUNDS
from fedsilo.federation.records import SiteRecord
from fedsilo.federation.server_optimizer import Moments

SITES = ["ct-a", "mr-a"]
WEIGHTS = {"ct-a": 0.5, "mr-a": 0.5}
MADE = AggregationRecord(weights=WEIGHTS, shares=WEIGHTS, delta_norms={"ct-a": 1.0, "mr-a": 1.0})


def state(value):
    return {"w": torch.full((3,), float(value))}


def play_site(journal, site, round_index, dice=None, remapper=None):
    weights = journal.weights_path(site, round_index)
    update_sha256 = states.save(state(round_index + 0.5), weights)
    inside = states.save(state(round_index), journal.fold_path(site, round_index))
    journal.write_site(
        SiteRecord(
            site=site,
            round_index=round_index,
            num_cases=2,
            num_slices=8,
            train_loss=0.5,
            val_dice_folds={"inside": dice},
            update_sha256=update_sha256,
            update_bytes=1,
            manifest_sha256=None,
            fold_sha256={"inside": inside},
            private_sha256=None,
            moments_sha256=None,
            latent_size=None,
            remapper_sha256=None if remapper is None else states.save(remapper, journal.remapper_path(site, round_index)),
            remapper=None if remapper is None else {"likelihood_loss": 1.0, "critic_loss": None},
        )
    )


@pytest.fixture
def journal(tmp_path):
    """Four finished rounds of two sites; the global state of round 2 and ct-a's inside model of round 1 are best."""
    journal = Journal(tmp_path / "federate", SITES)
    journal.open({"params": 1})
    for round_index in range(4):
        journal.write_server(state(round_index), round_index, made=MADE)
        for site in SITES:
            if round_index:
                journal.write_validation(site, round_index, 0.9 if round_index == 2 else 0.1)
            play_site(journal, site, round_index, dice=0.8 if (site, round_index) == ("ct-a", 1) else 0.2)
    journal.write_server(state(4), 4, made=MADE, latent_sizes={"ct-a": 2.0})
    return journal


def test_goes_on_with_the_last_round_that_is_whole(journal):
    assert journal.resume_point(10).round_index == 4
    assert journal.resume_point(10).refused == ()
    assert torch.equal(journal.read_server(4)["w"], state(4)["w"])


def test_a_changed_state_is_refused_by_its_hash_and_the_round_before_taken(journal):
    path = journal.server_path(4)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))

    point = journal.resume_point(10)

    assert point.round_index == 3
    assert len(point.refused) == 1
    assert str(path) in point.refused[0]


@pytest.mark.parametrize("damage", ["cut", "gone", "record"])
def test_a_damaged_inside_model_costs_rounds_not_the_run(journal, damage):
    path = journal.fold_path("mr-a", 3)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:20])
    elif damage == "gone":
        path.unlink()
    else:
        (path.parent.parent / "done.json").write_text("{")

    point = journal.resume_point(10)

    assert point.round_index == 3
    assert not journal.site_done("mr-a", 3)
    assert journal.site_done("ct-a", 3)


def test_a_damaged_update_makes_the_site_train_again(journal):
    weights = journal.weights_path("mr-a", 3)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")

    assert not journal.site_done("mr-a", 3)


def test_nothing_whole_means_round_zero(journal):
    for round_index in range(5):
        journal.server_path(round_index).unlink()

    point = journal.resume_point(10)

    assert point.round_index == 0
    assert len(point.refused) == 5


def test_another_identity_starts_a_new_journal(journal):
    assert not journal.open({"params": 1})
    assert journal.server_path(4).exists()
    assert journal.open({"params": 2})
    assert not journal.server_path(4).exists()
    assert json.loads((journal.folder / "identity.json").read_text()) == {"params": 2}


def test_the_best_states_are_chosen_by_validation_and_the_earliest_of_equals(journal):
    assert journal.best_global(4) == 2
    assert journal.best_fold("ct-a", 3) == 1
    assert journal.best_fold("mr-a", 3) == 0


def test_pruning_keeps_the_last_rounds_and_the_best(tmp_path, journal):
    for round_index in range(4, 8):
        for site in SITES:
            journal.write_validation(site, round_index, 0.1)
            play_site(journal, site, round_index, dice=0.2)
        journal.write_server(state(round_index + 1), round_index + 1, made=MADE)
        pruning.prune(journal, round_index + 1)

    kept = sorted(int(path.stem) for path in (journal.folder / "server").glob("*.safetensors"))
    assert kept == [2, *range(8 - KEEP_ROUNDS, 9)]
    inside = sorted(
        int(path.parent.parent.name) for path in (journal.folder / "sites" / "ct-a").glob("*/folds/inside.safetensors")
    )
    assert inside == [1, *range(8 - KEEP_ROUNDS, 8)]
    assert journal.resume_point(10).round_index == 8


def test_moments_of_the_server_are_kept_with_their_state_and_checked(journal):
    moments = Moments(3, {"w": torch.ones(3)}, {"w": torch.full((3,), 2.0), "b/first": torch.zeros(1)})
    journal.write_server(state(5), 5, made=MADE, moments=moments)

    read = journal.read_moments(5)
    assert read.num_steps == 3
    assert torch.equal(read.first["w"], torch.ones(3))
    assert read.second.keys() == {"w", "b/first"}
    assert journal.read_moments(4) is None

    path = journal.server_moments_path(5)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"00005\.moments"):
        journal.read_moments(5)
    assert journal.resume_point(10).round_index == 4


def test_a_missing_record_is_a_checkpoint_error(journal):
    with pytest.raises(CheckpointError, match=r"00009\.json"):
        journal.server_record(9)


def test_a_damaged_remapper_costs_a_round_and_old_ones_are_removed(journal):
    journal.write_server(state(4), 4, made=MADE)
    for round_index in range(4, 8):
        for site in SITES:
            play_site(journal, site, round_index, remapper=state(round_index))
        journal.write_server(state(round_index + 1), round_index + 1, made=MADE, latent_sizes={"ct-a": 1.5})
        pruning.prune(journal, round_index + 1)
    assert journal.resume_point(10).round_index == 8
    assert journal.server_record(8).latent_sizes == {"ct-a": 1.5}
    assert [journal.remapper_path("ct-a", index).exists() for index in (4, 5, 7)] == [False, True, True]

    path = journal.remapper_path("mr-a", 7)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")

    assert journal.resume_point(10).round_index == 7
    assert not journal.site_done("mr-a", 7)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 0.1])
def test_a_loss_that_diverged_is_in_the_record(journal, loss):
    record = replace(journal.site_record("ct-a", 3), train_loss=loss, remapper={"likelihood_loss": loss, "critic_loss": None})

    journal.write_site(record)

    read = journal.site_record("ct-a", 3)
    assert read.train_loss == pytest.approx(loss, rel=0, abs=0, nan_ok=True)
    assert read.remapper["likelihood_loss"] == pytest.approx(loss, rel=0, abs=0, nan_ok=True)
    assert read.remapper["critic_loss"] is None
