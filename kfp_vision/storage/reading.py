"""Reads URIs: local folders, archives, object stores, web servers, and the embedded sample.

The URI of an archive member is the archive's URI, `#`, and the member's name: `photos.tgz#daisy/1.jpg`. In a bucket, `//`
follows the `#` unless the archive has the ending of one: `s3://bucket/photos#//daisy/1.jpg`.
"""

import contextlib
import hashlib
import io
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Protocol, TypeVar

from kfp_vision.core import threads
from kfp_vision.core.errors import AccessError, FieldError, InputError, NotFoundError
from kfp_vision.storage import archives, atomic, base, sample, several_sample, stores, uris
from kfp_vision.storage.base import FileInfo, ObjectNotFound
from kfp_vision.storage.uris import SAMPLE, Location

READ_AHEAD_BYTES = 64 << 20  # bytes of images read ahead
OVERHEAD_BYTES = 16 << 10  # bytes of memory per image, besides its content
AnyItem = TypeVar("AnyItem")


class Read(Protocol):
    """Reads a file."""

    def __call__(self, size: int = -1, /) -> bytes:
        """Returns the first bytes of the file.

        Args:
            size: how many; negative for all.
        """


@dataclass(frozen=True)
class Item:
    """A file below a URI.

    Attributes:
        uri: of the file.
        name: its path below the root, with forward slashes.
        size: in bytes, as stored.
        read: returns the bytes, or the first few if given how many; must be called before the next item is taken.
        md5: of the bytes in hexadecimal, if the store reports one; see `base.FileInfo`. Empty for an object with a
            Content-Encoding, since the store reports that of the bytes as stored.
        random_access: whether it can be read at any time, in any order; an archive member cannot.
    """

    uri: str
    name: str
    size: int
    read: Read
    md5: str = ""
    random_access: bool = False


def check_exists(uri: str, field: str) -> None:
    """Checks a URI as `check_uri` does, and that the store has something readable there.

    Args:
        uri: to check.
        field: its name in messages.

    Raises:
        FieldError, NotFoundError: as `check_uri`; also if the store has nothing there, or a fragment follows.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    _check_whole(uris.from_field(uri), field)
    uris.check_uri(uri, field)
    if Location.of_file(uri).is_remote:
        with require_existing(field):
            if not is_bucket_folder(uri):
                stores.store(uri).find(uri)


def _check_whole(uri: str, field: str) -> None:
    """Checks that no `#` follows an address on the web or a local archive; in a bucket it may be part of a key."""
    location = Location.parse(uri)
    is_file = location.is_local and location.path.is_file() and not Location.of_file(uri).path.exists()
    if location.member and (location.scheme in ("http", "https") or is_file):
        rule, remedy = f"{field} must name a whole file, archive or folder", f"Leave #{location.member} out."
        raise FieldError(rule, base.redact_uri(uri), remedy)


def check_image_uri(uri: str, field: str) -> None:
    """Checks the URI of an image; for a member of an archive, only the archive.

    Args:
        uri: to check.
        field: its name in messages.

    Raises:
        InputError: as `check_exists`, or the URI does not name a single file.
    """
    if uris.scheme_of(uri) == SAMPLE and uri.removeprefix(f"{SAMPLE}://") not in _sample_names():
        raise FieldError(
            f"{field} must name an image of the sample", uri, f"Use {SAMPLE}://{sample.image_names()[0]}, for example."
        )
    location = Location.parse(uris.absolute_uri(uri))
    check_exists(location.uri, field)
    if not uris.scheme_of(uri) and not location.member and not location.path.is_file():
        raise FieldError(f"{field} must name one image", uri, "Give the path of an image, not of a folder.")


def walk(uri: str, folders: set[str] | None = None) -> Iterator[Item]:
    """Lists the files below a URI, in the order in which they can be read.

    Args:
        uri: of a folder, a bucket folder, an archive (local or remote), or `sample`.
        folders: receives the names of folders that may be empty, where they are known: in a bucket only those that have an
            object of their own.

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
        for name in sample.image_names():
            encoded = sample.draw(name)
            yield Item(f"{SAMPLE}://{name}", name, len(encoded), partial(first_bytes, encoded))
        return
    if uri == uris.SEVERAL_SAMPLE:
        for name in several_sample.image_names():
            encoded = several_sample.draw(name)
            yield Item(f"{SAMPLE}://{several_sample.FOLDER}/{name}", name, len(encoded), partial(first_bytes, encoded))
        return
    uri = uris.absolute_uri(uri)
    found = None
    with require_existing("an address"):
        for found in _listed(uri, folders):
            md5 = "" if found.encoding else found.md5
            yield Item(found.uri, found.name, found.size, partial(_download, found.uri), md5, random_access=True)
    if found:
        return
    path = fetch(uri)
    if path.is_dir():
        for file in _below(path, folders):
            if file.is_file():
                name, size = file.relative_to(path).as_posix(), file.stat().st_size
                yield Item(str(file), name, size, partial(_read_file, file), random_access=True)
        return
    for name, size, read in archives.read_members(path, uri, folders):
        yield Item(uris.join_member(uri, name), name, size, read)


