"""The packages of an installed environment: versions, what needs what, and licences as their authors declare them.

A licence is an SPDX expression. Authors write it as one (PEP 639), as a name in a field, or as a classifier; a name is looked up
in a list of ours, and one that is not there is unknown. What a binary carries of others is known only as far as it is declared.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UNKNOWN = "unknown"
LONGEST = 200
"""Characters of an expression; longer fields hold the licence itself, and classifiers say which it is."""

NAMES: Mapping[str, str] = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "artistic license": "Artistic-1.0-Perl",
    "bsd": "LicenseRef-BSD",
    "bsd license": "LicenseRef-BSD",
    "2-clause bsd": "BSD-2-Clause",
    "new bsd": "BSD-3-Clause",
    "gplv2 | eplv1": "GPL-2.0-only OR EPL-1.0",
    "gplv2 with linking exception": "LicenseRef-GPL-2.0-with-linking-exception",
    "gnu general public license (gpl)": "LicenseRef-GPL",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "psf": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "zope public license": "ZPL-2.1",
}
"""What authors write in a field or a classifier, in small letters; ``LicenseRef-BSD`` is BSD without the number of clauses."""

ALLOWED = frozenset(
    {
        *(
            "MIT",
            "MIT-0",
            "MIT-CMU",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "0BSD",
            "LicenseRef-BSD",
            "ISC",
            "Zlib",
            "BSL-1.0",
            "CC0-1.0",
        ),
        *("Apache-2.0", "Apache-2.0 WITH LLVM-exception", "PSF-2.0", "Python-2.0", "CNRI-Python", "ZPL-2.1", "MPL-2.0"),
    }
)
"""Licences under which a package may be used without asking: permissive ones, and the MPL, which binds its own files only."""


@dataclass(frozen=True)
class Exemption:
    """Why a package of another licence may be used all the same: the licence as it was read, and the reason."""

    licence: str
    reason: str


EXEMPTED: Mapping[str, Exemption] = {
    "asyncssh": Exemption("EPL-2.0 OR GPL-2.0-or-later", "used under EPL-2.0, unchanged; DVC's git transport imports it"),
    "grandalf": Exemption("GPL-2.0-only OR EPL-1.0", "used under EPL-1.0, unchanged; DVC draws graphs in the terminal with it"),
    "pygit2": Exemption(
        "LicenseRef-GPL-2.0-with-linking-exception",
        "its linking exception lets other programs use it without coming under the GPL; DVC reads git by it, we never import it",
    ),
    "text-unidecode": Exemption(
        "Artistic-1.0-Perl",
        "used unchanged; its authors leave the choice between the Artistic License and the GPL; Prefect makes names with it",
    ),
}
"""By the package's name; an exemption ends when the licence is another."""


@dataclass(frozen=True)
class Package:
    """An installed package; ``needs`` are installed ones, ``is_runtime`` means that the project does not run without it."""

    name: str
    version: str
    licence: str
    needs: tuple[str, ...]
    is_runtime: bool

    @property
    def exemption(self) -> Exemption | None:
        """The exemption that the package has, if its licence is still the one that was read."""
        found = EXEMPTED.get(self.name)
        return found if found is not None and found.licence == self.licence else None

    @property
    def is_allowed(self) -> bool:
        """Whether the package may be used: by its licence or by name."""
        return self.exemption is not None or is_allowed(self.licence)


def installed(requirements: Iterable[str]) -> tuple[Package, ...]:
    """List the packages of this environment by name; those that requirements lead to are the runtime."""
    found: dict[str, metadata.Distribution] = {
        canonicalize_name(entry.metadata["Name"]): entry for entry in metadata.distributions()
    }
    runtime = _reached(requirements, found)
    return tuple(
        Package(
            name=name,
            version=entry.version,
            licence=licence_of(entry),
            needs=tuple(sorted({needed for needed, _ in _needs(entry, ("",)) if needed in found})),
            is_runtime=name in runtime,
        )
        for name, entry in sorted(found.items())
    )


def licence_of(entry: metadata.Distribution) -> str:
    """Read a package's licence: an expression, else a name that is known, else all classifiers together."""
    fields = {name: entry.metadata.get_all(name) or [] for name in ("License-Expression", "License", "Classifier")}
    written = [_spdx(text) for name in ("License-Expression", "License") for text in fields[name]]
    classified = [_spdx(text.rpartition(" :: ")[2]) for text in fields["Classifier"] if text.startswith("License")]
    known = " AND ".join(dict.fromkeys(text for text in classified if text))
    return next((text for text in [*written, known] if text), UNKNOWN)


def is_allowed(licence: str) -> bool:
    """Say whether a licence allows use: one side of an OR is enough, all parts of an AND must.

    Example:
        >>> is_allowed("MIT"), is_allowed("GPL-3.0-only"), is_allowed("GPL-3.0-only OR MIT"), is_allowed("MIT AND GPL-3.0-only")
        (True, False, True, False)
        >>> is_allowed("MPL-2.0 AND (Apache-2.0 OR MIT)"), is_allowed(UNKNOWN)
        (True, False)
    """
    words = re.findall(r"[()]|[^\s()]+", licence)
    verdict, rest = _either(words)
    return verdict and not rest


def _either(words: list[str]) -> tuple[bool, list[str]]:
    """Judge what OR joins; give the words behind it."""
    verdict, rest = _both(words)
    while rest[:1] == ["OR"]:
        other, rest = _both(rest[1:])
        verdict = verdict or other
    return verdict, rest


def _both(words: list[str]) -> tuple[bool, list[str]]:
    """Judge what AND joins, which binds more than OR; give the words behind it."""
    verdict, rest = _one(words)
    while rest[:1] == ["AND"]:
        other, rest = _one(rest[1:])
        verdict = verdict and other
    return verdict, rest


def _one(words: list[str]) -> tuple[bool, list[str]]:
    """Judge a licence with its exception, or what stands in brackets; give the words behind it."""
    if words[:1] == ["("]:
        verdict, rest = _either(words[1:])
        return verdict and rest[:1] == [")"], rest[1:]
    length = 3 if words[1:2] == ["WITH"] else 1
    return " ".join(words[:length]) in ALLOWED, words[length:]


def _spdx(text: str) -> str:
    """Write a licence as an SPDX expression; empty if it is none that is known."""
    plain = " ".join(text.split())
    if not plain or len(plain) > LONGEST:
        return ""
    if plain.lower() in NAMES:
        return NAMES[plain.lower()]
    try:
        return canonicalize_license_expression(plain)
    except InvalidLicenseExpression:
        return ""


def _reached(requirements: Iterable[str], found: Mapping[str, metadata.Distribution]) -> set[str]:
    """Name the packages that requirements lead to, with what their extras ask for."""
    waiting = list(_wanted(requirements, ("",)))
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        place = waiting.pop()
        if place not in seen and place[0] in found:
            seen.add(place)
            waiting += _needs(found[place[0]], place[1])
    return {name for name, _ in seen}


def _needs(entry: metadata.Distribution, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name what a package needs here, with the extras that it wants of each."""
    return _wanted(entry.requires or (), extras)


def _wanted(requirements: Iterable[str], extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Read requirements that hold on this system for some extras."""
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            yield canonicalize_name(wanted.name), ("", *sorted(wanted.extras))
