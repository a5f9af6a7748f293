"""What orchestration costs: the same federation as a bare PyTorch loop and as `python -m flows.federate`, in one go.

Both train the same sites for the same rounds with one process and one thread, and must end with the same bits. The bare loop
has no Prefect, no journal, no hashes and no child process: it trains, validates, folds and averages in memory.

    python benchmarks/overhead.py --workspace DIR [--rounds N]

The workspace must hold prepared data of the cohort (`make run` leaves them).
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedsilo.cohort import roster as rosters
from tasks.federation import Federation
from tasks.paths import RunPaths

ROOT = Path(__file__).resolve().parents[1]


def bare(federation: Federation) -> tuple[float, dict[str, str]]:
    """Train in this process; return seconds, imports not counted, and digests of the final states."""
    import torch

    from fedsilo import seeds
    from fedsilo.federation import aggregation, inside, states, updates
    from fedsilo.segmentation import network, training, validation
    from tasks import rounds

    torch.set_num_threads(1)
    params = federation.params.federate
    start = time.perf_counter()
    data = {site: federation.inputs(site) for site in federation.sites}
    model = network.build(
        params.network,
        num_classes=federation.num_classes,
        in_channels=rounds.in_channels(federation),
        generator=seeds.generator(federation.params.seed, "init"),
    )
    roles, server = states.roles(model), states.snapshot(model)
    personal: dict[str, dict[str, torch.Tensor]] = {}

    def score(site: str) -> None:
        validation.mean_dice(
            model,
            data[site].validation,
            annotated=data[site].annotated,
            spatial_dims=params.network.spatial_dims,
            divisor=network.divisor(params.network),
            batch_size=32,
            device="cpu",
        )

    for round_index in range(params.rounds):
        received = []
        for site in federation.sites:
            states.restore(model, server)
            if round_index:
                score(site)
            stretch = training.Stretch(
                data[site].training,
                epochs=params.local_epochs,
                rate=training.learning_rate(params.optimizer, round_index=round_index, rounds=params.rounds),
                annotated=data[site].annotated,
                params=params,
                stream=training.Stream(federation.params.seed, "federate", site, round_index),
            )
            trained = training.train(model, stretch)
            local = states.snapshot(model)
            personal[site] = inside.fold(personal.get(site), local, momentum=params.folds["inside"].momentum)
            states.restore(model, personal[site])
            score(site)
            received.append(
                updates.SiteUpdate(
                    site=site,
                    round_index=round_index,
                    base_sha256="",
                    num_cases=data[site].num_cases,
                    num_slices=data[site].num_slices,
                    train_loss=trained.mean_loss,
                    val_dice_global=None,
                    val_dice_inside=None,
                    latent_size=None,
                    state=local,
                )
            )
        weights = aggregation.site_weights(received, params.weighting)
        server = aggregation.step(server, received, weights=weights, roles=roles, params=params.aggregation).state
    states.restore(model, server)
    for site in federation.sites:
        score(site)
    seconds = time.perf_counter() - start
    return seconds, {"global": states.digest(server), **{site: states.digest(state) for site, state in personal.items()}}


def orchestrated(federation: Federation, cohort: Path, workspace: Path) -> tuple[float, dict[str, str]]:
    """Run the flow as a user would, start of the interpreter and of an ephemeral server included."""
    from fedsilo.federation import states

    options = ["--cohort", str(cohort), "--workspace", str(workspace), "--run", federation.paths.run]
    options += ["--set", f"federate.rounds={federation.params.federate.rounds}", "--set", "runtime.parallel_sites=1"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "flows.federate", *options], check=True, cwd=ROOT)
    seconds = time.perf_counter() - start
    journal, last = federation.journal(), federation.params.federate.rounds
    found = {"global": states.digest(journal.read_server(last))}
    found |= {site: states.digest(states.load(journal.fold_path(site, last - 1))) for site in federation.sites}
    return seconds, found


def main() -> int:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=ROOT)
    parser.add_argument("--cohort", type=Path, default=ROOT / "cohorts" / "demo.yaml")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    roster, params = rosters.load_run(options.cohort, ROOT / "params.yaml", [f"federate.rounds={options.rounds}"])
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        shutil.copytree(options.workspace / "data" / "prepared", workspace / "data" / "prepared")
        federation = Federation(
            roster=roster, params=params, paths=RunPaths(workspace=workspace, cohort=roster.name, run="overhead")
        )
        bare_seconds, bare_states = bare(federation)
        flow_seconds, flow_states = orchestrated(federation, options.cohort, workspace)
    result = {
        "rounds": options.rounds,
        "sites": len(federation.sites),
        "bare_s": round(bare_seconds, 1),
        "flow_s": round(flow_seconds, 1),
        "ratio": round(flow_seconds / bare_seconds, 3),
        "same_bits": bare_states == flow_states,
        "machine": f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}",
    }
    print(json.dumps(result, indent=2))
    return 0 if result["same_bits"] else 1


if __name__ == "__main__":
    sys.exit(main())
