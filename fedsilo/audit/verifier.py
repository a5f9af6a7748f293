"""The verifier: a log, line by line through a list of checks, then as a whole and against checkpoints.

A log is verified with public keys, its lines and a checkpoint alone. The first check that fails refuses it with one code of a
fixed list; nothing else can come out. Checks stand in lists so that a test can leave one out and see that it is missed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedsilo.audit import canonical, effects, forms, keys, merkle
from fedsilo.audit import line_checks as by_itself
from fedsilo.audit import order_checks as order
from fedsilo.audit.checkpoints import Checkpoint
from fedsilo.audit.events import Event
from fedsilo.audit.founding import Founding
from fedsilo.audit.keys import CHECKPOINT_DOMAIN
from fedsilo.audit.merkle import Tree
from fedsilo.audit.register import SERVER, SITE, Register
from fedsilo.audit.state import Setting, State, Step
from fedsilo.errors import AuditRefusedError, DataError

CODES = (
    *("torn-tail", "parse", "schema", "not-canonical", "wrong-log", "seq", "chain", "time", "unknown-key", "actor-key"),
    *("key-validity", "not-authorised", "sequence", "signature"),
    *("checkpoint-key", "checkpoint-sig", "checkpoint-log", "checkpoint-root", "truncated"),
)


@dataclass(frozen=True)
class Claim:
    """A checkpoint beside the log that it speaks of."""

    checkpoint: Checkpoint
    state: State
    setting: Setting
    tree: Tree
    times: Sequence[str]


@dataclass(frozen=True)
class Checks:
    """What a log is put through, in this order; each check with the code that it refuses by."""

    whole_lines: tuple[tuple[str, Callable[[bytes], str | None]], ...]
    lines: tuple[tuple[str, Callable[[Step], str | None]], ...]
    checkpoints: tuple[tuple[str, Callable[[Claim], str | None]], ...]
    revocations: tuple[tuple[str, Callable[[State, Setting, Sequence[Checkpoint]], tuple[int, str] | None]], ...]


@dataclass(frozen=True)
class Verdict:
    """A log that was verified: the founding's hash, size and root, and how many of its lines lie under a checkpoint."""

    log: str
    founding: str
    size: int
    root: str
    anchored: int
    state: State


def whole_lines(content: bytes) -> str | None:
    """A log that is not empty ends with a line feed."""
    return None if content.endswith(b"\n") or not content else "the last line has no end: it was cut off while it was written"


def checkpoint_of_log(claim: Claim) -> str | None:
    """A checkpoint is of this log."""
    found, expected = claim.checkpoint.log, claim.setting.log
    return None if found == expected else f"the checkpoint is of {found}"


def checkpoint_key(claim: Claim) -> str | None:
    """A checkpoint is signed by a server, or by the site whose log it is, with a key that was valid."""
    checkpoint = claim.checkpoint
    record = claim.state.register.get(checkpoint.key)
    if record is None:
        return f"{checkpoint.key} is not in the register"
    own = SITE in record.entry.roles and claim.setting.log.partition("/")[2] == record.entry.site
    if not own and SERVER not in record.entry.roles:
        return f"{record.entry.actor} may not sign a checkpoint of this log"
    return None if record.valid_at(checkpoint.ts) else f"{checkpoint.key} was not valid at {checkpoint.ts}"


def checkpoint_signature(claim: Claim) -> str | None:
    """The signature is that of the key over this checkpoint."""
    record = claim.state.register.get(claim.checkpoint.key)
    if record is None or keys.signed_by(record.entry.public, CHECKPOINT_DOMAIN, forms.plain(claim.checkpoint)):
        return None
    return f"the signature is not one of {claim.checkpoint.key} over this checkpoint"


def long_enough(claim: Claim) -> str | None:
    """The log has all lines of the checkpoint."""
    found, expected = claim.state.size, claim.checkpoint.size
    return None if found >= expected else f"the log has {found} lines, a checkpoint says {expected}"


def checkpoint_root(claim: Claim) -> str | None:
    """The log has the root of the checkpoint."""
    if claim.checkpoint.size > len(claim.tree):
        return None
    found = f"sha256:{claim.tree.root(claim.checkpoint.size).hex()}"
    return None if found == claim.checkpoint.root else f"the lines have the root {found}, the checkpoint {claim.checkpoint.root}"


