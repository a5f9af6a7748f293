"""Laws of local training: it is a function of state, data, params and names."""

import pytest
import torch

from fedsilo import seeds
from fedsilo.cohort import batches
from fedsilo.federation import states
from fedsilo.params import DistillationParams, FederateParams, LatentWeightParams, NetworkParams, OptimizerParams, SpatialParams
from fedsilo.segmentation import network, training, validation
from tests.aggregation_settings import admission_params, aggregation_params
from tests.algorithm_settings import algorithm_params, inside_fold
from tests.gin_settings import appearance_params

NETWORK = NetworkParams(spatial_dims=2, channels=(4, 8), num_res_units=0)


def params(**changes):
    base = FederateParams(
        rounds=2,
        participants=None,
        local_epochs=1,
        batch_size=4,
        patch_zyx=(4, 16, 16),
        weighting="cases",
        latent_weights=LatentWeightParams(size="kish", modalities="global", history=0.9),
        admission=admission_params(),
        aggregation=aggregation_params(),
        algorithm=algorithm_params(),
        participation=1.0,
        deadline_minutes=None,
        folds=inside_fold(),
        validate_every=1,
        network=NETWORK,
        optimizer=OptimizerParams(learning_rate=1e-2, weight_decay=1e-4, final_rate=1.0, moments="keep"),
        appearance=appearance_params("gin", 0.5, padding="replicate"),
        distillation=DistillationParams(first_weight=0.0, last_weight=0.0, temperature=2.0),
        spatial=SpatialParams(probability=0.5, rotation_deg=10, scale=0.1, translation=0.05),
    )
    return base.model_copy(update=changes)


@pytest.fixture(scope="module")
def site():
    cases = []
    for index in range(3):
        label = torch.zeros(4, 16, 16, dtype=torch.uint8)
        label[1:3, 4:10, 3 + index : 9 + index] = 1
        noise = torch.randn(1, 4, 16, 16, generator=seeds.generator(1, "case", index))
        cases.append(batches.LabelledCase(2.0 * label[None] + 0.3 * noise, label, "MR"))
    return batches.site_data(cases, spatial_dims=2)


def fresh():
    return network.build(NETWORK, num_classes=3, in_channels=1, generator=seeds.generator(1, "init"))


def stretch(site, *, epochs=1, round_index=0, settings=None, annotated=(1,)):
    return training.Stretch(
        site, epochs=epochs, rate=1e-2, annotated=annotated, params=settings or params(),
        stream=training.Stream(1, "federate", "mr-a", round_index),
    )  # fmt: skip


def run(model, site, *, moments=None, **changes):
    return training.train(model, stretch(site, **changes), initial_moments=moments)


def test_two_runs_give_the_same_bits_and_leave_the_global_random_state_alone(site):
    before = torch.random.get_rng_state()
    digests = []
    for _ in range(2):
        model = fresh()
        run(model, site)
        digests.append(states.digest(states.snapshot(model)))

    assert digests[0] == digests[1]
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_round_or_site_draws_other_numbers(site):
    digests = set()
    for round_index in range(2):
        model = fresh()
        run(model, site, round_index=round_index)
        digests.add(states.digest(states.snapshot(model)))

    assert len(digests) == 2


def test_a_probability_of_zero_is_training_on_images_as_they_are(site):
    digests = set()
    for appearance in (
        appearance_params("none", 0.5),
        *(appearance_params(method, 0.0) for method in ("gin", "photometric", "bezier", "randconv")),
        appearance_params("gin", 0.0, networks="shared"),
    ):
        model = fresh()
        run(model, site, settings=params(appearance=appearance))
        digests.add(states.digest(states.snapshot(model)))

    assert len(digests) == 1


@pytest.mark.parametrize("method", ["gin", "gin_ipa", "photometric", "bezier", "randconv"])
def test_every_method_trains_and_by_its_seed(site, method):
    digests, losses_seen = set(), []
    for _ in range(2):
        model = fresh()
        trained = run(model, site, epochs=3, settings=params(appearance=appearance_params(method, padding="replicate")))
        digests.add(states.digest(states.snapshot(model)))
        losses_seen.append(trained.mean_loss)
    plain = fresh()
    run(plain, site, epochs=3, settings=params(appearance=appearance_params("none")))

    assert len(digests) == 1
    assert 0 < losses_seen[0] < 3
    assert states.digest(states.snapshot(plain)) not in digests


