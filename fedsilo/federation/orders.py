"""Orders: what a server asks of a site for one round, signed; and what the site checks before it touches its data.

An order names the state to start from by its hash, the params, the version of the code that must be installed, and a nonce that
is drawn anew for each. Nothing that decides bits depends on the nonce or on a time.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedsilo.audit import canonical, documents, forms, keys
from fedsilo.audit.documents import Seen
from fedsilo.audit.keys import Signer
from fedsilo.audit.register import SERVER, Register
from fedsilo.errors import DataError, OrderRefusedError
from fedsilo.federation.manifests import Code

TRAIN = "train"
OPS = (TRAIN,)
"""What a site can be asked to do."""


def _are_ops(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


@dataclass(frozen=True)
class Order:
    """What a server asks of a site.

    Attributes:
        federation: Its name.
        run: Name of the results that the round belongs to.
        site: Who is asked.
        round_index: From 0.
        again: The server lost a later state and goes back on purpose; without this a site takes no round behind its last.
        ops: What to do.
        base_model: Hash of the file of the global state to start from.
        params_sha256: Hash of the params that decide bits.
        code: What must be installed.
        nonce: 256 random bits.
        issued: When it was signed.
        expires: When it stops to count.
        deadline: When the server wants the update; None: it waits.
        checkpoint: Newest state of the federation's log that the server has stated.
    """

    federation: str = field(metadata=forms.IDENTIFIER)
    run: str = field(metadata=forms.SHORT)
    site: str = field(metadata=forms.IDENTIFIER)
    round_index: int = field(metadata=forms.named("round", forms.COUNT))
    ops: tuple[str, ...] = field(metadata=forms.of("a list of words that is not empty", _are_ops))
    base_model: str = field(metadata=forms.HEX)
    params_sha256: str = field(metadata=forms.HEX)
    code: Code = field(metadata=forms.part(Code))
    nonce: str = field(metadata=forms.HEX)
    issued: str = field(metadata=forms.TIME)
    expires: str = field(metadata=forms.TIME)
    deadline: str | None = field(default=None, metadata=forms.TIME)
    again: bool = field(default=False, metadata=forms.YES)
    checkpoint: Seen | None = field(default=None, metadata=forms.part(Seen))


@dataclass(frozen=True)
class Standing:
    """What a site knows when an order comes.

    Attributes:
        federation: Whose member it is.
        run: Whose round is expected.
        site: Its own name.
        register: Keys of the federation, from its log.
        now: By its own clock.
        last_round: That it accepted an order for; None at first.
        nonces: Of all orders that it accepted.
        version: Of the code that is installed here.
        params_sha256: Hash of the params here.
        base_sha256: Hash of the global state as it arrived here.
        root_at: Root of the first lines of the federation's log as the site knows it; None if it has not so many.
    """

    federation: str
    run: str
    site: str
    register: Register
    now: str
    last_round: int | None
    nonces: frozenset[str]
    version: str
    params_sha256: str
    base_sha256: str
    root_at: Callable[[int], str | None]


@dataclass(frozen=True)
class Receipt:
    """An order beside what its site knows."""

    record: Mapping[str, object]
    order: Order
    standing: Standing


Checks = Sequence[tuple[str, Callable[[Receipt], str | None]]]


def nonce() -> str:
    """Draw a nonce."""
    return secrets.token_hex(32)


def issue(order: Order, signer: Signer) -> dict[str, object]:
    """Sign an order.

    Raises:
        DataError: Something in it has no canonical form, or departs from the form of an order.
    """
    plain = forms.plain(order)
    found = forms.flaw(Order, plain)
    if found is not None:
        raise DataError(f"cannot issue an order: {found}")
    return documents.sign(documents.Order(order.federation), signer, more=plain)


def digest(record: Mapping[str, object]) -> str:
    """Hash a signed order as manifests name it; hex."""
    return canonical.digest(canonical.dumps(record)).removeprefix("sha256:")


def accept(
    content: bytes, standing: Standing, *, checks: Sequence[tuple[str, Callable[[Receipt], str | None]]] | None = None
) -> Order:
    """Read an order and put it through what its site checks.

    Args:
        content: As it arrived.
        standing: What the site knows.
        checks: :data:`CHECKS` unless a test leaves one out.

    Raises:
        OrderRefusedError: The first check that fails; its ``check`` is ``form`` or a name in :data:`CHECKS`.
    """
    record, order = _read(content, standing.site)
    receipt = Receipt(record, order, standing)
    for name, check in CHECKS if checks is None else checks:
        reason = check(receipt)
        if reason:
            raise OrderRefusedError(name, f"order to {standing.site!r}: {reason}")
    return order


def _read(content: bytes, site: str) -> tuple[dict[str, object], Order]:
    """Read an order in its one form."""
    try:
        record = canonical.loads(content)
    except DataError as error:
        raise OrderRefusedError("form", f"order to {site!r}: {error}") from None
    own = {name: value for name, value in record.items() if name not in documents.ENVELOPE}
    found = canonical.flaw(record) or documents.flaw(record, "order.accept") or forms.flaw(Order, own)
    if found is None and canonical.dumps(record) != content:
        found = "it is not in its canonical form"
    if found is not None:
        raise OrderRefusedError("form", f"order to {site!r}: {found}")
    return record, forms.build(Order, own)


def signature(receipt: Receipt) -> str | None:
    """A key of the register signed it."""
    name = str(receipt.record["key"])
    record = receipt.standing.register.get(name)
    if record is None:
        return f"{name} is not in the register"
    if keys.signed_by(record.entry.public, documents.domain("order"), receipt.record):
        return None
    return f"the signature is not one of {name} over this order"


def server_key(receipt: Receipt) -> str | None:
    """The key is a server's, and valid now and when it signed."""
    record = receipt.standing.register.get(str(receipt.record["key"]))
    if record is None or SERVER not in record.entry.roles:
        return f"it is signed by {record.entry.actor if record else 'nobody'}, who is no server"
    late = [moment for moment in (receipt.order.issued, receipt.standing.now) if not record.valid_at(moment)]
    return f"the key of {record.entry.actor} is not valid at {late[0]}" if late else None


