"""Every federated algorithm through the pipeline: what is saved, what resumes, and a site that is left out."""

import csv
import gc
import json
import shutil
import weakref

import pytest
import torch

from fedsilo import files
from fedsilo.cohort import roster
from fedsilo.evaluation import cases
from fedsilo.federation import states
from fedsilo.routing import adaptation, router
from flows import federate, inside, outside, report
from tasks import outside as outside_tasks
from tasks.federation import Federation
from tasks.paths import RunPaths

SITES = ("ct-a", "ct-b", "mr-a", "mr-b")
FEW = ("--set", "inside.methods=[global, inside]", "--set", "outside.methods=[global]", "--set", "outside.adaptations={}")
ALGORITHMS = ("fedprox", "fedbn", "silobn", "fedrep", "ditto", "apfl")


def arguments(made, name, *more):
    return made.arguments(
        "--set", f"federate.algorithm.name={name}", "--set", "federate.optimizer.moments=keep", "--run", name, *FEW, *more
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, prepared):
    """A workspace with a finished federation of every algorithm; read only."""
    workspace = prepared.copy(tmp_path_factory.mktemp("algorithms") / "run")
    for name in ("fedavg", *ALGORITHMS):
        assert federate.main(arguments(workspace, name)) == 0
    return workspace


def load(made, run, name):
    return states.load(made.folder / "runs" / run / f"{name}.safetensors")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_is_another_federation(made, name):
    sites = {"ditto": "inside/mr-a", "apfl": "inside/mr-a"}

    assert states.digest(load(made, name, sites.get(name, "global"))) != states.digest(
        load(made, "fedavg", sites.get(name, "global"))
    )
    if name in ("ditto", "apfl"):  # their global model is FedAvg's
        assert states.digest(load(made, name, "global")) == states.digest(load(made, "fedavg", "global"))


@pytest.mark.parametrize(("name", "private"), [("fedbn", ".adn.N."), ("silobn", "running_"), ("fedrep", "model.2.conv.")])
def test_what_is_private_differs_from_site_to_site_and_the_rest_does_not(made, name, private):
    held = {site: load(made, name, f"inside/held/{site}") for site in SITES}
    record = json.loads((made.folder / "runs" / name / "federation.json").read_text())

    assert f"inside/held/{SITES[0]}" in record["model_sha256"]
    for entry, value in held["ct-a"].items():
        if entry.endswith("num_batches_tracked"):
            continue
        assert torch.equal(value, held["mr-a"][entry]) != (private in entry), entry


@pytest.mark.parametrize("name", ["fedavg", "ditto"])
def test_without_private_entries_every_site_has_the_global_model(made, name):
    assert not (made.folder / "runs" / name / "inside/held").exists()


@pytest.mark.parametrize("name", ["fedbn", "apfl"])
def test_inside_and_outside_are_compared_as_ever(made, name):
    assert inside.main(arguments(made, name)) == 0
    assert outside.main(arguments(made, name)) == 0
    assert report.main(arguments(made, name)) == 0

    scored = cases.read(made.folder / "runs" / name / "inside_evaluation/cases.csv")
    assert set(scored["method"]) == {"global", "inside"}
    sha256 = files.sha256_file(
        made.folder / "runs" / name / ("inside/held/mr-a.safetensors" if name == "fedbn" else "global.safetensors")
    )
    assert set(scored[(scored["site"] == "mr-a") & (scored["method"] == "global")]["model"]) == {sha256}


@pytest.mark.parametrize("name", ["fedbn", "ditto", "apfl"])
def test_a_federation_that_stopped_goes_on_to_the_same_bytes(made, tmp_path, name):
    copy = made.copy(tmp_path / "copy")
    journal = copy.folder / "checkpoints" / name / "federate"
    shutil.rmtree(copy.folder / "runs" / name)
    for path in (journal / "server").glob("0000[23].*"):
        path.unlink()
    shutil.rmtree(journal / "sites/mr-a/00001")
    shutil.rmtree(journal / "sites/mr-a/00002")

    assert federate.main(arguments(copy, name)) == 0

    for path in sorted((made.folder / "runs" / name).rglob("*.safetensors")):
        assert files.sha256_file(copy.folder / path.relative_to(made.folder)) == files.sha256_file(path), path.name


