"""An ancestry for people: a line a round, short hashes; all of it is in its JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from fedsilo.audit import forms
from fedsilo.audit.origin import Act, Ancestry, Counted, Data, Made, Round

DIGITS = 12


def text(found: Ancestry) -> str:
    """Write an ancestry in lines."""
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Ancestry) -> Iterator[str]:
    what = "global model" if found.site is None else f"inside model of {found.site}"
    yield f"model {found.model}"
    yield f"  {what} of the run {found.run or '-'}, known as {', '.join(found.names)}"
    if found.folded:
        yield f"  folded over {len(found.folded)} states:"
        for state in found.folded:
            yield f"    {_short(state.sha256)}  {'no aggregation of it' if state.index is None else f'after round {state.index}'}"
    yield from _part("data", (_data(entry) for entry in found.data))
    head = f"rounds: {len(found.rounds)}, first state {_short(found.first)}" if found.rounds else "rounds"
    yield from _part(head, map(_round, found.rounds))
    yield from _part(
        "went into the rounds", (f"{entry.name} {_short(entry.sha256)}  {_span(entry.rounds)}" for entry in found.inputs)
    )
    yield from _part("code and environment", map(_made, found.made))
    yield from _part(
        "code at the sites",
        (f"{code.site}  {_commit(code.git, dirty=code.dirty)}  {code.version or ''}".rstrip() for code in found.site_code),
    )
    yield from _part("said of it", map(_act, found.acts))
    yield from _part(
        "keys",
        (
            f"{key.key}  {key.actor} ({key.actor_name}): {', '.join(key.roles)}"
            f"{f'; revoked {key.revoked_at}' if key.revoked_at else ''}"
            for key in found.keys
        ),
    )


def _part(head: str, lines: Iterable[str]) -> Iterator[str]:
    """Give a part with its head; the log may say nothing of it."""
    told = list(lines)
    yield head if told else f"{head}: nothing in the log"
    yield from (f"  {line}" for line in told)


def _data(data: Data) -> str:
    accepted = "never accepted in the log" if data.line is None else f"accepted {data.ts} line {data.line}"
    cases = "cases unknown" if data.num_cases is None else f"{data.num_cases} cases"
    return f"{data.site}  {_short(data.sha256)}  {cases}, {_span(data.rounds)}, {accepted}"


def _round(entry: Round) -> str:
    told = [f"{entry.rule or 'rule unknown'}: {', '.join(map(_counted, entry.updates)) or 'no update'}"]
    if entry.refused:
        told.append(f"refused {', '.join(f'{refused.site} ({refused.check})' for refused in entry.refused)}")
    if entry.missing:
        told.append(f"missing {', '.join(entry.missing)}")
    states = f"{_short(entry.before)} -> {_short(entry.after)}"
    return f"round {'-' if entry.index is None else entry.index}  line {entry.line}  {entry.ts}  {states}  {'; '.join(told)}"


def _counted(entry: Counted) -> str:
    cases = "" if entry.num_cases is None else f" {entry.num_cases} cases"
    return f"{entry.site} {_short(entry.sha256)}{cases}"


def _made(entry: Made) -> str:
    env = entry.env
    rest = forms.plain(replace(env, git=None, dirty=None))
    told = (f"{name} {_short(value) if name.endswith('sha256') else value}" for name, value in rest.items())
    return "  ".join([f"lines {entry.first_line}-{entry.last_line}", _commit(env.git, dirty=env.dirty), *told])


def _act(act: Act) -> str:
    who = f"{act.person} ({act.person_name})" + ("" if act.person == act.actor else f", carried by {act.actor}")
    told = [f"{act.ts}  line {act.line}  {act.kind} {act.name}", who]
    if act.gate:
        told.append(f"{act.gate}: {act.verdict}")
    if act.meaning:
        told.append(f"meaning {act.meaning}")
    if act.missing:
        told.append(f"in spite of missing evidence: {act.missing}")
    return f"{'; '.join(told)}; {act.reason}"


def _commit(git: str | None, *, dirty: bool | None) -> str:
    state = {None: "", True: " with local changes", False: " clean"}[dirty]
    return f"git {git[:DIGITS] if git else 'unknown'}{state}"


def _short(value: object) -> str:
    return "-" if value is None else str(value).removeprefix("sha256:")[:DIGITS]


def _span(rounds: Sequence[int]) -> str:
    """Name rounds in a few words: those in a row by first and last.

    Example:
        >>> _span((0, 1, 2, 5))
        'rounds 0-2, 5'
    """
    runs: list[list[int]] = []
    for index in rounds:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    told = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"round{'' if len(rounds) == 1 else 's'} {told or '-'}"
