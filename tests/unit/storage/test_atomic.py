"""Files with new names: complete or not there, and written without a look at the other files of the folder."""

from pathlib import Path

import pytest

from kfp_vision.storage import atomic, writing


def test_a_file_with_a_new_name_is_written_without_listing_its_folder(tmp_path, monkeypatch):
    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} is listed")  # which takes longer with every file that is written

    monkeypatch.setattr(Path, "iterdir", refuse)
    for number in range(3):
        atomic.write_new(tmp_path / "day" / "images" / f"{number}.jpg", b"%d" % number)
        writing.write_new_file(b"batch", str(tmp_path / "day" / f"{number}.gz"))
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in (tmp_path / "day" / "images").iterdir()} == {
        f"{number}.jpg": b"%d" % number for number in range(3)
    }
    assert sorted(file.name for file in (tmp_path / "day").glob("*.gz")) == ["0.gz", "1.gz", "2.gz"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic.write_new(tmp_path / "taken", b"content")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        atomic.write_new(tmp_path / "file" / "below", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


@pytest.mark.parametrize("folder", ["missing", "."])
def test_a_file_of_a_process_that_was_killed_is_removed_from_a_collection(tmp_path, folder):
    left = tmp_path / f".a.jpg.{atomic._writer()}{atomic.PARTIAL_SUFFIX}"  # of this very process: its number is the same again
    left.write_bytes(b"half")
    writing.remove_partial_files(str(tmp_path / folder))
    assert left.exists() == (folder == "missing")
