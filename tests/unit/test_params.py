"""params.yaml and cohort files: what is read, and what a wrong key says."""

import pytest
import yaml
from pydantic import ValidationError

from fedsilo import params
from fedsilo.cohort import roster
from fedsilo.errors import ParamsError


@pytest.fixture
def tree(repository):
    return yaml.safe_load((repository / "params.yaml").read_text())


@pytest.fixture
def write(tmp_path):
    """Write a tree as a YAML file."""

    def to_file(content, name="params.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content))
        return path

    return to_file


def test_the_projects_file_is_valid_and_frozen(repository):
    loaded = params.load(repository / "params.yaml")

    assert loaded.federate.appearance.method == "gin"
    with pytest.raises(ValidationError, match="frozen"):
        loaded.seed = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"federat": {}}, r"unknown key federat \(did you mean federate\?\)"),
        ({"gin": 1}, "unknown key gin"),
    ],
)
def test_an_unknown_section_is_named(tree, write, change, message):
    with pytest.raises(ParamsError, match=message):
        params.load(write(tree | change))


def test_an_unknown_key_inside_a_section_is_named_with_the_nearest(tree, write):
    tree["federate"]["optimizer"]["learning_rat"] = tree["federate"]["optimizer"].pop("learning_rate")

    with pytest.raises(ParamsError) as caught:
        params.load(write(tree))

    assert "unknown key federate.optimizer.learning_rat (did you mean learning_rate?)" in str(caught.value)
    assert "missing key federate.optimizer.learning_rate" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("federate", "rounds", 0),
        ("federate", "participation", 1.1),
        ("federate", "weighting", "size"),
        ("prepare", "val_share", "much"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_was_found(tree, write, section, key, value):
    tree[section][key] = value

    with pytest.raises(ParamsError, match=rf"{section}\.{key}.*{value}"):
        params.load(write(tree))


def test_a_missing_key_is_named(tree, write):
    del tree["seed"]

    with pytest.raises(ParamsError, match="missing key seed"):
        params.load(write(tree))


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "cannot read"), ("- 1", "expected a mapping"), ("", "expected a mapping")]
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "params.yaml").write_text(content)

    with pytest.raises(ParamsError, match=message) as caught:
        params.load(tmp_path / "params.yaml")

    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"cannot read .*nothing\.yaml"):
        params.load(tmp_path / "nothing.yaml")


def test_overrides_change_leaves_and_nothing_beside_them(repository):
    path = repository / "params.yaml"
    before, after = params.load(path), params.load(path, {"federate": {"appearance": {"method": "none"}}})

    assert after.federate.appearance.method == "none"
    assert after.federate.model_copy(update={"appearance": before.federate.appearance}) == before.federate


def test_an_unknown_override_is_named_with_its_section(repository):
    with pytest.raises(ParamsError, match=r"unknown key federate\.appearance\.metho \(did you mean method\?\)"):
        params.load(repository / "params.yaml", {"federate": {"appearance": {"metho": "none"}}})


def test_assignments_come_last_and_are_read_as_yaml(repository):
    loaded = params.load(
        repository / "params.yaml", {"federate": {"rounds": 3}}, ["federate.rounds=5", "prepare.size_yx_px=[64, 32]"]
    )

    assert (loaded.federate.rounds, loaded.prepare.size_yx_px) == (5, (64, 32))


@pytest.mark.parametrize("assignment", ["federate.rounds", "federate=3", "federate.round=3", "=3"])
def test_a_wrong_assignment_is_refused(repository, assignment):
    with pytest.raises(ParamsError):
        params.load(repository / "params.yaml", None, [assignment])


def test_a_patch_must_fit_the_network(repository):
    with pytest.raises(ParamsError, match="must be multiples of 8"):
        params.load(repository / "params.yaml", None, ["federate.patch_zyx=[24, 50, 64]"])


@pytest.mark.parametrize("name", ["demo", "kidneys", "liver"])
def test_the_cohort_files_are_valid_with_their_overrides(repository, name):
    loaded, _ = roster.load_run(repository / "cohorts" / f"{name}.yaml", repository / "params.yaml")

    assert loaded.name == name
    assert loaded.inside
    assert loaded.outside


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Demo"}, "name: value error, expected a-z first"),
        ({"organs": ["liver"]}, "organs"),
        ({"organs": ["liver", "kidneys"]}, "must start with background"),
        ({"organs": ["background", "liver", "liver"]}, "twice"),
        ({"aliases": {"leber": "lever"}}, "unknown organ lever"),
        ({"sites": []}, "sites"),
        ({"colour": "red"}, "unknown key colour"),
    ],
)
def test_a_wrong_cohort_is_refused(repository, write, change, message):
    cohort = yaml.safe_load((repository / "cohorts" / "demo.yaml").read_text())

    with pytest.raises(ParamsError, match=message):
        roster.load(write(cohort | change, "demo.yaml"))


@pytest.mark.parametrize(("role", "how"), [("inside", "twice"), ("outside", "both inside and outside")])
def test_a_site_stands_in_a_cohort_once(repository, write, role, how):
    cohort = yaml.safe_load((repository / "cohorts" / "demo.yaml").read_text())
    cohort["sites"].append({**cohort["sites"][0], "role": role})

    with pytest.raises(ParamsError, match=f"site ct-a is listed {how}"):
        roster.load(write(cohort, "demo.yaml"))


def test_a_site_that_is_not_there_is_named_with_those_that_are(repository):
    with pytest.raises(ParamsError, match="cohort liver has no site ct-a; it has chaos_mr_t2, curvas_ct, chaos_ct_liver"):
        roster.load(repository / "cohorts" / "liver.yaml").site("ct-a")


def test_a_cohort_without_a_root_lies_in_the_data_root(repository):
    for name, root in (("demo", "data/raw/demo"), ("liver", "../shared/data/abdomen")):
        loaded, its = roster.load_run(repository / "cohorts" / f"{name}.yaml", repository / "params.yaml")
        assert str(roster.data_root(loaded, its)) == root


def test_overlays_lie_between_the_cohort_and_the_assignments(repository, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("federate: {rounds: 2, local_epochs: 3, batch_size: 5}")
    second.write_text("federate: {rounds: 4}")

    loaded = params.load(
        repository / "params.yaml",
        {"federate": {"rounds": 9, "batch_size": 9, "participation": 0.5}},
        ["federate.batch_size=6"],
        overlays=[first, second],
    ).federate

    assert (loaded.participation, loaded.rounds, loaded.local_epochs, loaded.batch_size) == (0.5, 4, 3, 6)


def test_a_wrong_overlay_is_named(repository, tmp_path):
    overlay = tmp_path / "wrong.yaml"
    overlay.write_text("federate: {round: 2}")

    with pytest.raises(ParamsError, match=r"wrong\.yaml: unknown key federate\.round \(did you mean rounds\?\)"):
        params.load(repository / "params.yaml", overlays=[overlay])
    with pytest.raises(ParamsError, match=r"cannot read .*absent\.yaml"):
        params.load(repository / "params.yaml", overlays=[tmp_path / "absent.yaml"])


def test_participants_are_replaced_whole(repository, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("federate: {participants: {a: {mr-a: 1}, b: {ct-a: 1}}}")
    second.write_text("federate: {participants: {c: {mr-a: null}}}")

    loaded = params.load(repository / "params.yaml", overlays=[first, second])

    assert loaded.federate.participants == {"c": {"mr-a": None}}
