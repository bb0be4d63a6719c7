"""Files on web servers: `http://` and `https://`. There is no listing: an address names one file."""

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

from kfp_vision import stores
from kfp_vision.errors import FieldError
from kfp_vision.stores import Changed, Found, NotThere, failures, transfer
from kfp_vision.stores.patience import RETRY_STATUS

TIMEOUT = (stores.CONNECT_SECONDS, stores.READ_SECONDS)
AS_IT_IS = {"Accept-Encoding": "identity"}
NO_HEAD = (400, 401, 403, 405, 501)  # of a server that only lets a file be fetched: an address signed for GET is one
RANGE_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")
# Of servers that are no stores: a minute in all, and 3.5 seconds where nobody has ever answered.
ATTEMPTS, CONNECTS = 10, 4
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 12.0  # seconds; doubled each time
REMEDY = "Check the address, and that it can be read without signing in."


def session(*, retry_posts: bool = False, known: bool = False) -> requests.Session:
    """A session for servers that are no stores, which tries again in silence when one is busy or gone for a moment.

    Args:
        retry_posts: also what is sent with POST, where sending it twice does no harm.
        known: the server has answered before, so that it is waited for, while it starts again, where nobody answers.
    """
    return _mounted(
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


def _mounted(retries: Retry | int) -> requests.Session:
    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retries, pool_maxsize=stores.READERS))
    return made


class Web:
    """All web servers."""

    def __init__(self) -> None:
        self._own = threading.local()  # a session is for one thread

    def server(self, uri: str) -> str:
        """See `stores.Store`."""
        address = urlsplit(uri)
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}"

    def find(self, uri: str) -> Found:
        """See `stores.Store`."""
        with self._asked("HEAD", uri, {}) as response:
            if response.ok:
                return _described(uri, response, _length(response))
            if response.status_code not in NO_HEAD:
                raise _refusal(uri, response.status_code)
        with self._asked("GET", uri, {"Range": "bytes=0-0"}) as response:
            if not response.ok:
                raise _refusal(uri, response.status_code)
            whole = RANGE_TOTAL.fullmatch(response.headers.get("Content-Range", ""))
            return _described(uri, response, int(whole[1]) if whole else _length(response))

    def below(self, uri: str) -> Iterator[Found]:
        """Nothing can be listed.

        Raises:
            InputError: always.
        """
        raise FieldError("a web address must name a file", stores.shown(uri), "Name an archive or an import file there.")

    def send(self, uri: str, sink: IO[bytes], version: str = "") -> Found:
        """See `stores.Store`."""
        start = sink.tell()
        onward = {"Range": f"bytes={start}-"} if start else {}
        if start and version and not version.startswith("W/"):
            onward["If-Range"] = version  # another version comes from its beginning
        with self._asked("GET", uri, onward) as response:
            if response.status_code == 416:
                raise Changed(uri)
            if not response.ok:
                raise _refusal(uri, response.status_code)
            return _copied(response, uri, sink, start)

    def put(self, uri: str, source: BinaryIO, size: int) -> None:
        """Nothing can be written.

        Raises:
            InputError: always.
        """
        raise _only_read(uri)

    def remove(self, uri: str) -> None:
        """Nothing can be removed.

        Raises:
            InputError: always.
        """
        raise _only_read(uri)

    def _asked(self, method: str, uri: str, headers: dict[str, str]) -> requests.Response:
        asked: dict[str, Any] = {"stream": True, "allow_redirects": True, "timeout": TIMEOUT}

        def onward() -> requests.Response:
            try:
                response = self._session().request(method, uri, headers=AS_IT_IS | headers, **asked)
            except requests.RequestException as error:
                raise failures.of(error, uri) from None
            if busy := failures.busy(response.status_code, response.headers):
                response.close()
                raise busy
            return response

        return transfer.patiently(onward, uri)

    def _session(self) -> requests.Session:
        """This thread's."""
        if not hasattr(self._own, "session"):
            self._own.session = _mounted(0)
        found: requests.Session = self._own.session
        return found


def _copied(response: requests.Response, uri: str, sink: IO[bytes], start: int) -> Found:
    found = _described(uri, response, _length(response))
    if start and not stores.goes_on(response.headers, start):
        sink.seek(0)
        sink.truncate()
        start = 0
    size = start + found.size if found.size >= 0 else -1
    try:
        for chunk in response.raw.stream(stores.CHUNK, decode_content=False):
            sink.write(chunk)
    except urllib3.exceptions.HTTPError as error:
        raise transfer.Broken(failures.reason(error), found.version) from None
    if size >= 0 and sink.tell() < size:
        raise transfer.Broken("cut off", found.version)
    return replace(found, size=size)


def _length(response: requests.Response) -> int:
    return int(response.headers.get("Content-Length", -1))


def _described(uri: str, response: requests.Response, size: int) -> Found:
    said = response.headers
    hashes = dict(stores.HASHES.findall(said.get("x-goog-hash", "")))
    version = said.get("ETag") or said.get("Last-Modified") or ""
    name = PurePosixPath(unquote(urlsplit(uri).path)).name
    md5 = base64.b64decode(hashes.get("md5", "")).hex()
    return Found(uri, name, size, md5, version, hashes.get("crc32c", ""))


def _only_read(uri: str) -> FieldError:
    return FieldError("a web address can be read only", stores.shown(uri), "Name a folder or a bucket to write to.")


def _refusal(uri: str, status: int) -> BaseException:
    if status in (404, 410):
        return NotThere(f"HTTP {status} at {stores.shown(uri)}")
    return stores.refused(uri, f"HTTP {status}", REMEDY)
