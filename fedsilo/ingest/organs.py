"""Organs of a site's labels: known to the cohort, and declared by every case alike, since what nobody drew is not background."""

import difflib
from collections.abc import Mapping, Sequence

from fedsilo.cohort import layouts
from fedsilo.cohort.layouts import LabelMap, plain
from fedsilo.cohort.roster import Vocabulary
from fedsilo.ingest.source import Finding, SourceCase, SourceError


def known(labels: Mapping[str, int], vocabulary: Vocabulary, site: str) -> LabelMap:
    """Map a site's names of labels to the cohort's organs.

    Raises:
        SourceError: The cohort does not know a name; says the label's value and the nearest words of the cohort.
        DataError: The site annotates no organ of the cohort.
    """
    words = {plain(word) for word in (*vocabulary.organs, *vocabulary.aliases, *vocabulary.drop)}
    unknown = {name: value for name, value in labels.items() if plain(name) not in words}
    if unknown:
        near = dict.fromkeys(word for name in unknown for word in difflib.get_close_matches(plain(name), sorted(words), n=3))
        hint = f"; nearest: {', '.join(near)}" if near else ""
        values = ", ".join(str(value) for value in sorted(unknown.values()))
        raise SourceError(
            "label",
            f"the cohort knows no organ by the name of label {values}{hint}; add it to organs, aliases or drop of the cohort",
            private="; ".join(f"{value}: {name}" for name, value in unknown.items()),
        )
    return layouts.harmonise(labels, vocabulary, site)


def complete(
    cases: Sequence[SourceCase], labels: Mapping[str, int], found: LabelMap, vocabulary: Vocabulary
) -> tuple[tuple[SourceCase, ...], tuple[Finding, ...]]:
    """Leave out cases whose labels declare less of an organ than those of other cases; ``found`` is that of ``known``.

    Left and right kidney are both needed where another case has both; one name for the two is enough.
    """
    parts = {case.case: _parts(case.organs, labels, found) for case in cases if case.organs is not None}
    kinds = {value: {mine[value] for mine in parts.values()} for value in found.annotated}
    kept, findings = list[SourceCase](), list[Finding]()
    for case in cases:
        mine = parts.get(case.case)
        lacking = [value for value in found.annotated if mine is not None and any(mine[value] < other for other in kinds[value])]
        if lacking:
            organs = ", ".join(vocabulary.organs[value] for value in lacking)
            what = (
                f"its label does not declare all of {organs}, which other cases of the site have, and what is not drawn is no "
                "background: complete the label, or import such cases as a site of their own"
            )
            findings.append(Finding("label", what, case.case, " ".join(str(path) for path in case.labels), left_out=True))
        else:
            kept.append(case)
    return tuple(kept), tuple(findings)


def _parts(names: Sequence[str], labels: Mapping[str, int], found: LabelMap) -> dict[int, frozenset[str]]:
    """Say by which names a label declares each organ of the site."""
    value_of = {name: found.values[labels[name]] for name in names if name in labels}
    return {value: frozenset(name for name in value_of if value_of[name] == value) for value in found.annotated}
