"""Room for an array in a file is there before it is written to, or the disk is said to be full."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from kfp_vision.storage import mapped_arrays

SMALL_DISK = Path("/dev/shm")


@pytest.mark.parametrize("system_call", [True, False], ids=["Linux", "macOS"])
def test_all_of_the_file_has_room(system_call, tmp_path, monkeypatch):
    if not system_call:
        monkeypatch.delattr(os, "posix_fallocate")
        monkeypatch.setattr(mapped_arrays, "ZEROS_AT_A_TIME", 1000)
    array = mapped_arrays.create(tmp_path / "a.npy", np.float16, (300, 1000))
    status = (tmp_path / "a.npy").stat()
    assert status.st_blocks * 512 >= status.st_size
    assert array.shape == (300, 1000) and not array.any()
    array[299] = 2
    array.flush()
    assert np.load(tmp_path / "a.npy").sum() == 2000


def test_an_array_larger_than_the_disk_is_no_array(tmp_path):
    disk = os.statvfs(SMALL_DISK)
    file = SMALL_DISK / f"{tmp_path.parent.name}-{tmp_path.name}-{os.getpid()}.npy"
    try:
        with pytest.raises(OSError) as caught:
            mapped_arrays.create(file, np.uint8, (disk.f_frsize * (disk.f_blocks + 1),))
    finally:
        file.unlink(missing_ok=True)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
