"""A log in the words of others: a table, W3C PROV and OpenLineage. Made from verified events alone.

References: PROV-JSON, W3C member submission of 24 April 2013; OpenLineage 2-0-2 (`RunEvent`), whose datasets carry a version
facet. Cells of the table that a spreadsheet would run as a formula begin with an apostrophe.
"""

import csv
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence

from fedsilo.audit import canonical, forms
from fedsilo.audit.events import Artifact, Decision, Environment, Event, PrefectRun, Subject, Why
from fedsilo.audit.register import MACHINES

FORMULA = ("=", "+", "-", "@")
NESTED = {"why": Why, "subject": Subject, "env": Environment, "prefect": PrefectRun, "decision": Decision}
LISTS = ("inputs", "outputs")
NAMESPACE = uuid.UUID("6f1c2f0e-7c0b-5a0a-9d53-0d7f1c9b1a55")
PRODUCER = "urn:fedsilo:audit"
RUN_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
VERSION_FACET = "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"


def columns() -> list[str]:
    """Name the table's columns: every field of an event, those of its parts with the part's name before theirs."""
    found = []
    for place in forms.places(Event):
        inner = NESTED.get(place.name)
        found += [place.name] if inner is None else [f"{place.name}_{part.name}" for part in forms.places(inner)]
    return found


def table(events: Iterable[Event]) -> str:
    """Write a row an event as CSV; lists of files as ``name=sha256`` with spaces between, documents as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), lineterminator="\n", restval="")
    writer.writeheader()
    for event in events:
        row: dict[str, str] = {}
        for name, value in forms.plain(event).items():
            if name in NESTED and isinstance(value, dict):
                row |= {f"{name}_{part}": _cell(entry) for part, entry in value.items()}
            else:
                row[name] = _cell(value)
        writer.writerow(row)
    return text.getvalue()


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return canonical.dumps(value).decode("ascii")
    text = " ".join(f"{entry['name']}={entry['sha256']}" for entry in value) if isinstance(value, list) else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def prov(events: Sequence[Event]) -> str:
    """Write PROV-JSON: events are activities, files and subjects entities, actors agents."""
    entities: dict[str, object] = {}
    activities: dict[str, object] = {}
    agents: dict[str, object] = {}
    relations: dict[str, dict[str, object]] = {}

    def relate(relation: str, **ends: str) -> None:
        known = relations.setdefault(relation, {})
        known[f"_:{relation}{len(known)}"] = {f"prov:{end}": name for end, name in ends.items()}

    def entity(name: str, sha256: str) -> str:
        entities[f"fedsilo:sha256-{sha256}"] = {"prov:label": name, "fedsilo:sha256": sha256}
        return f"fedsilo:sha256-{sha256}"

    for event in events:
        activity, agent = f"fedsilo:{event.log}-{event.seq}", f"fedsilo:actor-{event.actor}"
        activities[activity] = {
            "prov:startTime": event.ts,
            "prov:endTime": event.ts,
            "prov:type": event.kind,
            "prov:label": event.why.text,
        }
        kind = "prov:SoftwareAgent" if event.role in MACHINES else "prov:Person"
        agents[agent] = {"prov:type": {"$": kind, "type": "xsd:QName"}, "prov:label": event.actor_name}
        relate("wasAssociatedWith", activity=activity, agent=agent)
        used, made = _ends(event)
        for artifact in used:
            relate("used", activity=activity, entity=entity(artifact.name, artifact.sha256))
        for artifact in made:
            relate("wasGeneratedBy", entity=entity(artifact.name, artifact.sha256), activity=activity)
        if event.subject is not None and event.subject.before and event.subject.after:
            before, after = (entity(event.subject.name, _hex(end)) for end in (event.subject.before, event.subject.after))
            relate("wasDerivedFrom", generatedEntity=after, usedEntity=before, activity=activity)
    document = {"prefix": {"fedsilo": "urn:fedsilo:"}, "entity": entities, "activity": activities, "agent": agents}
    return json.dumps(document | relations, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def openlineage(events: Iterable[Event]) -> str:
    """Write OpenLineage run events, one a line: the events that files went into or came out of."""
    return "".join(json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n" for entry in _runs(events))


def _runs(events: Iterable[Event]) -> Iterator[dict[str, object]]:
    for event in events:
        used, made = _ends(event)
        if not used and not made:
            continue
        # a run has a start and an end; the trail knows when something was done, so both have one time
        for moment in ("START", "COMPLETE"):
            yield {
                "eventType": moment,
                "eventTime": event.ts,
                "producer": PRODUCER,
                "schemaURL": RUN_EVENT,
                "run": {"runId": str(uuid.uuid5(NAMESPACE, f"{event.log}/{event.seq}/{event.sig}"))},
                "job": {"namespace": event.log, "name": event.kind if event.site is None else f"{event.kind}.{event.site}"},
                "inputs": [_dataset(event.log, artifact) for artifact in used],
                "outputs": [_dataset(event.log, artifact) for artifact in made],
            }


def _dataset(log: str, artifact: Artifact) -> dict[str, object]:
    version = {"_producer": PRODUCER, "_schemaURL": VERSION_FACET, "datasetVersion": f"sha256:{artifact.sha256}"}
    return {"namespace": log.partition("/")[0], "name": artifact.name, "facets": {"version": version}}


def _ends(event: Event) -> tuple[tuple[Artifact, ...], tuple[Artifact, ...]]:
    """Give what went in and what came out; a subject goes in as it was before and comes out as it was after."""
    subject = event.subject
    before = () if subject is None or subject.before is None else (Artifact(subject.name, _hex(subject.before)),)
    after = () if subject is None or subject.after is None else (Artifact(subject.name, _hex(subject.after)),)
    return event.inputs + before, event.outputs + after


def _hex(value: str) -> str:
    return value.removeprefix("sha256:")
