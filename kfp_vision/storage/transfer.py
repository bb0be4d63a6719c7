"""Downloads and uploads objects: with retries, resumption, and verification by size and checksum."""

import base64
import hashlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import google_crc32c

from kfp_vision.core.errors import DamagedError
from kfp_vision.storage import base, retry, stores
from kfp_vision.storage.base import FileInfo, Interrupted, ObjectChanged

MAX_DOWNLOADS = 3  # downloads of an object whose bytes do not match its checksum

Made = TypeVar("Made")
_without_md5: set[str] = set()  # buckets and hosts whose ETags look like MD5s but are not
_lock = threading.Lock()


def call_store(call: Callable[[], Made], uri: str, progress: Callable[[], int] = lambda: 0) -> Made:
    """Calls a function with retries, as `retry.call_with_retries`, for the server of a URI.

    Args:
        call: raises `Interrupted` if a retry is worthwhile.
        uri: that is requested.
        progress: returns a number that grows with the data received.

    Returns:
        The result of the call.

    Raises:
        UnreachableError: there was no progress for as long as the process waits.
    """
    return retry.call_with_retries(call, uri, stores.store(uri).server(uri), progress)


def download_bytes(uri: str) -> bytes:
    """Downloads an object and verifies it.

    Args:
        uri: of the object.

    Returns:
        Its bytes.

    Raises:
        ObjectNotFound: the object does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
        DamagedError: the bytes repeatedly differ from the store's size or checksum.
    """
    sink = io.BytesIO()
    download_to(uri, sink)
    return sink.getvalue()


def download_head(uri: str, size: int) -> bytes:
    """Downloads the first bytes of an object, in one request, without verifying them.

    Args:
        uri: of the object.
        size: how many bytes.

    Returns:
        The bytes; fewer if the object is shorter.

    Raises:
        ObjectNotFound, AccessError, UnreachableError: as `download_bytes`.
    """
    origin = stores.store(uri)
    return call_store(lambda: origin.head(uri, size), uri)


def download(uri: str, path: Path) -> None:
    """Downloads an object to a file and verifies it.

    Args:
        uri: of the object.
        path: to write to.

    Raises:
        ObjectNotFound, InputError: as `download_bytes`.
    """
    with path.open("w+b") as file:
        download_to(uri, file)


def download_to(uri: str, sink: IO[bytes]) -> FileInfo:
    """Downloads an object to a sink and verifies it.

    Args:
        uri: of the object.
        sink: empty, seekable and readable.

    Returns:
        The object's metadata.

    Raises:
        ObjectNotFound, InputError: as `download_bytes`.
    """
    origin = stores.store(uri)
    seen: set[tuple[int, str]] = set()
    for _ in range(MAX_DOWNLOADS):
        sink.seek(0)
        sink.truncate()
        try:
            found = _resumed(origin, uri, sink)
        except ObjectChanged:
            continue
        size, md5, crc32c = sink.tell(), *_hashes(sink, found)
        if size == found.size or found.size < 0:
            if crc32c == found.crc32c and (md5 == found.md5 or _has_no_md5(uri)):
                return found
            if (size, md5) in seen and crc32c == found.crc32c:
                # Transmission errors do not repeat exactly: the store's "MD5" is not one.
                _distrust_md5(uri)
                return found
        seen.add((size, md5))
    differs = f"a different size or checksum from {base.redact_uri(uri)}"
    raise DamagedError("a download must match the size and checksum of its object", differs, "Try again.")


def upload(uri: str, source: BinaryIO) -> None:
    """Creates or replaces an object.

    Args:
        uri: of the object.
        source: read from its beginning, and again for each retry.

    Raises:
        ObjectNotFound: the bucket does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    target, size = stores.store(uri), source.seek(0, io.SEEK_END)

    def attempt() -> None:
        source.seek(0)
        target.put(uri, source, size)

    call_store(attempt, uri)


def _resumed(origin: base.Store, uri: str, sink: IO[bytes]) -> FileInfo:
    """Downloads with retries, each resuming where the last stopped, and pinned to the version of the first response."""
    version = ""

    def attempt() -> FileInfo:
        nonlocal version
        try:
            return origin.send(uri, sink, version)
        except base.DownloadInterrupted as broken:
            version = version or broken.version
            raise Interrupted(str(broken)) from None

    return call_store(attempt, uri, sink.tell)


def _hashes(sink: IO[bytes], found: FileInfo) -> tuple[str, str]:
    """Computes the MD5 and CRC-32C of the download, each only if the store reported one."""
    if not found.md5 and not found.crc32c:
        return "", ""
    md5, crc32c, end = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum(), sink.tell()
    sink.seek(0)
    while chunk := sink.read(base.STREAM_CHUNK_BYTES):
        md5.update(chunk)
        crc32c.update(chunk)
    sink.seek(end)
    return found.md5 and md5.hexdigest(), found.crc32c and base64.b64encode(crc32c.digest()).decode()


def _place(uri: str) -> str:
    """Returns the bucket or host of a URI."""
    return "/".join(uri.split("/", 3)[:3])


def _has_no_md5(uri: str) -> bool:
    return _place(uri) in _without_md5


def _distrust_md5(uri: str) -> None:
    with _lock:
        _without_md5.add(_place(uri))
