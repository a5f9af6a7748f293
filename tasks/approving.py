"""A person's yes or no to a candidate: drawn up and signed where they are, appended where the trail is."""

from collections.abc import Mapping
from pathlib import Path

from fedsilo import files
from fedsilo.audit import approvals, canonical, documents, trail, verifier
from fedsilo.audit.documents import Approval
from fedsilo.audit.events import Draft, Why
from fedsilo.audit.keys import Signer
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.audit.register import SERVER
from fedsilo.errors import AuditRefusedError, DataError
from tasks import keyring, trails
from tasks.paths import AuditPaths, RunPaths

REQUEST = "approval"


def draw_up(
    federation: str, candidate: str, verdict: Path, *, decision: str, reason: str, meaning: str, missing: str | None
) -> Approval:
    """Write what a person is asked to sign.

    Args:
        federation: Whose candidate.
        candidate: Its hash.
        verdict: The gate's verdict, whose bytes are signed for by their hash.
        decision: ``approve`` or ``reject``.
        reason: In the person's words.
        meaning: What the signature means (21 CFR 11.50).
        missing: Of a candidate whose verdict is inconclusive, the evidence that the person answers for.

    Raises:
        DataError: There is no such verdict.
    """
    if not verdict.is_file():
        raise DataError(f"cannot read {verdict}: there is no such file")
    created = trail.utc_now().strftime(TIME_FORMAT)
    return Approval(federation, candidate, trails.hashed(verdict), decision, meaning, reason, created, missing)


def sign(approval: Approval, signer: Signer) -> dict[str, object]:
    """Sign a yes or no.

    Raises:
        DataError: Something in it has not its form.
    """
    record = documents.sign(approval, signer)
    return approvals.read(canonical.dumps(record))


def write(record: Mapping[str, object], out: Path) -> str:
    """Write a signed document for the way: one line in canonical form, which a form can carry as text."""
    files.write_bytes(out, canonical.dumps(record) + b"\n")
    return f"wrote {out}; nothing is decided until it is appended\n"


def read(path: Path) -> dict[str, object]:
    """Read a document that came from elsewhere.

    Raises:
        DataError: There is none, or it is no signed approval.
    """
    try:
        return approvals.read(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def taken(paths: AuditPaths, record: Mapping[str, object]) -> str:
    """Append a document that a form carried, and say what became of it: its line, or why it does not count."""
    try:
        return append(paths, record, hours=approvals.HOURS)
    except (AuditRefusedError, DataError) as error:
        return f"this does not count: {error}"


def append(paths: AuditPaths, record: Mapping[str, object], *, hours: int) -> str:
    """Append a signed document to the federation's trail, which decides whether it counts.

    Args:
        paths: Of the federation, with the server's key.
        record: As :func:`read` or :func:`sign` gave it.
        hours: How old it may be.

    Raises:
        AuditRefusedError: It does not count: unsigned, altered, of a stranger, about another verdict; nothing was written.
        DataError: It expired, nobody founded the federation, or the gate has said nothing of the candidate.
    """
    keyring.check_founded(paths)
    approvals.check_in_time(record, trail.utc_now(), hours)
    candidate, decision = str(record["candidate"]), str(record["decision"])
    with trails.held(RunPaths(paths.workspace, paths.federation, paths.federation), ()) as scribe:
        verdict = approvals.verdict_on(verifier.read_events(trail.read(scribe.opened.path)), candidate)
        if verdict is None:
            raise DataError(f"the gate has given no verdict on {candidate}")
        draft = Draft(
            decision,
            Why(REQUEST, str(record["reason"])),
            meaning=str(record["meaning"]),
            subject=verdict.subject,
            env=scribe.made_with,
            attached=record,
        )
        event = scribe.opened.append(draft, keyring.signer(paths, SERVER))
        by = scribe.register[str(record["key"])].entry.actor
    return f"line {event.seq + 1}: {decision} of {candidate} by {by}\n"
