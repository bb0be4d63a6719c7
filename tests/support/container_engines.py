"""Finds a container engine that responds; its command may be installed without it."""

import shutil
import subprocess
from collections.abc import Sequence

from support.skip import leave_out

SECONDS_TO_ANSWER = 120


def answering(names: Sequence[str]) -> str:
    """Returns the first of these commands whose engine responds; without one, skips the test."""
    program, reasons = found(names)
    return program or leave_out(reasons)


def found(names: Sequence[str]) -> tuple[str, str]:
    """Returns the first of these commands whose engine responds, or an empty string, and why earlier ones do not."""
    reasons = []
    for name in names:
        program = shutil.which(name)
        reason = _engine_error(program) if program else f"there is no {name}"
        if program and not reason:
            return program, "; ".join(reasons)
        reasons.append(reason)
    return "", "; ".join(reasons)


def _engine_error(program: str) -> str:
    """Returns why an engine does not respond; empty if it does."""
    try:
        process = subprocess.run([program, "info"], capture_output=True, text=True, check=False, timeout=SECONDS_TO_ANSWER)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} does not answer ({error})"
    last_lines = process.stderr.strip().splitlines()[-1:] or ["not a word"]
    return f"{program} does not answer ({last_lines[0]})" if process.returncode else ""
