"""What changes a model repository, in a folder or in a bucket: a new version, old ones that go, one that comes back."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kfp_vision import storage, stores
from kfp_vision.errors import InputError
from kfp_vision.repository import SAVED_MODEL_FILE, Folder, Version
from kfp_vision.stores import Found

SERVED = 2  # the newest, and the one before: a server answers with it until it has taken up the newest

OF_A_MODEL = re.compile(r"[0-9a-f]{16}")  # a folder that is named by a fingerprint


class Published(Protocol):
    """A version in a repository."""

    @property
    def number(self) -> int: ...

    @property
    def about(self) -> Mapping[str, Any]: ...

    @property
    def name(self) -> str: ...

    def is_copy_of(self, version: Version) -> bool: ...

    def brought(self, scratch: Path) -> Version: ...

    def remove(self) -> None: ...


class Repository(Protocol):
    """Numbered versions of one model."""

    def versions(self) -> Sequence[Published]: ...

    def add(self, version: Version) -> int: ...


def repository_at(uri: str) -> Repository:
    """The repository at a path or in a bucket; nothing need lie there yet."""
    if storage.scheme(uri) in stores.BUCKETS:
        from kfp_vision.stored import Bucket

        return Bucket(uri)
    return Folder(Path(storage.absolute(uri)))


def check_name(uri: str, name: str) -> None:
    """Refuses to mix two models in one repository.

    Raises:
        InputError: the newest version there has another name.
    """
    _check_name(repository_at(uri).versions(), name, uri)


def is_from(uri: str, trained_from: str) -> bool:
    """Whether the newest version there, if there is one, was made of the same pictures and fields.

    Args:
        uri: a path, or a folder of a bucket.
        trained_from: what `deployment.decide_training` gives.

    Raises:
        InputError: the store refuses or does not answer.
    """
    return any(newest.about.get("trained_from") == trained_from for newest in repository_at(uri).versions()[-1:])


def publish(version: Version, uri: str, kept: int = 0) -> int:
    """Copies a version into a repository as its newest; where the newest is the same already, it is left at that.

    Servers that watch the repository never see a half of it.

    Args:
        version: an export.
        uri: a path, or a folder of a bucket.
        kept: how many versions stay, the newest and the one before in any case; 0 for all.

    Returns:
        Its number.

    Raises:
        InputError: the repository holds a model of another name, or the store refuses or does not answer.
    """
    repository = repository_at(uri)
    there = repository.versions()
    _check_name(there, version.name, uri)
    if there and there[-1].is_copy_of(version):
        return there[-1].number
    number = repository.add(version)
    if kept:
        for old in repository.versions()[: -max(kept, SERVED)]:
            old.remove()
    return number


def remove_unread(uri: str, read: Collection[str], kept: int) -> None:
    """Removes models from a folder in which each has one of its own, called by the beginning of its fingerprint.

    Args:
        uri: of a folder of a bucket.
        read: the names of those folders that stay in any case.
        kept: how many of the others stay, the newest.

    Raises:
        InputError: the store refuses or does not answer.
    """
    files: dict[str, list[Found]] = {}
    for found in storage.children(uri):
        folder = found.name.partition("/")[0]
        if OF_A_MODEL.fullmatch(folder) and folder not in read:
            files.setdefault(folder, []).append(found)
    newest_first = sorted(files.values(), key=lambda those: -max(found.modified for found in those))
    for old in newest_first[kept:]:
        for found in sorted(old, key=lambda found: not found.name.endswith(SAVED_MODEL_FILE)):
            storage.remove(found.uri)


def rollback(uri: str, to: int = 0) -> tuple[str, int, int]:
    """Publishes an earlier version again as the newest, which is how it reaches servers that take the highest number.

    Args:
        uri: a path, or a folder of a bucket.
        to: which one; 0 for the one before the newest.

    Returns:
        The model's name, the number of the earlier version, and the one that it has got: the newest's, if they are the same.

    Raises:
        InputError: there is no such version, or the store refuses or does not answer.
    """
    repository = repository_at(uri)
    there = repository.versions()
    found = [one for one in there if one.number == to] if to else there[-2:-1]
    if not found:
        numbers = ", ".join(str(one.number) for one in there) or "none"
        wanted = f"version {to}" if to else "the one before the newest"
        remedy = "Name another with --to." if len(there) > 1 else "Give a model repository with more than one version."
        raise InputError("there must be a version to go back to", f"{wanted} of {numbers} in {uri}", remedy)
    (earlier,) = found
    with storage.temporary() as scratch:
        version = earlier.brought(scratch)
        same = there[-1] is earlier or there[-1].is_copy_of(version)
        return version.name, earlier.number, there[-1].number if same else repository.add(version)


def _check_name(there: Sequence[Published], name: str, uri: str) -> None:
    for newest in there[-1:]:
        if newest.name != name:
            rule = "a model repository must hold versions of one model"
            raise InputError(rule, f"{newest.name} in {uri}, and now {name}", "Set deploy_to to a place of its own.")
