"""Ends processes with the one that has started them, even if it is killed, or cannot tell which they are."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl(2)
NO_SIGNAL = 0  # of kill(2): only asks whether the process exists
POLL_SECONDS = 0.05
SIGTERM_STATUS = 143  # exit status of a process that ends by itself on SIGTERM, as shells count


def end_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when its parent ends; does nothing outside Linux.

    Args:
        parent: the parent's process id; if it has ended already, this process exits with 1.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def tell_all(name: str, value: str, number: int) -> int:
    """Sends a signal to all other processes that were started with an environment variable, whoever started them.

    Args:
        name: of the variable.
        value: that it has.
        number: of the signal.

    Returns:
        How many processes there are; 0 outside Linux.
    """
    told = 0
    for process in _started_with(name, value):
        with contextlib.suppress(OSError):  # it has just ended
            os.kill(process, number)
            told += 1
    return told


def end_all(name: str, value: str, seconds: float) -> None:
    """Ends all other processes that were started with an environment variable: tells them, and kills those that stay.

    Args:
        name: of the variable.
        value: that it has.
        seconds: that they have to end by themselves.
    """
    deadline, number, empty_looks = time.monotonic() + seconds, int(signal.SIGTERM), 0
    while empty_looks < 2:  # a process that replaces its program just then seems to have no environment
        empty_looks = 0 if tell_all(name, value, number) else empty_looks + 1
        number = signal.SIGKILL if time.monotonic() > deadline else NO_SIGNAL
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def ending_with_this(name: str, value: str, seconds: float) -> Iterator[None]:
    """Ends all processes that were started with an environment variable, see `end_all`, when the body or this process ends.

    A process of its own ends them if this one is killed; it waits for the end of its input, which this process holds open, and
    would any that is forked from it without a program of its own.

    Args:
        name: of the variable.
        value: that it has.
        seconds: that they have to end by themselves.
    """
    environment = {other: text for other, text in os.environ.items() if other != name}
    command = [sys.executable, "-m", __name__, name, value, str(seconds)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True):
        try:
            yield
        finally:
            end_all(name, value, seconds)


def _started_with(name: str, value: str) -> Iterator[int]:
    wanted = f"{name}={value}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if int(file.parent.name) != os.getpid() and wanted in file.read_bytes().split(b"\0"):
                yield int(file.parent.name)


if __name__ == "__main__":
    sys.stdin.read()
    end_all(sys.argv[1], sys.argv[2], float(sys.argv[3]))
