"""The audit trail: verify a log, show where a model comes from, prove a line, pack a model, keep keys, and more.

Exit code 0: verified, or done. 1: refused, with log, line and code on one line; or a model that is not in the log. 2: could not
be checked, since the log, keys or a checkpoint are missing, or the command is wrong.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from fedsilo.audit.events import Why
from fedsilo.audit.founding import Policy
from fedsilo.errors import AuditRefusedError, FedsiloError
from tasks import audit, evidence, packs
from tasks.audit import Books
from tasks.evidence import Evidence
from tasks.paths import AuditPaths

REFUSED, UNCHECKED = 1, 2


class UnknownModelError(FedsiloError):
    """A verified log says nothing of a model."""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    verify = _held_against(_command(commands, "verify", "verify a log with its checkpoints", held_against=True))
    verify.add_argument("--dvc", action="store_true", help="compare the workspace's files with what the log says of them, too")
    verify.add_argument("--json", action="store_true", help="write the verdict as JSON")
    verify.add_argument("--proof", type=Path, metavar="FILE", help="verify one line by what `prove` wrote, instead of a log")
    verify.add_argument("--pack", type=Path, metavar="DIR", help="verify a model by what `pack` wrote, instead of a log")
    verify.add_argument("--founding-hash", metavar="HASH", help="of --pack: what the founding's hash must be")
    show = _held_against(_command(commands, "show", "verify a log, then show where a model comes from", held_against=True))
    show.add_argument("model", metavar="MODEL", help="the model's file, or its SHA-256")
    show.add_argument("--json", action="store_true", help="write all of it as JSON")
    prove = _command(commands, "prove", "write a proof that a line is in the log")
    prove.add_argument("seq", type=int, metavar="SEQ", help="the line's seq, from 0")
    pack = _command(commands, "pack", "write a model with its description and the proof that the log speaks of it")
    pack.add_argument("model", type=Path, metavar="MODEL", help="in a run's folder")
    pack.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    _key(pack, "the server's")
    _key(_command(commands, "open", "begin a log"), "a server's, or that of the site whose log it is")
    _key(_command(commands, "checkpoint", "verify the log, then state its size and root"), "as for open")
    _key(_command(commands, "recover", "move a line aside that was cut off while it was written"), "as for open")
    export = _command(commands, "export", "write a verified log in another form")
    export.add_argument("--format", choices=sorted(audit.FORMATS), required=True)
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--key", type=Path, metavar="FILE", help="an auditor's private key: tell of the export in the log")
    _add_keys(commands.add_parser("keys", help="make, list, add and revoke keys; found a federation"))
    return made


def _add_keys(made: argparse.ArgumentParser) -> None:
    """Add the commands on keys."""
    commands = made.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = commands.add_parser("new", help="make a private key")
    new.add_argument("file", type=Path, metavar="FILE")
    show = commands.add_parser("show", help="write the public half of a key with whom it is for")
    show.add_argument("file", type=Path, metavar="FILE", help="the private key")
    show.add_argument("--actor", required=True, help="short name, a-z, 0-9, _ and -")
    show.add_argument("--name", required=True, help="name in print")
    show.add_argument("--role", action="append", required=True, help="server; site; or any of approver, promoter, admin, auditor")
    show.add_argument("--site", help="of a site's key, the site")
    show.add_argument("--days", type=int, default=730, help="how long it is valid from now (default: %(default)s)")
    found = _command(commands, "found", "write a founding of some public halves")
    found.add_argument("entries", type=Path, nargs="+", metavar="FILE", help="what `keys show` wrote")
    found.add_argument("--quorum", type=int, default=2, help="admins who must sign it and each change (default: %(default)s)")
    found.add_argument("--approvals", type=int, default=1, help="approvers of a promotion (default: %(default)s)")
    found.add_argument("--one-person", action="store_true", help="let a person promote what they approved")
    _key(_command(commands, "sign", "sign a founding"), "an admin's")
    add = _command(commands, "add", "sign that a key is added")
    add.add_argument("entry", type=Path, metavar="FILE", help="what `keys show` wrote")
    revoke = _command(commands, "revoke", "sign that a key is revoked")
    revoke.add_argument("name", metavar="KEY", help="ed25519:...")
    revoke.add_argument(
        "--lines",
        type=int,
        metavar="N",
        help="only what it signed in the first N lines counts (default: all that it signed so far)",
    )
    revoke.add_argument(
        "--end-log",
        action="store_true",
        help="sign it though the key signed later lines: once the quorum has, this log is refused for ever",
    )
    for changed in (add, revoke):
        _key(changed, "an admin's")
        changed.add_argument("--why", required=True, metavar="TEXT", help="the reason")
        changed.add_argument("--request", default="keys", metavar="ID", help="id of the request behind it (default: %(default)s)")
    _command(commands, "list", "write the register")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, *, held_against: bool = False
) -> argparse.ArgumentParser:
    """Add a command with the options that say which log; one that holds it against more has its own ``--against``."""
    made = commands.add_parser(name, help=text)
    made.add_argument("--federation", default="demo", help="name of the federation (default: %(default)s)")
    made.add_argument("--log", default="federation", help="its own log, or the name of a site (default: %(default)s)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder that holds audit/ (default: here)")
    made.add_argument("--file", type=Path, metavar="FILE", help="the log, if it lies elsewhere; its name says which log it is")
    made.add_argument("--keys", type=Path, metavar="FILE", help="the founding, if it lies elsewhere")
    if not held_against:
        made.add_argument("--against", type=Path, metavar="PATH", help="a checkpoint, or a folder of them, if they lie elsewhere")
    made.add_argument("--federation-log", type=Path, metavar="FILE", help="for a site's log: the federation's, if elsewhere")
    return made


def _held_against(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options for checkpoints that are kept elsewhere."""
    made.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="GIT|PATH",
        help="checkpoints kept elsewhere must hold, too: a file, a folder, or git:REF for those of a commit; may be repeated",
    )
    made.add_argument(
        "--since",
        type=Path,
        metavar="PATH",
        help="a checkpoint that was verified before: signatures under it are not checked again",
    )
    return made


