"""The audit trail's files: read them, one call to the library, write what came of it, say it in a line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedsilo import files
from fedsilo.audit import canonical, checkpoints, documents, exports, forms, keys, proofs, recovery, trail, verifier
from fedsilo.audit import founding as foundings
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.documents import Change
from fedsilo.audit.events import Artifact, Draft, Subject, Why
from fedsilo.audit.founding import Founding, Policy
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.audit.register import FEDERATION_LOG, Anchor, KeyEntry, Register, entry_flaw
from fedsilo.audit.state import Setting
from fedsilo.audit.trail import Trail
from fedsilo.audit.verifier import Replay, Verdict
from fedsilo.errors import DataError
from tasks.paths import AuditPaths

FORMATS = {"csv": exports.table, "prov": exports.prov, "openlineage": exports.openlineage}


@dataclass(frozen=True)
class Held:
    """A log as it was read, the checkpoints of it, and what it is checked against.

    ``register_anchored``: a checkpoint covers lines of the log that its keys are from, or they are the founding's.
    """

    content: bytes
    known: tuple[Checkpoint, ...]
    setting: Setting
    register_anchored: bool

    def verify(self) -> Verdict:
        """Verify the log with all checkpoints.

        Raises:
            AuditRefusedError: It is refused.
            DataError: It has no line.
        """
        return verifier.verify(self.content, self.setting, self.known)


@dataclass(frozen=True)
class Books:
    """Which log, by whose founding, against which checkpoints; for a site's log the federation's, where keys change."""

    log: Path
    founding: Path
    checkpoints: Path
    federation_log: Path
    federation_checkpoints: Path

    @classmethod
    def of_federation(cls, paths: AuditPaths) -> "Books":
        """Name the books of a federation's own log, where they lie unless they are kept elsewhere."""
        log, kept = paths.log(FEDERATION_LOG), paths.checkpoints_dir(FEDERATION_LOG)
        return cls(log, paths.founding, kept, federation_log=log, federation_checkpoints=kept)

    def setting(self) -> Setting:
        """Read the keys that the log is checked against.

        Raises:
            AuditRefusedError: The federation's log, which a site's log needs for its keys, is refused.
            DataError: The founding or that log is missing.
        """
        founding = foundings.read(self.founding)
        return verifier.setting_of(founding, self.log.stem, self._register(founding)[0])

    def read(self, *, own: bool = True) -> Held:
        """Read its ``own`` checkpoints, the log, then where its keys are from: in this order nothing breaks that others append.

        Raises:
            AuditRefusedError: A checkpoint, or the federation's log, is refused.
            DataError: The founding or a checkpoint cannot be read.
            OutputError: A log is missing.
        """
        founding = foundings.read(self.founding)
        content, known = trail.read_anchored(self.log, self.checkpoints) if own else (trail.read(self.log), ())
        register, anchored = self._register(founding)
        return Held(content, known, verifier.setting_of(founding, self.log.stem, register), anchored)

    def open(self, opener: keys.Signer | None = None) -> Trail:
        """Open the log."""
        return trail.open_trail(self.log, self.setting(), self.checkpoints, opener=opener)

    def _register(self, founding: Founding) -> tuple[Register, bool]:
        """Give the keys before the log's first line, and whether lines of where they are from lie under a checkpoint."""
        if self.log.stem == FEDERATION_LOG:
            return founding.register, True
        content, known = trail.read_anchored(self.federation_log, self.federation_checkpoints)
        verdict = verifier.verify(content, verifier.setting_of(founding, FEDERATION_LOG), known)
        return verdict.state.register, verdict.anchored > 0


def verify(
    books: Books, more: Sequence[Checkpoint] = (), *, since: Checkpoint | None = None, own: bool = True
) -> tuple[Held, Verdict]:
    """Verify a log.

    Args:
        books: Which log.
        more: Checkpoints that are kept elsewhere; they must hold too. Read before the log.
        since: Lines under this checkpoint are taken on trust: their signatures are not checked, its root is.
        own: Whether the checkpoints of these books must hold.

    Raises:
        AuditRefusedError: It is refused.
        DataError: The log, keys or a checkpoint are missing, so it could not be checked.
    """
    held = books.read(own=own)
    known = checkpoints.ordered({*held.known, *more, *filter(None, [since])})
    setting = replace(held.setting, trusted_size=since.size if since else 0)
    held = replace(held, known=known, setting=setting)
    verdict = held.verify()
    if not held.register_anchored:
        raise DataError(
            f"{verdict.log}: its keys are from {books.federation_log}, of which there is no checkpoint in "
            f"{books.federation_checkpoints}: nobody can tell whether a revocation was cut off"
        )
    if not verdict.anchored:
        raise DataError(
            f"{verdict.log}: {verdict.size} lines hold together, root {verdict.root}, but there is no checkpoint in "
            f"{books.checkpoints}: nobody can tell whether lines were cut off"
        )
    return held, verdict


