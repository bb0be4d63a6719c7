"""Arrays in files that are mapped into memory."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt


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
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            error.filename = str(file)
            raise
    return array
