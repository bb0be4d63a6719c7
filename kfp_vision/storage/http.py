"""Reads files from web servers: `http://` and `https://`, without listings."""

import base64
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from urllib3.util import Retry

from kfp_vision.core.errors import FieldError
from kfp_vision.storage import base, failures, retry
from kfp_vision.storage.base import FileInfo, ObjectChanged, ObjectNotFound
from kfp_vision.storage.retry import RETRY_STATUS

TIMEOUT = (base.CONNECT_SECONDS, base.READ_SECONDS)
UNCOMPRESSED = {"Accept-Encoding": "identity"}
HEAD_REFUSED = (400, 401, 403, 405, 501)  # servers that only allow GET, such as for a URL signed for GET
RANGE_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")
# For servers other than stores: retries for a minute in all, or 3.5 seconds if the connection fails.
ATTEMPTS, CONNECTS = 10, 4
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 12.0  # seconds; doubled each time
REMEDY = "Check the address, and that it can be read without signing in."


def retrying_session(*, retry_posts: bool = False, known: bool = False) -> requests.Session:
    """Creates a session for servers other than stores, which silently retries while one is down or busy for a moment.

    Args:
        retry_posts: retry POST requests too; only if repeating them is harmless.
        known: the server has answered before, so failed connections are retried as long, since it may be restarting.

    Returns:
        The session.
    """
    return _session_with(
        Retry(
            total=ATTEMPTS,
            connect=ATTEMPTS if known else CONNECTS,
            backoff_factor=FIRST_PAUSE,
            backoff_max=LONGEST_PAUSE,
            backoff_jitter=FIRST_PAUSE,
            status_forcelist=RETRY_STATUS,
            raise_on_status=False,
            allowed_methods=None if retry_posts else Retry.DEFAULT_ALLOWED_METHODS,
        )
    )


def _session_with(retries: Retry | int) -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retries, pool_maxsize=base.CONCURRENT_READS))
    return session


class Web:
    """All web servers."""

    def __init__(self) -> None:
        self._of_thread = threading.local()  # requests sessions are not thread-safe

    def server(self, uri: str) -> str:
        """Returns the server of a URI, see `base.Store`."""
        address = urlsplit(uri)
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}"

    def find(self, uri: str) -> FileInfo:
        """Returns an object's metadata, see `base.Store`."""
        with self._request("HEAD", uri, {}) as response:
            if response.ok:
                return _described(uri, response, _length(response))
            if response.status_code not in HEAD_REFUSED:
                raise _refusal(uri, response.status_code)
        with self._request("GET", uri, {"Range": "bytes=0-0"}) as response:
            if not response.ok:
                raise _refusal(uri, response.status_code)
            whole = RANGE_TOTAL.fullmatch(response.headers.get("Content-Range", ""))
            return _described(uri, response, int(whole[1]) if whole else _length(response))

    def below(self, uri: str, folders: set[str] | None = None) -> Iterator[FileInfo]:
        """Fails, as web servers have no listings.

        Args:
            uri: any.
            folders: receives nothing.

        Raises:
            FieldError: always.
        """
        raise FieldError("a web address must name a file", base.redact_uri(uri), "Name an archive or an import file on it.")

    def send(self, uri: str, sink: IO[bytes], version: str = "") -> FileInfo:
        """Downloads an object, see `base.Store`.

        Args:
            uri: of the object.
            sink: to write to, from its current position on.
            version: that the object must have; empty for any.
        """
        start = sink.tell()
        resume = {"Range": f"bytes={start}-"} if start else {}
        if start and version and not version.startswith("W/"):
            resume["If-Range"] = version  # another version is sent from its beginning
        with self._request("GET", uri, resume) as response:
            if response.status_code == 416:
                raise ObjectChanged(uri)
            if not response.ok:
                raise _refusal(uri, response.status_code)
            return _copied(response, uri, sink, start)

    def head(self, uri: str, size: int) -> bytes:
        """Downloads the first bytes of an object, see `base.Store`.

        Args:
            uri: of the object.
            size: how many bytes.
        """
        with self._request("GET", uri, {"Range": f"bytes=0-{size - 1}"}) as response:
            if response.status_code == 416:  # an empty file
                return b""
            if not response.ok:
                raise _refusal(uri, response.status_code)
            try:
                head: bytes = response.raw.read(size, decode_content=False)
            except urllib3.exceptions.HTTPError as error:
                raise base.Interrupted(failures.describe_error(error)) from None
            base.check_head(head, size, response.headers)
            return base.unpack_head(head, response.headers.get("Content-Encoding"))

    def put(self, uri: str, source: BinaryIO, size: int) -> None:
        """Fails, as web servers are read-only.

        Args:
            uri: of the object.
            source: not read.
            size: ignored.

        Raises:
            FieldError: always.
        """
        raise _read_only(uri)

    def remove(self, uri: str) -> None:
        """Fails, as web servers are read-only.

        Raises:
            FieldError: always.
        """
        raise _read_only(uri)

    def _request(self, method: str, uri: str, headers: dict[str, str]) -> requests.Response:
        options: dict[str, Any] = {"stream": True, "allow_redirects": True, "timeout": TIMEOUT}

        def attempt() -> requests.Response:
            try:
                response = self._session().request(method, uri, headers=UNCOMPRESSED | headers, **options)
            except requests.RequestException as error:
                raise failures.convert_error(error, uri) from None
            if busy := failures.convert_response(response.status_code, response.headers):
                response.close()
                raise busy
            return response

        return retry.call_with_retries(attempt, uri, self.server(uri))

    def _session(self) -> requests.Session:
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = _session_with(0)
        found: requests.Session = self._of_thread.session
        return found


def _copied(response: requests.Response, uri: str, sink: IO[bytes], start: int) -> FileInfo:
    found = _described(uri, response, _length(response))
    if start and not base.is_resumed(response.headers, start):
        sink.seek(0)
        sink.truncate()
        start = 0
    size = start + found.size if found.size >= 0 else -1
    try:
        for chunk in response.raw.stream(base.STREAM_CHUNK_BYTES, decode_content=False):
            sink.write(chunk)
    except urllib3.exceptions.HTTPError as error:
        raise base.DownloadInterrupted(failures.describe_error(error), found.version) from None
    if size >= 0 and sink.tell() < size:
        raise base.DownloadInterrupted("truncated", found.version)
    return replace(found, size=size)


def _length(response: requests.Response) -> int:
    return int(response.headers.get("Content-Length", -1))


def _described(uri: str, response: requests.Response, size: int) -> FileInfo:
    headers = response.headers
    encoding = headers.get("Content-Encoding", "")
    hashes = dict(base.HASH_HEADER.findall(headers.get("x-goog-hash", "")))
    if headers.get("x-goog-stored-content-encoding", encoding or "identity") != (encoding or "identity"):
        hashes = {}  # Cloud Storage unpacked it for us, but reports the checksums of what it stores
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    name = PurePosixPath(unquote(urlsplit(uri).path)).name
    md5 = base64.b64decode(hashes.get("md5", "")).hex()
    return FileInfo(uri, name, size, md5, version, hashes.get("crc32c", ""), encoding=encoding)


def _read_only(uri: str) -> FieldError:
    return FieldError("a web address is read-only", base.redact_uri(uri), "Name a folder or a bucket to write to.")


def _refusal(uri: str, status: int) -> BaseException:
    if status in (404, 410):
        return ObjectNotFound(f"HTTP {status} at {base.redact_uri(uri)}")
    return base.read_denied(uri, f"HTTP {status}", REMEDY)