ROBUST = ("--set", "federate.aggregation.rule=median", "--set", "federate.aggregation.optimizer.name=fedadam")
FADED = ("--set", "federate.aggregation.optimizer.learning_rate=0.01", "--run", "robust")


def test_a_robust_rule_and_the_servers_optimizer_go_on_to_the_same_bytes(prepared, tmp_path):
    """The moments of the server are in the journal: a run that lost its last rounds ends as it would have."""
    made = prepared.copy(tmp_path / "run")
    options = made.arguments(*ROBUST, *FADED)
    assert federate.main(options) == 0
    with (made.folder / "runs/robust/rounds.csv").open() as handle:
        shares = [float(row["share"]) for row in csv.DictReader(handle)]
    assert sum(shares[:4]) == pytest.approx(1, abs=1e-5)
    before = {path: files.sha256_file(path) for path in sorted((made.folder / "runs/robust").rglob("*.safetensors"))}
    journal = made.folder / "checkpoints/robust/federate"
    assert (journal / "server/00002.moments.safetensors").is_file()
    for path in (journal / "server").glob("00003.*"):
        path.unlink()

    assert federate.main(options) == 0

    assert {path: files.sha256_file(path) for path in before} == before


def test_a_rule_for_more_sites_is_refused_before_anything_is_trained(prepared, tmp_path, capsys):
    made = prepared.copy(tmp_path / "run")

    assert federate.main(made.arguments("--set", "federate.aggregation.rule=krum", "--run", "few")) == 1

    assert "krum needs at least 5 sites" in capsys.readouterr().err
    assert not (made.folder / "checkpoints/few/federate/sites").exists()


def test_a_damaged_private_state_is_noticed(made, tmp_path, caplog):
    copy = made.copy(tmp_path / "copy")
    path = copy.folder / "checkpoints/ditto/federate/sites/mr-a/00002/private.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")

    assert federate.main(arguments(copy, "ditto")) == 0

    assert "falling back to the last good one" in caplog.text
    assert states.digest(load(copy, "ditto", "inside/mr-a")) == states.digest(load(made, "ditto", "inside/mr-a"))


