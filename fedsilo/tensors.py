"""Types made of tensors; apart from ``fedsilo.types`` so that a command line answers without loading torch."""

from collections.abc import Mapping

from torch import Tensor

StateDict = Mapping[str, Tensor]
"""Parameters and buffers by name; treated as immutable everywhere."""
