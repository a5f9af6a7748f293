"""Every knob of a run as frozen values, read from params.yaml and nowhere else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from fedsilo.admission_params import AdmissionParams
from fedsilo.aggregation_params import AggregationParams
from fedsilo.errors import ParamsError
from fedsilo.outside_params import OutsideParams
from fedsilo.sections import Count, Identifier, Positive, Section, Share, merge, read_yaml, validate

Triple = tuple[Positive, Positive, Positive]
CountTriple = tuple[Count, Count, Count]


class DataParams(Section):
    """Where real data lie."""

    root: str = Field(description="folder with the sites' folders, for cohort files whose root is null")


class RuntimeParams(Section):
    """How a run uses the machine; results do not depend on it, so DVC does not track it."""

    parallel_sites: Count = Field(description="sites that train at the same time, each in a process of its own")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: one CUDA device a site if there are any")
    device_slots: bool = Field(description="take a device's slot for each job: a global concurrency limit of Prefect")
    amp: bool = Field(description="autocast to bfloat16 on CUDA; never on CPU")


class PhantomsParams(Section):
    """Size of the embedded cohort."""

    grid_zyx: CountTriple = Field(description="voxels of a stored volume")
    spacing_zyx_mm: Triple
    inside_cases: Count = Field(description="subjects at an inside site")
    outside_cases: Count = Field(description="subjects at an outside site")


class ContractParams(Section):
    """Bounds of the data contract."""

    spacing_mm: tuple[Positive, Positive] = Field(description="allowed spacing of every axis")
    min_edge_3d: Count = Field(description="voxels; smallest edge of a volume")
    min_edge_2d: Count = Field(description="pixels; smallest in-plane edge of a slice")
    max_affine_difference: Positive = Field(description="largest entry of |affine of image - affine of label|")
    min_distinct_values: Count = Field(description="distinct intensities that make an image")
    fov_z_mm: tuple[Positive, Positive] = Field(description="usual field of view along z")
    fov_yx_mm: tuple[Positive, Positive] = Field(description="usual field of view along y and x")
    max_pixel_ratio: Annotated[float, Field(ge=1)] = Field(description="larger in-plane spacing over the smaller")
    oblique_deg: tuple[Positive, Positive] = Field(
        description="angle of an axis from which on to warn, and to leave the case out"
    )
    organ_volume: tuple[Positive, Positive] = Field(description="of an organ that is whole, as shares of its usual volume")
    near_share: Share = Field(description="of their bits in which the near hashes of images that look alike differ")
    min_train_patients: Count = Field(description="that an inside site keeps")
    max_quarantined_share: Share = Field(description="of a site's cases; above it the site stops")
    min_sites: Count = Field(description="inside sites that must keep the contract")


class PrepareParams(Section):
    """From a folder at a site to prepared cases."""

    spacing_zyx_mm: tuple[Positive | None, Positive, Positive] = Field(
        description="working spacing of mm cases; a null z keeps the slices as acquired"
    )
    size_yx_px: tuple[Count, Count] = Field(description="working size of cases without spacing")
    plan: Literal["params", "federated"] = Field(
        description="federated: spacing, and the clip of CT in HU, follow from the sites' merged histograms instead"
    )
    max_oblique_deg: Positive = Field(description="angle of an axis above which a case is resampled to an axis-aligned box")
    crop: Literal["none", "nonzero"] = Field(
        description="nonzero: cut mm cases, other than CT in HU, to the block that holds all voxels that are not zero"
    )
    ct_clip_hu: tuple[float, float]
    mr_clip_percentiles: tuple[float, float] = Field(description="of non-zero voxels; also used for windowed 8-bit CT")
    val_share: Share = Field(description="share of an inside site's patients for validation, at least one")
    test_share: Share = Field(description="share of an inside site's patients for test, at least one")
    fix: bool = Field(description="undo rounding errors of exports up to 0.001: directions, label affines, label values")
    contract: ContractParams


class NetworkParams(Section):
    """A MONAI U-Net with BatchNorm."""

    spatial_dims: Literal[2, 3]
    channels: tuple[Count, ...] = Field(min_length=2, description="features a level; the first at full resolution")
    num_res_units: Annotated[int, Field(ge=0)]


class GinParams(Section):
    """Global intensity non-linear augmentation (Ouyang et al., TMI 2022; FedGIN)."""

    networks: Literal["per_sample", "shared"] = Field(description="shared: one random net a batch, as FedGIN's release")
    padding: Literal["replicate", "zeros"]
    kernel_sizes: Literal["per_batch", "per_sample"] = Field(description="how often each layer draws its kernel's edge")
    initial_scale: Literal["unit", "fan_in"] = Field(description="fan_in divides each kernel by the root of its fan-in")
    redraw_flat: bool = Field(description="draw again where a remapped image is nearly constant")


class LearnedParams(Section):
    """Learned GIN: a site's invertible remapping, trained beside the network and never sent."""

    steps: Count = Field(description="of flow and critic at a site in a round")
    critic_weight: Annotated[float, Field(ge=0)] = Field(description="of the critic in the flow's loss, before it adapts")


