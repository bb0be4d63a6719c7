"""Changes a model repository, in a folder or in a bucket: publishes, prunes and rolls back versions."""

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kfp_vision.core.errors import DamagedError, InputError
from kfp_vision.repository import papers
from kfp_vision.repository.folder_repository import FolderRepository
from kfp_vision.repository.version import SAVED_MODEL_FILE, Version
from kfp_vision.storage import atomic, base, reading, unwritable, uris, writing
from kfp_vision.storage.base import FileInfo

MIN_KEPT_VERSIONS = 2  # the newest and its predecessor, which servers still answer with until they have loaded the newest

FINGERPRINT_FOLDER = re.compile(r"[0-9a-f]{16}")  # a folder named by the beginning of a fingerprint


class PublishedVersion(Protocol):
    """A version in a repository: `version.Version` in a folder, `bucket_repository.BucketVersion` in a bucket."""

    @property
    def number(self) -> int:
        """Number of the version, from 1."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Metadata of the model, as the export wrote it."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def is_copy_of(self, version: Version) -> bool:
        """Checks whether this version and a local one are copies of the same export.

        Args:
            version: The local version to compare with.

        Returns:
            True if the contents are the same.
        """

    def download(self, scratch: Path) -> Version:
        """Makes the version available on this machine.

        Args:
            scratch: Folder to download into, if the version is not local.

        Returns:
            The local version.
        """

    def remove(self) -> None:
        """Removes the version; readers see either all of it or none."""


class Repository(Protocol):
    """The versions of a model: `FolderRepository` on this machine, `BucketRepository` in a bucket."""

    def versions(self) -> Sequence[PublishedVersion]:
        """Returns the complete versions, the newest last."""

    def add(self, version: Version) -> int:
        """Copies a version into the repository as its newest.

        Args:
            version: The local version to copy.

        Returns:
            The number assigned to it.
        """


def repository_at(uri: str) -> Repository:
    """Returns the repository at a path or in a bucket; it may be empty or not exist yet."""
    if uris.scheme_of(uri) in base.BUCKETS:
        from kfp_vision.repository.bucket_repository import BucketRepository

        return BucketRepository(uri)
    return FolderRepository(Path(uris.absolute_uri(uri)))


def check_repository_name(uri: str, name: str) -> None:
    """Checks that a repository does not hold versions of another model.

    Args:
        uri: Path of the repository, or its folder in a bucket.
        name: Name of the model to be published there.

    Raises:
        InputError: The newest version there whose metadata is whole has another name.
    """
    _check_name(repository_at(uri).versions(), name, uri)


def is_trained_from(uri: str, trained_from: str) -> bool:
    """Checks whether the newest version in a repository was trained on the same data with the same parameters.

    Args:
        uri: Path of the repository, or its folder in a bucket.
        trained_from: Fingerprint of data and parameters, from `decide_training.decide_training`.

    Returns:
        True if it was; False if it was not, its metadata is damaged, or the repository is empty.

    Raises:
        InputError: The store denies access or does not answer.
    """
    try:
        return any(newest.about.get("trained_from") == trained_from for newest in repository_at(uri).versions()[-1:])
    except DamagedError:  # servers do not answer with it, so that a training is due
        return False


@unwritable.in_one_line("uri")
def publish(version: Version, uri: str, kept: int = 0) -> int:
    """Copies a version into a repository as its newest, unless the newest is already a copy of it.

    Servers that watch the repository never see an incomplete version.

    Args:
        version: The exported version.
        uri: Path of the repository, or its folder in a bucket.
        kept: How many versions to keep, at least the newest two; 0 keeps all. Those with an alias are kept besides.

    Returns:
        The number of the version in the repository.

    Raises:
        InputError: The repository holds a model of another name, its aliases are damaged, or the store denies access or does
            not answer.

    Example:
        version = exported_version(Path("runs/flowers/model"))
        number = publish(version, "s3://bucket/models/flowers", kept=5)
    """
    repository = repository_at(uri)
    published = repository.versions()
    _check_name(published, version.name, uri)
    if published and published[-1].is_copy_of(version):
        return published[-1].number
    if kept:
        papers.read_aliases(uri)  # if they are damaged, before servers see the version
    number = repository.add(version)
    if kept:
        named = papers.read_aliases(uri).values()
        for old in repository.versions()[: -max(kept, MIN_KEPT_VERSIONS)]:
            if old.number not in named:
                old.remove()
                papers.remove_papers(uri, old.number)
    return number


def remove_unused_models(uri: str, read: Collection[str], kept: int) -> None:
    """Removes unused models from a folder of model folders, each named by the beginning of its model's fingerprint.

    Args:
        uri: Folder in a bucket.
        read: Names of the model folders that are in use and stay.
        kept: How many of the unused ones to keep, the newest first.

    Raises:
        InputError: The store denies access or does not answer.
    """
    files: dict[str, list[FileInfo]] = {}
    for found in reading.list_files(uri):
        folder = found.name.partition("/")[0]
        if FINGERPRINT_FOLDER.fullmatch(folder) and folder not in read:
            files.setdefault(folder, []).append(found)
    newest_first = sorted(files.values(), key=lambda objects: -max(found.modified for found in objects))
    for old in newest_first[kept:]:
        for found in sorted(old, key=lambda found: not found.name.endswith(SAVED_MODEL_FILE)):
            writing.delete_file(found.uri)


def rollback(uri: str, to: int | str = 0) -> tuple[str, int, int]:
    """Publishes an earlier version again as the newest, so that servers, which take the highest number, load it.

    Args:
        uri: Path of the repository, or its folder in a bucket.
        to: Number or alias of the earlier version, or `newest`; 0 for the one before the newest.

    Returns:
        The name of the model, the number of the earlier version, and its new number, which is the newest's if that is the
        same export already.

    Raises:
        InputError: There is no such version, its metadata or papers are damaged, or the store denies access or does not answer.
    """
    repository = repository_at(uri)
    published = repository.versions()
    numbered = {str(version.number): version.number for version in published}
    newest_number = {papers.NEWEST: published[-1].number} if published else {}
    wanted_number = (numbered | papers.read_aliases(uri) | newest_number).get(str(to))
    found = [version for version in published if version.number == wanted_number] if to else published[-2:-1]
    if not found:
        held = papers.list_numbers([version.number for version in published])
        wanted = f"version {to}" if to else "the one before the newest"
        remedy = "Name another with --to." if len(published) > 1 else "Give a model repository with more than one version."
        raise InputError("there must be a version to go back to", f"{wanted} in {uri}, which has {held}", remedy)
    (earlier,) = found
    newest = published[-1]
    with atomic.temporary_folder() as scratch:
        version = earlier.download(scratch)
        name = version.name  # and what follows: a version that cannot be read, or its papers, must not become the newest
        if newest is earlier or newest.is_copy_of(version):
            return name, earlier.number, newest.number
        has_papers = papers.download_papers(uri, earlier, scratch / papers.PAPERS_FOLDER)
        number = repository.add(version)
        if has_papers:
            papers.publish_papers(scratch / papers.PAPERS_FOLDER, uri, number)
        return name, earlier.number, number


def _check_name(published: Sequence[PublishedVersion], name: str, uri: str) -> None:
    named = newest_name(published)
    if named is not None and named != name:
        rule = "a model repository must hold versions of one model"
        raise InputError(rule, f"{named} in {uri}, and now {name}", "Set deploy_to to a place of its own.")


def newest_name(published: Sequence[PublishedVersion]) -> str | None:
    """Returns the name of the newest version whose metadata is whole, since a damaged one must not keep others from following.

    Args:
        published: Versions of a repository, the newest last.

    Returns:
        The name of the model; None if there is no such version.

    Raises:
        InputError: The store denies access or does not answer.
    """
    for version in reversed(published):
        with contextlib.suppress(DamagedError):
            return version.name
    return None
