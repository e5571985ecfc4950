"""Conformance: one suite a family, run over every registered variant."""

from portask_lab.conformance.suite import (
    Check,
    NotApplicable,
    Outcome,
    Violation,
    check,
    checks,
    conform,
    require,
)

__all__ = ["Check", "NotApplicable", "Outcome", "Violation", "check", "checks", "conform", "require"]
