"""Downloads and uploads objects: with retries, resumption, and verification by size and checksum.

An object that is stored with `Content-Encoding: gzip` is downloaded as it is stored, verified, and then unpacked.
"""

import base64
import gzip
import hashlib
import io
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import google_crc32c

from kfp_vision.core.errors import DamagedError, InputError
from kfp_vision.storage import archives, base, retry, stores
from kfp_vision.storage.base import FileInfo, Interrupted, ObjectChanged

MAX_DOWNLOADS = 3  # downloads of an object whose bytes do not match its checksum
GZIP, AS_IS = ("gzip", "x-gzip"), ("", "identity", "aws-chunked")  # content encodings; the last is how some clients upload
UNPACKED_IN_MEMORY = 32 << 20  # bytes

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
    """Downloads an object to a sink, verifies it, and unpacks it if it is stored with a Content-Encoding.

    Args:
        uri: of the object.
        sink: empty, seekable and readable.

    Returns:
        The object's metadata, as of the object that is stored.

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
                _unpack(uri, sink, found)
                return found
            if (size, md5) in seen and crc32c == found.crc32c:
                # Transmission errors do not repeat exactly: the store's "MD5" is not one.
                _distrust_md5(uri)
                _unpack(uri, sink, found)
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


def _unpack(uri: str, sink: IO[bytes], found: FileInfo) -> None:
    """Replaces a download by what it unpacks to, for each of its content encodings."""
    for encoding in reversed(found.encoding.lower().split(",")):
        if encoding.strip() in GZIP:
            unpack_gzip(uri, sink)
        elif encoding.strip() not in AS_IS:
            value = f"Content-Encoding: {encoding.strip()} at {base.redact_uri(uri)}"
            raise InputError("an object must be stored as it is, or compressed by gzip", value, "Store it again without.")


def unpack_gzip(uri: str, sink: IO[bytes]) -> None:
    """Replaces bytes by what they unpack to, if they are compressed by gzip.

    Args:
        uri: of the file, for messages.
        sink: seekable, readable and writable.

    Raises:
        DamagedError: they are not intact.
        InputError: they unpack to more than images compress to.
    """
    packed = sink.seek(0, io.SEEK_END)
    sink.seek(0)
    if sink.read(len(base.GZIP_MAGIC)) != base.GZIP_MAGIC:  # unpacked on the way, or said to be packed by mistake
        sink.seek(packed)
        return
    sink.seek(0)
    bound = archives.unpacked_bound(packed)
    with tempfile.SpooledTemporaryFile(UNPACKED_IN_MEMORY) as unpacked:
        try:
            with gzip.GzipFile(fileobj=sink, mode="rb") as source:
                while chunk := source.read(base.STREAM_CHUNK_BYTES):
                    unpacked.write(chunk)
                    if unpacked.tell() > bound:
                        raise archives.bomb(base.redact_uri(uri), bound)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            value = f"{base.redact_uri(uri)} ({error})"
            raise DamagedError("a file compressed by gzip must be intact", value, "Upload or compress it again.") from None
        unpacked.seek(0)
        sink.seek(0)
        sink.truncate()
        shutil.copyfileobj(unpacked, sink, base.STREAM_CHUNK_BYTES)


def _place(uri: str) -> str:
    """Returns the bucket or host of a URI."""
    return "/".join(uri.split("/", 3)[:3])


def _has_no_md5(uri: str) -> bool:
    return _place(uri) in _without_md5


def _distrust_md5(uri: str) -> None:
    with _lock:
        _without_md5.add(_place(uri))
