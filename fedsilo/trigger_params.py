"""Policy of triggers: when a federation is trained again; the section `triggers` of pccp.yaml."""

from typing import Annotated

from pydantic import Field, model_validator

from fedsilo.sections import Count, Positive, Section

NUM_TESTS = 2
"""Of drift; Holm multiplies the smaller p by it."""

Rate = Annotated[float, Field(gt=0, lt=0.5)]


class DriftPolicy(Section):
    """When a site's new cases count as drifted."""

    alpha: Rate = Field(description="rate of false alarms of one window")
    permutations: Annotated[int, Field(ge=99)] = Field(description="of the pooled patients; the smallest p is 1 / (this + 1)")
    fewest: Annotated[int, Field(ge=5)] = Field(description="new patients that make a window")
    alarms: Count = Field(description="windows with an alarm that trigger")
    windows: Count = Field(description="of how many of the newest")

    @model_validator(mode="after")
    def _can_be_met(self) -> "DriftPolicy":
        if self.alarms > self.windows:
            raise ValueError(f"expected at most as many alarms as windows, {self.windows}, got {self.alarms}")
        if self.alpha * (self.permutations + 1) < NUM_TESTS:
            raise ValueError(f"{self.permutations} permutations cannot bring p down to {self.alpha}")
        return self


class DecayPolicy(Section):
    """When scores of labelled cases in use count as decayed, in standard deviations of the champion's scores."""

    slack: Annotated[float, Field(ge=0)] = Field(description="loss a case that is not summed up")
    limit: Positive = Field(description="of the sum, above which it triggers")


class TriggerPolicy(Section):
    """What makes a federation train again."""

    cool_down_days: Annotated[int, Field(ge=0)] = Field(description="after a retraining, in which only a person starts another")
    calendar_days: Count | None = Field(description="after the champion, when it is time anyway; null: never")
    new_cases: Count | None = Field(description="at one site since the champion; null: no number is enough")
    new_share: Positive | None = Field(description="of the cases that the champion knew of a site; null: no share is enough")
    drift: DriftPolicy
    decay: DecayPolicy
