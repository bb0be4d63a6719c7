"""Reads and writes URIs: local folders, archives, object stores, web servers, and the embedded sample.

The URI of an archive member is the archive's URI, `#`, and the member's name: `photos.tgz#daisy/1.jpg`.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import socket
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from kfp_vision import archives, sample, stores
from kfp_vision.core import threads
from kfp_vision.core.errors import AccessError, FieldError, InputError, NotFoundError
from kfp_vision.locations import SAMPLE, Location, uri_scheme
from kfp_vision.stores import Found, NotThere, patience

ARCHIVE_SUFFIXES = archives.SUFFIXES
SCHEMES = ("", "file", SAMPLE, *stores.SCHEMES)
# Suffixes of temporary names next to an output: the new version, the version it replaces, and a working folder.
PARTIAL, BEFORE, SCRATCH = ".partial", ".before", ".scratch"
WAIT_FIELD = "store_wait_seconds"  # of advanced
TEMPORARY = "kfp-vision"  # prefix of temporary folders
AHEAD_BYTES = 64 << 20  # bytes of images read ahead
SMALL = 16 << 10  # bytes of memory per image, besides its content
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Item:
    """A file below a URI.

    Attributes:
        uri: of the file.
        name: its path below the root, with forward slashes.
        size: in bytes.
        read: returns the bytes; must be called before the next item is taken.
        md5: of the bytes in hexadecimal, if the store reports one; see `stores.Found`.
        random_access: whether it can be read at any time, in any order; an archive member cannot.
    """

    uri: str
    name: str
    size: int
    read: Callable[[], bytes]
    md5: str = ""
    random_access: bool = False


def absolute(uri: str) -> str:
    """Makes a local path absolute and removes `file://`; returns any other URI unchanged."""
    return Location.of_file(uri).absolute


def scheme(uri: str) -> str:
    """Returns the scheme of a URI, such as `http`; empty for a local path."""
    return uri_scheme(uri)


def check_uri(uri: str, field: str) -> None:
    """Checks a URI without network access: its scheme is supported, and a local path exists.

    Args:
        uri: to check.
        field: its name in messages.

    Raises:
        FieldError: the URI is empty, malformed, has an unsupported scheme, or contains credentials.
        NotFoundError: the local path does not exist.
    """
    location = Location.of_file(uri)
    if not uri:
        raise FieldError(f"{field} must name the location of the data", uri, "Set it to a folder, an archive or an address.")
    if location.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in stores.SCHEMES)
        remedy = "Copy the data to a folder, an archive or a bucket."
        raise FieldError(f"{field} must be a local path, `sample`, or begin with one of {known}", stores.shown(uri), remedy)
    if "@" in urlsplit(uri).netloc:
        remedy = "Remove them, and set them in the environment."
        raise FieldError(f"{field} must not contain a user name or password", f"{location.scheme}://...", remedy)
    if location.is_in_bucket:
        Location.of_object(uri)
    if location.is_local and not location.path.exists():
        raise NotFoundError(f"{field} must name something that exists", uri, "Check the path and its permissions.")


def check_there(uri: str, field: str) -> None:
    """Checks a URI as `check_uri` does, and that the store has something readable there.

    Args:
        uri: to check.
        field: its name in messages.

    Raises:
        FieldError, NotFoundError: as `check_uri`; also if the store has nothing there.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    check_uri(uri, field)
    if Location.of_file(uri).is_remote:
        with _existing(field):
            if not next(_listed(uri), None):
                stores.store(uri).find(uri)


def check_picture_uri(uri: str, field: str) -> None:
    """Checks the URI of an image; for a member of an archive, only the archive.

    Args:
        uri: to check.
        field: its name in messages.

    Raises:
        InputError: as `check_there`, or the URI does not name a single file.
    """
    if scheme(uri) == SAMPLE and uri.removeprefix(f"{SAMPLE}://") not in sample.names():
        raise FieldError(f"{field} must name an image of the sample", uri, f"Use {SAMPLE}://{sample.names()[0]}, for example.")
    location = Location.parse(absolute(uri))
    check_there(location.uri, field)
    if not scheme(uri) and not location.member and not location.path.is_file():
        raise FieldError(f"{field} must name one image", uri, "Give the path of an image, not of a folder.")


