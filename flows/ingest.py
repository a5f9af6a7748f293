"""Import one hospital's export as a site of a cohort: any layout in, de-identified nnU-Net raw layout out, under DVC and git."""

import argparse
import os
import sys
from pathlib import Path

from prefect import flow, unmapped

from fedsilo import names
from fedsilo import params as params_module
from fedsilo.cohort import roster as rosters
from fedsilo.errors import ParamsError
from flows import cli, environment, server
from tasks import arrivals, ingest, locks, paths, repro, versions, workers
from tasks.ingest import Ingestion, Request

DESCRIPTION = __doc__


@flow(
    name="ingest",
    flow_run_name="ingest {ingestion.site}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def ingest_site(ingestion: Ingestion) -> None:
    """Survey the source, convert every case, put the site in its place."""
    ingest.survey(ingestion)
    ingest.convert.map(ingest.names(ingestion), unmapped(ingestion)).result()
    ingest.finish(ingestion)


@flow(name="announce", flow_run_name="announce {site}", persist_result=False)
def announce(url: str, cohort: str, site: str) -> None:
    """Tell a server that a site's data are there, versioned and committed: retraining may start."""
    arrivals.announce(url, cohort, site)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    made = argparse.ArgumentParser(description=DESCRIPTION)
    made.add_argument("source", type=Path, metavar="SOURCE", help="folder of the export; it is only read")
    made.add_argument("--site", required=True, help="name of the site in the cohort")
    made.add_argument("--cohort", type=Path, required=True, help="cohort file; its list of sites may still be empty")
    made.add_argument(
        "--layout",
        default="auto",
        help="nnunet, msd, bids, dicom, chaos-ct, chaos-t2spir, chaos-t1dual or npz (default: %(default)s)",
    )
    made.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the site (default: data/raw/COHORT/SITE)")
    made.add_argument(
        "--key", type=Path, metavar="FILE", help="the site's key; lists of identities lie beside it (default: keys/SITE.key)"
    )
    made.add_argument("--label", type=_label, action="append", default=[], metavar="NAME=VALUE", help="name a value of npz masks")
    made.add_argument("--modality", choices=("CT", "MR"), default="", help="of a DICOM tree with both, the one to take")
    made.add_argument("--sequence", default="", metavar="SUFFIX", help="of a BIDS tree with several, the one to take, e.g. T2w")
    made.add_argument("--strict", action="store_true", help="import nothing if a case would be left out")
    made.add_argument("--update", action="store_true", help="import again and replace the site's folder")
    made.add_argument("--no-dvc", action="store_true", help="leave the folder unversioned")
    made.add_argument("--no-commit", action="store_true", help="leave the commit of what is versioned to me, and tell no server")
    made.add_argument("--remote", metavar="NAME", help="the one DVC remote that this site's data may be pushed to")
    made.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (default: %(default)s)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder that holds data/ and keys/ (default: here)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(argv)
    return cli.guard(lambda: body(options))


def body(options: argparse.Namespace) -> None:
    """Check the command, run the flow, version the folder, commit that and say what the cohort file needs.

    Raises:
        ParamsError: A name, file or combination of options is wrong.
    """
    vocabulary, params = rosters.load_vocabulary(options.cohort), params_module.load(options.params, {}, ())
    if not names.is_identifier(options.site):
        raise ParamsError(f"cannot use {options.site!r} as the name of a site: {names.RULE}")
    if options.out is None and vocabulary.name == paths.EMBEDDED:
        raise ParamsError(
            f"cohort {vocabulary.name} is made of phantoms, which would overwrite the site; make a cohort of your own"
        )
    if options.no_dvc and options.no_commit:
        raise ParamsError("--no-commit is for a folder that is versioned; leave --no-dvc out")
    if options.no_dvc and options.remote:
        raise ParamsError("--remote needs the folder to be versioned; leave --no-dvc out")
    folder = options.out or options.workspace / "data" / "raw" / vocabulary.name / options.site
    records = options.workspace / "checkpoints" / vocabulary.name / "ingest" / options.site
    ingestion = Ingestion(
        site=options.site,
        vocabulary=vocabulary,
        folder=folder,
        key_path=options.key or options.workspace / "keys" / f"{options.site}.key",
        records_dir=records / "cases",
        update=options.update,
        strict=options.strict,
    )
    if not options.no_dvc:
        repro.check_versioning(options.workspace, folder, options.remote)
        if not options.no_commit:
            versions.check_identity(options.workspace)
    request = Request(options.source, options.layout, tuple(options.label), options.modality, options.sequence)
    with locks.hold_folder(records):
        ingest.ask(request, ingestion)
        with workers.pool(params.runtime.parallel_sites, "cpu", preload=ingest.PRELOAD):
            ingest_site(ingestion)
        if not options.no_dvc:
            tracked = repro.version_folder(options.workspace, folder, remote=options.remote)
            _commit(options, tracked)
        url = os.environ.get("PREFECT_API_URL") or server.find()
        # a server that ends with this command would start nothing, and a run refuses data that no commit names
        if url and not options.no_commit:
            announce(url, vocabulary.name, options.site)
    sys.stdout.write(ingest.line(ingestion, options.workspace / rosters.data_root(vocabulary, params)))


def _commit(options: argparse.Namespace, tracked: Path) -> None:
    """Commit which data the site has now, unless that is left to whoever called."""
    if options.no_commit:
        sys.stdout.write(f"versioned: commit {tracked}\n")
        return
    root = options.workspace.resolve()
    if not versions.is_committed(root, root / tracked):
        versions.commit_paths(root, [root / tracked], f"Data of {options.site}")
    sys.stdout.write(f"versioned: {tracked} is committed\n")


def _label(text: str) -> tuple[str, int]:
    """Read NAME=VALUE."""
    name, _, value = text.rpartition("=")
    if not name or not value.isdecimal():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE with a whole number, got {text!r}")
    return name, int(value)


if __name__ == "__main__":
    sys.exit(main())
