"""Checks of one line against what came before: who may say it, what must have been said. Each says what is wrong, or nothing."""

from collections.abc import Mapping
from datetime import datetime

from fedsilo.audit import documents, forms
from fedsilo.audit.documents import Approval, Change, Order, Release, Update
from fedsilo.audit.events import INCONCLUSIVE, KEY_KINDS, PASS
from fedsilo.audit.line_checks import CLOCK_TOLERANCE
from fedsilo.audit.register import SERVER, SITE, Anchor, KeyEntry, entry_flaw
from fedsilo.audit.state import Candidate, Step

OVERRIDE = 2
"""Persons who must approve a model whose verdict is inconclusive, at least."""


def change_content(step: Step) -> str | None:
    """A change of keys carries the key, or what it leaves standing; a subject names content by its hash."""
    if not isinstance(step.document, Change):
        return None
    content = None if step.document.content is None else dict(step.document.content)
    found = _key_content_flaw(step, content) if step.event.kind in KEY_KINDS else None
    if found is None and content is not None and step.model != documents.content_hash(content):
        found = "the subject's after is not the hash of the content"
    return found and f"{step.event.kind}: {found}"


def _key_content_flaw(step: Step, content: Mapping[str, object] | None) -> str | None:
    if step.event.kind == "key.revoke":
        return forms.flaw(Anchor, content, "content")
    found = entry_flaw(content)
    if found is None and content is not None and step.change[1].name != (name := forms.build(KeyEntry, content).key):
        found = f"the subject is {step.change[1].name}, the key is {name}"
    return found


def authority(step: Step) -> str | None:
    """The signer may say this, or carries the document of one who may."""
    if step.signer is None or step.authorised:
        return None
    return f"{step.event.role} may not sign {step.event.kind}"


def document_role(step: Step) -> str | None:
    """Who signed the attached document may sign that type, a site for itself."""
    if step.document is None or step.document_signer is None:
        return None
    entry, role = step.document_signer.entry, step.document_kind.role
    if role not in entry.roles:
        return f"{entry.actor} signed the attached document and is no {role}"
    if role == SITE and isinstance(step.document, Update) and step.document.site != entry.site:
        return f"the attached document is of site {step.document.site}, its key is of {entry.site}"
    return None


def document_says_so(step: Step) -> str | None:
    """The attached document is about this federation and this event."""
    document, event, federation = step.document, step.event, step.setting.founding.federation
    if document is None:
        return None
    subject = step.change[1]
    found: tuple[object, ...] = (document.federation,)
    expected: tuple[object, ...] = (federation,)
    if isinstance(document, Approval):
        found += (document.decision, document.candidate, document.meaning)
        expected += (event.kind, subject.after, event.meaning)
    elif isinstance(document, Release):
        found += (document.event, document.model, document.candidate)
        expected += (event.kind, subject.name, subject.after)
    elif isinstance(document, Change):
        found += (document.event, document.subject)
        expected += (event.kind, subject)
    elif isinstance(document, Order) and event.kind == "order.accept":
        more = event.attached or {}
        found += (more.get("site", event.site), more.get("round", event.round_index))
        expected += (event.site, event.round_index)
    elif isinstance(document, Update) and step.lends:
        found += (document.site, document.round_index, f"sha256:{document.file_sha256}")
        expected += (event.site, event.round_index, subject.after)
    return None if found == expected else f"the attached document is about {found}, expected {expected}"


def document_of_today(step: Step) -> str | None:
    """What a person signed is not older than the founding, and not of a time to come.

    A federation that is founded anew under its name starts anew; and a yes of tomorrow would outlive the no of today.
    """
    if not isinstance(step.document, Approval | Release | Change):
        return None
    created, founded, ts = step.document.created, step.setting.founding.created, step.event.ts
    if created < founded:
        return f"the attached document is of {created}, the founding of {founded}"
    if datetime.fromisoformat(created) - datetime.fromisoformat(ts) > CLOCK_TOLERANCE:
        return f"the attached document is of {created}, the line of {ts}"
    return None


