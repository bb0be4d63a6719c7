"""A model repository: a directory of numbered versions, each a SavedModel with its description, as TF-Serving lays them out.

3/saved_model.pb, 3/variables/     what every TensorFlow server takes
3/assets.extra/model.json          what it is: its name, its labels, its image size, how it was trained

The `serving` folder of a model folder is such a repository, with one version in it.
"""

import hashlib
import itertools
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from kfp_vision import storage
from kfp_vision.errors import InputError

SERVING_FOLDER = Path("serving")
FIRST = "1"
SAVED_MODEL_FILE = "saved_model.pb"
ABOUT_FILE = Path("assets.extra") / "model.json"
MODEL_REMEDY = "Give the model folder of a run, or a directory of numbered versions."


@dataclass(frozen=True)
class Version:
    """A version in a repository; what it says of itself is read when it is asked for.

    Attributes:
        folder: where it lies; named by its number.
    """

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @cached_property
    def about(self) -> dict[str, Any]:
        """How it was trained, with `model_name`, `labels` and `image_size`.

        Raises:
            InputError: the description is missing or torn.
        """
        file = self.folder / ABOUT_FILE
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            missing = {"model_name", "labels", "image_size"} - about.keys()
        except (OSError, ValueError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                "a version must say what it is", f"{file} ({reason})", "Export or deploy the model again."
            ) from None
        if missing:
            found = f"{file} without {', '.join(sorted(missing))}"
            raise InputError("a version must say what it is", found, "Export or deploy the model again.")
        return about

    @property
    def name(self) -> str:
        return self.about["model_name"]

    @property
    def labels(self) -> list[str]:
        return self.about["labels"]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that is served: equal for copies of one export, wherever they lie."""
        digest = hashlib.sha256()
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(self.folder).as_posix()} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()


def exported(model: Path) -> Version:
    """The one version in a model folder."""
    return Version(model / SERVING_FOLDER / FIRST)


def versions(repository: Path) -> list[Version]:
    """The versions in a repository, the newest last; none where there is no such directory."""
    if not repository.is_dir():
        return []
    numbered = [folder for folder in repository.iterdir() if folder.name.isdecimal() and folder.is_dir()]
    return [Version(folder) for folder in sorted(numbered, key=lambda folder: int(folder.name))]


def located(path: Path) -> Path:
    """The repository at a path: the path itself, or the `serving` folder of the model folder that it is.

    Raises:
        InputError: no version lies there.
    """
    for repository in (path, path / SERVING_FOLDER):
        if versions(repository):
            return repository.absolute()
    raise InputError("there must be a model to serve", f"none in {path}", MODEL_REMEDY)


def fetch(uri: str, model: Path) -> Version:
    """Copies the newest version at a URI into a folder, laid out as a model folder.

    Args:
        uri: of a model folder, of a repository, or of a version in it; in a bucket, on disk, or in an archive wherever it lies.
        model: the folder to make; it is not there before it is whole.

    Returns:
        The version in the folder.

    Raises:
        InputError: no version lies there, or it cannot be read.
    """
    newest = _newest(uri)
    if newest is None:
        raise InputError("there must be a model", f"none at {uri}", MODEL_REMEDY)
    with storage.replacing(model) as beside:
        for item, encoded in storage.read_all(item for item in storage.walk(uri) if _is_below(item.name, newest)):
            if isinstance(encoded, OSError):
                raise InputError("a model must be read whole", f"{item.uri} ({encoded})", "Try again, or export it again.")
            file = exported(beside).folder / PurePosixPath(item.name).relative_to(newest)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded)
    return exported(model)


def check_there(uri: str, field: str) -> None:
    """Refuses a URI where no version of a model lies.

    Raises:
        InputError: naming the field.
    """
    storage.check_there(uri, field)
    if _newest(uri) is None:
        raise InputError(f"{field} must name a model", f"none at {uri}", MODEL_REMEDY)


def _newest(uri: str) -> PurePosixPath | None:
    """The folder of the newest version at a URI, by its name there; that of the least depth where there are several kinds."""
    files = (PurePosixPath(item.name) for item in storage.walk(uri))
    folders = [file.parent for file in files if file.name == SAVED_MODEL_FILE]
    numbered = [folder for folder in folders if folder == PurePosixPath() or folder.name.isdecimal()]
    return max(numbered, key=lambda folder: (-len(folder.parts), int(folder.name or 0)), default=None)


def _is_below(name: str, folder: PurePosixPath) -> bool:
    path = PurePosixPath(name)
    return path.is_relative_to(folder) and ".." not in path.parts and not path.is_absolute()


def publish(version: Version, repository: Path) -> Version:
    """Copies a version into a repository as its newest; where the newest is the same already, it is left at that.

    Servers that watch the repository never see a half of it.

    Raises:
        InputError: the repository holds a model of another name.
    """
    there = versions(repository)
    if there:
        check_name(there[-1], version.name)
        if there[-1].fingerprint == version.fingerprint:
            return there[-1]
    repository.mkdir(parents=True, exist_ok=True)
    beside = repository / f".{os.getpid()}.partial"
    try:
        shutil.copytree(version.folder, beside, copy_function=shutil.copyfile)
        for number in itertools.count(there[-1].number + 1 if there else int(FIRST)):
            target = repository / str(number)
            try:
                beside.rename(target)
            except OSError:
                if not target.exists():
                    raise
                continue  # somebody else has just published under this number
            return Version(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    raise AssertionError("numbers do not end")


def check_name(newest: Version, name: str) -> None:
    """Refuses to mix two models in one repository.

    Raises:
        InputError: the newest version there has another name.
    """
    if newest.name != name:
        found = f"{newest.name} in {newest.folder.parent}, and now {name}"
        raise InputError(
            "a model repository must hold versions of one model", found, "Set deploy_to to a directory of its own."
        )
