"""The IOP-FL studies: every run has valid params, every comparison is between methods, and the summary counts patients."""

import itertools
import shutil
import sys

import pytest
import yaml

from fedsilo.cohort import roster
from fedsilo.errors import DataError, ParamsError
from fedsilo.evaluation import cases, noninferiority
from fedsilo.evaluation.metrics import Score

STUDIES = ("iopfl", "iopfl-real")
SEEDS = (1, 2)
SITES = ("ct-a", "ct-b", "mr-a")
ORGANS = {"liver": 0.0, "spleen": -0.2}
PATIENTS = 7
GAINS = {"fold": 0.03, "fedbn": -0.02, "local": -0.10}
OUTSIDE = {
    "global": 0.0, "router": 0.04, "routing-paper": -0.06, "expert-global": 0.0, "expert-ct-a": 0.02, "expert-ct-b": 0.05,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(repository):
    """The study's script as a module."""
    sys.path.insert(0, str(repository / "studies" / "iopfl"))
    import evaluate as module

    yield module
    sys.path.remove(str(repository / "studies" / "iopfl"))


def overlays_of(folder, stage, item):
    """Overlays of a stage's commands, for one item of its matrix."""
    for command in stage["cmd"]:
        words = command.split()
        found = [word for before, word in itertools.pairwise(words) if before == "--overlay"]
        yield [folder / name.replace("${item.algorithm}", item).replace("${item.site}", item) for name in found]


def stages_of(repository, name):
    tree = yaml.safe_load((repository / "studies" / name / "dvc.yaml").read_text())
    variables = {key: value for entry in tree["vars"] if isinstance(entry, dict) for key, value in entry.items()}
    for key, stage in tree["stages"].items():
        if isinstance(stage["cmd"], list):
            (axis,) = stage.get("matrix", {"none": ""}).values()
            yield key, stage, variables.get(axis.strip("${}"), [""])


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_of_a_study_has_valid_params(repository, name):
    listed = set()
    for key, stage, items in stages_of(repository, name):
        for item in items:
            for overlays in overlays_of(repository, stage, item):
                entry, params = roster.load_run(
                    repository / "studies" / name / "cohort.yaml", repository / "params.yaml", overlays=overlays
                )
                if key == "without":
                    assert set(params.federate.participants) == {site.name for site in entry.sites} - {item}
                elif key == "algorithm":
                    assert params.federate.algorithm.name == item
                listed.add((key, item))
    assert len(listed) == 1 + 6 + len(entry.sites)


def test_the_study_on_volumes_has_valid_params_and_comparisons(repository, study):
    folder, listed = repository / "studies" / "iopfl-3d", set()
    for key, stage, items in stages_of(repository, "iopfl-3d"):
        for item in items:
            for overlays in overlays_of(repository, stage, item):
                entry, params = roster.load_run(
                    repository / "studies/iopfl/cohort.yaml", repository / "params.yaml", overlays=overlays
                )
                assert params.federate.network.spatial_dims == 3
                if key == "without":
                    assert set(params.federate.participants) == {site.name for site in entry.sites} - {item}
                listed.add((key, item))
    assert listed == {("fedavg", ""), ("without", "ct-c"), ("without", "mr-c")}

    methods = {
        "inside": {study.inside_method("fedavg", method) for method in params.inside.methods},
        "outside": {*params.outside.methods, *params.outside.adaptations},
    }
    for question in study.questions(folder / "comparisons.yaml"):
        for pair in question.pairs:
            assert set(pair) <= methods[question.phase], pair


@pytest.mark.parametrize("name", STUDIES)
def test_every_comparison_is_between_methods_of_the_study(repository, study, name):
    folder = repository / "studies" / "iopfl"
    _, params = roster.load_run(
        repository / "studies" / name / "cohort.yaml",
        repository / "params.yaml",
        overlays=[folder / "folds.yaml", folder / "outside.yaml"],
    )
    algorithms = {path.stem for path in (folder / "algorithms").glob("*.yaml")}
    methods = {
        "inside": {study.inside_method("fedavg", method) for method in params.inside.methods}
        | {f"fold-{fold}" for fold in params.federate.folds if fold != "inside"}
        | algorithms,
        "outside": {*params.outside.methods, *params.outside.adaptations},
    }
    for question in study.questions(folder / "comparisons.yaml"):
        for pair in question.pairs:
            assert set(pair) <= methods[question.phase], pair


def write_run(folder, name, phase, *, sites, gains, seed):
    rows = []
    for site in sites:
        for patient in range(PATIENTS):
            for method, gain in gains.items():
                for organ, easier in ORGANS.items():
                    value = 0.6 + easier + gain + 0.01 * patient + 0.001 * seed + (0.02 if site == "ct-b" else 0.0)
                    rows += cases.rows(
                        [Score(organ, "dice", value, "1", "")],
                        cohort="c",
                        site=site,
                        role=phase,
                        patient=f"{site}-{patient}",
                        case=f"{site}-{patient}",
                        method=method,
                        seed=seed,
                        round_index=None,
                        spacing_mm=(1.0, 1.0, 1.0),
                        model="m",
                    )
    cases.write(rows, folder / f"{name}--s{seed}" / f"{phase}_evaluation" / "cases.csv")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A study of three sites: FedAvg and its baselines, FedBN, Ditto, and each site left out."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in SEEDS:
        write_run(
            folder,
            "fedavg",
            "inside",
            sites=SITES,
            gains={"global": 0.0, "inside": GAINS["fold"], "local": GAINS["local"]},
            seed=seed,
        )
        write_run(folder, "fedbn", "inside", sites=SITES, gains={"global": GAINS["fedbn"], "inside": 0.0}, seed=seed)
        write_run(folder, "ditto", "inside", sites=SITES, gains={"global": 0.0, "inside": 0.01}, seed=seed)
        for site in SITES:
            write_run(folder, f"without-{site}", "outside", sites=[site], gains=OUTSIDE, seed=seed)
            lines = ["site,case,expert,weight,distance,entropy,quality,fallback_quality,kept,passes"]
            lines += [
                f"{site},{site}-{patient},{expert},{weight},1.0,0.5,0.6,0.5,{patient % 2},2.5"
                for patient in range(PATIENTS)
                for expert, weight in (("global", 0.75), ("ct-a", 0.25))
            ]
            path = folder / f"without-{site}--s{seed}" / "outside_evaluation" / "router.csv"
            path.write_text("\n".join(lines) + "\n")
    return folder


def test_methods_are_named_by_what_they_are(study, runs):
    read = study.read(runs)

    assert read.methods("inside") == ["ditto", "fedavg", "fedbn", "fedbn+fold", "fold", "local"]
    assert read.methods("outside") == [study.ORACLE, "global", "router", "routing-paper"]


def test_scores_average_patients_organs_seeds_and_sites(study, runs):
    found = {(row.phase, row.method, row.organ): row for row in study.scores(study.read(runs))}

    row = found["inside", "fold", "all organs"]
    assert row.dice == pytest.approx(0.6 - 0.1 + 0.03 + 0.03 + 0.0015 + 0.02 / 3)
    assert row.patients == 3 * PATIENTS
    assert row.seed_sd == pytest.approx(0.001 / 2**0.5)
    assert row.worst[0] in ("ct-a", "mr-a")
    inside = [entry for entry in study.scores(study.read(runs)) if entry.phase == "inside" and entry.organ == "all organs"]
    assert [entry.method for entry in inside][0::5] == ["fold", "local"]  # the best worst site first


def test_the_oracle_is_the_best_expert_of_each_site(study, runs):
    read = study.read(runs)

    best, base = (read.patients("outside", method) for method in (study.ORACLE, "global"))
    for site in SITES:
        for patient, value in best[site].items():
            assert value == pytest.approx(base[site][patient] + OUTSIDE["expert-ct-b"])


def question(study, phase, *pairs):
    return study.Question("Is it better?", phase, pairs)


def test_gains_are_tested_at_each_site_and_over_all_and_corrected_together(study, runs):
    found = study.compare(study.read(runs), [question(study, "inside", ("fold", "fedavg"), ("fedbn", "fedavg"))])

    assert [row.site for row in found] == ["all sites", *SITES] * 2
    fold = found[0]
    assert (fold.gain, fold.hodges_lehmann, fold.rank_biserial) == (pytest.approx(0.03), pytest.approx(0.03), 1.0)
    assert fold.patients == 3 * PATIENTS
    assert all(row.p_holm >= row.p_value for row in found)
    assert max(row.p_holm for row in found) == pytest.approx(6 * 2 * 0.5**PATIENTS, rel=0.5)


def test_a_method_that_was_not_run_is_an_error(study, runs):
    with pytest.raises(DataError, match="cannot compare fold with apfl"):
        study.compare(study.read(runs), [question(study, "inside", ("fold", "apfl"))])


def test_harm_counts_single_patients_against_the_reference(study, runs):
    found = {(row.phase, row.method): row for row in study.harm(study.read(runs))}

    paper = found["outside", "routing-paper"]
    assert (paper.harmed, paper.helped, paper.worst) == (1.0, 0.0, pytest.approx(0.06))
    assert paper.non_inferiority.verdict == "failed"
    assert found["outside", "router"].non_inferiority.verdict == "passed"
    assert found["inside", "local"].catastrophes.patients == ()
    assert ("outside", "global") not in found


def test_a_new_miss_by_most_seeds_is_a_catastrophe(study, runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    for seed in SEEDS:
        path = copy / f"without-mr-a--s{seed}" / "outside_evaluation" / "cases.csv"
        lines = path.read_text().splitlines()
        missed = [
            ",".join([*cells[:10], "0.0", cells[11], "missed", *cells[13:]])
            if cells[4:7] == ["mr-a-2", "spleen", "router"]
            else line
            for line in lines
            for cells in [line.split(",")]
        ]
        path.write_text("\n".join(missed) + "\n")

    found = {row.method: row for row in study.harm(study.read(copy)) if row.phase == "outside"}

    assert found["router"].catastrophes.patients == ("mr-a/mr-a-2",)
    assert found["router"].catastrophes.bound == pytest.approx(noninferiority.share_bound(1, 21))


def test_the_router_is_summarised(study, runs):
    table = study.router_table(runs)

    assert table["site"].tolist() == list(SITES)
    assert table["kept"].tolist() == pytest.approx([3 / 7] * 3)
    assert table["global"].tolist() == pytest.approx([0.75] * 3)


def test_results_are_written_and_alike(study, runs, repository, tmp_path, capsys):
    cohort = tmp_path / "cohort.yaml"
    cohort.write_text((repository / "studies/iopfl/cohort.yaml").read_text())
    asked = tmp_path / "comparisons.yaml"
    asked.write_text(yaml.safe_dump({"comparisons": [{"question": "Q", "phase": "outside", "pairs": [["router", "global"]]}]}))
    written = []
    for name in ("one", "two"):
        arguments = ["--cohort", str(cohort), "--runs", str(runs), "--comparisons", str(asked), "--out", str(tmp_path / name)]
        assert study.main(arguments) == 0
        written.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})

    assert written[0] == written[1]
    assert set(written[0]) == {
        "patients.csv", "scores.csv", "comparisons.csv", "harm.csv", "router.csv", "tables.md", "inside.svg", "outside.svg",
    }  # fmt: skip
    assert study.ORACLE in written[0]["tables.md"].decode()
    assert study.main([*arguments[:3], str(tmp_path), *arguments[4:]]) == 1
    assert "evaluate: " in capsys.readouterr().err


@pytest.mark.parametrize("entry", [{"question": "Q"}, {"question": "Q", "phase": "nowhere", "pairs": []}, "Q"])
def test_a_comparison_of_another_form_is_refused(study, tmp_path, entry):
    path = tmp_path / "comparisons.yaml"
    path.write_text(yaml.safe_dump({"comparisons": [entry]}))

    with pytest.raises(ParamsError, match="expected question, phase"):
        study.questions(path)
