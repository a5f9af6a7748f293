"""Laws of prediction: the network's own result, on the image's own grid, whatever shares its batch."""

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.errors import ParamsError
from fedsilo.segmentation import inference


def unet(spatial_dims):
    with torch.random.fork_rng():
        return UNet(spatial_dims, 1, 3, channels=(4, 8, 8), strides=(2, 2), norm="BATCH").double().eval()


def local(spatial_dims):
    """A network that sees one voxel at a time: padding and windows cannot change its result."""
    with torch.random.fork_rng():
        return (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(1, 3, 1).double()


def image(*zyx):
    return torch.randn((1, *zyx), generator=seeds.generator(0, "inference"), dtype=torch.float64)


def predict(network, case, spatial_dims, **options):
    return inference.predict_probs(
        network, case, **{"spatial_dims": spatial_dims, "divisor": 4, "batch_size": 3, "device": "cpu"} | options
    )


def test_slices_of_fitting_size_go_through_the_network_as_they_are():
    network, case = unet(2), image(5, 8, 12)

    expected = torch.cat([network(case[:, z : z + 1].movedim(1, 0)) for z in range(5)]).detach().softmax(dim=1).movedim(0, 1)

    assert_close(predict(network, case, 2), expected.float())


def test_a_volume_of_fitting_size_goes_through_the_network_as_it_is():
    network, case = unet(3), image(4, 8, 12)

    assert_close(predict(network, case, 3), network(case[None])[0].detach().softmax(dim=0).float())


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("zyx", [(5, 7, 9), (1, 3, 8), (4, 8, 8)], ids=str)
def test_result_has_the_grid_of_the_image_and_sums_to_one(spatial_dims, zyx):
    probs = predict(unet(spatial_dims), image(*zyx), spatial_dims)

    assert probs.shape == (3, *zyx)
    assert probs.dtype == torch.float32
    assert_close(probs.sum(dim=0), torch.ones(zyx))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_padding_is_cut_off_where_it_was_put(spatial_dims):
    network, case = local(spatial_dims), image(3, 5, 7)

    expected = (
        torch.einsum("kc,czyx->kzyx", network.weight.detach().flatten(1), case) + network.bias.detach()[:, None, None, None]
    )

    assert_close(predict(network, case, spatial_dims), expected.softmax(dim=0).float())


def test_padding_is_the_minimum_of_each_channel():
    items = torch.tensor([[[[1.0, -2.0]], [[5.0, 7.0]]]])

    padded = inference.pad_to_divisor(items, 3)

    assert padded.shape == (1, 2, 3, 3)
    assert torch.equal(inference.crop(padded, (1, 2)), items)
    assert torch.equal(padded[0, :, 2, 2], torch.tensor([-2.0, 5.0]))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_items_and_back_is_the_image(spatial_dims):
    case = image(3, 4, 5)

    assert torch.equal(inference.from_items(inference.as_items(case, spatial_dims), spatial_dims), case)


def test_a_slice_does_not_depend_on_its_batch_mates():
    network, case = unet(2).train(), image(6, 8, 8)

    together = predict(network, case, 2, batch_size=6)
    alone = torch.cat([predict(network, case[:, z : z + 1], 2, batch_size=1) for z in range(6)], dim=1)

    assert_close(together, alone)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_windows_blend_to_what_a_local_network_says(spatial_dims):
    network, case = local(spatial_dims), image(5, 13, 21)

    assert_close(
        predict(network, case, spatial_dims, window=(4, 8, 8)), predict(network, case, spatial_dims), rtol=1e-5, atol=1e-6
    )


def test_a_window_that_holds_the_volume_changes_nothing():
    network, case = unet(3), image(4, 8, 8)

    assert torch.equal(predict(network, case, 3, window=(8, 8, 8)), predict(network, case, 3))


def test_network_and_image_come_back_as_they_were():
    network, case = unet(2).train(), image(2, 6, 6)
    frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before, flags = case.clone(), [module.training for module in network.modules()]
    buffers = [buffer.clone() for buffer in network.buffers()]

    predict(network, case, 2)

    assert torch.equal(case, before)
    assert [module.training for module in network.modules()] == flags
    assert not frozen.training
    assert all(torch.equal(now, then) for now, then in zip(network.buffers(), buffers, strict=True))


def test_a_window_that_does_not_fit_the_network_is_refused():
    with pytest.raises(ParamsError, match=r"cannot slide a window of \(6, 8\): expected multiples of 4"):
        predict(unet(2), image(2, 16, 16), 2, window=(1, 6, 8))
