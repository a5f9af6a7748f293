"""How a federation begins, and who may sign what."""

import json
from dataclasses import replace

import pytest

from fedsilo.audit import forms, founding, register
from fedsilo.audit.founding import Policy
from fedsilo.audit.register import KeyRecord
from fedsilo.errors import DataError
from tests import audit_story as tale


@pytest.fixture
def path(tmp_path):
    return founding.write(tale.found(), tmp_path / "founding.json")


def change(path, **changes):
    record = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))


def test_a_founding_reads_back_whatever_its_layout(path):
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))

    assert founding.read(path) == tale.found()
    assert founding.read(path).digest == tale.found().digest


def test_who_signs_twice_counts_once_and_its_hash_does_not_depend_on_who_signed(tmp_path):
    unsigned = founding.draw_up(
        tale.FEDERATION, map(tale.entry, tale.ROLES), policy=Policy(2, 1, separate_promoter=True), created=tale.BEGIN
    )
    once = founding.sign(founding.sign(unsigned, tale.signer("gina")), tale.signer("gina"))

    assert len(once.signatures) == 1
    assert once.digest == unsigned.digest == tale.found().digest
    with pytest.raises(DataError, match="is signed by 1 admins, its quorum is 2"):
        founding.read(founding.write(once, tmp_path / "x.json"))


def test_two_keys_of_one_person_are_one_signature(tmp_path):
    other = replace(tale.entry("bob"), actor="alice")
    entries = [tale.entry("server"), tale.entry("alice"), other, tale.entry("gina")]
    made = founding.draw_up(tale.FEDERATION, entries, policy=Policy(2, 1, separate_promoter=True), created=tale.BEGIN)
    signed = founding.sign(founding.sign(made, tale.signer("alice")), tale.signer("bob"))

    with pytest.raises(DataError, match="is signed by 1 admins, its quorum is 2"):
        founding.read(founding.write(signed, tmp_path / "x.json"))


@pytest.mark.parametrize("name", ["server", "erin", "stranger"])
def test_only_its_admins_sign_it(name):
    with pytest.raises(DataError, match="is no key of an admin of demo"):
        founding.sign(tale.found(), tale.signer(name))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"federation": "another"}, "is not over this founding"),
        ({"policy": {"quorum": 1, "approvals": 1, "separate_promoter": True}}, "is not over this founding"),
        ({"policy": {"quorum": 4, "approvals": 1, "separate_promoter": True}}, "the quorum is 4, there are 3 admins"),
        ({"policy": {"quorum": 0, "approvals": 1, "separate_promoter": True}}, "the quorum is 0"),
        ({"policy": {"quorum": 2, "approvals": 0, "separate_promoter": True}}, "needs at least one approval"),
        ({"policy": {"quorum": 2, "approvals": 1}}, "policy.separate_promoter is missing"),
        ({"created": "today"}, "created is 'today'"),
        ({"note": "x"}, "note is no field"),
        ({"signatures": []}, "signatures is []"),
        ({"signatures": None}, "is signed by 0 admins"),
        ({"keys": []}, "keys is []"),
        ({"created": "2026-01-01T00:00:00.000000Z\n"}, "does not print"),
    ],
)
def test_a_founding_that_was_changed_is_refused(path, changes, reason):
    change(path, **changes)

    with pytest.raises(DataError, match=r".*") as error:
        founding.read(path)
    assert reason in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"federation":"demo","federation":"demo"}'])
def test_what_is_no_founding_is_refused(path, content):
    path.write_text(content)
    with pytest.raises(DataError, match="cannot use"):
        founding.read(path)


def test_a_founding_needs_a_server_and_each_key_once():
    def draw_up(*entries):
        policy = Policy(1, 1, separate_promoter=True)
        return founding.draw_up(tale.FEDERATION, entries, policy=policy, created=tale.BEGIN)

    with pytest.raises(DataError, match="no key of a server"):
        draw_up(tale.entry("alice"))
    with pytest.raises(DataError, match="a key stands in it twice"):
        draw_up(tale.entry("server"), tale.entry("alice"), tale.entry("alice"))
    with pytest.raises(DataError, match="no site can have the name federation"):
        draw_up(tale.entry("server"), tale.entry("alice"), replace(tale.entry("site-a"), site="federation"))
    with pytest.raises(DataError, match="site must stand in the entry of a site's key"):
        draw_up(tale.entry("server"), replace(tale.entry("alice"), site="site-a"))
    with pytest.raises(DataError, match=r"roles is \[\]"):
        draw_up(tale.entry("server"), replace(tale.entry("alice"), roles=()))
    with pytest.raises(DataError, match="not_after must be later"):
        draw_up(tale.entry("server"), replace(tale.entry("alice"), not_before=tale.END))
    with pytest.raises(DataError, match="not_after must be later"):
        draw_up(tale.entry("server"), replace(tale.entry("alice"), not_after=tale.BEGIN))


@pytest.mark.parametrize(
    ("record", "counts"),
    [
        (("2026-03", None), ["2026-03", "2026-05"]),
        (("2026-04", None), ["2026-04", "2026-05"]),
        (("2026-01", None), ["2026-03", "2026-05"]),
        (("2026-01", "2026-05"), ["2026-03", "2026-04"]),
        (("2026-01", "2026-03"), []),
        (("2026-01", "2026-09"), ["2026-03", "2026-05"]),
    ],
)
def test_a_key_counts_from_when_it_was_added_and_valid_until_it_expires_or_is_revoked(record, counts):
    """From its not_before of March to its not_after of June."""
    dated = replace(tale.entry("dave"), not_before="2026-03", not_after="2026-06")
    valid = [month for month in (f"2026-0{number}" for number in range(1, 9)) if KeyRecord(dated, *record).valid_at(month)]

    assert (valid[:1] + valid[-1:]) == counts


def test_the_table_of_roles():
    """Who may sign which kind, as docs/audit.md prints it."""
    may = register.MAY_SIGN

    assert may["approver"] == {"approve", "reject"}
    assert may["admin"] == {"key.add", "key.revoke", "config.change", "log.rotate", "erasure"}
    assert not may["server"] & (may["approver"] | may["promoter"] | may["admin"])
    assert may["server"] & may["site"] == {"evaluate", "drift.report", "incident"}
    for role, kinds in may.items():
        for name in tale.ROLES:
            entry = tale.entry(name)
            for kind in kinds:
                assert register.may_sign(entry, role, kind, "demo/federation") == (role in entry.roles)


def test_a_site_opens_its_own_log_and_no_other():
    entry = tale.entry("site-a")
    assert [register.may_sign(entry, "site", "log.open", f"demo/{name}") for name in ("site-a", "site-b", "federation")] == [
        True,
        False,
        False,
    ]


def test_a_founding_of_the_story_is_plain_json(path):
    assert forms.flaw(founding.Founding, json.loads(path.read_text())) is None
