"""All logs with one fault each, by name: that of the check that refuses it, and after two underscores a variant of the fault."""

from tests import audit_line_vectors, audit_order_vectors  # noqa: F401  # they add themselves
from tests.audit_faults import MAKERS, checks, make, without

__all__ = ["MAKERS", "checks", "make", "without"]