def _key(made: argparse.ArgumentParser, whose: str) -> None:
    """Add the option for a private key."""
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help=f"private key: {whose}")


def books(options: argparse.Namespace) -> Books:
    """Say which files the options name."""
    paths = AuditPaths(options.workspace, options.federation)
    name = options.log if options.file is None else options.file.stem
    elsewhere = options.against if isinstance(options.against, Path) else None
    return Books(
        log=options.file or paths.log(options.log),
        founding=options.keys or paths.founding,
        checkpoints=elsewhere or paths.checkpoints_dir(name),
        federation_log=options.federation_log or paths.log("federation"),
        federation_checkpoints=paths.checkpoints_dir("federation"),
    )


def held_against(options: argparse.Namespace) -> tuple[Books, Evidence]:
    """Say which log is held against what.

    A log that lies elsewhere has nothing to do with the workspace's checkpoints if others are named.
    """
    own = options.file is None or not options.against
    return books(options), Evidence(options.workspace, options.against, options.since, own=own)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(argv)
    try:
        sys.stdout.write(COMMANDS[options.command](options))
    except UnknownModelError as error:
        return _end(options, REFUSED, {"reason": str(error)}, error, verdict="unknown")
    except AuditRefusedError as error:
        return _end(options, REFUSED, {"log": error.log, "line": error.line, "code": error.code, "reason": error.reason}, error)
    except FedsiloError as error:
        return _end(options, UNCHECKED, {"reason": str(error)}, error)
    return 0


def _end(
    options: argparse.Namespace, code: int, told: dict[str, object], error: FedsiloError, *, verdict: str | None = None
) -> int:
    """Say what went wrong."""
    if getattr(options, "json", False):
        verdict = verdict or ("refused" if code == REFUSED else "unchecked")
        sys.stdout.write(json.dumps({"verdict": verdict, **told}, sort_keys=True) + "\n")
    sys.stderr.write(f"fedsilo: {error}\n")
    return code


def verify(options: argparse.Namespace) -> str:
    """Verify a log, one line by its proof, or a model by its pack."""
    if options.proof is not None:
        return audit.check_proof(options.proof, books(options).founding)
    if options.pack is not None:
        return packs.check(options.pack, options.founding_hash)
    files, more = held_against(options)
    return evidence.verify(files, more, compare=options.dvc, as_json=options.json)


def show(options: argparse.Namespace) -> str:
    """Show where a model comes from."""
    files, more = held_against(options)
    found = evidence.show(files, more, options.model, as_json=options.json)
    if found is None:
        raise UnknownModelError(f"{options.model} is in no line of {files.log}")
    return found


def keys(options: argparse.Namespace) -> str:
    """Make, list, add and revoke keys; found a federation."""
    return ACTIONS[options.action](options)


def _show(options: argparse.Namespace) -> str:
    roles, site = tuple(options.role), options.site
    return audit.public_entry(options.file, actor=options.actor, name=options.name, roles=roles, site=site, days=options.days)


def _found(options: argparse.Namespace) -> str:
    policy = Policy(options.quorum, options.approvals, separate_promoter=not options.one_person)
    return audit.found(books(options).founding, options.federation, options.entries, policy)


def _why(options: argparse.Namespace) -> Why:
    return Why(options.request, options.why)


def _revoke(options: argparse.Namespace) -> str:
    files, lines, ends = books(options), options.lines, options.end_log
    return audit.revoke_key(files, options.name, options.key, _why(options), num_lines=lines, end_log=ends)


ACTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "new": lambda options: audit.new_key(options.file),
    "show": _show,
    "found": _found,
    "sign": lambda options: audit.sign_founding(books(options).founding, options.key),
    "add": lambda options: audit.add_key(books(options), options.entry, options.key, _why(options)),
    "revoke": _revoke,
    "list": lambda options: audit.list_keys(books(options)),
}
COMMANDS: dict[str, Callable[[argparse.Namespace], str]] = {
    "verify": verify,
    "show": show,
    "pack": lambda options: packs.pack(books(options), options.model, options.out, options.key),
    "prove": lambda options: audit.prove(books(options), options.seq),
    "open": lambda options: audit.begin(books(options), options.key),
    "checkpoint": lambda options: audit.checkpoint(books(options), options.key),
    "recover": lambda options: audit.recover(books(options), options.key),
    "export": lambda options: audit.export(books(options), options.format, options.out, options.key),
    "keys": keys,
}


if __name__ == "__main__":
    sys.exit(main())
