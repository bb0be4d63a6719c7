"""Atomic writes: a file or folder appears under its name only when it is complete."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_vision.core import json_text
from kfp_vision.storage import unwritable

# Suffixes of temporary names next to an output: the new version, the version it replaces, and a working folder.
PARTIAL_SUFFIX, BACKUP_SUFFIX, SCRATCH_SUFFIX = ".partial", ".before", ".scratch"
TEMPORARY_PREFIX = "kfp-vision"  # prefix of temporary folders


def hard_link(file: Path, place: Path) -> None:
    """Creates a hard link to a file, or a copy if the file system has no links.

    Args:
        file: that exists.
        place: its new path.
    """
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Makes an output atomic: the body writes to a temporary path, which is moved into place if the body succeeds.

    Args:
        path: of the file or the folder to create or replace.

    Yields:
        The temporary path, next to the final one.

    Example:
        ```python
        with replacing(Path("labels.json")) as beside:
            beside.write_text("{}")
        ```
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    beside = path.with_name(f".{path.name}.{_writer()}{PARTIAL_SUFFIX}")
    before = path.with_name(f".{path.name}.{_writer()}{BACKUP_SUFFIX}")
    _remove(beside)
    _remove(before)
    try:
        yield beside
        if path.is_dir():  # moved first, as being killed during a removal would leave half a folder
            path.replace(before)
        beside.replace(path)
    finally:
        _remove(beside)
        _remove(before)


def write_new(path: Path, content: bytes) -> None:
    """Writes a file under a name that was never used before, atomically; creates the folder if it is missing.

    `replacing` looks through the whole folder for what killed processes left of the same file, which takes longer with each
    file in it. Of a new name nothing can be left, so that this takes as long for the hundred-thousandth file as for the first.

    Args:
        path: of the file.
        content: to write.
    """
    beside = path.with_name(f".{path.name}.{_writer()}{PARTIAL_SUFFIX}")
    try:
        try:
            beside.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # such as the one that is raised
            beside.unlink(missing_ok=True)
        raise


@unwritable.in_one_line("path")
def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes indented JSON to a file, atomically.

    Args:
        path: of the file.
        content: to write.
    """
    with replacing(path) as beside:
        beside.write_text(json_text.write(content, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Creates a working folder next to a path, on the same file system; removes it after the body.

    Args:
        path: of the future output.

    Yields:
        The folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    folder = path.with_name(f".{path.name}.{_writer()}{SCRATCH_SUFFIX}")
    _remove(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Creates a temporary folder; removes it after the body.

    First removes the leftovers of processes that were killed: a few unpacked archives fill a disk.

    Yields:
        The folder.
    """
    place = Path(tempfile.gettempdir())
    _remove_leftovers(place / TEMPORARY_PREFIX)
    with tempfile.TemporaryDirectory(prefix=f".{TEMPORARY_PREFIX}.{_writer()}.", suffix=SCRATCH_SUFFIX, dir=place) as folder:
        yield Path(folder)


def remove_partial_files(folder: Path) -> None:
    """Removes the incomplete files below a folder that killed processes of this host left, whatever their names.

    For the start of a process that has written nothing yet: in a container that starts again, its number is the same.

    Args:
        folder: to look in, recursively.
    """
    for left in folder.rglob(f".*{PARTIAL_SUFFIX}"):
        named, _, process = left.name.removesuffix(PARTIAL_SUFFIX).rpartition(".")
        is_from_here = named.endswith(f".{socket.gethostname()}") and process.isdecimal()
        if is_from_here and (int(process) == os.getpid() or not _is_alive(int(process))):
            with contextlib.suppress(OSError):  # another process is removing it too
                _remove(left)


def _writer() -> str:
    """Returns the identifier of this process in temporary names."""
    return f"{socket.gethostname()}.{os.getpid()}"


def _remove_leftovers(path: Path) -> None:
    """Removes the temporary outputs of processes of this host that were killed; other hosts' may still be running."""
    begin = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.iterdir():
        if left.name.startswith(begin) and left.suffix in (PARTIAL_SUFFIX, BACKUP_SUFFIX, SCRATCH_SUFFIX):
            process = left.name.removeprefix(begin).partition(".")[0]
            if process.isdecimal() and not _is_alive(int(process)):
                with contextlib.suppress(OSError):  # another user's, or another process is removing it too
                    _remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
