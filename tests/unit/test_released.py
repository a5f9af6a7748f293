"""What a release says of its model: numbers a patient at a time, and nothing that the run does not know."""

import pytest
import torch

from fedsilo.evaluation import agreement, cases
from fedsilo.evaluation.metrics import Score
from fedsilo.report import released
from fedsilo.report.released import Facts


def table(tmp_path, *entries):
    """A cases table with an entry a case: patient, case, method and Dice."""
    found = []
    for patient, case, method, value in entries:
        found += cases.rows(
            [Score("liver", "dice", value, "1", "" if value is not None else "absent")], cohort="demo", site="ct-a", role="inside",
            patient=patient, case=case, method=method, seed=42, round_index=None, spacing_mm=None, model="0" * 64,
        )  # fmt: skip
    return cases.read(cases.write(found, tmp_path / "cases.csv"))


def test_a_patient_counts_once(tmp_path):
    entries = [("p1", "a", "global", 0.2), ("p1", "b", "global", 0.4), ("p2", "c", "global", 0.9), ("p3", "d", "global", None)]
    (row,) = released.rows(table(tmp_path, *entries, ("p1", "a", "local", 1.0)))

    assert (row.method, row.organ, row.mean, row.num_patients) == ("global", "liver", pytest.approx(0.6), 2)


@pytest.fixture
def facts(tmp_path):
    return Facts(
        name="demo/model",
        version="v1.1.0",
        model="sha256:" + "a" * 64,
        replaces="sha256:" + "b" * 64,
        why="more patients",
        created="2026-05-01T00:00:00.000000Z",
        record={"identity": {"organs": ["background", "liver"], "manifest_sha256": {"ct-a": "c" * 64}}, "rounds": 18},
        environment={"python": "3.11.2"},
        verdict={"verdict": "inconclusive"},
        verdict_sha256="sha256:" + "d" * 64,
        approvals=[
            {"key": "ed25519:1", "reason": "needed", "meaning": "approval", "created": "x", "missing": "patients of mr-b"}
        ],
        rows=released.rows(table(tmp_path, ("p1", "a", "inside", 0.5))),
    )


def test_card_and_documentation_name_evidence_and_gaps(facts):
    card, text, annex = released.card(facts), released.card_text(facts), released.annex_iv(facts)

    assert card["gate"] == {"verdict": "inconclusive", "sha256": facts.verdict_sha256}
    assert card["approvals"][0]["missing"] == "patients of mr-b"
    for told in (text, annex):
        assert "| ct-a | inside | liver | inside | 0.500 | 1 |" in told
        assert facts.replaces in told
    assert "- approved with missing evidence: patients of mr-b" in annex
    assert f"- ct-a: manifest sha256 `{'c' * 64}`" in annex


def test_volumes_of_two_models_are_in_millilitres():
    first = torch.tensor([[[1, 1, 0, 2]]], dtype=torch.uint8)
    second = torch.tensor([[[1, 0, 0, 2]]], dtype=torch.uint8)
    liver, spleen, kidneys = agreement.compare(
        first, second, organs={1: "liver", 2: "spleen", 3: "kidneys"}, spacing_mm=(10, 10, 20)
    )

    assert (liver.dice, liver.candidate, liver.champion, liver.unit) == (pytest.approx(2 / 3), 4.0, 2.0, "ml")
    assert spleen.dice == 1.0
    assert (kidneys.dice, kidneys.candidate) == (None, 0.0)
