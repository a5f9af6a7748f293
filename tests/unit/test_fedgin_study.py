"""The FedGIN studies: every run has valid params, every question has runs, and the summary counts patients."""

import sys
from dataclasses import replace

import pytest
import yaml

from fedsilo.cohort import roster
from fedsilo.errors import ParamsError
from fedsilo.evaluation import cases, statistics

STUDIES = ("fedgin", "fedgin-real")
SEEDS = (1, 2, 3)
GAINS = {"mr-a": 0.10, "mr-b": 0.20, "mr-c": 0.30, "ct-a": -0.05}
ORGANS = {"liver": 0.0, "spleen": -0.2}
PATIENTS = 7
SPREAD = 0.001 * (PATIENTS - 1) / 2
"""Mean of what patients add to a gain."""


@pytest.fixture(scope="module")
def summarise(repository):
    """The study's script as a module."""
    sys.path.insert(0, str(repository / "studies" / "fedgin"))
    import summarise as module

    yield module
    sys.path.remove(str(repository / "studies" / "fedgin"))


def runs_of(folder):
    """Scenario (with its task) and method of every run of a study, from the matrices of its stages."""
    tree = yaml.safe_load((folder / "dvc.yaml").read_text())
    variables = {name: value for entry in tree["vars"] if isinstance(entry, dict) for name, value in entry.items()}
    for stage in tree["stages"].values():
        axes = {name: path.strip("${}").split(".") for name, path in stage.get("matrix", {}).items() if name != "seed"}
        if "scenario" not in axes:
            continue
        values = {name: variables[group][kind] for name, (group, kind) in axes.items()}
        for task in values.get("task", [None]):
            for scenario in values["scenario"]:
                for method in values["method"]:
                    yield task, f"{task}-{scenario}" if task else scenario, method


@pytest.mark.parametrize("study", STUDIES)
def test_every_run_of_a_study_has_valid_params(repository, study):
    folder = repository / "studies" / study
    listed = list(runs_of(folder))
    for task, scenario, method in listed:
        cohort = folder / "cohorts" / f"{task}.yaml" if task else folder / "cohort.yaml"
        overlays = [folder / "base.yaml", folder / "scenarios" / f"{scenario}.yaml"]
        overlays.append(repository / "studies" / "fedgin" / "methods" / f"{method}.yaml")
        _, params = roster.load_run(cohort, repository / "params.yaml", overlays=overlays)
        assert params.federate.participants
    assert len(listed) == len(set(listed)) > 20


def test_no_overlay_is_left_over(repository):
    methods = set()
    for study in STUDIES:
        listed = list(runs_of(repository / "studies" / study))
        scenarios = (repository / "studies" / study / "scenarios").glob("*.yaml")
        assert {path.stem for path in scenarios} == {scenario for _, scenario, _ in listed}
        methods |= {method for _, _, method in listed}
    assert {path.stem for path in (repository / "studies" / "fedgin" / "methods").glob("*.yaml")} == methods


@pytest.mark.parametrize("study", STUDIES)
def test_every_comparison_is_between_runs_of_the_study(repository, summarise, study):
    folder = repository / "studies" / study
    keys = {(scenario, method) for _, scenario, method in runs_of(folder)}
    asked = summarise.questions(folder / "comparisons.yaml")

    for question in asked:
        for pair in question.pairs:
            found = [keys & {summarise._key(name)} if "/" in name else {key for key in keys if key[1] == name} for name in pair]
            assert all(found), pair
            assert ("/" in pair[0]) == ("/" in pair[1])


def row(site, patient, organ, value, *, method="gin", seed=1):
    return cases.CaseRow(
        cohort="study", site=site, role="inside", patient=f"{site}-{patient}", case=f"{site}-{patient}-1",
        organ=organ, method=f"study/some--{method}--s{seed}", seed=seed, round=1, metric="dice", value=value, unit="1",
        flag="", spacing="", tool="", model="",
    )  # fmt: skip


@pytest.fixture
def written(tmp_path):
    """Files of a study with one scenario, two methods and three seeds; GIN gains what GAINS says, later patients more."""
    sites = [
        {
            "name": site,
            "folder": site,
            "role": "inside",
            "modality": site[:2].upper(),
            "intensity_unit": "au",
            "show_images": False,
        }
        for site in GAINS
    ]
    overrides = {name: {} for name in ("phantoms", "prepare", "federate", "inside", "outside", "report")}
    organs = ["background", *ORGANS]
    cohort = {"name": "study", "root": "x", "organs": organs, "aliases": {}, "drop": [], "sites": sites, "overrides": overrides}
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(cohort))
    (tmp_path / "some.yaml").write_text("federate: {participants: {one: {mr-a: 2}, two: {mr-c: 2}}}")
    (tmp_path / "comparisons.yaml").write_text('comparisons: [{question: "gain?", pairs: [[gin, plain]]}]')
    rows = [
        row(
            site,
            patient,
            organ,
            0.4 + shift + 0.01 * seed + (gain + 0.001 * patient if method == "gin" else 0),
            method=method,
            seed=seed,
        )
        for site, gain in GAINS.items()
        for patient in range(PATIENTS)
        for organ, shift in ORGANS.items()
        for method in ("plain", "gin")
        for seed in SEEDS
    ]
    cases.write(rows, tmp_path / "cases.csv")
    return tmp_path


@pytest.fixture
def study(written, summarise):
    return summarise.read([written / "cases.csv"], [written / "cohort.yaml"], written)


