"""The FedGIN studies: every overlay gives valid params, and the summary counts patients and corrects what it tests."""

import sys

import pandas
import pytest
import yaml

from fedsilo.cohort import roster
from fedsilo.evaluation import cases, statistics

SEEDS = (1, 2, 3)
GAINS = {"mr-a": 0.10, "mr-b": 0.20, "ct-a": -0.05}
ORGANS = {"liver": 0.0, "spleen": -0.2}
PATIENTS = 7


@pytest.fixture(scope="module")
def summarise(repository):
    """The study's script as a module."""
    sys.path.insert(0, str(repository / "studies" / "fedgin"))
    import summarise as module

    yield module
    sys.path.remove(str(repository / "studies" / "fedgin"))


def runs_of(stage, variables):
    """Scenario and method of every run of a stage, from its matrix."""
    axes = {
        name: variables[path.strip("${}").split(".")[0]][path.strip("${}").split(".")[1]]
        for name, path in stage["matrix"].items()
        if name != "seed"
    }
    tasks = axes.get("task", [None])
    return [(task, scenario, method) for task in tasks for scenario in axes["scenario"] for method in axes["method"]]


@pytest.mark.parametrize("study", ["fedgin", "fedgin-real"])
def test_every_run_of_a_study_has_valid_params(repository, study):
    folder = repository / "studies" / study
    tree = yaml.safe_load((folder / "dvc.yaml").read_text())
    variables = {name: value for entry in tree["vars"] if isinstance(entry, dict) for name, value in entry.items()}
    seen = 0
    for stage in tree["stages"].values():
        if "scenario" not in stage.get("matrix", {}):
            continue
        for task, scenario, method in runs_of(stage, variables):
            cohort = folder / "cohorts" / f"{task}.yaml" if task else folder / "cohort.yaml"
            name = f"{task}-{scenario}" if task else scenario
            overlays = [folder / "base.yaml", folder / "scenarios" / f"{name}.yaml"]
            overlays.append(repository / "studies" / "fedgin" / "methods" / f"{method}.yaml")
            entry, params = roster.load_run(cohort, repository / "params.yaml", overlays=overlays)
            assert params.federate.participants
            assert entry.inside
            seen += 1
    assert seen > 20


def test_no_overlay_is_left_over(repository):
    for study in ("fedgin", "fedgin-real"):
        graph = (repository / "studies" / study / "dvc.yaml").read_text()
        for path in (repository / "studies" / study / "scenarios").glob("*.yaml"):
            scenario = path.stem.partition("-")[2] if study == "fedgin-real" else path.stem
            assert scenario in graph, path
    graphs = "".join((repository / "studies" / study / "dvc.yaml").read_text() for study in ("fedgin", "fedgin-real"))
    for path in (repository / "studies" / "fedgin" / "methods").glob("*.yaml"):
        assert path.stem in graphs, path


def row(site, patient, organ, value, *, method="gin", seed=1):
    modality = site.partition("-")[0]
    return cases.CaseRow(
        cohort="study", site=site, role="inside", patient=f"{site}-{patient}", case=f"{site}-{patient}-{modality}",
        organ=organ, method=f"study/some--{method}--s{seed}", seed=seed, round=1, metric="dice", value=value, unit="1",
        flag="", spacing="", tool="", model="",
    )  # fmt: skip


@pytest.fixture
def study(tmp_path, summarise):
    """A study with one scenario, two methods and three seeds; GIN gains what GAINS says, an odd patient less."""
    cohort = {
        "name": "study", "root": "x", "organs": ["background", *ORGANS], "aliases": {}, "drop": [],
        "sites": [
            {"name": site, "folder": site, "role": "inside", "modality": site[:2].upper(), "intensity_unit": "au",
             "show_images": False}
            for site in GAINS
        ],
        "overrides": {name: {} for name in ("phantoms", "prepare", "federate", "inside", "outside", "report")},
    }  # fmt: skip
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(cohort))
    (tmp_path / "some.yaml").write_text("federate: {participants: {one: {mr-a: 2}, two: {ct-a: 2}}}")
    rows = [
        row(
            site,
            patient,
            organ,
            0.5 + shift + 0.01 * seed + (gain + 0.001 * patient if method == "gin" else 0),
            method=method,
            seed=seed,
        )
        for site, gain in GAINS.items()
        for patient in range(PATIENTS)
        for organ, shift in ORGANS.items()
        for method in ("fedavg", "gin")
        for seed in SEEDS
    ]
    cases.write(rows, tmp_path / "cases.csv")
    return summarise.read([tmp_path / "cases.csv"], [tmp_path / "cohort.yaml"], tmp_path)


