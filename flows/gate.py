"""Judge a candidate against the champion by the plan in pccp.yaml; exit code 0: pass, 3: inconclusive, 4: fail."""

import argparse
import sys
from pathlib import Path

from prefect import flow

from fedsilo.cohort import roster as rosters
from flows import cli, environment
from tasks import gate, locks, trails
from tasks.contenders import Contender
from tasks.gate import Question
from tasks.paths import RunPaths

CODES = {"pass": 0, "inconclusive": 3, "fail": 4}
"""Exit codes of verdicts; 1 and 2 are those of commands that could not do what they should."""


@flow(
    name="gate",
    flow_run_name="gate {question.candidate.paths.run}",
    validate_parameters=False,
    on_running=[environment.wear_outer_run],
    persist_result=False,
)
def judge_candidate(question: Question) -> Path:
    """Judge, and return where the verdict is."""
    return gate.judge(question)


def body(options: argparse.Namespace) -> str:
    """Hold the candidate's folder and the trail while the gate judges; print what it found and return the verdict."""
    roster, params = rosters.load_run(options.cohort, options.params)
    champion, candidate = None, RunPaths(options.workspace, roster.name, options.candidate)
    if options.champion is not None:
        before = rosters.load_run(options.cohort, options.champion_params)[1] if options.champion_params else params
        champion = Contender(RunPaths(options.workspace, roster.name, options.champion), before)
    question = Question(roster, champion, Contender(candidate, params), options.pccp, options.reason.strip())
    with locks.hold_folder(candidate.checkpoints_dir), trails.held(candidate, [site.name for site in roster.inside]):
        path = judge_candidate(question)
    verdict, text = gate.summary(path)
    sys.stdout.write(text)
    return verdict


def main(argv: list[str] | None = None) -> int:
    """Run the gate from the command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--champion", metavar="RUN", help="folder in runs/ of the model in use; left out before there is one")
    made.add_argument("--candidate", required=True, metavar="RUN", help="folder in runs/ of the model that may replace it")
    made.add_argument("--cohort", type=Path, default=Path("cohorts/demo.yaml"), help="cohort file (default: %(default)s)")
    made.add_argument("--params", type=Path, default=Path("params.yaml"), help="of the candidate (default: %(default)s)")
    made.add_argument("--champion-params", type=Path, help="of the champion (default: those of the candidate)")
    made.add_argument("--pccp", type=Path, default=Path("pccp.yaml"), help="the change plan (default: %(default)s)")
    made.add_argument("--reason", default="", help="why to replace a champion that is as good, KIND: WORDS by the plan")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder that holds data/ and runs/ (default: here)")
    options = made.parse_args(argv)
    if options.champion_params and options.champion is None:
        made.error("--champion-params are of a --champion")
    verdicts: list[str] = []
    failed = cli.guard(lambda: verdicts.append(body(options)))
    return failed or CODES[verdicts[0]]


if __name__ == "__main__":
    sys.exit(main())