def wait_for_stores(wait: Mapping[str, Any] | float | None = None, *, at_most: float = math.inf) -> None:
    """Sets how long this process waits for a store that is down or busy.

    Args:
        wait: seconds, or the field `advanced`, of which only `store_wait_seconds` is read. If it is absent or the default,
            the environment variable `KFP_VISION_STORE_WAIT_SECONDS` applies.
        at_most: seconds from now on, for all stores together; `patience.CHECK_SECONDS` in a check.

    Raises:
        InputError: the value is not a number of seconds.
    """
    from kfp_vision import parameters

    if not isinstance(wait, Mapping | None):
        wait = {WAIT_FIELD: wait}
    said = {name: value for name, value in (wait or {}).items() if name == WAIT_FIELD}
    seconds = parameters.Advanced.parse(said).store_wait_seconds
    patience.wait_for(None if seconds == parameters.ADVANCED[WAIT_FIELD] else seconds, at_most)


def walk(uri: str) -> Iterator[Item]:
    """Lists the files below a URI, in the order in which they can be read.

    Args:
        uri: of a folder, a bucket folder, an archive (local or remote), or `sample`.

    Yields:
        Each file.

    Raises:
        NotFoundError: the URI does not exist.
        InputError: it is neither a folder nor an archive, or cannot be read.

    Example:
        ```python
        for item in walk("s3://bucket/photos.tgz"):
            print(item.name, len(item.read()))
        ```
    """
    if uri == SAMPLE:
        for name in sample.names():
            encoded = sample.draw(name)
            yield Item(f"{SAMPLE}://{name}", name, len(encoded), partial(bytes, encoded))
        return
    uri = absolute(uri)
    found = None
    with _existing("an address"):
        for found in _listed(uri):
            yield Item(found.uri, found.name, found.size, partial(_download, found.uri), found.md5, random_access=True)
    if found:
        return
    path = fetch(uri)
    if path.is_dir():
        for file in _below(path):
            if file.is_file():
                yield Item(
                    str(file), file.relative_to(path).as_posix(), file.stat().st_size, file.read_bytes, random_access=True
                )
        return
    for name, size, read in archives.members(path, uri):
        yield Item(f"{uri}#{name}", name, size, read)


def _below(folder: Path) -> list[Path]:
    """Lists the files below a folder, sorted; follows links, except those to a parent."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root)
        folders[:] = [name for name in folders if not (here / name).is_symlink() or not _is_link_to_parent(here / name)]
        found += [here / name for name in names]
    return sorted(found)


def _is_link_to_parent(link: Path) -> bool:
    return link.parent.resolve().is_relative_to(link.resolve())


def save(item: Item, path: Path, what: str, remedy: str = "Try again.") -> None:
    """Writes an item to a file; must be called, as `Item.read`, before the next item is taken.

    Args:
        item: to read.
        path: to write to; its folder is created.
        what: the name of the whole that the item is part of, for the error.
        remedy: of the error.

    Raises:
        InputError: the item cannot be read, or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not item.random_access:
            path.write_bytes(item.read())
        elif Location.of_file(item.uri).is_remote:
            from kfp_vision.stores import transfer

            transfer.download(item.uri, path)
        else:
            shutil.copyfile(item.uri, path)
    except OSError as reason:
        raise InputError(f"{what} must be readable", f"{item.uri} ({reason})", remedy) from None


def link(file: Path, place: Path) -> None:
    """Creates a hard link to a file, or a copy if the file system has no links.

    Args:
        file: that exists.
        place: its new path.
    """
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def read_all(items: Iterable[Item]) -> Iterator[tuple[Item, bytes | OSError]]:
    """Reads items, concurrently if they allow it.

    Args:
        items: of one `walk`.

    Yields:
        Each item with its bytes, or the error that prevented reading it; in the items' order.
    """
    remaining = iter(items)
    for first in remaining:
        if not first.random_access:
            yield first, outcome(first.read)
            continue
        yield from _read_concurrently(chain([first], remaining), lambda item: item.read(), lambda item: item.size)


def _read_concurrently(
    things: Iterable[Thing], read: Callable[[Thing], bytes], size: Callable[[Thing], int]
) -> Iterator[tuple[Thing, bytes | OSError]]:
    """Yields things with the bytes read for each, in order, reading up to `AHEAD_BYTES` ahead."""
    return threads.ordered_map(
        lambda thing: (thing, outcome(partial(read, thing))),
        things,
        workers=stores.READERS,
        limit=AHEAD_BYTES,
        weight=lambda thing: size(thing) + SMALL,
    )


