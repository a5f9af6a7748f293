"""Params of admission: which updates of a round count, and how many must."""

from typing import Annotated

from pydantic import Field

from fedsilo.sections import Count, Section

Ratio = Annotated[float, Field(gt=1)]


class AdmissionParams(Section):
    """What an update is compared with, and the quorum of a round.

    The three comparisons are with the other sites of the round; with fewer than three sites none is made.
    """

    quorum: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of the sites asked in a round whose updates must count, rounded up; below it the run stops"
    )
    max_norm_ratio: Ratio | None = Field(
        description="norm of an update's parameters over the median of the others'; null: not checked"
    )
    max_statistics_ratio: Ratio | None = Field(
        description="the same of its running means, and of its running variances; null: not checked"
    )
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        description="of the angle between an update and the mean of the others; null: not checked"
    )
    max_drift_ratio: Ratio | None = Field(
        description="norm of a site's distances to the others, summed over rounds, over the median of theirs; null: not checked"
    )
    veto_margin: Annotated[float, Field(gt=0, le=1)] | None = Field(
        description="loss of a site's validation Dice from its best on, at which the update behind it is left out; null: no veto"
    )
    drift_rounds: Count = Field(description="rounds of a site from which on its drift is checked")
