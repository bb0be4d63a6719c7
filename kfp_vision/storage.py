"""URIs to bytes and back: local folders, archives, object stores, web servers, and the embedded sample.

A picture inside an archive has the archive's URI, a `#`, and the name of the member: `photos.tgz#daisy/1.jpg`.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
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

from kfp_vision import archives, parallel, sample, stores
from kfp_vision.errors import InputError
from kfp_vision.stores import Found, NotThere, patience

ARCHIVE_SUFFIXES = archives.SUFFIXES
SAMPLE = "sample"
SCHEMES = ("", "file", SAMPLE, *stores.SCHEMES)
# Ends of names beside an output: what is being written, what it replaces, and what is worked with meanwhile.
PARTIAL, BEFORE, SCRATCH = ".partial", ".before", ".scratch"
WAIT_FIELD = "store_wait_seconds"  # of advanced
TEMPORARY = "kfp-vision"  # begins the names of folders to work in
AHEAD_BYTES = 64 << 20  # of pictures that are being read or wait for it
SMALL = 16 << 10  # what a picture takes beside its bytes
Thing = TypeVar("Thing")
# A member of an archive in a bucket; the settings of `stores.parted` may stand between the two.
IN_ARCHIVE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, ARCHIVE_SUFFIXES))})(?:\?[^#]*)?)#(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Item:
    """A file below a URI.

    Attributes:
        uri: where its bytes are.
        name: its path below the root, with forward slashes.
        size: in bytes.
        read: gives the bytes; to be called, if at all, before the next item is taken.
        md5: of the bytes in hex, where the store seems to say it; see `stores.Found`.
        loose: whether it can be read by its URI at any time as well as now, as a member of an archive cannot.
    """

    uri: str
    name: str
    size: int
    read: Callable[[], bytes]
    md5: str = ""
    loose: bool = False


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, and `file://` taken off; any other URI as it is."""
    if uri == SAMPLE or scheme(uri) not in ("", "file"):
        return uri
    path = uri.removeprefix("file://")
    return str(Path(path).expanduser().absolute()) if path else uri


def scheme(uri: str) -> str:
    """`http` of `http://host/path`; empty for a local path."""
    return urlsplit(uri).scheme if "://" in uri else ""


def check_uri(uri: str, field: str) -> None:
    """Refuses a URI of a kind that is not read, and a local path where nothing lies, without asking anybody.

    Raises:
        InputError: naming the field.
    """
    kind = scheme(uri)
    if not uri:
        raise InputError(f"{field} must name where the data lies", uri, "Set it to a folder, an archive or an address.")
    if kind not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in stores.SCHEMES)
        remedy = "Copy the data to a folder, an archive or a bucket of yours."
        raise InputError(f"{field} must be a local path, `sample`, or begin with one of {known}", stores.shown(uri), remedy)
    if "@" in urlsplit(uri).netloc:
        remedy = "Take them out, and set them in the environment."
        raise InputError(f"{field} must hold no user name and no password", f"{kind}://...", remedy)
    if kind in stores.BUCKETS:
        stores.bucket_and_key(uri)
    if kind in ("", "file") and uri != SAMPLE and not Path(absolute(uri)).exists():
        raise InputError(f"{field} must name something that exists", uri, "Check the path, and that it is readable from here.")


def check_there(uri: str, field: str) -> None:
    """What `check_uri` does, and asks the store or the server whether something lies there that may be read.

    Raises:
        InputError: naming the field, or what the store says.
    """
    check_uri(uri, field)
    if scheme(uri) in stores.SCHEMES:
        with _there(uri, field):
            if not next(_listed(uri), None):
                stores.store(uri).find(uri)


def check_picture_uri(uri: str, field: str) -> None:
    """Refuses the URI of a picture where there is none; in an archive only that is looked for.

    Raises:
        InputError: naming the field.
    """
    if scheme(uri) == SAMPLE and uri.removeprefix(f"{SAMPLE}://") not in sample.names():
        raise InputError(f"{field} must name a picture of the sample", uri, f"Take {SAMPLE}://{sample.names()[0]}, say.")
    archive, member = archive_and_member(absolute(uri))
    check_there(archive, field)
    if not scheme(uri) and not member and not Path(archive).is_file():
        raise InputError(f"{field} must name one picture", uri, "Give the path of a picture, not of a folder.")


