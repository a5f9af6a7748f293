"""The cases table: the same bytes for the same rows, and back."""

import dataclasses

import pytest

from fedsilo.errors import DataError
from fedsilo.evaluation import cases
from fedsilo.evaluation.metrics import TOOL, Score

SCORES = [
    Score("liver", "dice", 0.123456789, "1", ""),
    Score("liver", "volume_error_ml", -1e-9, "ml", ""),
    Score("spleen", "hd95", None, "mm", "absent"),
]


def rows(case="b", method="global", round_index=3, spacing_mm=(1.25, 1.25, 7.7)):
    return cases.rows(
        SCORES,
        cohort="demo",
        site="mr-a",
        role="inside",
        patient="NA",
        case=case,
        method=method,
        seed=42,
        round_index=round_index,
        spacing_mm=spacing_mm,
        model="ab" * 32,
    )


def test_a_row_says_what_was_scored_how_and_by_what():
    row = rows()[0]

    assert dataclasses.astuple(row) == (
        *("demo", "mr-a", "inside", "NA", "b", "liver", "global", 42, 3, "dice", 0.123456789, "1", ""),
        *("1.25|1.25|7.7", TOOL, "ab" * 32),
    )
    assert rows(spacing_mm=None)[0].spacing == ""


def test_text_is_sorted_rounded_and_the_same_for_any_order(tmp_path):
    both = rows("b") + rows("a", round_index=None)

    text = cases.write(both, tmp_path / "one.csv").read_text()

    assert text == cases.write(reversed(both), tmp_path / "other.csv").read_text()
    lines = text.splitlines()
    assert lines[0] == "cohort,site,role,patient,case,organ,method,seed,round,metric,value,unit,flag,spacing,tool,model"
    assert lines[1] == f"demo,mr-a,inside,NA,a,liver,global,42,,dice,0.123457,1,,1.25|1.25|7.7,{TOOL},{'ab' * 32}"
    assert ",volume_error_ml,0.0,ml," in lines[2]  # no minus zero
    assert ",hd95,,mm,absent," in lines[3]


def test_reading_gives_numbers_text_and_what_is_undefined(tmp_path):
    table = cases.read(cases.write(rows("b") + rows("a", round_index=None), tmp_path / "cases.csv"))

    assert table["value"].tolist()[:2] == [0.123457, 0.0]
    assert table["value"].isna().tolist() == [False, False, True] * 2
    assert table["round"].isna().tolist() == [True] * 3 + [False] * 3
    assert set(table["patient"]) == {"NA"}  # a name, not a missing value
    assert set(table["flag"]) == {"", "absent"}
    assert set(table["seed"]) == {42}


def test_joining_parts_equals_writing_all_rows(tmp_path):
    parts = [cases.write(rows(case), tmp_path / f"{case}.csv") for case in "cab"]

    joined = cases.join(parts, tmp_path / "joined.csv")

    assert joined.read_bytes() == cases.write(rows("a") + rows("b") + rows("c"), tmp_path / "all.csv").read_bytes()


def test_an_empty_table_can_be_written_and_read(tmp_path):
    table = cases.read(cases.join([], tmp_path / "cases.csv"))

    assert table.empty
    assert tuple(table.columns) == cases.COLUMNS


def test_two_rows_about_one_thing_are_refused(tmp_path):
    with pytest.raises(DataError, match="two rows for mr-a/b liver global dice"):
        cases.write(rows() + rows(), tmp_path / "cases.csv")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(tmp_path, value):
    row = dataclasses.replace(rows()[0], value=value)

    with pytest.raises(DataError, match="expected a finite number or none"):
        cases.write([row], tmp_path / "cases.csv")


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "cases.csv").write_text("case,dice\na,0.5\n")

    with pytest.raises(DataError, match="expected the columns cohort,site,role"):
        cases.read(tmp_path / "cases.csv")


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*cases\.csv"):
        cases.read(tmp_path / "cases.csv")
