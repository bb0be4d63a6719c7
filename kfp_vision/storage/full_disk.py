"""A full disk in one line, which names the file system, whatever has found it full: Python, TensorFlow or another library."""

import errno
import functools
import inspect
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from kfp_vision.core.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
REASONS = tuple(map(os.strerror, FULL))  # as the messages of TensorFlow and of other libraries have them
NAMED_FILE = re.compile(rf"(?:^|\s)(/[^;\n]+); (?:{'|'.join(REASONS)})")  # how TensorFlow names the file

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def in_one_line(*outputs: str) -> Callable[[Callable[Parameters, Returned]], Callable[Parameters, Returned]]:
    """Decorates a function that writes, so that a full disk is an error of one line.

    Args:
        outputs: names of the parameters that say where it writes: paths, dictionaries of paths, or URIs, which count if they
            are local.

    Returns:
        The decorator. The function raises InputError in place of what finds the disk full, and any other error as it is.
    """

    def decorate(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def write(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if (reason := _reason(error)) is None:
                    raise
                given = signature.bind(*args, **kwargs).arguments
                raise _full_disk(error, reason, [given.get(name) for name in outputs]) from None

        return write

    return decorate


def _reason(error: Exception) -> str | None:
    """Returns the words of the system for a full disk; None if the error is another."""
    if isinstance(error, OSError) and error.errno in FULL:
        return os.strerror(error.errno)
    return next((reason for reason in REASONS if reason in str(error)), None)


def _full_disk(error: Exception, reason: str, outputs: list[Any]) -> InputError:
    scratch = Path(tempfile.gettempdir())
    if file := _file(error):
        candidates = [file]
    else:
        each = [list(output.values()) if isinstance(output, Mapping) else [output] for output in outputs]
        candidates = [path for paths in each for place in paths if (path := _local(place))] + [scratch]
    folders = list(map(_existing, candidates))
    disks = {folder.stat().st_dev: folder for folder in reversed(folders)}
    places = [folder for folder in dict.fromkeys(folders) if folder in disks.values()]
    remedy = "Make room there, or write to a larger disk."
    if scratch.stat().st_dev in disks:
        remedy += " TMPDIR names the one of temporary files."
    return InputError("the disk must have room for what is written", f"{reason} in {' or '.join(map(str, places))}", remedy)


def _local(place: object) -> Path | None:
    """Returns the path of an output; None for one in a bucket, and for none."""
    text = str(place or "").removeprefix("file://")
    return Path(text) if text and "://" not in text else None


def _file(error: Exception) -> Path | None:
    """Returns the file that did not fit, if the error names it."""
    if isinstance(error, OSError):
        names = (error.filename2, error.filename)  # of a copy, the second is the new one
        if name := next((name for name in names if isinstance(name, str)), None):
            return Path(name)
    found = NAMED_FILE.search(str(error))
    return Path(found[1]) if found else None


def _existing(path: Path) -> Path:
    """Returns the folder of a path that is there: what was half written is already removed."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
