"""Write the bill of materials of this environment, build/sbom.json, and the table of licences, docs/licences.md."""

import argparse
import sys
from pathlib import Path

from flows import cli
from tasks import sbom


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 if a package has a licence that is not allowed."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--workspace", type=Path, default=Path(), help="folder of the repository (default: here)")
    made.add_argument("--out", type=Path, metavar="FILE", help="bill of materials (default: build/sbom.json)")
    made.add_argument("--licences", type=Path, metavar="FILE", help="table of licences (default: docs/licences.md)")
    options = made.parse_args(argv)
    bill = options.out or options.workspace / "build" / "sbom.json"
    licences = options.licences or options.workspace / "docs" / "licences.md"
    return cli.guard(lambda: sys.stdout.write(sbom.write(options.workspace, bill, licences)))


if __name__ == "__main__":
    sys.exit(main())
