"""Orders and updates between a server and its sites, with what the trail says of them: plain functions that tasks call.

The flow's process writes the events, whoever's they are; a site's key signs its update where it trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from fedsilo import files
from fedsilo.audit import canonical, forms, trail, verifier
from fedsilo.audit.documents import Seen
from fedsilo.audit.events import Artifact, Environment, Subject
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.audit.register import SERVER
from fedsilo.errors import OrderRefusedError
from tasks import keyring, rounds, trails, versions
from tasks.federation import Federation

if TYPE_CHECKING:
    from fedsilo.federation.manifests import Attestation, Data

ORDER_DAYS = 7
"""That a site may take to accept an order."""
UPDATE_DAYS = 30
"""That an update may take to arrive."""


@dataclass(frozen=True)
class Asked:
    """An order that a site accepted, with what it knew then: what it needs to sign its update."""

    nonce: str
    order_sha256: str
    made_with: Environment
    seen: Seen


def open_round(federation: Federation, round_index: int) -> list[str]:
    """Say that a round opens, give each site its order that has not answered yet, and name those who are asked.

    Where the round was decided before, those are asked whose updates count.

    Raises:
        AuditRefusedError: The federation's log is refused.
        DataError: The server's key cannot be used.
        OutputError: A file cannot be written.
    """
    journal, scribe = federation.journal(), trails.scribe(federation.audit)
    base = journal.server_record(round_index).sha256
    decision = journal.intake.decision(round_index)
    asked = federation.taking_part(round_index) if decision is None else sorted(decision.admitted)
    identity = journal.folder / "identity.json"
    journal.intake.begin(scribe.opened.seen.size)
    scribe.append(
        "round.open",
        f"{len(asked)} of {len(federation.sites)} sites are asked",
        round_index=round_index,
        subject=Subject("model", f"{federation.paths.run}/server", after=f"sha256:{base}"),
        inputs=[Artifact("params", rounds.params_sha256(federation)), trails.artifact(identity, "identity")],
    )
    waiting = [site for site in asked if not journal.site_done(site, round_index)]
    for site in waiting:
        _issue(federation, site, round_index, base)
    return asked


def _issue(federation: Federation, site: str, round_index: int, base: str) -> None:
    """Sign an order and put it where the site finds it."""
    from fedsilo.federation import orders
    from fedsilo.federation.manifests import Code
    from fedsilo.federation.orders import Order

    scribe, intake, now = trails.scribe(federation.audit), federation.journal().intake, trail.utc_now()
    last, stated = intake.last_asked(site), scribe.newest
    order = Order(
        federation=federation.audit.federation,
        run=federation.paths.run,
        site=site,
        round_index=round_index,
        again=last is not None and last > round_index,
        ops=orders.OPS,
        base_model=base,
        params_sha256=rounds.params_sha256(federation),
        code=Code(versions.installed(), scribe.made_with.git, scribe.made_with.dirty),
        nonce=orders.nonce(),
        issued=now.strftime(TIME_FORMAT),
        expires=(now + timedelta(days=ORDER_DAYS)).strftime(TIME_FORMAT),
        checkpoint=None if stated is None else Seen(stated.size, stated.root),
    )
    record = orders.issue(order, keyring.signer(scribe.paths, SERVER))
    intake.write_order(site, round_index, canonical.dumps(record))


def accept(federation: Federation, site: str, round_index: int) -> Asked:
    """Let a site check its order before it touches its data, and say what came of it.

    Raises:
        OrderRefusedError: A check failed.
        AuditRefusedError: The federation's log is not what the site saw before.
        DataError: The site's key cannot be used.
        OutputError: A file cannot be written.
    """
    from fedsilo.federation import orders
    from fedsilo.federation.orders import Standing

    journal, scribe = federation.journal(), trails.scribe(federation.audit)
    content = journal.intake.order_path(site, round_index).read_bytes()
    seen, memory = scribe.witness(site), journal.intake.memory(site)
    standing = Standing(
        federation=federation.audit.federation,
        run=federation.paths.run,
        site=site,
        register=scribe.register,
        now=trail.utc_now().strftime(TIME_FORMAT),
        last_round=memory.last_round,
        nonces=memory.nonces,
        version=versions.installed(),
        params_sha256=rounds.params_sha256(federation),
        base_sha256=files.sha256_file(journal.server_path(round_index)),
        root_at=lambda size: scribe.opened.root(size) if size <= seen.size else None,
    )
    try:
        order = orders.accept(content, standing)
    except OrderRefusedError as error:
        scribe.append("order.refuse", str(error), actor=site, site=site, round_index=round_index)
        raise
    record = canonical.loads(content)
    scribe.append("order.accept", "the order is as it should be", actor=site, site=site, round_index=round_index, attached=record)
    journal.intake.remember(site, round_index, order.nonce)
    return Asked(order.nonce, orders.digest(record), scribe.made_with, seen)


def attestation(federation: Federation, site: str, asked: Asked) -> Attestation:
    """Say what a site signs of an update beside the update itself."""
    from fedsilo.federation.manifests import Attestation, Code

    now, made_with = trail.utc_now(), asked.made_with
    return Attestation(
        federation=federation.audit.federation,
        run=federation.paths.run,
        nonce=asked.nonce,
        order_sha256=asked.order_sha256,
        code=Code(versions.installed(), made_with.git, made_with.dirty),
        data=_data(federation, site),
        env_sha256=canonical.digest(canonical.dumps(forms.plain(made_with))).removeprefix("sha256:"),
        created=now.strftime(TIME_FORMAT),
        expires=(now + timedelta(days=UPDATE_DAYS)).strftime(TIME_FORMAT),
        seen=asked.seen,
    )


def _data(federation: Federation, site: str) -> Data:
    """Name what a participant trains on, as the trail has it."""
    from fedsilo.federation.manifests import Data
    from tasks import sites

    folders = {member: federation.paths.prepared_site(member) for member in sorted(federation.members[site])}
    lists = {member: files.sha256_file(sites.manifest_path(folder)) for member, folder in folders.items()}
    if len(lists) == 1:
        return Data(next(iter(lists.values())))
    joined = canonical.digest(canonical.dumps(lists)).removeprefix("sha256:")
    return Data(joined, tuple(Artifact(member, sha256) for member, sha256 in lists.items()))


def submit(federation: Federation, site: str, round_index: int, *, again: bool) -> None:
    """Note that a site's update came, and let the site say so in the trail, unless both happened before.

    Args:
        federation: Whose.
        site: Who sends.
        round_index: The round.
        again: The turn was finished before this process began: the trail may have the event.

    Raises:
        AuditRefusedError: The federation's log is refused.
        DataError: The site's key cannot be used.
        OutputError: A file cannot be written.
    """
    from fedsilo.federation.intake import Received

    journal, scribe = federation.journal(), trails.scribe(federation.audit)
    content = journal.update_manifest(site, round_index).read_bytes()
    record = canonical.loads(content)
    subject = Subject(
        "update",
        f"{federation.paths.run}/{site}",
        before=f"sha256:{journal.server_record(round_index).sha256}",
        after=f"sha256:{record['file_sha256']}",
    )
    if journal.intake.received(site, round_index) is not None:
        return
    if not again or not told(federation, "update.submit", subject, round_index):
        scribe.append(
            "update.submit",
            f"{record['num_cases']} cases",
            actor=site,
            site=site,
            round_index=round_index,
            subject=subject,
            attached=record,
        )
    now = trail.utc_now().strftime(TIME_FORMAT)
    journal.intake.write_received(site, round_index, Received(now, canonical.digest(content), str(record["file_sha256"])))


def told(federation: Federation, kind: str, subject: Subject | None, round_index: int | None, site: str | None = None) -> bool:
    """Say whether the trail has an event of this kind about the same thing since the journal was begun."""
    log, begun = trails.scribe(federation.audit).opened.path, federation.journal().intake.begun()
    return any(
        (event.subject, event.round_index, event.site if site else None) == (subject, round_index, site)
        for line in trail.read(log).splitlines()[begun:]
        if f'"event":"{kind}"'.encode() in line
        for event in verifier.read_events(line)
    )
