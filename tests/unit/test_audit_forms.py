"""Canonical form, forms of records, signing keys."""

import base64
import json
import os
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsilo.audit import canonical, events, forms, keys, register
from fedsilo.audit.events import Draft, Environment, Event, Subject, Why
from fedsilo.errors import DataError, OutputError
from tests import audit_story as tale

texts = st.text(st.characters(exclude_categories=("C", "Z")), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcde"), inner, max_size=3),
    max_leaves=12,
)


class TestCanonicalForm:
    @given(st.dictionaries(st.text("abcxyz_", min_size=1), values, max_size=5))
    def test_a_record_has_one_form_which_reads_back(self, record):
        if canonical.flaw(record) is None:
            written = canonical.dumps(record)
            assert canonical.loads(written) == record
            assert canonical.dumps(dict(reversed(record.items()))) == written
            assert canonical.dumps(canonical.loads(json.dumps(record, indent=3).encode())) == written

    def test_the_form_by_eye(self):
        assert canonical.dumps({"b": [True, None, -3], "a": {"z": '\u00e9\u2028"', "y": ""}}) == (
            b'{"a":{"y":"","z":"\\u00e9\\u2028\\""},"b":[true,null,-3]}'
        )

    @pytest.mark.parametrize(
        "content", [b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b"[1]", b"1", b"", b"{", b'{"a":1}x', "{\"a\":\"é\"}".encode(), b"\xff",
                    b'\xef\xbb\xbf{"a":1}', b'{"a":' + b"[" * 100_000]
    )  # fmt: skip
    def test_what_is_no_object_is_refused(self, content):
        with pytest.raises(DataError, match=r"no JSON in ASCII|expected a JSON object"):
            canonical.loads(content)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (0.5, "is a float"),
            (float("nan"), "is a float"),
            (2**53, "a number of 54 bits"),
            (-(2**53), "a number of 54 bits"),
            ("a\tb", "does not print"),
            ("\ud800", "does not print"),
            ("\u202e", "does not print"),
            ("\u200b", "does not print"),
            ("\U000e0041", "does not print"),
            ("\x9b" * 10_000, "does not print"),
            ({"\u00e9": 1}, "is not of printable ASCII"),
            ({1: 1}, "is not of printable ASCII"),
            ({"a\n": 1}, "is not of printable ASCII"),
            ((1,), "is a tuple"),
            ([[[[[[[[["deep"]]]]]]]]], "nested more than 8 deep"),
        ],
    )
    def test_what_has_no_form_is_named_however_deep(self, value, reason):
        assert reason in canonical.flaw({"a": [value]})
        assert len(canonical.flaw({"a": [value]})) < 150

    @pytest.mark.parametrize("value", [2**53 - 1, 1 - 2**53, "Zo\u00eb \u5f20", [[[[[["deep"]]]]]], True, None, {}, "\U0001fae9"])
    def test_what_has_one_passes(self, value):
        assert canonical.flaw({"a": value}) is None