class AppearanceParams(Section):
    """How the intensities of training images are changed; those of validation and test never are."""

    method: Literal["gin", "gin_ipa", "learned", "both", "photometric", "bezier", "randconv", "none"] = Field(
        description="both: a coin a sample between gin and learned"
    )
    probability: Share = Field(description="chance that a sample is changed")
    consistency: Annotated[float, Field(ge=0)] = Field(description="gin_ipa: weight of the disagreement between the three views")
    gin: GinParams = Field(description="of gin, gin_ipa and both")
    learned: LearnedParams = Field(description="of learned and both")


class SpatialParams(Section):
    """Random affine maps of image and label."""

    probability: Share
    rotation_deg: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(description="zoom drawn from 1-scale to 1+scale")
    translation: Share = Field(description="of the image's edge")


class OptimizerParams(Section):
    """AdamW, the same at every site."""

    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    final_rate: Share = Field(
        description="learning rate of the last round as a share of the first's; cosine between, 1 = constant"
    )
    moments: Literal["reset", "keep"] = Field(description="what happens to a site's Adam moments between rounds")


class DistillationParams(Section):
    """Conditional distillation: what a site learns from the global model about organs that it does not annotate."""

    first_weight: Annotated[float, Field(ge=0)] = Field(description="weight of the loss in the first round")
    last_weight: Annotated[float, Field(ge=0)] = Field(description="weight in the last round; linear between, both 0 = off")
    temperature: Positive


class LatentWeightParams(Section):
    """Weights of sites by the effective size of their data in the latent space of learned GIN."""

    size: Literal["kish", "vendi", "product"] = Field(description="cases x coverage, diversity, or coverage x diversity")
    modalities: Literal["global", "balanced"] = Field(description="balanced: every modality weighs the same")
    history: Share = Field(description="weight of earlier rounds in a site's size")


class AlgorithmParams(Section):
    """How sites train in a round, and what of their models stays with them."""

    name: Literal["fedavg", "fedprox", "fedbn", "silobn", "fedrep", "ditto", "apfl"]
    fedprox_mu: Annotated[float, Field(ge=0)] = Field(description="pull of a site's model to the global one; 0 is fedavg")
    ditto_lambda: Annotated[float, Field(ge=0)] = Field(
        description="pull of a site's own model to the global one; 0 trains it alone"
    )
    fedrep_head_epochs: Count = Field(description="epochs of the output layer, before those of all the rest")
    apfl_mix: Share = Field(description="share of a site's own model in its mixture, to start with")
    apfl_mix_rate: Annotated[float, Field(ge=0)] = Field(description="step size of that share; 0 keeps it")


class FoldParams(Section):
    """An average of a site's own rounds."""

    momentum: Share = Field(description="weight of the site's history; 0 keeps only the last round, 1 never learns")
    buffers: Literal["fold", "latest", "recompute"] = Field(
        description="statistics of norm layers: folded too, the last round's, or measured anew on the site's training images"
    )


