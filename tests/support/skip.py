"""Skips tests that cannot run on this machine, and the slow ones where nobody asked for them."""

import os
from collections.abc import Iterable
from typing import NoReturn

import pytest

SLOW_REASON = "slow: make test ALL=1 includes it"


def skip_slow(items: Iterable[pytest.Item]) -> None:
    """Skips the tests marked as slow, with the reason."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=SLOW_REASON))


def leave_out(reason: str) -> NoReturn:
    """Skips the test; fails it in CI, where every requirement must be available."""
    if os.environ.get("CI"):
        pytest.fail(f"cannot run here, and must in CI: {reason}")
    pytest.skip(reason)
