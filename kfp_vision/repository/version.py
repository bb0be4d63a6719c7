"""A model repository: a directory of numbered versions, each a SavedModel with metadata, in the layout of TensorFlow Serving.

    3/saved_model.pb, 3/variables/     what every TensorFlow server loads
    3/openvino/                        the same network for OpenVINO, which our server computes with, see `engines`
    3/assets.extra/model.json          metadata: name, labels, image size, how it was trained
    index/                             an optional image index, see `search`; other servers ignore it

The `serving` folder of a model folder is such a repository, with one version in it.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from kfp_vision.core import json_text, values
from kfp_vision.core.crop_shapes import STRETCHED
from kfp_vision.core.errors import AccessError, DamagedError, InputError, format_value
from kfp_vision.repository.registered import resolve
from kfp_vision.storage import atomic, reading, unwritable, uris

SERVING_FOLDER, HISTORY_FILE = Path("serving"), "training.json"  # of a model folder
EXPORTS_FOLDER, EXPORTS_FILE = "exports", "exports.json"  # beside the versions; other formats of one of them, see `exports`
INDEX_FOLDER = "index"  # beside the versions; built with the embeddings of the newest one, see `search`
FIRST_VERSION = "1"
SCRATCH_NAME = "version"  # of the folders in which versions are copied into a repository, and deleted
SAVED_MODEL_FILE = "saved_model.pb"
VERSION_FILE = Path("assets.extra") / "model.json"
MODEL_REMEDY = "Give the model folder of a run, or a directory of numbered versions."


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


METADATA: dict[str, Callable[[Any], bool]] = {  # whether a value can be used, of what is read here and by servers
    "model_name": lambda value: isinstance(value, str) and bool(value),
    "labels": lambda value: isinstance(value, list) and all(isinstance(label, str) for label in value),
    "image_size": lambda value: isinstance(value, int) and value > 0,
    "labels_per_image": lambda value: isinstance(value, str),
    "thresholds": _are_numbers,
    "crop": lambda value: isinstance(value, str),
    "temperature": lambda value: isinstance(value, int | float) and value > 0,
    "advanced": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True)
class Version:
    """A version in a repository on this machine; its metadata is read on first use.

    Attributes:
        folder: Folder of the version, named by its number.
    """

    folder: Path

    @property
    def number(self) -> int:
        """Number of the version."""
        return int(self.folder.name)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Metadata: how the model was trained, with `model_name`, `labels` and `image_size`.

        Raises:
            DamagedError: The metadata file is missing or damaged.
            AccessError: This user may not read it.
        """
        file = self.folder / VERSION_FILE
        return parse_version_metadata(file.read_bytes, file)

    @property
    def name(self) -> str:
        """Name of the model."""
        name: str = self.about["model_name"]
        return name

    @property
    def labels(self) -> list[str]:
        """Labels of the classes, in the order of their numbers."""
        labels: list[str] = self.about["labels"]
        return labels

    @property
    def several(self) -> bool:
        """Whether an image may have several labels or none: the scores are sigmoids, each compared with its threshold."""
        return bool(self.about.get("labels_per_image", values.ONE) == values.SEVERAL)

    @property
    def thresholds(self) -> list[float]:
        """The score from which on an image has each label, in the order of `labels`; empty for a model of one label."""
        thresholds: list[float] = self.about.get("thresholds", [])
        return thresholds

    @property
    def crop(self) -> str:
        """What the model sees of an image, see `crop_shapes`; the first models have no word on it, and see it stretched."""
        crop: str = self.about.get("crop", STRETCHED)
        return crop

    @property
    def temperature(self) -> float:
        """What the logits are divided by for calibrated scores; 1 for a model of before, which is not calibrated."""
        temperature: float = self.about.get("temperature", 1.0)
        return temperature

    @property
    def name_unknown(self) -> bool:
        """Whether tables and pages name images that are not known `unknown`."""
        return bool(self.about.get("advanced", {}).get("name_unknown", False))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all files of the version, in hex; equal for copies of the same export."""
        digest = hashlib.sha256()
        for name, file in self.files.items():
            digest.update(f"{name} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()

    @property
    def files(self) -> dict[str, Path]:
        """Files of the version by their paths below its folder, sorted."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {file.relative_to(self.folder).as_posix(): file for file in files}

    def check_readable(self) -> None:
        """Checks that this user may read all files, since engines and libraries say each in its own way that it may not.

        Raises:
            AccessError: It may not.
        """
        for path in (self.folder, *self.folder.rglob("*")):
            if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)) and path.exists():
                raise _unreadable_error(path)

    def is_copy_of(self, version: "Version") -> bool:
        """Checks whether this version and another one are copies of the same export.

        Args:
            version: The version to compare with.

        Returns:
            True if their fingerprints are equal.
        """
        return self.fingerprint == version.fingerprint

    def download(self, scratch: Path) -> "Version":
        """Returns the version itself, which is on this machine already.

        Args:
            scratch: Not used; a version in a bucket is downloaded there, see `publish.PublishedVersion`.

        Returns:
            This version.
        """
        return self

    def remove(self) -> None:
        """Removes the version from its repository in one atomic step."""
        # Of the name that `FolderRepository.add` gives, which thus removes what a killed process left.
        scratch = atomic.scratch_folder(self.folder.with_name(SCRATCH_NAME))
        with scratch as trash, contextlib.suppress(FileNotFoundError):  # another process was faster
            self.folder.rename(trash / self.folder.name)