def outcome(read: Callable[[], bytes]) -> bytes | OSError:
    """Returns the result of a read, or the OSError that it raises."""
    try:
        return read()
    except OSError as error:
        return error


def fingerprint(uri: str) -> str:
    """Hashes the content of a URI by its listing only: names, sizes, and times or versions.

    Args:
        uri: of a file, a folder, a bucket folder, or `sample`.

    Returns:
        A SHA-256 in hexadecimal.

    Raises:
        NotFoundError: the URI does not exist.
        InputError: it cannot be listed.
    """
    if uri == SAMPLE:
        return sample.fingerprint()
    digest = hashlib.sha256()
    for fact in _facts(absolute(uri)):
        digest.update(f"{fact}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def describe(uri: str) -> Found:
    """Returns the metadata of a file without reading it.

    Args:
        uri: of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    if location.is_remote:
        return stores.store(uri).find(uri)
    status = location.path.stat()
    return Found(uri, Path(uri).name, status.st_size, version=str(status.st_mtime_ns), modified=status.st_mtime)


def archive_and_member(uri: str) -> tuple[str, str]:
    """Splits a URI at the `#` that follows an archive; keys and local paths may contain other `#`.

    Args:
        uri: of a file or of an archive member.

    Returns:
        The URI of the file or the archive, and the member's name, or an empty string.
    """
    location = Location.parse(uri)
    return location.uri, location.member


def _download(uri: str) -> bytes:
    from kfp_vision.stores import transfer

    return transfer.received(uri)


def _listed(uri: str) -> Iterator[Found]:
    """Yields the objects below a bucket folder; none if the URI names an object or is not in a bucket."""
    location = Location.of_file(uri)
    if location.is_in_bucket and not location.is_archive:
        yield from stores.store(uri).below(uri)


def is_archive(uri: str) -> bool:
    """Checks whether a URI ends like an archive."""
    return Location.of_file(uri).is_archive


def _facts(uri: str) -> Iterator[str]:
    """Yields the lines that a fingerprint hashes."""
    yield uri
    if scheme(uri):
        with _existing("an address"):
            found = None
            for found in _listed(uri):
                yield f"{found.name} {found.size} {found.version}"
            if found is None:
                found = stores.store(uri).find(uri)
                yield f"{found.size} {found.version}"
        return
    path = fetch(uri)
    for file in _below(path) if path.is_dir() else [path]:
        if file.is_file():
            status = file.stat()
            yield f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}"


@contextlib.contextmanager
def _existing(field: str) -> Iterator[None]:
    try:
        yield
    except NotThere as reason:
        raise NotFoundError(f"{field} must name something that exists", str(reason), "Check the spelling.") from None


def fetch(uri: str) -> Path:
    """Returns a local path for a URI: the path itself, or a download, which is cached on this machine.

    Args:
        uri: of a local file or folder, or of a remote file.

    Raises:
        NotFoundError: the URI does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    uri = absolute(uri)
    if not scheme(uri):
        check_uri(uri, "a path")
        return Path(uri)
    from kfp_vision.stores import transfer

    with _existing("an address"):
        found = stores.store(uri).find(uri)
        known = hashlib.sha256(f"{uri}\n{found.version}\n{found.size}".encode()).hexdigest()[:24]
        target = _downloads() / f"{known}-{found.name}"
        if not target.exists() or not found.version:
            with replacing(target) as beside:
                transfer.download(uri, beside)
    return target


class Listed(Protocol):
    """The URI and the size of an image."""

    @property
    def uri(self) -> str:
        """Where the image is."""

    @property
    def bytes(self) -> int:
        """Its size."""


Row = TypeVar("Row", bound=Listed)


class Reader:
    """Reads files by their URIs; unpacks each archive once, into a folder that is removed with the reader.

    A context manager; `read` is thread-safe.

    Example:
        ```python
        with Reader() as reader:
            encoded = reader.read("photos.tgz#daisy/1.jpg")
        ```
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scratch = contextlib.ExitStack()
        self._unpacked: dict[str, dict[str, Path] | InputError] = {}
        self._read_ahead: dict[str, bytes | OSError] = {}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._scratch.close()

    def ahead(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Reads the images of stores ahead, concurrently, so that `read` returns them immediately.

        Args:
            rows: of a table of images.

        Yields:
            The same rows, each once its image has been read.
        """
        for stored, run in groupby(rows, _is_object):
            if not stored:
                yield from run
                continue
            for row, encoded in _read_concurrently(run, lambda row: _download(row.uri), lambda row: row.bytes):
                self._read_ahead[row.uri] = encoded
                yield row

    def read(self, uri: str) -> bytes:
        """Reads a file.

        Args:
            uri: of a file, an archive member, or an image of the sample.

        Returns:
            Its bytes.

        Raises:
            FileNotFoundError: the file or the member does not exist.
            OSError: the file cannot be read.
            InputError: the archive is damaged, or the store fails.
        """
        if (content := self._read_ahead.pop(uri, None)) is not None:
            if isinstance(content, OSError):
                raise content
            return content
        kind = scheme(uri)
        if kind == SAMPLE:
            return sample.draw(uri.removeprefix(f"{SAMPLE}://"))
        if not kind:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), io.FileIO(uri) as file:
                return file.readall()
        location = Location.parse(uri)
        if location.member:
            with self._lock:
                if location.uri not in self._unpacked:
                    self._unpacked[location.uri] = self._unpack(location.uri)
            unpacked = self._unpacked[location.uri]
            if isinstance(unpacked, InputError):
                raise type(unpacked).from_line(str(unpacked))
            try:
                return unpacked[location.member].read_bytes()
            except KeyError:
                raise FileNotFoundError(f"{stores.shown(location.uri)} has no member {location.member}") from None
        return _download(uri) if kind else Path(uri).read_bytes()

    def _unpack(self, archive: str) -> dict[str, Path] | InputError:
        """Unpacks an archive; returns an error, so that it is kept and a store is waited for only once."""
        try:
            return archives.unpack(fetch(archive), archive, self._scratch.enter_context(temporary()))
        except InputError as error:
            return error