def check_proof(proof: Path, founding: Path) -> str:
    """Check that a line is in a log; say which.

    Raises:
        AuditRefusedError: It is refused.
        DataError: A file is missing, or a key was added after the founding.
    """
    event, checkpoint = proofs.check(canonical.read(proof), foundings.read(founding))
    line = canonical.dumps(forms.plain(event)).decode("ascii")
    return f"verified {event.log} line {event.seq + 1} under the checkpoint of {checkpoint.size} lines\n{line}\n"


def prove(books: Books, seq: int) -> str:
    """Prove that a line is in a log, under its newest checkpoint.

    Raises:
        AuditRefusedError: The log is refused.
        DataError: The line is under no checkpoint.
    """
    held = books.read()
    held.verify()
    newest = checkpoints.newest(held.known)
    if newest is None:
        raise DataError(f"there is no checkpoint in {books.checkpoints}")
    return json.dumps(forms.plain(proofs.prove(held.content, seq, newest)), indent=2, sort_keys=True) + "\n"


def begin(books: Books, key: Path) -> str:
    """Begin a log, or find that it was begun."""
    opened = books.open(keys.load(key))
    return f"{opened.setting.log} has {opened.state.size} lines\n"


def checkpoint(books: Books, key: Path) -> str:
    """Verify a log and state its size and root."""
    made = books.open().checkpoint(keys.load(key))
    return f"checkpoint of {made.log}: {made.size} lines, root {made.root}\n"


def recover(books: Books, key: Path) -> str:
    """Move a torn tail aside and tell of it."""
    events = recovery.recover(books.log, books.setting(), books.checkpoints, keys.load(key))
    told_of = "".join(f"{event.subject.name}: {event.why.text}\n" for event in events if event.subject)
    return told_of or f"{books.log} has no torn tail\n"


def export(books: Books, form: str, out: Path, key: Path | None) -> str:
    """Write a verified log in another form; with an auditor's key, tell of it in the log.

    Raises:
        AuditRefusedError: The log is refused; nothing is written.
        DataError: It would be written over what it is made of.
    """
    sources = (books.log, books.founding, books.federation_log, *books.checkpoints.glob("*"))
    if out.resolve() in {path.resolve() for path in sources}:
        raise DataError(f"{out} is a file of the trail, which nothing is written over")
    held = books.read()
    held.verify()
    files.write_text(out, FORMATS[form](verifier.read_events(held.content)))
    if key is not None:
        artifact = Artifact(out.name, files.sha256_file(out))
        books.open().append(Draft("export", Why("export", f"exported as {form}"), outputs=(artifact,)), keys.load(key))
    return f"wrote {out}\n"


def new_key(path: Path) -> str:
    """Make a private key; its public half is told by :func:`public_entry`."""
    return f"{keys.make(path).key} in {path}\n"


def public_entry(key: Path, *, actor: str, name: str, roles: tuple[str, ...], site: str | None, days: int) -> str:
    """Write the public half of a key with whom it is for, as a founding or `keys add` takes it."""
    now = datetime.now(tz=UTC).replace(microsecond=0)
    begins, ends = (moment.strftime(TIME_FORMAT) for moment in (now, now + timedelta(days=days)))
    made = KeyEntry(actor, name, keys.load(key).public, roles, begins, ends, site)
    return json.dumps(forms.plain(_entry(forms.plain(made), actor)), indent=2, sort_keys=True) + "\n"


def found(path: Path, federation: str, entries: list[Path], policy: Policy) -> str:
    """Write a founding that nobody has signed yet.

    Raises:
        DataError: There is one, or its keys cannot keep its policy.
    """
    if path.exists():
        raise DataError(f"{path} is there already; a federation is founded once")
    known = [_entry(canonical.read(entry), str(entry)) for entry in entries]
    made = foundings.draw_up(federation, known, policy=policy, created=trail.utc_now().strftime(TIME_FORMAT))
    foundings.write(made, path)
    return f"wrote {path}: hash {made.digest}, to be signed by {policy.quorum} admins\n"


def sign_founding(path: Path, key: Path) -> str:
    """Add an admin's signature to a founding."""
    signed = foundings.sign(foundings.read_unsigned(path), keys.load(key))
    foundings.write(signed, path)
    return f"{path} has {len(signed.signatures)} signatures of {signed.policy.quorum}, hash {signed.digest}\n"