def parse_version_metadata(read: Callable[[], bytes], where: object) -> dict[str, Any]:
    """Reads and checks the metadata of a version.

    Args:
        read: Returns the content of the metadata file.
        where: Path or URI of the file, for error messages.

    Returns:
        The metadata, with `model_name`, `labels` and `image_size` at least.

    Raises:
        DamagedError: The file is missing or damaged, lacks one of these keys, or says that an image may have several labels
            without a threshold for each of them.
        AccessError: This user may not read it.
    """
    rule, remedy = "a version must have valid metadata", "Export or deploy the model again."
    try:
        about: dict[str, Any] = json_text.parse(read())
        missing = {"model_name", "labels", "image_size"} - about.keys()
    except PermissionError:
        raise _unreadable_error(where) from None
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DamagedError(rule, f"{where} ({reason})", remedy) from None
    if missing:
        raise DamagedError(rule, f"{where} without {', '.join(sorted(missing))}", remedy)
    if wrong := next((name for name, is_valid in METADATA.items() if name in about and not is_valid(about[name])), None):
        raise DamagedError(rule, f"{where} with {wrong} {format_value(about[wrong], 60)}", remedy)
    if about.get("labels_per_image") == values.SEVERAL and len(about.get("thresholds", [])) != len(about["labels"]):
        raise DamagedError(rule, f"{where} without a threshold for each label", remedy)
    return about


def _unreadable_error(path: object) -> AccessError:
    rule = "the files of a version must be readable for whoever loads it"
    return AccessError(rule, str(path), "Change the permissions, with chmod -R a+rX, say.")


def exported_version(model: Path) -> Version:
    """Returns the only version in a model folder."""
    return Version(model / SERVING_FOLDER / FIRST_VERSION)


def versions(repository: Path) -> list[Version]:
    """Returns the versions in a repository, the newest last; an empty list if there is no such directory."""
    if not repository.is_dir():
        return []
    numbered = [folder for folder in repository.iterdir() if folder.name.isdecimal() and folder.is_dir()]
    return [Version(folder) for folder in sorted(numbered, key=lambda folder: int(folder.name))]


def find_repository(path: Path) -> Path:
    """Finds the repository at a path: the path itself, or its `serving` folder if the path is a model folder.

    Args:
        path: Path of a repository or of a model folder.

    Returns:
        The absolute path of the repository.

    Raises:
        InputError: There is no version in either.
    """
    for repository in (path, path / SERVING_FOLDER):
        if versions(repository):
            return repository.absolute()
    raise no_model_error(path)


@unwritable.in_one_line("model")
def fetch_version(uri: str, model: Path) -> Version:
    """Copies the newest version at a URI into a new model folder.

    Args:
        uri: A model folder, a repository or a single version; on disk, in a bucket, in an archive in either, or registered.
        model: Folder to create; it appears once it is complete.

    Returns:
        The version in the folder.

    Raises:
        InputError: There is no version at the URI, or it cannot be read.
    """
    uri = resolve(uris.from_field(uri))
    newest = _newest(uri)
    if newest is None:
        raise InputError("there must be a model", f"none at {uri}", MODEL_REMEDY)
    with atomic.replacing(model) as beside:
        for item in reading.walk(uri):
            if _is_below(item.name, newest):
                file = exported_version(beside).folder / PurePosixPath(item.name).relative_to(newest)
                reading.save_item(item, file, "a model", "Try again, or export it again.")
    return exported_version(model)


def check_model_uri(uri: str, field: str) -> None:
    """Checks that there is a version of a model at a URI.

    Args:
        uri: A model folder, a repository, a single version, or a registered model, see `registered`.
        field: Name of the field that holds the URI, for error messages.

    Raises:
        InputError: There is none, or the URI cannot be read.
    """
    uri = resolve(uri)
    reading.check_exists(uri, field)
    if _newest(uri) is None:
        raise InputError(f"{field} must name a model", f"none at {uri}", MODEL_REMEDY)


def _newest(uri: str) -> PurePosixPath | None:
    """Returns the folder of the newest version, relative to the URI; if there are several repositories, of the topmost."""
    files = (PurePosixPath(item.name) for item in reading.walk(uri))
    folders = [file.parent for file in files if file.name == SAVED_MODEL_FILE]
    numbered = [folder for folder in folders if folder == PurePosixPath() or folder.name.isdecimal()]
    return max(numbered, key=lambda folder: (-len(folder.parts), int(folder.name or 0)), default=None)


def _is_below(name: str, folder: PurePosixPath) -> bool:
    path = PurePosixPath(name)
    return path.is_relative_to(folder) and ".." not in path.parts and not path.is_absolute()


def no_model_error(place: object) -> InputError:
    """Returns the error for a path or URI without any version of a model.

    Args:
        place: The path or URI.
    """
    return InputError("there must be a model to serve", f"none in {place}", MODEL_REMEDY)
