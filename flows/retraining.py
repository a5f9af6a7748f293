"""The steps of a retraining, one after the other: decide, train, judge, ask persons, promote.

What was done is read in the trail, so a call that follows a crash goes on where that was; no step happens twice.
"""

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from prefect.exceptions import FlowPauseTimeout
from prefect.runtime import flow_run

from fedsilo import files
from fedsilo.audit import keys, releases
from fedsilo.audit.events import UNANSWERED, Event
from fedsilo.audit.register import Register
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.roster import Roster
from fedsilo.errors import DataError, ParamsError
from fedsilo.evaluation import pccp
from fedsilo.evaluation.pccp import Plan
from fedsilo.params import Params
from flows import approval_form, cli, drift, gate, inside, notices, outside
from tasks import approving, champion_run, cycle, locks, promoting, repro, trails, triggers, verdicts
from tasks import drift as drifts
from tasks import gate as gates
from tasks.champion_run import Champion
from tasks.contenders import Contender
from tasks.drift import Watch
from tasks.federation import Federation
from tasks.paths import OUTER_RUN, RunPaths
from tasks.release_paths import ReleasePaths
from tasks.release_steps import Plan as Begun
from tasks.trails import Scribe

DONE, NO, STAYS, WAITS = 0, 3, 4, 5
"""Exit codes: promoted, nothing to do, the champion stays, approvals are missing."""
CODES = {cycle.PROMOTED: DONE, cycle.UNCHANGED: NO}
"""Of ends; of all others the champion stays."""
SAID_NO = {
    "reject": (cycle.REJECTED, "a person rejected it"),
    "nobody": (UNANSWERED, "nobody approved it in time, which is a no"),
}
DEMO_PROMOTER = "demo-promoter"


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        cohort: The cohort's file.
        params: The params file.
        plan: The change plan, pccp.yaml.
        workspace: Folder of the repository.
        manual: Why a person asks for it; empty if nobody does.
        upstream: What changed in code, libraries or base models; empty if nothing did.
        audited: File with scores of labelled cases in use.
        version: Of the model, if it is promoted; empty for the next minor one.
        key: The promoter's private key; None: approved models wait for `python -m flows.promote`.
        tag_key: Key that signs tags.
        wait_seconds: For persons to answer in Prefect's form; 0: nobody is asked there.
        dry: Only say what would be done.
    """

    cohort: Path
    params: Path = Path("params.yaml")
    plan: Path = Path("pccp.yaml")
    workspace: Path = Path()
    manual: str = ""
    upstream: str = ""
    audited: Path | None = None
    version: str = ""
    key: Path | None = None
    tag_key: Path | None = None
    wait_seconds: int = 0
    dry: bool = False

    def load(self) -> "Work":
        """Read the files that it names.

        Raises:
            ParamsError: One of them is wrong.
        """
        roster, params = rosters.load_run(self.workspace / self.cohort, self.workspace / self.params)
        return Work(self, roster, params, pccp.load(self.workspace / self.plan))


@dataclass(frozen=True)
class Work:
    """An order with what its files say."""

    order: Order
    roster: Roster
    params: Params
    plan: Plan

    @property
    def paths(self) -> RunPaths:
        """Files of the candidate's run."""
        return RunPaths(self.order.workspace, self.roster.name, self.roster.name)

    @property
    def released(self) -> ReleasePaths:
        """Files of the federation's releases."""
        return ReleasePaths(self.order.workspace, self.roster.name)

    @property
    def standing(self) -> Roster:
        """The cohort without the sites that the data contract stopped."""
        return verdicts.standing(self.roster, self.paths)

    @property
    def watch(self) -> Watch:
        """How drift is looked for."""
        return Watch(Federation(self.standing, self.params, self.paths), self.plan.triggers.drift)

    @property
    def key(self) -> Path | None:
        """The promoter's key: that of the order, or of the demonstration where keys were made for one."""
        demo = self.paths.audit.private_key(DEMO_PROMOTER)
        return self.order.key or (demo if demo.is_file() else None)


@dataclass(frozen=True)
class Ending:
    """How a call ended: its exit code, and why."""

    code: int
    text: str


