"""What a round costs the server: peak memory of admitting and averaging, for a few sites and for many.

    python benchmarks/admission.py [--sites 4 12] [--megabytes 100]

Updates stay in their files and are read entry by entry, so that memory does not grow with the number of sites. Each measurement
runs in a process of its own; what it has before the round is taken off.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from fedsilo import files
from fedsilo.admission_params import AdmissionParams
from fedsilo.aggregation_params import AggregationParams, ServerOptimizerParams
from fedsilo.audit import keys
from fedsilo.audit.register import KeyEntry, KeyRecord
from fedsilo.federation import admission, aggregation, manifests, states
from fedsilo.federation.manifests import Attestation, Code, Data
from fedsilo.federation.update_checks import Asked, Offer, Round
from fedsilo.federation.updates import SiteUpdate
from fedsilo.types import EntryRole

BEGIN, NOW, END = "2026-01-01T00:00:00.000000Z", "2026-06-01T00:00:00.000000Z", "2036-01-01T00:00:00.000000Z"
NUM_ENTRIES = 40
LIMITS = AdmissionParams(
    quorum=0.6,
    max_norm_ratio=30.0,
    max_statistics_ratio=300.0,
    min_cosine=-0.9,
    max_drift_ratio=10.0,
    drift_rounds=1,
    veto_margin=None,
)
RULE = AggregationParams(
    rule="average",
    num_hostile=1,
    keep=None,
    nearest_mixing=False,
    clip_norm=None,
    centring_steps=3,
    optimizer=ServerOptimizerParams(name="none", learning_rate=1.0, beta1=0.9, beta2=0.99, tau=0.001),
)


def make_state(megabytes: int, seed: int) -> dict[str, Tensor]:
    """Make a network's state of equal entries."""
    generator = torch.Generator().manual_seed(seed)
    length = megabytes * 2**20 // 4 // NUM_ENTRIES
    return {f"layer{index:02d}.weight": torch.randn(length, generator=generator) for index in range(NUM_ENTRIES)}


def signer(site: str) -> keys.Signer:
    """Give a site's key."""
    return keys.of_seed(hashlib.sha256(site.encode()).digest())


def write(folder: Path, sites: list[str], megabytes: int) -> None:
    """Write a global state and an update a site."""
    base = make_state(megabytes, 0)
    sha256 = states.save(base, folder / "base.safetensors")
    for number, site in enumerate(sites):
        moved = {name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator(number)) for name, tensor in base.items()}
        update = SiteUpdate(site, 0, sha256, 10, 100, 0.5, None, None, None, moved)
        said = Attestation("bench", "bench", "1" * 64, "2" * 64, Code("0"), Data("3" * 64), "4" * 64, NOW, END, None)
        manifests.save(update, folder, said, signer(site))


def generator(number: int) -> torch.Generator:
    """Give a site's generator."""
    return torch.Generator().manual_seed(number)


def run_round(folder: Path, sites: list[str]) -> dict[str, float]:
    """Admit and average; seconds, and MiB at the peak above what was there with the global state loaded."""
    base = states.load(folder / "base.safetensors")
    roles: dict[str, EntryRole] = dict.fromkeys(base, "parameter")
    entries = [KeyEntry(site, site, signer(site).public, ("site",), BEGIN, END, site) for site in sites]
    known = Round(
        federation="bench",
        run="bench",
        round_index=0,
        asked={site: Asked("1" * 64, "2" * 64, 10, 100) for site in sites},
        base=base,
        base_sha256=files.sha256_file(folder / "base.safetensors"),
        base_bytes=(folder / "base.safetensors").stat().st_size,
        roles=roles,
        register={entry.key: KeyRecord(entry, since=BEGIN) for entry in entries},
    )
    offers = [Offer(site, folder / f"{site}.json", folder / f"{site}.safetensors", NOW) for site in sites]
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, start = memory("VmRSS"), time.process_time()
    verdict = admission.admit(offers, known, LIMITS)
    admitted = time.process_time() - start
    if verdict.refused:
        raise RuntimeError(str(verdict.refused))
    updates = list(verdict.admitted.values())
    weights = aggregation.site_weights(updates, "cases")
    aggregation.step(base, updates, weights=weights, roles=roles, params=RULE)
    return {"peak_MiB": memory("VmHWM") - before, "admission_s": admitted, "step_s": time.process_time() - start - admitted}


def memory(name: str) -> float:
    """Read a line of this process's memory in MiB; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main(argv: list[str] | None = None) -> int:
    """Print the peak and its ratio as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sites", type=int, nargs=2, default=[4, 12])
    parser.add_argument("--megabytes", type=int, default=100, help="of a state (default: %(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    names = [f"site-{chr(ord('a') + index)}" for index in range(max(options.sites))]
    if options.measure is not None:
        print(json.dumps(run_round(options.measure, names[: options.number])))
        return 0
    with tempfile.TemporaryDirectory(prefix="fedsilo-admission-") as folder:
        write(Path(folder), names, options.megabytes)
        found = {}
        for number in options.sites:
            command = [
                sys.executable,
                __file__,
                "--measure",
                folder,
                "--number",
                str(number),
                "--sites",
                *map(str, options.sites),
            ]
            found[number] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    few, many = options.sites
    ratio = found[many]["peak_MiB"] / found[few]["peak_MiB"]
    print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "state_MiB": options.megabytes}))
    print(
        json.dumps({str(number): {name: round(value, 2) for name, value in values.items()} for number, values in found.items()})
    )
    print(f"peak of {many} sites / of {few} = {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
