"""Knobs of the outside phase: what is tried at sites that never took part."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from fedsilo.sections import Count, Identifier, Positive, Section, Share

OwnMethod = Literal["global", "experts", "ensemble", "soup", "router", "router_ungated", "dg_tta"]
"""Methods with knobs of their own, or none."""


class ObjectiveParams(Section):
    """Weights of the three unlabelled losses of test-time routing."""

    consistency: Annotated[float, Field(ge=0)]
    shape: Annotated[float, Field(ge=0)]
    entropy: Annotated[float, Field(ge=0)]


class AdaptationParams(Section):
    """A method that learns at the outside site, from its images alone: test-time routing and its relatives."""

    experts: Literal["all", "global"] = Field(description="all: global and inside models; global: it alone, without routes")
    train: tuple[Literal["gates", "norms"], ...] = Field(description="what the steps change; one expert has no gates")
    gate: Literal["static", "case", "sample"] = Field(
        description="static: one route a layer; case: also from the layer's input moments; sample: one for each slice or patch"
    )
    tie: Literal["layer", "stage", "network"] = Field(description="layers whose gates share an offset")
    start: Literal["prior", "router", "random"] = Field(
        description="routes before the first step: outside.prior_global, the router's weights for the case, or noise"
    )
    source_share: Share = Field(
        description="of the experts' BatchNorm statistics, the rest is measured on the case: 1 the experts', 0 the case's"
    )
    protocol: Literal["episodic", "online", "transductive"] = Field(
        description="each case afresh; one pass over the site's cases, going on from the last; or several, then predict"
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        description="episodic: gradient steps a case; transductive: passes; online: 1, a step a batch; never chosen by labels"
    )
    learning_rate: Positive
    objective: ObjectiveParams

    @model_validator(mode="after")
    def _can_be_done(self) -> "AdaptationParams":
        if self.protocol == "online" and self.steps != 1:
            raise ValueError(f"online takes one step a batch: expected steps 1, got {self.steps}")
        if self.steps > 0 and not self.train:
            raise ValueError(f"{self.steps} steps and nothing to train: name gates or norms, or take 0 steps")
        if self.experts == "global" and "gates" in self.train:
            raise ValueError("a single expert has no gates to train")
        if self.start == "router" and (self.experts == "global" or self.protocol != "episodic"):
            raise ValueError("start router needs all experts and the episodic protocol: its weights are a case's")
        return self


class RouterParams(Section):
    """The forward-only router: weights of the experts from a few slices, one averaged model, and a gate against harm.

    ``budget`` says how many slices are looked at, but never fewer than one, in 3D than one block of the network's divisor: a case
    of few slices can cost more. Where an ensemble predicts instead, its passes beyond the first come on top.
    """

    budget: Annotated[float, Field(gt=1)] = Field(
        description="forward passes of one model over the case that weights, gate and prediction may cost together, but for the "
        "slice or block that is always looked at and the ensemble as a fallback"
    )
    slices: Count = Field(description="of a case that every expert sees, at most; fewer if the budget allows no more")
    prior_global: Annotated[float, Field(gt=0, lt=1)] = Field(description="weight of the global model where evidence is equal")
    distance_temperature: Positive = Field(description="of BatchNorm distances, as a share of their median over experts")
    entropy_temperature: Positive
    source_slices: Annotated[float, Field(ge=0)] = Field(
        description="slices that the experts' BatchNorm statistics count for beside those of the case"
    )
    gain: float = Field(description="by how much the adapted model's quality must exceed the fallback's")
    fallback: Literal["global", "ensemble", "none"] = Field(description="what predicts if it does not; none: no gate")


class DgTtaParams(Section):
    """DG-TTA: the global model learns to segment two warped views of a case alike."""

    train: Literal["all", "norms"] = Field(description="all weights, as released, or scale and shift of norm layers")
    steps: Count = Field(description="gradient steps a case; fixed, never chosen by labels")
    learning_rate: Positive
    warp_sd: Positive = Field(description="of each entry of the random affine maps, in halves of the image's edge")


class OutsideParams(Section):
    """Methods at outside sites (IOP-FL)."""

    methods: tuple[OwnMethod, ...] = Field(
        min_length=1, description="methods beside the adaptations; experts: every model by itself, whose best is a bound"
    )
    prior_global: Annotated[float, Field(gt=0, lt=1)] = Field(description="route of the global model before the first step")
    noise_sd: Annotated[float, Field(ge=0)] = Field(description="of the second view, in z-score units")
    shape_radius_px: Count = Field(description="radius of the contour window")
    batch_size: Count = Field(description="slices or patches of a case in one step")
    router: RouterParams
    dg_tta: DgTtaParams
    adaptations: dict[Identifier, AdaptationParams] = Field(description="methods that learn, by the name in the tables")

    @model_validator(mode="after")
    def _names_are_free(self) -> "OutsideParams":
        taken = sorted(set(self.adaptations) & set(get_args(OwnMethod)))
        if taken:
            raise ValueError(f"{taken[0]} is a method of its own, expected another name for an adaptation")
        return self
