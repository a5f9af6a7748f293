"""Changes of good logs, by bytes and by lines, and what the verifier says to each: `python -m tests.audit_fuzz` counts them.

A program of its own, since the tests' run-time type checks make a line forty times slower to verify.
"""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fedsilo.audit import ancestry, ancestry_text, canonical, documents, forms, merkle, proofs, verifier
from fedsilo.audit import founding as foundings
from fedsilo.audit.events import Draft, Event, kind_flaw
from fedsilo.audit.merkle import Tree
from fedsilo.errors import AuditRefusedError, DataError
from tests import audit_story as tale
from tests.audit_story import WHY

FLIPS = (0x01, 0x02, 0x04, 0x10, 0x20, 0x80)
WAYS = len(FLIPS) + 3
UNNOTICED = "None"
ODD = (
    None,
    0,
    -1,
    2**53,
    0.5,
    True,
    "",
    "x",
    "\ud800",
    "9999-12-31T23:59:59.999999Z",
    [],
    {},
    [[]],
    {"": 0},
    "A" * 88,
    "sha256:" + "0" * 64,
)


class Original:
    """A good log with its checkpoint, and what is known before each of its lines, so that a changed log is read from there on."""

    def __init__(self, story):
        self.setting, self.content, self.lines = story.setting, story.content, story.lines
        self.known = (story.checkpoint(),)
        self.states, self.trees, state = [], [], verifier.Replay(self.setting).state
        for index, line in enumerate(self.lines):
            self.states.append(state)
            self.trees.append(Tree([merkle.leaf(line) for line in self.lines[:index]]))
            state = verifier.advance(state, line, setting=self.setting, tree=self.trees[index])

    def refusal(self, content):
        """Say by which code a changed log is refused, and whether it took the checkpoint; None if it is not.

        The lines before the first change are those that were checked already; where that line passes all is read anew.
        """
        lines = content.split(b"\n")[:-1]
        same = next((index for index, pair in enumerate(zip(lines, self.lines, strict=False)) if pair[0] != pair[1]), None)
        try:
            if same is not None and content.endswith(b"\n"):
                verifier.advance(self.states[same], lines[same], setting=self.setting, tree=self.trees[same])
            if content:
                verifier.replay(content, self.setting)
        except AuditRefusedError as error:
            return error.code, False
        try:
            verifier.verify(content, self.setting, self.known)
        except AuditRefusedError as error:
            return error.code, True
        return None


def mutants(content):
    """Change every byte in six ways; delete it, put another before it, cut the log off there."""
    for place, byte in enumerate(content):
        before, behind = content[:place], content[place + 1 :]
        for flip in FLIPS:
            yield before + bytes([byte ^ flip]) + behind
        yield before + behind
        yield before + b"0" + content[place:]
        yield before


def edits(original):
    """Delete, double, move and exchange lines, break their ends, put empty and foreign ones in."""
    lines = original.lines
    foreign = [line for story in (_of_a_site(), tale.trained(altered=1)) for line in story.lines]
    for index, line in enumerate(lines):
        head, tail = lines[:index], lines[index + 1 :]
        yield "deleted", [*head, *tail]
        yield "cut off behind", [*head, line] if tail else head
        yield "CRLF", [*head, line + b"\r", *tail]
        yield "spaces", [*head, b" " + line, *tail]
        yield "empty", [*head, b"", line, *tail]
        yield "mark", [*head, b"\xef\xbb\xbf" + line, *tail]
        for other in range(index + 1, len(lines)):
            yield "exchanged", [*head, lines[other], *lines[index + 1 : other], line, *lines[other + 1 :]]
        for other in range(0, len(lines), 3):
            yield "doubled", [*head, lines[other], line, *tail]
        for other in foreign[:: 1 + index % 3]:
            if other not in lines:
                yield "foreign in place", [*head, other, *tail]
                yield "foreign between", [*head, other, line, *tail]


def _of_a_site():
    story = tale.Story("site-a")
    subject = tale.Subject("founding", tale.FEDERATION, after=story.founding.digest)
    return story.add(Draft("log.open", WHY, subject=subject), "site-a").add(Draft("incident", WHY), "site-a")


def text(lines):
    return b"".join(line + b"\n" for line in lines)


