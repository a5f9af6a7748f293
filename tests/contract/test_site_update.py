"""What may leave a site. A change here is a change of the privacy boundary: it needs a decision, not a fix."""

import json
from dataclasses import fields, is_dataclass

import pytest
import torch
from round_scene import signer

from fedsilo.audit import forms
from fedsilo.audit.documents import Seen
from fedsilo.audit.events import Artifact
from fedsilo.federation import manifests, states, updates
from fedsilo.federation.manifests import Attestation, Code, Data, Manifest
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


SAID = {
    *("type", "federation", "run", "site", "round", "nonce", "order_sha256", "base_model", "file_sha256", "file_bytes"),
    *("num_cases", "num_slices", "metrics", "code", "data", "env_sha256", "seen", "created", "expires", "key", "sig"),
}
"""What a site signs of an update."""


@pytest.fixture
def manifest_path(built, tmp_path):
    update = SiteUpdate(
        site="ct-a",
        round_index=0,
        base_sha256="0" * 64,
        num_cases=3,
        num_slices=30,
        train_loss=1.0,
        val_dice_global=0.5,
        val_dice_inside=0.25,
        latent_size=2.75,
        state=states.snapshot(built),
    )
    attestation = Attestation(
        federation="demo",
        run="demo",
        nonce="1" * 64,
        order_sha256="2" * 64,
        code=Code("0.1.0", "3" * 40, dirty=False),
        data=Data("4" * 64, (Artifact("ct-a", "5" * 64),)),
        env_sha256="6" * 64,
        created="2026-06-01T00:00:00.000000Z",
        expires="2026-07-01T00:00:00.000000Z",
        seen=Seen(7, f"sha256:{'8' * 64}"),
    )
    return manifests.save(update, tmp_path, attestation, signer("ct-a"))


def test_an_update_has_these_fields_and_no_other():
    assert is_dataclass(SiteUpdate)
    assert {field.name: field.type for field in fields(SiteUpdate)} == FIELDS


def test_an_update_is_frozen():
    assert SiteUpdate.__dataclass_params__.frozen


def test_two_files_leave_a_site(manifest_path):
    assert sorted(path.name for path in manifest_path.parent.iterdir()) == ["ct-a.json", "ct-a.safetensors"]


def test_the_manifest_says_this_and_no_more(manifest_path):
    said = json.loads(manifest_path.read_text())

    assert said.keys() == SAID
    assert said["metrics"].keys() == {"train_loss", "val_dice_global", "val_dice_inside", "latent_size"}
    assert said["code"].keys() == {"version", "git", "dirty"}
    assert said["data"].keys() == {"manifest_sha256", "sites"}
    assert said["seen"].keys() == {"size", "root"}
    assert {place.name for place in forms.places(Manifest)} | {"type", "key", "sig"} == SAID


def test_the_tensors_on_the_wire_are_the_network_s(built, manifest_path):
    content = manifest_path.with_suffix(".safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])

    assert header.keys() == built.state_dict().keys()  # no "__metadata__" either
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == {
        name: tuple(tensor.shape) for name, tensor in built.state_dict().items()
    }
    assert header.keys() == dict([*built.named_parameters(), *built.named_buffers()]).keys()
