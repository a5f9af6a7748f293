"""What a site's batches hold."""

from dataclasses import replace

import pytest
import torch

from fedsilo import seeds
from fedsilo.cohort import batches


def case(index, *, slices=6, organ_slices=2, size=(12, 10)):
    label = torch.zeros(slices, *size, dtype=torch.uint8)
    label[:organ_slices, 3:6, 3:6] = 1
    return batches.LabelledCase(torch.full((1, slices, *size), float(index)), label, "CT")


def drawn(data, batch_size, name="order", patch=(6, 8, 8)):
    return list(batches.epoch(data, batch_size=batch_size, patch_zyx=patch, generator=seeds.generator(1, name)))


def test_an_epoch_shows_every_slice_once():
    data = batches.site_data([case(index) for index in range(4)], spatial_dims=2)

    images = torch.cat([batch.images for batch in drawn(data, 8)])

    assert len(images) == 24
    assert images[:, 0, 0, 0].sort().values.tolist() == [0.0] * 6 + [1.0] * 6 + [2.0] * 6 + [3.0] * 6


def test_every_batch_has_slices_with_and_without_an_organ():
    data = batches.site_data([case(index) for index in range(4)], spatial_dims=2)

    for batch in drawn(data, 6, patch=(6, 12, 10)):
        found = (batch.labels > 0).flatten(1).any(dim=1)
        assert found.any()
        assert not found.all()


def test_a_site_whose_slices_all_show_an_organ_is_no_endless_loop():
    data = batches.site_data([case(0, organ_slices=6)], spatial_dims=2)

    assert sum(len(batch.images) for batch in drawn(data, 4)) == 6


def test_a_single_left_over_sample_is_dropped_but_a_lone_one_is_kept():
    nine = batches.site_data([case(0, slices=9)], spatial_dims=2)
    one = batches.site_data([case(0, slices=1)], spatial_dims=2)

    assert [len(batch.images) for batch in drawn(nine, 4)] == [4, 4]
    assert [len(batch.images) for batch in drawn(one, 4)] == [1]
    assert (batches.num_batches(nine, 4), batches.num_batches(one, 4)) == (2, 1)


def test_crops_and_pads_to_the_patch():
    data = batches.site_data([case(0)], spatial_dims=2)

    image, label, _ = drawn(data, 2, patch=(6, 16, 8))[0]

    assert (image.shape, label.shape, label.dtype) == ((2, 1, 16, 8), (2, 16, 8), torch.int64)


def test_volumes_are_cropped_in_three_dimensions():
    data = batches.site_data([case(0), case(1)], spatial_dims=3)

    image, label, _ = drawn(data, 4, patch=(4, 8, 8))[0]

    assert (image.shape, label.shape) == ((4, 1, 4, 8, 8), (4, 4, 8, 8))


def test_one_crop_in_three_shows_an_organ_however_small():
    image = torch.zeros(1, 20, 30, 30)
    label = torch.zeros(20, 30, 30, dtype=torch.uint8)
    label[0, 29, 15] = 1
    data = batches.site_data([batches.LabelledCase(image, label, "MR")] * 8, spatial_dims=3)

    shown = [bool((crop > 0).any()) for batch in drawn(data, 6, patch=(4, 8, 8)) for crop in batch.labels]

    assert len(shown) == 24
    assert 8 <= sum(shown) < 12


def test_crops_around_an_organ_put_it_anywhere_in_the_patch():
    label = torch.zeros(9, 9, 9, dtype=torch.uint8)
    label[4, 4, 4] = 1
    data = batches.site_data([batches.LabelledCase(torch.zeros(1, 9, 9, 9), label, "MR")] * 60, spatial_dims=3)
    organ_first = [batches.Item(item.case_index, 0, has_organ=True) for item in data.items]

    crops = drawn(batches.SiteData(data.cases, tuple(organ_first), 3), 180, patch=(3, 3, 3))[0][1]

    assert crops.flatten(1).sum(dim=1).eq(1).all()
    assert crops.sum(dim=0).min() > 0


def test_volumes_without_an_organ_give_crops_too():
    data = batches.site_data([case(0, organ_slices=0)], spatial_dims=3)

    assert sum(len(batch.labels) for batch in drawn(data, 2)) == batches.num_batches(data, 2) * 2 == 2


def test_the_generator_decides_the_order():
    data = batches.site_data([case(index) for index in range(4)], spatial_dims=2)
    first, again, other = (torch.cat([batch.images for batch in drawn(data, 8, name)])[:, 0, 0, 0] for name in ("a", "a", "b"))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dims", [2, 3])
def test_cases_are_not_modified(dims):
    held = case(3)
    before = held.image.clone(), held.label.clone()
    drawn(batches.site_data([held], spatial_dims=dims), 4)

    assert torch.equal(held.image, before[0])
    assert torch.equal(held.label, before[1])


def test_every_sample_carries_its_case_s_modality():
    mixed = [case(0), replace(case(1), modality="MR")]

    for batch in drawn(batches.site_data(mixed, spatial_dims=2), 4):
        assert torch.equal(batch.modalities, batch.images[:, 0, 0, 0].long())
