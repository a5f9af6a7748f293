"""A log on the disk, for the tests of the audit trail."""

import pytest

from fedsilo.audit import verifier
from tests import audit_story as tale
from tests.audit_story import INCIDENT
from tests.unit.audit_log import Clock, open_log


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def setting():
    return verifier.setting_of(tale.found(), "federation")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audit" / "demo"


@pytest.fixture
def log(folder, setting, clock):
    """A log with two lines."""
    made = open_log(folder, setting, clock, opener=tale.signer("server"))
    made.append(INCIDENT, tale.signer("server"))
    return made