def own_document(step: Step) -> str | None:
    """Only a server carries what others signed."""
    attached, event = step.event.attached, step.event
    if attached is None or not step.lends or event.role == SERVER or attached.get("key") == event.key:
        return None
    return f"{event.actor} attached a document that {attached.get('key')} signed"


def where_keys_change(step: Step) -> str | None:
    """Keys change in the federation's own log."""
    if step.event.kind not in KEY_KINDS or step.setting.of_federation:
        return None
    return f"{step.event.kind} in the log of a site"


def opening(step: Step) -> str | None:
    """A log begins with log.open, once."""
    if (step.event.kind == "log.open") == (step.state.size == 0):
        return None
    return "log.open stands in the first line and nowhere else"


def own_founding(step: Step) -> str | None:
    """The first line names the founding that the log is checked against."""
    if step.event.kind != "log.open" or step.model == step.setting.founding.digest:
        return None
    return f"the log was opened under the founding {step.model}, not {step.setting.founding.digest}"


def own_end(step: Step) -> str | None:
    """A log ends under its own name."""
    name, expected = step.change[1].name, step.setting.log
    return None if step.event.kind != "log.rotate" or name == expected else f"the end of {name} is signed for, not of {expected}"


def not_rotated(step: Step) -> str | None:
    """Nothing follows the end of a log."""
    return "the log ended with log.rotate" if step.state.rotated else None


def document_once(step: Step) -> str | None:
    """A person's document lends its authority once."""
    return "the attached document was used before" if step.document_hash in step.state.carried else None


def another_person(step: Step) -> str | None:
    """A change is signed by different persons."""
    if step.person not in step.state.pending.get(step.change, ()):
        return None
    return f"{step.person} has signed this change already"


def key_change(step: Step) -> str | None:
    """A key is added once and revoked once."""
    if step.event.kind not in KEY_KINDS:
        return None
    name = step.change[1].name
    record = step.state.register.get(name)
    if step.event.kind == "key.add":
        return f"{name} is or was in the register" if record else None
    if record is None:
        return f"{name} is not in the register"
    return f"{name} is revoked already" if record.revoked_at else None


def anchored(step: Step) -> str | None:
    """What a revocation leaves standing is the beginning of this log."""
    document = step.document
    if step.event.kind != "key.revoke" or not isinstance(document, Change) or document.content is None:
        return None
    anchor = forms.build(Anchor, document.content)
    return _not_beginning(step, anchor.size, anchor.root)


def seen(step: Step) -> str | None:
    """What a site saw before it signed an update is the beginning of this log."""
    document = step.document
    if not isinstance(document, Update) or document.seen is None or not step.setting.of_federation:
        return None
    return _not_beginning(step, document.seen.size, document.seen.root)


def _not_beginning(step: Step, size: int, root: str) -> str | None:
    """Say if some number of lines are not there, or have another root."""
    if size > step.state.size:
        return f"{size} lines with the root {root} were signed for, there are {step.state.size} before this one"
    found = f"sha256:{step.tree.root(size).hex()}"
    return None if found == root else f"the first {size} lines have the root {found}, {root} was signed for"


def one_file_a_round(step: Step) -> str | None:
    """A site submits one file in a round; another may come when the round of that run is opened again."""
    known = None if step.event.kind != "update.submit" else step.state.updates.get(step.part)
    if known is None or known[1] == step.model or step.reopened > known[0]:
        return None
    return f"{step.part[0]} has submitted {known[1]} in round {step.part[1]} already, not {step.model}"


def manifest_of_this_round(step: Step) -> str | None:
    """A site's manifest is of one update in one round; told of again it must be the same, before that round is opened again."""
    known = None if step.manifest_hash is None else step.state.manifests.get(step.manifest_hash)
    if known is None or (known[1] == step.part and known[0] >= step.reopened):
        return None
    return f"the attached manifest was used in line {known[0] + 1}, for {known[1][0]} in round {known[1][1]}"


def evaluated_first(step: Step) -> str | None:
    """A gate judges a model that was evaluated."""
    if step.event.kind != "gate.verdict" or step.model in step.state.candidates:
        return None
    return f"no evaluate of {step.model} before its gate.verdict"