QUESTIONS = [{"question": "What does a change of appearance add to FedAvg?", "new": ["gin"], "reference": ["fedavg"]}]


def test_groups_follow_what_a_scenario_trained_on(study):
    assert {group.name: group.sites for group in study.groups("some")} == {
        "MR, trained scanner": ("mr-a",),
        "MR, new scanner": ("mr-b",),
        "CT, trained scanner": ("ct-a",),
    }


def test_scores_average_organs_then_seeds_and_spread_is_over_seeds(study, summarise):
    table = pandas.DataFrame(summarise.scores(study)).set_index(["method", "modality", "scanner", "organ"])
    found = table.loc[("fedavg", "MR", "trained scanner", "all organs")]

    assert found["dice"] == pytest.approx(0.5 - 0.1 + 0.02)
    assert found["seed_sd"] == pytest.approx(0.01)
    assert found["patients"] == PATIENTS
    assert table.loc[("fedavg", "MR", "trained scanner", "spleen")]["dice"] == pytest.approx(0.32)


def test_a_comparison_pairs_patients_and_is_corrected_within_its_question(study, summarise):
    table = pandas.DataFrame(summarise.compare(study, QUESTIONS))
    together = table[table["organ"] == "all organs"].set_index(["modality", "scanner"])

    for group, gain in ((("MR", "trained scanner"), 0.10), (("MR", "new scanner"), 0.20), (("CT", "trained scanner"), -0.05)):
        found = together.loc[group]
        assert found["gain"] == pytest.approx(gain + 0.003)
        assert found["low"] <= found["gain"] <= found["high"]
        assert found["relative"] == pytest.approx((gain + 0.003) / 0.42)
        assert found["patients"] == PATIENTS
        assert found["seed_sd"] == pytest.approx(0, abs=1e-9)
    assert together["p_holm"].tolist() == statistics.holm(together["p_value"].tolist())
    assert together["p_holm"].max() > together["p_value"].max()
    assert table[table["organ"] != "all organs"]["p_holm"].isna().all()


def test_a_comparison_may_be_about_one_organ(study, summarise):
    questions = [{**QUESTIONS[0], "organs": ["liver"]}]
    table = pandas.DataFrame(summarise.compare(study, questions))

    assert set(table["organ"]) == {"liver"}
    assert table["p_holm"].notna().all()


def test_runs_that_are_not_there_are_not_compared(study, summarise):
    questions = [{"question": "more?", "new": ["gin", "some/gin"], "reference": ["learned", "other/gin"]}]

    assert list(summarise.pairs(study, questions)) == []


def test_the_summary_is_the_same_twice_and_says_what_it_found(study, summarise):
    import pages

    scored, compared = summarise.scores(study), summarise.compare(study, QUESTIONS)
    text = pages.tables(scored, compared)

    assert "| some | gin | fedavg | MR, trained scanner | all organs | +0.103 " in text
    for draw, rows in ((pages.scores_figure, scored), (pages.gains_figure, compared)):
        assert draw(rows) == draw(rows)
        assert b"<svg" in draw(rows)


def test_a_name_that_is_no_run_of_a_study_is_refused(tmp_path, summarise):
    cases.write([row("mr-a", 1, "liver", 0.5)], tmp_path / "cases.csv")
    text = (tmp_path / "cases.csv").read_text().replace("study/some--gin--s1", "some")
    (tmp_path / "cases.csv").write_text(text)

    with pytest.raises(SystemExit, match="cannot use run some"):
        summarise.read([tmp_path / "cases.csv"], [], tmp_path)
