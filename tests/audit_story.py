"""A federation's trail as tests need it: keys from names, a clock that ticks a second a line, lines with any fault planted.

Keys are demo keys: their seeds are hashes of names, so everybody has them.
"""

import base64
import functools
import hashlib
import json
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsilo.audit import canonical, checkpoints, documents, forms, founding, keys, merkle, verifier
from fedsilo.audit.documents import Approval, Change, Release, Seen, Update
from fedsilo.audit.events import Artifact, Decision, Draft, Environment, PrefectRun, Subject, Why
from fedsilo.audit.founding import Policy
from fedsilo.audit.keys import EVENT_DOMAIN
from fedsilo.audit.register import Anchor, KeyEntry

FEDERATION = "demo"
BEGIN, END = "2026-01-01T00:00:00.000000Z", "2036-01-01T00:00:00.000000Z"
TICK = timedelta(seconds=1)
ROLES = {
    "server": ("server",),
    "old-server": ("server",),  # expired before the first line
    "site-a": ("site",),
    "site-b": ("site",),
    "alice": ("admin",),
    "bob": ("admin",),
    "gina": ("admin",),
    "carol": ("approver", "promoter"),
    "dave": ("approver",),
    "erin": ("promoter",),
    "frank": ("auditor",),
    "old-dave": ("approver",),  # expired
}
LATER = {"new-server": ("server",), "stranger": ("server",), "new-carol": ("approver",)}
"""Keys that no founding has."""


def signer(name):
    """Give the demo key of a name."""
    return keys.of_seed(seed(name))


def seed(name):
    return hashlib.sha256(f"fedsilo demo key {name}".encode()).digest()


def entry(name):
    """Give the register's entry of a demo key."""
    roles = {**ROLES, **LATER}[name]
    begins, ends = ("2025-01-01T00:00:00.000000Z", BEGIN) if name.startswith("old-") else (BEGIN, END)
    site = name if roles == ("site",) else None
    return KeyEntry(name.removeprefix("old-"), name.title(), signer(name).public, roles, begins, ends, site)


@functools.cache
def found(*, quorum=2, approvals=1, separate_promoter=True):
    """Found the federation, signed by alice and bob."""
    policy = Policy(quorum, approvals, separate_promoter)
    made = founding.draw_up(FEDERATION, map(entry, ROLES), policy=policy, created=BEGIN)
    return founding.sign(founding.sign(made, signer("alice")), signer("bob"))


def hash_of(text):
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def hex_of(text):
    return hash_of(text).removeprefix("sha256:")


def sign_line(record, name):
    """Sign a line anew; values without a canonical form too."""
    record = {key: value for key, value in record.items() if key != "sig"}
    return {**record, "sig": raw_signature(name, EVENT_DOMAIN, record)}


def raw_signature(name, domain, record):
    private = Ed25519PrivateKey.from_private_bytes(seed(name))
    return base64.b64encode(private.sign(domain + canonical.dumps(record))).decode()


