"""A round as admission sees it: six sites, their keys, a global state, and in each site's place an update with any fault planted."""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

import torch

from fedsilo import files
from fedsilo.admission_params import AdmissionParams
from fedsilo.audit import canonical, keys
from fedsilo.audit.register import KeyEntry, KeyRecord
from fedsilo.federation import admission, manifests, states
from fedsilo.federation.manifests import Code, Data, Manifest, Metrics
from fedsilo.federation.update_checks import Asked, Offer, Round

SITES = ("site-a", "site-b", "site-c", "site-d", "site-e", "site-f")
HOSTILE = "site-f"
ROUND = 4
BEGIN, NOW, END = "2026-01-01T00:00:00.000000Z", "2026-06-01T12:00:00.000000Z", "2036-01-01T00:00:00.000000Z"
LIMITS = AdmissionParams(
    quorum=0.6,
    max_norm_ratio=10.0,
    max_statistics_ratio=100.0,
    min_cosine=-0.2,
    max_drift_ratio=3.0,
    drift_rounds=3,
    veto_margin=None,
)
ROLES = {
    "layer.weight": "parameter",
    "norm.weight": "parameter",
    "norm.running_mean": "norm_mean",
    "norm.running_var": "norm_variance",
    "norm.num_batches_tracked": "counter",
}
LOCAL_BATCHES = 20


def signer(name):
    return keys.of_seed(hashlib.sha256(f"round {name}".encode()).digest())


def hex_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def later(ts, **steps):
    return (datetime.fromisoformat(ts) + timedelta(**steps)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def key_record(name, roles=("site",), *, begins=BEGIN, ends=END, revoked_at=None, site=None):
    site = (site or name) if roles == ("site",) else None
    return KeyRecord(
        KeyEntry(name, name.title(), signer(name).public, roles, begins, ends, site), since=begins, revoked_at=revoked_at
    )


def base_state():
    generator = torch.Generator().manual_seed(1)
    return {
        "layer.weight": torch.randn(40, 30, generator=generator),
        "norm.num_batches_tracked": torch.tensor(100),
        "norm.running_mean": torch.randn(40, generator=generator),
        "norm.running_var": torch.rand(40, generator=generator) + 0.5,
        "norm.weight": torch.ones(40),
    }


def trained(base, site, round_index=ROUND, *, towards=1.0, noise=0.7):
    """Move a state as honest training does: all sites one way, and each a little its own."""
    shared = torch.Generator().manual_seed(1000 + round_index)
    own = torch.Generator().manual_seed(2000 + 100 * round_index + ord(site[-1]))
    moved = {}
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            moved[name] = tensor + LOCAL_BATCHES
            continue
        delta = 0.01 * (towards * torch.randn(tensor.shape, generator=shared) + noise * torch.randn(tensor.shape, generator=own))
        moved[name] = (tensor * torch.exp(delta) if name.endswith("var") else tensor + delta).to(tensor.dtype)
    return moved


class Scene:
    """What the server knows, and what lies in each site's place."""

    def __init__(self, folder, sites=SITES):
        self.folder, self.sites, self.base = folder, sites, base_state()
        path = folder / "base.safetensors"
        self.base_sha256 = states.save(self.base, path)
        self.base_bytes = path.stat().st_size
        self.register = {signer(site).key: key_record(site) for site in sites} | {
            signer("server").key: key_record("server", ("server",))
        }
        self.asked = {
            site: Asked(hex_of(f"nonce {site}"), hex_of(f"order {site}"), max_cases=20, max_slices=480) for site in sites
        }
        self.offers, self.history, self.limits = {}, None, LIMITS
        for site in sites:
            self.send(site)

    def manifest(self, site, /, **changes):
        """What an honest site says of the weights that lie in its place."""
        weights = self.folder / f"{site}.safetensors"
        plain = {
            "federation": "demo",
            "run": "demo",
            "site": site,
            "round_index": ROUND,
            "nonce": self.asked[site].nonce,
            "order_sha256": self.asked[site].order_sha256,
            "base_model": self.base_sha256,
            "file_sha256": files.sha256_file(weights),
            "file_bytes": weights.stat().st_size,
            "num_cases": 12,
            "num_slices": 288,
            "metrics": Metrics("0.5", "0.75"),
            "code": Code("0.1.0"),
            "data": Data(hex_of(f"data of {site}")),
            "env_sha256": hex_of("env"),
            "created": later(NOW, minutes=-1),
            "expires": later(NOW, days=30),
        }
        return Manifest(**(plain | changes))

    def send(self, site, /, state=None, *, weights=None, by=None, change=None, received=NOW, **said):
        """Put an update in a site's place.

        Args:
            site: Whose place.
            state: Of the weights; None: honestly trained.
            weights: Bytes of the file instead.
            by: Who signs.
            change: Given the signed record, gives the bytes of the manifest.
            received: When it came.
            said: What the manifest says other than the truth.
        """
        path = self.folder / f"{site}.safetensors"
        if weights is None:
            states.save(trained(self.base, site) if state is None else state, path)
        else:
            path.write_bytes(weights)
        record = manifests.sign(self.manifest(site, **said), signer(by or site))
        manifest_path = self.folder / f"{site}.json"
        manifest_path.write_bytes(canonical.dumps(record) if change is None else change(record))
        self.offers[site] = Offer(site, manifest_path, path, received)

    def ask(self, site, **changes):
        self.asked[site] = replace(self.asked[site], **changes)

    def known(self):
        return Round(
            federation="demo",
            run="demo",
            round_index=ROUND,
            asked=self.asked,
            base=self.base,
            base_sha256=self.base_sha256,
            base_bytes=self.base_bytes,
            roles=ROLES,
            register=self.register,
        )

    def admit(self, checks=admission.CHECKS):
        return admission.admit(list(self.offers.values()), self.known(), self.limits, self.history, checks=checks)
