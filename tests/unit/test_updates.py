import json
import math
from dataclasses import fields, replace

import pytest
import torch

from fedsilo.errors import CheckpointError, OutputError, UpdateRefusedError
from fedsilo.federation import states, updates
from fedsilo.federation.updates import SiteUpdate

ROLES = {
    "layer.weight": "parameter",
    "norm.running_mean": "norm_mean",
    "norm.running_var": "norm_variance",
    "norm.num_batches_tracked": "counter",
}


def make_state():
    return {
        "layer.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "norm.running_mean": torch.zeros(2),
        "norm.running_var": torch.ones(2),
        "norm.num_batches_tracked": torch.tensor(8),
    }


@pytest.fixture
def update():
    return SiteUpdate(
        site="mr-a",
        round_index=3,
        base_sha256="ba5e",
        num_cases=12,
        num_slices=288,
        train_loss=0.75,
        val_dice_global=0.5,
        val_dice_inside=None,
        latent_size=None,
        state=make_state(),
    )


def scalars(update):
    return {field.name: getattr(update, field.name) for field in fields(update) if field.name != "state"}


def rewrite(manifest_path, **changes):
    content = json.loads(manifest_path.read_text()) | changes
    manifest_path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


class TestFiles:
    def test_an_update_comes_back_as_it_was(self, update, tmp_path):
        manifest_path = updates.save(update, tmp_path / "outbox")

        loaded = updates.load(manifest_path)

        assert manifest_path == tmp_path / "outbox" / "mr-a.json"
        assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == ["mr-a.json", "mr-a.safetensors"]
        assert scalars(loaded) == scalars(update)
        assert states.digest(loaded.state) == states.digest(update.state)

    def test_equal_updates_give_equal_bytes(self, update, tmp_path):
        first, again = updates.save(update, tmp_path / "first"), updates.save(update, tmp_path / "again")

        assert first.read_bytes() == again.read_bytes()
        assert first.with_suffix(".safetensors").read_bytes() == again.with_suffix(".safetensors").read_bytes()

    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    def test_a_diverged_loss_survives_the_file(self, update, loss, tmp_path):
        loaded = updates.load(updates.save(replace(update, train_loss=loss), tmp_path))

        assert loaded.train_loss == pytest.approx(loss, nan_ok=True)

    def test_the_manifest_is_written_last(self, update, tmp_path, monkeypatch):
        manifest_path = updates.save(update, tmp_path)

        def fail(*arguments):
            raise OutputError("no space")

        monkeypatch.setattr(states, "save", fail)
        with pytest.raises(OutputError, match="no space"):
            updates.save(replace(update, round_index=4), tmp_path)

        assert not manifest_path.exists()

    def test_a_missing_manifest_is_named(self, tmp_path):
        with pytest.raises(CheckpointError, match=f"cannot read {tmp_path}/mr-a.json"):
            updates.load(tmp_path / "mr-a.json")

    def test_a_manifest_without_its_state_is_refused(self, update, tmp_path):
        manifest_path = updates.save(update, tmp_path)
        manifest_path.with_suffix(".safetensors").unlink()

        with pytest.raises(CheckpointError, match=r"cannot read .*mr-a\.safetensors"):
            updates.load(manifest_path)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda content: content[:-1], r"mr-a\.safetensors has \d+ bytes, expected \d+"),
            (lambda content: content[:-1] + b"!", r"mr-a\.safetensors has SHA-256 .*, expected"),
        ],
        ids=["cut off", "one byte changed"],
    )
    def test_a_spoilt_state_is_refused(self, spoil, message, update, tmp_path):
        manifest_path = updates.save(update, tmp_path)
        state_path = manifest_path.with_suffix(".safetensors")
        state_path.write_bytes(spoil(state_path.read_bytes()))

        with pytest.raises(CheckpointError, match=message):
            updates.load(manifest_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_cases": "absent"}, "keys missing or unknown: num_cases"),
            ({"patients": ["p1"]}, "keys missing or unknown: patients"),
            ({"num_cases": 2.5}, "num_cases is 2.5, expected a whole number"),
            ({"num_cases": True}, "num_cases is True, expected a whole number"),
            ({"train_loss": None}, "train_loss is None, expected a number"),
            ({"train_loss": "low"}, "train_loss is 'low', expected a number or null"),
            ({"val_dice_global": True}, "val_dice_global is True, expected a number or null"),
            ({"base_sha256": 5}, "base_sha256 is 5, expected a text"),
            ({"site": "ct-b"}, "is of site 'ct-b' and file 'mr-a.safetensors', expected its own name"),
            ({"file": "../global.safetensors"}, r"file '\.\./global\.safetensors', expected its own name"),
        ],
    )
    def test_a_wrong_manifest_is_refused(self, changes, message, update, tmp_path):
        manifest_path = updates.save(update, tmp_path)
        rewrite(manifest_path, **changes)

        with pytest.raises(CheckpointError, match=message):
            updates.load(manifest_path)

    @pytest.mark.parametrize("content", ["", "{", "[]", "3"])
    def test_what_is_no_manifest_is_refused(self, content, tmp_path):
        (tmp_path / "mr-a.json").write_text(content)

        with pytest.raises(CheckpointError, match=r"mr-a\.json"):
            updates.load(tmp_path / "mr-a.json")

    def test_a_folder_that_cannot_be_made_is_named(self, update, tmp_path):
        (tmp_path / "file").write_text("in the way")

        with pytest.raises(OutputError, match="cannot"):
            updates.save(update, tmp_path / "file")


