"""An output that cannot be written, in one line.

A full disk is named, whatever has found it full: Python, TensorFlow or another library; and so is an output in a folder that is
read-only, or belongs to somebody else.
"""

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
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
REASONS = tuple(map(os.strerror, FULL))  # as the messages of TensorFlow and of other libraries have them
NAMED_FILE = re.compile(rf"(?:^|\s)(/[^;\n]+); (?:{'|'.join(REASONS)})")  # how TensorFlow names the file

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def in_one_line(*outputs: str) -> Callable[[Callable[Parameters, Returned]], Callable[Parameters, Returned]]:
    """Decorates a function that writes, so that a full disk and a read-only folder are errors of one line.

    Args:
        outputs: names of the parameters that say where it writes: paths, dictionaries of paths, or URIs, which count if they
            are local.

    Returns:
        The decorator. The function raises InputError in place of what finds the disk full or an output not writable, and any
        other error as it is.
    """

    def decorate(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def write(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                given = signature.bind(*args, **kwargs).arguments
                places = [path for name in outputs for place in _each(given.get(name)) if (path := _local(place))]
                if (reason := _reason(error)) is not None:
                    raise _full_disk(error, reason, places) from None
                if isinstance(error, OSError) and error.errno in FORBIDDEN and (file := _file(error)) and _is_of(file, places):
                    rule, found = "a folder that is written to must be writable", f"{file} ({os.strerror(error.errno)})"
                    remedy = "Check its permissions, and that its file system is not mounted read-only."
                    raise InputError(rule, found, remedy) from None
                raise

        return write

    return decorate


def _reason(error: Exception) -> str | None:
    """Returns the words of the system for a full disk; None if the error is another."""
    if isinstance(error, OSError) and error.errno in FULL:
        return os.strerror(error.errno)
    return next((reason for reason in REASONS if reason in str(error)), None)


def _full_disk(error: Exception, reason: str, places: list[Path]) -> InputError:
    scratch = Path(tempfile.gettempdir())
    candidates = [file] if (file := _file(error)) else [*places, scratch]
    folders = list(map(_existing, candidates))
    disks = {folder.stat().st_dev: folder for folder in reversed(folders)}
    named = [folder for folder in dict.fromkeys(folders) if folder in disks.values()]
    remedy = "Make room there, or write to a larger disk."
    if scratch.stat().st_dev in disks:
        remedy += " TMPDIR names the one of temporary files."
    return InputError("the disk must have room for what is written", f"{reason} in {' or '.join(map(str, named))}", remedy)


def _is_of(file: Path, places: list[Path]) -> bool:
    """Returns whether a file is one of the outputs, in one, beside one as a temporary file is, or a folder above one."""
    return any(file.parent == place.parent or file in place.parents or place in file.parents for place in places)


def _each(output: Any) -> list[Any]:
    return list(output.values()) if isinstance(output, Mapping) else [output]


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
