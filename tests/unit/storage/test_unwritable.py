"""A full disk is one line that names it, whichever library finds it full, and so is a read-only folder; `/dev/full` is full."""

import errno
import os
from pathlib import Path

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.storage import atomic, unwritable


@unwritable.in_one_line("output")
def write(output: Path, how) -> None:
    how(output)


def copied(output: Path) -> None:  # as shutil.copyfile raises it
    raise OSError(errno.ENOSPC, "No space left on device", "/source", None, str(output))


def with_tensorflow(output: Path) -> None:
    import tensorflow as tf

    tf.io.write_file(str(output), "x")


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(unwritable.tempfile, "gettempdir", lambda: "/dev/shm")
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


@pytest.mark.parametrize(
    ("uri", "places"),
    [
        ("{}/collected", "{} or /dev/shm"),
        ("file://{}/collected", "{} or /dev/shm"),
        ("s3://bucket/a", "/dev/shm"),
        ("", "/dev/shm"),
    ],
)
def test_an_output_that_is_a_uri_is_named_if_it_is_local(tmp_path, monkeypatch, uri, places):
    monkeypatch.setattr(unwritable.tempfile, "gettempdir", lambda: "/dev/shm")
    with pytest.raises(InputError) as caught:
        write(uri.format(tmp_path), lambda _: Path("/dev/full").write_text("x"))
    assert f"got No space left on device in {places.format(tmp_path)}. Make room" in str(caught.value)


def test_a_file_of_json_that_does_not_fit_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: Path("/dev/full").write_bytes(b"x"))
    with pytest.raises(InputError, match="the disk must have room for what is written"):
        atomic.write_json(tmp_path / "metrics.json", {"accuracy": 1.0})


def test_another_error_stays_as_it_is(output):
    with pytest.raises(FileNotFoundError):
        write(output.with_name("none"), Path.read_bytes)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("file", ["stage", "stage/records", "stage/.records.host-7.partial", "stage/records/train"])
def test_a_folder_that_is_read_only_is_named(tmp_path, number, file):
    def forbid(_: Path) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / file))

    with pytest.raises(InputError) as caught:
        write(tmp_path / "stage" / "records", forbid)
    rule = f"a folder that is written to must be writable; got {tmp_path / file} ({os.strerror(number)})"
    assert str(caught.value) == f"error: {rule}. Check its permissions, and that its file system is not mounted read-only."


def test_a_real_folder_where_nobody_may_write_is_named():
    with pytest.raises(InputError, match=r"must be writable; got /sys/stage \("):
        write(Path("/sys/stage/records"), lambda path: path.parent.mkdir())


def test_an_input_that_must_not_be_read_is_another_error(tmp_path):
    def read(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "images" / "1.jpg"))

    with pytest.raises(PermissionError):
        write(tmp_path / "stage" / "records", read)
