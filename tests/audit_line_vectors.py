"""Logs with one fault each in the form, place or signer of a line, chained and signed anew so that one check refuses them."""

import base64
import json
from dataclasses import replace

from fedsilo.audit import canonical, forms
from fedsilo.audit.documents import domain
from fedsilo.audit.events import Artifact, Decision, Draft, Subject, Why
from fedsilo.audit.register import KeyEntry
from tests import audit_story as tale
from tests.audit_faults import vector
from tests.audit_story import INCIDENT, WHY, Story, carried, hash_of, hex_of, judged, model, opened, order, resigned, signer


@vector
def whole_lines():
    story = opened().add(INCIDENT)
    return story, {"content": story.content[:-1]}


@vector
def plain_values():
    draft = Draft("order.accept", WHY, site="site-a", round_index=0, attached=resigned(order(), "server", deadline=0.5))
    return opened().add(draft, "site-a")


@vector
def plain_values__too_large():
    draft = Draft("order.accept", WHY, site="site-a", round_index=0, attached=resigned(order(), "server", deadline=2**53))
    return opened().add(draft, "site-a")


@vector
def plain_values__unprintable():
    return opened().add(replace(INCIDENT, why=Why("request", "two\nlines")))


@vector
def event_form():
    return opened().add(INCIDENT, note="beside the point")


@vector
def event_form__version():
    return opened().add(INCIDENT, v=2)


@vector
def event_form__version_that_is_no_number():
    return opened().add(INCIDENT, v=True)


@vector
def event_form__nested():
    return opened().add(INCIDENT, why={"request": "1", "text": "because", "more": "than that"})


@vector
def event_form__null():
    story = opened()
    record = tale.sign_line({**story.fields(INCIDENT, "server"), "meaning": None}, "server")
    story.lines.append(canonical.dumps(record))
    return story


@vector
def event_form__unknown_meaning():
    return opened().add(replace(INCIDENT, meaning="witness"))


@vector
def event_form__base64_of_many_forms():
    story = opened()
    record = story.fields(INCIDENT, "server")
    sig = record["sig"]
    other = {"A": "B", "Q": "R", "g": "h", "w": "x"}[sig[85]]  # decodes to the same bytes: two bits are left over
    story.lines.append(canonical.dumps({**record, "sig": f"{sig[:85]}{other}=="}))
    return story


@vector
def kind_form():
    return opened().add(Draft("round.open", WHY))


@vector
def kind_form__no_model():
    return opened().add(Draft("evaluate", WHY, subject=Subject("data", "x", after=hash_of("x"))), "site-a")


@vector
def kind_form__no_hash_of_the_model():
    return opened().add(Draft("evaluate", WHY, subject=Subject("model", "global", before=hash_of("x"))), "site-a")


@vector
def kind_form__no_subject():
    return opened().add(Draft("evaluate", WHY), "site-a")


@vector
def kind_form__unknown_verdict():
    story = opened().add(Draft("evaluate", WHY, subject=model("first")))
    return story.add(Draft("gate.verdict", WHY, subject=model("first"), decision=Decision("gate", "good", hash_of("gate"))))


@vector
def kind_form__verdict_without_numbers():
    story = opened().add(Draft("evaluate", WHY, subject=model("first")))
    return story.add(Draft("gate.verdict", WHY, subject=model("first"), decision=Decision("gate", "pass")))


@vector
def document_form():
    return opened().add(replace(INCIDENT, attached=order()))


@vector
def document_form__more_than_an_approval():
    return carried(resigned(tale.approval("first"), "dave", note="and more"))


@vector
def change_content():
    content = forms.plain(tale.entry("new-server"))
    return opened().change("key.add", "alice", tale.key_subject(signer("new-server").key, {"another": "content"}), content)


@vector
def change_content__another_name():
    content = forms.plain(tale.entry("new-server"))
    return opened().change("key.add", "alice", tale.key_subject(signer("stranger").key, content), content)