class TestForms:
    def test_a_record_goes_to_json_and_back(self):
        draft = Draft("incident", Why("1", "because"), subject=Subject("data", "x"), env=Environment(dirty=False))

        plain = forms.plain(draft)

        assert plain == {
            "event": "incident",
            "why": {"request": "1", "text": "because"},
            "subject": {"kind": "data", "name": "x"},
            "env": {"dirty": False},
        }
        assert forms.build(Draft, plain) == draft

    @pytest.mark.parametrize("name", [place.name for place in forms.places(Event) if place.required])
    def test_what_must_be_there_is_missed(self, name):
        record = json.loads(tale.opened().lines[0])
        del record[name]

        assert forms.flaw(Event, record) == f"{name} is missing"

    @pytest.mark.parametrize("name", [place.name for place in forms.places(Event)])
    @pytest.mark.parametrize("value", [None, 7.5, [], {}, -1, "", "x" * 2000, [None], {"a": 1}])
    def test_no_field_takes_anything(self, name, value):
        record = {**json.loads(tale.opened().lines[0]), name: value}

        document = name == "attached" and isinstance(value, dict)  # its type says what it must be
        assert document or forms.flaw(Event, record).startswith((name, f"{name}."))

    @pytest.mark.parametrize(
        ("form", "good", "bad"),
        [
            (forms.IDENTIFIER, ["a", "site-a", "curvas_ct"], ["A", "1a", "-a", "a b", "a" * 41, "a\n", "\u00e9"]),
            (forms.HASH, [f"sha256:{'0' * 64}"], ["0" * 64, f"sha256:{'0' * 63}", f"sha256:{'A' * 64}", f"sha256:{'0' * 64}\n"]),
            (forms.KEY, [f"ed25519:{'0' * 32}"], [f"ed25519:{'0' * 31}", "ed25519:", 3]),
            (forms.TIME, ["2026-01-01T00:00:00.000000Z"], ["2026-01-01T00:00:00Z", "2026-01-01T24:00:00.000000Z", "2026-13-01T00:00:00.000000Z",
                                                           "\u0662026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000000+00:00"]),
            (forms.COUNT, [0, 7], [-1, True, "1", 1.0]),
            (forms.PUBLIC, ["A" * 43 + "="], ["A" * 43, "A" * 42 + "B=", "A" * 44, "A" * 42 + "\u00e9="]),
            (forms.SIGNATURE, ["A" * 86 + "=="], ["A" * 85 + "B==", "A" * 88, "", "====", None]),
            (forms.LOG, ["demo/federation"], ["demo", "demo/", "/demo", "demo/a/b", "demo/../a"]),
            (forms.COMMIT, ["a" * 40, "a" * 64], ["a" * 41, "HEAD"]),
            (forms.SHORT, ["x", "x" * 200], ["", "x" * 201]),
        ],
    )  # fmt: skip
    def test_forms_take_what_they_say(self, form, good, bad):
        fits = form["form"].fits
        assert all(map(fits, good))
        assert not any(map(fits, bad))

    def test_every_field_of_every_record_has_a_form(self):
        from fedsilo.audit import checkpoints, documents, founding, proofs

        records = {Event, checkpoints.Checkpoint, founding.Founding, proofs.Proof, documents.Envelope, register.Anchor}
        records |= {kind.record for kind in documents.TYPES.values()}
        for record in records:
            for place in forms.places(record):
                assert (place.form is None) != (place.part is None), f"{record.__name__}.{place.name}"


class TestKinds:
    def test_every_kind_may_be_signed_by_somebody(self):
        assert set(events.KINDS) == set().union(*register.MAY_SIGN.values())

    def test_fields_that_kinds_need_are_fields(self):
        names = {place.name for place in forms.places(Draft)}
        assert set(events.NEEDED) <= set(events.KINDS)
        assert set().union(*events.NEEDED.values()) <= names

    @pytest.mark.parametrize(
        ("kind", "needed"), [(kind, name) for kind, names in sorted(events.NEEDED.items()) for name in names]
    )
    def test_a_kind_that_lacks_what_it_needs_is_named(self, kind, needed):
        draft = Draft(kind, Why("1", "because"))
        given = {"event", "why", *events.NEEDED[kind]} - {needed}

        assert events.kind_flaw(draft, given) == f"{kind} needs {needed}"