def test_sites_that_miss_rounds(prepared, tmp_path):
    """A quarter of the sites a round, in turn; a second run from the middle gives the same bytes."""
    made = prepared.copy(tmp_path / "run")
    some = made.arguments("--set", "federate.participation=0.5", "--set", "federate.rounds=6", "--run", "some")
    assert federate.main(some) == 0

    with (made.folder / "runs/some/rounds.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    by_round = [{row["site"] for row in rows if row["round"] == str(index)} for index in range(6)]
    assert all(len(sites) == 2 for sites in by_round)
    assert set.union(*by_round) == set(SITES)
    assert len({frozenset(sites) for sites in by_round}) > 1
    for row in rows:
        assert float(row["weight"]) == pytest.approx(0.5)
    assert {path.stem for path in (made.folder / "runs/some/inside").glob("*.safetensors")} == set(SITES)
    before = {path: files.sha256_file(path) for path in sorted((made.folder / "runs/some").rglob("*.safetensors"))}
    journal = made.folder / "checkpoints/some/federate"
    for path in (journal / "server").glob("0000[56].*"):
        path.unlink()

    assert federate.main(some) == 0

    assert {path: files.sha256_file(path) for path in before} == before
    assert inside.main([*some, "--set", "inside.methods=[global, inside]"]) == 0
    assert report.main([*some]) == 1  # no outside comparison yet


def test_a_site_that_never_takes_part_is_refused(prepared, capsys):
    few = prepared.arguments("--set", "federate.participation=0.1", "--set", "federate.rounds=2", "--run", "few")

    assert federate.main(few) == 1
    assert "takes part in none of 2 rounds at a participation of 0.1" in capsys.readouterr().err


def test_other_folds_are_compared_with_the_inside_model(prepared, tmp_path):
    made = prepared.copy(tmp_path / "run")
    folds = (
        "federate.folds={inside: {momentum: 0.1, buffers: fold}, last: {momentum: 0.0, buffers: fold}, "
        "first: {momentum: 1.0, buffers: latest}, clean: {momentum: 0.1, buffers: recompute}}"
    )
    several = made.arguments("--set", folds, "--set", "inside.methods=[inside, finetuned, finetuned_best]", "--run", "folds")
    assert federate.main(several) == 0
    assert inside.main(several) == 0
    assert federate.main(made.arguments("--run", "plain")) == 0

    scored = cases.read(made.folder / "runs/folds/inside_evaluation/cases.csv")
    assert set(scored["method"]) == {"inside", "fold-last", "fold-first", "fold-clean", "finetuned", "finetuned_best"}
    own, plain = load(made, "folds", "inside/mr-a"), load(made, "plain", "inside/mr-a")
    assert states.digest(own) == states.digest(plain)
    clean = load(made, "folds", "inside/folds/clean/mr-a")
    rounds = json.loads((made.folder / "runs/folds/federation.json").read_text())["fold_rounds"]
    assert set(rounds) == {"last", "first", "clean"}
    assert clean.keys() == own.keys()
    assert len({states.digest(load(made, "folds", f"inside/folds/{fold}/mr-a")) for fold in ("last", "first", "clean")}) == 3


def test_a_site_that_is_left_out_is_an_outside_site(prepared, tmp_path):
    """Leave one site out, two seeds side by side."""
    made = prepared.copy(tmp_path / "run")
    others = "federate.participants={ct-a: {ct-a: null}, ct-b: {ct-b: null}, mr-b: {mr-b: null}}"
    left_out = made.arguments("--set", others, "--set", "federate.rounds=1", "--run", "left-out", *FEW)
    for phase in (federate, inside, outside):
        assert phase.main([*left_out, "--seeds", "3", "4"]) == 0
    assert (
        report.main(
            [*made.arguments("--set", others, "--set", "federate.rounds=1", "--run", "left-out--s3", *FEW), "--set", "seed=3"]
        )
        == 0
    )

    for seed in (3, 4):
        folder = made.folder / f"runs/left-out--s{seed}"
        assert set(cases.read(folder / "inside_evaluation/cases.csv")["site"]) == {"ct-a", "ct-b", "mr-b"}
        scored = cases.read(folder / "outside_evaluation/cases.csv")
        assert {"mr-a", "mr-c", "mr-d", "ct-c"} == set(scored["site"])
        assert set(scored["role"]) == {"outside"}
        assert scored[scored["site"] == "mr-a"]["case"].nunique() == 4  # all of them
        assert set(scored["seed"]) == {seed}


def test_every_way_of_adapting_through_the_pipeline(prepared, tmp_path):
    made = prepared.copy(tmp_path / "run")
    assert federate.main(made.arguments("--set", "federate.rounds=1")) == 0
    shared = "train: [gates, norms], learning_rate: 0.001, objective: {consistency: 1.0, shape: 0.01, entropy: 0.01}"
    ways = {
        "online": "experts: all, gate: static, tie: stage, start: prior, source_share: 0.8, protocol: online, steps: 1, "
        + shared,
        "passes": "experts: all, gate: case, tie: network, start: prior, source_share: 1.0, protocol: transductive, steps: 2, "
        + shared,
        "routed": "experts: all, gate: static, tie: layer, start: router, source_share: 1.0, protocol: episodic, steps: 1, "
        + shared,
        "drawn": "experts: all, gate: static, tie: layer, start: random, source_share: 1.0, protocol: episodic, steps: 0, "
        + shared.replace("[gates, norms]", "[]"),
        "slices": "experts: all, gate: sample, tie: layer, start: prior, source_share: 1.0, protocol: episodic, steps: 1, "
        + shared,
        "tent": "experts: global, gate: static, tie: layer, start: prior, source_share: 0.0, protocol: online, steps: 1, "
        + shared.replace("gates, norms", "norms"),
    }
    adaptations = "{" + ", ".join(f"{name}: {{{way}}}" for name, way in ways.items()) + "}"
    asked = made.arguments(
        "--set",
        f"outside.adaptations={adaptations}",
        "--set",
        "outside.methods=[global, experts, ensemble, soup, router, dg_tta]",
    )

    assert outside.main(asked) == 0
    first = {path: files.sha256_file(path) for path in sorted((made.folder / "runs/demo/outside_evaluation").rglob("*.csv"))}
    assert outside.main(asked) == 0

    assert {path: files.sha256_file(path) for path in first} == first
    scored = cases.read(made.folder / "runs/demo/outside_evaluation/cases.csv")
    experts = {f"expert-{name}" for name in ("global", *SITES)}
    assert set(scored["method"]) == {"global", "ensemble", "soup", "router", "dg_tta", *experts, *ways}
    globals_own = scored[scored["method"] == "global"].set_index(["site", "case", "organ", "metric"])["value"]
    again = scored[scored["method"] == "expert-global"].set_index(["site", "case", "organ", "metric"])["value"]
    assert globals_own.equals(again.loc[globals_own.index])
    with (made.folder / "runs/demo/outside_evaluation/router.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 6 * 5
    assert all(float(row["passes"]) > 1 for row in rows)


def test_no_model_of_a_case_is_kept_once_the_case_is_scored(two_seeds, tmp_path, monkeypatch):
    made = two_seeds.copy(tmp_path / "run")
    entry, params = roster.load_run(made.cohort, made.params, ["outside.methods=[global, router]"])
    adapt, route, born, alive = adaptation.adapt, router.route, [], []

    def watched(result):
        gc.collect()
        born.append(weakref.ref(next(iter(result.state.values()))))
        alive.append(sum(model() is not None for model in born))
        return result

    monkeypatch.setattr(adaptation, "adapt", lambda *images, **rest: (watched(result) for result in adapt(*images, **rest)))
    monkeypatch.setattr(router, "route", lambda *states, **rest: watched(route(*states, **rest)))

    part = outside_tasks.evaluate_site(
        site="mr-c",
        federation=Federation(entry, params, RunPaths(made.folder, "demo", "demo--s42"), surfaces=False),
        device="cpu",
    )

    num_cases = cases.read(part / "cases.csv")["case"].nunique()
    assert len(born) == num_cases * (1 + len(params.outside.adaptations)) > 2
    assert max(alive) <= 2, "the one just made, and the one before"


@pytest.mark.parametrize("name", ["fedbn", "ditto"])
def test_the_same_commands_work_on_volumes(prepared, tmp_path, name):
    made = prepared.copy(tmp_path / "run")
    volumes = made.arguments(
        "--set", f"federate.algorithm.name={name}", "--set", "federate.network.spatial_dims=3", "--set", "federate.rounds=1",
        "--set", "federate.patch_zyx=[8, 8, 16]", "--set", "outside.batch_size=2",
        "--set", "outside.methods=[global, ensemble, soup, router, dg_tta]",
        "--set", "inside.methods=[global, inside, finetuned]",
    )  # fmt: skip
    for phase in (federate, inside, outside, report):
        assert phase.main(volumes) == 0

    assert load(made, "demo", "global")["model.0.conv.weight"].ndim == 5
    scored = cases.read(made.folder / "runs/demo/outside_evaluation/cases.csv")
    assert set(scored["method"]) == {"global", "ensemble", "soup", "router", "dg_tta", "routing-paper", "routing-release"}
    with (made.folder / "runs/demo/outside_evaluation/router.csv").open() as handle:
        assert all(float(row["passes"]) <= 3 for row in csv.DictReader(handle))
