"""Great Expectations over a site's facts table; the only module that imports it.

Context and suite are built in code on every run; nothing of Great Expectations is stored but the page that it renders, with its
links to other hosts taken out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsilo.cohort.contract import Condition, Finding, Rule
from fedsilo.cohort.facts import Facts
from fedsilo.errors import ContractError

ROW_CONDITIONS: dict[Condition, dict[str, object]] = {
    "": {},
    "readable": {"readable": True},
    "mm": {"geometry": "mm"},
    "volume": {"ndim": 3},
    "slice": {"ndim": 2},
    "labelled": {"has_label": True},
    "labelled mm": {"has_label": True, "geometry": "mm"},
    # at an outside site a volume without organs is data: nothing is learnt from it
    "inside volume": {"has_label": True, "ndim": 3, "role": "inside"},
    "ct hu": {"modality": "CT", "intensity_unit": "hu"},
    "mr": {"modality": "MR"},
}
NEVER_NULL = frozenset({"readable", "has_label", "num_unmeasured", "num_traces", "patient_num_splits"})
REMOTE = re.compile(
    r"<link[^>]*href=[\"']https?:[^>]*>|<script[^>]*src=[\"']https?:[^>]*>\s*</script>|<img[^>]*src=[\"']https?:[^>]*>"
)
REMOTE_STYLE = re.compile(r"url\(\s*[\"']?https?:[^)]*\)")
REMOTE_LINK = re.compile(r"<a\b[^>]*href=[\"']https?:[^>]*>(.*?)</a>", re.DOTALL)
RANDOM_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:[\d.]+Z|\b\d{8}T\d{6}\.\d+Z")
STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0; font-size: .9rem }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left; vertical-align: top }
th { background: #f2f2f2 }
h1 ~ table td:nth-child(-n+3) { white-space: nowrap }
ol, ul { padding-left: 1.2rem }
.fa-check-circle:before { content: "passed"; color: #00664f }
.fa-times:before { content: "failed"; color: #a33500 }
.fa-exclamation-triangle:before { content: "error"; color: #8a6d00 }
.badge { border: 1px solid #999; border-radius: .3rem; padding: 0 .3rem }
nav, footer, .card, .collapse, .modal, .popover, button, input, a[data-toggle] { display: none }
</style>"""


@dataclass(frozen=True)
class Checked:
    """What the rules say of a site: broken ones, and the rendered page."""

    findings: tuple[Finding, ...]
    page: str


def check(rows_by_site: Mapping[str, Sequence[Facts]], rules: Sequence[Rule], organs: Sequence[str]) -> dict[str, Checked]:
    """Evaluate all rules on every site's facts; every finding is collected, none stops the others. Organs without background.

    Raises:
        ContractError: A rule itself could not be evaluated: a fault of the contract, not of the data.
    """
    import great_expectations
    from great_expectations import expectations

    from fedsilo.cohort import facts

    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("facts")
    made = [
        expectations.ExpectTableColumnsToMatchSet(column_set=list(facts.columns(organs)), exact_match=True),
        expectations.ExpectTableRowCountToBeBetween(min_value=1),
        *(expectation for index, rule in enumerate(rules) for expectation in _expectations(rule, index)),
    ]
    # all at once: adding them one by one writes the whole suite each time
    suite = context.suites.add(great_expectations.ExpectationSuite(name="data contract", expectations=made))
    checked = {}
    for site, rows in rows_by_site.items():
        batch = source.add_dataframe_asset(site).add_batch_definition_whole_dataframe("all cases")
        definition = context.validation_definitions.add(
            great_expectations.ValidationDefinition(name=f"facts of {site}", data=batch, suite=suite)
        )
        outcome = definition.run(
            batch_parameters={"dataframe": facts.to_frame(rows, organs)},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["site", "case"]},
        )
        checked[site] = Checked(_findings(outcome, rows, rules, site), _stable(_offline(_render(outcome))))
    return checked


