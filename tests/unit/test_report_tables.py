"""The numbers of a report, from tables in which every expected value can be seen."""

import dataclasses

import pandas
import pytest

from fedsilo import seeds
from fedsilo.errors import DataError
from fedsilo.evaluation import cases
from fedsilo.evaluation.metrics import Score
from fedsilo.report import comparisons, document, inputs, numbers, scores, tables, traces
from fedsilo.report.scores import ALL_ORGANS, ALL_SITES, Bootstrap
from tests.unit import fabricated_run

BOOTSTRAP = Bootstrap(seed=42, num_resamples=99, confidence=0.95)


def table(tmp_path, *lines, metric="dice", unit="1", spacing_mm=(1.0, 1.0, 1.0)):
    """Read a cases table with a row a line (site, patient, case, organ, method, value); value None is absent, 0 missed."""
    rows = []
    for site, patient, case, organ, method, value in lines:
        flag = "absent" if value is None else "missed" if value == 0 else ""
        found = [Score(organ, metric, value, unit, flag), Score(organ, "volume_ml", 0.5 if value is None else 1.0, "ml", flag)]
        names = {"cohort": "c", "site": site, "role": "inside", "patient": patient, "case": case, "method": method}
        rows += cases.rows(found, **names, seed=1, round_index=0, spacing_mm=spacing_mm, model="m")
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
    return cases.read(cases.write(rows, path))


def dice_table(rows, organs=("liver", "spleen")):
    return scores.score_table(rows, role="inside", metric="dice", organs=organs, bootstrap=BOOTSTRAP)


def build(read):
    return document.build(read, fabricated_run.PARAMS, run="demo", seed=42, environment={"python": "3"})


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    sources = fabricated_run.fabricate(tmp_path_factory.mktemp("made"), seeds.numpy_generator(7, "fabricated"))
    return inputs.load(fabricated_run.roster(), sources)


@pytest.fixture(scope="module")
def built(read):
    return build(read)


def phase(built, role):
    return next(found for found in built.phases if found.role == role)


def test_means_go_cases_then_organs_then_patients_then_sites(tmp_path):
    rows = table(
        tmp_path,
        ("a", "p", "p1", "liver", "global", 0.8),
        ("a", "p", "p2", "liver", "global", 0.6),
        ("a", "p", "p1", "spleen", "global", 0.3),
        ("a", "q", "q1", "liver", "global", 0.9),
        ("a", "q", "q1", "spleen", "global", None),
        ("b", "r", "r1", "liver", "global", 0.1),
    )

    found = dice_table(rows)

    assert found.sites("global", "1") == {"a": {"p": pytest.approx(0.5), "q": pytest.approx(0.9)}, "b": {"r": 0.1}}
    summary = tables.summaries(found, "1", BOOTSTRAP)["global"]
    assert summary.mean.mean == pytest.approx((0.7 + 0.1) / 2)
    assert (summary.worst_site, summary.worst.mean, summary.num_sites) == ("b", 0.1, 2)


def test_rows_start_with_the_worst_site_and_keep_the_order_of_organs(tmp_path):
    lines = [
        (site, f"{site}{index}", f"{site}{index}", organ, "global", value)
        for site, value in (("good", 0.9), ("bad", 0.3))
        for index in range(2)
        for organ in ("spleen", "liver")
    ]

    found = dice_table(table(tmp_path, *lines))

    assert [(row.site, row.organ) for row in found.rows] == [
        (site, organ) for site in ("bad", "good") for organ in (ALL_ORGANS, "liver", "spleen")
    ]


def test_missed_organs_count_and_absent_ones_do_not(tmp_path):
    rows = table(
        tmp_path,
        ("a", "p", "p", "liver", "global", 0.0),
        ("a", "q", "q", "liver", "global", 0.8),
        ("a", "r", "r", "liver", "global", None),
    )

    cell = dice_table(rows).rows[1].cells["global"]
    (failure,) = tables.failures(rows, "inside")

    assert cell.patients == {"p": 0.0, "q": 0.8}
    assert (cell.num_missed, cell.num_scored) == (1, 2)
    assert (failure.num_cases, failure.num_low, failure.share_low) == (2, 1, 0.5)
    assert (failure.num_organs, failure.num_missed, failure.num_absent, failure.num_false_positive) == (2, 1, 1, 1)
    assert tables.absent_organs(rows) == {"a": {"global": tables.AbsentCell(1, 1, 0.5, "ml")}}