class FederateParams(Section):
    """Rounds of local training and averaging."""

    rounds: Count
    participants: dict[Identifier, dict[Identifier, Count | None]] | None = Field(
        description="who trains: name -> inside site -> number of its training patients (null: all); null: every inside site"
    )
    local_epochs: Count
    batch_size: Count
    patch_zyx: tuple[Count, Count, Count] = Field(description="training crop in working voxels; z is ignored in 2D")
    weighting: Literal["cases", "slices", "uniform", "latent"] = Field(description="a site's weight in the average")
    latent_weights: LatentWeightParams = Field(description="of weighting latent")
    admission: AdmissionParams
    aggregation: AggregationParams
    algorithm: AlgorithmParams
    participation: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of the sites that train in a round, drawn by the seed"
    )
    deadline_minutes: Positive | None = Field(
        description="that a site's turn may take, after which it gives no update in that round; null: any"
    )
    folds: dict[Identifier, FoldParams] = Field(
        description="averages of a site's own rounds; `inside` is its inside model, others are compared with it"
    )
    validate_every: Count = Field(description="rounds between validations; the last round is always validated")
    network: NetworkParams
    optimizer: OptimizerParams
    appearance: AppearanceParams
    spatial: SpatialParams
    distillation: DistillationParams

    @model_validator(mode="after")
    def _each_site_in_one_place(self) -> "FederateParams":
        if self.participants is None:
            return self
        if not self.participants:
            raise ValueError("participants is empty: null makes every inside site one")
        for name, members in self.participants.items():
            if not members:
                raise ValueError(f"participant {name} holds no site")
        held = [site for members in self.participants.values() for site in members]
        twice = sorted({site for site in held if held.count(site) > 1})
        if twice:
            raise ValueError(f"two participants hold site {twice[0]}")
        return self

    @model_validator(mode="after")
    def _inside_is_a_fold(self) -> "FederateParams":
        if "inside" not in self.folds:
            raise ValueError("folds lacks inside: every site has an inside model")
        return self

    @model_validator(mode="after")
    def _latents_exist(self) -> "FederateParams":
        if self.weighting == "latent" and self.appearance.method not in ("learned", "both"):
            raise ValueError("weighting latent needs appearance.method learned or both: without them there is no latent space")
        return self


class InsideParams(Section):
    """Comparison of models at inside sites."""

    methods: tuple[Literal["global", "inside", "local", "finetuned", "finetuned_best"], ...] = Field(
        min_length=1, description="models to compare; other folds of the federation are, too"
    )
    finetune_epochs: Count = Field(description="epochs of FedAvg + fine-tuning")
    finetune_best_of: Count = Field(description="finetuned_best: epochs of which validation chooses")


class ReportParams(Section):
    """Tables of the report."""

    bootstrap_resamples: Annotated[int, Field(ge=99)]
    confidence: Annotated[float, Field(gt=0, lt=1)]


class Params(Section):
    """All params of a run."""

    seed: Annotated[int, Field(ge=0)]
    data: DataParams
    runtime: RuntimeParams
    phantoms: PhantomsParams
    prepare: PrepareParams
    federate: FederateParams
    inside: InsideParams
    outside: OutsideParams
    report: ReportParams

    @model_validator(mode="after")
    def _fit_network(self) -> "Params":
        halvings = len(self.federate.network.channels) - 2
        edges = self.federate.patch_zyx if self.federate.network.spatial_dims == 3 else self.federate.patch_zyx[1:]  # noqa: PLR2004  # the number of axes
        if any(edge % 2**halvings for edge in edges):
            raise ValueError(f"federate.patch_zyx {edges} must be multiples of {2**halvings} for {halvings + 2} network levels")
        return self


def load(
    path: Path,
    overrides: Mapping[str, object] | None = None,
    assignments: Sequence[str] = (),
    *,
    overlays: Sequence[Path] = (),
) -> Params:
    """Read params.yaml, then apply a cohort's overrides, overlay files in order, and ``key.path=value`` assignments.

    An overlay is a YAML file with a part of params.yaml.

    Raises:
        ParamsError: The file is missing or not YAML, or a key is unknown, missing or of the wrong kind; one line that
            names every such key.
    """
    tree = merge(read_yaml(path), overrides or {}, path=path)
    for overlay in overlays:
        tree = merge(tree, read_yaml(overlay), path=overlay)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ParamsError(f"cannot use {assignment!r}: expected key.path=value")
        tree = merge(tree, _nest(key.split("."), yaml.safe_load(text)), path=path)
    return validate(Params, tree, source=str(path))


def _nest(keys: Sequence[str], value: object) -> dict[str, object]:
    """Turn ``["a", "b"], 1`` into ``{"a": {"b": 1}}``."""
    for key in reversed(keys):
        value = {key: value}
    return {keys[0]: value[keys[0]]} if isinstance(value, dict) else {}
