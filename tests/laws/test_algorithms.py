"""Laws of the federated algorithms: each is another one at a certain knob, and what is private stays private."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from fedsilo import seeds
from fedsilo.cohort import batches
from fedsilo.errors import StateMismatchError
from fedsilo.federation import algorithms, states
from fedsilo.federation.inside import fold
from fedsilo.segmentation import apfl, network, norm_statistics, training
from tests.algorithm_settings import algorithm_params
from tests.laws.test_training import fresh, params, stretch

ALL = ("fedavg", "fedprox", "fedbn", "silobn", "fedrep", "ditto", "apfl")
HEAD = {"model.2.conv.weight", "model.2.conv.bias"}


@pytest.fixture(scope="module")
def sites():
    """Two sites whose images differ."""
    made = {}
    for name, contrast in (("ct-a", 2.0), ("mr-a", -1.0)):
        cases = []
        for index in range(2):
            label = torch.zeros(4, 16, 16, dtype=torch.uint8)
            label[1:3, 4:10, 3 + index : 9 + index] = 1
            noise = torch.randn(1, 4, 16, 16, generator=seeds.generator(1, "case", name, index))
            cases.append(batches.LabelledCase(contrast * label[None] + 0.3 * noise, label, "MR"))
        made[name] = batches.site_data(cases, spatial_dims=2)
    return made


def start():
    return states.snapshot(fresh())


def turn(
    site, name="fedavg", *, server=None, private=None, round_index=0, epochs=1, initial_moments=None, settings=None, **knobs
):
    return algorithms.take_turn(
        fresh(),
        server=start() if server is None else server,
        private=private,
        algorithm=algorithm_params(name, **knobs),
        stretch=stretch(site, epochs=epochs, round_index=round_index, settings=settings or params(optimizer=optimizer("reset"))),
        initial_moments=initial_moments,
    )


def optimizer(kept):
    return params().optimizer.model_copy(update={"moments": kept})


def shifted(state, by=0.05):
    return {name: value + by if value.is_floating_point() else value for name, value in state.items()}


def distance(one, other):
    """Euclidean, over parameters."""
    return states.norm({name: one[name] - other[name] for name, _ in fresh().named_parameters()})


@pytest.mark.parametrize("local_epochs", [1, 3])
@pytest.mark.parametrize("name", ["ct-a", "mr-a"])
def test_a_fold_of_momentum_zero_is_the_global_model_fine_tuned(sites, name, local_epochs):
    """After two rounds of two sites: FedAvg, then ``local_epochs`` more at the site from the same draws, moments started anew."""
    first = {site: turn(data, epochs=local_epochs).local for site, data in sites.items()}
    server = states.weighted_average(list(first.values()), [2.0, 2.0], states.roles(fresh()))
    second = turn(sites[name], server=server, round_index=1, epochs=local_epochs).local

    finetuned = fresh()
    states.restore(finetuned, server)
    its = stretch(sites[name], epochs=local_epochs, round_index=1, settings=params(optimizer=optimizer("reset")))
    training.train(finetuned, its)

    assert states.digest(fold(first[name], second, momentum=0.0)) == states.digest(states.snapshot(finetuned))
    assert states.digest(fold(first[name], second, momentum=0.1)) != states.digest(states.snapshot(finetuned))


def test_fedprox_without_a_pull_is_fedavg(sites):
    assert states.digest(turn(sites["ct-a"], "fedprox", fedprox_mu=0.0).local) == states.digest(turn(sites["ct-a"]).local)


def test_the_harder_the_pull_the_nearer_a_site_stays(sites):
    distances = [distance(turn(sites["ct-a"], "fedprox", fedprox_mu=mu).local, start()) for mu in (0.0, 1.0, 100.0)]

    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.9 * distances[0]  # AdamW's steps have one length, whatever pulls


def test_the_pull_is_the_gradient_of_its_penalty(sites):
    """Against a loop that adds mu/2 ||u - w||^2 to the loss and lets autograd differentiate it."""
    anchor, weight = shifted(start()), 0.3
    pulled, oracle = fresh(), fresh()
    its = stretch(sites["ct-a"])
    training.train(pulled, its, pull=training.Pull(anchor, weight))

    steps, lesson = training.make_optimizer(oracle, its), training.Lesson(oracle, its)
    oracle.train()
    for batch in training.prepare(its, device=torch.device("cpu")):
        steps.zero_grad()
        penalty = sum((value - anchor[name]).square().sum() for name, value in oracle.named_parameters())
        (lesson.loss(oracle, batch) + weight / 2 * penalty).backward()
        steps.step()

    for name, value in oracle.state_dict().items():
        assert_close(pulled.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", ["reset", "keep"])
def test_ditto_without_a_pull_is_training_alone(sites, kept):
    """Two rounds, between which the global model moves: the site's own model does not notice."""
    settings = params(optimizer=optimizer(kept))
    first = turn(sites["ct-a"], "ditto", ditto_lambda=0.0, settings=settings)
    second = turn(
        sites["ct-a"], "ditto", server=shifted(start()), private=first.private, round_index=1, ditto_lambda=0.0, settings=settings
    )

    alone = fresh()
    trained = training.train(alone, stretch(sites["ct-a"], settings=settings))
    training.train(
        alone,
        stretch(sites["ct-a"], round_index=1, settings=settings),
        initial_moments=trained.moments if kept == "keep" else None,
    )

    assert states.digest(second.personal) == states.digest(states.snapshot(alone))


