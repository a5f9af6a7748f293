"""Params reach the stages that use them, and every param is used."""

import re
import types
import typing

import pytest
import yaml
from pydantic import BaseModel

from fedsilo.cohort.roster import Overrides, Roster
from fedsilo.params import Params

COHORT_KEYS = [name for name in Roster.model_fields if name != "overrides"]
UNTRACKED = {"runtime", "data"}  # how the machine is used; where data lie, which is a dep instead
SECTION = re.compile(r"\bparams\.(" + "|".join(Params.model_fields) + r")\b")


def every_stage(stages):
    return [(cohort, name, stage) for cohort, its in stages.items() for name, stage in its.items()]


def sections(stage):
    """Sections of params.yaml that a stage names."""
    return [entry for entry in stage["params"] if isinstance(entry, str)]


def cohort_keys(stage):
    (entry,) = [entry for entry in stage["params"] if isinstance(entry, dict)]
    return next(iter(entry.items()))


def fields(kind):
    """Every field of a section and the sections inside it."""
    for name, field in kind.model_fields.items():
        yield name
        for part in types_in(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from fields(part)


def types_in(annotation):
    if typing.get_origin(annotation) in (None, types.GenericAlias):
        return [annotation]
    return [part for argument in typing.get_args(annotation) for part in types_in(argument)]


def test_stages_name_real_sections_and_never_how_the_machine_is_used(stages):
    for _, name, stage in every_stage(stages):
        assert set(sections(stage)) <= Params.model_fields.keys() - UNTRACKED, name
        assert sections(stage)[0] == "seed", name


def test_a_stage_watches_its_cohort_and_the_overrides_of_its_sections(repository, stages):
    for cohort, name, stage in every_stage(stages):
        path, keys = cohort_keys(stage)
        overrides = [f"overrides.{section}" for section in sections(stage) if section in Overrides.model_fields]
        assert path == f"cohorts/{cohort}.yaml"
        assert keys == [*COHORT_KEYS, *overrides], name
        assert yaml.safe_load((repository / path).read_text())["overrides"].keys() == Overrides.model_fields.keys()


@pytest.mark.parametrize("phase", ["phantoms", "prepare", "federate", "inside", "outside", "report"])
def test_a_stage_names_exactly_the_sections_that_its_flow_and_tasks_read(repository, code, stages, phase):
    modules = [module for module in code.closure(f"flows.{phase}") if not module.startswith("fedsilo")]
    text = "\n".join((repository / code.path(module)).read_text() for module in modules)

    assert set(SECTION.findall(text)) - UNTRACKED == set(sections(stages["demo"][phase]))


def test_every_param_is_used_somewhere(repository):
    text = "\n".join(
        path.read_text()
        for package in ("fedsilo", "tasks", "flows")
        for path in (repository / package).rglob("*.py")
        if path.name != "params.py"
    )
    own = (repository / "fedsilo" / "params.py").read_text()

    unused = [name for name in fields(Params) if not re.search(rf"\.{name}\b", text) and f"self.{name}" not in own]
    assert unused == []
