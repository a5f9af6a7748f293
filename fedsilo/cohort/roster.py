"""The cohort file: which sites take part in which role, where their data lie, and the organs by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fedsilo import params as params_module
from fedsilo import sections
from fedsilo.errors import ParamsError
from fedsilo.params import Params
from fedsilo.sections import FolderName, Identifier, Section
from fedsilo.types import SiteRole

BACKGROUND = "background"


class SiteEntry(Section):
    """One site of a cohort."""

    name: Identifier
    folder: FolderName = Field(description="below the cohort's root, in nnU-Net raw layout")
    role: SiteRole
    modality: Literal["CT", "MR"]
    intensity_unit: Literal["hu", "au", "windowed_8bit"]
    show_images: bool = Field(description="whether overlays of this site's test cases may stand in the report")


class Overrides(Section):
    """Changes to params.yaml that this cohort needs, a section each; empty if none."""

    phantoms: dict[str, object]
    prepare: dict[str, object]
    federate: dict[str, object]
    inside: dict[str, object]
    outside: dict[str, object]
    report: dict[str, object]


class Vocabulary(Section):
    """What a cohort calls things: all that a site's labels are checked against before the site is listed."""

    name: Identifier
    root: str | None = Field(description="folder with the sites' folders; null: data.root of params.yaml")
    organs: tuple[str, ...] = Field(min_length=2, description="position is the label value; the first is background")
    aliases: dict[str, str] = Field(description="other names of an organ, as sites write them")
    drop: tuple[str, ...] = Field(description="annotated names that are none of our organs; become background")

    @model_validator(mode="after")
    def _named(self) -> "Vocabulary":
        if self.organs[0] != BACKGROUND:
            raise ValueError(f"organs must start with {BACKGROUND}, got {self.organs[0]}")
        if len(set(self.organs)) != len(self.organs):
            raise ValueError("organs has a name twice")
        unknown = sorted({organ for organ in self.aliases.values() if organ not in self.organs})
        if unknown:
            raise ValueError(f"aliases point to unknown organ {unknown[0]}; organs are {', '.join(self.organs)}")
        return self


class Roster(Vocabulary):
    """A cohort: sites, organs and label names."""

    sites: tuple[SiteEntry, ...] = Field(min_length=1)
    overrides: Overrides

    @model_validator(mode="after")
    def _consistent(self) -> "Roster":
        names = [site.name for site in self.sites]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            roles = {site.role for site in self.sites if site.name in repeated}
            how = "both inside and outside" if len(roles) == 2 else "twice"  # noqa: PLR2004  # the two roles
            raise ValueError(f"site {repeated[0]} is listed {how}")
        folders = [site.folder for site in self.sites]
        shared = sorted({folder for folder in folders if folders.count(folder) > 1})
        if shared:
            raise ValueError(f"two sites use the folder {shared[0]}")
        if not self.inside:
            raise ValueError("no site has the role inside")
        return self

    @property
    def inside(self) -> tuple[SiteEntry, ...]:
        """Sites that train, sorted by name."""
        return self._with_role("inside")

    @property
    def outside(self) -> tuple[SiteEntry, ...]:
        """Sites met at test time only, sorted by name."""
        return self._with_role("outside")

    def site(self, name: str) -> SiteEntry:
        """Find a site by name.

        Raises:
            ParamsError: The cohort has no such site.
        """
        for entry in self.sites:
            if entry.name == name:
                return entry
        raise ParamsError(f"cohort {self.name} has no site {name}; it has {', '.join(entry.name for entry in self.sites)}")

    def _with_role(self, role: SiteRole) -> tuple[SiteEntry, ...]:
        return tuple(sorted((site for site in self.sites if site.role == role), key=lambda site: site.name))


def load(path: Path) -> Roster:
    """Read a cohort file.

    Raises:
        ParamsError: The file cannot be read, or a key or value is wrong; names it.
    """
    return sections.validate(Roster, sections.read_yaml(path), source=str(path))


def load_vocabulary(path: Path) -> Vocabulary:
    """Read the organs and names of a cohort file, whose list of sites may still be empty.

    Raises:
        ParamsError: The file cannot be read, or a key or value is wrong; names it.
    """
    tree = sections.read_yaml(path)
    known = {name: value for name, value in tree.items() if name not in ("sites", "overrides")}
    return sections.validate(Vocabulary, known, source=str(path))


def load_run(
    cohort_path: Path, params_path: Path, assignments: Sequence[str] = (), *, overlays: Sequence[Path] = ()
) -> tuple[Roster, Params]:
    """Read a cohort file and the params that hold for it: params.yaml, its overrides, overlay files, then the assignments.

    Raises:
        ParamsError: A file or an assignment is wrong, or a participant holds a site that is not inside; names the key.
    """
    roster = load(cohort_path)
    changes = {name: change for name, change in roster.overrides.model_dump().items() if change}
    params = params_module.load(params_path, changes, assignments, overlays=overlays)
    inside = [site.name for site in roster.inside]
    for name, members in (params.federate.participants or {}).items():
        for site in members:
            if site not in inside:
                raise ParamsError(
                    f"participant {name} holds {site}, which is no inside site of {roster.name}; those are {', '.join(inside)}"
                )
    return roster, params


def data_root(roster: Vocabulary, params: Params) -> Path:
    """Say where the sites' folders of a cohort lie, relative to the workspace."""
    return Path(roster.root if roster.root is not None else params.data.root)