def _below(folder: Path, folders: set[str] | None = None) -> list[Path]:
    """Lists the files below a folder, sorted, and collects the folders; follows links, except those to a parent."""
    found = []
    for root, inner, names in os.walk(folder, followlinks=True):
        here = Path(root)
        inner[:] = [name for name in inner if not (here / name).is_symlink() or not _is_link_to_parent(here / name)]
        found += [here / name for name in names]
        if folders is not None:
            folders.update((here / name).relative_to(folder).as_posix() for name in inner)
    return sorted(found)


def _is_link_to_parent(link: Path) -> bool:
    return link.parent.resolve().is_relative_to(link.resolve())


def notes_on_names(uri: str) -> list[str]:
    """Describes how the names in an archive were read, if it does not say their encoding.

    Args:
        uri: that `walk` has read to its end; of an archive or anything else.

    Returns:
        One sentence, or none.
    """
    note = "" if uri in uris.SAMPLES else archives.note_on_names(uris.absolute_uri(uri))
    return [note] if note else []


def is_folder(uri: str) -> bool:
    """Checks whether there is a folder at a URI, rather than a file.

    Args:
        uri: of a local file or folder, a bucket folder, or any file.

    Raises:
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    return location.path.is_dir() if location.is_local else next(_listed(uri), None) is not None


def save_item(item: Item, path: Path, what: str, remedy: str = "Try again.") -> None:
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
            from kfp_vision.storage import transfer

            transfer.download(item.uri, path)
        else:
            shutil.copyfile(item.uri, path)
    except OSError as reason:
        raise InputError(f"{what} must be readable", f"{item.uri} ({reason})", remedy) from None


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
            yield first, bytes_or_error(first.read)
            continue
        yield from _read_concurrently(chain([first], remaining), lambda item: item.read(), lambda item: item.size)


def _read_concurrently(
    things: Iterable[AnyItem], read: Callable[[AnyItem], bytes], size: Callable[[AnyItem], int]
) -> Iterator[tuple[AnyItem, bytes | OSError]]:
    """Yields things with the bytes read for each, in order, reading up to `READ_AHEAD_BYTES` ahead."""
    return threads.ordered_map(
        lambda thing: (thing, bytes_or_error(partial(read, thing))),
        things,
        workers=base.CONCURRENT_READS,
        limit=READ_AHEAD_BYTES,
        weight=lambda thing: size(thing) + OVERHEAD_BYTES,
    )


def bytes_or_error(read: Callable[[], bytes]) -> bytes | OSError:
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
    if uri in uris.SAMPLES:
        return sample.fingerprint() if uri == SAMPLE else several_sample.fingerprint()
    digest = hashlib.sha256()
    for fact in _facts(uris.absolute_uri(uri)):
        digest.update(f"{fact}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def describe(uri: str) -> FileInfo:
    """Returns the metadata of a file without reading it.

    Args:
        uri: of the file.

    Returns:
        The metadata; without checksums for an object with a Content-Encoding, since they are of the bytes as stored.

    Raises:
        FileNotFoundError: the file does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    if location.is_remote:
        found = stores.store(uri).find(uri)
        return replace(found, md5="", crc32c="") if found.encoding else found
    status = location.path.stat()
    return FileInfo(uri, Path(uri).name, status.st_size, version=str(status.st_mtime_ns), modified=status.st_mtime)


def first_bytes(encoded: bytes, size: int = -1) -> bytes:
    """Returns the first bytes of a file in memory, as `Item.read`.

    Args:
        encoded: the file.
        size: how many bytes; negative for all.
    """
    return encoded if size < 0 else encoded[:size]


def read_head(uri: str, size: int) -> bytes:
    """Returns the first bytes of a file.

    Args:
        uri: of a local file, an object, or a file on a web server.
        size: how many bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    return _download(uri, size) if location.is_remote else _read_file(location.path, size)


def _read_file(path: Path, size: int = -1) -> bytes:
    with io.FileIO(path) as file:
        return file.readall() if size < 0 else file.read(size) or b""


def _download(uri: str, size: int = -1) -> bytes:
    from kfp_vision.storage import transfer

    return transfer.download_bytes(uri) if size < 0 else transfer.download_head(uri, size)


def is_bucket_folder(uri: str) -> bool:
    """Checks whether there are objects below a URI; False if it is not in a bucket.

    Args:
        uri: any.

    Raises:
        ObjectNotFound: the bucket does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    return next(_listed(uri), None) is not None


