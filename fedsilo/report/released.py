"""What a release says of its model to people: numbers from its cases tables, a model card, technical documentation.

Everything comes from the run's record, its cases tables, the gate's verdict and signed documents; nothing from a model or image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import pandas

from fedsilo.evaluation import statistics

METHODS = ("global", "inside")
"""Whose numbers a release shows: the models that it consists of."""
DECIMALS = 6

Numbers = dict[str, object]


@dataclass(frozen=True)
class Row:
    """The mean over patients of one metric of one organ at a site, by one of the release's models."""

    role: str
    site: str
    organ: str
    method: str
    metric: str
    unit: str
    mean: float
    num_patients: int


@dataclass(frozen=True)
class Facts:
    """What card and documentation are written from.

    Attributes:
        name: Of the model in use, as the trail has it.
        version: Of the release.
        model: Hash of the global model.
        replaces: Hash of the model in use before.
        why: Reason of the promotion.
        created: When.
        record: The run's federation.json.
        environment: Code, lock files and versions that the release was made with.
        verdict: The gate's verdict as it was written.
        verdict_sha256: Its hash.
        approvals: Documents by which the model was approved.
        rows: Its numbers.
    """

    name: str
    version: str
    model: str
    replaces: str | None
    why: str
    created: str
    record: Mapping[str, object]
    environment: Mapping[str, object]
    verdict: Mapping[str, object]
    verdict_sha256: str
    approvals: Sequence[Mapping[str, object]]
    rows: Sequence[Row]

    @property
    def organs(self) -> list[str]:
        """Organs that the model marks."""
        identity = self.record.get("identity")
        found = identity.get("organs") if isinstance(identity, dict) else None
        return [str(organ) for organ in found[1:]] if isinstance(found, list) else []

    @property
    def inside_sites(self) -> list[str]:
        """Sites whose data the model was trained on."""
        rounds = self.record.get("inside_rounds")
        return sorted(str(site) for site in rounds) if isinstance(rounds, dict) else []


def rows(cases: pandas.DataFrame) -> list[Row]:
    """Average a cases table over patients, of each metric that is defined for any."""
    found = []
    known = cases[cases["method"].isin(METHODS) & cases["value"].notna()]
    names = ["role", "site", "organ", "method", "metric", "unit"]
    for key, part in known.groupby(names, sort=True):
        patients = statistics.patient_means(part["value"], part["patient"])
        mean = round(float(numpy.mean(list(patients.values()))), DECIMALS)
        role, site, organ, method, metric, unit = map(str, key)
        found.append(Row(role, site, organ, method, metric, unit, mean, len(patients)))
    return found


def metrics(found: Sequence[Row]) -> Numbers:
    """Write the numbers as JSON: one entry a row, in order."""
    return {"rows": [vars(row) for row in found]}


def card(facts: Facts) -> Numbers:
    """Write the model card as JSON."""
    return {
        "model": facts.name,
        "version": facts.version,
        "sha256": facts.model,
        "replaces": facts.replaces,
        "released": facts.created,
        "why": facts.why,
        "intended_use": "research; not a medical device",
        "organs": facts.organs,
        "inside_sites": facts.inside_sites,
        "rounds": facts.record.get("rounds"),
        "seed": facts.record.get("seed"),
        "num_parameters": facts.record.get("num_parameters"),
        "gate": {"verdict": facts.verdict.get("verdict"), "sha256": facts.verdict_sha256},
        "approvals": [_approval(document) for document in facts.approvals],
        "dice": [vars(row) for row in facts.rows if row.metric == "dice"],
    }


def card_text(facts: Facts) -> str:
    """Write the model card for people."""
    lines = [
        f"# {facts.name} {facts.version}",
        "",
        f"Segments {', '.join(facts.organs)}. Research; not a medical device. Released {facts.created}: {facts.why}",
        "",
        f"- global model: `{facts.model}`",
        f"- replaces: {f'`{facts.replaces}`' if facts.replaces else 'nothing, it is the first'}",
        f"- trained at {', '.join(facts.inside_sites)}; {facts.record.get('rounds')} rounds, seed {facts.record.get('seed')}",
        f"- gate: {facts.verdict.get('verdict')} (`{facts.verdict_sha256}`)",
        *[f"- approved: {document['reason']} (`{document['key']}`, {document['created']})" for document in facts.approvals],
        "",
        "## Dice, mean over test patients",
        "",
        *_table(facts, "dice"),
    ]
    return "\n".join([*lines, ""])


def annex_iv(facts: Facts) -> str:
    """Write what this run can say under the headings of Annex IV of Regulation (EU) 2024/1689; a provider adds the rest."""
    network = facts.record.get("network")
    identity = facts.record.get("identity")
    data = identity.get("manifest_sha256") if isinstance(identity, dict) else None
    hashes = [f"- {site}: manifest sha256 `{value}`" for site, value in sorted(data.items())] if isinstance(data, dict) else []
    approvals = [f"- {document['meaning']}: {document['reason']} (`{document['key']}`)" for document in facts.approvals]
    missing = [f"- approved with missing evidence: {entry['missing']}" for entry in facts.approvals if "missing" in entry]
    lines = [
        f"# Technical documentation of {facts.name} {facts.version}",
        "",
        "Headings of Annex IV of Regulation (EU) 2024/1689, filled from the run. What no run knows (intended purpose in use,",
        "instructions, post-market plan, declaration of conformity) the provider adds.",
        "",
        "## 1. General description",
        f"Version {facts.version} of {facts.name}, sha256 `{facts.model}`; marks {', '.join(facts.organs)} on CT and MR images.",
        f"It replaces {f'`{facts.replaces}`' if facts.replaces else 'no earlier version'}.",
        "",
        "## 2. Elements and development",
        f"Network: {network}; {facts.record.get('num_parameters')} parameters; {facts.record.get('rounds')} federated rounds,",
        f"seed {facts.record.get('seed')}. Code and environment: {_listed(facts.environment)}.",
        "Training data, which stay at their sites:",
        *hashes,
        "",
        "## 3. Monitoring, functioning and control",
        "Test patients' Dice by site and organ:",
        "",
        *_table(facts, "dice"),
        "",
        "## 4. Appropriateness of the metrics",
        "Dice on the native grid and surface distances, a patient as the unit; definitions in docs/method.md.",
        "",
        "## 5. Risk management",
        f"The gate's verdict against the model in use: {facts.verdict.get('verdict')}, `{facts.verdict_sha256}` (verdict.json).",
        *missing,
        "",
        "## 6. Changes through the lifecycle",
        f"Reason of this release: {facts.why}",
        *approvals,
        "",
        "## 7. Standards, 8. Declaration of conformity",
        "By the provider.",
        "",
        "## 9. Post-market performance",
        "Drift reports and decisions to retrain are in the audit trail; the provider's plan is added here.",
    ]
    return "\n".join([*lines, ""])


def _table(facts: Facts, metric: str) -> list[str]:
    head = ["| site | role | organ | model | mean | patients |", "|---|---|---|---|---|---|"]
    shown = [row for row in facts.rows if row.metric == metric]
    return head + [
        f"| {row.site} | {row.role} | {row.organ} | {row.method} | {row.mean:.3f} | {row.num_patients} |" for row in shown
    ]


def _approval(document: Mapping[str, object]) -> Numbers:
    return {name: document[name] for name in ("key", "reason", "meaning", "created", "missing") if name in document}


def _listed(record: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(record.items()))
