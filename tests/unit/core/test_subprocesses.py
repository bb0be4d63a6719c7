"""Processes that end with the one that has started them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kfp_vision.core import subprocesses

NAME = "KFP_VISION_TEST_OF_ENDING"
IGNORES_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
# What it starts becomes an orphan at its own end, as the stage of a shell that is told to stop.
HAS_A_CHILD = "import subprocess, time; subprocess.Popen(['sleep', '600']); print(flush=True); time.sleep(600)"


def started(program: str, value: str) -> subprocess.Popen:
    """Starts a program, and returns once it prints."""
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, env=os.environ | {NAME: value}, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "\n"
    return process


@pytest.mark.parametrize(
    ("program", "seconds", "status"), [(HAS_A_CHILD, 60, signal.SIGTERM), (IGNORES_SIGTERM, 0.1, signal.SIGKILL)]
)
def test_ends_all_processes_of_an_environment_and_no_other(program, seconds, status):
    with started(program, "ours") as ours, started(program, "others") as others:
        subprocesses.end_all(NAME, "ours", seconds)
        assert ours.wait() == -status and others.poll() is None
        assert subprocesses.tell_all(NAME, "ours", 0) == 0
        assert subprocesses.tell_all(NAME, "others", 0) == (2 if program == HAS_A_CHILD else 1)
        subprocesses.end_all(NAME, "others", 0)


def test_a_process_that_is_killed_takes_its_own_with_it():
    program = (
        "import os, subprocess, sys, time\n"
        "from kfp_vision.core import subprocesses\n"
        f"os.environ[{NAME!r}] = 'ours'\n"
        f"with subprocesses.ending_with_this({NAME!r}, 'ours', 60):\n"
        "    subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    print(flush=True)\n"
        "    time.sleep(600)"
    )
    with started(program, "killer") as process:
        assert subprocesses.tell_all(NAME, "ours", subprocesses.NO_SIGNAL) == 1
        process.kill()
    deadline = time.monotonic() + 60
    while subprocesses.tell_all(NAME, "ours", subprocesses.NO_SIGNAL) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert subprocesses.tell_all(NAME, "ours", subprocesses.NO_SIGNAL) == 0
