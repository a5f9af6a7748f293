"""Overlays show the outlines they say they show, and always the same bytes."""

import io

import numpy
import pytest
import torch
from PIL import Image

from fedsilo import seeds
from fedsilo.errors import DataError
from fedsilo.evaluation import overlays
from fedsilo.evaluation.overlays import BOTH_RGB, PREDICTION_RGB, REFERENCE_RGB, OverlayRow


def block(z, y, x, size=6):
    labels = torch.zeros(5, 40, 40, dtype=torch.uint8)
    labels[z, y : y + size, x : x + size] = 1
    return labels


@pytest.fixture
def image():
    return torch.rand(1, 5, 40, 40, generator=seeds.generator(0, "overlay")) * 0.5


def pixels(png):
    return numpy.asarray(Image.open(io.BytesIO(png)))


def area(picture, colour):
    return int((picture == colour).all(axis=-1).sum())


def rows_of(picture, colour):
    return numpy.flatnonzero((picture == colour).all(axis=-1).any(axis=1))


def test_outlines_of_reference_and_prediction_have_their_colours(image):
    picture = pixels(overlays.draw(image, block(2, 4, 4), block(2, 24, 24)))

    assert picture.shape == (320, 320, 3)
    edge = 4 * (6 * 8) - 4
    assert area(picture, REFERENCE_RGB) == edge
    assert area(picture, PREDICTION_RGB) == edge


def test_where_outlines_coincide_they_are_white(image):
    picture = pixels(overlays.draw(image, block(2, 4, 4), block(2, 4, 4)))

    assert area(picture, REFERENCE_RGB) == area(picture, PREDICTION_RGB) == 0
    assert area(picture, BOTH_RGB) >= 4 * (6 * 8) - 4


def test_anterior_is_up_and_the_patients_right_on_the_left(image):
    """A block at high y and x (anterior, right) is drawn in the upper left quarter."""
    shown = pixels(overlays.draw(image, block(2, 34, 34), block(2, 34, 34) * 0))

    assert rows_of(shown, REFERENCE_RGB).max() < 160
    assert rows_of(shown.transpose(1, 0, 2), REFERENCE_RGB).max() < 160


def test_the_middle_slice_with_an_organ_is_drawn(image):
    labels = block(1, 4, 4) + block(3, 4, 4) + block(4, 4, 4)

    assert overlays.middle_slice(labels) == 3
    assert overlays.middle_slice(labels * 0) == 2


def test_equal_arrays_give_equal_bytes(image):
    first, again = (overlays.draw(image.clone(), block(2, 4, 4), block(2, 6, 6)) for _ in range(2))

    assert first == again


def test_a_flat_image_is_drawn(image):
    assert pixels(overlays.draw(image * 0, block(2, 4, 4), block(2, 4, 4))).shape == (320, 320, 3)


def test_table_comes_back_as_written_and_sorted(tmp_path):
    second = OverlayRow("ct-c", "case_2", "p2", "global", "best", None, "overlays/b.png")
    first = OverlayRow("ct-c", "case_1", "p1", "routing-paper", "worst", 0.25, "overlays/a.png")

    path = overlays.write_index([second, first], tmp_path / "overlays.csv")

    assert overlays.read_index(path) == [first, second]
    assert overlays.read_index(overlays.write_index([], path)) == []


def test_a_table_that_is_missing_or_another_is_refused(tmp_path):
    other = tmp_path / "overlays.csv"
    other.write_text("a,b\n")

    with pytest.raises(DataError, match="expected the columns site,case,patient"):
        overlays.read_index(other)
    with pytest.raises(DataError, match="cannot read"):
        overlays.read_index(tmp_path / "missing.csv")
