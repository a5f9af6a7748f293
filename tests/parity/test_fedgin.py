"""FedGIN as released, one round of it, against an oracle: shared GIN for every image, one epoch a site, weights by slices.

The oracle knows nothing of the federation's code. It remaps with `gin_oracle` (one voxel at a time), writes the loss out,
steps with PyTorch's AdamW and averages by hand; batches and draws come from the same named generators.
"""

import copy

import pytest
import torch
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.cohort import batches
from fedsilo.cohort.batches import LabelledCase
from fedsilo.federation import aggregation, states
from fedsilo.federation.updates import SiteUpdate
from fedsilo.params import (
    AppearanceParams,
    DistillationParams,
    FederateParams,
    GinParams,
    LatentWeightParams,
    LearnedParams,
    NetworkParams,
    OptimizerParams,
    SpatialParams,
)
from fedsilo.segmentation import gin, network, training
from tests.aggregation_settings import admission_params, aggregation_params
from tests.algorithm_settings import algorithm_params, inside_fold
from tests.parity import gin_oracle

SLICES = {"ct": (3, 3, 2), "mr": (2, 2)}
SIZE = 8
RATE, DECAY = 5e-4, 1e-4
GIN = GinParams(networks="shared", padding="zeros", kernel_sizes="per_batch", initial_scale="unit", redraw_flat=False)
PARAMS = FederateParams(
    rounds=1,
    participants=None,
    local_epochs=1,
    batch_size=4,
    patch_zyx=(2, SIZE, SIZE),
    weighting="slices",
    latent_weights=LatentWeightParams(size="kish", modalities="global", history=0.9),
    admission=admission_params(),
    aggregation=aggregation_params(),
    algorithm=algorithm_params(),
    participation=1.0,
    deadline_minutes=None,
    folds=inside_fold(0.0),
    validate_every=1,
    network=NetworkParams(spatial_dims=2, channels=(4, 8), num_res_units=0),
    optimizer=OptimizerParams(learning_rate=RATE, weight_decay=DECAY, final_rate=1.0, moments="reset"),
    appearance=AppearanceParams(
        method="gin", probability=1.0, consistency=0.0, gin=GIN, learned=LearnedParams(steps=1, critic_weight=0.0)
    ),
    distillation=DistillationParams(first_weight=0.0, last_weight=0.0, temperature=2.0),
    spatial=SpatialParams(probability=0.0, rotation_deg=0.0, scale=0.0, translation=0.0),
)
ORGANS = (1, 2)


def site_data(site):
    cases = []
    for index, num_slices in enumerate(SLICES[site]):
        label = torch.zeros(num_slices, SIZE, SIZE, dtype=torch.uint8)
        label[:, 1:4, 1 + index : 4 + index] = 1
        label[:, 5:7, 2:6] = 2
        noise = torch.randn(1, num_slices, SIZE, SIZE, generator=seeds.generator(3, site, index))
        cases.append(LabelledCase((label - 0.7)[None] * (1 if site == "ct" else -1) + 0.4 * noise, label, site.upper()))
    return batches.site_data(cases, spatial_dims=2)


def start():
    return network.build(PARAMS.network, num_classes=3, in_channels=1, generator=seeds.generator(3, "init"))


def stream(site):
    return training.Stream(3, "federate", site, 0)


def federation():
    """A round through training and aggregation."""
    server, updates = states.snapshot(start()), []
    for site, slices in SLICES.items():
        model = start()
        stretch = training.Stretch(site_data(site), epochs=1, rate=RATE, annotated=ORGANS, params=PARAMS, stream=stream(site))
        trained = training.train(model, stretch)
        updates.append(
            SiteUpdate(
                site=site,
                round_index=0,
                base_sha256=states.digest(server),
                num_cases=len(slices),
                num_slices=sum(slices),
                train_loss=trained.mean_loss,
                val_dice_global=None,
                val_dice_inside=None,
                latent_size=None,
                state=states.snapshot(model),
            )
        )
    weights = aggregation.site_weights(updates, "slices")
    made = aggregation.step(server, updates, weights=weights, roles=states.roles(start()), params=aggregation_params())
    return made.state, {update.site: update.train_loss for update in updates}


def oracle_loss(logits, labels):
    """Cross-entropy plus Dice over the organs of the batch, organ by organ."""
    probs = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    cross_entropy = -torch.stack([torch.log(probs[labels_at]) for labels_at in places(labels)]).mean()
    terms = []
    for organ in ORGANS:
        reference = (labels == organ).double()
        if reference.sum():
            overlap = (probs[:, organ] * reference).sum()
            terms.append(1 - 2 * overlap / (probs[:, organ].sum() + reference.sum() + 1e-5))
    return cross_entropy + sum(terms) / max(len(terms), 1)


def places(labels):
    """Index of every voxel's own class."""
    return [(b, int(labels[b, y, x]), y, x) for b in range(len(labels)) for y in range(SIZE) for x in range(SIZE)]


def oracle():
    """The same round, written out."""
    models, losses = {}, {}
    for site in SLICES:
        model = start().double().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
        order, draws = stream(site).generator("batches"), stream(site).generator("gin")
        seen = []
        for batch in batches.epoch(site_data(site), batch_size=4, patch_zyx=(2, SIZE, SIZE), generator=order):
            draw = gin.sample_gin(len(batch.images), 1, spatial_dims=2, params=GIN, probability=1.0, generator=draws)
            remapped = torch.tensor(gin_oracle.apply(batch.images.double().tolist(), draw), dtype=torch.float64)
            optimizer.zero_grad()
            loss = oracle_loss(model(remapped.view(batch.images.shape)), batch.labels)
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        models[site], losses[site] = copy.deepcopy(model.state_dict()), sum(seen) / len(seen)
    return models, losses


@pytest.fixture(scope="module")
def both():
    return federation(), oracle()


def test_training_losses_agree(both):
    (_, losses), (_, expected) = both

    assert losses == pytest.approx(expected, rel=1e-5)


def test_the_global_parameters_are_the_oracle_s_weighted_by_slices(both):
    (state, _), (models, _) = both
    share = {site: sum(slices) / sum(sum(slices) for slices in SLICES.values()) for site, slices in SLICES.items()}
    weights = [name for name, _ in start().named_parameters() if name.endswith("weight")]

    assert share == {"ct": 8 / 12, "mr": 4 / 12}
    close = []
    for name in weights:
        expected = sum(share[site] * model[name] for site, model in models.items())
        # Adam divides by the root of a gradient's square: where a gradient is nearly zero, float32 turns a step around
        assert_close(state[name].double(), expected, rtol=0, atol=4 * RATE)
        close.append(torch.isclose(state[name].double(), expected, rtol=0, atol=2e-5).flatten())
    assert torch.cat(close).double().mean() > 0.97


def test_weights_by_cases_would_not_agree(both):
    (state, _), (models, _) = both
    by_cases = {"ct": 3 / 5, "mr": 2 / 5}
    name = "model.0.conv.weight"

    expected = sum(by_cases[site] * model[name] for site, model in models.items())

    assert not torch.allclose(state[name].double(), expected, rtol=0, atol=2e-5)
