"""The attack table: each attack is refused by the check that is there for it, and without that check by none or by a later one."""

import json
import struct
from dataclasses import dataclass

import pytest
import round_scene
import torch
from round_scene import HOSTILE, LIMITS, NOW, ROUND, SITES, Scene, hex_of, key_record, later, signer, trained

from fedsilo.audit import canonical
from fedsilo.federation import admission, comparisons, states
from fedsilo.federation.admission import CHECKS, History
from fedsilo.federation.comparisons import Peers
from fedsilo.federation.manifests import MAX_BYTES, Metrics

PICKLE = b"cos\nsystem\n(S'touch hacked'\ntR."
"""A program in a file of weights: whoever unpickled it would run a shell command."""


def resend(scene, **options):
    scene.send(HOSTILE, **options)


def altered(scene, name, change):
    """An honest state with one entry changed."""
    state = trained(scene.base, HOSTILE)
    return {**state, name: change(state[name])}


def away(scene, factor):
    """A state that moved by a multiple of the honest delta."""
    honest = trained(scene.base, HOSTILE)
    return {
        name: tensor + factor * (honest[name] - tensor) if round_scene.ROLES[name] == "parameter" else honest[name]
        for name, tensor in scene.base.items()
    }


def with_value(tensor, value):
    changed = tensor.clone()
    changed.view(-1)[0] = value
    return changed


def safetensors_bytes(scene, **changes):
    """The honest file, taken apart: header, data."""
    path = scene.folder / "honest.safetensors"
    states.save(trained(scene.base, HOSTILE), path)
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def padded(scene):
    """A header of five million spaces, in a file that is no larger than it may be."""
    scene.base_bytes = 8 << 20
    header, data = safetensors_bytes(scene)
    text = json.dumps(header).encode() + b" " * (5 << 20)
    return struct.pack("<Q", len(text)) + text + data


def with_text(scene):
    header, data = safetensors_bytes(scene)
    return joined({"__metadata__": {"patient": "Doe"}, **header}, data)


def large_manifest(record):
    fields = {key: value for key, value in record.items() if key not in ("key", "sig", "type")} | {"note": "x" * MAX_BYTES}
    fields |= {"type": "update", "key": record["key"]}
    return canonical.dumps({**fields, "sig": signer(HOSTILE).sign(b"fedsilo-update/v1\0", fields)})


def foreign_key(scene, name, **changes):
    """Let the hostile site's key in the register be another."""
    scene.register[signer(HOSTILE).key] = key_record(HOSTILE, **changes)
    resend(scene)


def revoke(scene):
    foreign_key(scene, HOSTILE, revoked_at=later(NOW, days=-1))


def drip(scene):
    """Lean the same way in every round, no further than the others move."""
    lean = torch.Generator().manual_seed(77)
    leaning = {name: torch.randn(scene.base[name].shape, generator=lean) for name in ("layer.weight", "norm.weight")}

    def hostile(round_index):
        honest = trained(scene.base, HOSTILE, round_index)
        return {**honest, **{name: honest[name] + 0.015 * value for name, value in leaning.items()}}

    sums, num_rounds = {}, {}
    for round_index in range(ROUND):
        by_site = {site: trained(scene.base, site, round_index) for site in SITES} | {HOSTILE: hostile(round_index)}
        peers = Peers(scene.base, by_site, round_scene.ROLES, sums)
        sums = {site: comparisons.drift_sum(peers, site) for site in SITES}
        num_rounds = dict.fromkeys(SITES, round_index + 1)
    scene.history = History(sums, num_rounds)
    resend(scene, state=hostile(ROUND))


@dataclass(frozen=True)
class Attack:
    """What is done, the check that refuses it, and the one that refuses it without that check, or the error that it would cause."""

    name: str
    check: str
    act: object
    later: str | None = None


def weights(content):
    return lambda scene: resend(scene, weights=content(scene))