def wait_for_stores(wait: Mapping[str, Any] | float | None = None, *, at_most: float = math.inf) -> None:
    """Sets for this process how long a store is waited for that is gone or busy, whatever it is asked for.

    Args:
        wait: the field `advanced`, of which `store_wait_seconds` alone is read, or seconds. Where it says nothing, or the
            default, `KFP_VISION_STORE_WAIT_SECONDS` of the environment may say it.
        at_most: seconds from now on, for all stores together, whoever says more: `patience.CHECK_SECONDS` in a check.

    Raises:
        InputError: it is no number of seconds.
    """
    from kfp_vision import parameters

    if not isinstance(wait, Mapping | None):
        wait = {WAIT_FIELD: wait}
    said = {name: value for name, value in (wait or {}).items() if name == WAIT_FIELD}
    seconds = parameters.Advanced.parse(said).store_wait_seconds
    patience.wait_for(None if seconds == parameters.ADVANCED[WAIT_FIELD] else seconds, at_most)


def walk(uri: str) -> Iterator[Item]:
    """Everything below a URI, in the order in which it can be read: a folder, a bucket, an archive wherever it lies, `sample`.

    Raises:
        InputError: nothing lies there, or it is neither a folder nor an archive.
    """
    if uri == SAMPLE:
        for name in sample.names():
            encoded = sample.draw(name)
            yield Item(f"{SAMPLE}://{name}", name, len(encoded), partial(bytes, encoded))
        return
    uri = absolute(uri)
    found = None
    with _there(uri, "an address"):
        for found in _listed(uri):
            yield Item(found.uri, found.name, found.size, partial(_received, found.uri), found.md5, loose=True)
    if found:
        return
    path = fetch(uri)
    if path.is_dir():
        for file in _below(path):
            if file.is_file():
                yield Item(str(file), file.relative_to(path).as_posix(), file.stat().st_size, file.read_bytes, loose=True)
        return
    for name, size, read in archives.members(path, uri):
        yield Item(f"{uri}#{name}", name, size, read)


def _below(folder: Path) -> list[Path]:
    """What lies in a folder and in those within it, folders themselves excepted, by name; a link that leads back up is none."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = [name for name in folders if not (here / name).is_symlink() or not _leads_up(here / name)]
        found += [here / name for name in names]
    return sorted(found)


def _leads_up(link: Path) -> bool:
    return link.parent.resolve().is_relative_to(link.resolve())


def save(item: Item, path: Path, what: str, remedy: str = "Try again.") -> None:
    """Writes an item to a file, whose folder is made; to be called, as `Item.read`, before the next item is taken.

    Args:
        item: which is written.
        path: of the file.
        what: of which it is a part, for who is told that it cannot be read.
        remedy: what to do then.

    Raises:
        InputError: it is gone, or cannot be read or written, or the store refuses or does not answer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not item.loose:
            path.write_bytes(item.read())
        elif scheme(item.uri) in stores.SCHEMES:
            from kfp_vision.stores import transfer

            transfer.download(item.uri, path)
        else:
            shutil.copyfile(item.uri, path)
    except OSError as reason:
        raise InputError(f"{what} must be read whole", f"{item.uri} ({reason})", remedy) from None


def link(file: Path, place: Path) -> None:
    """The same file under another name; a copy of it where the file system cannot."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def read_all(items: Iterable[Item]) -> Iterator[tuple[Item, bytes | OSError]]:
    """Items with their bytes, or why these cannot be read, in the items' order: many are read at a time where they can be."""
    waiting = iter(items)
    for first in waiting:
        if not first.loose:
            yield first, outcome(first.read)
            continue
        yield from _many(chain([first], waiting), lambda item: item.read(), lambda item: item.size)


