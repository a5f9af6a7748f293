"""GIN as MONAI transforms, for pipelines outside fedsilo: ``RandGIN`` for arrays, ``RandGINd`` for dictionaries."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor

from fedsilo.params import GinParams
from fedsilo.segmentation import gin

MAX_SEED = 2**32


class RandGIN(RandomizableTransform):  # type: ignore[misc]  # MONAI has no types
    """Remap the intensities of one channel-first image with a small random network (GIN).

    Z-score images first: GIN's random shifts are of order 1. Labels need no transform, geometry stays.

    Args:
        prob: Chance that an image is remapped.
        padding: What the network sees beyond the border.
        initial_scale: ``"fan_in"`` divides each kernel by the root of its fan-in.
        redraw_flat: Draw again where the result is nearly constant.

    Reference:
        Ouyang et al., Causality-inspired single-source domain generalization, IEEE TMI 2022.

    Example:
        >>> remap = RandGIN(prob=1.0).set_random_state(seed=0)
        >>> remap(torch.randn(1, 16, 16)).shape
        torch.Size([1, 16, 16])
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's own form

    def __init__(
        self,
        prob: float = 0.5,
        *,
        padding: Literal["replicate", "zeros"] = "replicate",
        initial_scale: Literal["unit", "fan_in"] = "unit",
        redraw_flat: bool = False,
    ) -> None:
        """Set the transform up; see the class."""
        RandomizableTransform.__init__(self, prob)
        self.params = GinParams(
            networks="per_sample",
            padding=padding,
            kernel_sizes="per_batch",
            initial_scale=initial_scale,
            redraw_flat=redraw_flat,
        )
        self.seed = 0

    def randomize(self, data: Any = None) -> None:  # noqa: ANN401  # MONAI's own form
        """Decide whether to remap, and draw the seed of the network."""
        super().randomize(data)
        self.seed = int(self.R.randint(MAX_SEED, dtype=numpy.uint32))

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:  # noqa: FBT001, FBT002  # MONAI's own form
        """Remap an image (C, *space), 2D or 3D; numpy arrays and tensors come back as they came, metadata included."""
        if randomize:
            self.randomize()
        if not self._do_transform:
            return img
        image = convert_to_tensor(img, track_meta=False)[None]
        numbers = torch.Generator().manual_seed(self.seed)
        draw = gin.sample_for(image, params=self.params, probability=1.0, generator=numbers)
        remapped: NdarrayOrTensor = convert_to_dst_type(gin.apply_gin(image, draw)[0], img)[0]
        return remapped


class RandGINd(MapTransform, RandomizableTransform):  # type: ignore[misc]  # MONAI has no types
    """Dictionary form of `RandGIN`: every key is remapped by the same random network.

    Args:
        keys: Of the images; leave labels out.
        prob: Chance that a dictionary's images are remapped.
        padding: As of `RandGIN`.
        initial_scale: As of `RandGIN`.
        redraw_flat: As of `RandGIN`.
        allow_missing_keys: Whether a key may be absent.
    """

    backend = RandGIN.backend

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        *,
        padding: Literal["replicate", "zeros"] = "replicate",
        initial_scale: Literal["unit", "fan_in"] = "unit",
        redraw_flat: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        """Set the transform up; see the class."""
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.remap = RandGIN(1.0, padding=padding, initial_scale=initial_scale, redraw_flat=redraw_flat)

    def set_random_state(self, seed: int | None = None, state: numpy.random.RandomState | None = None) -> "RandGINd":
        """Set the random state of the chance and of the network."""
        super().set_random_state(seed, state)
        self.remap.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Remap the images of a dictionary; all other entries pass."""
        entries = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return entries
        self.remap.randomize()
        for key in self.key_iterator(entries):
            entries[key] = self.remap(entries[key], randomize=False)
        return entries
