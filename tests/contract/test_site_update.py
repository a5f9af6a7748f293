"""What may leave a site. A change here is a change of the privacy boundary: it needs a decision, not a fix."""

import json
from dataclasses import fields, is_dataclass

import pytest
import torch

from fedsilo.federation import states, updates
from fedsilo.federation.updates import SiteUpdate
from fedsilo.params import NetworkParams
from fedsilo.segmentation import network

FIELDS = {
    "site": str,
    "round_index": int,
    "base_sha256": str,
    "num_cases": int,
    "num_slices": int,
    "train_loss": float,
    "val_dice_global": float | None,
    "val_dice_inside": float | None,
    "latent_size": float | None,
    "state": updates.StateDict,
}


@pytest.fixture(params=[2, 3])
def built(request):
    params = NetworkParams(spatial_dims=request.param, channels=(2, 4), num_res_units=1)
    return network.build(params, num_classes=3, in_channels=1, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def manifest_path(built, tmp_path):
    update = SiteUpdate(
        site="ct-a",
        round_index=0,
        base_sha256="0" * 64,
        num_cases=3,
        num_slices=30,
        train_loss=1.0,
        val_dice_global=None,
        val_dice_inside=None,
        latent_size=None,
        state=states.snapshot(built),
    )
    return updates.save(update, tmp_path)


def test_an_update_has_these_fields_and_no_other():
    assert is_dataclass(SiteUpdate)
    assert {field.name: field.type for field in fields(SiteUpdate)} == FIELDS


def test_an_update_is_frozen():
    assert SiteUpdate.__dataclass_params__.frozen


def test_two_files_leave_a_site(manifest_path):
    assert sorted(path.name for path in manifest_path.parent.iterdir()) == ["ct-a.json", "ct-a.safetensors"]


def test_the_manifest_holds_the_scalars_and_the_file_s_identity(manifest_path):
    assert json.loads(manifest_path.read_text()).keys() == (FIELDS.keys() - {"state"}) | {"file", "sha256", "bytes"}


def test_the_tensors_on_the_wire_are_the_network_s(built, manifest_path):
    content = manifest_path.with_suffix(".safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])

    assert header.keys() == built.state_dict().keys()  # no "__metadata__" either
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == {
        name: tuple(tensor.shape) for name, tensor in built.state_dict().items()
    }
    assert header.keys() == dict([*built.named_parameters(), *built.named_buffers()]).keys()


def test_the_network_s_own_state_is_admitted(built, manifest_path):
    updates.admit(
        updates.load(manifest_path),
        expected_sites=["ct-a"],
        round_index=0,
        base_sha256="0" * 64,
        reference_state=states.snapshot(built),
        roles=states.roles(built),
    )
