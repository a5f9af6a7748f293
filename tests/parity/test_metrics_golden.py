"""Scores against numbers computed beforehand with MONAI 1.6.1 on masks that anyone can draw again."""

import pytest
import torch

from fedsilo.evaluation import metrics
from fedsilo.evaluation.metrics import score_case

CUBE_SPACING = (3.0, 1.0, 1.5)
BALL_SPACING = (5.0, 1.0, 1.0)


def ball(centre_mm, radius_mm):
    """Voxels of a 24x64x64 grid whose centres lie inside a ball."""
    axes = [torch.arange(n, dtype=torch.float64) * edge for n, edge in zip((24, 64, 64), BALL_SPACING, strict=True)]
    grid = torch.meshgrid(*axes, indexing="ij")
    squared = sum((along - at) ** 2 for along, at in zip(grid, centre_mm, strict=True))
    return (squared < radius_mm**2).to(torch.uint8)


def cubes():
    """A cube of 10^3 voxels, and the same two voxels further along the last axis."""
    cube = torch.zeros(20, 20, 20, dtype=torch.uint8)
    cube[5:15, 5:15, 5:15] = 1
    return cube, cube.roll(2, dims=2)


def values(prediction, reference, spacing_mm, organ="gallbladder"):
    scores = score_case(prediction, reference, organs={1: organ}, spacing_mm=spacing_mm)
    return {score.metric: score.value for score in scores}


def test_two_balls():
    found = values(ball((60, 32, 32), 18), ball((62, 35, 33), 17), BALL_SPACING)

    assert found["dice"] == pytest.approx(0.8223, abs=5e-5)
    assert found["hd95"] == pytest.approx(5.0, abs=5e-4)
    assert found["assd"] == pytest.approx(1.642, abs=5e-4)
    assert found["nsd"] == pytest.approx(0.721, abs=5e-4)  # at 2 mm; .672 if voxels were counted instead of areas


def test_two_cubes():
    found = values(*cubes(), CUBE_SPACING)

    assert found["dice"] == pytest.approx(0.8)
    assert found["iou"] == pytest.approx(2 / 3)
    assert found["hd95"] == pytest.approx(3.0)
    assert found["assd"] == pytest.approx(1.0205, abs=5e-5)
    assert found["nsd"] == pytest.approx(0.7307, abs=5e-5)
    assert found["volume_ml"] == pytest.approx(4.5)
    assert found["volume_error_ml"] == 0


@pytest.mark.parametrize(("tolerance", "nsd"), [(1.0, 0.6302), (2.0, 0.7307), (3.0, 1.0)])
def test_nsd_of_two_cubes_by_tolerance(monkeypatch, tolerance, nsd):
    monkeypatch.setattr(metrics, "NSD_TOLERANCE_OTHER_MM", tolerance)

    assert values(*cubes(), CUBE_SPACING)["nsd"] == pytest.approx(nsd, abs=5e-5)


def test_spacing_in_the_wrong_order_is_noticed():
    assert values(*cubes(), CUBE_SPACING)["hd95"] == pytest.approx(3.0)
    assert values(*cubes(), CUBE_SPACING[::-1])["hd95"] == pytest.approx(6.0)