@vector
def change_content__machine_and_person():
    content = {**forms.plain(tale.entry("new-server")), "roles": ["server", "admin"]}
    return opened().change("key.add", "alice", tale.key_subject(signer("new-server").key, content), content)


@vector
def change_content__key_that_anybody_signs_with():
    content = {**forms.plain(tale.entry("new-server")), "public": base64.b64encode(b"\x01" + bytes(31)).decode()}
    subject = tale.key_subject(forms.build(KeyEntry, content).key, content)
    return opened().change("key.add", "alice", subject, content)


@vector
def change_content__site_called_federation():
    content = {**forms.plain(tale.entry("new-server")), "roles": ["site"], "site": "federation"}
    return opened().change("key.add", "alice", tale.key_subject(signer("new-server").key, content), content)


@vector
def change_content__of_a_configuration():
    content = {"rounds": 3}
    return opened().change("config.change", "alice", Subject("params", "params.yaml", after=hash_of("x")), content)


@vector
def canonical_line():
    story = opened()
    story.lines.append(canonical.dumps(story.fields(INCIDENT, "server")).replace(b'","', b'", "', 1))
    return story


@vector
def canonical_line__order_of_keys():
    story = opened()
    record = story.fields(INCIDENT, "server")
    turned = dict(reversed(record.items()))
    story.lines.append(json.dumps(turned, separators=(",", ":")).encode())
    return story


@vector
def own_log():
    return opened().add(INCIDENT, log="demo/another")


@vector
def place():
    return opened().add(INCIDENT, seq=2)


@vector
def chain():
    return opened().add(INCIDENT, prev=hash_of("another line"))


@vector
def later():
    return opened().add(INCIDENT, ts=tale.BEGIN)


@vector
def later__same_time():
    return opened().add(INCIDENT, ts="2026-01-01T00:00:01.000000Z")


@vector
def held_clock():
    return opened().add(INCIDENT, clock_held=True)


@vector
def known_key():
    return opened().add(INCIDENT, "stranger")


@vector
def own_name():
    return opened().add(INCIDENT, actor_name="Somebody")


@vector
def own_name__another_actor():
    return opened().add(INCIDENT, actor="alice")


@vector
def own_role():
    return carried(tale.approval("first"), by="site-a", role="server")


@vector
def own_site():
    return opened().add(Draft("data.validate", WHY, site="site-b"), "site-a")


@vector
def key_in_time():
    return opened().add(Draft("round.open", WHY, round_index=0), "old-server")


@vector
def authority():
    return opened().add(Draft("export", WHY, outputs=(Artifact("trail.csv", hex_of("trail")),)))


@vector
def authority__approver_promotes():
    return judged().approve("first", by="carol").add(Draft("promote", WHY, subject=model("first")), "dave")


@vector
def authority__site_recovers_the_log_of_the_federation():
    return opened().add(Draft("log.recover", WHY, subject=Subject("tail", "x", before=hash_of("x"))), "site-a")


@vector
def authority__site_in_the_log_of_another():
    story = Story("site-b")
    subject = Subject("founding", tale.FEDERATION, after=story.founding.digest)
    return story.add(Draft("log.open", WHY, subject=subject), "site-b").add(INCIDENT, "site-a")


@vector
def event_signature():
    story = opened()
    return story.add(INCIDENT), {"content": story.content.replace(b"because", b"be cause")}


@vector
def event_signature__another_key():
    story = opened()
    record = tale.sign_line(story.fields(INCIDENT, "server"), "stranger")
    story.lines.append(canonical.dumps(record))
    return story


@vector
def event_signature__another_domain():
    story = opened()
    record = {key: value for key, value in story.fields(INCIDENT, "server").items() if key != "sig"}
    record["sig"] = tale.raw_signature("server", domain("order"), record)
    story.lines.append(canonical.dumps(record))
    return story
