"""Publishing and rollback in a model repository in a folder; tests/services checks the same in buckets."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.exported_model import version

from kfp_vision.core.errors import InputError
from kfp_vision.repository import papers, publish
from kfp_vision.repository.version import VERSION_FILE, Version, versions


def numbers(path: Path) -> list[int]:
    return [one.number for one in versions(path)]


def weights(path: Path, number: int) -> bytes:
    return (path / str(number) / "variables" / "variables.index").read_bytes()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "made" / "repository"


@pytest.fixture
def repository(tmp_path, path) -> Path:
    """Creates a repository of three versions."""
    for number in (1, 2, 3):
        publish.publish(version(tmp_path / f"model-{number}" / "1", weights=b"%d" % number), str(path))
    return path


def test_publish_creates_the_next_version(tmp_path, path):
    first, second = version(tmp_path / "a" / "1"), version(tmp_path / "b" / "1", weights=b"better")
    assert publish.publish(first, str(path)) == 1
    assert publish.publish(second, f"file://{path}") == 2
    shutil.copytree(path / "1", path / "41")
    assert publish.publish(second, str(path)) == 42
    assert Version(path / "42").fingerprint == second.fingerprint
    assert sorted(entry.name for entry in path.iterdir()) == ["1", "2", "41", "42"]  # no partial version


def test_publishing_the_same_model_again_creates_no_version(tmp_path, path):
    one = version(tmp_path / "a" / "1")
    assert [publish.publish(one, str(path)) for _ in range(3)] == [1, 1, 1]
    assert numbers(path) == [1]


def test_a_repository_rejects_a_second_model_name(tmp_path, path):
    publish.publish(version(tmp_path / "a" / "1"), str(path))
    dogs = version(tmp_path / "b" / "1", name="dogs")
    for refused in (lambda: publish.publish(dogs, str(path)), lambda: publish.check_repository_name(str(path), "dogs")):
        with pytest.raises(InputError) as refusal:
            refused()
        assert f"must hold versions of one model; got flowers in {path}, and now dogs. " in str(refusal.value)
    publish.check_repository_name(str(path), "flowers")
    assert numbers(path) == [1]


def test_a_failed_publication_leaves_no_files(tmp_path, path):
    one = version(tmp_path / "a" / "1")
    _ = one.fingerprint, one.about
    shutil.rmtree(one.folder / "variables")
    (one.folder / "variables").symlink_to("/nowhere")
    with pytest.raises(shutil.Error):
        publish.publish(one, str(path))
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"model_name": "flowers"}'])
def test_a_damaged_version_does_not_keep_the_next_from_being_published(tmp_path, repository, content):
    file = repository / "3" / VERSION_FILE
    file.unlink() if content is None else file.write_bytes(content)
    assert not publish.is_trained_from(str(repository), "anything")
    publish.check_repository_name(str(repository), "flowers")
    with pytest.raises(InputError, match=r"must hold versions of one model; got flowers in .*, and now dogs\."):
        publish.publish(version(tmp_path / "dogs" / "1", name="dogs"), str(repository))
    assert publish.publish(version(tmp_path / "new" / "1", weights=b"4"), str(repository)) == 4
    assert numbers(repository) == [1, 2, 3, 4]


def test_damaged_aliases_are_found_out_before_a_version_is_published(tmp_path, repository):
    """Versions with an alias are kept, so that none may be removed while nobody knows which those are."""
    aliases = repository / papers.PAPERS_FOLDER / papers.ALIASES_FILE
    aliases.parent.mkdir()
    aliases.write_text("{")
    new = version(tmp_path / "new" / "1", weights=b"4")
    with pytest.raises(InputError, match=r"papers must be JSON .*aliases\.json\. Delete the file\."):
        publish.publish(new, str(repository), 2)
    assert numbers(repository) == [1, 2, 3]
    assert publish.publish(new, str(repository)) == 4


@pytest.mark.parametrize("broken", ["3", "2"])
def test_rollback_never_makes_a_damaged_version_the_newest(repository, broken):
    (repository / broken / VERSION_FILE).write_text("{")
    if broken == "3":
        assert publish.rollback(str(repository)) == ("flowers", 2, 4)
        return
    with pytest.raises(InputError, match="a version must have valid metadata"):
        publish.rollback(str(repository))
    assert numbers(repository) == [1, 2, 3]


@pytest.mark.parametrize(
    ("keep", "remaining"),
    [(0, [1, 2, 3, 4]), (1, [3, 4]), (2, [3, 4]), (3, [2, 3, 4]), (10, [1, 2, 3, 4])],
)
def test_keeps_the_requested_number_of_versions_and_never_removes_the_served_one(tmp_path, repository, keep, remaining):
    assert publish.publish(version(tmp_path / "new" / "1", weights=b"4"), str(repository), keep) == 4
    assert numbers(repository) == remaining
    assert sorted(entry.name for entry in repository.iterdir()) == [str(number) for number in remaining]
    assert [weights(repository, number) for number in remaining] == [b"%d" % number for number in remaining]


KILLED_REMOVAL = """
import os, shutil, signal, sys
from pathlib import Path
from kfp_vision.repository.version import Version