def _findings(outcome: Any, rows: Sequence[Facts], rules: Sequence[Rule], site: str) -> tuple[Finding, ...]:  # noqa: ANN401  # an untyped library's result
    """Read the broken rules out of a result, one finding a rule and case, in the order of the rules."""
    by_case = {row.case: row for row in rows}
    findings: dict[tuple[int, str], Finding] = {}
    for result in outcome.results:
        raised = _exceptions(result.exception_info)
        if raised:
            raise ContractError(f"site {site}: a rule could not be evaluated: {result.expectation_config.type}: {raised[0]}")
        if result.success:
            continue
        meta = result.expectation_config.meta or {}
        if "index" not in meta:
            raise ContractError(f"site {site}: the facts table is not as expected: {result.expectation_config.type}")
        rule = rules[meta["index"]]
        failing = sorted(failed["case"] for failed in result.result.get("unexpected_index_list") or [])
        if rule.unique:
            failing = _later(failing, by_case, rule.column)
        for case in failing:
            findings.setdefault((meta["index"], case), _finding(rule, by_case[case]))
    return tuple(findings[key] for key in sorted(findings))


def _later(cases: Sequence[str], by_case: Mapping[str, Facts], column: str) -> list[str]:
    """Leave out the first case of each value: of copies, one stays."""
    from fedsilo.cohort import facts

    seen: set[object] = set()
    later = []
    for case in cases:
        value = facts.value_of(by_case[case], column)
        if value in seen:
            later.append(case)
        seen.add(value)
    return later


def _expectations(rule: Rule, index: int) -> list[object]:
    """Turn a rule into expectations. These skip nulls: the few columns that must never be null are checked for that as well."""
    from great_expectations import expectations
    from great_expectations.expectations.row_conditions import Column

    conditions = [Column(name) == value for name, value in ROW_CONDITIONS[rule.when].items()]
    where = conditions[0] if conditions else None
    for condition in conditions[1:]:
        where = where & condition
    notes = f"{rule.rule} ({rule.action}): {rule.meaning}"
    shared: dict[str, object] = {
        "column": rule.column,
        "meta": {"rule": rule.rule, "action": rule.action, "index": index, "notes": notes},
    }
    if where is not None:
        shared |= {"row_condition": where}
    made: list[object] = []
    if rule.column in NEVER_NULL:
        made.append(expectations.ExpectColumnValuesToNotBeNull(**shared))
    if rule.unique:
        made.append(expectations.ExpectColumnValuesToBeUnique(**shared))
    elif rule.low == rule.high:
        made.append(expectations.ExpectColumnValuesToBeInSet(value_set=[rule.low], **shared))
    else:
        made.append(expectations.ExpectColumnValuesToBeBetween(min_value=rule.low, max_value=rule.high, **shared))
    return made


def _finding(rule: Rule, row: Facts) -> Finding:
    """Say what a case has instead of what the rule expects."""
    from fedsilo.cohort import facts

    value = facts.value_of(row, rule.shown or rule.column)
    got = "nothing measured" if value is None or (isinstance(value, float) and math.isnan(value)) else _text(value)
    return Finding(
        rule=rule.rule,
        action=rule.action,
        site=row.site,
        case=row.case,
        field=rule.column,
        meaning=rule.meaning,
        expected=rule.expected,
        got=got,
        fix=rule.fix,
    )


def _text(value: object) -> str:
    """Write a value for a message."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _exceptions(info: object) -> list[str]:
    """List the exception messages of a result; its shape depends on whether metrics or the rule raised."""
    if not isinstance(info, dict):
        return []
    if "raised_exception" in info:
        return [str(info["exception_message"])] if info["raised_exception"] else []
    return [
        str(entry.get("exception_message"))
        for entry in info.values()
        if isinstance(entry, dict) and entry.get("raised_exception")
    ]


def _render(outcome: object) -> str:
    """Render the Data Docs page of a result."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    return str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(outcome)))


def _offline(page: str) -> str:
    """Take out what would load from other hosts, and style the tables ourselves."""
    page = REMOTE_STYLE.sub("none", REMOTE_LINK.sub(r"\1", REMOTE.sub("", page)))
    return page.replace("</head>", f"{STYLE}</head>", 1)


def _stable(page: str) -> str:
    """Number the random ids and leave out the times, so that a page is the same for the same facts; logs keep the times."""
    numbers: dict[str, int] = {}
    page = RANDOM_ID.sub(lambda found: f"id-{numbers.setdefault(found[0], len(numbers))}", page)
    return TIME.sub("see the log", page)
