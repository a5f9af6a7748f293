"""The page: whole, self-contained, the same bytes for the same tables, and silent about sites that show no images."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from fedsilo import seeds
from fedsilo.errors import DataError
from fedsilo.report import document, figures, inputs, page
from tests.unit import fabricated_run

ENVIRONMENT = {"python": "3.11.9", "torch": "2.13.0"}
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Tags, attributes and text of a page; notes tags that are closed in the wrong order."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.tags, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(" ".join(data.split()))


def outline(html):
    parser = Outline()
    parser.feed(html)
    return parser


def fabricate(workspace):
    return fabricated_run.fabricate(workspace, seeds.numpy_generator(7, "fabricated"))


def render(sources, roster=None):
    read = inputs.load(roster or fabricated_run.roster(), sources)
    return page.render(document.build(read, fabricated_run.PARAMS, run="demo", seed=42, environment=ENVIRONMENT))


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return render(fabricate(tmp_path_factory.mktemp("page")))


def test_the_same_files_give_the_same_bytes_wherever_they_lie(html, tmp_path):
    assert render(fabricate(tmp_path / "elsewhere")) == html


def test_tags_are_closed_in_order(html):
    found = outline(html)

    assert html.startswith("<!doctype html>")
    assert (found.wrong, found.open) == ([], [])


def test_nothing_is_loaded_from_anywhere(html):
    found = outline(html)
    targets = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href", "srcset")]

    assert {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object"} == set()
    assert [target for target in targets if not target.startswith(("data:image/", "#"))] == []
    assert "url(" not in html
    assert "@import" not in html


def test_links_inside_the_page_lead_somewhere(html):
    found = outline(html)
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}

    assert {attributes["href"][1:] for tag, attributes in found.tags if tag == "a"} <= ids


def test_every_picture_has_a_description(html):
    assert all(attributes.get("alt") for tag, attributes in outline(html).tags if tag == "img")


def test_sections_stand_in_order(html):
    found = outline(html)

    assert [attributes["id"] for tag, attributes in found.tags if tag == "section"] == [
        "headline",
        "cohort",
        "training",
        "scores",
        "comparisons",
        "overlays",
        "routes",
        "provenance",
    ]


def test_no_time_and_no_folder_of_the_machine_stands_in_the_page(html, tmp_path):
    drawings = [base64.b64decode(code).decode() for code in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)]

    for text in (html, *drawings):
        assert "<dc:date>" not in text
        assert not re.search(r"\b20\d\d-\d\d-\d\d", text)
        assert str(tmp_path.parent) not in text
    assert len(drawings) == 3


def test_texts_from_tables_are_escaped(html):
    assert "organ volume &lt;unusual&gt;" in html
    assert "<unusual>" not in html


def test_what_a_reader_must_not_overlook_is_there(html):
    text = " ".join(outline(html).text)

    assert "not testable" in text
    assert "6 of 6 missed" in text
    assert "organ absent" in text
    assert "drawn in 1 of 1" in text
    assert "in px" in text
    assert "little to route" in text
    assert "95 % bootstrap intervals" in text
    for package, version in ENVIRONMENT.items():
        assert f"{package} {version}" in text


def test_every_input_is_named_with_its_hash(html, tmp_path):
    sources = fabricate(tmp_path)
    read = inputs.load(fabricated_run.roster(), sources)

    assert "runs/demo/outside_evaluation/disagreement.csv" in read.hashes
    assert "data/prepared/demo/mr-d/contract.json" in read.hashes
    assert all(name in html and digest in html for name, digest in read.hashes.items())


def test_a_site_that_shows_no_images_shows_none(html, tmp_path):
    sources = fabricate(tmp_path)
    shown = inputs.load(fabricated_run.roster(), sources)
    listed = (sources.phases["outside"] / "overlays.csv").read_text()

    assert "mr-d" in listed
    assert {overlay.row.site for phase in shown.phases for overlay in phase.overlays} == {
        "ct-a",
        "ct-b",
        "mr-a",
        "mr-b",
        "ct-c",
        "mr-c",
    }
    assert not [name for name in shown.hashes if "mr-d" in name and name.endswith(".png")]
    assert "on case mr-d" not in html


def test_a_cohort_without_outside_sites_has_a_report(tmp_path):
    roster = fabricated_run.roster()
    sources = fabricate(tmp_path)

    found = outline(render(sources, roster.model_copy(update={"sites": roster.inside})))

    assert "routes" not in {attributes.get("id") for _, attributes in found.tags}
    assert "Outside sites" not in found.text
    assert (found.wrong, found.open) == ([], [])


def test_a_site_has_one_colour_and_more_sites_than_colours_still_have_one():
    colours = figures.Colours(tuple(f"site-{index}" for index in range(14)))

    assert len({colours.of(site) for site in colours.sites}) == len(figures.SITE_COLOURS)
    assert colours.of("global") == figures.GLOBAL_COLOUR
    assert colours.of("site-3") == colours.of("site-13")
    assert colours.marker("site-3") == colours.marker("site-13")


def test_drawing_leaves_the_style_of_the_process_alone(tmp_path):
    import matplotlib

    before = matplotlib.rcParams["svg.hashsalt"], matplotlib.rcParams["font.size"]
    figures.training_curves([], figures.Colours(()))

    assert (matplotlib.rcParams["svg.hashsalt"], matplotlib.rcParams["font.size"]) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda sources: sources.rounds.unlink(), "cannot read .*rounds.csv"),
        (lambda sources: sources.rounds.write_text("round,site\n0,ct-a\n"), "rounds.csv: column num_cases is missing"),
        (lambda sources: sources.federation.write_text("[]"), "federation.json: expected a JSON object"),
        (lambda sources: (sources.phases["inside"] / "cases.csv").unlink(), "cannot read .*inside_evaluation/cases.csv"),
        (lambda sources: (sources.phases["outside"] / "routes.csv").unlink(), "cannot read .*routes.csv"),
        (lambda sources: next((sources.phases["inside"] / "overlays").glob("ct-a*.png")).unlink(), "there is no such file"),
        (
            lambda sources: (sources.prepared["ct-a"] / "contract.json").write_text("{}"),
            "contract of ct-a: expected findings as a list",
        ),
        (
            lambda sources: (sources.prepared["ct-a"] / "contract.json").write_text(
                json.dumps({"rules": [], "findings": [{"rule": "G1", "action": "warn"}]})
            ),
            "contract of ct-a: a finding lacks case",
        ),
    ],
    ids=["no rounds", "columns", "record", "no cases", "no routes", "no picture", "contract", "finding"],
)
def test_inputs_that_are_not_as_agreed_are_refused(tmp_path, damage, message):
    sources = fabricate(tmp_path)
    damage(sources)

    with pytest.raises(DataError, match=message):
        render(sources)


def test_cases_of_two_seeds_are_never_pooled(tmp_path):
    sources = fabricate(tmp_path)
    path = sources.phases["inside"] / "cases.csv"
    path.write_text(path.read_text().replace("global,42,", "global,43,"))

    with pytest.raises(DataError, match=r"expected the cases of one seed, got \[42, 43\]"):
        render(sources)


def test_scores_of_two_tools_are_never_compared(tmp_path):
    read = inputs.load(fabricated_run.roster(), fabricate(tmp_path))
    other = dataclasses.replace(read.phases[0], cases=read.phases[0].cases.assign(tool="other 1.0"))

    with pytest.raises(DataError, match="expected one tool"):
        document.build(
            dataclasses.replace(read, phases=(other, *read.phases[1:])),
            fabricated_run.PARAMS,
            run="demo",
            seed=42,
            environment={},
        )
