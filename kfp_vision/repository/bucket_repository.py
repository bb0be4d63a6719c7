"""A model repository in a bucket: lists, downloads, publishes and deletes versions.

`saved_model.pb` is written last and removed first: a folder without it is not a version, for this library and for others.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kfp_vision.core.errors import InputError
from kfp_vision.repository import published_exports
from kfp_vision.repository.registered import resolve
from kfp_vision.repository.version import (
    FIRST_VERSION,
    SAVED_MODEL_FILE,
    SERVING_FOLDER,
    VERSION_FILE,
    Version,
    no_model_error,
    parse_version_metadata,
)
from kfp_vision.storage import atomic, base, reading, transfer, uris, writing
from kfp_vision.storage.base import FileInfo, ObjectNotFound

CLAIM_PREFIX = ".kfp-vision-"  # prefix of the name of a lock object: a writer is publishing a version in this folder
ABANDONED_SECONDS = 24 * 3600.0  # age of a lock object whose writer is taken to have been killed
MAX_BACKOFF_SECONDS = 2.0  # seconds before the next attempt after two writers have claimed the same number


@dataclass(frozen=True)
class BucketVersion:
    """A numbered folder of a repository in a bucket.

    Attributes:
        uri: URI of the folder.
        number: Number of the version.
        files: Objects of the version by their names below the folder.
        claims: Lock objects of writers that are publishing there, or were when they were killed, by their names.
    """

    uri: str
    number: int
    files: Mapping[str, FileInfo]
    claims: Mapping[str, FileInfo]

    @property
    def is_whole(self) -> bool:
        """True if all files of the version have been written."""
        return SAVED_MODEL_FILE in self.files

    @property
    def is_being_written(self) -> bool:
        """True if a writer may still be at work: it creates its lock object first, and deletes it last."""
        return any(time.time() - claim.modified < ABANDONED_SECONDS for claim in self.claims.values())

    @cached_property
    def about(self) -> dict[str, Any]:
        """Metadata, see `Version.about`; only this file is downloaded.

        Raises:
            InputError: The metadata file is missing or damaged, or the store denies access or does not answer.
        """
        where = uris.join_uri(self.uri, VERSION_FILE.as_posix())
        return parse_version_metadata(lambda: transfer.download_bytes(where), where)

    @property
    def name(self) -> str:
        """Name of the model."""
        name: str = self.about["model_name"]
        return name

    def is_copy_of(self, version: Version) -> bool:
        """Checks whether this version and a local one are copies of the same export.

        The version is downloaded only if names and sizes of all files agree.

        Args:
            version: The local version to compare with.

        Returns:
            True if their fingerprints are equal.
        """
        sizes = {name: file.stat().st_size for name, file in version.files.items()}
        if {name: found.size for name, found in self.files.items()} != sizes:
            return False
        with atomic.temporary_folder() as scratch:
            return self.download(scratch).fingerprint == version.fingerprint

    def download(self, scratch: Path) -> Version:
        """Downloads the version.

        Args:
            scratch: Folder in which a folder named by the version's number is created.

        Returns:
            The local version.

        Raises:
            InputError: The version was removed meanwhile, or the store denies access or does not answer.
        """
        folder = scratch / str(self.number)
        with atomic.replacing(folder) as beside:
            for name, found in self.files.items():
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    transfer.download(found.uri, beside / name)
                except ObjectNotFound as reason:
                    raise InputError("a version must not be removed while it is read", str(reason), "Try again.") from None
        return Version(folder)

    def remove(self) -> None:
        """Removes the version; `saved_model.pb` goes first, so that readers ignore the folder at once."""
        for name in sorted(self.files, key=lambda name: name != SAVED_MODEL_FILE):
            writing.delete_file(self.files[name].uri)
        for claim in self.claims.values():
            writing.delete_file(claim.uri)


class BucketRepository:
    """A repository in a bucket.

    Args:
        uri: URI of its folder.

    Attributes:
        uri: URI of its folder.
    """

    def __init__(self, uri: str):
        self.uri = uri

    def versions(self) -> list[BucketVersion]:
        """Returns the complete versions, the newest last.

        Raises:
            InputError: The store denies access or does not answer.
        """
        return [folder for folder in self._folders() if folder.is_whole]

    def add(self, version: Version) -> int:
        """Copies a version into the repository under the next number that no other writer has claimed.

        Args:
            version: The local version to copy.

        Returns:
            The number assigned to it.

        Raises:
            InputError: The store denies access or does not answer; objects written so far are removed if the store allows it.
        """
        while True:
            folders = self._folders()
            self._tidy(folders)
            number = folders[-1].number + 1 if folders else int(FIRST_VERSION)
            with self._claim(number) as is_ours:
                if is_ours:
                    self._write(version, number)
                    return number
            time.sleep(random.uniform(0, MAX_BACKOFF_SECONDS))

    def _folders(self) -> list[BucketVersion]:
        """Returns all numbered folders, including those of versions that are not complete."""
        contents: dict[str, dict[str, FileInfo]] = {}
        for found in reading.list_files(self.uri):
            folder, _, name = found.name.partition("/")
            if folder.isdecimal() and not {"", ".", ".."} & set(name.split("/")):
                contents.setdefault(folder, {})[name] = found
        folders = []
        for folder, files in contents.items():
            claims = {name: found for name, found in files.items() if name.startswith(CLAIM_PREFIX)}
            model = {name: found for name, found in files.items() if name not in claims}
            folders.append(BucketVersion(uris.join_uri(self.uri, folder), int(folder), model, claims))
        return sorted(folders, key=lambda folder: folder.number)

    def _tidy(self, folders: list[BucketVersion]) -> None:
        """Removes what killed writers left below the oldest complete version.

        A slower writer may still be at work there: others take the numbers after its own, and may end before it.
        """
        whole = [folder.number for folder in folders if folder.is_whole]
        for folder in folders:
            if whole and folder.number < whole[0] and not folder.is_being_written:
                folder.remove()

    @contextlib.contextmanager
    def _claim(self, number: int) -> Iterator[bool]:
        """Locks a number while the body runs; yields False if another writer has claimed or used it.

        Stores list an object as soon as it is written. Of two writers that claim a number at the same time, at least one sees
        the other and backs off.
        """
        folder, name = uris.join_uri(self.uri, str(number)), f"{CLAIM_PREFIX}{uuid.uuid4().hex}"
        claim = uris.join_uri(folder, name)
        writing.write_file(b"", claim)
        try:
            yield [found.name for found in reading.list_files(folder)] == [name]
        except BaseException:
            with contextlib.suppress(InputError, OSError):  # the first error is the one to report
                writing.delete_file(claim)
            raise
        writing.delete_file(claim)

    def _write(self, version: Version, number: int) -> None:
        written: list[str] = []
        try:
            for name, file in sorted(version.files.items(), key=lambda item: item[0] == SAVED_MODEL_FILE):
                written.append(uris.join_uri(self.uri, f"{number}/{name}"))
                writing.write_file(file, written[-1])
        except BaseException:
            with contextlib.suppress(InputError, OSError):  # the first error is the one to report
                for uri in reversed(written):
                    writing.delete_file(uri)
            raise


@contextlib.contextmanager
def local_copy(uri: str, exports: Collection[str] = ()) -> Iterator[Path]:
    """Makes a model folder or a repository available on this machine while the body runs.

    A local path is used in place. From a bucket the newest version is downloaded; versions published later are not.

    Args:
        uri: Path or URI of a model folder or a repository, or of a registered model.
        exports: Formats of the exports beside the versions that are needed as well.

    Yields:
        Path of the repository or the model folder on this machine.

    Raises:
        InputError: There is no version in the bucket, or the store denies access or does not answer.
    """
    uri = resolve(uri)
    if uris.scheme_of(uri) not in base.BUCKETS:
        yield Path(uris.absolute_uri(uri))
        return
    with atomic.temporary_folder() as scratch:
        place, published = located(uri)
        published[-1].download(scratch)
        published_exports.sync_exports(place, scratch, exports)
        yield scratch


def located(uri: str) -> tuple[str, list[BucketVersion]]:
    """Finds the repository at a URI in a bucket, or in the model folder there; returns its URI and versions.

    Raises:
        InputError: There are no versions, or the store denies access or does not answer.
    """
    for place in (uri, uris.join_uri(uri, SERVING_FOLDER.as_posix())):
        if published := BucketRepository(place).versions():
            return place, published
    raise no_model_error(uri)