class TestKeys:
    def test_a_key_is_made_once_for_its_owner_alone(self, tmp_path):
        path = tmp_path / "keys" / "server.pem"

        made = keys.make(path)

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]
        assert (keys.load(path).key, keys.load(path).public) == (made.key, made.public)
        before = path.read_bytes()
        with pytest.raises(OutputError, match="is there already; a key is never overwritten"):
            keys.make(path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_openssl_reads_it(self, tmp_path):
        made = keys.make(tmp_path / "a.pem")
        shown = subprocess.run(
            ["openssl", "pkey", "-in", tmp_path / "a.pem", "-pubout", "-outform", "DER"], capture_output=True, check=True
        )
        assert base64.b64encode(shown.stdout[-32:]).decode() == made.public

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
    def test_a_key_that_others_may_read_is_refused(self, tmp_path, mode):
        keys.make(tmp_path / "a.pem")
        (tmp_path / "a.pem").chmod(mode)

        with pytest.raises(DataError, match="expected mode 0600"):
            keys.load(tmp_path / "a.pem")

    def test_links_folders_and_pipes_are_no_keys(self, tmp_path):
        keys.make(tmp_path / "a.pem")
        (tmp_path / "link.pem").symlink_to(tmp_path / "a.pem")
        (tmp_path / "folder.pem").mkdir()
        os.mkfifo(tmp_path / "pipe.pem", 0o600)

        for name in ("link.pem", "folder.pem", "pipe.pem", "nothing.pem"):
            with pytest.raises(DataError, match=r"cannot read the key|must be a file"):
                keys.load(tmp_path / name)

    def test_what_is_no_such_key_is_refused_and_not_quoted(self, tmp_path):
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

        def pem(private, encryption):
            return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

        contents = {
            "empty": b"",
            "text": b"secret-secret",
            "locked": pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"word")),
            "other kind": pem(generate_private_key(SECP256R1()), NoEncryption()),
        }
        for name, content in contents.items():
            path = tmp_path / f"{name}.pem"
            path.write_bytes(content)
            path.chmod(0o600)
            with pytest.raises(DataError, match=r"is no private key in unencrypted PEM|of another kind") as error:
                keys.load(path)
            assert "secret" not in str(error.value)

    def test_a_private_key_is_not_shown(self, tmp_path):
        made = keys.make(tmp_path / "a.pem")
        assert "_private" not in repr(made)

    def test_a_name_is_a_hash_of_the_public_half(self):
        signer = tale.signer("server")
        assert keys.name_of(signer.public) == signer.key
        assert len({tale.signer(name).key for name in tale.ROLES}) == len(tale.ROLES)

    def test_a_signature_holds_for_its_key_domain_and_record_alone(self):
        server, other = tale.signer("server"), tale.signer("stranger")
        record = {"a": 1, "sig": ""}
        signed = {**record, "sig": server.sign(keys.EVENT_DOMAIN, {"a": 1})}

        assert keys.signed_by(server.public, keys.EVENT_DOMAIN, signed)
        assert not keys.signed_by(other.public, keys.EVENT_DOMAIN, signed)
        assert not keys.signed_by(server.public, keys.CHECKPOINT_DOMAIN, signed)
        assert not keys.signed_by(server.public, keys.EVENT_DOMAIN, {**signed, "a": 2})
        for sig in ("", "x", 7, None):
            assert not keys.signed_by(server.public, keys.EVENT_DOMAIN, {**signed, "sig": sig})

    def test_the_known_answer_of_rfc_8032(self):
        """Test 1 of RFC 8032, 7.1: the seed, its public key, and the signature of nothing."""
        signer = keys.of_seed(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
        assert base64.b64decode(signer.public).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        nothing = signer._private.sign(b"").hex()
        assert nothing.startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")

    def test_keys_that_anybody_signs_with_are_told(self):
        """Their signatures can be made without a key: for each, some message of 64 takes one with a scalar of zero."""
        points = [number.to_bytes(32, "little") for number in keys.SMALL_ORDER]
        for point in points:
            public = base64.b64encode(point).decode()
            forged = [base64.b64encode(other + bytes(32)).decode() for other in points]
            assert any(keys.signed_by(public, b"", {"n": n, "sig": sig}) for n in range(64) for sig in forged)
            assert keys.is_weak(public)
            assert keys.is_weak(base64.b64encode(point[:31] + bytes([point[31] | 0x80])).decode())
        assert not any(keys.is_weak(tale.signer(name).public) for name in tale.ROLES)

    def test_nothing_without_a_canonical_form_is_signed(self):
        with pytest.raises(DataError, match=r"cannot sign: 0\.5 is a float"):
            tale.signer("server").sign(keys.EVENT_DOMAIN, {"share": 0.5})
