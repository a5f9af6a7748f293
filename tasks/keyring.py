"""A federation's keys on this machine: read, or made for a demonstration where nobody has founded the federation yet.

Hospitals found a federation by hand (`python -m flows.audit keys`), each person and site with their own key on their own
machine. A run in a workspace without a founding makes demo keys for all of them and founds it with these: the trail is whole and
anyone can verify it, but whoever can read the workspace can sign for everybody.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from filelock import FileLock

from fedsilo.audit import documents, forms, keys, trail
from fedsilo.audit import founding as foundings
from fedsilo.audit.documents import Change
from fedsilo.audit.events import Draft, Subject, Why
from fedsilo.audit.founding import Founding, Policy
from fedsilo.audit.keys import Signer
from fedsilo.audit.line_checks import TIME_FORMAT
from fedsilo.audit.register import ADMIN, FEDERATION_LOG, SERVER, SITE, KeyEntry
from fedsilo.audit.trail import Trail
from fedsilo.errors import DataError
from tasks.paths import AuditPaths

DEMO_ADMIN = "demo-admin"
DEMO_PERSONS = {
    DEMO_ADMIN: ("Demo admin", (ADMIN,)),
    "demo-approver": ("Demo approver", ("approver",)),
    "demo-reviewer": ("Demo reviewer", ("approver",)),
    "demo-promoter": ("Demo promoter", ("promoter", "auditor")),
}
DEMO_DAYS = 3650
TAKEN = frozenset({SERVER, FEDERATION_LOG, *DEMO_PERSONS})
"""Names that no site can have in a federation with demo keys."""
LOCK_SECONDS = 60


def founding(paths: AuditPaths, sites: Iterable[str]) -> Founding:
    """Read the federation's founding; without one, make demo keys and found it with these.

    Raises:
        DataError: The founding or a key cannot be used.
        OutputError: A file cannot be written.
    """
    if not paths.founding.is_file():
        paths.founding.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(paths.founding.parent / ".lock", timeout=LOCK_SECONDS):
            if not paths.founding.is_file():
                _found_demo(paths, sites)
    return foundings.read(paths.founding)


def check_founded(paths: AuditPaths) -> None:
    """Refuse a federation that nobody founded: keys that are made now can approve nothing.

    Raises:
        DataError: It has no founding.
    """
    if not paths.founding.is_file():
        raise DataError(f"there is no {paths.founding}: nobody has founded the federation {paths.federation}")


def signer(paths: AuditPaths, actor: str) -> Signer:
    """Read an actor's private key.

    Raises:
        DataError: There is none here, or others may read it.
    """
    return keys.load(paths.private_key(actor))


def admit_sites(paths: AuditPaths, opened: Trail, sites: Iterable[str]) -> None:
    """Add demo keys for sites that have none; only a federation founded with demo keys does so by itself.

    Raises:
        DataError: A site has no key and the federation has admins of its own, who must add it.
    """
    known = {record.entry.actor for record in opened.state.register.values()}
    missing = sorted(set(sites) - known)
    if not missing:
        return
    admins = {record.entry.actor for record in opened.state.register.values() if ADMIN in record.entry.roles}
    if admins != {DEMO_ADMIN}:
        raise DataError(
            f"{', '.join(missing)}: no key in the register of {paths.federation}; add one with `python -m flows.audit keys add`"
        )
    with FileLock(paths.founding.parent / ".lock", timeout=LOCK_SECONDS):
        opened.refresh()
        known = {record.entry.actor for record in opened.state.register.values()}
        for site in missing:
            if site not in known:
                _add_site(paths, opened, site)


def _add_site(paths: AuditPaths, opened: Trail, site: str) -> None:
    """Make a site's demo key and add it to the register."""
    entry = demo_entry(paths, site, f"Demo site {site}", (SITE,), site)
    content, why = forms.plain(entry), Why("demo", f"demo key of {site}")
    subject = Subject("key", entry.key, after=documents.content_hash(content))
    created = trail.utc_now().strftime(TIME_FORMAT)
    change = Change(paths.federation, "key.add", subject, why.text, created, content)
    admin = signer(paths, DEMO_ADMIN)
    opened.append(Draft("key.add", why, subject=subject, attached=documents.sign(change, admin)), admin)


def _found_demo(paths: AuditPaths, sites: Iterable[str]) -> None:
    """Make keys for a server, persons and sites, and found the federation with them."""
    entries = [demo_entry(paths, SERVER, "Demo server", (SERVER,))]
    entries += [demo_entry(paths, actor, name, roles) for actor, (name, roles) in DEMO_PERSONS.items()]
    entries += [demo_entry(paths, site, f"Demo site {site}", (SITE,), site) for site in sorted(set(sites))]
    policy = Policy(quorum=1, approvals=1, separate_promoter=True)
    made = foundings.draw_up(paths.federation, entries, policy=policy, created=trail.utc_now().strftime(TIME_FORMAT))
    foundings.write(foundings.sign(made, signer(paths, DEMO_ADMIN)), paths.founding)


def demo_entry(paths: AuditPaths, actor: str, name: str, roles: tuple[str, ...], site: str | None = None) -> KeyEntry:
    """Make an actor's key, or take the one that an interrupted run left."""
    if site is not None and site in TAKEN:
        raise DataError(f"no site can have the name {site}: it is another actor's")
    path = paths.private_key(actor)
    own = keys.load(path) if path.exists() else keys.make(path)
    now = datetime.now(tz=UTC).replace(microsecond=0)
    begins, ends = (moment.strftime(TIME_FORMAT) for moment in (now, now + timedelta(days=DEMO_DAYS)))
    return KeyEntry(actor, name, own.public, roles, begins, ends, site)
