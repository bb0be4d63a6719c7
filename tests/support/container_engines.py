"""Which container engine answers here: its command may be there without it."""

import shutil
import subprocess
from collections.abc import Sequence

from support.skip import leave_out

SECONDS_TO_ANSWER = 120


def answering(names: Sequence[str]) -> str:
    """The first of these commands whose engine answers; where none does, the test is left out."""
    program, reasons = found(names)
    return program or leave_out(reasons)


def found(names: Sequence[str]) -> tuple[str, str]:
    """The first of these commands whose engine answers, empty where none does, and why none before it was taken."""
    reasons = []
    for name in names:
        program = shutil.which(name)
        reason = _silence(program) if program else f"there is no {name}"
        if program and not reason:
            return program, "; ".join(reasons)
        reasons.append(reason)
    return "", "; ".join(reasons)


def _silence(program: str) -> str:
    """What an engine's command says where the engine does not answer; empty where it does."""
    try:
        done = subprocess.run([program, "info"], capture_output=True, text=True, check=False, timeout=SECONDS_TO_ANSWER)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} does not answer ({error})"
    said = done.stderr.strip().splitlines()[-1:] or ["not a word"]
    return f"{program} does not answer ({said[0]})" if done.returncode else ""
