"""Starts child processes that end with their parent, even if it is killed."""

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
    """Makes the kernel kill this process when its parent ends; does nothing outside Linux.

    Args:
        parent: the parent's process id; if it has ended already, this process exits with 1.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def command(arguments: Sequence[str]) -> list[str]:
    """Returns the command that runs `kfp-vision` in a child process that ends with this one.

    Args:
        arguments: of `kfp-vision`.
    """
    return [sys.executable, "-c", COMMAND_LINE, str(os.getpid()), *arguments]
