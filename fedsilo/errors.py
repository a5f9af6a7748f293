"""The exception tree: everything a user can cause ends in one line and exit code 1."""


class FedsiloError(Exception):
    """Root of all errors that a user can act on; the message is one line: what, where, expected, got."""


class ParamsError(FedsiloError):
    """A key or value in a params file, a cohort file or on the command line is wrong."""


class DataError(FedsiloError):
    """A file or folder of a site cannot be used; names the site and the file."""


class ContractError(FedsiloError):
    """Cases broke rules of the data contract; the message lists site, case, rule, found and expected."""


class StateMismatchError(FedsiloError):
    """Two states differ in keys, shapes or dtypes."""


class UpdateRefusedError(FedsiloError):
    """A site's update failed an admission check; ``check`` names it."""

    def __init__(self, check: str, message: str) -> None:
        """Keep the name of the refusing check beside the message."""
        super().__init__(f"[{check}] {message}")
        self.check = check


class OrderRefusedError(FedsiloError):
    """A server's order failed a check at the site; ``check`` names it."""

    def __init__(self, check: str, message: str) -> None:
        """Keep the name of the refusing check beside the message."""
        super().__init__(f"[{check}] {message}")
        self.check = check


class QuorumError(FedsiloError):
    """Too few updates of a round count; says which were refused or missing, and why."""


class CheckpointError(FedsiloError):
    """A stored state is missing, cut off or differs from its recorded SHA-256."""


class LostError(FedsiloError):
    """The process of a site's turn died."""


class DeadlineError(LostError):
    """A site's turn took longer than it may."""


class RoutingError(FedsiloError):
    """A network or list of experts cannot be routed."""


class OutputError(FedsiloError):
    """A result cannot be written where it belongs."""


class AuditRefusedError(FedsiloError):
    """A line of an audit log, or a checkpoint of it, is refused; ``code`` is one of a fixed list."""

    def __init__(self, code: str, log: str, line: int, reason: str) -> None:
        """Keep where and why; ``line`` counts from 1."""
        super().__init__(f"refused {log} line {line} {code}: {reason}")
        self.code, self.log, self.line, self.reason = code, log, line, reason
