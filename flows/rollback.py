"""Bring an earlier version back into use, with the inside models that belong to it."""

import argparse
import sys
from pathlib import Path

from fedsilo.audit import keys
from flows import cli
from tasks import promoting
from tasks.release_paths import ReleasePaths


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 if the version cannot come back, or a step failed."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--federation", default="demo", help="name of the federation (default: %(default)s)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder of the repository (default: here)")
    made.add_argument("--to", required=True, metavar="vX.Y.Z", help="a version that was in use before")
    made.add_argument("--why", required=True, metavar="TEXT", help="the reason")
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key: a promoter's")
    made.add_argument("--tag-key", type=Path, metavar="FILE", help="private ssh-ed25519 key that signs the tag")
    options = made.parse_args(argv)
    return cli.guard(lambda: sys.stdout.write(_run(options)))


def _run(options: argparse.Namespace) -> str:
    paths = ReleasePaths(options.workspace, options.federation)
    return promoting.rollback(paths, options.to, options.why, signer=keys.load(options.key), tag_key=options.tag_key)


if __name__ == "__main__":
    sys.exit(main())
