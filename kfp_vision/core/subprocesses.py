"""Starts child processes that end with their parent, even if it is killed."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when its parent ends; does nothing outside Linux.

    Args:
        parent: the parent's process id; if it has ended already, this process exits with 1.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