def verdict_first(step: Step) -> str | None:
    """A person approves a model that passed the gate, or one whose verdict is inconclusive and says what evidence is missing."""
    missing = step.document.missing if isinstance(step.document, Approval) else None
    if step.event.kind != "approve":
        return None if missing is None else f"{step.event.kind} names missing evidence"
    verdict = step.state.candidates.get(step.model, Candidate()).verdict
    if verdict == (PASS if missing is None else INCONCLUSIVE):
        return None
    return f"approve of {step.model}, whose verdict is {verdict}, with missing evidence {'not ' if missing is None else ''}named"


def verdict_approved(step: Step) -> str | None:
    """A person's document names the verdict that they saw: the last, so there must be one."""
    if not isinstance(step.document, Approval):
        return None
    candidate = step.state.candidates.get(step.model, Candidate())
    if candidate.metrics_ref == step.document.verdict:
        return None
    return f"the document is about the verdict {step.document.verdict}, the last is {candidate.metrics_ref}"


def approved_since(step: Step) -> str | None:
    """A person's yes from before the model was rejected does not come back."""
    rejected = step.state.candidates.get(step.model, Candidate()).rejected
    if step.event.kind != "approve" or not isinstance(step.document, Approval) or step.document.created >= rejected:
        return None
    return f"the document is of {step.document.created}, {step.model} was rejected at {rejected}"


def still_open(step: Step) -> str | None:
    """A model that was rejected, or that nobody approved in time, is approved after another verdict only."""
    candidate = step.state.candidates.get(step.model, Candidate())
    if step.event.kind != "approve" or not candidate.ended:
        return None
    return f"{step.model} was rejected at {candidate.rejected}, and there is no verdict since"


def compared_with_champion(step: Step) -> str | None:
    """A model is approved and promoted by a verdict that compares it with the model in use; if none is, with nothing."""
    candidate, champions = step.state.candidates.get(step.model, Candidate()), step.state.champions
    if step.event.kind == "promote":
        replaced = champions.get(step.change[1].name)
        in_use = {replaced.current} if replaced else {None}
    elif step.event.kind == "approve":
        in_use = {champion.current for champion in champions.values()} or {None}
    else:
        return None
    if candidate.verdict is None or candidate.champion in in_use:
        return None
    named = ", ".join(sorted(filter(None, in_use))) or "no model"
    return f"the verdict on {step.model} compares it with {candidate.champion or 'nothing'}, in use is {named}"


def approved_first(step: Step) -> str | None:
    """A model is promoted that enough persons approved since its verdict: two at least if that is inconclusive."""
    if step.event.kind != "promote":
        return None
    candidate, policy = step.state.candidates.get(step.model, Candidate()), step.setting.founding.policy
    found = len(candidate.approvers)
    expected = policy.approvals if candidate.verdict == PASS else max(policy.approvals, OVERRIDE)
    return None if found >= expected else f"{found} approvals of {step.model} since its verdict, expected {expected}"


def another_approved(step: Step) -> str | None:
    """Who approved a model does not promote it, where the policy says so."""
    if step.event.kind != "promote" or not step.setting.founding.policy.separate_promoter:
        return None
    approvers = step.state.candidates.get(step.model, Candidate()).approvers
    return f"{step.person} approved {step.model} and may not promote it" if step.person in approvers else None


def replaces_champion(step: Step) -> str | None:
    """A model replaces the one that is in use."""
    if step.event.kind not in ("promote", "rollback"):
        return None
    subject = step.change[1]
    champion = step.state.champions.get(subject.name)
    expected = champion.current if champion else None
    if subject.before == expected and subject.after != expected:
        return None
    return f"{subject.name} goes from {subject.before} to {subject.after}, in use is {expected}"


def was_champion(step: Step) -> str | None:
    """A model goes back to one that was in use."""
    if step.event.kind != "rollback":
        return None
    champion = step.state.champions.get(step.change[1].name)
    return None if champion and step.model in champion.promoted else f"{step.model} was never promoted"