def retrain_once(order: Order) -> Ending:
    """Begin a retraining, or go on with the one that the trail says is under way, as far as it goes now.

    Raises:
        ParamsError: A file that it names is wrong, or the time for answers is.
        FedsiloError: A step failed, or another run is at it; the same order goes on from there.
    """
    if not 0 <= order.wait_seconds < notices.LONGEST_SECONDS:
        raise ParamsError(f"cannot wait {order.wait_seconds} s for answers: expected 0 to {notices.LONGEST_SECONDS - 1}")
    work = order.load()
    if order.dry:
        return Ending(DONE, _plan_of(work))
    with locks.hold_folder(order.workspace / "checkpoints" / "retrain" / work.roster.name):
        decision = _under_way(work)
        if decision is None:
            _check_committed(order)
            _look(work)
            path = _decide(work)
            if triggers.verdict_of(path) == "no":
                return Ending(NO, f"no retraining: {triggers.reason_of(path)}")
            decision = _under_way(work)
            if decision is None:
                raise DataError(f"the trail lacks the decision {path}")
        return _go_on(work, decision)


def _go_on(work: Work, decision: Event) -> Ending:
    """Do what is left of a retraining; each step finds what an earlier call did."""
    with _trail(work) as scribe:
        promoted = cycle.promotion_since(scribe.events("promote"), decision, releases.name_of(work.roster.name))
    if promoted is not None and promoted.subject is not None:
        # before anything is trained: what was promoted may have been begun and not ended
        return _finish(work, decision, str(promoted.subject.after), promoted.why.request)
    path = _asked_about(work, decision)
    if path is None:
        made = _make(work, decision)
        if isinstance(made, Ending):
            return made
        path = made
    candidate = trails.hashed(work.paths.global_state)
    answer = _ask(work, decision, candidate, path)
    if answer in SAID_NO:
        return _end(work, *SAID_NO[answer], candidate)
    if answer is None or work.key is None:
        missing = f"approvals of {path}" if answer is None else "a promoter: python -m flows.promote"
        return Ending(WAITS, f"{candidate} waits for {missing}, and then for this command again")
    return _finish(work, decision, candidate, _version(work), verdict=path)


def _asked_about(work: Work, decision: Event) -> Path | None:
    """Find the verdict on the candidate that persons are asked about; it stays until they answered, whatever data come."""
    if not work.paths.global_state.is_file():
        return None
    candidate = trails.hashed(work.paths.global_state)
    with _trail(work) as scribe:
        verdict = cycle.verdict_since(scribe.events("gate.verdict"), decision, candidate)
        if not cycle.is_awaited(verdict, cycle.champion(scribe, work.roster.name)):
            return None
        return gates.last_verdict(work.paths, candidate)


def _make(work: Work, decision: Event) -> Path | Ending:
    """Train a candidate and judge it; give the verdict on which persons are asked, or how the retraining ended without one."""
    _check_committed(work.order)
    _reproduce(work, repro.target_of(work.order.workspace, work.roster.name))
    candidate = trails.hashed(work.paths.global_state)
    if stopped := sorted({site.name for site in work.roster.sites} - {site.name for site in work.standing.sites}):
        text = f"the data contract stopped {', '.join(stopped)}, and no model is judged without a site"
        return _end(work, cycle.KEPT, text, candidate)
    with _trail(work) as scribe:
        champion, register = cycle.champion(scribe, work.roster.name), scribe.register
    if champion == candidate:
        return _end(work, cycle.UNCHANGED, f"{candidate} is in use already", candidate)
    beside = None if champion is None else _beside(work, register, champion)
    verdict, path = _judge(work, beside, cycle.reason_of(decision))
    if verdict == "fail" or (verdict == "inconclusive" and champion is not None):
        how = cycle.FAILED if verdict == "fail" else cycle.KEPT
        return _end(work, how, f"the champion stays, the gate said {verdict} of {candidate}: {path}", candidate)
    return path


def _check_committed(order: Order) -> None:
    """Refuse to train what no commit names."""
    cycle.check_committed(order.workspace, [order.workspace / path for path in (order.cohort, order.params, order.plan)])


def _under_way(work: Work) -> Event | None:
    """Find the decision of the retraining that is under way, by the verified trail."""
    with _trail(work) as scribe:
        return cycle.is_open(scribe)


def _trail(work: Work) -> AbstractContextManager[Scribe]:
    """Open the federation's trail, verified, for a moment: phases open it by themselves."""
    return trails.held(work.paths, [site.name for site in work.roster.sites])


def _reproduce(work: Work, target: str) -> None:
    """Bring a part of the graph up to date."""
    record = repro.reproduce_graph(work.order.workspace, target, {OUTER_RUN: str(flow_run.id)})
    repro.tell_restored(work.order.workspace, work.roster.name, record)


def _look(work: Work) -> None:
    """Prepare what is new, by the data contract, and look for drift at the sites that remember what the champion knew."""
    _reproduce(work, repro.stage_target(work.order.workspace, work.roster.name, "prepare"))
    sites = [site.name for site in work.standing.sites if drifts.is_comparable(site.name, work.watch)]
    if sites:
        drift.watch_sites(work.watch, sorted(sites), remember=False)


