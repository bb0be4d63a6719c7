"""How a test is left out where it cannot run."""

import os
from typing import NoReturn

import pytest


def leave_out(reason: str) -> NoReturn:
    """Skips the test on a person's machine; in CI, where everything can be had, fails it."""
    if os.environ.get("CI"):
        pytest.fail(f"cannot run here, and must in CI: {reason}")
    pytest.skip(reason)
