"""A log as a table, as W3C PROV and as OpenLineage."""

import csv
import io
import json
import uuid
from datetime import datetime

import pytest

from fedsilo.audit import exports, verifier
from fedsilo.audit.events import Artifact, Draft, Event, Why
from tests import audit_story as tale


@pytest.fixture(scope="module")
def events():
    return verifier.read_events(tale.whole().content)


@pytest.fixture(scope="module")
def document(events):
    return json.loads(exports.prov(events))


@pytest.fixture(scope="module")
def runs(events):
    return [json.loads(line) for line in exports.openlineage(events).splitlines()]


class TestTable:
    def test_a_row_an_event_with_every_field(self, events):
        rows = list(csv.DictReader(io.StringIO(exports.table(events))))

        assert len(rows) == len(events)
        for row, line in zip(rows, tale.whole().lines, strict=True):
            record = json.loads(line)
            assert {name: row[name] for name in ("event", "actor", "actor_name", "role", "prev", "sig", "ts")} == {
                name: record[name] for name in ("event", "actor", "actor_name", "role", "prev", "sig", "ts")
            }
            assert row["why_text"] == record["why"]["text"]
            assert row["subject_after"] == record.get("subject", {}).get("after", "")
            assert (json.loads(row["attached"]) if row["attached"] else None) == record.get("attached")

    def test_values_by_eye(self, events):
        rows = list(csv.DictReader(io.StringIO(exports.table(events))))

        assert (rows[2]["round"], rows[2]["env_dirty"], rows[2]["prefect_deployment"]) == ("0", "false", "nightly")
        first, second = tale.hex_of("update site-a"), tale.hex_of("update site-b")
        assert rows[5]["inputs"] == f"site-a.safetensors={first} site-b.safetensors={second}"
        assert rows[22]["why_text"] == "Zo\u00eb saw a na\u00efve threshold"

    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x"])
    def test_a_spreadsheet_runs_no_cell(self, text):
        story = tale.opened().add(Draft("incident", Why(text, text), outputs=(Artifact(text, tale.hex_of("x")),)))
        (_, row) = csv.DictReader(io.StringIO(exports.table(verifier.read_events(story.content))))

        assert (row["why_request"], row["why_text"]) == (f"'{text}", f"'{text}")
        assert row["outputs"] == f"'{text}={tale.hex_of('x')}"


class TestProv:
    def test_it_has_the_parts_of_prov_json(self, document):
        """Member submission PROV-JSON, 24 April 2013: relations by blank ids, ends named with the prefix prov."""
        ends = {
            "wasAssociatedWith": {"prov:activity", "prov:agent"},
            "used": {"prov:activity", "prov:entity"},
            "wasGeneratedBy": {"prov:entity", "prov:activity"},
            "wasDerivedFrom": {"prov:generatedEntity", "prov:usedEntity", "prov:activity"},
        }
        assert document.keys() == {"prefix", "entity", "activity", "agent", *ends}
        for relation, names in ends.items():
            for name, entry in document[relation].items():
                assert name.startswith("_:")
                assert entry.keys() == names

    def test_what_relations_name_is_there(self, document):
        known = document["entity"].keys() | document["activity"].keys() | document["agent"].keys()
        relations = [entry for name in document if name[0] in "uw" for entry in document[name].values()]

        assert {end for entry in relations for end in entry.values()} <= known
        assert all(name.startswith("fedsilo:") for name in known)
        assert len(document["activity"]) == len(tale.whole().lines)

    def test_the_first_model_came_from_both_updates(self, document):
        model = f"fedsilo:sha256-{tale.hex_of('first')}"
        makers = {entry["prov:activity"] for entry in document["wasGeneratedBy"].values() if entry["prov:entity"] == model}
        used = {
            entry["prov:entity"] for entry in document["used"].values() if entry["prov:activity"] == "fedsilo:demo/federation-5"
        }

        assert "fedsilo:demo/federation-5" in makers
        assert used == {f"fedsilo:sha256-{tale.hex_of(f'update {site}')}" for site in ("site-a", "site-b")}

    def test_persons_and_machines_are_told_apart(self, document):
        kinds = {name: agent["prov:type"]["$"] for name, agent in document["agent"].items()}

        assert kinds["fedsilo:actor-erin"] == "prov:Person"
        assert kinds["fedsilo:actor-server"] == "prov:SoftwareAgent"


class TestOpenLineage:
    def test_every_run_starts_and_completes(self, runs):
        by_run = {}
        for run in runs:
            by_run.setdefault(run["run"]["runId"], []).append(run["eventType"])

        assert set(map(tuple, by_run.values())) == {("START", "COMPLETE")}
        assert all(uuid.UUID(name) for name in by_run)

    def test_it_has_what_the_schema_asks_for(self, runs):
        """OpenLineage 2-0-2: RunEvent with run and job; datasets with namespace and name; facets with _producer and _schemaURL."""
        for run in runs:
            assert {"eventType", "eventTime", "run", "job", "producer", "schemaURL"} <= run.keys()
            assert datetime.fromisoformat(run["eventTime"]).utcoffset().total_seconds() == 0
            assert run["job"].keys() == {"namespace", "name"}
            for dataset in (*run["inputs"], *run["outputs"]):
                assert {"namespace", "name"} <= dataset.keys()
                assert {"_producer", "_schemaURL", "datasetVersion"} == dataset["facets"]["version"].keys()

    def test_events_without_files_are_no_runs(self, runs, events):
        jobs = {run["job"]["name"] for run in runs}
        assert {"aggregate", "evaluate.site-a", "data.accept.site-a"} <= jobs
        assert not {"round.open", "retrain.decision", "incident.site-a"} & jobs


def test_every_nested_part_has_columns():
    from fedsilo.audit import forms

    inner = {place.name for place in forms.places(Event) if place.part is not None and not place.many}
    many = {place.name for place in forms.places(Event) if place.many}
    assert inner == exports.NESTED.keys()
    assert many == set(exports.LISTS)
