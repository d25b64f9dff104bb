"""Whether a recorded stream keeps what docs/protocol.md promises: pure functions over its bytes."""

from app.conformance.form import Form, Problem
from app.conformance.report import Report, check

__all__ = ["Form", "Problem", "Report", "check"]