def _is_object(row: Listed) -> bool:
    return Location.of_file(row.uri).is_remote and not Location.parse(row.uri).member


def read_picture(uri: str, field: str) -> bytes:
    """Reads the image that a field names.

    Args:
        uri: of the image.
        field: its name in messages.

    Returns:
        Its bytes, encoded.

    Raises:
        InputError: it cannot be read.
    """
    with Reader() as reader:
        try:
            return reader.read(uri)
        except (OSError, ValueError) as reason:
            raise InputError(f"{field} must name an image", f"{uri} ({reason})", "Give a JPEG or a PNG.") from None


def inside(folder: str, name: str) -> str:
    """Joins a folder and a name.

    Args:
        folder: a path or the URI of a bucket folder.
        name: relative to it, with forward slashes.

    Returns:
        The absolute path, or the URI.
    """
    location = Location.of_file(folder)
    return stores.extended(folder, f"/{name}") if location.is_in_bucket else str(location.path / name)


def children(uri: str) -> list[Found]:
    """Lists all files below a folder or a bucket folder, recursively.

    Args:
        uri: of the folder.

    Returns:
        The files, sorted by name; empty if the folder does not exist.

    Raises:
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    if location.is_in_bucket:
        try:
            return sorted(stores.store(uri).below(uri), key=lambda found: found.name)
        except NotThere:
            return []
    root = location.path
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix not in (PARTIAL, BEFORE, SCRATCH))
    return [replace(describe(str(path)), name=path.relative_to(root).as_posix()) for path in files]


def put(content: Path | bytes, uri: str) -> None:
    """Writes a file or an object, atomically, replacing an existing one.

    Folders are created. Stores verify a checksum; requests are retried while a store is down or busy.

    Args:
        content: bytes, or the path of a file to copy.
        uri: to write to.

    Raises:
        NotThere: the bucket does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
        FieldError: the URI is read-only.
    """
    location = Location.of_file(uri)
    if location.is_remote:
        from kfp_vision.stores import transfer

        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            transfer.upload(uri, source)
        return
    with replacing(location.path) as beside:
        beside.write_bytes(content) if isinstance(content, bytes) else shutil.copyfile(content, beside)


def remove(uri: str) -> None:
    """Deletes a file or an object, if it exists.

    Args:
        uri: of the file or the object.

    Raises:
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    if location.is_remote:
        stores.store(uri).remove(uri)
    else:
        location.path.unlink(missing_ok=True)


