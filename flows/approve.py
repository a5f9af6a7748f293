"""Approve or reject a candidate: sign what the gate said of it, append the signed document to the trail, or carry it there.

With --key a person signs: --show writes what would be signed, --out writes the signed document for the way, without either it is
appended here. --document appends one that was signed elsewhere. Who may approve, and how many must, the founding says.
"""

import argparse
import sys
from pathlib import Path

from fedsilo.audit import approvals, keys
from flows import cli
from tasks import approving, evidence
from tasks.paths import AuditPaths


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--federation", default="demo", help="name of the federation (default: %(default)s)")
    made.add_argument("--workspace", type=Path, default=Path(), help="folder that holds audit/ and keys/ (default: here)")
    made.add_argument("--candidate", metavar="FILE|HASH", help="the global model, or its SHA-256")
    made.add_argument("--verdict", type=Path, metavar="FILE", help="the gate's verdict as it was written")
    made.add_argument("--decision", choices=("approve", "reject"))
    made.add_argument("--reason", metavar="TEXT", help="why")
    made.add_argument(
        "--meaning",
        choices=("review", "approval", "responsibility", "authorship"),
        default="approval",
        help="what the signature means (default: %(default)s)",
    )
    made.add_argument("--missing", metavar="TEXT", help="if the verdict is inconclusive: the evidence you answer for")
    made.add_argument("--key", type=Path, metavar="FILE", help="private key: an approver's")
    made.add_argument("--document", type=Path, metavar="FILE", help="append what was signed elsewhere, instead of signing")
    made.add_argument("--out", type=Path, metavar="FILE", help="write the signed document, append nothing")
    made.add_argument("--show", action="store_true", help="write what would be signed, sign nothing")
    made.add_argument(
        "--hours", type=int, default=approvals.HOURS, help="how old a document may be when it is appended (default: %(default)s)"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 if the document does not count."""
    made = parser()
    options = made.parse_args(argv)
    told = (options.candidate, options.verdict, options.decision, options.reason, options.key)
    if options.document is not None and (any(told) or options.out or options.show):
        made.error("--document stands alone: what it says was signed elsewhere")
    if options.document is None and not all(told):
        made.error("expected --candidate, --verdict, --decision, --reason and --key, or --document")
    return cli.guard(lambda: sys.stdout.write(_run(options)))


def _run(options: argparse.Namespace) -> str:
    paths = AuditPaths(options.workspace, options.federation)
    if options.document is not None:
        return approving.append(paths, approving.read(options.document), hours=options.hours)
    approval = approving.draw_up(
        options.federation,
        evidence.hash_of(options.candidate),
        options.verdict,
        decision=options.decision,
        reason=options.reason,
        meaning=options.meaning,
        missing=options.missing,
    )
    signer = keys.load(options.key)
    if options.show:
        return approvals.text(approval, signer.key)
    record = approving.sign(approval, signer)
    if options.out is not None:
        return approving.write(record, options.out)
    return approving.append(paths, record, hours=options.hours)


if __name__ == "__main__":
    sys.exit(main())
