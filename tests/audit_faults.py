"""Logs with one fault each: what they are, and the verifier's checks by name."""

from dataclasses import dataclass, replace

from fedsilo.audit import verifier

MAKERS = {}


@dataclass(frozen=True)
class Vector:
    """A log, what it is checked against, and the line that is refused."""

    name: str
    content: bytes
    setting: object
    known: tuple
    line: int

    @property
    def check(self):
        return self.name.partition("__")[0]


def vector(maker):
    """Make a function a maker of a log with one fault."""
    MAKERS[maker.__name__] = maker
    return maker


def make(name):
    """Make a vector; its maker gives a story, whose last line is at fault, or whatever differs from that."""
    made = MAKERS[name]()
    story, options = made if isinstance(made, tuple) else (made, {})
    values = {"content": story.content, "known": (), "line": len(story.lines), **options}
    return Vector(name, setting=story.setting, **values)


def checks():
    """Give every check of the verifier by its name: its group, place in it and code."""
    groups = ("whole_lines", "lines", "checkpoints", "revocations")
    return {
        check.__name__: (group, index, code)
        for group in groups
        for index, (code, check) in enumerate(getattr(verifier.CHECKS, group))
    }


def without(name):
    """Give the verifier's checks without one."""
    group, index, _ = checks()[name]
    entries = getattr(verifier.CHECKS, group)
    return replace(verifier.CHECKS, **{group: entries[:index] + entries[index + 1 :]})
