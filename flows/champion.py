"""Which model is in use, since when, why and by whom, as the verified trail says, and whether its files are those it names.

Exit code 0: verified. 1: refused, a line of the log or a file. 2: could not be checked, or no model is in use.
"""

import argparse
import sys
from pathlib import Path

from fedsilo.errors import AuditRefusedError, FedsiloError
from tasks import champion
from tasks.release_paths import ReleasePaths

REFUSED, UNCHECKED = 1, 2


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--federation", default="demo", help="name of the federation (default: %(default)s)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder of the repository (default: here)")
    made.add_argument("--json", action="store_true", help="write all of it as JSON")
    made.add_argument(
        "--allowed-signers", type=Path, metavar="FILE", help="who may sign tags, as ssh-keygen reads it: check the tags, too"
    )
    options = made.parse_args(argv)
    paths = ReleasePaths(options.workspace, options.federation)
    try:
        sys.stdout.write(champion.show(paths, options.allowed_signers, as_json=options.json))
    except AuditRefusedError as error:
        sys.stderr.write(f"fedsilo: {error}\n")
        return REFUSED
    except FedsiloError as error:
        sys.stderr.write(f"fedsilo: {error}\n")
        return UNCHECKED
    return 0


if __name__ == "__main__":
    sys.exit(main())
