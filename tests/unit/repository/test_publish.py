"""What changes a model repository in a folder; in a bucket the same is held by the tests of services."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.exported_model import version

from kfp_vision.core.errors import InputError
from kfp_vision.repository import publish
from kfp_vision.repository.version import Version, versions


def numbers(path: Path) -> list[int]:
    return [one.number for one in versions(path)]


def weights(path: Path, number: int) -> bytes:
    return (path / str(number) / "variables" / "variables.index").read_bytes()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "made" / "repository"


@pytest.fixture
def filled(tmp_path, path) -> Path:
    """A repository of three versions."""
    for number in (1, 2, 3):
        publish.publish(version(tmp_path / f"model-{number}" / "1", weights=b"%d" % number), str(path))
    return path


def test_publishing_makes_the_next_version(tmp_path, path):
    first, second = version(tmp_path / "a" / "1"), version(tmp_path / "b" / "1", weights=b"better")
    assert publish.publish(first, str(path)) == 1
    assert publish.publish(second, f"file://{path}") == 2
    shutil.copytree(path / "1", path / "41")
    assert publish.publish(second, str(path)) == 42
    assert Version(path / "42").fingerprint == second.fingerprint
    assert sorted(entry.name for entry in path.iterdir()) == ["1", "2", "41", "42"]  # and nothing half-made


def test_publishing_twice_is_publishing_once(tmp_path, path):
    one = version(tmp_path / "a" / "1")
    assert [publish.publish(one, str(path)) for _ in range(3)] == [1, 1, 1]
    assert numbers(path) == [1]


def test_a_repository_holds_one_model(tmp_path, path):
    publish.publish(version(tmp_path / "a" / "1"), str(path))
    dogs = version(tmp_path / "b" / "1", name="dogs")
    for refused in (lambda: publish.publish(dogs, str(path)), lambda: publish.check_repository_name(str(path), "dogs")):
        with pytest.raises(InputError) as refusal:
            refused()
        assert f"must hold versions of one model; got flowers in {path}, and now dogs. " in str(refusal.value)
    publish.check_repository_name(str(path), "flowers")
    assert numbers(path) == [1]


def test_a_publication_that_fails_leaves_nothing(tmp_path, path):
    one = version(tmp_path / "a" / "1")
    _ = one.fingerprint, one.about
    shutil.rmtree(one.folder / "variables")
    (one.folder / "variables").symlink_to("/nowhere")
    with pytest.raises(shutil.Error):
        publish.publish(one, str(path))
    assert list(path.iterdir()) == []


@pytest.mark.parametrize(
    ("kept", "left"),
    [(0, [1, 2, 3, 4]), (1, [3, 4]), (2, [3, 4]), (3, [2, 3, 4]), (10, [1, 2, 3, 4])],
)
def test_old_versions_are_kept_to_a_number_and_the_one_that_is_served_stays(tmp_path, filled, kept, left):
    assert publish.publish(version(tmp_path / "new" / "1", weights=b"4"), str(filled), kept) == 4
    assert numbers(filled) == left
    assert sorted(entry.name for entry in filled.iterdir()) == [str(number) for number in left]
    assert [weights(filled, number) for number in left] == [b"%d" % number for number in left]


def test_publishing_what_is_there_removes_nothing(tmp_path, filled):
    assert publish.publish(version(tmp_path / "again" / "1", weights=b"3"), str(filled), 2) == 3
    assert numbers(filled) == [1, 2, 3]


def test_the_version_before_the_newest_comes_back_as_the_newest(filled):
    assert publish.rollback(str(filled)) == ("flowers", 2, 4)
    assert numbers(filled) == [1, 2, 3, 4]
    assert weights(filled, 4) == b"2"


def test_a_version_of_any_number_comes_back(filled):
    assert publish.rollback(str(filled), 1) == ("flowers", 1, 4)
    assert weights(filled, 4) == b"1"
    assert publish.rollback(str(filled), 1) == ("flowers", 1, 4)  # it is the newest already
    assert publish.rollback(str(filled), 4) == ("flowers", 4, 4)
    assert numbers(filled) == [1, 2, 3, 4]


def test_what_cannot_come_back_is_one_clear_line(tmp_path, filled):
    with pytest.raises(InputError) as refusal:
        publish.rollback(str(filled), 7)
    assert str(refusal.value) == (
        f"error: there must be a version to go back to; got version 7 of 1, 2, 3 in {filled}. Name another with --to."
    )
    for uri in (tmp_path / "nowhere", tmp_path / "model-1"):
        with pytest.raises(InputError) as refusal:
            publish.rollback(str(uri))
        there = "1" if uri.exists() else "none"
        line = f"error: there must be a version to go back to; got the one before the newest of {there} in {uri}. Give"
        assert str(refusal.value).startswith(line)


def rollback(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "rollback", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_what_it_has_done(filled):
    done = rollback(filled)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"flowers: version 2 is the newest in {filled} again, as version 4\n"
    assert weights(filled, 4) == b"2"
    done = rollback(filled, "--to", 4)
    assert (done.returncode, done.stdout) == (0, f"flowers: version 4 is already the newest in {filled}\n")
    done = rollback(filled, "--to", 9)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there must be a version to go back to; got version 9 of 1, 2, 3, 4 in ")