def check_writable(uri: str, field: str) -> None:
    """Checks that a folder or a bucket folder is writable; in a bucket, by creating and deleting an object.

    A local folder need not exist if it can be created; this function does not create it.

    Args:
        uri: of the folder.
        field: its name in messages.

    Raises:
        FieldError: the URI does not name a folder.
        NotFoundError: the bucket does not exist.
        AccessError: it is not writable.
        UnreachableError: the store does not answer.
    """
    remedy = "Give a folder, or a bucket folder as s3://bucket/folder."
    location = Location.of_file(uri)
    if not uri or not (location.is_local or location.is_in_bucket) or location.is_archive:
        raise FieldError(f"{field} must name a folder or a bucket folder to write to", stores.shown(uri), remedy)
    if location.is_in_bucket:
        check_uri(uri, field)
        probe = inside(uri, f".kfp-vision-{uuid.uuid4().hex}")
        with _existing(field):
            put(b"", probe)
            remove(probe)
        return
    path = location.path
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir():
        raise FieldError(f"{field} must name a folder", uri, remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise AccessError(f"{field} must name a writable folder", uri, f"Let this user write to {existing}.")


class Mirror:
    """Copies a folder of append-only files to another folder or a bucket folder, incrementally.

    Other files in the target are kept.

    Args:
        folder: to copy from.
        uri: to copy to.
    """

    def __init__(self, folder: Path, uri: str):
        self._folder, self._uri = folder, uri
        self._copied: dict[str, int] = {}

    def sync(self) -> None:
        """Copies the files that are new or have grown since the last call.

        Raises:
            NotThere, InputError, OSError: as `put`; the next call repeats the file that failed.
        """
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name, before = path.relative_to(self._folder).as_posix(), self._copied.get(str(path), -1)
            if path.stat().st_size > before:
                content = path.read_bytes()
                self._write(content, max(before, 0), inside(self._uri, name))
                self._copied[str(path)] = len(content)

    def _write(self, content: bytes, before: int, uri: str) -> None:
        # Local files are appended to, as readers such as TensorBoard keep them open.
        if Location.of_file(uri).is_remote or not before:
            put(content, uri)
        else:
            with Path(uri).open("ab") as file:
                file.write(content[before:])


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Makes an output atomic: the body writes to a temporary path, which is moved into place if the body succeeds.

    Args:
        path: of the file or the folder to create or replace.

    Yields:
        The temporary path, next to the final one.

    Example:
        ```python
        with replacing(Path("labels.json")) as beside:
            beside.write_text("{}")
        ```
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    beside = path.with_name(f".{path.name}.{_writer()}{PARTIAL}")
    before = path.with_name(f".{path.name}.{_writer()}{BEFORE}")
    _remove(beside)
    _remove(before)
    try:
        yield beside
        if path.is_dir():  # moved first, as being killed during a removal would leave half a folder
            path.replace(before)
        beside.replace(path)
    finally:
        _remove(beside)
        _remove(before)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON to a file, atomically.

    Args:
        path: of the file.
        content: to write.
    """
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Creates a working folder next to a path, on the same file system; removes it after the body.

    Args:
        path: of the future output.

    Yields:
        The folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    folder = path.with_name(f".{path.name}.{_writer()}{SCRATCH}")
    _remove(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """Creates a temporary folder; removes it after the body.

    First removes the leftovers of processes that were killed: a few unpacked archives fill a disk.

    Yields:
        The folder.
    """
    place = Path(tempfile.gettempdir())
    _remove_leftovers(place / TEMPORARY)
    with tempfile.TemporaryDirectory(prefix=f".{TEMPORARY}.{_writer()}.", suffix=SCRATCH, dir=place) as folder:
        yield Path(folder)


def _writer() -> str:
    """Returns the identifier of this process in temporary names."""
    return f"{socket.gethostname()}.{os.getpid()}"


def _remove_leftovers(path: Path) -> None:
    """Removes the temporary outputs of processes of this host that were killed; other hosts' may still be running."""
    begin = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.iterdir():
        if left.name.startswith(begin) and left.suffix in (PARTIAL, BEFORE, SCRATCH):
            process = left.name.removeprefix(begin).partition(".")[0]
            if process.isdecimal() and not _is_alive(int(process)):
                with contextlib.suppress(OSError):  # another user's, or another process is removing it too
                    _remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _downloads() -> Path:
    """Returns this user's download cache, which must not be writable by others."""
    folder = Path(tempfile.gettempdir()) / f"kfp-vision-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise AccessError(
            "the download cache must belong to you and not be writable by others", str(folder), "Remove it, or set TMPDIR."
        )
    return folder
