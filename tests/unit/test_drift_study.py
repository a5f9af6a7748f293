"""The table of drift's rates: docs/drift.md shows what the study wrote, and alarms without drift are as rare as they say."""

import csv


def test_the_document_shows_the_study_s_tables(repository):
    shown = (repository / "docs/drift.md").read_text()

    for part in (repository / "studies/drift/results/table.md").read_text().strip().split("\n\n"):
        assert part in shown


def test_without_drift_alarms_are_rare_and_with_a_strong_one_sure(repository):
    with (repository / "studies/drift/results/rates.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    none = [float(row["alarm"]) for row in rows if row["drift"] == "none"]
    strong = [float(row["alarm"]) for row in rows if row["drift"] in ("gamma 1.4", "noise x 2") and row["num_cases"] != "10"]

    assert len(none) == 6
    assert max(none) <= 0.08  # 300 windows each: at a rate of 5 % six of them stay below with a chance of 95 %
    assert min(strong) > 0.95
