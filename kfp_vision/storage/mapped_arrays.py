"""Arrays in files that are mapped into memory."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

ZEROS_AT_A_TIME = 2**24  # bytes


def create(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """Creates an array in a NumPy file, with room on the disk for all of it.

    Without, the file has holes until they are written to, and the system kills a process that finds the disk full only then.

    Args:
        file: to create.
        dtype: of the array.
        shape: of the array.

    Returns:
        The array, of zeros.

    Raises:
        OSError: the disk has no room for it.
    """
    array = np.lib.format.open_memmap(file, "w+", dtype, shape)
    try:
        _fill_holes(file, array.offset)
    except OSError as error:
        error.filename = str(file)
        raise
    return array


def _fill_holes(file: Path, start: int) -> None:
    """Takes room on the disk for all of a file that is zero from an offset on."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
            return
        opened.seek(start)  # macOS does not have it
        for position in range(start, size, ZEROS_AT_A_TIME):
            opened.write(bytes(min(ZEROS_AT_A_TIME, size - position)))
