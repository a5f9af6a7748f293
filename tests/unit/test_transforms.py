"""GIN inside a MONAI pipeline."""

import numpy
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import NormalizeIntensity
from torch.testing import assert_close

from fedsilo.segmentation.transforms import RandGIN, RandGINd


def image(*space, seed=0):
    return torch.randn(1, *space, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("space", [(16, 14), (6, 8, 10)])
def test_an_array_keeps_shape_and_norm_and_follows_its_seed(space):
    remap = RandGIN(prob=1.0)

    first = remap.set_random_state(seed=3)(image(*space))
    second = remap(image(*space))
    again = remap.set_random_state(seed=3)(image(*space))

    assert torch.equal(first, again)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, image(*space))
    assert_close(first.norm(), image(*space).norm(), rtol=1e-4, atol=0)


def test_arrays_and_metadata_come_back_as_they_came():
    remap = RandGIN(prob=1.0).set_random_state(seed=0)
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))

    array = remap(image(8, 8).numpy())
    tensor = remap(MetaTensor(image(4, 8, 8), affine=affine))

    assert isinstance(array, numpy.ndarray)
    assert array.dtype == numpy.float32
    assert isinstance(tensor, MetaTensor)
    assert torch.equal(tensor.affine, affine)


def test_without_chance_it_is_the_identity():
    held = image(8, 8)

    assert RandGIN(prob=0.0)(held) is held


def test_stands_in_a_compose_that_seeds_it():
    pipeline = Compose([NormalizeIntensity(), RandGIN(prob=0.5)])

    runs = []
    for _ in range(2):
        pipeline.set_random_state(seed=5)
        runs.append(torch.stack([pipeline(image(12, 12, seed=index)) for index in range(12)]))

    plain = torch.stack([NormalizeIntensity()(image(12, 12, seed=index)) for index in range(12)])
    unchanged = (runs[0] == plain).flatten(1).all(dim=1)
    assert torch.equal(*runs)
    assert 0 < int(unchanged.sum()) < 12


def test_a_dictionary_remaps_its_images_alike_and_leaves_the_label():
    entries = {"t1": image(8, 8), "t2": image(8, 8), "label": (image(8, 8, seed=1) > 0).long(), "name": "case"}
    remap = RandGINd(keys=["t1", "t2"], prob=1.0).set_random_state(seed=2)

    after = remap(entries)

    assert torch.equal(after["t1"], after["t2"])
    assert not torch.allclose(after["t1"], entries["t1"])
    assert after["label"] is entries["label"]
    assert after["name"] == "case"
    assert torch.equal(entries["t1"], image(8, 8))


def test_a_dictionary_is_seeded_and_leaves_some_alone():
    results = []
    for _ in range(2):
        remap = RandGINd(keys="image", prob=0.5).set_random_state(seed=7)
        results.append(torch.stack([remap({"image": image(8, 8)})["image"] for _ in range(12)]))

    unchanged = (results[0] == image(8, 8)).flatten(1).all(dim=1)
    assert torch.equal(*results)
    assert 0 < int(unchanged.sum()) < 12


def test_a_missing_key_is_an_error_unless_allowed():
    with pytest.raises(KeyError, match="other"):
        RandGINd(keys="other", prob=1.0)({"image": image(8, 8)})

    assert list(RandGINd(keys="other", prob=1.0, allow_missing_keys=True)({"image": image(8, 8)})) == ["image"]