def _many(
    things: Iterable[Thing], read: Callable[[Thing], bytes], size: Callable[[Thing], int]
) -> Iterator[tuple[Thing, bytes | OSError]]:
    """Things with the bytes that are read for each, in their order: many at a time, as far ahead as `AHEAD_BYTES`."""
    return parallel.mapped(
        lambda thing: (thing, outcome(partial(read, thing))),
        things,
        workers=stores.READERS,
        limit=AHEAD_BYTES,
        weight=lambda thing: size(thing) + SMALL,
    )


def outcome(read: Callable[[], bytes]) -> bytes | OSError:
    """What a read gives, or the reason why it gives nothing."""
    try:
        return read()
    except OSError as error:
        return error


def fingerprint(uri: str) -> str:
    """A hash of what lies at a URI, from listings alone: names, sizes and times or versions."""
    if uri == SAMPLE:
        return sample.fingerprint()
    digest = hashlib.sha256()
    for fact in _facts(absolute(uri)):
        digest.update(f"{fact}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def describe(uri: str) -> Found:
    """What is known of one file without reading it.

    Raises:
        FileNotFoundError: nothing lies there.
        InputError: the store refuses, or does not answer.
    """
    if scheme(uri) in stores.SCHEMES:
        return stores.store(uri).find(uri)
    about = Path(absolute(uri)).stat()
    return Found(uri, Path(uri).name, about.st_size, version=str(about.st_mtime_ns), modified=about.st_mtime)


def archive_and_member(uri: str) -> tuple[str, str]:
    """The two sides of the `#` that follows an archive; keys of a store and local paths may have one of their own."""
    if scheme(uri) in stores.BUCKETS:
        found = IN_ARCHIVE.match(uri)
        return (found[1], found[2]) if found else (uri, "")
    if scheme(uri):
        archive, _, member = uri.partition("#")
        return archive, member
    if not Path(uri).is_file():
        for at, character in enumerate(uri):
            if character == "#" and Path(uri[:at]).is_file():
                return uri[:at], uri[at + 1 :]
    return uri, ""


def _received(uri: str) -> bytes:
    from kfp_vision.stores import transfer

    return transfer.received(uri)


def _listed(uri: str) -> Iterator[Found]:
    """The objects below a folder of a bucket; none where the URI names an object, or lies elsewhere."""
    if scheme(uri) in stores.BUCKETS and not is_archive(uri):
        yield from stores.store(uri).below(uri)


def is_archive(uri: str) -> bool:
    """Whether a URI's ending is one of an archive."""
    return stores.parted(uri)[0].lower().endswith(ARCHIVE_SUFFIXES)


def _facts(uri: str) -> Iterator[str]:
    """What a fingerprint is made of."""
    yield uri
    if scheme(uri):
        with _there(uri, "an address"):
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
            about = file.stat()
            yield f"{file.relative_to(path)} {about.st_size} {about.st_mtime_ns}"


@contextlib.contextmanager
def _there(uri: str, field: str) -> Iterator[None]:
    try:
        yield
    except NotThere as reason:
        raise InputError(f"{field} must name something that exists", str(reason), "Check its spelling.") from None


def fetch(uri: str) -> Path:
    """A local path for a URI: the path itself, or a download that later calls on this machine find again.

    Raises:
        InputError: nothing lies there, or the store refuses or does not answer.
    """
    uri = absolute(uri)
    if not scheme(uri):
        check_uri(uri, "a path")
        return Path(uri)
    from kfp_vision.stores import transfer

    with _there(uri, "an address"):
        found = stores.store(uri).find(uri)
        known = hashlib.sha256(f"{uri}\n{found.version}\n{found.size}".encode()).hexdigest()[:24]
        target = _downloads() / f"{known}-{found.name}"
        if not target.exists() or not found.version:
            with replacing(target) as beside:
                transfer.download(uri, beside)
    return target


class Listed(Protocol):
    """What says where a picture is, and how many bytes it has."""

    @property
    def uri(self) -> str: ...

    @property
    def bytes(self) -> int: ...


Row = TypeVar("Row", bound=Listed)


class Reader:
    """Gives the bytes of pictures by their URI; an archive is unpacked once, into scratch space that goes with the reader.

    To be used as a context manager; `read` may be called from many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scratch = contextlib.ExitStack()
        self._unpacked: dict[str, dict[str, Path] | InputError] = {}
        self._arrived: dict[str, bytes | OSError] = {}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._scratch.close()

    def ahead(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows; the pictures of a store are read before their rows come, many at a time, for `read` to find."""
        for stored, run in groupby(rows, lambda row: scheme(row.uri) in stores.SCHEMES and not archive_and_member(row.uri)[1]):
            if not stored:
                yield from run
                continue
            for row, encoded in _many(run, lambda row: _received(row.uri), lambda row: row.bytes):
                self._arrived[row.uri] = encoded
                yield row

    def read(self, uri: str) -> bytes:
        """The bytes at a URI.

        Raises:
            FileNotFoundError: the archive has no such member.
            OSError: the file cannot be read.
        """
        if (arrived := self._arrived.pop(uri, None)) is not None:
            if isinstance(arrived, OSError):
                raise arrived
            return arrived
        kind = scheme(uri)
        if kind == SAMPLE:
            return sample.draw(uri.removeprefix(f"{SAMPLE}://"))
        if not kind:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), io.FileIO(uri) as file:
                return file.readall()
        archive, member = archive_and_member(uri)
        if member:
            with self._lock:
                if archive not in self._unpacked:
                    self._unpacked[archive] = self._unpack(archive)
            unpacked = self._unpacked[archive]
            if isinstance(unpacked, InputError):
                raise InputError.from_line(str(unpacked))
            try:
                return unpacked[member].read_bytes()
            except KeyError:
                raise FileNotFoundError(f"{stores.shown(archive)} has no member {member}") from None
        return _received(uri) if kind else Path(uri).read_bytes()

    def _unpack(self, archive: str) -> dict[str, Path] | InputError:
        """An archive's members, or why there are none: who waits for a store to answer waits once, not once a member."""
        try:
            return archives.unpack(fetch(archive), archive, self._scratch.enter_context(temporary()))
        except InputError as error:
            return error


