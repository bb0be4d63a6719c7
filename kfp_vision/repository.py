"""A model repository: a directory of numbered versions, each a SavedModel with its description, as TF-Serving lays them out.

3/saved_model.pb, 3/variables/     what every TensorFlow server takes
3/assets.extra/model.json          what it is: its name, its labels, its image size, how it was trained
index/                             maybe an index of pictures, see `search`; other servers pass over it

The `serving` folder of a model folder is such a repository, with one version in it.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from kfp_vision import storage
from kfp_vision.errors import InputError

SERVING_FOLDER = Path("serving")
INDEX_FOLDER = "index"  # lies with the versions and is none: pictures as the newest one sees them, see `search`
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
        return described(file.read_bytes, file)

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
        for name, file in self.files.items():
            digest.update(f"{name} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()

    @property
    def files(self) -> dict[str, Path]:
        """What it is made of, by the names below its folder."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {file.relative_to(self.folder).as_posix(): file for file in files}

    def is_copy_of(self, version: "Version") -> bool:
        """Whether both are copies of one export."""
        return self.fingerprint == version.fingerprint

    def brought(self, scratch: Path) -> "Version":
        """The version on this machine, where it is."""
        return self

    def remove(self) -> None:
        """Removes it, in one step for who looks into its repository."""
        with storage.scratch(self.folder) as gone, contextlib.suppress(FileNotFoundError):  # somebody else was faster
            self.folder.rename(gone / self.folder.name)


def described(read: Callable[[], bytes], where: object) -> dict[str, Any]:
    """What a version says of itself, from the bytes of its description.

    Raises:
        InputError: it cannot be read, or lacks what must stand there; where it lies is said.
    """
    remedy = "Export or deploy the model again."
    try:
        about = json.loads(read())
        missing = {"model_name", "labels", "image_size"} - about.keys()
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError("a version must say what it is", f"{where} ({reason})", remedy) from None
    if missing:
        raise InputError("a version must say what it is", f"{where} without {', '.join(sorted(missing))}", remedy)
    return about


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
    raise no_model(path)


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
        for item in storage.walk(uri):
            if _is_below(item.name, newest):
                file = exported(beside).folder / PurePosixPath(item.name).relative_to(newest)
                storage.save(item, file, "a model", "Try again, or export it again.")
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


def no_model(place: object) -> InputError:
    """What to say where no version lies."""
    return InputError("there must be a model to serve", f"none in {place}", MODEL_REMEDY)


class Folder:
    """A repository in a folder of this machine. A version comes and goes in one step: nobody sees half of one.

    Args:
        path: of the folder, which is made with its first version.
    """

    def __init__(self, path: Path):
        self.path = path

    def versions(self) -> list[Version]:
        """See `versions`."""
        return versions(self.path)

    def add(self, version: Version) -> int:
        """Copies a version there, and gives the number that it has got: the one after the newest."""
        with storage.scratch(self.path / "version") as scratch:
            beside = scratch / "new"
            shutil.copytree(version.folder, beside, copy_function=shutil.copyfile)
            there = self.versions()
            for number in itertools.count(there[-1].number + 1 if there else int(FIRST)):
                target = self.path / str(number)
                try:
                    beside.rename(target)
                except OSError:
                    if not target.exists():
                        raise
                    continue  # somebody else has just published under this number
                return number
        raise AssertionError("numbers do not end")
