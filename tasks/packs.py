"""Pack a model with what it is and the proof that the trail speaks of it, for whoever takes it elsewhere."""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from fedsilo import files
from fedsilo.audit import checkpoints, forms, keys, packs, proofs, trail, verifier
from fedsilo.audit import founding as foundings
from fedsilo.audit.events import MODEL_KINDS, Event
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.errors import DataError, OutputError
from tasks.audit import Books

RECORD = "federation.json"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
"""Of MONAI bundles' metadata.json."""
RUNTIME = ("fedsilo", "safetensors", "nibabel")


def pack(books: Books, model: Path, out: Path, key: Path) -> str:
    """Write a pack of a run's model: the file, MONAI metadata, founding, proof and signed manifest.

    Args:
        books: Of the federation's log.
        model: In a run's folder, beside or below its federation.json.
        out: Folder to make.
        key: Of the server.

    Raises:
        AuditRefusedError: The log is refused.
        DataError: The model is not the run's, or the log has no line about it under a checkpoint.
        OutputError: The folder is there already, or cannot be written.
    """
    name, record = _of_run(model)
    held = books.read()
    held.verify()
    newest = checkpoints.newest(held.known)
    if newest is None:
        raise DataError(f"there is no checkpoint in {books.checkpoints}")
    after = f"sha256:{files.sha256_file(model)}"
    event = _line_about(verifier.read_events(held.content)[: newest.size], name, after)
    if out.exists():
        raise OutputError(f"{out} is there already; a pack is never overwritten")
    building = out.with_name(f".{out.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    files.write_bytes(building / packs.MODEL, model.read_bytes())
    files.write_json(building / packs.METADATA, metadata(name, record))
    foundings.write(foundings.read(books.founding), building / packs.FOUNDING)
    files.write_json(building / packs.PROOF, forms.plain(proofs.prove(held.content, event.seq, newest)))
    packs.sign(building, name, newest, created=trail.utc_now().strftime(TIME_FORMAT), signer=keys.load(key))
    packs.check(building)
    files.place_folder(building, out)
    return f"packed {name} in {out}: line {event.seq + 1} of {newest.log} under the checkpoint of {newest.size} lines\n"


def check(folder: Path, founding_hash: str | None) -> str:
    """Check a pack offline; say which model it is, and the founding's hash to compare.

    Raises:
        AuditRefusedError: Something in it is not as signed.
        DataError: It could not be checked.
    """
    found = packs.check(folder, founding_hash)
    where = f"line {found.event.seq + 1} of {found.manifest.checkpoint.log}: {found.event.kind}, {found.event.why.text}"
    return f"verified {found.manifest.name} by {where}; founding {found.manifest.founding}\n"


def metadata(name: str, record: Mapping[str, object]) -> dict[str, object]:
    """Describe a model as MONAI bundles do, from its run's record.

    Raises:
        DataError: The record lacks something.
    """
    try:
        identity, network, rounds = record["identity"], record["network"], record["rounds"]
        organs = list(identity["organs"])  # type: ignore[index]  # checked here
        edge = f"{2 ** (len(network['channels']) - 2)}*n"  # type: ignore[index]  # the same
        num_axes = int(network["spatial_dims"])  # type: ignore[index]  # the same
        in_channels, run = int(str(record["in_channels"])), str(record["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"cannot describe {name}: {RECORD} lacks {error}") from error
    place = {"type": "image", "spatial_shape": [edge] * num_axes, "dtype": "float32", "value_range": [], "is_patch_data": True}
    image = {**place, "format": "magnitude", "num_channels": in_channels}
    image["channel_def"] = {str(index): "image" for index in range(in_channels)}
    prediction = {
        **place,
        "format": "segmentation",
        "num_channels": len(organs),
        "channel_def": {str(index): organ for index, organ in enumerate(organs)},
    }
    own = version("fedsilo")
    return {
        "schema": SCHEMA,
        "version": own,
        "changelog": {own: f"{name}, {rounds} rounds"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {package: version(package) for package in RUNTIME},
        "name": name,
        "task": f"segmentation of {', '.join(organs[1:])}",
        "description": f"{num_axes}D U-Net of the federation {record['cohort']}, run {run}",
        "authors": f"federation {record['cohort']}",
        "copyright": "see the data's licences",
        "intended_use": "research; not a medical device",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": prediction}},
        "network": network,
    }


def _of_run(model: Path) -> tuple[str, Mapping[str, object]]:
    """Find the run that a model is of, by the record beside it; give its name in the trail and the record."""
    for folder in model.resolve().parents:
        if (folder / RECORD).is_file():
            break
    else:
        raise DataError(f"{model} lies in no run: there is no {RECORD} beside or above it")
    record = files.read_json(folder / RECORD)
    known = record.get("model_sha256")
    key = model.resolve().relative_to(folder).with_suffix("").as_posix()
    if not isinstance(known, dict) or known.get(key) != files.sha256_file(model):
        raise DataError(f"{model} is not the model that {folder / RECORD} speaks of")
    return f"{record.get('run')}/{key}", record


def _line_about(events: list[Event], name: str, after: str) -> Event:
    """Find the last line about a model."""
    for event in reversed(events):
        subject = event.subject
        if event.kind not in MODEL_KINDS or subject is None or (subject.name, subject.after) != (name, after):
            continue
        if event.kind == packs.REJECT:
            raise DataError(f"the last that the log says of {name} is {event.kind}, line {event.seq + 1}: {event.why.text}")
        return event
    raise DataError(f"the log has no line about {name} with the hash {after} under its newest checkpoint")
