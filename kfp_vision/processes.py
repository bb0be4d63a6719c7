"""Processes that this one starts, and that must not go on without it, however it ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # of prctl(2)
COMMAND_LINE = """
import sys
from kfp_vision import cli, processes

processes.end_with(int(sys.argv.pop(1)))
sys.exit(cli.main())
"""


def end_with(parent: int) -> None:
    """Has the kernel end this process when its parent ends; where that is not Linux, nothing is done."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of `kfp-vision` with some arguments, for a process that ends with this one."""
    return [sys.executable, "-c", COMMAND_LINE, str(os.getpid()), *arguments]