def paths(value, path=()):
    """Name every place in a record."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths(part, (*path, key))


def replaced(value, path, other):
    """Put another value at a place; None: take it out."""
    if not path:
        return other
    keep = dict(value) if isinstance(value, dict) else list(value)
    part = replaced(keep[path[0]], path[1:], other)
    if part is None and len(path) == 1:
        del keep[path[0]]
    else:
        keep[path[0]] = part
    return keep


def known_type(document):
    """Give the type of a document, or any if it has none."""
    return next((kind for kind in documents.TYPES if kind == document.get("type")), "change")


def of_insiders(original):
    """Let rightful signers say odd things: each place of each line holds another value, document and line signed anew."""
    names = {tale.signer(name).key: name for name in (*tale.ROLES, *tale.LATER)}
    for index, line in enumerate(original.lines):
        record = json.loads(line)
        for path in paths(record):
            for odd in ODD:
                changed = replaced(record, path, odd)
                attached = changed.get("attached")
                if path[0] == "attached" and isinstance(attached, dict) and path[-1] != "sig":
                    kind, signer = known_type(attached), names.get(str(attached.get("key")), "stranger")
                    unsigned = {name: value for name, value in attached.items() if name != "sig"}
                    changed["attached"] = {**unsigned, "sig": tale.raw_signature(signer, documents.domain(kind), unsigned)}
                yield (
                    index,
                    changed if path == ("sig",) else tale.sign_line(changed, names.get(str(changed.get("key")), "stranger")),
                )


def count_insiders(original):
    """Count what is said to odd lines of rightful signers."""
    seen = Counter()
    for index, record in of_insiders(original):
        try:
            verifier.advance(
                original.states[index], canonical.dumps(record), setting=original.setting, tree=original.trees[index]
            )
        except AuditRefusedError as error:
            seen[error.code] += 1
        else:
            seen[UNNOTICED] += 1
    return seen


def count_proofs(original):
    """Count what is said to proofs of odd lines, well signed, and to odd proofs of good lines."""
    founding, checkpoint = original.setting.founding, forms.plain(original.known[0])
    seen = Counter()
    odd_lines = (
        {"line": canonical.dumps(record).decode(), "path": [], "checkpoint": checkpoint} for _, record in of_insiders(original)
    )
    good = forms.plain(proofs.prove(original.content, 3, original.known[0]))
    odd_proofs = (replaced(good, path, odd) for path in paths(good) for odd in ODD)
    for record in (*odd_lines, *odd_proofs):
        try:
            proofs.check(record, founding)
        except AuditRefusedError as error:
            seen[error.code] += 1
        except DataError:
            seen["not of the founding"] += 1
        else:
            seen[UNNOTICED] += 1
    return seen


def count_foundings(founding, folder):
    """Count what is said to foundings in which one place holds another value."""
    good = forms.plain(founding)
    seen = Counter()
    for path in paths(good):
        for odd in ODD:
            changed = replaced(good, path, odd)
            if json.dumps(changed) == json.dumps(good):
                continue
            (folder / "founding.json").write_text(json.dumps(changed))
            try:
                foundings.read(folder / "founding.json")
            except DataError:
                seen["refused"] += 1
            else:
                seen[UNNOTICED] += 1
    return seen


def count_ancestries(original):
    """Trace every model of logs in which one place of one line says something odd; give how many were traced."""
    register, events = original.setting.register, verifier.read_events(original.content)
    traced = 0
    for index, record in of_insiders(original):
        if forms.flaw(Event, record) or canonical.flaw(record) or record["seq"] != index:
            continue
        event = forms.build(Event, record)
        if events_flaw(event, record):
            continue
        changed = [*events[:index], event, *events[index + 1 :]]
        models = {entry.subject.after for entry in changed if entry.subject and entry.subject.after}
        for found in filter(None, (ancestry.trace(model, changed, register) for model in models)):
            traced += bool(ancestry_text.text(found))
    return traced


def events_flaw(event, record):
    """Say whether a line would be refused by its form."""
    return kind_flaw(event, record) or (event.attached is not None and documents.flaw(event.attached, event.kind))


def small():
    """Three lines by three signers, one with a document."""
    return Original(tale.submit(tale.opened().add(Draft("incident", WHY, site="site-a"), "site-a")))


def count_bytes(original, changed):
    """Count what is said to changed bytes, by code and by whether it took the checkpoint."""
    return Counter(str(original.refusal(content)) for content in changed)


def count_edits(original):
    """Count what is said to changed lines, by kind of edit."""
    seen = {}
    for name, lines in edits(original):
        seen.setdefault(name, Counter())[str(original.refusal(text(lines)))] += 1
    return seen


def one_flip_a_byte(content):
    """Change every byte in one way, the next in the next."""
    for place, byte in enumerate(content):
        yield content[:place] + bytes([byte ^ FLIPS[place % len(FLIPS)]]) + content[place + 1 :]


def main():
    """Count everything and write it as JSON."""
    short, long = small(), Original(tale.whole())
    counts = {
        "small": count_bytes(short, mutants(short.content)),
        "large": count_bytes(long, one_flip_a_byte(long.content)),
        "edits": count_edits(long),
        "insiders": count_insiders(long),
        "proofs": count_proofs(long),
        "ancestries": count_ancestries(long),
    }
    with tempfile.TemporaryDirectory() as folder:
        counts["foundings"] = count_foundings(tale.found(), Path(folder))
    sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    main()
