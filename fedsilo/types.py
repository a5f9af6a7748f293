"""Names shared by every room: roles of sites and of a state's entries."""

from typing import Literal

SiteRole = Literal["inside", "outside"]
"""Whether a site took part in training (``inside``) or is met at test time only (``outside``)."""

Split = Literal["train", "val", "test"]
"""Use of a patient; one patient has one."""

EntryRole = Literal["parameter", "norm_mean", "norm_variance", "counter", "buffer"]
"""What an entry of a state is; decides how aggregation treats it."""

CLASS_DIM = 1
"""Axis of classes in logits, probabilities and one-hot labels of a batch."""