class Story:
    """A log that grows in memory; what is added need not be right."""

    def __init__(self, log="federation", altered=None):
        self.founding = found()
        self.setting = verifier.setting_of(self.founding, log)
        self.lines, self.altered = [], altered
        self.in_use = None
        self.now = datetime.fromisoformat(BEGIN)

    @property
    def content(self):
        return b"".join(line + b"\n" for line in self.lines)

    @property
    def tree(self):
        return merkle.Tree([merkle.leaf(line) for line in self.lines])

    def root(self, size=None):
        return f"sha256:{self.tree.root(size).hex()}"

    def fields(self, draft, by, **changes):
        """Give the fields of the next line, with any of them changed or, if None, left out; signed."""
        self.now += TICK
        known = entry(by)
        record = {
            **forms.plain(draft),
            "v": 1,
            "seq": len(self.lines),
            "ts": self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "log": self.setting.log,
            "actor": known.actor,
            "actor_name": known.actor_name,
            "role": known.roles[0],
            "key": signer(by).key,
            "prev": f"sha256:{merkle.leaf(self.lines[-1]).hex()}" if self.lines else f"sha256:{'0' * 64}",
            **changes,
        }
        if len(self.lines) == self.altered:  # history as somebody would like it
            record["why"] = {**record["why"], "text": "another reason"}
        return sign_line({key: value for key, value in record.items() if value is not None}, by)

    def add(self, draft, by="server", **changes):
        """Add a line; give the story, so that calls follow one another."""
        self.lines.append(canonical.dumps(self.fields(draft, by, **changes)))
        return self

    def verify(self, known=(), **options):
        return verifier.verify(self.content, self.setting, known, **options)

    def checkpoint(self, size=None, by="server", **changes):
        """State the size and root of the log, or anything else."""
        size = size or len(self.lines)
        record = {"log": self.setting.log, "size": size, "root": self.root(size), "ts": json.loads(self.lines[size - 1])["ts"]}
        record |= {"key": signer(by).key, **changes}
        record.setdefault("sig", raw_signature(by, keys.CHECKPOINT_DOMAIN, record))
        return forms.build(checkpoints.Checkpoint, record)

    def change(self, kind, by, subject, content=None, *, carried_by=None, reason="a reason"):
        """Sign a change; by the admin's own hand, or carried by a server."""
        document = documents.sign(Change(FEDERATION, kind, subject, reason, BEGIN, content), signer(by))
        return self.add(Draft(kind, WHY, subject=subject, attached=document), carried_by or by)

    def add_key(self, name, *by):
        """Let admins sign that a key is added."""
        content = forms.plain(entry(name))
        for admin in by:
            self.change("key.add", admin, key_subject(signer(name).key, content), content)
        return self

    def revoke_key(self, name, *by, size=None):
        """Let admins sign that a key is revoked, and that its acts in the first lines stand."""
        size = len(self.lines) if size is None else size
        content = forms.plain(Anchor(size, self.root(size)))
        for admin in by:
            self.change("key.revoke", admin, key_subject(signer(name).key, content), content)
        return self

    def candidate(self, name, verdict="pass", against=None):
        """Evaluate a model and let the gate judge it, against the model in use or another."""
        champion = against or self.in_use
        self.add(
            Draft("evaluate", WHY, site="site-a", subject=model(name), outputs=(Artifact("cases.csv", hex_of("cases")),)),
            "site-a",
        )
        compared = (Artifact("champion", hex_of(champion)),) if champion else ()
        decision = Decision("gate", verdict, hash_of("gate"))
        return self.add(Draft("gate.verdict", WHY, subject=model(name), inputs=compared, decision=decision))

    def approve(self, name, by="dave", decision="approve", carried_by="server", **said):
        attached = approval(name, by, decision, **said)
        return self.add(Draft(decision, WHY, subject=model(name), meaning="approval", attached=attached), carried_by)

    def promote(self, name, before=None, by="erin", kind="promote"):
        self.in_use = name
        return self.add(Draft(kind, WHY, subject=model(name, before), attached=release(name, by, kind)), by, role="promoter")


WHY = Why("request-1", "because")
INCIDENT = Draft("incident", WHY)


def model(name, before=None):
    return Subject("model", "global", before and hash_of(before), hash_of(name))


def key_subject(key, content):
    return Subject("key", key, after=documents.content_hash(content))


def approval(name, by="dave", decision="approve", *, verdict="gate", federation=FEDERATION, created=BEGIN, missing=None):
    document = Approval(
        federation, hash_of(name), hash_of(verdict), decision, "approval", "numbers are good", created, missing=missing
    )
    return documents.sign(document, signer(by))


def release(name, by="erin", kind="promote"):
    return documents.sign(Release(FEDERATION, kind, "global", hash_of(name), "goes into use", BEGIN), signer(by))