def _listed(uri: str, folders: set[str] | None = None) -> Iterator[FileInfo]:
    """Yields the objects below a bucket folder, and collects the folders; none if the URI names an object or no bucket."""
    location = Location.of_file(uri)
    if location.is_in_bucket and not location.is_archive:
        yield from stores.store(uri).below(uri, folders)


def _facts(uri: str) -> Iterator[str]:
    """Yields the lines that a fingerprint hashes."""
    yield uri
    if uris.scheme_of(uri):
        with require_existing("an address"):
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
def require_existing(field: str) -> Iterator[None]:
    """Turns ObjectNotFound into an error that names a field.

    Args:
        field: the field, for the error.

    Raises:
        NotFoundError: the body raised ObjectNotFound.
    """
    try:
        yield
    except ObjectNotFound as reason:
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
    uri = uris.absolute_uri(uri)
    if not uris.scheme_of(uri):
        uris.check_uri(uri, "a path")
        return Path(uri)
    from kfp_vision.storage import transfer

    with require_existing("an address"):
        found = stores.store(uri).find(uri)
        known = hashlib.sha256(f"{uri}\n{found.version}\n{found.size}".encode()).hexdigest()[:24]
        target = _downloads() / f"{known}-{found.name}"
        if not target.exists() or not found.version:
            with atomic.replacing(target) as beside:
                transfer.download(uri, beside)
    return target


def fetch_unpacked(uri: str) -> bytes:
    """Returns the bytes of a file, as `fetch` finds it, without gzip's compression if it has any.

    Args:
        uri: of the file.

    Raises:
        InputError: as `fetch`; or it is compressed and damaged.
    """
    from kfp_vision.storage import transfer

    sink = io.BytesIO(fetch(uri).read_bytes())
    transfer.unpack_gzip(uri, sink)
    return sink.getvalue()


class ImageReference(Protocol):
    """The URI and the size of an image."""

    @property
    def uri(self) -> str:
        """Where the image is."""

    @property
    def bytes(self) -> int:
        """Its size."""


AnyReference = TypeVar("AnyReference", bound=ImageReference)


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

    def ahead(self, rows: Iterable[AnyReference]) -> Iterator[AnyReference]:
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
        kind = uris.scheme_of(uri)
        if kind == SAMPLE:
            return _draw_sample(uri.removeprefix(f"{SAMPLE}://"))
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
                raise FileNotFoundError(f"{base.redact_uri(location.uri)} has no member {location.member}") from None
        return _download(uri) if kind else Path(uri).read_bytes()

    def _unpack(self, archive: str) -> dict[str, Path] | InputError:
        """Unpacks an archive; returns an error, so that it is kept and a store is waited for only once."""
        try:
            return archives.unpack(fetch(archive), archive, self._scratch.enter_context(atomic.temporary_folder()))
        except InputError as error:
            return error


def _sample_names() -> set[str]:
    """Returns the names of the images of both samples, as in their URIs."""
    return {*sample.image_names(), *(f"{several_sample.FOLDER}/{name}" for name in several_sample.image_names())}


def _draw_sample(name: str) -> bytes:
    folder, _, file_name = name.partition("/")
    return several_sample.draw(file_name) if folder == several_sample.FOLDER else sample.draw(name)


def _is_object(row: ImageReference) -> bool:
    return Location.of_file(row.uri).is_remote and not Location.parse(row.uri).member


def read_image(uri: str, field: str) -> bytes:
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


def read_if_exists(uri: str) -> bytes | None:
    """Reads a file of any store.

    Args:
        uri: of the file.

    Returns:
        Its content; None if there is none.

    Raises:
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    try:
        with Reader() as reader:
            return reader.read(uri)
    except FileNotFoundError:
        return None


def list_files(uri: str) -> list[FileInfo]:
    """Lists all files below a folder or a bucket folder, recursively.

    Args:
        uri: of the folder.

    Returns:
        The files, sorted by name, without those that are deleted meanwhile; empty if the folder does not exist.

    Raises:
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    if location.is_in_bucket:
        try:
            return sorted(stores.store(uri).below(uri), key=lambda found: found.name)
        except ObjectNotFound:
            return []
    root, temporary = location.path, (atomic.PARTIAL_SUFFIX, atomic.BACKUP_SUFFIX, atomic.SCRATCH_SUFFIX)
    found = []
    for path in sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names):
        with contextlib.suppress(FileNotFoundError):  # another process has deleted it meanwhile
            if path.suffix not in temporary and path.is_file():
                found.append(replace(describe(str(path)), name=path.relative_to(root).as_posix()))
    return found


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
