"""A model repository in a bucket: its versions, how one comes here, how one gets there, and how one goes.

`saved_model.pb` is written last and removed first. What has none is no version, here and for whoever else looks for it.
"""

import contextlib
import random
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kfp_vision import repository, storage, stores
from kfp_vision.errors import InputError
from kfp_vision.repository import ABOUT_FILE, FIRST, INDEX_FOLDER, SAVED_MODEL_FILE, SERVING_FOLDER, Version
from kfp_vision.stores import Found, NotThere, patience, transfer

CLAIM = ".kfp-vision-"  # begins the name of an object that says: somebody writes a version here
LONGEST_PAUSE = 2.0  # seconds, before a number is tried again that two wanted
FOLLOW_SECONDS = 10.0  # between two looks for newer versions
SECONDS_TO_END = 5  # what is being brought meanwhile is not waited for


@dataclass(frozen=True)
class StoredVersion:
    """A folder of a repository in a bucket that is named by a number.

    Attributes:
        uri: where it lies.
        number: its number.
        files: what it is made of, by the names below it.
        claims: who writes there, or did when it ended.
    """

    uri: str
    number: int
    files: Mapping[str, Found]
    claims: frozenset[str]

    @property
    def is_whole(self) -> bool:
        """Whether it is a version."""
        return SAVED_MODEL_FILE in self.files

    @cached_property
    def about(self) -> dict[str, Any]:
        """See `Version.about`; of the version that alone is read."""
        where = storage.inside(self.uri, ABOUT_FILE.as_posix())
        return repository.described(lambda: transfer.received(where), where)

    @property
    def name(self) -> str:
        return self.about["model_name"]

    def is_copy_of(self, version: Version) -> bool:
        """Whether both are copies of one export: it is brought here to be compared only if names and sizes agree."""
        sizes = {name: file.stat().st_size for name, file in version.files.items()}
        if {name: found.size for name, found in self.files.items()} != sizes:
            return False
        with storage.temporary() as scratch:
            return self.brought(scratch).fingerprint == version.fingerprint

    def brought(self, scratch: Path) -> Version:
        """A copy on this machine, below a folder, named by its number.

        Raises:
            InputError: it was removed meanwhile, or the store refuses or does not answer.
        """
        folder = scratch / str(self.number)
        with storage.replacing(folder) as beside:
            for name, found in self.files.items():
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    transfer.download(found.uri, beside / name)
                except NotThere as reason:
                    raise InputError("a version must stay while it is read", str(reason), "Try again.") from None
        return Version(folder)

    def remove(self) -> None:
        """Removes it; from the first moment on it is no version any more."""
        for name in sorted(self.files, key=lambda name: name != SAVED_MODEL_FILE):
            storage.remove(self.files[name].uri)
        for claim in self.claims:
            storage.remove(storage.inside(self.uri, claim))


