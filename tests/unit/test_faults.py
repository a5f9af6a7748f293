"""Malformed cases, all at once: each is caught by the rule meant for it, quickly, in little memory, and nothing else is."""

import gzip
import json
import multiprocessing
import resource
import time
from pathlib import Path

import numpy
import pytest

from fedsilo import params as params_module
from fedsilo.cohort import contract, facts, layouts, repairs, splits
from fedsilo.cohort import measure as measures
from fedsilo.errors import DataError
from tasks import expectations
from tests.unit import fault_corpus, faulty_sites, raw_site
from tests.unit.faulty_sites import LABELS, NUM_CLEAN

PARAMS = params_module.load(raw_site.REPOSITORY / "params.yaml", {}, ())
SITES = {"mr": ("MR", "au"), "ct": ("CT", "hu"), "png": ("CT", "windowed_8bit")}
ORGANS = ("liver", "kidneys")
MAX_SECONDS, MAX_BYTES = 10, 2 * 2**30


def case_of(fault):
    return f"z{fault_corpus.ALL.index(fault):02d}-{fault.name.replace(' ', '-').replace(',', '')}"


def cohort(name):
    modality, unit = SITES[name]
    made = raw_site.roster("inside", unit=unit, modality=modality, organs=("background", *ORGANS))
    return made.model_copy(update={"sites": tuple(site.model_copy(update={"name": name}) for site in made.sites)})


def plant(folder, name):
    """Write a site: clean cases first, then one for each fault."""
    for index in range(NUM_CLEAN):
        if name == "png":
            faulty_sites.drawn()(folder, f"clean-{index}")
        else:
            faulty_sites.volume(folder, f"clean-{index}", modality=SITES[name][0])
    for fault in fault_corpus.ALL:
        if fault.site == name:
            fault.plant(folder, case_of(fault))
    raw_site.describe(folder, labels=LABELS, ending=".png" if name == "png" else ".nii.gz", channels=(SITES[name][0],))
    return folder


def measure_all(folder, name, pipe):
    """Measure a site's cases with little memory; in a process of its own."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
    roster = cohort(name)
    found = layouts.find_cases(folder, name)
    label_map = layouts.harmonise(found.labels, roster, name)
    for case in found.cases:
        start = time.process_time()
        row = measures.measure(case, label_map, roster=roster, site=roster.site(name))
        pipe.send((json.dumps(facts.to_json(row), allow_nan=False), time.process_time() - start))
    pipe.send(None)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Findings by site and case, and the seconds of a processor that each case took."""
    found, seconds = {}, {}
    for name in SITES:
        folder = plant(tmp_path_factory.mktemp("corpus") / name, name)
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        child = multiprocessing.get_context("fork").Process(target=measure_all, args=(folder, name, theirs))
        child.start()
        theirs.close()
        rows = []
        while (message := ours.recv()) is not None:
            rows.append(facts.from_json(json.loads(message[0])))
            seconds[rows[-1].case] = message[1]
        child.join()
        split = splits.assign(
            {row.case: row.case for row in rows}, site=name, role="inside", seed=1, val_share=0.2, test_share=0.2
        )
        rows = facts.with_splits(rows, split, near_share=0.0)
        rules = contract.rules(PARAMS.prepare.contract, ORGANS)
        for row in rows:
            found[row.case] = []
        for finding in expectations.check({name: rows}, rules, ORGANS)[name].findings:
            found[finding.case].append(finding)
    return found, seconds


def test_there_are_enough_of_them():
    assert len({fault.name for fault in fault_corpus.ALL}) == len(fault_corpus.ALL) >= 60


@pytest.mark.parametrize("fault", fault_corpus.ALL, ids=lambda fault: fault.name)
def test_a_fault_is_caught_by_the_rule_meant_for_it(judged, fault):
    found = judged[0][case_of(fault)]

    assert {finding.rule for finding in found} == set(fault.rules)
    assert any(fault.says in f"{finding.meaning} {finding.got} {finding.field}" for finding in found), found


def test_clean_cases_break_no_rule(judged):
    assert {case: found for case, found in judged[0].items() if case.startswith("clean") and found} == {}


def test_no_message_tells_what_names_a_person(judged):
    told = " ".join(finding.message for found in judged[0].values() for finding in found)

    assert faulty_sites.PERSON not in told
    assert "klinik" not in told


def test_none_takes_long(judged):
    assert max(judged[1].values()) < MAX_SECONDS


