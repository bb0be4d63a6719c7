"""Runs a module of this library in a process of its own, and turns whatever goes wrong there into one line.

Converters log hundreds of lines, keep their memory, change global state, and may crash; none of that reaches the stage.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

from kfp_vision.core import subprocesses
from kfp_vision.core.errors import InputError

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
    "PYTHONUNBUFFERED": "1",
}
MAX_TAIL = 1 << 16  # bytes of a log that are searched for the message


class ChildFailed(Exception):
    """A child process failed; the text is one line that says why."""


def run_child(module: str, arguments: Sequence[str], seconds: float) -> str:
    """Runs `python -m MODULE ARGUMENTS --parent PID`, and waits for its end.

    Args:
        module: full name of a module of this library, whose `main` ends with this process.
        arguments: of its command line.
        seconds: after which it is killed.

    Returns:
        The last line that it printed to its standard output; empty if none.

    Raises:
        ChildFailed: it failed, was killed, or took too long.
    """
    command = [sys.executable, "-m", module, *arguments, "--parent", str(os.getpid())]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        try:
            process = subprocess.run(
                command,
                stdout=output,
                stderr=log,
                env=os.environ | QUIET,
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"took more than {seconds:g} s") from None
        if process.returncode:
            raise ChildFailed(describe_failure(process.returncode, read_lines(log) or read_lines(output)))
        return (read_lines(output) or [""])[-1]


def parse_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line of a process that ends with its parent: the child's side of `run_child`.

    Args:
        parser: of its own arguments; gets the option `--parent`.
        arguments: the command line; by default that of the process.

    Returns:
        The parsed command line.
    """
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="end with this process, on Linux")
    options = parser.parse_args(arguments)
    if options.parent:
        subprocesses.end_with_parent(options.parent)
    return options


def describe_failure(code: int, lines: Sequence[str]) -> str:
    """Says in one line why a process failed.

    Args:
        code: its exit code; negative for a signal.
        lines: the end of its log, without empty lines.

    Returns:
        The error that it reported, else the last line of its log.
    """
    if code == -signal.SIGKILL:
        return "was killed, for lack of memory perhaps"
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    errors = [line for line in lines if line.startswith(InputError.PREFIX)]
    last = (errors or list(lines) or [f"ended with exit code {code}"])[-1]
    return " ".join(last.removeprefix(InputError.PREFIX).split())[:600]


def read_lines(file: IO[bytes]) -> list[str]:
    """Reads the end of what a child process has printed to a file, even while it prints.

    The child shares the file's position; it is left alone, since the child would write over its own lines otherwise.

    Args:
        file: the child's standard output or error.

    Returns:
        The last lines, without empty ones.
    """
    size = os.fstat(file.fileno()).st_size
    text = os.pread(file.fileno(), MAX_TAIL, max(0, size - MAX_TAIL)).decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()]
