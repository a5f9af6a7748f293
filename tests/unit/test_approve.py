"""`python -m flows.approve`: a yes or no counts if a person who may say it signed it, on the verdict that was given, in time."""

import json
from datetime import datetime, timedelta

import pytest

from fedsilo.audit import approvals, canonical, documents, keys
from fedsilo.audit.documents import Approval
from fedsilo.errors import DataError
from flows import approve
from tests.unit.release_scene import Scene, found_with_two_approvers


@pytest.fixture
def scene(tmp_path, capsys):
    """A workspace with a candidate that passed the gate."""
    made = Scene(tmp_path, capsys)
    made.train("demo")
    return made


def signed(scene, name="demo", key="demo-approver"):
    """Sign a yes for the way; give its file."""
    out = scene.folder / f"{key}-{name}.json"
    code, said, err = scene.approve(name, "--out", out, key=key)
    assert (code, err) == (0, "")
    assert said == f"wrote {out}; nothing is decided until it is appended\n"
    return out


def append(scene, document, *more):
    return scene.said(approve.main, "--document", document, *more)


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_what_a_person_signs_here_is_in_the_trail(scene, decision):
    code, out, err = scene.approve("demo", decision=decision)

    assert (code, err) == (0, "")
    assert out.endswith(f"{decision} of {scene.model('demo')} by demo-approver\n")
    (event,) = scene.events("approve", "reject")
    assert (event.kind, event.why.text, event.meaning) == (decision, f"{decision} demo", "approval")
    assert (event.subject.name, event.subject.after) == ("demo/global", scene.model("demo"))
    assert event.attached["verdict"] == event_hash(scene)


def event_hash(scene):
    (event,) = scene.events("gate.verdict")
    return event.decision.metrics_ref


def test_a_document_that_is_carried_is_appended_once(scene):
    document = signed(scene)
    assert scene.events("approve") == []

    assert append(scene, document)[0] == 0
    code, _, err = append(scene, document)
    assert code == 1
    assert "the attached document was used before" in err
    assert len(scene.events("approve")) == 1


def altered(record):
    return {**record, "reason": "another reason"}


def unsigned(record):
    return {name: value for name, value in record.items() if name != "sig"}


def foreign(record):
    fields = {name: value for name, value in record.items() if name not in documents.ENVELOPE}
    return documents.sign(Approval(**fields), keys.of_seed(b"7" * 32))


def of_another_federation(record):
    return {**record, "federation": "other"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (altered, "the signature of the attached document is not one of"),
        (unsigned, "attached.sig is missing"),
        (foreign, "is not in the register"),
        (of_another_federation, "signature of the attached document"),
    ],
)
def test_a_document_that_nobody_who_may_signed_does_nothing(scene, change, reason):
    document = signed(scene)
    document.write_text(json.dumps(change(json.loads(document.read_text()))))

    code, out, err = append(scene, document)
    assert (code, out) == (1, "")
    assert reason in err
    assert scene.events("approve", "reject") == []


def test_whoever_is_no_approver_approves_nothing(scene):
    code, _, err = scene.approve("demo", key="demo-promoter")
    assert code == 1
    assert "is no approver" in err
    assert scene.events("approve") == []


def test_a_yes_to_another_verdict_does_nothing(scene):
    document = signed(scene)
    (scene.folder / "verdict-demo.json").write_text("{}")
    code, _, err = scene.approve("demo")
    assert code == 1
    assert "the document is about the verdict" in err
    scene.train("demo-2", judged=False).write_text("{}")
    code, _, err = scene.approve("demo-2")
    assert code == 1
    assert "the gate has given no verdict on" in err
    assert append(scene, document)[0] == 0


def test_a_document_that_waited_too_long_is_a_no(scene):
    document = signed(scene)
    code, _, err = append(scene, document, "--hours", "0")
    assert code == 1
    assert "expired after 0 hours" in err
    assert scene.events("approve") == []

    record = json.loads(document.read_text())
    created = datetime.fromisoformat(record["created"])
    approvals.check_in_time(record, created + timedelta(hours=72), 72)
    with pytest.raises(DataError, match="expired after 72 hours: sign anew"):
        approvals.check_in_time(record, created + timedelta(hours=72, seconds=1), 72)


def test_an_inconclusive_verdict_takes_the_missing_evidence(scene):
    scene.train("demo-2", verdict="inconclusive")
    code, _, err = scene.approve("demo-2")
    assert code == 1
    assert "whose verdict is inconclusive" in err
    assert scene.approve("demo-2", "--missing", "patients of site mr-b")[0] == 0


def test_what_is_shown_is_what_is_signed(scene):
    code, out, err = scene.approve("demo", "--show")
    assert (code, err) == (0, "")
    *said, line, end = out.split("\n")
    assert (said[0], end) == ("decision: approve", "")
    assert f"candidate: {scene.model('demo')}" in said
    signer = keys.load(scene.key("demo-approver"))
    record = json.loads(line)
    assert canonical.dumps(record).decode() == line
    carried = json.dumps({**record, "sig": signer.sign(documents.domain("approval"), record)})
    assert scene.events("approve") == []

    # a form transports it
    path = scene.folder / "carried.json"
    path.write_text(json.dumps(approvals.from_form("approve", "approve demo", carried)))
    assert append(scene, path)[0] == 0


def test_a_form_that_says_other_than_what_was_signed_is_refused(scene):
    text = signed(scene).read_text()

    assert approvals.from_form("approve", "approve demo", text)["candidate"] == scene.model("demo")
    with pytest.raises(DataError, match='the decision that was entered is not the one that was signed: "approve"'):
        approvals.from_form("reject", "approve demo", text)
    with pytest.raises(DataError, match="the reason that was entered"):
        approvals.from_form("approve", "I did not read it", text)
    for nothing in ("", "yes", "{}", '{"type": "release"}', text.replace('"approve"', '"perhaps"')):
        with pytest.raises(DataError):
            approvals.from_form("approve", "approve demo", nothing)


def test_nobody_approves_where_nobody_founded(tmp_path, scene):
    document = signed(scene)
    code, _, err = scene.said(approve.main, "--document", document, "--federation", "other")
    assert code == 1
    assert "nobody has founded the federation other" in err
    assert not (tmp_path / "audit" / "other").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "expected --candidate"),
        (["--candidate", "0" * 64], "expected --candidate"),
        (["--document", "x", "--show"], "--document stands alone"),
        (["--document", "x", "--key", "y"], "--document stands alone"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(options, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        approve.main(options)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_file_that_is_missing_is_named(scene):
    code, _, err = append(scene, scene.folder / "none.json")
    assert code == 1
    assert "none.json: No such file" in err
    (scene.folder / "verdict-demo.json").unlink()
    code, _, err = scene.approve("demo")
    assert code == 1
    assert "verdict-demo.json: there is no such file" in err


def test_two_persons_if_the_policy_says_so(tmp_path, capsys):
    scene = Scene(tmp_path, capsys)
    found_with_two_approvers(scene)
    scene.train("demo")

    assert scene.approve("demo", key="ann")[0] == 0
    assert scene.approve("demo", key="ben")[0] == 0
    assert [event.attached["key"] for event in scene.events("approve")] == [
        keys.load(scene.key(name)).key for name in ("ann", "ben")
    ]