class Bucket:
    """A repository in a bucket.

    Args:
        uri: of its folder there.
    """

    def __init__(self, uri: str):
        self.uri = uri

    def versions(self) -> list[StoredVersion]:
        """The whole versions, the newest last.

        Raises:
            InputError: the store refuses or does not answer.
        """
        return [folder for folder in self._folders() if folder.is_whole]

    def add(self, version: Version) -> int:
        """Copies a version there, and gives the number that it has got: one that nobody has, or had begun with.

        Raises:
            InputError: the store refuses or does not answer; what had arrived is removed again, as far as it lets itself be.
        """
        while True:
            folders = self._folders()
            self._tidy(folders)
            number = folders[-1].number + 1 if folders else int(FIRST)
            with self._claimed(number) as alone:
                if alone:
                    self._write(version, number)
                    return number
            time.sleep(random.uniform(0, LONGEST_PAUSE))

    def _folders(self) -> list[StoredVersion]:
        """All folders with a number, those as well in which a version is being written, or was when its writer ended."""
        contents: dict[str, dict[str, Found]] = {}
        for found in storage.children(self.uri):
            folder, _, name = found.name.partition("/")
            if folder.isdecimal() and not {"", ".", ".."} & set(name.split("/")):
                contents.setdefault(folder, {})[name] = found
        folders = []
        for folder, files in contents.items():
            claims = frozenset(name for name in files if name.startswith(CLAIM))
            model = {name: found for name, found in files.items() if name not in claims}
            folders.append(StoredVersion(storage.inside(self.uri, folder), int(folder), model, claims))
        return sorted(folders, key=lambda folder: folder.number)

    def _tidy(self, folders: list[StoredVersion]) -> None:
        """Removes what a writer that was killed has left; one that may still be writing is newer than some whole version."""
        whole = [folder.number for folder in folders if folder.is_whole]
        for folder in folders:
            if whole and folder.number < whole[0]:
                folder.remove()

    @contextlib.contextmanager
    def _claimed(self, number: int) -> Iterator[bool]:
        """Whether nobody else writes, or has written, under a number; as long as the body lasts, others see that we do.

        A store lists an object as soon as it is there. Of two who claim at a time, one or both see the other and step back.
        """
        folder, mine = storage.inside(self.uri, str(number)), f"{CLAIM}{uuid.uuid4().hex}"
        claim = storage.inside(folder, mine)
        storage.put(b"", claim)
        try:
            yield [found.name for found in storage.children(folder)] == [mine]
        except BaseException:
            with contextlib.suppress(InputError, OSError):  # the first reason is the one to tell
                storage.remove(claim)
            raise
        storage.remove(claim)

    def _write(self, version: Version, number: int) -> None:
        written: list[str] = []
        try:
            for name, file in sorted(version.files.items(), key=lambda item: item[0] == SAVED_MODEL_FILE):
                written.append(storage.inside(self.uri, f"{number}/{name}"))
                storage.put(file, written[-1])
        except BaseException:
            with contextlib.suppress(InputError, OSError):  # the first reason is the one to tell
                for uri in reversed(written):
                    storage.remove(uri)
            raise


@contextlib.contextmanager
def brought(uri: str) -> Iterator[Path]:
    """A model folder or a repository on this machine: a path as it is, one in a bucket as a copy of its newest version.

    The copy goes with the body; versions that come later are not in it.

    Raises:
        InputError: no version lies in the bucket, or the store refuses or does not answer.
    """
    if storage.scheme(uri) not in stores.BUCKETS:
        yield Path(storage.absolute(uri))
        return
    with storage.temporary() as scratch:
        _, there = _located(uri)
        there[-1].brought(scratch)
        yield scratch


@contextlib.contextmanager
def followed(uri: str) -> Iterator[Path]:
    """As `brought`, but that as long as the body lasts newer versions come as well, and those go that the bucket has no more.

    An index that lies with the versions comes too, and follows the one in the bucket.

    Raises:
        InputError: no version lies in the bucket at first, or the store refuses or does not answer.
    """
    with brought(uri) as path, contextlib.ExitStack() as following:
        if storage.scheme(uri) in stores.BUCKETS:
            ended = threading.Event()
            follower = threading.Thread(target=_follow, args=(uri, path, ended), daemon=True)
            follower.start()
            following.callback(follower.join, SECONDS_TO_END)
            following.callback(ended.set)
        yield path


def _follow(uri: str, path: Path, ended: threading.Event) -> None:
    """Makes a repository like one in a bucket, every few seconds; what cannot be had now is tried again, and said once."""
    from kfp_vision.search import beside  # NumPy, for who publishes alone, is large

    told, pause = "", 0.0  # the index is not there yet
    while not ended.wait(pause):
        pause = FOLLOW_SECONDS
        try:
            with patience.in_the_background():
                place, there = _located(uri)
                if not (path / str(there[-1].number)).exists():
                    there[-1].brought(path)
                numbers = {version.number for version in there}
                for folder in path.iterdir():
                    if folder.name.isdecimal() and int(folder.name) not in numbers:
                        shutil.rmtree(folder)
                beside.bring(place, path / INDEX_FOLDER)
            told = ""
        except (InputError, OSError) as error:
            if str(error) != told and not ended.is_set():
                told = str(error)
                print(f"warning: cannot look for newer versions ({told.removeprefix(InputError.PREFIX)})", flush=True)


def _located(uri: str) -> tuple[str, list[StoredVersion]]:
    """The repository in a bucket, or in a model folder there, and its versions.

    Raises:
        InputError: there are none, or the store refuses or does not answer.
    """
    for place in (uri, storage.inside(uri, SERVING_FOLDER.as_posix())):
        if there := Bucket(place).versions():
            return place, there
    raise repository.no_model(uri)
