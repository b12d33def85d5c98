"""Which cases of a test run after each change, and which wait for the slow tier."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def tiered(every: Iterable[object], slow: Collection[object]) -> list[Any]:
    """Cases to parametrise with; those in `slow` run in `make test-ci` and not in `make test`.

    Args:
        every: All cases, in their order.
        slow: Those of them that take long; a case like each of them stays fast.
    """
    cases = list(every)
    assert all(case in cases for case in slow), f"{slow} are not all among {cases}"
    return [pytest.param(case, marks=pytest.mark.slow) if case in slow else case for case in cases]
