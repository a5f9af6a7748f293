"""Named generators: a stream of numbers belongs to a purpose, a site and a round, never to a loop order."""

import hashlib
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed from the run's seed and a path of names.

    The first eight bytes of ``sha256("seed/name/name/...")``, so that streams of different names are independent and
    a name gives the same stream on every machine.

    Example:
        >>> derive(42, "train", "mr-a", 0) == derive(42, "train", "mr-a", 0)
        True
        >>> derive(42, "train", "mr-a", 0) == derive(42, "train", "mr-a", 1)
        False
    """
    path = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> "torch.Generator":
    """Make the CPU torch generator of a purpose, e.g. ``generator(seed, "gin", site, round_index)``."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> numpy.random.Generator:
    """Make the numpy generator of a purpose, e.g. ``numpy_generator(seed, "phantom", site, subject)``."""
    return numpy.random.default_rng(derive(seed, *names))