def test_an_organ_absent_everywhere_has_no_mean(tmp_path):
    rows = table(tmp_path, ("a", "p", "p", "liver", "global", None), ("a", "p", "p", "spleen", "global", 0.5))

    liver = dice_table(rows).rows[1].cells["global"]

    assert (liver.interval, liver.median, liver.num_scored) == (None, None, 0)


def test_pixels_and_millimetres_are_never_averaged_together(tmp_path):
    millimetres = table(tmp_path, ("a", "p", "p", "liver", "global", 10.0), metric="hd95", unit="mm")
    pixels = table(tmp_path, ("b", "q", "q", "liver", "global", 90.0), metric="hd95", unit="px", spacing_mm=None)

    found = scores.score_table(
        pandas.concat([pixels, millimetres]), role="inside", metric="hd95", organs=["liver"], bootstrap=BOOTSTRAP
    )

    assert [(row.site, row.unit) for row in found.rows if row.organ == ALL_ORGANS] == [("a", "mm"), ("b", "px")]
    assert tables.summaries(found, "mm", BOOTSTRAP)["global"].mean.mean == 10
    assert tables.summaries(found, "px", BOOTSTRAP)["global"].mean.mean == 90


def test_nsd_is_split_by_the_unit_of_its_tolerance(built):
    assert {unit for metric, unit in phase(built, "outside").summaries if metric == "nsd"} == {"mm", "px"}


def test_a_quantity_is_the_same_number_wherever_it_stands(built):
    outside = phase(built, "outside")
    row = next(row for row in built.headline if row.method == "routing-paper")
    metrics = numbers.metrics(built)["outside"]["routing-paper"]["dice"]

    cells = next(row.cells for row in outside.scores["dice"].rows if (row.site, row.organ) == ("mr-d", ALL_ORGANS))
    assert row.outside.worst_site == "mr-d"
    assert row.outside.worst == cells["routing-paper"].interval
    assert metrics["worst_site"] == pytest.approx(row.outside.worst.mean, abs=1e-6)
    assert metrics["mean"] == pytest.approx(row.outside.mean.mean, abs=1e-6)
    assert f"outside,mr-d,all organs,routing-paper,{metrics['sites']['mr-d']}," in numbers.plots(built)["dice.csv"]


def test_methods_stand_in_one_order_and_only_where_they_were_run(built):
    shown = [row.method for row in built.headline]
    assert shown == [
        method for method in scores.METHODS if method in (*fabricated_run.INSIDE_METHODS, *fabricated_run.OUTSIDE_METHODS)
    ]
    assert {row.method for row in built.headline if row.inside is None} == set(fabricated_run.OUTSIDE_METHODS) - {"global"}
    assert built.leaders.inside_mean == "inside"


def test_the_router_is_summarised_by_site(built):
    first = built.router[0]

    assert [row.site for row in built.router] == ["ct-c", "mr-c", "mr-d"]
    assert (first.num_cases - first.num_kept, first.passes) == (1, pytest.approx(2.8))
    assert next(expert for expert, _ in first.weights) == "global"
    assert dict(first.weights)["mr-a"] == pytest.approx(0.15)


def test_a_site_that_does_not_annotate_an_organ_has_no_row_for_it(built):
    organs = [row.organ for row in phase(built, "inside").scores["dice"].rows if row.site == "ct-b"]

    assert organs == [ALL_ORGANS, "liver", "kidneys"]


def test_comparisons_by_site_and_over_all_sites(built):
    outside = phase(built, "outside").comparisons
    small = next(row for row in outside if (row.method, row.site) == ("soup", "ct-c"))
    everywhere = next(row for row in outside if (row.method, row.site) == ("soup", ALL_SITES))

    assert {row.method for row in outside} == set(fabricated_run.OUTSIDE_METHODS) - {"global"}
    assert (small.comparison.num_patients, small.comparison.p_value, small.p_adjusted) == (5, None, None)
    assert everywhere.comparison.num_patients == 17
    assert everywhere.p_adjusted >= everywhere.comparison.p_value
    assert everywhere.comparison.difference.high < 0