def checkpoint_time(claim: Claim) -> str | None:
    """A checkpoint is not older than what it covers."""
    checkpoint = claim.checkpoint
    last = claim.times[min(checkpoint.size, len(claim.times)) - 1]
    return None if checkpoint.ts >= last else f"the checkpoint of {checkpoint.ts} covers a line of {last}"


def revoked_keys(state: State, setting: Setting, checkpoints: Sequence[Checkpoint]) -> tuple[int, str] | None:
    """What a key signed that was revoked later counts up to what its revocation leaves standing.

    In a site's log, of which the revocation says nothing, it counts under a checkpoint that is older and that another key signed:
    whoever holds the revoked key dates its checkpoints as they like.
    """
    for name, record in state.register.items():
        if record.revoked_at is None or record.anchor is None or name not in state.acts:
            continue
        others = [entry.size for entry in checkpoints if entry.ts < record.revoked_at and entry.key != name]
        standing = record.anchor.size if setting.of_federation else max(others, default=0)
        if state.acts[name] >= standing:
            return state.acts[name] + 1, f"{name} is revoked, and only what it signed in the first {standing} lines counts"
    return None


CHECKS = Checks(
    whole_lines=(("torn-tail", whole_lines),),
    lines=(
        ("parse", by_itself.plain_values),
        ("schema", by_itself.event_form),
        ("schema", by_itself.kind_form),
        ("schema", by_itself.document_form),
        ("schema", order.change_content),
        ("not-canonical", by_itself.canonical_line),
        ("wrong-log", by_itself.own_log),
        ("seq", by_itself.place),
        ("chain", by_itself.chain),
        ("time", by_itself.later),
        ("time", by_itself.held_clock),
        ("unknown-key", by_itself.known_key),
        ("actor-key", by_itself.own_name),
        ("actor-key", by_itself.own_role),
        ("actor-key", by_itself.own_site),
        ("key-validity", by_itself.key_in_time),
        ("not-authorised", order.authority),
        ("signature", by_itself.event_signature),
        ("unknown-key", by_itself.known_document_key),
        ("key-validity", by_itself.document_key_in_time),
        ("not-authorised", order.document_role),
        ("signature", by_itself.document_signature),
        ("not-authorised", order.document_says_so),
        ("time", order.document_of_today),
        ("not-authorised", order.own_document),
        ("not-authorised", order.where_keys_change),
        ("sequence", order.opening),
        ("wrong-log", order.own_founding),
        ("wrong-log", order.own_end),
        ("sequence", order.not_rotated),
        ("sequence", order.document_once),
        ("sequence", order.another_person),
        ("sequence", order.key_change),
        ("checkpoint-root", order.anchored),
        ("checkpoint-root", order.seen),
        ("sequence", order.one_file_a_round),
        ("sequence", order.manifest_of_this_round),
        ("sequence", order.evaluated_first),
        ("sequence", order.verdict_first),
        ("sequence", order.verdict_approved),
        ("sequence", order.approved_since),
        ("sequence", order.still_open),
        ("sequence", order.compared_with_champion),
        ("sequence", order.approved_first),
        ("not-authorised", order.another_approved),
        ("sequence", order.replaces_champion),
        ("sequence", order.was_champion),
    ),
    checkpoints=(
        ("checkpoint-log", checkpoint_of_log),
        ("checkpoint-key", checkpoint_key),
        ("checkpoint-sig", checkpoint_signature),
        ("truncated", long_enough),
        ("checkpoint-root", checkpoint_root),
        ("time", checkpoint_time),
    ),
    revocations=(("key-validity", revoked_keys),),
)


def setting_of(founding: Founding, name: str, register: Register | None = None, *, trusted_size: int = 0) -> Setting:
    """Say what a federation's log of this name is checked against.

    Args:
        founding: How the federation began.
        name: ``federation``, or the site whose log it is.
        register: For a site's log the keys of the verified federation log; None: those of the founding.
        trusted_size: Lines whose signatures need not be checked again.

    Raises:
        DataError: The name is none.
    """
    if not forms.IDENTIFIER_TEXT.fullmatch(name):
        raise DataError(f"cannot use {name!r} as the name of a log: a-z first, then a-z, 0-9, _ and -, at most 40")
    return Setting(f"{founding.federation}/{name}", founding, founding.register if register is None else register, trusted_size)