def read_picture(uri: str, field: str) -> bytes:
    """The bytes of the one picture that a field names.

    Raises:
        InputError: it cannot be read.
    """
    with Reader() as reader:
        try:
            return reader.read(uri)
        except (OSError, ValueError) as reason:
            raise InputError(f"{field} must name a picture", f"{uri} ({reason})", "Give a JPEG or a PNG.") from None


def inside(folder: str, name: str) -> str:
    """The URI of what has a name, with forward slashes, below a folder or a bucket folder."""
    if scheme(folder) in stores.BUCKETS:
        return stores.extended(folder, f"/{name}")
    return str(Path(absolute(folder)) / name)


def children(uri: str) -> list[Found]:
    """The files below a folder or a bucket folder, however deep, by name; none where there is no such folder.

    Raises:
        InputError: the store refuses or does not answer.
    """
    if scheme(uri) in stores.BUCKETS:
        try:
            return sorted(stores.store(uri).below(uri), key=lambda found: found.name)
        except NotThere:
            return []
    root = Path(absolute(uri))
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix not in (PARTIAL, BEFORE, SCRATCH))
    return [replace(describe(str(path)), name=path.relative_to(root).as_posix()) for path in files]


def put(content: Path | bytes, uri: str) -> None:
    """Writes a file, or bytes, to a path or to an object of a bucket, in place of what is there; whole or not at all.

    Folders are made. A store compares what arrives with a checksum, and is waited for where it is busy or gone.

    Raises:
        NotThere: there is no such bucket.
        InputError: nothing can be written there, or the store refuses or does not answer.
    """
    if scheme(uri) in stores.SCHEMES:
        from kfp_vision.stores import transfer

        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            transfer.upload(uri, source)
        return
    with replacing(Path(absolute(uri))) as beside:
        beside.write_bytes(content) if isinstance(content, bytes) else shutil.copyfile(content, beside)


def remove(uri: str) -> None:
    """Removes a file or an object; one that is not there is none to remove.

    Raises:
        InputError: the store refuses or does not answer.
    """
    if scheme(uri) in stores.SCHEMES:
        stores.store(uri).remove(uri)
    else:
        Path(absolute(uri)).unlink(missing_ok=True)


