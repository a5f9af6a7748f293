"""Laws of the learned remapping's training: it learns a site, goes on where it stood, and keeps to itself."""

import math
from dataclasses import replace

import pytest
import torch

from fedsilo import seeds
from fedsilo.cohort import batches
from fedsilo.cohort.batches import LabelledCase
from fedsilo.federation import states
from fedsilo.params import LearnedParams
from fedsilo.segmentation import appearance, critic, learned_gin, remapper
from fedsilo.segmentation.remapper import Remapper
from tests.gin_settings import appearance_params

PATCH = (4, 24, 24)
ROUNDS = 6


def body(index, modality="MR"):
    """A patient: a trunk with two organs, z-scored."""
    noise = torch.randn(1, 4, 24, 24, generator=seeds.generator(1, "body", index))
    label = torch.zeros(4, 24, 24, dtype=torch.uint8)
    label[:, 6:12, 5 + index % 4 : 12 + index % 4] = 1
    label[:, 14:20, 12:18] = 2
    image = torch.full((1, 4, 24, 24), -80.0)
    image[:, :, 2:-2, 2:-2] = 20.0
    image[label[None] == 1] = 90.0
    image[label[None] == 2] = 160.0
    image[:, :, 2:-2, 2:-2] += 9 * noise[:, :, 2:-2, 2:-2]
    return LabelledCase((image - image.mean()) / image.std(), label, modality)


def site(*indices, spatial_dims=2):
    return batches.site_data([body(index) for index in indices], spatial_dims=spatial_dims)


def make(seed=0, spatial_dims=2):
    generator = torch.Generator().manual_seed(seed)
    return Remapper(spatial_dims=spatial_dims, num_classes=3, generator=generator, device=torch.device("cpu"))


def play(made, data, round_index, *, steps=8, critic_weight=0.05):
    return made.train(
        data,
        params=LearnedParams(steps=steps, critic_weight=critic_weight),
        patch_zyx=PATCH,
        progress=round_index / ROUNDS,
        generator=seeds.generator(1, "remapper", round_index),
    )


@pytest.fixture(scope="module")
def learned():
    made, data = make(), site(0, 1, 2, 3, 4)
    return made, [play(made, data, round_index, steps=25) for round_index in range(ROUNDS)]


@pytest.fixture
def unseen():
    return next(batches.epoch(site(10, 11, 12, 13), batch_size=16, patch_zyx=PATCH, generator=seeds.generator(1, "unseen")))


def draw(count=16, seed=0, probability=1.0):
    return learned_gin.sample_learned(count, probability=probability, generator=torch.Generator().manual_seed(seed))


def likelihood(flow, batch):
    codes = learned_gin.image_codes(batch.modalities)
    looks = remapper._sample_looks(batch, codes, seeds.generator(1, "held out"))
    with torch.no_grad():
        return learned_gin.likelihood_loss(flow, *looks).item()


def test_held_out_intensities_are_likelier_than_under_the_identity(learned, unseen):
    assert likelihood(learned[0].flow, unseen) < likelihood(make().flow, unseen) - 0.2


def test_the_inverse_stays_exact_after_training(learned, unseen):
    codes = learned_gin.image_codes(unseen.modalities)
    look, codes = remapper._sample_looks(unseen, codes, seeds.generator(1, "inverse"))

    latent, _, _ = learned[0].flow.encode(look, codes)
    back = learned[0].flow.decode(latent, codes)

    assert (back.values - look.values).abs().max() < 1e-4


def test_the_critic_is_neither_blind_nor_certain(learned):
    _, records = learned

    assert all(record.critic_loss is None and record.critic_sign is None for record in records[:2])
    assert all(0.1 < record.critic_loss < 2.5 for record in records[2:])


def test_some_contrasts_turn_over_and_nothing_leaves_the_bounds(learned, unseen):
    images = unseen.images.repeat(6, 1, 1, 1)
    codes = learned_gin.image_codes(unseen.modalities.repeat(6))

    remapped, _ = learned_gin.remap(learned[0].flow, images, draw(len(images)), codes=codes)

    shown = learned_gin.foreground(images.flatten(1))
    pairs = zip(images.flatten(1), remapped.detach().flatten(1), shown, strict=True)
    correlations = [torch.corrcoef(torch.stack([before[where], after[where]]))[0, 1].item() for before, after, where in pairs]
    assert sum(value < 0 for value in correlations) > 0.05 * len(correlations)
    assert remapped[shown.view_as(remapped)].abs().max() <= learned_gin.BOUND + 1e-4


def test_the_flow_warms_up_before_the_critic_takes_part():
    made = make()
    before = states.digest(made.critic.state_dict())

    play(made, site(0, 1), 1)
    warm_up = states.digest(made.critic.state_dict())
    play(made, site(0, 1), 2)

    assert before == warm_up
    assert warm_up != states.digest(made.critic.state_dict())


def test_without_weight_the_critic_does_not_reach_the_flow():
    """Critic weight 0: another critic, the same flow."""
    flows = []
    for shift in (0.0, 3.0):
        made = make()
        with torch.no_grad():
            made.critic.layers[-1].bias += shift
        play(made, site(0, 1), 3, critic_weight=0.0)
        flows.append(states.digest(made.flow.state_dict()))

    assert flows[0] == flows[1]


@pytest.mark.parametrize(("sign", "grows"), [(1.0, True), (-1.0, False)])
def test_pressure_follows_a_critic_that_is_too_sure(monkeypatch, sign, grows):
    made = make()
    monkeypatch.setattr(Remapper, "_score", lambda _self, images, _labels: torch.full((len(images),), sign))

    record = play(made, site(0, 1), 3)

    assert (record.pressure > 1) == grows
    assert record.critic_sign == sign


