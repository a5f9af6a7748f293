"""A proof that one line is in a log under a checkpoint; an inspector needs no other line.

A proof is a JSON object: ``line`` as it stands in the log, ``path`` of hashes to the root (RFC 6962, 2.1.1), and the
``checkpoint``. Its place is the line's ``seq``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedsilo.audit import canonical, forms, merkle, verifier
from fedsilo.audit import line_checks as by_itself
from fedsilo.audit import order_checks as order
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.events import Event
from fedsilo.audit.founding import Founding
from fedsilo.audit.state import Setting, State, Step
from fedsilo.audit.verifier import Claim
from fedsilo.errors import AuditRefusedError, DataError

ALONE: tuple[Callable[[Step], str | None], ...] = (
    *(by_itself.plain_values, by_itself.event_form, by_itself.kind_form, by_itself.canonical_line, by_itself.own_log),
    *(by_itself.known_key, by_itself.own_name, by_itself.own_role, by_itself.own_site, by_itself.key_in_time),
    *(by_itself.document_form, order.change_content, order.authority, by_itself.event_signature),
    *(by_itself.known_document_key, by_itself.document_key_in_time, order.document_role, by_itself.document_signature),
    *(order.document_says_so, order.document_of_today, order.own_document, order.own_founding),
)
"""Checks that a line can be put through without those before it."""


def _is_path(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) and forms.HEX_TEXT.fullmatch(entry) for entry in value)


@dataclass(frozen=True)
class Proof:
    """A line, the hashes beside its way to the root, and the root."""

    line: str = field(metadata=forms.of("a line", lambda value: isinstance(value, str)))
    path: tuple[str, ...] = field(metadata=forms.of("a list of hashes in hexadecimal", _is_path))
    checkpoint: Checkpoint = field(metadata=forms.part(Checkpoint))


def prove(content: bytes, seq: int, checkpoint: Checkpoint) -> Proof:
    """Prove that a line of a verified log is under a checkpoint.

    Raises:
        DataError: It is not.
    """
    lines = content.splitlines()
    if not 0 <= seq < checkpoint.size:
        raise DataError(f"{checkpoint.log}: seq {seq} is not under the checkpoint of {checkpoint.size} lines")
    tree = merkle.Tree([merkle.leaf(line) for line in lines])
    path = tuple(entry.hex() for entry in tree.inclusion(seq, checkpoint.size))
    return Proof(lines[seq].decode("ascii"), path, checkpoint)


def check(record: Mapping[str, object], founding: Founding) -> tuple[Event, Checkpoint]:
    """Check a proof by the keys of a founding.

    Returns:
        The event and the checkpoint that it lies under.

    Raises:
        AuditRefusedError: The line, the checkpoint or the path is refused.
        DataError: A key was added after the founding: only the log can tell who may use it.
    """
    flaw = canonical.flaw(dict(record)) or forms.flaw(Proof, dict(record))
    if flaw:
        raise AuditRefusedError("schema", "proof", 1, flaw)
    proof = forms.build(Proof, record)
    checkpoint, line = proof.checkpoint, proof.line.encode("ascii", "replace")
    setting = Setting(checkpoint.log, founding, founding.register)
    _require_founding_key(checkpoint.key, founding)
    claim = Claim(checkpoint, State(register=founding.register), setting, merkle.Tree(), [""])
    for code, reason in (
        ("checkpoint-log", _foreign(checkpoint, founding)),
        ("checkpoint-key", verifier.checkpoint_key(claim)),
        ("checkpoint-sig", verifier.checkpoint_signature(claim)),
    ):
        if reason:
            raise AuditRefusedError(code, checkpoint.log, checkpoint.size, reason)
    try:
        fields = canonical.loads(line)
    except DataError as error:
        raise AuditRefusedError("parse", checkpoint.log, 1, str(error)) from None
    codes = {judge: code for code, judge in verifier.CHECKS.lines}
    step = Step(line, fields, State(register=founding.register), setting, merkle.Tree())
    for judge in ALONE:
        if judge is by_itself.known_key:
            _require_founding_key(step.event.key, founding)
        if judge is by_itself.known_document_key and step.event.attached is not None:
            _require_founding_key(str(step.event.attached["key"]), founding)
        reason = judge(step)
        if reason:
            raise AuditRefusedError(codes[judge], checkpoint.log, 1, reason)
    path = [bytes.fromhex(entry) for entry in proof.path]
    root = bytes.fromhex(checkpoint.root.removeprefix("sha256:"))
    if not merkle.includes(merkle.leaf(line), step.event.seq, checkpoint.size, path, root):
        raise AuditRefusedError("checkpoint-root", checkpoint.log, step.event.seq + 1, "the path does not lead to the root")
    return step.event, checkpoint


def _require_founding_key(key: str, founding: Founding) -> None:
    if key not in founding.register:
        raise DataError(f"{key} is no key of the founding; it can only be checked with the whole log")


def _foreign(checkpoint: Checkpoint, founding: Founding) -> str | None:
    federation = checkpoint.log.partition("/")[0]
    return None if federation == founding.federation else f"the checkpoint is of the federation {federation}"