def check_writable(uri: str, field: str) -> None:
    """Refuses what is no folder and no bucket folder that can be written to; a bucket shows it with an object made and removed.

    A local folder need not be there, but there must be one above it in which it can be made; nothing is made yet.

    Raises:
        InputError: naming the field, or what the store says.
    """
    remedy = "Name a folder, or one in a bucket as s3://bucket/folder."
    if not uri or uri == SAMPLE or scheme(uri) not in ("", "file", *stores.BUCKETS) or is_archive(uri):
        raise InputError(f"{field} must name a folder or a bucket folder to write to", stores.shown(uri), remedy)
    if scheme(uri) in stores.BUCKETS:
        check_uri(uri, field)
        probe = inside(uri, f".kfp-vision-{uuid.uuid4().hex}")
        with _there(uri, field):
            put(b"", probe)
            remove(probe)
        return
    path = Path(absolute(uri))
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"{field} must name a folder", uri, remedy)
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{field} must name a folder that can be written to", uri, f"Let this user write to {there}.")


class Mirror:
    """Brings what is new in a folder of files that only ever grow to another folder or a bucket folder.

    Files that lie there already, of other names, stay.

    Args:
        folder: whose files are brought.
        uri: where to.
    """

    def __init__(self, folder: Path, uri: str):
        self._folder, self._uri = folder, uri
        self._brought: dict[str, int] = {}

    def bring(self) -> None:
        """Brings the files that have come or grown since the last call.

        Raises:
            NotThere, InputError, OSError: as `put` does; the next call begins with what did not arrive.
        """
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name, before = path.relative_to(self._folder).as_posix(), self._brought.get(str(path), -1)
            if path.stat().st_size > before:
                content = path.read_bytes()
                self._write(content, max(before, 0), inside(self._uri, name))
                self._brought[str(path)] = len(content)

    def _write(self, content: bytes, before: int, uri: str) -> None:
        """Where a file can be written on with, it is: who follows it holds it open."""
        if scheme(uri) in stores.SCHEMES or not before:
            put(content, uri)
        else:
            with Path(uri).open("ab") as file:
                file.write(content[before:])


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder at; moved into place if the body ends well, removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_what_the_dead_left(path)
    beside = path.with_name(f".{path.name}.{_writer()}{PARTIAL}")
    before = path.with_name(f".{path.name}.{_writer()}{BEFORE}")
    _remove(beside)
    _remove(before)
    try:
        yield beside
        if path.is_dir():  # moved away in one step: what is killed while it removes a folder leaves half of it
            path.replace(before)
        beside.replace(path)
    finally:
        _remove(beside)
        _remove(before)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file of JSON for people to read as well; it is not there before it is whole."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A folder beside `path`, on its file system, to work in; removed in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_what_the_dead_left(path)
    folder = path.with_name(f".{path.name}.{_writer()}{SCRATCH}")
    _remove(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A folder to work in, where this machine has room for what is soon gone; removed in the end.

    What killed processes of this machine have left there is removed first: a few unpacked archives fill a disk.
    """
    place = Path(tempfile.gettempdir())
    _remove_what_the_dead_left(place / TEMPORARY)
    with tempfile.TemporaryDirectory(prefix=f".{TEMPORARY}.{_writer()}.", suffix=SCRATCH, dir=place) as folder:
        yield Path(folder)


def _writer() -> str:
    """This process, in the names of what it writes beside an output."""
    return f"{socket.gethostname()}.{os.getpid()}"


def _remove_what_the_dead_left(path: Path) -> None:
    """Removes what processes of this machine were writing for a path when they were killed; of another's nobody can know."""
    begin = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.iterdir():
        if left.name.startswith(begin) and left.suffix in (PARTIAL, BEFORE, SCRATCH):
            process = left.name.removeprefix(begin).partition(".")[0]
            if process.isdecimal() and not _is_alive(int(process)):
                with contextlib.suppress(OSError):  # somebody else's, or somebody else removes it as well
                    _remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _downloads() -> Path:
    """This user's folder of downloads; nobody else may write there."""
    folder = Path(tempfile.gettempdir()) / f"kfp-vision-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o022:
        raise InputError("the folder of downloads must belong to you alone", str(folder), "Remove it, or set TMPDIR.")
    return folder
