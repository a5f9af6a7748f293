"""`python -m flows.audit pack` and `verify --pack`: a model that can be checked where nothing else of its federation is."""

import hashlib
import json

import pytest

from fedsilo import files
from fedsilo.audit import packs
from fedsilo.audit.events import Decision, Subject
from fedsilo.errors import DataError
from flows import audit
from tasks import packs as packing
from tasks import trails
from tasks.paths import RunPaths

RECORD = {
    "cohort": "demo",
    "run": "demo",
    "rounds": 18,
    "in_channels": 1,
    "network": {"spatial_dims": 2, "channels": [8, 16, 32, 64, 128], "num_res_units": 0},
    "identity": {"organs": ["background", "liver", "kidneys"]},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with a global model and an inside model of which the trail speaks."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths(tmp_path, "demo", "demo")
    files.write_bytes(paths.global_state, b"global")
    files.write_bytes(paths.inside_state("ct-a"), b"inside")
    hashes = {"global": files.sha256_file(paths.global_state), "inside/ct-a": files.sha256_file(paths.inside_state("ct-a"))}
    files.write_json(paths.federation_record, {**RECORD, "model_sha256": hashes})
    with trails.held(paths, ["ct-a"]) as scribe:
        for name, actor in (("global", "server"), ("inside/ct-a", "ct-a")):
            scribe.append(
                "evaluate",
                "the best",
                actor=actor,
                site=None if actor == "server" else actor,
                subject=Subject("model", f"demo/{name}", after=f"sha256:{hashes[name]}"),
                decision=Decision("selection", "round 17"),
            )
    return paths


def pack(run, model, out="pack"):
    return audit.main(["pack", str(model), "--out", out, "--key", str(run.audit.private_key("server"))])


@pytest.mark.parametrize("name", ["global", "inside/ct-a"])
def test_a_packed_model_is_verified_elsewhere_by_the_foundings_hash(run, tmp_path, capsys, name):
    assert pack(run, run.run_dir / f"{name}.safetensors") == 0
    assert capsys.readouterr().out.startswith(f"packed demo/{name} in pack: line ")
    (tmp_path / "pack").rename(tmp_path / "elsewhere")
    for folder in ("audit", "keys", "runs"):
        (tmp_path / folder).rename(tmp_path / f"gone-{folder}")

    assert audit.main(["verify", "--pack", "elsewhere"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"verified demo/{name} by line ")
    founding = told.split("founding ")[1].strip()
    assert audit.main(["verify", "--pack", "elsewhere", "--founding-hash", founding]) == 0
    assert audit.main(["verify", "--pack", "elsewhere", "--founding-hash", f"sha256:{'0' * 64}"]) == 1
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == [
        packs.FOUNDING,
        packs.MANIFEST,
        packs.METADATA,
        packs.MODEL,
        packs.PROOF,
    ]


def test_a_changed_model_is_refused(run, tmp_path, capsys):
    assert pack(run, run.global_state) == 0
    (tmp_path / "pack" / packs.MODEL).write_bytes(b"another")

    assert audit.main(["verify", "--pack", "pack"]) == 1
    assert " artifact: model.safetensors" in capsys.readouterr().err


def test_metadata_has_what_monai_asks_for(run, tmp_path):
    assert pack(run, run.global_state) == 0
    found = json.loads((tmp_path / "pack" / packs.METADATA).read_text())

    asked = {"schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description"}
    assert found.keys() >= asked | {"authors", "copyright", "network_data_format", "required_packages_version"}
    inputs, outputs = found["network_data_format"]["inputs"]["image"], found["network_data_format"]["outputs"]["pred"]
    assert (inputs["num_channels"], inputs["spatial_shape"]) == (1, ["8*n", "8*n"])
    assert outputs["channel_def"] == {"0": "background", "1": "liver", "2": "kidneys"}
    assert "+" not in found["pytorch_version"]


def test_a_pack_is_never_overwritten(run, capsys):
    assert pack(run, run.global_state) == 0
    assert pack(run, run.global_state) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_model_that_the_run_does_not_know_is_not_packed(run, tmp_path, capsys):
    files.write_bytes(run.global_state, b"changed")
    assert pack(run, run.global_state) == 2
    assert "is not the model" in capsys.readouterr().err
    files.write_bytes(tmp_path / "alone.safetensors", b"global")
    assert pack(run, tmp_path / "alone.safetensors") == 2
    assert "lies in no run" in capsys.readouterr().err
    assert not (tmp_path / "pack").exists()


def test_a_model_that_the_log_does_not_name_is_not_packed(run, tmp_path, capsys):
    files.write_bytes(run.global_state, b"new")
    record = json.loads(run.federation_record.read_text())
    record["model_sha256"]["global"] = hashlib.sha256(b"new").hexdigest()
    files.write_json(run.federation_record, record)

    assert pack(run, run.global_state) == 2
    assert "no line about demo/global" in capsys.readouterr().err
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("missing", ["identity", "network", "in_channels", "rounds"])
def test_a_record_that_lacks_something_describes_no_model(missing):
    with pytest.raises(DataError, match=f"cannot describe demo/global: federation.json lacks '{missing}'"):
        packing.metadata("demo/global", {name: value for name, value in RECORD.items() if name != missing})