def test_resuming_from_a_state_gives_the_same_bits():
    through, torn, data = make(), make(), site(0, 1)
    for round_index in range(4):
        play(through, data, round_index)
        play(torn, data, round_index)
        resumed = make(seed=9)
        resumed.restore(torn.state())
        torn = resumed

    assert states.digest(through.state()) == states.digest(torn.state())
    assert torch.equal(remapped_by(through), remapped_by(torn))


def remapped_by(made):
    batch = next(batches.epoch(site(7), batch_size=4, patch_zyx=PATCH, generator=seeds.generator(1, "batch")))
    return made.remap(batch.images, draw(4), labels=batch.labels, modalities=batch.modalities)


def test_a_state_is_a_copy(learned):
    before = learned[0].state()
    digest = states.digest(before)

    other = make(seed=5)
    other.restore(before)
    play(other, site(0, 1), 3)

    assert states.digest(before) == digest


def test_where_anatomy_suffers_the_latent_is_not_moved(learned, unseen, monkeypatch):
    made, given = learned[0], draw()
    codes = learned_gin.image_codes(unseen.modalities)
    still = replace(given, move=replace(given.move, identity=torch.ones(16, dtype=torch.bool)))
    moved = learned_gin.apply_learned(unseen.images, made.flow, given, codes=codes)
    calm = learned_gin.apply_learned(unseen.images, made.flow, still, codes=codes)

    monkeypatch.setattr(made, "_floor", -math.inf)
    accepted = made.remap(unseen.images, given, labels=unseen.labels, modalities=unseen.modalities)
    monkeypatch.setattr(made, "_floor", math.inf)
    refused = made.remap(unseen.images, given, labels=unseen.labels, modalities=unseen.modalities)

    assert torch.equal(accepted, moved)
    assert torch.equal(refused, calm)
    assert not torch.allclose(moved, calm, atol=0.1)


def test_most_real_pairs_pass_the_critic_s_floor(learned, unseen):
    scores = learned[0]._score(unseen.images, unseen.labels)

    assert (scores >= learned[0]._floor).float().mean() > 0.6


def test_air_alone_breaks_nothing():
    case = LabelledCase(torch.zeros(1, 4, 24, 24), torch.zeros(4, 24, 24, dtype=torch.uint8), "CT")
    made = make()

    record = play(made, batches.site_data([case], spatial_dims=2), 3, steps=2)

    assert math.isfinite(record.likelihood_loss)
    assert all(torch.isfinite(value).all() for value in made.flow.state_dict().values())


def test_volumes_too():
    made, data = make(spatial_dims=3), batches.site_data([upright(0), upright(1)], spatial_dims=3)
    options = {"params": LearnedParams(steps=2, critic_weight=0.05), "patch_zyx": (8, 24, 24)}

    record = made.train(data, progress=0.5, generator=seeds.generator(1, "volumes"), **options)
    batch = next(batches.epoch(data, batch_size=2, patch_zyx=(8, 24, 24), generator=seeds.generator(1, "batch")))
    changed = made.remap(batch.images, draw(2), labels=batch.labels, modalities=batch.modalities)

    assert math.isfinite(record.critic_loss)
    assert changed.shape == batch.images.shape


def upright(index):
    case = body(index)
    return LabelledCase(case.image.repeat(1, 2, 1, 1), case.label.repeat(2, 1, 1), case.modality)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()

    play(make(), site(0, 1), 3)

    assert torch.equal(torch.get_rng_state(), before)


class TestAppearance:
    """Learned GIN and the coin between both, behind the interface of all methods."""

    @staticmethod
    def remap(images, given):
        return images + 100.0

    def test_learned_hands_the_draw_to_the_site_s_remapping(self, unseen):
        given = appearance.sample(unseen.images, params=appearance_params("learned"), generator=seeds.generator(1, "a"))

        assert torch.equal(appearance.apply(unseen.images, given, remap=self.remap), unseen.images + 100.0)

    def test_both_tosses_a_coin_a_sample(self, unseen):
        images = unseen.images.repeat(8, 1, 1, 1)
        given = appearance.sample(images, params=appearance_params("both"), generator=seeds.generator(1, "b"))

        after = appearance.apply(images, given, remap=self.remap)

        learned = (after == images + 100.0).flatten(1).all(dim=1)
        assert torch.equal(learned, given.tossed)
        assert 0.3 < learned.float().mean() < 0.7
        assert torch.equal(after[~learned], appearance.apply(images, given.gin)[~learned])

    @pytest.mark.parametrize("method", ["learned", "both"])
    def test_a_missing_remapping_is_an_error(self, method, unseen):
        given = appearance.sample(unseen.images, params=appearance_params(method), generator=seeds.generator(1, "c"))

        with pytest.raises(ValueError, match="needs the site's remapping"):
            appearance.apply(unseen.images, given)

    @pytest.mark.parametrize("method", ["learned", "both"])
    def test_chance_zero_is_the_identity(self, method, unseen, learned):
        given = appearance.sample(unseen.images, params=appearance_params(method, 0.0), generator=seeds.generator(1, "d"))

        def remap(images, one):
            return learned[0].remap(images, one, labels=unseen.labels, modalities=unseen.modalities)

        assert torch.equal(appearance.apply(unseen.images, given, remap=remap), unseen.images)


def test_critic_s_scores_do_not_move_its_power_iteration(learned, unseen):
    before = states.digest(learned[0].critic.state_dict())

    learned[0]._score(unseen.images, unseen.labels)

    assert states.digest(learned[0].critic.state_dict()) == before
    assert isinstance(learned[0].critic, critic.Critic)
