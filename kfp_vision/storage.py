"""URIs to bytes and back: local folders, archives, http(s), and the embedded sample.

A picture inside an archive has the archive's URI, a `#`, and the name of the member: `photos.tgz#daisy/1.jpg`.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kfp_vision import archives, sample
from kfp_vision.errors import InputError

ARCHIVE_SUFFIXES = archives.SUFFIXES
SAMPLE = "sample"
CHUNK = 1 << 20
CONNECT_SECONDS, READ_SECONDS = 10, 60
RETRIES, BACKOFF_SECONDS = 4, 0.5  # the pause doubles from the second retry on: 7 seconds in all
RETRY_STATUS = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Item:
    """A file below a URI.

    Attributes:
        uri: where its bytes are.
        name: its path below the root, with forward slashes.
        size: in bytes.
        read: gives the bytes; to be called, if at all, before the next item is taken.
    """

    uri: str
    name: str
    size: int
    read: Callable[[], bytes]


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
    """Refuses a URI of a kind that is not read, and a local path where nothing lies, without reading any data.

    Raises:
        InputError: naming the field.
    """
    kind = scheme(uri)
    if not uri:
        raise InputError(f"{field} must name where the data lies", uri, "Set it to a folder, an archive or an http(s) address.")
    if uri == SAMPLE or kind in ("http", "https", SAMPLE):
        return
    if kind not in ("", "file"):
        remedy = "Copy the data to a folder or an archive of yours, or serve it over http(s)."
        raise InputError(f"{field} must be a local path, an http(s) address or `sample` in this version", uri, remedy)
    if not Path(absolute(uri)).exists():
        raise InputError(f"{field} must name something that exists", uri, "Check the path, and that it is readable from here.")


def check_picture_uri(uri: str, field: str) -> None:
    """Refuses the URI of a picture where there is none; of a remote one only the kind is looked at.

    Raises:
        InputError: naming the field.
    """
    if scheme(uri) == SAMPLE and uri.removeprefix(f"{SAMPLE}://") not in sample.names():
        raise InputError(f"{field} must name a picture of the sample", uri, f"Take {SAMPLE}://{sample.names()[0]}, say.")
    archive, member = _archive_and_member(absolute(uri))
    check_uri(archive, field)
    if not scheme(uri) and not member and not Path(archive).is_file():
        raise InputError(f"{field} must name one picture", uri, "Give the path of a picture, not of a folder.")


def walk(uri: str) -> Iterator[Item]:
    """Everything below a URI, in the order in which it can be read: a folder, an archive (also over http), or `sample`.

    Raises:
        InputError: nothing lies there, or it is neither a folder nor an archive.
    """
    if uri == SAMPLE:
        for name in sample.names():
            encoded = sample.draw(name)
            yield Item(f"{SAMPLE}://{name}", name, len(encoded), partial(bytes, encoded))
        return
    uri = absolute(uri)
    path = fetch(uri)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield Item(str(file), file.relative_to(path).as_posix(), file.stat().st_size, file.read_bytes)
        return
    for name, size, read in archives.members(path, uri):
        yield Item(f"{uri}#{name}", name, size, read)


def fingerprint(uri: str) -> str:
    """A hash of what lies at a URI, from listings alone: names, sizes and times, or what the server says of its file."""
    if uri == SAMPLE:
        return sample.fingerprint()
    uri = absolute(uri)
    if scheme(uri):
        facts = [uri, *_remote_facts(uri)]
    else:
        path = fetch(uri)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        described = ((file, file.stat()) for file in files if file.is_file())
        facts = [uri, *(f"{file.relative_to(path)} {about.st_size} {about.st_mtime_ns}" for file, about in described)]
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()


def fetch(uri: str) -> Path:
    """A local path for a URI: the path itself, or a download that later calls on this machine find again.

    Raises:
        InputError: the address does not answer, or refuses.
    """
    uri = absolute(uri)
    if not scheme(uri):
        check_uri(uri, "a path")
        return Path(uri)
    facts = _remote_facts(uri)
    known = hashlib.sha256("\n".join([uri, *facts]).encode()).hexdigest()[:24]
    target = _downloads() / f"{known}-{Path(urlsplit(uri).path).name}"
    if not target.exists() or not any(facts):
        with replacing(target) as beside:
            _download(uri, beside)
    return target


class Reader:
    """Gives the bytes of pictures by their URI; an archive is unpacked once, into scratch space that goes with the reader.

    To be used as a context manager; `read` may be called from many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scratch = tempfile.TemporaryDirectory(prefix="kfp-vision-")
        self._unpacked: dict[str, dict[str, Path]] = {}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._scratch.cleanup()

    def read(self, uri: str) -> bytes:
        """The bytes at a URI.

        Raises:
            FileNotFoundError: the archive has no such member.
            OSError: the file cannot be read.
        """
        if scheme(uri) == SAMPLE:
            return sample.draw(uri.removeprefix(f"{SAMPLE}://"))
        archive, member = _archive_and_member(uri)
        if member:
            with self._lock:
                if archive not in self._unpacked:
                    folder = Path(tempfile.mkdtemp(dir=self._scratch.name))
                    self._unpacked[archive] = archives.unpack(fetch(archive), archive, folder)
            try:
                return self._unpacked[archive][member].read_bytes()
            except KeyError:
                raise FileNotFoundError(f"{archive} has no member {member}") from None
        return (fetch(uri) if scheme(uri) else Path(uri)).read_bytes()


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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder at; moved into place if the body ends well, removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    before = path.with_name(f".{path.name}.{os.getpid()}.before")
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _archive_and_member(uri: str) -> tuple[str, str]:
    """The two sides of the `#`; of a local path, which may have a `#` in its own name, the one behind an existing file."""
    if scheme(uri):
        archive, _, member = uri.partition("#")
        return archive, member
    if not Path(uri).is_file():
        for at, character in enumerate(uri):
            if character == "#" and Path(uri[:at]).is_file():
                return uri[:at], uri[at + 1 :]
    return uri, ""


