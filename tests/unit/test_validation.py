"""Rounds are chosen by predictions that are made as those that are scored."""

import pytest
import torch

from fedsilo import seeds
from fedsilo.cohort import batches
from fedsilo.cohort.batches import LabelledCase
from fedsilo.segmentation import inference, network, validation
from tasks import scoring, turns
from tasks.federation import Federation
from tasks.paths import RunPaths
from tasks.sites import SiteInputs
from tests.unit import raw_site

PATCH = (8, 8, 16)
LARGER = (12, 20, 16)


@pytest.fixture
def federation(tmp_path):
    """A federation of volumes whose patches are small."""
    params = raw_site.params(
        "federate.network.spatial_dims=3", "federate.network.channels=[4, 8, 8]", f"federate.patch_zyx={list(PATCH)}",
        "federate.batch_size=2",
    )  # fmt: skip
    return Federation(raw_site.roster("inside", "inside"), params, RunPaths(tmp_path, "tiny", "tiny"))


@pytest.fixture
def model(federation):
    settings = federation.params.federate.network
    return network.build(settings, num_classes=3, in_channels=1, generator=seeds.generator(0, "init"))


def site(*zyx):
    """What validation needs of a site with one case."""
    label = torch.zeros(zyx, dtype=torch.uint8)
    label[:, 2:6, 2:6] = 1
    case = LabelledCase(torch.randn((1, *zyx), generator=seeds.generator(0, "case", *zyx)), label, "CT")
    return SiteInputs(batches.site_data([case], spatial_dims=3), (case,), annotated=(1,), num_cases=1, num_slices=zyx[0])


def watch(model):
    """Keep what the network is given."""
    given = []
    model.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0].clone()))
    return given


def test_a_larger_volume_is_validated_in_the_windows_that_it_is_scored_in(federation, model):
    data, predictor = site(*LARGER), scoring.Predictor(federation, "cpu", model)
    given = watch(model)
    probs = predictor.predict_with(data.validation[0].image, model)
    scored = [*given]
    given.clear()

    dice = turns.validate(model, data, federation, "cpu")

    assert len(given) == len(scored) > 1
    assert all(torch.equal(one, other) for one, other in zip(given, scored, strict=True))
    assert {tuple(items.shape[2:]) for items in given} == {PATCH}
    assert max(len(items) for items in given) == federation.params.federate.batch_size
    found, reference = probs.argmax(dim=0) == 1, data.validation[0].label == 1
    assert dice == 2 * int((found & reference).sum()) / (int(found.sum()) + int(reference.sum()))


@pytest.mark.parametrize("zyx", [PATCH, (7, 8, 15), (2, 8, 16)], ids=str)
def test_a_volume_no_larger_than_the_window_is_validated_whole_to_the_same_bits(federation, model, zyx):
    data, settings = site(*zyx), federation.params.federate.network
    how = {"spatial_dims": 3, "divisor": network.divisor(settings), "batch_size": turns.VALIDATION_BATCH, "device": "cpu"}
    whole = inference.predict_probs(model, data.validation[0].image, **how)
    whole_dice = validation.mean_dice(model, data.validation, annotated=(1,), **how)
    given = watch(model)

    dice = turns.validate(model, data, federation, "cpu")

    assert dice == whole_dice
    assert len(given) == 1
    windowed = scoring.Predictor(federation, "cpu", model).predict_with(data.validation[0].image, model)
    assert torch.equal(windowed, whole)


def test_slices_know_no_window(federation):
    flat = federation.params.federate.model_copy(
        update={"network": federation.params.federate.network.model_copy(update={"spatial_dims": 2})}
    )

    assert turns.window_zyx(flat) is None
    assert turns.prediction_batch(flat) == turns.VALIDATION_BATCH
