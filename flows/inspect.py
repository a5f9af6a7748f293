"""Show a site as the data contract sees it: a line a case, and a contact sheet with the outlines of its organs."""

import sys

from flows import cli
from tasks import inspection


def main(argv: list[str] | None = None) -> int:
    """Print the table and say where the sheet is."""
    parser = cli.parser(__doc__)
    parser.add_argument("--site", required=True, help="a site of the cohort, prepared before")
    options = parser.parse_args(argv)

    def body() -> None:
        run = cli.resolve(options)
        sys.stdout.write(inspection.show(run.roster, run.paths, run.data_root, options.site))

    return cli.guard(body)


if __name__ == "__main__":
    sys.exit(main())
