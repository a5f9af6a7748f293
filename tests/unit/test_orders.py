"""Orders: what a site checks before it touches its data."""

import json
from dataclasses import replace

import pytest
from round_scene import BEGIN, NOW, hex_of, key_record, later, signer

from fedsilo.audit import canonical
from fedsilo.audit.documents import Seen
from fedsilo.errors import DataError, OrderRefusedError
from fedsilo.federation import orders
from fedsilo.federation.manifests import Code
from fedsilo.federation.orders import Order, Standing

ROOTS = {10: f"sha256:{hex_of('ten lines')}"}
ORDER = Order(
    federation="demo",
    run="demo",
    site="site-a",
    round_index=4,
    ops=("train",),
    base_model=hex_of("base"),
    params_sha256=hex_of("params"),
    code=Code("0.1.0"),
    nonce=hex_of("nonce"),
    issued=later(NOW, minutes=-1),
    expires=later(NOW, days=7),
    checkpoint=Seen(10, ROOTS[10]),
)
STANDING = Standing(
    federation="demo",
    run="demo",
    site="site-a",
    register={
        signer("server").key: key_record("server", ("server",)),
        signer("site-b").key: key_record("site-b"),
        signer("old-server").key: key_record("old-server", ("server",), ends=later(NOW, days=-1)),
        signer("new-server").key: key_record("new-server", ("server",), begins=later(NOW, seconds=-30)),
        signer("revoked-server").key: key_record("revoked-server", ("server",), revoked_at=later(BEGIN, days=1)),
    },
    now=NOW,
    last_round=3,
    nonces=frozenset({hex_of("an earlier one")}),
    version="0.1.0",
    params_sha256=hex_of("params"),
    base_sha256=hex_of("base"),
    root_at=ROOTS.get,
)


def sent(order=ORDER, by="server"):
    return canonical.dumps(orders.issue(order, signer(by)))


def altered(**changes):
    return canonical.dumps({**json.loads(sent()), **changes})


def test_a_rightful_order_is_accepted():
    assert orders.accept(sent(), STANDING) == ORDER


def test_the_first_round_and_the_same_round_again_are_accepted():
    for last_round in (None, 4):
        assert orders.accept(sent(), replace(STANDING, last_round=last_round)) == ORDER


def test_a_server_that_lost_a_state_says_so_and_goes_back():
    behind = replace(ORDER, round_index=1, again=True)

    assert orders.accept(sent(behind), STANDING) == behind


REFUSALS = (
    ("form", b"[]", STANDING),
    ("form", b'{"type":"order"}', STANDING),
    ("form", json.dumps(json.loads(sent())).encode(), STANDING),
    ("form", altered(note="and more"), STANDING),
    ("form", altered(site="../site-a"), STANDING),
    ("form", altered(type="update"), STANDING),
    ("form", altered(again=False), STANDING),
    ("signature", sent(by="stranger"), STANDING),
    ("signature", altered(expires=later(NOW, days=8)), STANDING),
    ("signature", altered(sig="A" * 86 + "=="), STANDING),
    ("key", sent(by="site-b"), STANDING),
    ("key", sent(by="old-server"), STANDING),
    ("key", sent(by="new-server"), STANDING),
    ("key", sent(by="revoked-server"), STANDING),
    ("federation", sent(replace(ORDER, federation="kidneys")), STANDING),
    ("federation", sent(replace(ORDER, run="demo--s7")), STANDING),
    ("site", sent(replace(ORDER, site="site-b")), STANDING),
    ("round", sent(replace(ORDER, round_index=2)), STANDING),
    ("nonce", sent(replace(ORDER, nonce=hex_of("an earlier one"))), STANDING),
    ("expiry", sent(replace(ORDER, expires=NOW)), STANDING),
    ("expiry", sent(replace(ORDER, issued=later(NOW, days=8))), STANDING),
    ("ops", sent(replace(ORDER, ops=("train", "send-images"))), STANDING),
    ("code", sent(), replace(STANDING, version="0.2.0")),
    ("params", sent(), replace(STANDING, params_sha256=hex_of("others"))),
    ("base", sent(), replace(STANDING, base_sha256=hex_of("what arrived"))),
    ("checkpoint", sent(replace(ORDER, checkpoint=Seen(11, ROOTS[10]))), STANDING),
    ("checkpoint", sent(replace(ORDER, checkpoint=Seen(10, f"sha256:{hex_of('rewritten')}"))), STANDING),
)


@pytest.mark.parametrize(("check", "content", "standing"), REFUSALS)
def test_each_refusal_has_its_name(check, content, standing):
    with pytest.raises(OrderRefusedError, match=r"order to 'site-a': ") as refusal:
        orders.accept(content, standing)

    assert refusal.value.check == check


@pytest.mark.parametrize(("check", "content", "standing"), [entry for entry in REFUSALS if entry[0] != "form"])
def test_no_other_check_refuses_it(check, content, standing):
    left = [entry for entry in orders.CHECKS if entry[0] != check]
    if check == "signature" and content == sent(by="stranger"):  # nobody's key is no server's
        with pytest.raises(OrderRefusedError, match=r"\[key\] .*nobody"):
            orders.accept(content, standing, checks=left)
    else:
        assert orders.accept(content, standing, checks=left)


def test_every_check_has_a_refusal():
    assert {check for check, _, _ in REFUSALS} == {"form", *(name for name, _ in orders.CHECKS)}


def test_an_order_without_a_form_is_not_issued():
    with pytest.raises(DataError, match="cannot issue an order: site is"):
        orders.issue(replace(ORDER, site="../site-a"), signer("server"))


def test_nonces_differ():
    assert len({orders.nonce() for _ in range(100)}) == 100