def admit(update):
    updates.admit(
        update,
        expected_sites=("ct-b", "mr-a"),
        round_index=3,
        base_sha256="ba5e",
        reference_state=make_state(),
        roles=ROLES,
    )


def with_entry(update, name, tensor):
    return replace(update, state={**update.state, name: tensor})


class TestAdmission:
    def test_a_good_update_passes_untouched(self, update):
        before = states.digest(update.state)

        admit(update)

        assert states.digest(update.state) == before

    @pytest.mark.parametrize(
        ("check", "spoil", "message"),
        [
            ("membership", lambda update: replace(update, site="us-x"), r"update of 'us-x': expected one of ct-b, mr-a"),
            ("round", lambda update: replace(update, round_index=2), "is of round 2, expected 3"),
            ("base", lambda update: replace(update, base_sha256="0ld"), "started from state 0ld, expected ba5e"),
            ("cases", lambda update: replace(update, num_cases=0), "has 0 cases and 288 slices"),
            ("cases", lambda update: replace(update, num_slices=0), "has 12 cases and 0 slices"),
            ("schema", lambda update: replace(update, state={}), "differs in 4 entries: lacks layer.weight"),
            ("schema", lambda update: with_entry(update, "images", torch.zeros(9)), "has unknown images"),
            ("schema", lambda update: with_entry(update, "layer.weight", torch.zeros(2)), r"layer.weight is float32 \(2,\)"),
            ("schema", lambda update: with_entry(update, "layer.weight", torch.zeros(2, 2).half()), "layer.weight is float16"),
            ("finite", lambda update: replace(update, train_loss=math.nan), "train_loss is nan"),
            ("finite", lambda update: replace(update, val_dice_global=math.inf), "val_dice_global is inf"),
            (
                "finite",
                lambda update: with_entry(update, "layer.weight", torch.tensor([[1.0, math.nan], [math.inf, 0.0]])),
                "layer.weight has 2 NaN or infinite values",
            ),
            (
                "buffers",
                lambda update: with_entry(update, "norm.running_var", torch.tensor([1.0, -0.5])),
                "norm.running_var has the variance -0.5, expected none below 0",
            ),
            (
                "buffers",
                lambda update: with_entry(update, "norm.num_batches_tracked", torch.tensor(7)),
                "counter norm.num_batches_tracked fell below",
            ),
        ],
    )
    def test_a_bad_update_is_refused_by_name(self, check, spoil, message, update):
        with pytest.raises(UpdateRefusedError, match=message) as refusal:
            admit(spoil(update))

        assert refusal.value.check == check
        assert str(refusal.value).startswith(f"[{check}] update of ")

    def test_a_negative_parameter_or_mean_is_no_reason(self, update):
        admit(with_entry(update, "layer.weight", torch.full((2, 2), -1.0)))
        admit(with_entry(update, "norm.running_mean", torch.full((2,), -1.0)))

    def test_a_counter_may_stand_still(self, update):
        admit(with_entry(update, "norm.num_batches_tracked", torch.tensor(8)))
