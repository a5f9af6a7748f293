"""Laws of the consistency of warped views: maps and their inverses, the loss, and what is left alone."""

import pytest
import torch
from monai.networks.nets import UNet
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.errors import RoutingError
from fedsilo.federation import states
from fedsilo.outside_params import DgTtaParams
from fedsilo.routing import dg_tta, pieces
from fedsilo.routing.pieces import Geometry

PARAMS = DgTtaParams(train="all", steps=3, learning_rate=1e-2, warp_sd=0.05)


def network(dims, norm="BATCH"):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251  # a fork of the global state, for a network whose weights do not matter
        return UNet(dims, 1, 3, channels=(4, 8), strides=(2,), norm=norm).double().eval()


def image(dims):
    size = (6, 16, 16) if dims == 2 else (16, 16, 16)
    return torch.randn((1, *size), generator=seeds.generator(0, "image"), dtype=torch.float64)


def run(dims, *, model=None, seed=0, **changes):
    model = model or network(dims)
    return dg_tta.adapt(
        model, states.snapshot(model), image(dims), params=PARAMS.model_copy(update=changes), batch_size=4,
        geometry=Geometry(dims, 2), generator=seeds.generator(seed, "dg_tta"), device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("dims", [2, 3])
def test_a_warp_and_its_inverse_cancel(dims):
    items = torch.zeros(5, 1, *(4,) * dims, dtype=torch.float64)
    warp = dg_tta.sample_warp(items, sd=0.1, generator=seeds.generator(0, "warp"))

    last = torch.tensor([[[0.0] * dims + [1.0]]], dtype=torch.float64).expand(5, 1, dims + 1)
    product = torch.cat([warp.forward, last], dim=1) @ torch.cat([warp.inverse, last], dim=1)

    assert_close(product, torch.eye(dims + 1, dtype=torch.float64).expand(5, -1, -1))
    assert len({tuple(matrix.flatten().tolist()) for matrix in warp.forward}) == 5


@pytest.mark.parametrize("dims", [2, 3])
def test_a_smooth_image_comes_back(dims):
    axes = [torch.linspace(-1, 1, 32, dtype=torch.float64)] * dims
    items = sum(torch.meshgrid(*axes, indexing="ij"))[None, None]
    warp = dg_tta.sample_warp(items, sd=0.03, generator=seeds.generator(0, "warp"))

    back = dg_tta.apply_warp(dg_tta.apply_warp(items, warp.forward), warp.inverse)

    inner = (slice(None), slice(None), *(slice(8, -8),) * dims)
    assert_close(back[inner], items[inner], rtol=1e-6, atol=1e-6)


def test_the_loss_is_zero_for_equal_and_one_for_disjoint_predictions():
    certain = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 1]]), 3).movedim(-1, 1).double()
    other = torch.nn.functional.one_hot(torch.tensor([[1, 2, 1, 0]]), 3).movedim(-1, 1).double()
    shown = torch.ones(1, 1, 4, dtype=torch.float64)

    assert float(dg_tta.disagreement(certain, certain, shown)) == pytest.approx(0, abs=1e-6)
    assert float(dg_tta.disagreement(certain, other, shown)) == pytest.approx(1, abs=1e-6)
    hidden = torch.tensor([[[0.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    changed = torch.cat([other[:, :, :1], certain[:, :, 1:]], dim=2)
    assert float(dg_tta.disagreement(certain, changed, hidden)) == pytest.approx(0, abs=1e-6)
    assert dg_tta.disagreement(certain.repeat(2, 1, 1), other.repeat(2, 1, 1), shown.repeat(2, 1, 1)) == pytest.approx(
        float(dg_tta.disagreement(certain, other, shown)), abs=1e-6
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_steps_bring_the_views_together(dims):
    model = network(dims)
    adapted = network(dims)
    states.restore(adapted, run(dims, model=model, steps=20))

    def apart(candidate):
        drawn = pieces.draw(image(dims), num_pieces=4, geometry=Geometry(dims, 2), generator=seeds.generator(9, "pieces"))
        generator = seeds.generator(9, "warps")
        total = 0.0
        for _ in range(4):
            (one, shown), (other, also) = (
                dg_tta.view(candidate, drawn.items, dg_tta.sample_warp(drawn.items, sd=0.05, generator=generator))
                for _ in range(2)
            )
            total += float(dg_tta.disagreement(one, other, shown * also))
        return total

    with torch.no_grad():
        assert apart(adapted) < apart(model)


@pytest.mark.parametrize("train", ["all", "norms"])
def test_what_is_trained_changes_and_nothing_else(train):
    model = network(2)
    before = states.snapshot(model)

    after = run(2, model=model, train=train)

    norms = {name for name in before if ".N." in name}
    for name, role in states.roles(model).items():
        trained = role == "parameter" and (train == "all" or name in norms) and not name.endswith("A.weight")
        if role != "parameter" or (train == "norms" and name not in norms):
            assert torch.equal(after[name], before[name]), name
        elif trained:
            assert not torch.equal(after[name], before[name]), name
    assert states.digest(states.snapshot(model)) == states.digest(before)


def test_two_runs_are_alike_and_another_generator_is_another_run():
    assert states.digest(run(2)) == states.digest(run(2))
    assert states.digest(run(2)) != states.digest(run(2, seed=1))


def test_nothing_to_train_is_refused():
    with pytest.raises(RoutingError, match="no parameters of norms to train"):
        run(2, model=network(2, "INSTANCE"), train="norms")


def test_a_loss_that_is_not_finite_is_refused():
    model = network(2)
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))

    with pytest.raises(RoutingError, match="the loss of step 0 is nan"):
        run(2, model=model)
