"""Versions of a model repository: their order, metadata, fingerprint and retrieval."""

import json
import shutil
from pathlib import Path

import pytest
from support.exported_model import version

from kfp_vision.core.errors import InputError
from kfp_vision.repository.version import Version, check_model_uri, exported_version, fetch_version, find_repository, versions


def numbers(path: Path) -> list[int]:
    return [one.number for one in versions(path)]


def test_versions_are_sorted_numerically_and_other_names_are_ignored(tmp_path):
    for name in ("10", "9", "2", "latest", ".11.partial", "-1", "3.5"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file")
    assert numbers(tmp_path) == [2, 9, 10]
    assert numbers(tmp_path / "nothing") == []


def test_a_version_has_the_number_name_and_labels(tmp_path):
    created = version(tmp_path / "7")
    assert (created.number, created.name, created.labels) == (7, "flowers", ["daisy", "tulip"])


def test_a_version_of_several_labels_has_a_threshold_for_each(tmp_path):
    file = version(tmp_path / "1").folder / "assets.extra" / "model.json"
    about = json.loads(file.read_text())
    assert (Version(tmp_path / "1").several, Version(tmp_path / "1").thresholds) == (False, [])
    file.write_text(json.dumps({**about, "labels_per_image": "several", "thresholds": [0.25, 0.5]}))
    assert (Version(tmp_path / "1").several, Version(tmp_path / "1").thresholds) == (True, [0.25, 0.5])
    file.write_text(json.dumps({**about, "labels_per_image": "several", "thresholds": [0.25]}))
    with pytest.raises(InputError, match="without a threshold for each label"):
        _ = Version(tmp_path / "1").several


@pytest.mark.parametrize("metadata", [None, b"", b"{", b"[]", b'{"model_name": "flowers"}', b"\xff", b"[" * 100_000])
def test_a_version_without_valid_metadata_is_rejected(tmp_path, metadata):
    file = version(tmp_path / "1").folder / "assets.extra" / "model.json"
    file.unlink()
    if metadata is not None:
        file.write_bytes(metadata)
    with pytest.raises(InputError) as refusal:
        _ = Version(tmp_path / "1").name
    assert str(refusal.value).startswith(f"error: a version must have valid metadata; got {file}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_name", 5),
        ("model_name", ""),
        ("labels", "daisy"),
        ("labels", ["daisy", 1]),
        ("labels", None),
        ("image_size", "224"),
        ("image_size", 0),
        ("thresholds", None),
        ("thresholds", ["0.5", "0.5"]),
        ("crop", None),
        ("temperature", 0),
        ("temperature", "warm"),
        ("advanced", None),
        ("labels_per_image", 2),
    ],
)
def test_a_version_whose_metadata_has_a_value_of_no_use_is_rejected(tmp_path, name, value):
    file = version(tmp_path / "1").folder / "assets.extra" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(InputError, match=f"must have valid metadata; got {file} with {name} .*Export or deploy the model"):
        _ = Version(tmp_path / "1").name


def test_finds_the_repository_in_a_model_folder(tmp_path):
    version(tmp_path / "model" / "serving" / "1")
    found = tmp_path / "model" / "serving"
    assert find_repository(tmp_path / "model") == find_repository(found) == found
    with pytest.raises(InputError, match="there must be a model to serve; got none in"):
        find_repository(tmp_path)


def test_the_fingerprint_depends_only_on_the_served_files(tmp_path):
    one = version(tmp_path / "1")
    copy = Version(shutil.copytree(one.folder, tmp_path / "elsewhere" / "5"))
    assert copy.fingerprint == one.fingerprint
    assert version(tmp_path / "2", weights=b"other").fingerprint != one.fingerprint
    (copy.folder / "variables" / "variables.index").rename(copy.folder / "variables.index")
    assert Version(copy.folder).fingerprint != one.fingerprint


def test_removing_a_version_leaves_no_files(tmp_path):
    first, second = version(tmp_path / "1"), version(tmp_path / "2")
    first.remove()
    first.remove()
    assert numbers(tmp_path) == [2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["2"]
    assert second.fingerprint


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


SERVED = ["assets.extra/model.json", "saved_model.pb", "variables/variables.index"]


@pytest.mark.parametrize("source", ["repository", "model folder", "version", "archive"])
def test_fetches_the_newest_version_from_any_kind_of_source(tmp_path, source):
    if source == "model folder":
        version(tmp_path / "there" / "serving" / "1", weights=b"10")
        (tmp_path / "there" / "classifier.keras").write_text("large, and not served")
    elif source == "version":
        version(tmp_path / "there", weights=b"10")
    else:
        for number in ("9", "10", ".11.partial"):
            version(tmp_path / "there" / number, weights=number.encode())
    uri = tmp_path / "there"
    if source == "archive":
        uri = Path(shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "there"))
    fetched = fetch_version(str(uri), tmp_path / "model")
    assert fetched == exported_version(tmp_path / "model")
    assert names(fetched.folder) == SERVED
    assert (fetched.folder / "variables" / "variables.index").read_bytes() == b"10"
    assert names(tmp_path / "model") == [f"serving/1/{name}" for name in SERVED]


def test_a_folder_without_a_model_is_rejected_and_nothing_is_fetched(tmp_path):
    (tmp_path / "there" / "rose").mkdir(parents=True)
    (tmp_path / "there" / "rose" / "saved_model.pb").write_text("in no numbered folder")
    with pytest.raises(InputError, match="there must be a model; got none at"):
        fetch_version(str(tmp_path / "there"), tmp_path / "model")
    with pytest.raises(InputError, match="model_uri must name a model; got none at"):
        check_model_uri(str(tmp_path / "there"), "model_uri")
    assert not (tmp_path / "model").exists()