shutil.rmtree = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Version(Path(sys.argv[1])).remove()
"""


def test_a_killed_removal_leaves_no_version_and_its_files_are_removed_later(tmp_path, repository):
    done = subprocess.run([sys.executable, "-c", KILLED_REMOVAL, str(repository / "1")], check=False)
    assert done.returncode == -signal.SIGKILL and numbers(repository) == [2, 3]
    assert len(list(repository.iterdir())) == 3
    publish.publish(version(tmp_path / "new" / "1", weights=b"4"), str(repository))
    assert sorted(entry.name for entry in repository.iterdir()) == ["2", "3", "4"]


def test_publishing_an_existing_version_removes_none(tmp_path, repository):
    assert publish.publish(version(tmp_path / "again" / "1", weights=b"3"), str(repository), 2) == 3
    assert numbers(repository) == [1, 2, 3]


def test_rollback_republishes_the_previous_version(repository):
    assert publish.rollback(str(repository)) == ("flowers", 2, 4)
    assert numbers(repository) == [1, 2, 3, 4]
    assert weights(repository, 4) == b"2"


def test_rollback_republishes_the_given_version(repository):
    assert publish.rollback(str(repository), 1) == ("flowers", 1, 4)
    assert weights(repository, 4) == b"1"
    assert publish.rollback(str(repository), 1) == ("flowers", 1, 4)  # it is the newest already
    assert publish.rollback(str(repository), 4) == publish.rollback(str(repository), "newest") == ("flowers", 4, 4)
    assert numbers(repository) == [1, 2, 3, 4]


def test_rollback_to_a_missing_version_is_rejected_in_one_line(tmp_path, repository):
    with pytest.raises(InputError) as refusal:
        publish.rollback(str(repository), 7)
    assert str(refusal.value) == (
        f"error: there must be a version to go back to; got version 7 in {repository}, which has versions 1, 2, 3. "
        "Name another with --to."
    )
    for uri in (tmp_path / "nowhere", tmp_path / "model-1"):
        with pytest.raises(InputError) as refusal:
            publish.rollback(str(uri))
        found = "version 1 alone" if uri.exists() else "no version"
        line = f"error: there must be a version to go back to; got the one before the newest in {uri}, which has {found}. Give"
        assert str(refusal.value).startswith(line)


def rollback(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "rollback", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_rollback_command_reports_its_result(repository):
    done = rollback(repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"flowers: version 2 is the newest in {repository} again, as version 4\n"
    assert weights(repository, 4) == b"2"
    done = rollback(repository, "--to", 4)
    assert (done.returncode, done.stdout) == (0, f"flowers: version 4 is already the newest in {repository}\n")
    done = rollback(repository, "--to", 9)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there must be a version to go back to; got version 9 in ")
