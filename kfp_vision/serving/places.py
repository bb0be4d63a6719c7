"""Where the models lie that are served: at a path, or in the folders of a directory."""

import contextlib
from pathlib import Path

from kfp_vision import repository
from kfp_vision.errors import InputError
from kfp_vision.search import ABOUT_FILE


def at(path: Path, name: str = "", index: Path | None = None) -> dict[str, Path]:
    """The repositories to serve, by their models' names.

    Args:
        path: a model folder, a repository, or a directory of such folders, whose models are called as these.
        name: of the one model; empty for its own.
        index: of the one model's pictures, where it does not lie with it.

    Raises:
        InputError: there is no model, none that says its name, or `name` or `index` is for several.
    """
    if one := alone(path):
        return {name or _own_name(one): one}
    several = below(path)
    if not several:
        repository.located(path)  # says what is wrong
    if name:
        found = f"{name} for {', '.join(several)} in {path}"
        raise InputError("--name must be for one model", found, "Leave it out: each is called as its folder.")
    if index:
        found = f"{index} for {', '.join(several)} in {path}"
        remedy = f"Put it beside the versions of its model, as {repository.INDEX_FOLDER}."
        raise InputError("--index must be for one model", found, remedy)
    return several


def alone(path: Path) -> Path | None:
    """The repository that lies at a path by itself, if one does."""
    with contextlib.suppress(InputError):
        return repository.located(path)
    return None


def below(path: Path) -> dict[str, Path]:
    """The repositories in the folders of a directory, by the folders' names; an index with its numbered folders is none."""
    folders = sorted(path.iterdir()) if path.is_dir() else []
    models = (folder for folder in folders if not folder.name.startswith(".") and not (folder / ABOUT_FILE).exists())
    found = {folder.name: alone(folder) for folder in models}
    return {name: place for name, place in found.items() if place}


def _own_name(place: Path) -> str:
    """What the model calls itself, in the newest version that can say it.

    Raises:
        InputError: none can; what is wrong with the oldest.
    """
    *newer, oldest = reversed(repository.versions(place))
    for version in newer:
        with contextlib.suppress(InputError):
            return version.name
    return oldest.name