ACCEPTED = {
    "big endian": lambda array: array.astype(">i2"),
    "float64": lambda array: array.astype(numpy.float64),
    "unsigned": lambda array: array.astype(numpy.uint16),
    "one more axis of one": lambda array: array[..., None],
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_unusual_storage_is_no_fault(tmp_path, change):
    roster = cohort("mr")
    faulty_sites.volume(tmp_path, "plain")
    faulty_sites.volume(tmp_path, "other", change=lambda _: change(faulty_sites.image(faulty_sites.seed_of("plain"))))
    raw_site.describe(tmp_path, labels=LABELS)
    found = layouts.find_cases(tmp_path, "mr")
    label_map = layouts.harmonise(found.labels, roster, "mr")

    rows = [measures.measure(case, label_map, roster=roster, site=roster.site("mr")) for case in found.cases]

    assert rows[0].content_hash == rows[1].content_hash
    assert (rows[0].num_unmeasured, rows[1].num_unmeasured) == (0, 0)


@pytest.mark.parametrize(("name", "repair"), [("nearly square axes", "direction"), ("rounded label", "label_values")])
def test_what_is_safe_to_repair_is_repaired_on_request(tmp_path, name, repair):
    fault = next(fault for fault in fault_corpus.ALL if fault.name == name)
    fault.plant(tmp_path, "case")
    raw_site.describe(tmp_path, labels=LABELS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    found = layouts.find_cases(tmp_path, "mr")
    roster = cohort("mr")
    label_map = layouts.harmonise(found.labels, roster, "mr")

    row = measures.measure(found.cases[0], label_map, roster=roster, site=roster.site("mr"), fix=True)

    assert row.repairs == repair
    rules = contract.rules(PARAMS.prepare.contract, ORGANS)
    assert expectations.check({"mr": [row]}, rules, ORGANS)["mr"].findings == ()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")} == before


@pytest.mark.parametrize("name", ["sheared axes", "half a label", "label moved"])
def test_what_may_be_a_fault_is_not_repaired(tmp_path, name):
    next(fault for fault in fault_corpus.ALL if fault.name == name).plant(tmp_path, "case")
    raw_site.describe(tmp_path, labels=LABELS)

    assert repairs.read(layouts.find_cases(tmp_path, "mr").cases[0], fix=True)[2] == ()


def spoilt(change):
    """Change dataset.json."""

    def plant(folder):
        content = json.loads((folder / "dataset.json").read_text())
        change(content)
        (folder / "dataset.json").write_text(json.dumps(content))

    return plant


def renamed(folder, case):
    """Give a case another name, image and label."""
    (folder / "imagesTr/case_0_0000.nii.gz").rename(folder / f"imagesTr/{case}_0000.nii.gz")
    (folder / "labelsTr/case_0.nii.gz").rename(folder / f"labelsTr/{case}.nii.gz")


def patients(text):
    return lambda folder: (folder / "patients.csv").write_bytes(text)


FOLDERS = {
    "no dataset.json": (lambda folder: (folder / "dataset.json").unlink(), "dataset.json"),
    "no JSON": (lambda folder: (folder / "dataset.json").write_text("{"), "dataset.json"),
    "a list": (lambda folder: (folder / "dataset.json").write_text("[]"), "dataset.json"),
    "ending of another world": (spoilt(lambda content: content.update(file_ending="../x")), "file_ending"),
    "no labels": (spoilt(lambda content: content.update(labels={})), "no labels"),
    "values before names": (spoilt(lambda content: content.update(labels={"0": "background", "1": "liver"})), "expected a value"),
    "a region": (spoilt(lambda content: content["labels"].update(liver=[1, 2])), "region"),
    "one value twice": (spoilt(lambda content: content["labels"].update(kidneys=1)), "one value"),
    "no background": (spoilt(lambda content: content["labels"].pop("background")), "background"),
    "unknown organ": (spoilt(lambda content: content["labels"].update(livver=9)), "nearest: liver"),
    "two channels declared": (spoilt(lambda content: content["channel_names"].update({"1": "MR"})), "channels"),
    "no images": (lambda folder: [path.unlink() for path in (folder / "imagesTr").iterdir()], "no image"),
    "label without image": (lambda folder: (folder / "imagesTr/case_0_0000.nii.gz").unlink(), "has no image"),
    "no channel number": (
        lambda folder: (folder / "imagesTr/case_0_0000.nii.gz").rename(folder / "imagesTr/case.nii.gz"),
        "channel number",
    ),
    "another ending": (lambda folder: (folder / "imagesTr/notes.txt").write_text("x"), "file_ending"),
    "absurd name": (lambda folder: renamed(folder, "c;rm -rf *"), "is not allowed"),
    "very long name": (lambda folder: renamed(folder, "x" * 200), "is not allowed"),
    "patient twice": (patients(b"case,patient\ncase_0,a\ncase_0,b\ncase_1,c\n"), "two patients"),
    "patient missing": (patients(b"case,patient\ncase_0,a\n"), "does not name case case_1"),
    "patients without columns": (patients(b"id\ncase_0\n"), "columns case and patient"),
    "patients not in UTF-8": (patients(b"case,patient\ncase_0,\xff\xfe\n"), "cannot read"),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_that_is_no_site_stops_with_a_message(tmp_path, fault):
    folder = raw_site.write_site(tmp_path / "site-a", 2)
    plant_in, says = FOLDERS[fault]
    plant_in(folder)

    with pytest.raises(DataError, match=says):
        layouts.harmonise(layouts.find_cases(folder, "site-a").labels, raw_site.roster(), "site-a")


def test_a_link_in_circles_stops_with_a_message(tmp_path):
    (tmp_path / "site-a").symlink_to(tmp_path / "site-a")

    with pytest.raises(DataError, match="missing"):
        layouts.find_cases(tmp_path / "site-a", "site-a")


def test_a_small_volume_with_a_gigabyte_behind_it_is_refused(tmp_path):
    faulty_sites.volume(tmp_path, "case")
    file = faulty_sites.path(tmp_path, "case")
    with gzip.open(file) as handle:
        content = handle.read()
    with gzip.open(file, "wb", compresslevel=1) as handle:
        handle.write(content)
        for _ in range(64):
            handle.write(bytes(2**24))
    raw_site.describe(tmp_path, labels=LABELS)
    start = time.process_time()

    with pytest.raises(DataError, match="more bytes than its header says"):
        repairs.read(layouts.find_cases(tmp_path, "mr").cases[0], fix=False)

    assert time.process_time() - start < MAX_SECONDS