def test_methods_that_agree_differ_nowhere(built):
    row = next(row for row in phase(built, "inside").comparisons if (row.method, row.site) == ("finetuned", "ct-a"))

    assert (row.comparison.difference.mean, row.comparison.p_value, row.p_adjusted) == (0, 1, 1)


def test_a_method_scored_on_other_patients_is_refused(tmp_path):
    rows = table(
        tmp_path,
        ("a", "p", "p", "liver", "global", 0.8),
        ("a", "q", "q", "liver", "global", 0.8),
        ("a", "p", "p", "liver", "inside", 0.8),
    )

    with pytest.raises(DataError, match=r"inside at a: .* patients \['q'\] are scored by one of them only"):
        comparisons.confirmatory(dice_table(rows), BOOTSTRAP)


def test_the_order_of_rows_is_irrelevant(read, built):
    turned = [dataclasses.replace(phase, cases=phase.cases.iloc[::-1]) for phase in read.phases]

    again = build(dataclasses.replace(read, phases=tuple(turned), rounds=read.rounds.iloc[::-1]))

    assert numbers.metrics(again) == numbers.metrics(built)
    assert numbers.plots(again) == numbers.plots(built)


def test_headline_text_is_a_table(built):
    lines = tables.headline_text(built.headline, confidence=0.95).splitlines()

    assert lines[0].split("  ")[0] == "Dice"
    assert [line.split()[0] for line in lines[2:10]] == [row.method for row in built.headline]
    assert "mr-d" in lines[2]
    assert "95 % bootstrap interval" in lines[-1]


def test_curves_mark_the_selected_rounds_and_leave_gaps(built):
    curve = built.curves[0]

    assert (curve.site, curve.selected_global, curve.selected_inside) == ("ct-a", 17, 13)
    assert curve.val_dice_global[0] is None
    assert curve.val_dice_global[1] is not None
    assert len(curve.rounds) == fabricated_run.NUM_ROUNDS


def test_routes_are_means_that_sum_to_one(built):
    found = [route for route in built.routes if (route.site, route.method) == ("mr-c", "routing-paper")]

    assert [route.expert for route in found] == ["global", "ct-a", "ct-b", "mr-a", "mr-b"]
    assert sum(route.before for route in found) == pytest.approx(1)
    assert sum(route.after for route in found) == pytest.approx(1, abs=1e-5)
    assert found[0].before == 0.5


def test_experts_that_are_almost_one_model_are_noticed(built):
    assert [(row.site, row.is_low, row.num_pairs) for row in built.disagreements] == [
        ("ct-c", True, 10),
        ("mr-c", False, 10),
        ("mr-d", False, 10),
    ]


def test_the_cohort_table_says_what_a_site_brings(built):
    by_site = {row.site: row for row in built.sites}

    assert by_site["ct-b"].organs == ("liver", "kidneys")
    assert by_site["ct-a"].patients == (7, 1, 6)
    assert by_site["ct-a"].spacing_mm == (8.0, 6.0, 6.0)
    assert by_site["mr-d"].spacing_mm is None
    assert (by_site["ct-a"].verdict, by_site["mr-c"].verdict) == ("passed", "warned")
    assert by_site["mr-c"].warnings == ("[L4] mr-c-03: organ volume <unusual>; expected 36 to 900 ml, got 1204 ml",)


def test_metrics_hold_rounded_numbers_only(built):
    def leaves(value):
        return [leaf for below in value.values() for leaf in leaves(below)] if isinstance(value, dict) else [value]

    found = leaves(numbers.metrics(built))

    assert all(isinstance(value, int | float) for value in found)
    assert all(value == round(value, 6) for value in found)


def test_flattened_records_keep_their_paths():
    assert traces.flattened({"model": {"inside/a": "x"}, "rounds": 3}) == [("model.inside/a", "x"), ("rounds", 3)]
