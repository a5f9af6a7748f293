"""Changes of good logs, by bytes and by lines, and what the verifier says to each: `python -m tests.audit_fuzz` counts them.

A program of its own, since the tests' run-time type checks make a line forty times slower to verify.
"""

import json
import sys
from collections import Counter

from fedsilo.audit import merkle, verifier
from fedsilo.audit.events import Draft
from fedsilo.audit.merkle import Tree
from fedsilo.errors import AuditRefusedError
from tests import audit_story as tale
from tests.audit_story import WHY

FLIPS = (0x01, 0x02, 0x04, 0x10, 0x20, 0x80)
WAYS = len(FLIPS) + 3


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
    }
    sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    main()
