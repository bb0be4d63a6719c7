import json
import shutil
from pathlib import Path

import pytest

from kfp_vision import repository
from kfp_vision.errors import InputError
from kfp_vision.repository import Version


def version(folder: Path, name: str = "flowers", weights: bytes = b"weights") -> Version:
    """A version as it lies in a repository; nothing here loads it."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(weights)
    (folder / "assets.extra").mkdir()
    about = {"model_name": name, "labels": ["daisy", "tulip"], "image_size": 224}
    (folder / "assets.extra" / "model.json").write_text(json.dumps(about))
    return Version(folder)


def numbers(path: Path) -> list[int]:
    return [one.number for one in repository.versions(path)]


def test_versions_are_sorted_as_numbers_and_nothing_else_is_one(tmp_path):
    for name in ("10", "9", "2", "latest", ".11.partial", "-1", "3.5"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file")
    assert numbers(tmp_path) == [2, 9, 10]
    assert numbers(tmp_path / "nothing") == []


def test_a_version_says_what_it_is(tmp_path):
    made = version(tmp_path / "7")
    assert (made.number, made.name, made.labels) == (7, "flowers", ["daisy", "tulip"])


@pytest.mark.parametrize("about", [None, b"", b"{", b"[]", b'{"model_name": "flowers"}', b"\xff"])
def test_a_version_that_does_not_is_refused(tmp_path, about):
    file = version(tmp_path / "1").folder / "assets.extra" / "model.json"
    file.unlink()
    if about is not None:
        file.write_bytes(about)
    with pytest.raises(InputError) as refusal:
        _ = Version(tmp_path / "1").name
    assert str(refusal.value).startswith(f"error: a version must say what it is; got {file}")


def test_a_model_folder_leads_to_its_repository(tmp_path):
    version(tmp_path / "model" / "serving" / "1")
    found = tmp_path / "model" / "serving"
    assert repository.located(tmp_path / "model") == repository.located(found) == found
    with pytest.raises(InputError, match="there must be a model to serve; got none in"):
        repository.located(tmp_path)


def test_the_fingerprint_is_of_what_is_served_wherever_it_lies(tmp_path):
    one = version(tmp_path / "1")
    copy = Version(shutil.copytree(one.folder, tmp_path / "elsewhere" / "5"))
    assert copy.fingerprint == one.fingerprint
    assert version(tmp_path / "2", weights=b"other").fingerprint != one.fingerprint
    (copy.folder / "variables" / "variables.index").rename(copy.folder / "variables.index")
    assert Version(copy.folder).fingerprint != one.fingerprint


def test_publishing_makes_the_next_version(tmp_path):
    path = tmp_path / "made" / "repository"
    first, second = version(tmp_path / "a" / "1"), version(tmp_path / "b" / "1", weights=b"better")
    assert repository.publish(first, path).number == 1
    assert repository.publish(second, path).number == 2
    (path / "7").mkdir()
    shutil.rmtree(path / "7")
    shutil.copytree(path / "1", path / "41")
    assert repository.publish(second, path).number == 42
    assert Version(path / "42").fingerprint == second.fingerprint
    assert sorted(entry.name for entry in path.iterdir()) == ["1", "2", "41", "42"]  # and nothing half-made


def test_publishing_twice_is_publishing_once(tmp_path):
    one = version(tmp_path / "a" / "1")
    assert [repository.publish(one, tmp_path / "repository").number for _ in range(3)] == [1, 1, 1]
    assert numbers(tmp_path / "repository") == [1]


def test_a_repository_holds_one_model(tmp_path):
    repository.publish(version(tmp_path / "a" / "1"), tmp_path / "repository")
    with pytest.raises(InputError) as refusal:
        repository.publish(version(tmp_path / "b" / "1", name="dogs"), tmp_path / "repository")
    assert "must hold versions of one model; got flowers in" in str(refusal.value) and "now dogs" in str(refusal.value)
    assert numbers(tmp_path / "repository") == [1]


def test_a_publication_that_fails_leaves_nothing(tmp_path):
    one = version(tmp_path / "a" / "1")
    _ = one.fingerprint, one.about
    shutil.rmtree(one.folder / "variables")
    (one.folder / "variables").symlink_to("/nowhere")
    with pytest.raises(shutil.Error):
        repository.publish(one, tmp_path / "repository")
    assert list((tmp_path / "repository").iterdir()) == []
