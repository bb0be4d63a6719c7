"""Discovery: finds the model repositories at a path, or in the folders of a directory."""

import contextlib
from pathlib import Path

from kfp_vision.core.errors import InputError
from kfp_vision.repository.version import INDEX_FOLDER, find_repository, versions
from kfp_vision.search.index import INDEX_FILE


def find_models(path: Path, name: str = "", index: Path | None = None) -> dict[str, Path]:
    """Finds the repositories to serve.

    Args:
        path: a model folder, a repository, or a directory of them, each served under its folder's name.
        name: the name of a single model; empty for its own.
        index: the search index of a single model, if not next to its versions.

    Returns:
        The repositories by model name.

    Raises:
        InputError: there is no model, no version states its name, or `name` or `index` is given for several models.
    """
    if single := single_repository(path):
        return {name or _own_name(single): single}
    several = find_repositories(path)
    if not several:
        find_repository(path)  # raises an error that says why
    if name:
        found = f"{name} for {', '.join(several)} in {path}"
        raise InputError("--name must be for a single model", found, "Leave it out: each model is named after its folder.")
    if index:
        found = f"{index} for {', '.join(several)} in {path}"
        remedy = f"Put it next to the versions of its model, as {INDEX_FOLDER}."
        raise InputError("--index must be for a single model", found, remedy)
    return several


def single_repository(path: Path) -> Path | None:
    """Returns the repository at a path, or None if the path is not that of a model folder or repository."""
    with contextlib.suppress(InputError):
        return find_repository(path)
    return None


def find_repositories(path: Path) -> dict[str, Path]:
    """Finds the repositories in the folders of a directory, by folder name.

    Args:
        path: the directory. Hidden folders and search indexes, whose subfolders are numbered too, are skipped.

    Returns:
        The repositories, by names that JSON and a terminal can carry; none if there is no such directory.
    """
    folders = sorted(path.iterdir()) if path.is_dir() else []
    models = (folder for folder in folders if not folder.name.startswith(".") and not (folder / INDEX_FILE).exists())
    found = {printable(folder.name): single_repository(folder) for folder in models}
    return {name: place for name, place in found.items() if place}


def printable(text: str) -> str:
    """Escapes what a file name that is not UTF-8 leaves in a text, which could be neither sent nor printed.

    Args:
        text: a file name, or a message with one.
    """
    return text.encode(errors="backslashreplace").decode()


def _own_name(place: Path) -> str:
    """Returns the model's name as stated by the newest version that can be read.

    Raises:
        InputError: none can; the error is that of the oldest.
    """
    *newer, oldest = reversed(versions(place))
    for version in newer:
        with contextlib.suppress(InputError):
            return version.name
    return oldest.name
