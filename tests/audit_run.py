"""A federation's run as its phases tell of it in a log: data, rounds, updates that counted or did not, models, a promotion.

Who writes what: docs/audit.md. The log is on the disk, written by the library; states and files are hashes of words.
"""

from dataclasses import dataclass, field

from fedsilo.audit import documents
from fedsilo.audit.documents import Approval, Release, Update
from fedsilo.audit.events import Artifact, Decision, Draft, Environment, Subject, Why
from fedsilo.audit.trail import Trail
from tests import audit_story as tale
from tests.audit_story import hash_of, hex_of

WHY = Why("run-1", "as it is done")
CASES = {"site-a": 12, "site-b": 9}
CREATED = "2026-04-01T00:00:00.000000Z"


@dataclass
class Run:
    """Appends what a run says; ``state`` is the word whose hash the server's state has."""

    log: Trail
    name: str = "demo"
    state: str = "state 0"
    env: Environment = field(
        default_factory=lambda: Environment(
            "a" * 40, dirty=False, dvc_lock_sha256=hex_of("lock"), python="3.11.2", torch="2.13.0"
        )
    )

    def say(self, kind, by="server", **parts):
        return self.log.append(Draft(kind, WHY, env=self.env, **parts), tale.signer(by))

    def model(self, name, after, before=None):
        return Subject("model", f"{self.name}/{name}", before and hash_of(before), hash_of(after))

    def accept(self, site, data="data"):
        subject = Subject("dataset", f"demo/{site}", after=hash_of(f"{data} {site}"))
        outputs = tuple(Artifact(f"demo/{site}/{name}", hex_of(f"{name} {site}")) for name in ("facts.parquet", "contract.json"))
        return self.say("data.accept", site, site=site, subject=subject, outputs=outputs)

    def open(self, index, params="params"):
        inputs = (Artifact("params", hex_of(params)), Artifact("identity", hex_of("identity")))
        return self.say("round.open", round_index=index, subject=self.model("server", self.state), inputs=inputs)

    def submit(self, site, index, *, accepted="data", **more):
        """Attach a site's manifest of an update to its round."""
        word = f"update {site} {self.state}"
        manifest = {
            "num_cases": CASES[site],
            "nonce": hex_of(f"nonce {self.log.state.size}"),
            "data": {"manifest_sha256": hex_of(f"{accepted} {site}")},
            "code": {"version": "0.1.0", "git": "b" * 40, "dirty": site == "site-b"},
            **more,
        }
        document = documents.sign(Update(tale.FEDERATION, site, index, hex_of(word)), tale.signer(site), manifest)
        subject = Subject("update", f"{self.name}/{site}", hash_of(self.state), hash_of(word))
        self.say("update.submit", site=site, round_index=index, subject=subject, attached=document)
        return word

    def reject(self, site, index, check):
        subject = Subject("update", f"{self.name}/{site}", after=hash_of(f"update {site} {self.state}"))
        return self.say("update.reject", site=site, round_index=index, subject=subject, decision=Decision("admission", check))

    def aggregate(self, index, counted):
        inputs = tuple(Artifact(site, hex_of(word)) for site, word in counted.items())
        before, self.state = self.state, f"state {index + 1}"
        subject = self.model("server", self.state, before)
        return self.say(
            "aggregate", round_index=index, subject=subject, inputs=inputs, decision=Decision("aggregation", "average")
        )

    def round(self, index, sites=("site-a", "site-b"), **options):
        """Play a whole round in which these sites count."""
        self.open(index)
        return self.aggregate(index, {site: self.submit(site, index, **options) for site in sites})

    def select(self, word, index):
        return self.say(
            "evaluate",
            subject=self.model("global", word),
            decision=Decision("selection", f"round {index}", hash_of("rounds.csv")),
        )

    def inside(self, site, word, states):
        """Let a site tell of its inside model."""
        inputs = tuple(Artifact(f"{self.name}/server", hex_of(state)) for state in states)
        return self.say("evaluate", site, site=site, subject=self.model(f"inside/{site}", word), inputs=inputs)

    def promote(self, word, before=None):
        """Let the gate pass a model, a person approve it and another promote it."""
        subject = self.model("global", word)
        self.say("gate.verdict", subject=subject, decision=Decision("gate", "pass", hash_of("gate")))
        yes = Approval(tale.FEDERATION, hash_of(word), hash_of("gate"), "approve", "approval", "numbers are good", CREATED)
        attached = documents.sign(yes, tale.signer("dave"))
        self.say("approve", subject=subject, meaning="approval", attached=attached)
        release = Release(tale.FEDERATION, "promote", subject.name, hash_of(word), "goes into use", CREATED)
        subject = self.model("global", word, before)
        self.say("promote", "erin", subject=subject, attached=documents.sign(release, tale.signer("erin")))


def played(log):
    """Play three rounds: in the second a site is refused and one is missing; the second's state is selected and promoted."""
    run = Run(log)
    for site in CASES:
        run.accept(site)
    run.round(0)
    run.open(1)
    word = run.submit("site-a", 1)
    run.reject("site-b", 1, "norm")
    run.say("update.missing", site="site-c", round_index=1)
    run.aggregate(1, {"site-a": word})
    run.round(2)
    run.select("state 2", 1)
    run.inside("site-a", "inside a", ["state 1", "state 2", "state 3"])
    run.promote("state 2")
    return run