def test_ditto_s_local_model_is_fedavg_s(sites):
    assert states.digest(turn(sites["ct-a"], "ditto").local) == states.digest(turn(sites["ct-a"]).local)


def test_ditto_pulls_its_model_to_the_received_one(sites):
    server = shifted(start())
    first = turn(sites["ct-a"], "ditto")
    distances = []
    for pull in (0.0, 10.0, 1000.0):
        later = turn(sites["ct-a"], "ditto", server=server, private=first.private, round_index=1, ditto_lambda=pull)
        distances.append(distance(later.personal, server))

    assert distances == sorted(distances, reverse=True)


def test_apfl_that_uses_only_its_own_model_is_training_alone(sites):
    first = turn(sites["ct-a"], "apfl", apfl_mix=1.0, apfl_mix_rate=0.0)
    second = turn(
        sites["ct-a"], "apfl", server=shifted(start()), private=first.private, round_index=1, apfl_mix=1.0, apfl_mix_rate=0.0
    )

    alone = fresh()
    for round_index in range(2):
        training.train(alone, stretch(sites["ct-a"], round_index=round_index))

    assert states.digest(second.personal) == states.digest(states.snapshot(alone))


def test_apfl_that_uses_only_the_local_model_is_fedavg(sites):
    plain = turn(sites["ct-a"])
    mixed = turn(sites["ct-a"], "apfl", apfl_mix=0.0, apfl_mix_rate=0.0)

    assert states.digest(mixed.local) == states.digest(plain.local)
    for name, _ in fresh().named_parameters():
        assert torch.equal(mixed.personal[name], plain.local[name])


def test_the_mix_moves_against_the_slope_of_the_mixture_s_loss(sites):
    """One step; the slope by autograd through the mixture."""
    its = stretch(sites["ct-a"], settings=params(batch_size=8))
    local, personal, mixed = fresh(), fresh(), fresh()
    states.restore(personal, shifted(start(), 0.02))
    mix = torch.tensor(0.4, requires_grad=True)
    (batch,) = training.prepare(its, device=torch.device("cpu"))
    pairs = zip(local.named_parameters(), personal.parameters(), strict=True)
    blended = {name: mix * own.detach() + (1 - mix) * value.detach() for (name, value), own in pairs}

    class Blended(nn.Module):
        def forward(self, images):
            return functional_call(fresh().train(), blended, (images,))

    training.Lesson(local, its).loss(Blended(), batch).backward()
    trained = apfl.train(local, personal, mixed, its, mix=0.4, mix_rate=0.1)

    assert trained.num_steps == 1
    assert trained.mix == pytest.approx(0.4 - 0.1 * float(mix.grad), rel=1e-4)
    for (name, value), own in zip(local.named_parameters(), personal.parameters(), strict=True):
        assert_close(dict(mixed.named_parameters())[name], trained.mix * own + (1 - trained.mix) * value, rtol=1e-4, atol=1e-6)