def advance(state: State, content: bytes, *, setting: Setting, tree: Tree, checks: Checks = CHECKS) -> State:
    """Take one more line, without its line feed.

    Args:
        state: What is known before it.
        content: The line.
        setting: What the log is checked against.
        tree: Over the lines before it at least.
        checks: To put it through.

    Raises:
        AuditRefusedError: The first check that it fails.
    """
    try:
        fields = canonical.loads(content)
    except DataError as error:
        raise AuditRefusedError("parse", setting.log, state.size + 1, str(error)) from None
    step = Step(content, fields, state, setting, tree)
    for code, check in checks.lines:
        reason = check(step)
        if reason:
            raise AuditRefusedError(code, setting.log, state.size + 1, reason)
    return effects.follow(step)


class Replay:
    """What is known of a log while its lines are taken one by one."""

    def __init__(self, setting: Setting, checks: Checks = CHECKS) -> None:
        """Begin before the first line."""
        self.setting, self.checks = setting, checks
        self.state, self.tree = State(register=setting.register), Tree()
        self.times: list[str] = []

    def try_line(self, line: bytes) -> State:
        """Check one more line without taking it.

        Raises:
            AuditRefusedError: The first check that it fails.
        """
        return advance(self.state, line, setting=self.setting, tree=self.tree, checks=self.checks)

    def take(self, line: bytes, state: State | None = None) -> None:
        """Take one more line; ``state`` if it was tried before.

        Raises:
            AuditRefusedError: The first check that it fails.
        """
        self.state = self.try_line(line) if state is None else state
        self.tree.append(merkle.leaf(line))
        self.times.append(self.state.ts)

    def conclude(self, checkpoints: Sequence[Checkpoint]) -> Verdict:
        """Check the log as a whole and every checkpoint.

        Raises:
            AuditRefusedError: The first check that fails.
            DataError: No checkpoint covers the lines whose signatures were taken on trust.
        """
        setting, state = self.setting, self.state
        for checkpoint in checkpoints:
            claim = Claim(checkpoint, state, setting, self.tree, self.times or [""])
            for code, check in self.checks.checkpoints:
                reason = check(claim)
                if reason:
                    raise AuditRefusedError(code, setting.log, checkpoint.size, reason)
        for code, judge in self.checks.revocations:
            found = judge(state, setting, checkpoints)
            if found:
                raise AuditRefusedError(code, setting.log, *found)
        anchored = max((checkpoint.size for checkpoint in checkpoints), default=0)
        if anchored < setting.trusted_size:
            raise DataError(f"{setting.log}: no checkpoint says that the first {setting.trusted_size} lines are as they were")
        root = f"sha256:{self.tree.root().hex()}"
        return Verdict(setting.log, setting.founding.digest, state.size, root, anchored, state)


def replay(content: bytes, setting: Setting, *, checks: Checks = CHECKS) -> Replay:
    """Take all lines of a log.

    Raises:
        AuditRefusedError: The first check that fails.
    """
    lines = content.split(b"\n")
    for code, check in checks.whole_lines:
        reason = check(content)
        if reason:
            raise AuditRefusedError(code, setting.log, len(lines), reason)
    taken = Replay(setting, checks)
    for line in lines[:-1] if lines[-1] == b"" else lines:
        taken.take(line)
    return taken


def verify(content: bytes, setting: Setting, checkpoints: Sequence[Checkpoint] = (), *, checks: Checks = CHECKS) -> Verdict:
    """Verify a log and the checkpoints of it.

    Args:
        content: All bytes of the log.
        setting: What it is checked against.
        checkpoints: Every one must hold.
        checks: To put it through.

    Raises:
        AuditRefusedError: The first check that fails; its ``code`` is one of :data:`CODES`.
        DataError: There is no line and no checkpoint: nothing to verify.
    """
    if not content and not checkpoints:
        raise DataError(f"{setting.log} has no line yet")
    return replay(content, setting, checks=checks).conclude(checkpoints)


def read_events(content: bytes) -> list[Event]:
    """Read the events of a log that was verified."""
    return [forms.build(Event, canonical.loads(entry)) for entry in content.splitlines()]