@pytest.fixture
def question(written, summarise):
    (asked,) = summarise.questions(written / "comparisons.yaml")
    return asked


def test_groups_follow_what_a_scenario_trained_on(study):
    assert {group.name: group.sites for group in study.groups("some")} == {
        "MR, trained scanner": ("mr-a", "mr-c"),
        "MR, new scanner": ("mr-b",),
        "CT, unseen modality": ("ct-a",),
    }
    assert {group.modality for group in study.groups("some", "CT")} == {"CT"}


def test_scores_average_organs_then_seeds_and_spread_is_over_seeds(study, summarise):
    found = {(row.method, row.group.name, row.organ): row for row in summarise.scores(study)}
    together = found["plain", "MR, trained scanner", "all organs"]

    assert together.dice == pytest.approx(0.4 - 0.1 + 0.02)
    assert together.seed_sd == pytest.approx(0.01)
    assert together.patients == 2 * PATIENTS
    assert found["plain", "MR, trained scanner", "spleen"].dice == pytest.approx(0.22)
    assert found["gin", "MR, trained scanner", "all organs"].by_site == pytest.approx(
        {site: 0.32 + GAINS[site] + SPREAD for site in ("mr-a", "mr-c")}
    )


def test_a_comparison_pairs_patients_and_is_corrected_within_its_question(study, summarise, question):
    rows = summarise.compare(study, [question])
    main = {row.group.name: row for row in rows if row.main}

    for group, sites in (
        ("MR, trained scanner", ("mr-a", "mr-c")),
        ("MR, new scanner", ("mr-b",)),
        ("CT, unseen modality", ("ct-a",)),
    ):
        gain = sum(GAINS[site] for site in sites) / len(sites) + SPREAD
        assert main[group].gain == pytest.approx(gain)
        assert main[group].low <= main[group].gain <= main[group].high
        assert main[group].relative == pytest.approx(gain / 0.32)
        assert main[group].patients == len(sites) * PATIENTS
        assert main[group].seed_sd == pytest.approx(0, abs=1e-9)
        assert main[group].organ == "all organs"
    p_values = [row.p_value for row in main.values()]
    assert [row.p_holm for row in main.values()] == statistics.holm(p_values)
    assert max(row.p_holm for row in main.values()) > max(p_values)
    assert all(row.p_holm is None for row in rows if not row.main)
    assert {row.organ for row in rows if not row.main} == set(ORGANS)


def test_a_question_may_be_about_an_organ_a_modality_or_no_test(study, summarise, question):
    of_liver = summarise.compare(study, [replace(question, organs=("liver",))])
    of_ct = summarise.compare(study, [replace(question, modality="CT")])
    untested = summarise.compare(study, [replace(question, test=False)])

    assert {row.organ for row in of_liver} == {"liver"}
    assert all(row.main and row.p_holm is not None for row in of_liver)
    assert {row.group.modality for row in of_ct} == {"CT"}
    assert all(row.p_holm is None for row in untested)


def test_two_questions_are_two_families(study, summarise, question):
    alone = summarise.compare(study, [question])
    beside = summarise.compare(study, [question, replace(question, text="again?")])

    assert [row.p_holm for row in beside if row.question == question.text] == [row.p_holm for row in alone]


def test_a_comparison_without_runs_is_refused(study, summarise, question):
    for pair in (("learned", "gin"), ("some/gin", "other/gin")):
        with pytest.raises(ParamsError, match=f"cannot compare {pair[0]} with {pair[1]}"):
            summarise.compare(study, [replace(question, pairs=(pair,))])


def test_results_are_the_same_twice_and_errors_are_one_line(written, summarise, capsys):
    def arguments(out):
        names = ("--cohorts", "cohort.yaml", "--cases", "cases.csv", "--comparisons", "comparisons.yaml", "--scenarios", ".")
        paths = [name if name.startswith("--") else str(written / name) for name in names]
        return [*paths, "--out", str(written / out)]

    assert summarise.main(arguments("first")) == summarise.main(arguments("second")) == 0

    files = sorted(path.name for path in (written / "first").iterdir())
    assert files == ["comparisons.csv", "gains.svg", "patients.csv", "scores.csv", "scores.svg", "tables.md"]
    for name in files:
        assert (written / "first" / name).read_bytes() == (written / "second" / name).read_bytes()
    text = (written / "first" / "tables.md").read_text()
    assert "| some | gin | plain | MR, new scanner | all organs | +0.203 " in text
    assert "| some | plain | **0.320** | 0.320 | **0.320** | 0.320 |" in text

    (written / "some.yaml").write_text("federate: {participants: null}")
    assert summarise.main(arguments("third")) == 1
    assert capsys.readouterr().err == f"summarise: cannot use {written / 'some.yaml'}: expected federate.participants\n"


@pytest.mark.parametrize(
    "text", ["[]", "[{question: a}]", "[{question: a, pairs: [[x, y]], modalities: MR}]", "{question: a, pairs: [[x, y]]}"]
)
def test_questions_of_another_form_are_refused(written, summarise, text):
    (written / "comparisons.yaml").write_text(f"comparisons: {text}")

    with pytest.raises(ParamsError, match="comparisons"):
        summarise.questions(written / "comparisons.yaml")


def test_a_name_that_is_no_run_of_a_study_is_refused(written, summarise):
    text = (written / "cases.csv").read_text().replace("study/some--gin--s1", "some")
    (written / "cases.csv").write_text(text)

    with pytest.raises(ParamsError, match="cannot use run some"):
        summarise.read([written / "cases.csv"], [written / "cohort.yaml"], written)