def state(make):
    return lambda scene: resend(scene, state=make(scene))


def says(**said):
    return lambda scene: resend(scene, **said)


def lacking(record, name):
    return canonical.dumps({key: value for key, value in record.items() if key != name})


def lacking_entry(scene):
    return {name: tensor for name, tensor in trained(scene.base, HOSTILE).items() if name != "norm.weight"}


def swap(scene):
    states.save(away(scene, 1.5), scene.folder / f"{HOSTILE}.safetensors")


ATTACKS = (
    Attack("no weights", "size", lambda scene: (scene.folder / f"{HOSTILE}.safetensors").unlink(), "file-hash"),
    Attack("a flood of bytes", "size", weights(lambda scene: b"\0" * (2 * scene.base_bytes)), "header"),
    Attack("oversize manifest", "manifest", says(change=large_manifest)),
    Attack("manifest with spaces", "manifest", says(change=lambda record: json.dumps(record, sort_keys=True).encode())),
    Attack("manifest that is none", "manifest", says(change=lambda record: b"[]"), "manifest"),
    Attack("manifest that lacks its nonce", "manifest", says(change=lambda record: lacking(record, "nonce")), "manifest"),
    Attack("path in the site's name", "manifest", says(site="../site-a"), "manifest"),
    Attack("a key twice", "manifest", says(change=lambda record: canonical.dumps(record)[:-1] + b',"round":0}'), "manifest"),
    Attack("unknown key", "signature", says(by="stranger"), "membership"),
    Attack("forged signature", "signature", says(change=lambda record: canonical.dumps({**record, "sig": "A" * 86 + "=="}))),
    Attack(
        "signature over another manifest", "signature", says(change=lambda record: canonical.dumps({**record, "num_cases": 20}))
    ),
    Attack("signed by another site", "membership", says(by="site-b")),
    Attack("signed by the server", "membership", says(by="server")),
    Attack("another site's update in its place", "membership", lambda scene: resend(scene, by="site-b", site="site-b")),
    Attack("not yet valid key", "key-validity", lambda scene: foreign_key(scene, HOSTILE, begins=later(NOW, days=1))),
    Attack("expired key", "key-validity", lambda scene: foreign_key(scene, HOSTILE, ends=later(NOW, seconds=-1))),
    Attack("revoked key", "key-validity", revoke),
    Attack("wrong federation", "federation", says(federation="kidneys")),
    Attack("another run of the federation", "federation", says(run="demo--s7")),
    Attack(
        "replay of an older round", "round", says(round_index=ROUND - 1, nonce=hex_of("old"), order_sha256=hex_of("old")), "nonce"
    ),
    Attack("stale round under the new order", "round", says(round_index=ROUND - 1)),
    Attack("round ahead", "round", says(round_index=ROUND + 1)),
    Attack("answer to no order", "nonce", says(nonce=hex_of("made up"))),
    Attack("answer to another site's order", "nonce", says(nonce=hex_of("nonce site-a"), order_sha256=hex_of("order site-a"))),
    Attack("expired", "expiry", says(expires=later(NOW, seconds=-1))),
    Attack("signed in the future", "expiry", says(created=later(NOW, hours=1))),
    Attack("zero cases", "cases", says(num_cases=0)),
    Attack("negative cases", "cases", says(num_cases=-5)),
    Attack("forged number of cases", "cases", says(num_cases=10**6)),
    Attack("forged number of slices", "cases", says(num_slices=10**9)),
    Attack("forged latent size", "cases", says(metrics=Metrics("0.5", latent_size="1000000.0"))),
    Attack("wrong base", "base", says(base_model=hex_of("another state"))),
    Attack("duplicate with other content", "duplicate", lambda scene: scene.ask(HOSTILE, first_sha256=hex_of("the first"))),
    Attack("weights swapped after signing", "file-hash", swap),
    Attack("truncated file", "header", weights(lambda scene: joined(*safetensors_bytes(scene))[:-1]), "schema"),
    Attack("trailing bytes", "header", weights(lambda scene: joined(*safetensors_bytes(scene)) + b"\0"), "schema"),
    Attack(
        "pickle in place of safetensors",
        "header",
        weights(lambda scene: PICKLE),
        "schema",
    ),
    Attack("oversize header", "header", weights(padded), "schema"),
    Attack("header that lies about its length", "header", weights(lambda scene: struct.pack("<Q", 2**62) + b"{}"), "schema"),
    Attack("text beside the entries", "header", weights(with_text), "schema"),
    Attack("empty file", "header", weights(lambda scene: b""), "schema"),
    Attack("no entries", "header", state(lambda scene: {}), "schema"),
    Attack("extra tensor", "schema", state(lambda scene: {**trained(scene.base, HOSTILE), "images": torch.zeros(9)})),
    Attack("missing tensor", "schema", state(lacking_entry), KeyError),
    Attack("wrong shape", "schema", state(lambda scene: altered(scene, "norm.weight", lambda tensor: tensor[:1]))),
    Attack("wrong dtype", "schema", state(lambda scene: altered(scene, "norm.weight", torch.Tensor.double))),
    Attack("NaN", "finite", state(lambda scene: altered(scene, "layer.weight", lambda tensor: with_value(tensor, torch.nan)))),
    Attack(
        "infinity",
        "finite",
        state(lambda scene: altered(scene, "layer.weight", lambda tensor: with_value(tensor, torch.inf))),
        "norm",
    ),
    Attack(
        "NaN in a running mean",
        "finite",
        state(lambda scene: altered(scene, "norm.running_mean", lambda tensor: tensor * torch.nan)),
    ),
    Attack("NaN loss", "finite", says(metrics=Metrics("nan"))),
    Attack("infinite Dice", "finite", says(metrics=Metrics("0.5", "inf"))),
    Attack(
        "negative variance",
        "buffers",
        state(lambda scene: altered(scene, "norm.running_var", lambda tensor: with_value(tensor, -0.01))),
    ),
    Attack(
        "zero variance",
        "buffers",
        state(lambda scene: altered(scene, "norm.running_var", lambda tensor: with_value(tensor, 0.0))),
    ),
    Attack(
        "counter that falls",
        "buffers",
        state(lambda scene: altered(scene, "norm.num_batches_tracked", lambda tensor: tensor * 0)),
    ),
    Attack(
        "counter at its end",
        "buffers",
        state(lambda scene: altered(scene, "norm.num_batches_tracked", lambda tensor: tensor * 0 + 2**62)),
    ),
    Attack("scaled", "norm", state(lambda scene: away(scene, 100))),
    Attack("huge norm", "norm", state(lambda scene: altered(scene, "layer.weight", lambda tensor: tensor + 1e30))),
    Attack(
        "running means far off", "norm", state(lambda scene: altered(scene, "norm.running_mean", lambda tensor: tensor + 1e6))
    ),
    Attack(
        "running variances far off", "norm", state(lambda scene: altered(scene, "norm.running_var", lambda tensor: tensor + 1e6))
    ),
    Attack("sign flip, scaled", "norm", state(lambda scene: away(scene, -100)), "cosine"),
    Attack("sign flip", "cosine", state(lambda scene: away(scene, -1))),
    Attack("slow drip over rounds", "drip", drip),
)


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_honest_updates_are_all_admitted_and_stay_in_their_files(scene):
    verdict = scene.admit()

    assert verdict.refused == {}
    assert tuple(verdict.admitted) == SITES
    assert verdict.compared
    update = verdict.admitted["site-a"]
    assert (update.num_cases, update.train_loss, update.val_dice_global, update.val_dice_inside) == (12, 0.5, 0.75, None)
    assert states.digest(update.state) == states.digest(trained(scene.base, "site-a"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_each_attack_is_refused_by_its_check(scene, attack):
    attack.act(scene)

    verdict = scene.admit()

    assert {site: refusal.check for site, refusal in verdict.refused.items()} == {HOSTILE: attack.check}
    assert tuple(verdict.admitted) == SITES[:-1]
    assert verdict.refused[HOSTILE].reason.isprintable()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_without_its_check_an_attack_passes_or_meets_a_later_one(scene, attack):
    attack.act(scene)
    if isinstance(attack.later, type):
        with pytest.raises(attack.later):
            scene.admit(CHECKS.without(attack.check))
        return

    verdict = scene.admit(CHECKS.without(attack.check))

    found = verdict.refused.get(HOSTILE)
    assert (found.check if found else None) == attack.later
    assert set(verdict.refused) <= {HOSTILE}


def test_the_same_update_again_is_no_other(scene):
    scene.ask(HOSTILE, first_sha256=scene.manifest(HOSTILE).file_sha256)

    assert scene.admit().refused == {}


def test_what_a_hostile_site_does_to_the_mean_is_not_held_against_the_others(tmp_path):
    """Of three sites one pulls the other way: each honest site disagrees with the mean of the others, until the hostile one is out."""
    scene = Scene(tmp_path, ("site-a", "site-b", HOSTILE))
    resend(scene, state=away(scene, -5))
    peers = Peers(scene.base, {site: claim_state(scene, site) for site in scene.sites}, round_scene.ROLES, {})
    assert all(value < scene.limits.min_cosine for value in comparisons.cosines(peers).values())

    verdict = scene.admit()

    assert {site: refusal.check for site, refusal in verdict.refused.items()} == {HOSTILE: "cosine"}


def claim_state(scene, site):
    return states.load(scene.folder / f"{site}.safetensors")


def test_two_sites_are_not_compared(tmp_path):
    scene = Scene(tmp_path, ("site-a", HOSTILE))
    resend(scene, state=away(scene, -100))

    verdict = scene.admit()

    assert verdict.refused == {}
    assert not verdict.compared


def test_a_comparison_can_be_left_out(scene):
    scene.limits = LIMITS.model_copy(
        update={"max_norm_ratio": None, "max_statistics_ratio": None, "min_cosine": None, "max_drift_ratio": None}
    )
    resend(scene, state=away(scene, -100))

    assert scene.admit().refused == {}


def test_drift_is_judged_from_the_set_round_on(scene):
    drip(scene)
    scene.limits = LIMITS.model_copy(update={"drift_rounds": ROUND + 2})

    assert scene.admit().refused == {}


def test_comparisons_are_what_their_formulas_say(scene):
    by_site = {site: claim_state(scene, site) for site in SITES}
    peers = Peers(scene.base, by_site, round_scene.ROLES, {})
    names = ("layer.weight", "norm.weight")
    flat = {
        site: torch.cat([(state[name].double() - scene.base[name].double()).flatten() for name in names])
        for site, state in by_site.items()
    }
    others = {site: torch.stack([flat[other] for other in SITES if other != site]) for site in SITES}

    cosines, norms = comparisons.cosines(peers), comparisons.norm_ratios(peers)["parameters"]
    for site in SITES:
        mean = others[site].mean(0)
        usual = others[site].norm(dim=1).quantile(0.5)
        assert cosines[site] == pytest.approx(float(flat[site] @ mean / flat[site].norm() / mean.norm()))
        assert norms[site] == pytest.approx(float(flat[site].norm() / usual))
        assert comparisons.drift_sum(peers, site)["norm.weight"].shape == (40,)
    away_from = {site: float((flat[site] - others[site].mean(0)).norm()) for site in SITES}
    assert comparisons.drift_ratios(peers) == pytest.approx(comparisons.ratios(away_from))


def test_every_check_has_an_attack():
    assert {attack.check for attack in ATTACKS} == set(admission.NAMES)
    assert len(ATTACKS) >= 25
