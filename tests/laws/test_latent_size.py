"""Laws of the effective latent size and of the weights that are made from it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsilo import seeds
from fedsilo.cohort.batches import LabelledCase
from fedsilo.errors import UpdateRefusedError
from fedsilo.federation import aggregation, latent_weights
from fedsilo.federation.updates import SiteUpdate
from fedsilo.segmentation import latent_size
from fedsilo.segmentation.latent_size import LatentSize
from fedsilo.segmentation.learned_gin import HistFlow
from tests.aggregation_settings import aggregation_params


def normal(count, *, seed=0, scale=1.0, shift=0.0):
    return scale * torch.randn(count, generator=torch.Generator().manual_seed(seed)) + shift


class TestCoverage:
    def test_a_normal_latent_is_covered(self):
        assert latent_size.coverage(normal(100_000)) > 0.99

    @pytest.mark.parametrize(("scale", "shift"), [(0.3, 0.0), (1.0, 2.0), (0.05, 1.0)])
    def test_a_narrow_or_shifted_one_is_not(self, scale, shift):
        assert 0 < latent_size.coverage(normal(100_000, scale=scale, shift=shift)) < 0.7

    def test_one_bin_alone_gives_little_more_than_nothing(self):
        assert latent_size.coverage(torch.zeros(1_000_000)) < 0.01

    def test_is_one_over_one_plus_chi_square(self):
        latents = normal(5000, scale=0.6)
        shares = torch.special.ndtr(latents.double())
        counts = torch.tensor([int(((shares >= low / 64) & (shares < (low + 1) / 64)).sum()) for low in range(64)]) + 1.0
        met = counts / counts.sum()
        chi_square = (((1 / 64) - met) ** 2 / met).sum()

        assert latent_size.coverage(latents) == pytest.approx(float(1 / (1 + chi_square)), rel=1e-6)

    def test_nothing_breaks_far_out(self):
        assert 0 < latent_size.coverage(torch.tensor([-50.0, 50.0, 0.0])) <= 1


class TestDiversity:
    @staticmethod
    def features(count, spread=1.0, seed=0):
        return spread * torch.randn(count, 18, generator=torch.Generator().manual_seed(seed))

    def test_lies_between_one_and_the_number_of_cases(self):
        assert latent_size.diversity(self.features(7, spread=0.0)) == pytest.approx(1.0)
        assert latent_size.diversity(self.features(7, spread=50.0)) == pytest.approx(7.0)
        assert 1 < latent_size.diversity(self.features(7, spread=0.1)) < 7

    def test_doubling_every_case_changes_nothing(self):
        features = self.features(6, spread=0.15)

        assert latent_size.diversity(features.repeat(2, 1)) == pytest.approx(latent_size.diversity(features), rel=1e-6)

    def test_copies_of_one_case_never_count_as_new_ones(self):
        features = self.features(6, spread=10.0)

        assert latent_size.diversity(torch.cat([features, features[:1], features[:1]])) < latent_size.diversity(features)

    def test_order_does_not_matter(self):
        features = self.features(6, spread=0.15)

        assert latent_size.diversity(features.flip(0)) == pytest.approx(latent_size.diversity(features), rel=1e-9)


class TestSize:
    def test_kinds(self):
        made = LatentSize(num_cases=10, coverage=0.5, diversity=3.0)

        assert [made.size(kind) for kind in ("kish", "vendi", "product")] == [5.0, 3.0, 1.5]

    def test_is_rounded_before_it_leaves(self):
        assert LatentSize(num_cases=3, coverage=0.123456, diversity=1.0).size("kish") == 0.37

    def test_a_site_is_measured_on_held_out_cases_and_on_training_cases_if_there_are_none(self):
        def case(index, scale):
            image = scale * torch.randn(1, 4, 16, 16, generator=seeds.generator(1, "case", index))
            return LabelledCase(image, torch.zeros(4, 16, 16, dtype=torch.uint8), "CT")

        flow = HistFlow(generator=seeds.generator(1, "flow"))
        wide, narrow = [case(index, 1.0) for index in range(3)], [case(index, 0.2) for index in range(3, 5)]

        alone = latent_size.measure(flow, wide, [])
        held_out = latent_size.measure(flow, wide, narrow)

        assert (alone.num_cases, held_out.num_cases) == (3, 3)
        assert held_out.coverage < alone.coverage
        assert 1 <= alone.diversity <= held_out.diversity <= 5

    def test_an_empty_image_is_measured_too(self):
        case = LabelledCase(torch.zeros(1, 4, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8), "MR")

        made = latent_size.measure(HistFlow(generator=seeds.generator(1, "flow")), [case], [])

        assert 0 < made.coverage <= 1
        assert made.diversity == pytest.approx(1.0)


SIZES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 1e4), min_size=1)


class TestWeights:
    @given(sizes=SIZES)
    @settings(deadline=None)
    @pytest.mark.parametrize("rule", ["global", "balanced"])
    def test_sum_to_one_within_the_bounds(self, rule, sizes):
        modalities = {site: ("CT",) if site < "d" else ("MR", "CT") if site == "d" else ("MR",) for site in sizes}

        weights = latent_weights.weights(sizes, modalities, rule=rule)

        assert math.fsum(weights.values()) == pytest.approx(1.0, abs=1e-9)
        assert weights.keys() == sizes.keys()
        assert min(weights.values()) >= 1 / (4 * len(sizes)) - 1e-9
        assert max(weights.values()) <= 4 / len(sizes) + 1e-9

    @given(sizes=SIZES, factor=st.floats(0.1, 10))
    @settings(deadline=None)
    def test_the_scale_of_sizes_does_not_matter(self, sizes, factor):
        modalities = dict.fromkeys(sizes, ("CT",))

        first = latent_weights.weights(sizes, modalities, rule="global")
        other = latent_weights.weights({site: factor * size for site, size in sizes.items()}, modalities, rule="global")

        assert other == pytest.approx(first, rel=1e-6)

    def test_are_proportional_inside_the_bounds(self):
        weights = latent_weights.weights({"a": 1.0, "b": 3.0}, {"a": ("CT",), "b": ("MR",)}, rule="global")

        assert weights == pytest.approx({"a": 0.25, "b": 0.75})

    def test_balanced_gives_every_modality_the_same(self):
        sizes = {"ct-a": 5.0, "ct-b": 3.0, "mr-a": 2.0}
        modalities = {"ct-a": ("CT",), "ct-b": ("CT",), "mr-a": ("MR",)}

        weights = latent_weights.weights(sizes, modalities, rule="balanced")

        assert weights == pytest.approx({"ct-a": 5 / 16, "ct-b": 3 / 16, "mr-a": 1 / 2})

    def test_balanced_counts_a_site_with_both_in_each(self):
        weights = latent_weights.weights({"both": 2.0, "ct": 1.0}, {"both": ("CT", "MR"), "ct": ("CT",)}, rule="balanced")

        assert weights == pytest.approx({"both": 1 / 2 * 1 / 2 + 1 / 2, "ct": 1 / 4})

    def test_one_giant_is_held_back(self):
        sizes = {"giant": 1e6, **{f"s{index}": 1.0 for index in range(9)}}

        weights = latent_weights.weights(sizes, dict.fromkeys(sizes, ("CT",)), rule="global")

        assert weights["giant"] == pytest.approx(0.4)
        assert weights["s0"] == pytest.approx(0.6 / 9)

    def test_sizes_are_smoothed_and_start_at_the_first(self):
        first = latent_weights.smooth({"a": 4.0}, {}, history=0.9)
        second = latent_weights.smooth({"a": 14.0, "b": 1.0}, first, history=0.9)

        assert first == {"a": 4.0}
        assert second == pytest.approx({"a": 5.0, "b": 1.0})


def update(site, size):
    return SiteUpdate(
        site=site,
        round_index=0,
        base_sha256="0" * 64,
        num_cases=1,
        num_slices=1,
        train_loss=1.0,
        val_dice_global=None,
        val_dice_inside=None,
        latent_size=size,
        state={"w": torch.zeros(2)},
    )


@pytest.mark.parametrize("size", [None, 0.0, -1.0])
def test_a_site_without_a_size_cannot_be_weighted_by_it(size):
    with pytest.raises(UpdateRefusedError, match="latent_size"):
        aggregation.latent_sizes([update("a", 1.0), update("b", size)])


@pytest.mark.parametrize("weights", [{"a": 0.5}, {"a": 0.5, "c": 0.5}, {"a": 0.5, "b": 0.6}])
def test_a_step_refuses_weights_of_other_sites_or_another_sum(weights):
    with pytest.raises(ValueError, match="cannot weigh"):
        aggregation.step(
            {"w": torch.zeros(2)},
            [update("a", 1.0), update("b", 1.0)],
            weights=weights,
            roles={"w": "parameter"},
            params=aggregation_params(),
        )