def test_the_disagreement_of_views_weighs_as_much_as_it_is_told_to(site):
    """A weight of zero leaves the supervised view; the batch still holds three."""
    weights = {}
    for weight in (0.0, 10.0):
        appearance = appearance_params("gin_ipa").model_copy(update={"consistency": weight})
        weights[weight] = run(fresh(), site, settings=params(appearance=appearance)).mean_loss

    assert weights[10.0] > weights[0.0]


@pytest.mark.parametrize(("annotated", "changes"), [((1,), True), ((1, 2), False)])
def test_a_teacher_speaks_only_of_organs_that_the_site_does_not_annotate(site, annotated, changes):
    digests = set()
    for weight in (0.0, 1.0):
        taught = DistillationParams(first_weight=weight, last_weight=weight, temperature=2.0)
        model = fresh()
        run(model, site, annotated=annotated, settings=params(distillation=taught))
        digests.add(states.digest(states.snapshot(model)))

    assert len(digests) == (2 if changes else 1)


@pytest.mark.parametrize(("rounds", "weights"), [(1, [0.01]), (3, [0.01, 0.505, 1.0]), (2, [0.01, 1.0, 1.0])])
def test_the_teachers_weight_grows_over_the_rounds_and_no_further(rounds, weights):
    taught = DistillationParams(first_weight=0.01, last_weight=1.0, temperature=2.0)
    federate = params(rounds=rounds, distillation=taught)

    assert [training.distillation_weight(federate, round_index=index) for index in range(len(weights))] == pytest.approx(weights)


def test_moments_taken_out_and_put_back_go_on_as_if_never_stopped(site):
    """Round 0 then round 1 in one optimiser, against moments stored in between."""
    stored = fresh()
    first = run(stored, site)
    run(stored, site, round_index=1, moments=first.moments)

    torn = fresh()
    second = run(torn, site)
    reloaded = {name: value.clone() for name, value in second.moments.items()}
    run(torn, site, round_index=1, moments=reloaded)
    reset = fresh()
    run(reset, site)
    run(reset, site, round_index=1)

    assert states.digest(states.snapshot(stored)) == states.digest(states.snapshot(torn))
    assert states.digest(states.snapshot(stored)) != states.digest(states.snapshot(reset))
    assert int(first.moments["model.0.conv.weight.step"]) == first.num_steps


def test_it_learns_what_is_plain_to_see(site):
    model = fresh()
    held_out = site.cases
    options = {"annotated": (1,), "spatial_dims": 2, "divisor": 2, "batch_size": 8, "device": "cpu"}
    before = validation.mean_dice(model, held_out, **options)

    run(model, site, epochs=40)

    assert validation.mean_dice(model, held_out, **options) > max(0.8, before + 0.2)


def test_validation_skips_absent_organs_and_says_none_without_any(site):
    options = {"spatial_dims": 2, "divisor": 2, "batch_size": 8, "device": "cpu"}
    held_out = site.cases

    assert validation.mean_dice(fresh(), held_out, annotated=(2,), **options) is None
    assert validation.mean_dice(fresh(), [], annotated=(1,), **options) is None


def test_the_rate_falls_from_the_first_round_to_the_last():
    rates = OptimizerParams(learning_rate=2.0, weight_decay=0, final_rate=0.25, moments="reset")

    values = [training.learning_rate(rates, round_index=index, rounds=5) for index in range(5)]

    assert values[0] == 2.0
    assert values[-1] == 0.5
    assert values == sorted(values, reverse=True)
    assert training.learning_rate(rates, round_index=0, rounds=1) == 2.0


def test_a_network_comes_from_its_generator_alone():
    first, again = (states.digest(states.snapshot(fresh())) for _ in range(2))
    other = network.build(NETWORK, num_classes=3, in_channels=1, generator=seeds.generator(2, "init"))

    assert first == again
    assert first != states.digest(states.snapshot(other))
