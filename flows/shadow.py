"""Run a candidate beside the model in use on a site's cases, without labels: how far the two agree."""

import sys
from pathlib import Path

from fedsilo.audit import keys
from flows import cli
from tasks import shadow
from tasks.federation import Federation


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    made = cli.parser(__doc__)
    made.add_argument("--candidate", required=True, metavar="RUN|VERSION", help="the model that may go into use")
    made.add_argument("--champion", required=True, metavar="VERSION", help="the model that is in use")
    made.add_argument("--site", required=True, help="whose cases both predict")
    made.add_argument("--why", required=True, metavar="TEXT", help="the reason")
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key: a promoter's")
    options = made.parse_args(argv)

    def body() -> None:
        run = cli.resolve(options)
        federation = Federation(run.standing, run.params, run.paths)
        _, told = shadow.run(
            federation,
            options.site,
            options.candidate,
            options.champion,
            options.why,
            signer=keys.load(options.key),
            device="cpu",
        )
        sys.stdout.write(told)

    return cli.guard(body)


if __name__ == "__main__":
    sys.exit(main())
