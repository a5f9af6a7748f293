"""Put a candidate into use as a version: release, trail, DVC, commit and tags; a killed command goes on when given again."""

import argparse
import sys
from pathlib import Path

from fedsilo.audit import keys
from flows import cli
from tasks import promoting
from tasks.release_paths import ReleasePaths


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 if the candidate may not be promoted, or a step failed."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--federation", default="demo", help="name of the federation (default: %(default)s)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder of the repository (default: here)")
    made.add_argument("--candidate", required=True, metavar="RUN", help="name of the run whose models go into use")
    made.add_argument("--version", required=True, metavar="vX.Y.Z")
    made.add_argument("--verdict", type=Path, required=True, metavar="FILE", help="the gate's verdict as it was written")
    made.add_argument("--why", required=True, metavar="TEXT", help="the reason")
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key: a promoter's")
    made.add_argument("--tag-key", type=Path, metavar="FILE", help="private ssh-ed25519 key that signs the tags")
    options = made.parse_args(argv)
    return cli.guard(lambda: sys.stdout.write(_run(options)))


def _run(options: argparse.Namespace) -> str:
    return promoting.promote(
        ReleasePaths(options.workspace, options.federation),
        options.candidate,
        options.version,
        options.verdict,
        options.why,
        signer=keys.load(options.key),
        tag_key=options.tag_key,
    )


if __name__ == "__main__":
    sys.exit(main())
