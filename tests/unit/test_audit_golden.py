"""The golden vectors are what the code writes, and are read by plain code of another make."""

import base64
import hashlib
import importlib.util
import json

import pytest

from fedsilo.audit import checkpoints, founding, merkle, proofs, verifier
from fedsilo.errors import AuditRefusedError
from tests import audit_story as tale


@pytest.fixture(scope="module")
def folder(repository):
    return repository / "tests" / "golden" / "audit"


@pytest.fixture(scope="module")
def setting(folder):
    return verifier.setting_of(founding.read(folder / "founding.json"), "federation")


@pytest.fixture(scope="module")
def tree(folder):
    return json.loads((folder / "tree.json").read_text())


def test_they_are_what_the_script_writes(folder):
    spec = importlib.util.spec_from_file_location("make", folder / "make.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    made = script.contents()
    assert {path.name for path in folder.iterdir() if path.suffix in (".json", ".jsonl")} == made.keys()
    assert {name: (folder / name).read_bytes() == content for name, content in made.items()} == dict.fromkeys(made, True)


def test_the_log_verifies_against_its_checkpoints(folder, setting, tree):
    known = [*checkpoints.find(folder / "checkpoint-12.json"), *checkpoints.find(folder / "checkpoint-24.json")]

    verdict = verifier.verify((folder / "federation.jsonl").read_bytes(), setting, known)

    assert (verdict.size, verdict.anchored, verdict.root) == (24, 24, tree["roots"][24])
    assert verdict.founding == tree["founding"] == tale.found().digest


def test_its_hashes_are_the_tree_s(folder, tree):
    lines = (folder / "federation.jsonl").read_bytes().splitlines()

    assert [f"sha256:{hashlib.sha256(bytes(1) + line).hexdigest()}" for line in lines] == tree["leaves"]
    assert [json.loads(line)["prev"] for line in lines[1:]] == tree["leaves"][:-1]
    for sizes, path in tree["consistency"].items():
        first, second = map(int, sizes.split("-"))
        old, new = (bytes.fromhex(tree["roots"][size].removeprefix("sha256:")) for size in (first, second))
        assert merkle.extends(first, second, list(map(bytes.fromhex, path)), old, new)


def test_its_signatures_hold_for_code_that_knows_the_format_alone(folder):
    """Json, hashlib and ed25519, without any code of the trail."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public = {
        entry["key"]: base64.b64decode(entry["public"]) for entry in json.loads((folder / "keys.json").read_text()).values()
    }
    assert all(name == f"ed25519:{hashlib.sha256(raw).hexdigest()[:32]}" for name, raw in public.items())

    def check(record, domain):
        unsigned = json.dumps(
            {name: value for name, value in record.items() if name != "sig"},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
        )
        Ed25519PublicKey.from_public_bytes(public[record["key"]]).verify(
            base64.b64decode(record["sig"]), domain + b"\0" + unsigned.encode("ascii")
        )

    attached = 0
    for line in (folder / "federation.jsonl").read_text(encoding="ascii").splitlines():
        event = json.loads(line)
        check(event, b"fedsilo-audit/v1/event")
        if "attached" in event:
            check(event["attached"], f"fedsilo-{event['attached']['type']}/v1".encode())
            attached += 1
    for size in (12, 24):
        check(json.loads((folder / f"checkpoint-{size}.json").read_text()), b"fedsilo-audit/v1/checkpoint")
    assert attached == 12
    founded = json.loads((folder / "founding.json").read_text())
    statement = {name: value for name, value in founded.items() if name != "signatures"}
    for signature in founded["signatures"]:
        Ed25519PublicKey.from_public_bytes(public[signature["key"]]).verify(
            base64.b64decode(signature["sig"]),
            b"fedsilo-founding/v1\0" + json.dumps(statement, sort_keys=True, separators=(",", ":")).encode("ascii"),
        )


def test_the_proofs_hold(folder, setting):
    for record in json.loads((folder / "proofs.json").read_text()):
        event, checkpoint = proofs.check(record, setting.founding)
        assert (event.log, checkpoint.size) == ("demo/federation", 12)


def test_the_refused_are_refused(folder, setting):
    names = set()
    for line in (folder / "refused.jsonl").read_text().splitlines():
        vector = json.loads(line)
        known = [
            checkpoints.parse(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n", "x")
            for entry in vector["checkpoints"]
        ]
        with pytest.raises(AuditRefusedError) as refused:
            verifier.verify(
                vector["content"].encode("ascii"), verifier.setting_of(setting.founding, vector["log"].split("/")[1]), known
            )
        assert (refused.value.code, refused.value.line) == (vector["code"], vector["line"]), vector["name"]
        names.add(vector["name"])
    assert len(names) > 80


def test_demo_keys_are_hashes_of_their_names(folder):
    for name, entry in json.loads((folder / "keys.json").read_text()).items():
        assert entry["seed"] == hashlib.sha256(f"fedsilo demo key {name}".encode()).hexdigest()