def own_federation(receipt: Receipt) -> str | None:
    """It is of this federation and run."""
    found = receipt.order.federation, receipt.order.run
    expected = receipt.standing.federation, receipt.standing.run
    return None if found == expected else f"it is of {'/'.join(found)}, expected {'/'.join(expected)}"


def own_name(receipt: Receipt) -> str | None:
    """It is to this site."""
    return None if receipt.order.site == receipt.standing.site else f"it is to {receipt.order.site!r}"


def not_behind(receipt: Receipt) -> str | None:
    """Its round is not behind the last, unless the server says that it goes back."""
    last = receipt.standing.last_round
    if last is None or receipt.order.round_index >= last or receipt.order.again:
        return None
    return f"it is for round {receipt.order.round_index}, behind round {last}"


def unseen(receipt: Receipt) -> str | None:
    """It was not accepted before."""
    return "it was accepted before" if receipt.order.nonce in receipt.standing.nonces else None


def in_time(receipt: Receipt) -> str | None:
    """It counts now."""
    order, now = receipt.order, receipt.standing.now
    if order.issued >= order.expires:
        return f"it expires at {order.expires}, before it was issued at {order.issued}"
    return None if now < order.expires else f"it expired at {order.expires}"


def known_ops(receipt: Receipt) -> str | None:
    """It asks for what a site can do."""
    unknown = sorted(set(receipt.order.ops) - set(OPS))
    return f"it asks for {unknown[0]!r}, expected one of {', '.join(OPS)}" if unknown else None


def installed(receipt: Receipt) -> str | None:
    """The version of the code that it names is installed; nothing is ever fetched."""
    found, expected = receipt.order.code.version, receipt.standing.version
    return None if found == expected else f"it names version {found} of the code, installed is {expected}"


def same_params(receipt: Receipt) -> str | None:
    """It names the params that the site has."""
    found, expected = receipt.order.params_sha256, receipt.standing.params_sha256
    return None if found == expected else f"it names the params {found[:12]}, here are {expected[:12]}"


def same_base(receipt: Receipt) -> str | None:
    """The global state that arrived is the one that it names."""
    found, expected = receipt.order.base_model, receipt.standing.base_sha256
    return None if found == expected else f"it names the state {found[:12]}, {expected[:12]} arrived"


def same_log(receipt: Receipt) -> str | None:
    """The log that the server states is the beginning of the one that the site knows."""
    stated = receipt.order.checkpoint
    if stated is None or receipt.standing.root_at(stated.size) == stated.root:
        return None
    return f"it states {stated.size} lines of the log with the root {stated.root}, the site knows others"


CHECKS: Checks = (
    ("signature", signature),
    ("key", server_key),
    ("federation", own_federation),
    ("site", own_name),
    ("round", not_behind),
    ("nonce", unseen),
    ("expiry", in_time),
    ("ops", known_ops),
    ("code", installed),
    ("params", same_params),
    ("base", same_base),
    ("checkpoint", same_log),
)
"""What a site checks, in this order, by name."""
