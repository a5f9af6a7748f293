"""Decide whether to train again: calendar, new cases, drift, decay, a person, upstream; the trail is told, also of a no."""

import sys
from argparse import Namespace
from pathlib import Path

from prefect import flow

from fedsilo.evaluation import pccp
from flows import cli, environment
from tasks import trails, triggers
from tasks.triggers import Question

NO = 3
"""Exit code where the answer is no."""


@flow(
    name="decide",
    flow_run_name="decide whether to train {question.roster.name} again",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def decide(question: Question) -> Path:
    """Make one decision."""
    return triggers.decide(question)


def body(run: cli.Run, options: Namespace) -> Path:
    """Hold the trail while the flow runs."""
    question = Question(
        roster=run.roster,
        paths=run.paths,
        policy=pccp.load(options.pccp).triggers,
        champion=options.champion,
        manual=options.manual,
        upstream=options.upstream,
        audited=options.audited,
    )
    with trails.held(run.paths, [site.name for site in run.roster.sites]):
        return decide(question)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 for yes, 3 for no, 1 if it cannot tell."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--champion", default="", metavar="COMMIT", help="with the champion's data (default: the tag of the version in use)"
    )
    parser.add_argument("--manual", default="", metavar="WHY", help="ask for it, and say why")
    parser.add_argument("--upstream", default="", metavar="WHAT", help="what changed in code, libraries or base models")
    parser.add_argument("--audited", type=Path, metavar="FILE", help="JSON with scores of labelled cases in use, by site")
    parser.add_argument("--pccp", type=Path, default=Path("pccp.yaml"), help="policy file (default: %(default)s)")
    options = parser.parse_args(argv)
    written: list[Path] = []
    code = cli.guard(lambda: written.append(body(cli.resolve(options), options)))
    return code or (0 if triggers.verdict_of(written[0]) == "yes" else NO)


if __name__ == "__main__":
    sys.exit(main())
