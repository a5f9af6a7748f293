"""Params of the server's step."""

from typing import Annotated, Literal

from pydantic import Field

from fedsilo.sections import Count, Positive, Section

Decay = Annotated[float, Field(ge=0, lt=1)]

Rule = Literal["average", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "norm_clipping", "centred_clipping"]


class ServerOptimizerParams(Section):
    """What the server makes of a round's step; the running statistics of norm layers never pass through it."""

    name: Literal["none", "fedavgm", "fedadam", "fedyogi"]
    learning_rate: Positive = Field(description="eta of fedavgm, fedadam and fedyogi")
    beta1: Decay = Field(description="weight of earlier directions")
    beta2: Decay = Field(description="weight of earlier squares, of fedadam and fedyogi")
    tau: Positive = Field(description="added to the root of the squares, of fedadam and fedyogi")


class AggregationParams(Section):
    """From a round's updates to the next global state."""

    rule: Rule
    num_hostile: Annotated[int, Field(ge=0)] = Field(
        description="sites that may be hostile or broken; of trimmed_mean, krum, multi_krum and nearest_mixing"
    )
    keep: Count | None = Field(description="updates that multi_krum averages; null: all but num_hostile")
    nearest_mixing: bool = Field(description="first replace each update by the mean of those nearest to it")
    clip_norm: Positive | None = Field(
        description="norm to which norm_clipping and centred_clipping cut; null: the median of the round"
    )
    centring_steps: Count = Field(description="of centred_clipping")
    optimizer: ServerOptimizerParams
