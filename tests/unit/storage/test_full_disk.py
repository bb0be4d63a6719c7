"""A full disk is one line that names it, whichever library finds it full; `/dev/full` is one."""

import errno
from pathlib import Path

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.storage import full_disk


@full_disk.in_one_line("output")
def write(output: Path, how) -> None:
    how(output)


def copied(output: Path) -> None:  # as shutil.copyfile raises it
    raise OSError(errno.ENOSPC, "No space left on device", "/source", None, str(output))


def with_tensorflow(output: Path) -> None:
    import tensorflow as tf

    tf.io.write_file(str(output), "x")


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(full_disk.tempfile, "gettempdir", lambda: "/dev/shm")
    (tmp_path / "output").symlink_to("/dev/full")
    return tmp_path / "output"


def of_another_library(output: Path) -> None:
    raise RuntimeError(f"cannot write: [Errno {errno.ENOSPC}] No space left on device")


@pytest.mark.parametrize("how", [lambda output: output.write_text("x"), of_another_library], ids=["Python", "another"])
def test_without_a_file_in_the_error_the_output_and_the_scratch_space_are_named(output, how):
    with pytest.raises(InputError) as caught:
        write(output, how)
    assert str(caught.value) == (
        f"error: the disk must have room for what is written; got No space left on device in {output.parent} or /dev/shm. "
        "Make room there, or write to a larger disk. TMPDIR names the one of temporary files."
    )


@pytest.mark.parametrize("how", [copied, pytest.param(with_tensorflow, marks=pytest.mark.slow)], ids=["a copy", "TensorFlow"])
def test_the_disk_of_the_file_in_the_error_is_named(output, how):
    with pytest.raises(InputError) as caught:
        write(output, how)
    found = f"got No space left on device in {output.parent}. Make room there, or write to a larger disk."
    assert str(caught.value) == f"error: the disk must have room for what is written; {found}"


def test_another_error_stays_as_it_is(output):
    with pytest.raises(FileNotFoundError):
        write(output.with_name("none"), Path.read_bytes)