def add_key(books: Books, entry: Path, key: Path, why: Why) -> str:
    """Sign that a key is added; it is when the quorum of admins has."""
    added = _entry(canonical.read(entry), str(entry))
    content = forms.plain(added)
    subject = Subject("key", added.key, after=documents.content_hash(content))
    return _change(books, "key.add", subject=subject, content=content, key=key, why=why)


def revoke_key(books: Books, name: str, key: Path, why: Why, *, num_lines: int | None, end_log: bool = False) -> str:
    """Sign that a key is revoked; it is when the quorum of admins has signed the same.

    Args:
        books: Which log.
        name: Of the key.
        key: An admin's private key.
        why: The reason.
        num_lines: What the key signed in so many lines stays and what it signed later does not, so that a log with any is
            refused; None: all that it signed so far stays, by what other admins signed to stand if that still holds.
        end_log: Consent to a revocation that refuses the log for ever, since the key signed later lines.

    Raises:
        DataError: The key is not in the register, or there are not so many lines; it would end the log, without consent.
    """
    taken = verifier.replay(trail.read(books.log), books.setting())
    state = taken.state
    if name not in state.register:
        raise DataError(f"{name} is not in the register")
    if num_lines is not None and not 0 <= num_lines <= state.size:
        raise DataError(f"{num_lines} lines cannot stand, there are {state.size}")
    last = state.acts.get(name, -1)
    if num_lines is not None and last >= num_lines and not end_log:
        raise DataError(
            f"{name} signed line {last + 1}: when the quorum has signed that only what it said in {num_lines} lines stands, this "
            "log is refused for ever and the federation must be founded anew; add --end-log to sign that all the same"
        )
    if keys.load(key).key == name and not end_log:
        raise DataError(f"{name} cannot sign its own end, a line that would not stand; let another admin sign")
    before = documents.content_hash(forms.plain(state.register[name].entry))
    waiting = {subject.after for kind, subject in state.pending if (kind, subject.name) == ("key.revoke", name)}
    sizes = range(state.size, last, -1) if waiting else (state.size,)
    anchors = [forms.plain(_anchor(taken, size)) for size in sizes]
    signed = [anchor for anchor in anchors if documents.content_hash(anchor) in waiting]
    standing = [forms.plain(_anchor(taken, num_lines))] if num_lines is not None else [*signed, *anchors]
    subject = Subject("key", name, before=before, after=documents.content_hash(standing[0]))
    return _change(books, "key.revoke", subject=subject, content=standing[0], key=key, why=why, end_log=end_log)


def _anchor(taken: Replay, size: int) -> Anchor:
    """State the root of a log's first lines."""
    return Anchor(size, f"sha256:{taken.tree.root(size).hex()}")


def list_keys(books: Books) -> str:
    """Write the register, and the changes that wait for more persons."""
    state = books.open().state
    rows = [("key", "actor", "roles", "from", "until", "revoked")]
    for name, record in sorted(state.register.items(), key=lambda item: (item[1].entry.actor, item[0])):
        entry = record.entry
        begins = max(entry.not_before, record.since)
        rows.append((name, entry.actor, ",".join(entry.roles), begins, entry.not_after, record.revoked_at or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    waiting = [f"waiting: {kind} {subject.name}, signed by {', '.join(by)}" for (kind, subject), by in state.pending.items()]
    return "\n".join([*lines, *waiting, ""])


def _change(
    books: Books, kind: str, *, subject: Subject, content: Mapping[str, object], key: Path, why: Why, end_log: bool = False
) -> str:
    """Sign a change of keys and append it."""
    opened, signer = books.open(), keys.load(key)
    created = trail.utc_now().strftime(TIME_FORMAT)
    change = Change(opened.setting.founding.federation, kind, subject, why.text, created, content)
    draft = Draft(kind, why, subject=subject, attached=documents.sign(change, signer))
    event = opened.append(draft, signer, end_log=end_log)
    by = opened.state.pending.get((kind, subject))
    outcome = "takes effect" if by is None else f"signed by {len(by)} of {opened.setting.founding.policy.quorum}"
    return f"line {event.seq + 1}: {kind} {subject.name} {outcome}\n"


def _entry(record: Mapping[str, object], where: str) -> KeyEntry:
    """Read a key's public half."""
    flaw = canonical.flaw(dict(record)) or entry_flaw(dict(record))
    if flaw:
        raise DataError(f"cannot use the key of {where}: {flaw}")
    return forms.build(KeyEntry, record)
