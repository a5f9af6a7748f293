"""The manifest that a site signs, and the weights beside it."""

import json
import math
import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from round_scene import hex_of, signer

from fedsilo.audit import canonical, keys
from fedsilo.errors import CheckpointError, DataError, OutputError
from fedsilo.federation import manifests, states
from fedsilo.federation.manifests import Attestation, Code, Data
from fedsilo.federation.stored_state import StoredState
from fedsilo.federation.updates import SiteUpdate

STATE = {
    "bias": torch.zeros(0),
    "count": torch.tensor(8),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
}
UPDATE = SiteUpdate(
    site="mr-a",
    round_index=3,
    base_sha256=hex_of("base"),
    num_cases=12,
    num_slices=288,
    train_loss=0.75,
    val_dice_global=0.5,
    val_dice_inside=None,
    latent_size=None,
    state=STATE,
)
ATTESTATION = Attestation(
    federation="demo",
    run="study/demo--s7",
    nonce=hex_of("nonce"),
    order_sha256=hex_of("order"),
    code=Code("0.1.0"),
    data=Data(hex_of("data")),
    env_sha256=hex_of("env"),
    created="2026-06-01T00:00:00.000000Z",
    expires="2026-07-01T00:00:00.000000Z",
    seen=None,
)


def save(folder, **changes):
    return manifests.save(replace(UPDATE, **changes), folder, ATTESTATION, signer("mr-a"))


class TestManifest:
    def test_it_is_signed_and_comes_back_as_it_was(self, tmp_path):
        path = save(tmp_path / "outbox")

        content = path.read_bytes()
        record, said = manifests.read(content)

        assert sorted(found.name for found in path.parent.iterdir()) == ["mr-a.json", "mr-a.safetensors"]
        assert manifests.flaw(content) is None
        assert keys.signed_by(signer("mr-a").public, b"fedsilo-update/v1\0", record)
        assert (said.site, said.round_index, said.num_cases, said.num_slices) == ("mr-a", 3, 12, 288)
        assert (said.base_model, said.run, said.nonce) == (UPDATE.base_sha256, ATTESTATION.run, ATTESTATION.nonce)
        assert (said.metrics.train_loss, said.metrics.val_dice_global, said.metrics.val_dice_inside) == ("0.75", "0.5", None)

    def test_equal_updates_give_equal_bytes(self, tmp_path):
        first, again = save(tmp_path / "first"), save(tmp_path / "again")

        assert first.read_bytes() == again.read_bytes()
        assert first.with_suffix(".safetensors").read_bytes() == again.with_suffix(".safetensors").read_bytes()

    @settings(max_examples=25)
    @given(loss=st.floats())
    def test_any_loss_survives(self, loss, tmp_path_factory):
        _, said = manifests.read(save(tmp_path_factory.mktemp("any"), train_loss=loss).read_bytes())

        assert manifests.number(said.metrics.train_loss) == pytest.approx(loss, abs=0, rel=0, nan_ok=True)
        assert (manifests.not_finite(said.metrics) is None) == math.isfinite(loss)

    def test_it_is_written_last(self, tmp_path, monkeypatch):
        path = save(tmp_path)

        def fail(*arguments):
            raise OutputError("no space")

        monkeypatch.setattr(states, "save", fail)
        with pytest.raises(OutputError, match="no space"):
            save(tmp_path, round_index=4)

        assert not path.exists()

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / "file").write_text("in the way")

        with pytest.raises(OutputError, match="cannot"):
            save(tmp_path / "file")

    def test_a_number_without_a_form_is_not_signed(self, tmp_path):
        with pytest.raises(DataError, match="cannot sign"):
            save(tmp_path, num_cases=2**60)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_cases": None}, "num_cases is missing"),
            ({"patients": ["p1"]}, "patients is no field"),
            ({"num_cases": True}, "num_cases is True, expected a whole number"),
            ({"metrics": {"train_loss": "low"}}, "train_loss is 'low', expected a decimal number"),
            ({"metrics": {"train_loss": "1e3"}}, "train_loss is '1e3', expected a decimal number"),
            ({"metrics": {}}, "metrics is empty"),
            ({"base_model": "5"}, "base_model is '5', expected 64"),
            ({"site": "CT-B"}, "site is 'CT-B', expected a name"),
            ({"round": -1}, "round is -1, expected a whole number of at least 0"),
            ({"type": "order"}, "cannot be attached to update.submit"),
            ({"sig": "AA"}, "sig is 'AA', expected base64"),
            ({"num_cases": 2**53}, "a number of 54 bits"),
        ],
    )
    def test_another_form_is_refused(self, changes, message, tmp_path):
        record = json.loads(save(tmp_path).read_bytes()) | changes

        found = manifests.flaw(canonical.dumps({key: value for key, value in record.items() if value is not None}))

        assert found is not None
        assert message in found

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"{" * 10_000])
    def test_what_is_no_manifest_is_refused(self, content):
        assert manifests.flaw(content)
        assert manifests.read(content) is None


class TestStoredState:
    def test_it_is_the_state_that_was_stored(self, tmp_path):
        sha256 = states.save(STATE, tmp_path / "state.safetensors")

        stored = StoredState(tmp_path / "state.safetensors")

        assert stored.keys() == STATE.keys()
        assert len(stored) == len(STATE)
        assert states.digest(stored) == states.digest(STATE)
        assert stored.sha256() == sha256
        states.check_same(STATE, stored, "stored state")

    def test_each_access_reads_anew(self, tmp_path):
        states.save(STATE, tmp_path / "state.safetensors")
        stored = StoredState(tmp_path / "state.safetensors")

        stored["weight"].zero_()

        assert torch.equal(stored["weight"], STATE["weight"])
        with pytest.raises(KeyError):
            stored["other"]

    def test_a_file_that_takes_its_name_later_is_not_read(self, tmp_path):
        path = tmp_path / "state.safetensors"
        before = states.save(STATE, path)
        stored = StoredState(path)

        states.save({"weight": torch.zeros(5)}, path)

        assert torch.equal(stored["weight"], STATE["weight"])
        assert stored.sha256() == before

    def test_a_file_that_is_cut_while_it_is_open_is_named(self, tmp_path):
        path = tmp_path / "state.safetensors"
        states.save(STATE, path)
        stored = StoredState(path)
        path.write_bytes(b"")

        with pytest.raises(CheckpointError, match="became shorter"):
            stored["weight"]

    def test_a_link_or_a_folder_is_not_followed(self, tmp_path):
        states.save(STATE, tmp_path / "state.safetensors")
        (tmp_path / "link.safetensors").symlink_to(tmp_path / "state.safetensors")
        (tmp_path / "folder.safetensors").mkdir()

        for name in ("link", "folder", "missing"):
            with pytest.raises(CheckpointError, match=rf"cannot (read|use) .*{name}\.safetensors"):
                StoredState(tmp_path / f"{name}.safetensors")

    @pytest.mark.parametrize(
        "header",
        [
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
            {"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}},
            {"a": {"shape": [1]}},
            {"a": 1},
            [],
        ],
    )
    def test_a_header_that_lies_is_refused(self, header, tmp_path):
        text = json.dumps(header).encode()
        path = tmp_path / "state.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0\0\0")

        with pytest.raises(CheckpointError, match="as safetensors"):
            StoredState(path)
