"""Write the golden vectors of the audit trail: `python tests/golden/audit/make.py`. A test compares them with these bytes."""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[2]))

from fedsilo.audit import canonical, forms, founding, merkle, proofs, verifier  # noqa: E402
from tests import audit_story as tale  # noqa: E402
from tests import audit_vectors  # noqa: E402

ANCHORED = 12
PROVED = (0, 4, 11)


def contents() -> dict[str, bytes]:
    """Give every file of the golden vectors by its name."""
    story = tale.whole()
    known = [story.checkpoint(ANCHORED), story.checkpoint()]
    roots = [f"sha256:{story.tree.root(size).hex()}" for size in range(len(story.lines) + 1)]
    return {
        "keys.json": pretty(
            {
                name: {"seed": tale.seed(name).hex(), "public": tale.signer(name).public, "key": tale.signer(name).key}
                for name in (*tale.ROLES, *tale.LATER)
            }
        ),
        "founding.json": pretty(forms.plain(tale.found())),
        "federation.jsonl": story.content,
        **{f"checkpoint-{entry.size}.json": canonical.dumps(forms.plain(entry)) + b"\n" for entry in known},
        "tree.json": pretty(
            {
                "founding": tale.found().digest,
                "leaves": [f"sha256:{merkle.leaf(line).hex()}" for line in story.lines],
                "roots": roots,
                "consistency": {
                    f"{first}-{len(story.lines)}": [entry.hex() for entry in story.tree.consistency(first, len(story.lines))]
                    for first in (1, 8, ANCHORED, 23)
                },
            }
        ),
        "proofs.json": pretty([forms.plain(proofs.prove(story.content, seq, known[0])) for seq in PROVED]),
        "refused.jsonl": b"".join(refused(name) for name in audit_vectors.MAKERS),
    }


def refused(name: str) -> bytes:
    """Write a log with one fault, what is said of it, and the checkpoints that it is verified against."""
    vector = audit_vectors.make(name)
    code = audit_vectors.checks()[vector.check][2]
    record = {
        "name": name,
        "log": vector.setting.log,
        "content": vector.content.decode("ascii"),
        "checkpoints": [forms.plain(checkpoint) for checkpoint in vector.known],
        "line": vector.line,
        "code": code,
    }
    return json.dumps(record, sort_keys=True).encode() + b"\n"


def pretty(content: object) -> bytes:
    """Write JSON for people."""
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def main() -> None:
    """Write the files and verify them."""
    made = contents()
    for name, content in made.items():
        (FOLDER / name).write_bytes(content)
    setting = verifier.setting_of(founding.read(FOLDER / "founding.json"), "federation")
    sys.stdout.write(f"{verifier.verify(made['federation.jsonl'], setting).root}\n")


if __name__ == "__main__":
    main()
