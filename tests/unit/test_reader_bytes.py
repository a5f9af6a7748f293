"""Files with bytes changed at random: the readers of the preparation give an image or say that they cannot, and nothing else."""

import gzip
import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsilo.cohort import facts, layouts, measure
from fedsilo.cohort.layouts import SourceCase
from tests.unit import faulty_sites, raw_site

ROSTER = raw_site.roster("inside", organs=("background", "kidneys", "liver"))
LABELS = layouts.harmonise(faulty_sites.LABELS, ROSTER, "site-a")
QFORM_CODE = 252
changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    faulty_sites.volume(folder, "case")
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picture")
    faulty_sites.drawn()(folder, "case")
    return folder


def changed(content, places):
    found = bytearray(content)
    for place, value in places:
        found[place % len(found)] = value
    return bytes(found)


def measured(image, label):
    """Measure a case; warnings of the libraries about damaged headers are theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = measure.measure(SourceCase("case", "patient", (image,), label), LABELS, roster=ROSTER, site=ROSTER.site("site-a"))
    assert row.readable or "cannot" in row.problem
    json.dumps(facts.to_json(row), allow_nan=False)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=changes, header_only=st.booleans(), has_qform=st.booleans())
def test_a_volume(volume, tmp_path, places, header_only, has_qform):
    content = gzip.decompress(faulty_sites.path(volume, "case").read_bytes())
    content = content[:QFORM_CODE] + bytes([has_qform]) + content[QFORM_CODE + 1 :]
    content = changed(content[:352], places) + content[352:] if header_only else changed(content, places)
    (tmp_path / "case_0000.nii.gz").write_bytes(gzip.compress(content, compresslevel=1))

    measured(tmp_path / "case_0000.nii.gz", faulty_sites.path(volume, "case", of_label=True))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=changes)
def test_a_label(volume, tmp_path, places):
    content = gzip.decompress(faulty_sites.path(volume, "case", of_label=True).read_bytes())
    (tmp_path / "case.nii.gz").write_bytes(gzip.compress(changed(content[:352], places) + content[352:], compresslevel=1))

    measured(faulty_sites.path(volume, "case"), tmp_path / "case.nii.gz")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=changes)
def test_a_gzip(volume, tmp_path, places):
    (tmp_path / "case_0000.nii.gz").write_bytes(changed(faulty_sites.path(volume, "case").read_bytes(), places))

    measured(tmp_path / "case_0000.nii.gz", faulty_sites.path(volume, "case", of_label=True))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=changes)
def test_a_picture(picture, tmp_path, places):
    (tmp_path / "case_0000.png").write_bytes(changed((picture / "imagesTr/case_0000.png").read_bytes(), places))

    measured(tmp_path / "case_0000.png", picture / "labelsTr/case.png")
