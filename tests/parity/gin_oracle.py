"""GIN written as slowly and plainly as possible: one voxel at a time, in Python floats."""

import itertools
import math


def remap(image, mix, weights, shifts, padding):
    """Remap one sample.

    ``image`` is a list of channels, each a dict from voxel index to value; ``weights[layer][out][in]`` is a dict from kernel
    offset (0 at the centre) to weight; ``shifts[layer][out]`` is a number.
    """
    hidden = image
    for layer, (weight, shift) in enumerate(zip(weights, shifts, strict=True)):
        hidden = [
            {voxel: response(hidden, voxel, kernels, padding) + offset for voxel in hidden[0]}
            for kernels, offset in zip(weight, shift, strict=True)
        ]
        if layer < 3:
            hidden = [{voxel: value if value > 0 else 0.01 * value for voxel, value in channel.items()} for channel in hidden]
    mixed = [
        {voxel: (1 - mix) * before[voxel] + mix * after[voxel] for voxel in before}
        for before, after in zip(image, hidden, strict=True)
    ]
    scale = norm(image) / (norm(mixed) + 1e-5)
    return [{voxel: value * scale for voxel, value in channel.items()} for channel in mixed]


def response(channels, voxel, kernels, padding):
    total = 0.0
    for channel, kernel in zip(channels, kernels, strict=True):
        last = [max(axis) for axis in zip(*channel, strict=True)]
        for offset, weight in kernel.items():
            seen = tuple(place + step for place, step in zip(voxel, offset, strict=True))
            if padding == "replicate":
                seen = tuple(min(max(place, 0), end) for place, end in zip(seen, last, strict=True))
            total += weight * channel.get(seen, 0.0)
    return total


def norm(channels):
    return math.sqrt(math.fsum(value**2 for channel in channels for value in channel.values()))


def apply(images, draw):
    """Remap a batch given as nested lists; returns a flat list of all values in the order batch, channel, space."""
    result = []
    for index, image in enumerate(images):
        channels = [dict(walk(channel)) for channel in image]
        if draw.remapped[index]:
            network = min(index, len(draw.layers[0].weight) - 1)
            weights = [
                [[centred(dict(walk(kernel))) for kernel in kernels] for kernels in layer.weight[network].tolist()]
                for layer in draw.layers
            ]
            shifts = [layer.shift[network].tolist() for layer in draw.layers]
            channels = remap(channels, draw.mix[index].item(), weights, shifts, draw.padding)
        result += [channel[voxel] for channel in channels for voxel in sorted(channel)]
    return result


def walk(nested, index=()):
    """Yield (index, value) of a nested list."""
    if not isinstance(nested, list):
        return iter([(index, nested)])
    return itertools.chain.from_iterable(walk(item, (*index, place)) for place, item in enumerate(nested))


def centred(kernel):
    radius = max(index[0] for index in kernel) // 2
    return {tuple(place - radius for place in index): weight for index, weight in kernel.items()}