def _decide(work: Work) -> Path:
    """Decide whether to train again; the trail is told, also of a no."""
    order = work.order
    question = triggers.Question(
        roster=work.roster,
        paths=work.paths,
        policy=work.plan.triggers,
        manual=order.manual,
        upstream=order.upstream,
        audited=order.audited,
    )
    with _trail(work):
        return triggers.decide(question)


def _beside(work: Work, register: Register, model: str) -> Champion:
    """Put the model in use beside its candidate, and score it on the test cases that sites have now, unless it was."""
    order = work.order
    champion = champion_run.restored(
        work.released, register, model, order.workspace / order.cohort, order.workspace / order.params
    )
    if not champion_run.is_scored(champion, work.standing, work.plan):
        params = champion_run.scoring_params(champion.params, work.plan)
        params = params.model_copy(update={"runtime": work.params.runtime})
        run = cli.Run(work.standing, params, champion.paths, Path(), surfaces=set(work.plan.gate.metrics) != {"dice"})
        inside.body(run)
        outside.body(run)
        champion_run.note_scored(champion, work.standing, work.plan)
    return champion


def _judge(work: Work, champion: Champion | None, reason: str) -> tuple[str, Path]:
    """Ask the gate; give its verdict and where it is."""
    before = None if champion is None else Contender(champion.paths, champion.params)
    plan = work.order.workspace / work.order.plan
    question = gates.Question(work.standing, before, Contender(work.paths, work.params), plan, reason)
    with locks.hold_folder(work.paths.checkpoints_dir), _trail(work):
        path = gate.judge_candidate(question)
    verdict, text = gates.summary(path)
    sys.stdout.write(text)
    return verdict, path


def _ask(work: Work, decision: Event, candidate: str, verdict: Path) -> str | None:
    """Read persons' answers in the trail; ask for them in Prefect's form if there is time for that.

    Returns:
        ``approve``, ``reject``, ``nobody`` if the time is over, None if nobody was asked and too few answered.
    """

    def answered() -> str | None:
        with _trail(work) as scribe:
            return cycle.answer(scribe, decision, candidate, timedelta(hours=work.plan.approval.within_hours))

    if (found := answered()) or not work.order.wait_seconds:
        return found
    deadline = time.monotonic() + work.order.wait_seconds
    told = ""
    while (found := answered()) is None:
        try:
            record = approval_form.ask(work.roster.name, candidate, verdict, told, seconds=deadline - time.monotonic())
        except FlowPauseTimeout:
            return answered() or "nobody"
        told = record if isinstance(record, str) else approving.taken(work.paths.audit, record)
    return found


def _version(work: Work) -> str:
    """Name the version: what was begun, what the order says, or the next one."""
    if work.released.journal.is_file():
        return Begun(**files.read_json(work.released.journal)).version  # type: ignore[arg-type]  # promotions write it
    return work.order.version or cycle.next_version(work.released)


def _finish(work: Work, decision: Event, candidate: str, version: str, *, verdict: Path | None = None) -> Ending:
    """Promote, or end a promotion that has begun; let sites remember what the champion knows; end the retraining."""
    if verdict is not None or work.released.journal.is_file():
        key = work.key
        if key is None:
            return Ending(WAITS, f"the promotion of {version} has begun and waits for its promoter")
        if verdict is None:
            with _trail(work):
                verdict = gates.last_verdict(work.paths, candidate)
        why, signer, tag_key = cycle.reason_of(decision), keys.load(key), work.order.tag_key
        told = promoting.promote(work.released, work.roster.name, version, verdict, why, signer=signer, tag_key=tag_key)
        sys.stdout.write(told)
    text = f"{version} is in use: {candidate}"
    if not champion_run.knows_what_is_there(work.released, version):
        return _end(work, cycle.PROMOTED, f"{text}; sites have other cases by now, so the reference of drift stays", candidate)
    drift.watch_sites(work.watch, sorted(site.name for site in work.standing.sites), remember=True)
    return _end(work, cycle.PROMOTED, text, candidate)


def _end(work: Work, how: str, text: str, model: str) -> Ending:
    """Close the retraining in the trail."""
    with _trail(work) as scribe:
        cycle.end(scribe, how, text, model=model, name=f"{work.roster.name}/global")
    return Ending(CODES.get(how, STAYS), text)


def _plan_of(work: Work) -> str:
    """Say what would be done; nothing is written, so the trail is read as it is on the disk."""
    stages = repro.outlook(work.order.workspace, repro.target_of(work.order.workspace, work.roster.name))
    return "\n".join([*cycle.outlook(work.released), *stages])
