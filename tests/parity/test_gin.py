"""GIN against its two releases and against a slow oracle.

Golden numbers: outputs of cheng-01037/Causality-Medical-Image-Domain-Generalization (GIN, MIT) and sachugowda/FedGIN
(Apache-2.0), files, commits and calls as given with each. Run on the CPU (``.cuda()`` made a no-op) with
``torch.manual_seed(7)`` right before the call, torch 2.13.0, on ``wave(shape)``; seven significant digits.
"""

import pytest
import torch
from torch.testing import assert_close

from fedsilo.segmentation.gin import apply_gin
from tests.gin_settings import gin_draw
from tests.parity import gin_oracle


def generator(seed):
    return torch.Generator().manual_seed(seed)


def wave(shape):
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 0.7).float().reshape(shape)


# fmt: off
GOLDEN = {
    # call at 290e1ac, models/imagefilter.py: GINGroupConv(out_channel=1, in_channel=1)
    ("per_sample", (2, 1, 4, 4)): [
        0.1465904, 0.7725706, 1.091947, 0.946662, 0.4677773, -0.182756, -0.6769378, -0.7991428, -0.4524321, 0.1708874,
        0.7785844, 1.057578, 0.9380385, 0.4253514, -0.2191848, -0.7176968, -1.189827, -0.6511393, 0.0276529, 1.105279,
        0.899627, 0.7942669, 0.2145483, -0.3060593, -1.057124, -1.065643, -0.6991655, 0.1841632, 0.2693866, 0.6065858,
        0.4540036, 0.03591087,
    ],
    # call at 290e1ac, models/imagefilter.py: GINGroupConv(out_channel=2, in_channel=2)
    ("per_sample", (2, 2, 3, 3)): [
        0.04012708, 0.2282669, 0.3624264, 0.946972, 0.4777146, 1.096823, -0.334668, 0.8522611, 0.6239489, -0.237241,
        0.5774568, 0.3425299, -0.1358992, -1.242186, 0.4542435, -0.428149, -0.5800418, 1.563356, -0.2449687,
        0.5143669, 1.854307, 0.2757859, 0.2367974, -0.1577593, 0.2260866, 0.2005597, 0.01025504, -0.1027088,
        0.3413363, 1.626914, 0.7945061, 0.9094605, -0.09324861, -0.0452565, 0.8105176, 0.2588233,
    ],
    # call at bfe4306, models/imagefilter3d.py: GINGroupConv3D(out_channel=1, in_channel=1)
    ("per_sample", (2, 1, 3, 3, 3)): [
        1.420513, -0.511942, 0.1140631, -1.33617, -1.036924, -0.0185205, -0.7871003, -0.06908332, -0.3252832,
        0.9734808, 0.2640246, -0.3531081, -1.524137, 0.1157105, -0.4422244, 0.09039506, 0.7964422, -0.07255425,
        -0.02631213, -0.3929412, -0.1936914, -0.8599749, -1.204982, 0.2775972, 0.03207112, 0.3962851, 0.8023877,
        -0.7698951, -1.334417, -0.09752453, -0.03233287, -0.4784747, -0.807159, -0.4076834, 0.3796562, 0.01540008,
        0.1876406, -2.309528, -1.331246, 0.4868062, -0.412414, -0.8362664, 0.5153922, 0.292447, 0.03391353, 0.3074381,
        -0.2684866, 0.1342678, 0.9347088, 0.3697346, -0.2778971, 0.02243819, -0.01365455, 0.1364903,
    ],
    # call at 28e8d0f, clients/gin.py: GINGroupConv()
    ("shared", (2, 1, 4, 4)): [
        -0.01919642, 0.2545286, 0.3841495, 0.1757026, -0.332713, -1.420513, -1.639845, -0.9182354, 0.3243249,
        0.842894, 0.7118697, 0.2886918, -0.226936, -0.3581558, -0.2435952, -0.2988822, -0.0809705, 0.08272679,
        0.2358112, 0.180841, 0.1530298, -0.8094219, -1.850328, -1.51588, -0.4942536, 0.2733607, 0.8479419, 0.4860988,
        0.3665998, -0.3298743, -0.09721638, -0.192205,
    ],
}
# fmt: on


@pytest.mark.parametrize(("networks", "shape"), GOLDEN)
def test_the_releases_are_matched_from_one_generator(networks, shape):
    remapped = apply_gin(wave(shape), gin_draw(shape, 7, networks=networks))

    assert_close(remapped.flatten(), torch.tensor(GOLDEN[networks, shape]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (2, 2, 4, 5), (2, 1, 3, 5, 4)])
@pytest.mark.parametrize("networks", ["per_sample", "shared"])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_the_oracle_agrees(seed, shape, networks, padding):
    images = torch.randn(shape, generator=generator(seed))
    draw = gin_draw(shape, seed, networks=networks, padding=padding)

    expected = torch.tensor(gin_oracle.apply(images.tolist(), draw), dtype=torch.float64)

    assert_close(apply_gin(images.double(), draw).flatten(), expected, rtol=1e-10, atol=1e-10)
    # float32 rounds each of up to 54 products a layer to 6e-8; their sums cancel, and the norm enlarges what is left
    assert_close(apply_gin(images, draw).flatten().double(), expected, rtol=1e-5, atol=1e-5)


def test_the_oracle_agrees_on_which_samples_are_remapped():
    images = torch.randn((6, 1, 4, 4), generator=generator(0), dtype=torch.float64)
    draw = gin_draw(images.shape, 5, probability=0.5, padding="replicate")

    expected = torch.tensor(gin_oracle.apply(images.tolist(), draw), dtype=torch.float64)

    assert_close(apply_gin(images, draw).flatten(), expected, rtol=1e-10, atol=1e-10)


PINNED = [
    [0.6442177, 0.3349881, -0.9824526],
    [0.9638468, 0.5800285, 0.4837195],
    [0.7214794, 0.7133461, 0.6835939],
    [0.6819636, 0.2870527, -0.9717984],
]


def test_replicate_and_probability_keep_their_numbers():
    """Our own additions, pinned: torch 2.13.0, seed 11, two of four samples remapped; the others are the input."""
    shape = (4, 1, 3, 3)
    remapped = apply_gin(wave(shape), gin_draw(shape, 11, probability=0.5, padding="replicate"))

    assert_close(remapped[:, 0, :, 1], torch.tensor(PINNED), rtol=1e-6, atol=1e-6)
