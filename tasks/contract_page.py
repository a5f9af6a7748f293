"""The top of a site's page of the contract: what became of it and what to do, before the details of Great Expectations."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsilo.cohort.contract import Finding

GRAVEST_FIRST = ("stop federation", "stop site", "quarantine", "warn")
EMPTY = "<!doctype html><html><head><meta charset='utf-8'></head><body><p>No case could be listed.</p></body></html>"
"""In the place of the rendered rules of a site whose folder cannot be used."""

COLUMNS = ("rule", "action", "case", "what is wrong", "expected", "got", "what to do")


def headed(page: str, *, site: str, num_cases: int, outcome: str, findings: Sequence[Finding]) -> str:
    """Put a site's findings, those of its cases and all others, above the rendered rules.

    Args:
        page: As rendered; left as it is below the new top.
        site: The site's name.
        num_cases: It brought.
        outcome: What became of it, in words.
        findings: All of them.
    """
    ordered = sorted(findings, key=lambda finding: (GRAVEST_FIRST.index(finding.action), finding.rule, finding.case))
    rows = [(one.rule, one.action, one.case or "the site", one.meaning, one.expected, one.got, one.fix) for one in ordered]
    table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    heads = "".join(f"<th>{name}</th>" for name in COLUMNS)
    listed = f"<table><thead><tr>{heads}</tr></thead><tbody>{table}</tbody></table>" if rows else "<p>No findings.</p>"
    name = html.escape(site)
    top = (
        f"<h1>Data contract: {name}</h1><p>{num_cases} cases. {name} {html.escape(outcome)}.</p>{listed}"
        "<h2>Every rule, as Great Expectations evaluated it</h2>"
    )
    return page.replace("<body>", f"<body>{top}", 1)
