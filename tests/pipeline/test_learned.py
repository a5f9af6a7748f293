"""Learned GIN and latent weights in a whole federation: what leaves a site, what stays, and that a run can be gone on with."""

import csv
import json
import shutil

import pytest

from fedsilo import files
from fedsilo.federation import states
from flows import federate, inside
from tasks import rounds, turns
from tasks.federation import Federation
from tasks.paths import RunPaths

SETTINGS = (
    "federate.appearance.method=learned",
    "federate.appearance.learned.steps=2",
    "federate.weighting=latent",
    "inside.methods=[global,inside,finetuned]",
)
LAST = 2


def arguments(made):
    return made.arguments(*(part for setting in SETTINGS for part in ("--set", setting)))


@pytest.fixture(scope="module")
def first(tmp_path_factory, prepared):
    """A finished federation of four sites; read only."""
    made = prepared.copy(tmp_path_factory.mktemp("learned") / "run")
    assert federate.main(arguments(made)) == 0
    return made


def journal_dir(made):
    return made.folder / "checkpoints" / "demo" / "federate"


def federation(made):
    from fedsilo.cohort import roster

    entry, params = roster.load_run(made.cohort, made.params, SETTINGS)
    return Federation(roster=entry, params=params, paths=RunPaths(made.folder, "demo", "demo"))


def table(made):
    with (made.folder / "runs/demo/rounds.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_an_update_is_fedavg_s_and_one_number(first):
    network = set(states.snapshot(rounds.build_network(federation(first))))

    for manifest_path in journal_dir(first).glob("sites/*/*/update/*.json"):
        assert set(states.load(manifest_path.with_suffix(".safetensors"))) == network
        manifest = json.loads(manifest_path.read_text())
        latent_size = float(manifest["metrics"]["latent_size"])
        assert latent_size == round(latent_size, 2) > 0


def test_no_byte_of_flow_critic_or_their_optimisers_leaves_a_site(first):
    """Every tensor of a site's remapper, as its 32 first bytes stand in memory, is looked for in all that leaves."""
    for site_dir in (journal_dir(first) / "sites").iterdir():
        leaving = b"".join(path.read_bytes() for path in sorted(site_dir.glob("*/update/*")))
        private = states.load(site_dir / f"{LAST:05d}" / "remapper.safetensors")
        seen = 0
        for name, value in private.items():
            content = value.contiguous().numpy().tobytes()[:32]
            if value.numel() < 8 or len(set(content)) < 8:
                continue  # zeros, counters and the like stand in any file
            seen += 1
            assert content not in leaving, name
            assert name.encode() not in leaving
        assert seen > 20
        assert b"flow" not in leaving
        assert b"critic" not in leaving


def test_no_other_file_of_a_site_is_in_the_folder_that_leaves(first):
    for folder in journal_dir(first).glob("sites/*/*/update"):
        assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
        assert len(list(folder.iterdir())) == 2


def test_sites_have_flows_of_their_own(first):
    digests = {files.sha256_file(path) for path in journal_dir(first).glob(f"sites/*/{LAST:05d}/remapper.safetensors")}

    assert len(digests) == 4


def test_weights_follow_the_sizes_and_stand_in_the_rounds_table(first):
    rows = [row for row in table(first) if row["round"] == "0"]
    sizes = {row["site"]: float(row["latent_size"]) for row in rows}

    assert sum(float(row["weight"]) for row in rows) == pytest.approx(1, abs=1e-5)
    for row in rows:
        assert float(row["weight"]) == pytest.approx(sizes[row["site"]] / sum(sizes.values()), abs=1e-5)


def test_later_weights_are_smoothed(first):
    by_round = [
        {row["site"]: float(row["latent_size"]) for row in table(first) if row["round"] == str(index)} for index in (0, 1)
    ]
    smoothed = {site: 0.9 * size + 0.1 * by_round[1][site] for site, size in by_round[0].items()}

    for row in table(first):
        if row["round"] == "1":
            assert float(row["weight"]) == pytest.approx(smoothed[row["site"]] / sum(smoothed.values()), abs=1e-5)


def test_a_run_that_lost_its_last_round_goes_on_with_the_same_bits(first, tmp_path):
    copy = first.copy(tmp_path / "torn")
    shutil.rmtree(copy.folder / "runs")
    for path in journal_dir(copy).glob(f"server/{LAST + 1:05d}*"):
        path.unlink()
    for path in journal_dir(copy).glob(f"sites/*/{LAST:05d}"):
        shutil.rmtree(path)

    assert federate.main(arguments(copy)) == 0

    for name in ("runs/demo/global.safetensors", "runs/demo/rounds.csv"):
        assert files.sha256_file(copy.folder / name) == files.sha256_file(first.folder / name)
    for path in journal_dir(first).glob(f"sites/*/{LAST:05d}/remapper.safetensors"):
        assert files.sha256_file(journal_dir(copy) / path.relative_to(journal_dir(first))) == files.sha256_file(path)


def test_fine_tuning_trains_the_remapper_anew_to_what_the_site_has(first):
    made = federation(first)
    data = made.inputs("mr-a")

    remapper = turns.final_remapper(made, "mr-a", data, "cpu")

    stored = states.load(journal_dir(first) / f"sites/mr-a/{LAST:05d}/remapper.safetensors")
    assert states.digest(remapper.state()) == states.digest(stored)


def test_inside_models_are_compared_as_ever(first):
    assert inside.main(arguments(first)) == 0

    with (first.folder / "runs/demo/inside_evaluation/cases.csv").open() as handle:
        assert {row["method"] for row in csv.DictReader(handle)} == {"global", "inside", "finetuned"}
