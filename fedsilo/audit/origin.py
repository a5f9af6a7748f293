"""What an ancestry is made of: rounds, data, code, acts, keys. Lines count from 1; hashes are as in the log."""

from dataclasses import dataclass, field
from typing import Literal

from fedsilo.audit import forms
from fedsilo.audit.events import Artifact, Environment


@dataclass(frozen=True)
class Counted:
    """An update that counted in a round, with what its site's manifest says of it; None where there is no manifest.

    ``members`` are the sites whose data a participant holds that has more than its own.
    """

    site: str
    sha256: str
    line: int | None
    num_cases: int | None
    data: str | None
    members: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Refused:
    """An update that did not count, and the check that refused it."""

    site: str
    check: str
    line: int


@dataclass(frozen=True)
class Round:
    """One aggregation: from which state to which, by which rule, of which updates."""

    index: int | None
    line: int
    ts: str
    before: str | None
    after: str
    rule: str | None
    updates: tuple[Counted, ...]
    refused: tuple[Refused, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """A state that an inside model was folded over; its round if the log has the aggregation."""

    sha256: str
    index: int | None


@dataclass(frozen=True)
class Data:
    """A site's data as it trained on them, in these rounds; line and time of ``data.accept``, if the log has it."""

    site: str
    sha256: str
    line: int | None
    ts: str | None
    num_cases: int | None
    rounds: tuple[int, ...]


@dataclass(frozen=True)
class Named:
    """What went into the opening of rounds, by its name, such as ``params``."""

    name: str
    sha256: str
    rounds: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """What code ran on what, on which lines."""

    env: Environment
    first_line: int
    last_line: int


@dataclass(frozen=True)
class SiteCode:
    """What code a site says that it trained with."""

    site: str = field(metadata=forms.SHORT)
    git: str | None = field(default=None, metadata=forms.COMMIT)
    dirty: bool | None = field(default=None, metadata=forms.FLAG)
    version: str | None = field(default=None, metadata=forms.SHORT)


@dataclass(frozen=True)
class Act:
    """What was said of the model itself; ``person`` is on whose authority, ``reason`` in whose words."""

    kind: str
    line: int
    ts: str
    name: str
    actor: str
    person: str
    person_name: str
    role: str
    meaning: str | None
    gate: str | None
    verdict: str | None
    metrics_ref: str | None
    reason: str
    missing: str | None


@dataclass(frozen=True)
class KeyHeld:
    """A key that signed any of it."""

    key: str
    actor: str
    actor_name: str
    roles: tuple[str, ...]
    revoked_at: str | None


@dataclass(frozen=True)
class Ancestry:
    """All of it; rounds and acts in the order of the log. ``first`` is the state where the chain of rounds begins."""

    model: str
    sort: Literal["global", "inside"]
    names: tuple[str, ...]
    run: str
    site: str | None
    first: str | None
    rounds: tuple[Round, ...]
    folded: tuple[Folded, ...]
    data: tuple[Data, ...]
    inputs: tuple[Named, ...]
    made: tuple[Made, ...]
    site_code: tuple[SiteCode, ...]
    acts: tuple[Act, ...]
    keys: tuple[KeyHeld, ...]