def test_the_mix_stays_a_share(sites):
    for rate in (1e6, -1e6):
        private = turn(sites["ct-a"], "apfl").private
        trained = turn(sites["ct-a"], "apfl", private=private, round_index=1, apfl_mix_rate=rate)
        assert 0 <= float(trained.private["mix"]) <= 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fedavg", set()),
        ("fedprox", set()),
        ("ditto", set()),
        ("apfl", set()),
        ("fedrep", HEAD),
        ("silobn", {"running_mean", "running_var", "num_batches_tracked"}),
        ("fedbn", {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}),
    ],
)
def test_what_is_private_is_found_by_the_kind_of_layer(name, expected):
    model = fresh()
    norms = {prefix for prefix, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    wanted = expected if name == "fedrep" else {f"{prefix}.{entry}" for prefix in norms for entry in expected}

    assert algorithms.private_entries(model, algorithm_params(name)) == wanted
    assert model.training


@pytest.mark.parametrize("name", ["fedbn", "silobn"])
def test_a_network_without_such_layers_is_refused(name):
    with pytest.raises(StateMismatchError, match=f"{name} needs layers that Conv2d does not have"):
        algorithms.private_entries(nn.Conv2d(1, 2, 1), algorithm_params(name))


@pytest.mark.parametrize("name", ["fedbn", "silobn", "fedrep"])
def test_two_rounds_leave_what_is_private_where_it_is(sites, name):
    names = algorithms.private_entries(fresh(), algorithm_params(name))
    roles, server = states.roles(fresh()), start()
    private = dict.fromkeys(sites)
    for round_index in range(2):
        sent = []
        for site, data in sites.items():
            made = turn(data, name, server=server, private=private[site], round_index=round_index)
            private[site] = made.private
            sent.append(algorithms.withhold(made.local, server, names))
            assert all(torch.equal(sent[-1][entry], server[entry]) for entry in names)
            assert all(torch.equal(made.private[entry], made.local[entry]) for entry in names)
        server = states.weighted_average(sent, [1.0, 1.0], roles)

    first = start()
    assert all(torch.equal(server[entry], first[entry]) for entry in names)
    held = {site: algorithms.hold(server, private[site], names) for site in sites}
    for entry, value in held["ct-a"].items():
        own = entry in names
        assert torch.equal(value, held["mr-a"][entry]) != own or torch.equal(private["ct-a"][entry], private["mr-a"][entry])
        assert torch.equal(value, (private["ct-a"] if own else server)[entry])


def test_a_site_that_goes_on_starts_from_its_own_private_entries(sites):
    first = turn(sites["ct-a"], "fedbn")
    with_own = turn(sites["ct-a"], "fedbn", private=first.private, round_index=1)
    without = turn(sites["ct-a"], "fedbn", round_index=1)

    assert states.digest(with_own.local) != states.digest(without.local)


def test_fedrep_trains_the_head_with_the_body_frozen_and_the_body_with_the_head_frozen(sites):
    body = {name for name, _ in fresh().named_parameters()} - HEAD
    for trainable, frozen in ((HEAD, body), (body, HEAD)):
        model, before = fresh(), start()
        training.train(model, stretch(sites["ct-a"]), trainable=trainable)
        after = states.snapshot(model)
        assert all(torch.equal(after[name], before[name]) for name in frozen)
        assert not any(torch.equal(after[name], before[name]) for name in trainable)
        assert all(parameter.requires_grad for parameter in model.parameters())

    model, before = fresh(), start()
    training.train(model, stretch(sites["ct-a"]), trainable=HEAD)
    after = states.snapshot(model)
    assert all(torch.equal(after[name], before[name]) for name in after if name not in HEAD)


def test_the_head_is_the_layer_that_is_called_last():
    assert network.output_layer(fresh()) == "model.2.conv"
    reversed_order = nn.ModuleDict({"last": nn.Conv2d(1, 2, 1), "first": nn.Conv2d(1, 1, 1)})
    reversed_order.forward = lambda image: reversed_order["last"](reversed_order["first"](image))

    assert network.output_layer(reversed_order) == "last"


@pytest.mark.parametrize("name", ALL)
def test_nothing_given_is_modified_and_sites_share_no_memory(sites, name):
    server = start()
    digest = states.digest(server)
    model = fresh()
    made = {}
    for site, data in sites.items():
        private = turn(data, name).private or None
        before = None if private is None else states.digest(private)
        made[site] = algorithms.take_turn(
            model, server=server, private=private, algorithm=algorithm_params(name), stretch=stretch(data, round_index=1)
        )
        assert before is None or states.digest(private) == before
    assert states.digest(server) == digest

    def memory(result):
        tensors = [*result.local.values(), *(result.personal or {}).values()]
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    assert not memory(made["ct-a"]) & memory(made["mr-a"])
    assert not memory(made["ct-a"]) & {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


@pytest.mark.parametrize("name", ALL)
def test_a_turn_is_a_function_of_what_it_is_given(sites, name):
    results = [turn(sites["mr-a"], name) for _ in range(2)]

    for state in ("local", "private", "personal"):
        digests = {states.digest(getattr(result, state) or {}) for result in results}
        assert len(digests) == 1


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedbn", "silobn", "fedrep", "apfl"])
def test_moments_go_on(sites, name):
    settings = params(optimizer=optimizer("keep"))
    first = turn(sites["ct-a"], name, settings=settings)
    on = turn(sites["ct-a"], name, private=first.private, initial_moments=first.moments, round_index=1, settings=settings)
    anew = turn(sites["ct-a"], name, private=first.private, round_index=1, settings=settings)

    assert states.digest(on.local) != states.digest(anew.local)
    assert any(key.endswith(".exp_avg") for key in on.moments)


def test_an_outside_site_gets_the_average_of_what_is_private():
    server = {"w": torch.zeros(1), "norm.running_mean": torch.zeros(1), "norm.running_var": torch.ones(1)}
    roles = {"w": "parameter", "norm.running_mean": "norm_mean", "norm.running_var": "norm_variance"}
    names = frozenset({"norm.running_mean", "norm.running_var"})
    private = [
        {"w": torch.full((1,), 9.0), "norm.running_mean": torch.tensor([mean]), "norm.running_var": torch.tensor([1.0])}
        for mean in (0.0, 4.0)
    ]

    outside = algorithms.for_outside(server, private, [3.0, 1.0], roles, names)

    assert float(outside["w"]) == 0
    assert float(outside["norm.running_mean"]) == 1
    assert float(outside["norm.running_var"]) == 1 + 0.75 * 1 + 0.25 * 9
    assert states.digest(algorithms.for_outside(server, private, [3.0, 1.0], roles, frozenset())) == states.digest(server)


def test_measuring_statistics_anew_changes_nothing_else_and_forgets_what_was(sites):
    data = sites["ct-a"]
    digests = set()
    for factor in (1.0, 5.0):
        model = fresh()
        model.eval()
        with torch.no_grad():
            for value in model.buffers():
                if value.is_floating_point():
                    value.mul_(factor)
        before = states.snapshot(model)
        norm_statistics.recompute(model, data.cases, spatial_dims=2, divisor=1, batch_size=3, device="cpu")
        after = states.snapshot(model)
        assert all(torch.equal(after[name], before[name]) for name, role in states.roles(model).items() if role == "parameter")
        assert not model.training
        digests.add(states.digest(after))

    assert len(digests) == 1


def test_statistics_measured_anew_are_those_of_the_images(sites):
    data = sites["mr-a"]
    model = nn.Sequential(nn.BatchNorm2d(1))
    norm_statistics.recompute(model, data.cases, spatial_dims=2, divisor=1, batch_size=4, device="cpu")

    values = [case.image for case in data.cases]
    assert float(model[0].running_mean) == pytest.approx(float(torch.stack(values).mean()), rel=1e-5)
    assert float(model[0].running_var) == pytest.approx(sum(float(value.var()) for value in values) / 2, rel=1e-5)
