"""Names shared by every room: states, roles of sites and of a state's entries."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

StateDict = Mapping[str, Tensor]
"""Parameters and buffers by name; treated as immutable everywhere."""

SiteRole = Literal["inside", "outside"]
"""Whether a site took part in training (``inside``) or is met at test time only (``outside``)."""

Split = Literal["train", "val", "test"]
"""Use of a patient; one patient has one."""

EntryRole = Literal["parameter", "norm_mean", "norm_variance", "counter", "buffer"]
"""What an entry of a state is; decides how aggregation treats it."""

CLASS_DIM = 1
"""Axis of classes in logits, probabilities and one-hot labels of a batch."""