def _downloads() -> Path:
    """This user's folder of downloads; nobody else may write there."""
    folder = Path(tempfile.gettempdir()) / f"kfp-vision-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o022:
        raise InputError("the folder of downloads must belong to you alone", str(folder), "Remove it, or set TMPDIR.")
    return folder


def session(*, retry_posts: bool = False) -> Any:
    """A `requests.Session` that tries again when a server is busy or gone for a moment.

    Args:
        retry_posts: also what is sent with POST, where sending it twice does no harm.
    """
    import requests
    from urllib3.util import Retry

    retry = Retry(
        total=RETRIES,
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=RETRY_STATUS,
        raise_on_status=False,
        allowed_methods=None if retry_posts else Retry.DEFAULT_ALLOWED_METHODS,
    )
    made = requests.Session()
    made.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
    made.mount("https://", requests.adapters.HTTPAdapter(max_retries=retry))
    return made


def _remote_facts(uri: str) -> list[str]:
    """What a server says of a file without sending it."""
    with _request("HEAD", uri) as response:
        return [response.headers.get(name, "") for name in ("ETag", "Last-Modified", "Content-Length")]


def _download(uri: str, path: Path) -> None:
    import requests

    with _request("GET", uri) as response, path.open("wb") as file:
        try:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
        except requests.RequestException as error:
            raise InputError("a download must arrive whole", f"{uri} ({error})", "Try again.") from None


def _request(method: str, uri: str):
    """A streamed response. Refusals of the server and of the network come as one line."""
    import requests

    try:
        response = session().request(method, uri, stream=True, allow_redirects=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
    except requests.RequestException as error:
        reason = type(error).__name__
        raise InputError("an address must answer", f"{reason} at {uri}", "Check the address and the way to it.") from None
    if not response.ok:
        response.close()
        remedy = "Check the address, and that it can be read without signing in."
        raise InputError("an address must give its file", f"HTTP {response.status_code} at {uri}", remedy)
    return response