def update(story, by="site-a", size=None, **changes):
    """Sign an update's manifest that has seen the log so far."""
    size = len(story.lines) if size is None else size
    values = {"federation": FEDERATION, "site": by, "round_index": 0, "file_sha256": hex_of(f"update {by}")}
    return documents.sign(Update(**{**values, "seen": Seen(size, story.root(size)), **changes}), signer(by), {"num_cases": 12})


def opened(**options):
    """A log with its first line."""
    story = Story(**options)
    subject = Subject("founding", FEDERATION, after=story.founding.digest)
    return story.add(Draft("log.open", Why("founding", "the log begins"), subject=subject))


def submit(story, by="site-a", *, name=None, file=None, **changes):
    """Let the server carry a site's update."""
    if file is not None:
        changes["file_sha256"] = hex_of(file)
    subject = Subject("update", name or f"{by}/0", after=hash_of(file or f"update {by}"))
    draft = Draft("update.submit", WHY, site=by, round_index=0, subject=subject, attached=update(story, by, **changes))
    return story.add(draft)


ENVIRONMENT = Environment("a" * 40, dirty=False, dvc_lock_sha256=hex_of("dvc.lock"), python="3.11.2", torch="2.13.0")


def trained(**options):
    """A log up to the end of its first round, with a field of every sort."""
    story = opened(**options)
    accepted = Subject("data", "site-a", after=hash_of("manifest a"))
    story.add(
        Draft("data.accept", WHY, site="site-a", subject=accepted, inputs=(Artifact("manifest.csv", hex_of("manifest a")),)),
        "site-a",
    )
    run = PrefectRun("0b7a4c9e-3c3f-4a44-9f0e-2d1f0c5b7a10", "nightly", "1")
    story.add(Draft("round.open", WHY, round_index=0, env=ENVIRONMENT, prefect=run))
    submit(story)
    story.add(
        Draft(
            "update.submit",
            WHY,
            site="site-b",
            round_index=0,
            subject=Subject("update", "site-b/0", after=hash_of("update site-b")),
        ),
        "site-b",
    )
    parts = tuple(Artifact(f"{site}.safetensors", hex_of(f"update {site}")) for site in ("site-a", "site-b"))
    return story.add(Draft("aggregate", WHY, round_index=0, subject=model("first"), inputs=parts, env=ENVIRONMENT))


def whole(**options):
    """The golden log: data, a round, a promotion, keys added and revoked, a second promotion, a rollback, an export."""
    story = trained(**options).candidate("first").approve("first").promote("first")
    story.add_key("new-server", "alice", "bob").revoke_key("site-b", "alice", "gina")
    story.add(Draft("retrain.decision", WHY, decision=Decision("trigger", "yes")), "new-server")
    story.candidate("second").approve("second").promote("second", "first").promote("first", "second", kind="rollback")
    params = Subject("params", "params.yaml", hash_of("params 1"), hash_of("params 2"))
    story.change("config.change", "alice", params).change("config.change", "bob", params, carried_by="server")
    story.add(Draft("incident", Why("ticket-7", "Zo\u00eb saw a na\u00efve threshold"), site="site-a"), "site-a")
    return story.add(Draft("export", WHY, outputs=(Artifact("trail.csv", hex_of("trail")),)), "frank")


def order(**more):
    """Sign a server's order."""
    return documents.sign(documents.Order(FEDERATION), signer("server"), more)


def judged(verdict="pass"):
    """A log up to the gate's verdict on the first model."""
    return opened().candidate("first", verdict)


def carried(document, kind="approve", by="server", **changes):
    """Let a document be attached to a person's decision on the first model."""
    return judged().add(Draft(kind, WHY, subject=model("first"), meaning="approval", attached=document), by, **changes)


def resigned(document, name, **changes):
    """Change a document and sign it anew."""
    record = {key: value for key, value in {**document, **changes}.items() if key != "sig"}
    return {**record, "sig": raw_signature(name, documents.domain(record["type"]), record)}
