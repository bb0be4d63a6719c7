"""Google Cloud Storage with Google's client: `gs://bucket/key`.

Credentials: the JSON key of a service account in `GOOGLE_CREDENTIALS`, else the application default credentials (workload
identity, `GOOGLE_APPLICATION_CREDENTIALS`, `gcloud auth application-default login`), else anonymous, for public buckets.
"""

import base64
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import IO, Any, BinaryIO

import google.auth
import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud import storage
from google.oauth2 import service_account

from kfp_vision.core import json_text
from kfp_vision.core.errors import AccessError, InputError
from kfp_vision.storage import base, failures, retry
from kfp_vision.storage.base import FileInfo, Interrupted, ObjectChanged, ObjectNotFound
from kfp_vision.storage.uris import Location

GZIP_MAGIC = b"\x1f\x8b"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
PAGE_FIELDS = "items(name,size,md5Hash,crc32c,generation,updated,contentEncoding),nextPageToken"
TIMEOUT = (base.CONNECT_SECONDS, base.READ_SECONDS)
READ_REMEDY = (
    "Set GOOGLE_CREDENTIALS to the JSON key of a service account that may list and read it, or sign in with "
    "gcloud auth application-default login; a public bucket needs neither."
)
WRITE_REMEDY = (
    "Set GOOGLE_CREDENTIALS to the JSON key of a service account that may create and delete objects there, or sign in with "
    "gcloud auth application-default login."
)
Denial = Callable[[str, str], InputError]
READ_DENIED, WRITE_DENIED = partial(base.read_denied, remedy=READ_REMEDY), partial(base.write_denied, remedy=WRITE_REMEDY)
CHECKSUM_MISMATCH = "doesn't match calculated"  # checksum mismatch of an upload, with status 400


def store() -> "GCS":
    """Returns the store of `gs://` URIs; cached by credentials."""
    return _made(*(os.environ.get(name, "") for name in ("GOOGLE_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS")))


@cache
def _made(key: str, file: str) -> "GCS":
    credentials = _credentials(key)
    client = (
        storage.Client(project="none", credentials=credentials) if credentials else storage.Client.create_anonymous_client()
    )
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=base.CONCURRENT_READS))
    return GCS(client)


os.register_at_fork(after_in_child=_made.cache_clear)  # processes must not share connections


def _credentials(key: str) -> Any:
    if key:
        try:
            return service_account.Credentials.from_service_account_info(json_text.parse(key), scopes=[SCOPE])
        except ValueError:  # the original message may quote the key
            raise AccessError("GOOGLE_CREDENTIALS must hold a service account's key", "invalid JSON", READ_REMEDY) from None
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return None
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except DefaultCredentialsError:
        return None


class GCS:
    """All buckets.

    Args:
        client: Google's, with credentials.
    """

    def __init__(self, client: storage.Client):
        self._client = client

    def server(self, uri: str) -> str:
        """Returns the server of a URI, see `base.Store`."""
        return str(self._client._connection.API_BASE_URL).rstrip("/")

    def find(self, uri: str) -> FileInfo:
        """Returns an object's metadata, see `base.Store`."""
        blob = self._blob(uri)
        retry.call_with_retries(
            lambda: _translated(uri, lambda: blob.reload(retry=None, timeout=TIMEOUT)), uri, self.server(uri)
        )
        return _described(uri, blob, blob.name.rpartition("/")[2])

    def below(self, uri: str, folders: set[str] | None = None) -> Iterator[FileInfo]:
        """Lists objects, see `base.Store`.

        Args:
            uri: of a folder of the bucket.
            folders: receives the names of the folders that have an object of their own.
        """
        location = Location.of_object(uri)
        prefix, token = base.key_prefix(location.key), ""
        while True:
            page, token = retry.call_with_retries(
                partial(self._page, uri, location.bucket, prefix, token), uri, self.server(uri)
            )
            for blob in page:
                if blob.name.endswith("/"):  # the console creates an empty object for a folder
                    base.add_folder(folders, blob.name.removeprefix(prefix))
                else:
                    yield _described(location.with_key(blob.name), blob, blob.name.removeprefix(prefix))
            if not token:
                return

    def _page(self, uri: str, bucket: str, prefix: str, token: str) -> tuple[list[storage.Blob], str]:
        """Returns the objects of a page and the token of the next."""
        listed = self._client.list_blobs(
            bucket, prefix=prefix or None, page_token=token or None, fields=PAGE_FIELDS, retry=None, timeout=TIMEOUT
        )
        return _translated(uri, lambda: list(next(listed.pages, ()))), listed.next_page_token or ""

    def send(self, uri: str, sink: IO[bytes], version: str = "") -> FileInfo:
        """Downloads an object, see `base.Store`.

        Args:
            uri: of the object.
            sink: to write to, from its current position on.
            version: that the object must have; empty for any.
        """
        blob = self._blob(uri)
        condition = {"if_generation_match": int(version)} if version else {}
        start = sink.tell()

        def copy() -> None:
            blob.download_to_file(
                sink, start=start or None, raw_download=True, checksum=None, retry=None, timeout=TIMEOUT, **condition
            )

        _translated(uri, copy)
        # The client does not report the length; urllib3 verifies it.
        found = replace(_described(uri, blob, blob.name.rpartition("/")[2]), size=-1)
        if not found.encoding and _is_gzip(sink):  # not every server of this protocol sends the header
            found = replace(found, encoding=self.find(uri).encoding)
        return found

    def head(self, uri: str, size: int) -> bytes:
        """Downloads the first bytes of an object, see `base.Store`.

        Args:
            uri: of the object.
            size: how many bytes.
        """
        blob = self._blob(uri)
        options: dict[str, Any] = {"raw_download": True, "checksum": None, "retry": None, "timeout": TIMEOUT}
        head: bytes = _translated(uri, lambda: blob.download_as_bytes(start=0, end=size - 1, **options))
        if head.startswith(GZIP_MAGIC) and not blob.content_encoding:  # not every server of this protocol sends the header
            _translated(uri, lambda: blob.reload(retry=None, timeout=TIMEOUT))
        return base.unpack_head(head[:size], blob.content_encoding)

    def put(self, uri: str, source: BinaryIO, size: int) -> None:
        """Uploads an object, see `base.Store`.

        Args:
            uri: of the object.
            source: to read from, from its current position on.
            size: in bytes.
        """
        upload = partial(self._blob(uri).upload_from_file, source, size=size, checksum="crc32c", retry=None, timeout=TIMEOUT)
        _translated(uri, upload, WRITE_DENIED)

    def remove(self, uri: str) -> None:
        """Deletes an object, see `base.Store`."""
        delete = partial(self._blob(uri).delete, retry=None, timeout=TIMEOUT)
        with contextlib.suppress(ObjectNotFound):
            retry.call_with_retries(lambda: _translated(uri, delete, WRITE_DENIED), uri, self.server(uri))

    def _blob(self, uri: str) -> storage.Blob:
        location = Location.of_object(uri)
        return self._client.bucket(location.bucket).blob(location.key)


def _is_gzip(sink: IO[bytes]) -> bool:
    end = sink.tell()
    sink.seek(0)
    begin = sink.read(len(base.GZIP_MAGIC))
    sink.seek(end)
    return begin == base.GZIP_MAGIC


def _translated(uri: str, call: Any, refused: Denial = READ_DENIED) -> Any:
    """Calls a function of the client and converts its errors to a store's."""
    try:
        return call()
    except GoogleAPICallError as error:
        status = int(error.code or 0)
        if status == 404:
            raise ObjectNotFound(f"no such object or bucket: {uri}") from None
        if status == 412:
            raise ObjectChanged(uri) from None
        if status in (401, 403):
            raise refused(uri, f"HTTP {status}") from None
        if busy := failures.convert_response(status, getattr(error.response, "headers", {})):
            raise busy from None
        if CHECKSUM_MISMATCH in str(error):
            raise Interrupted("checksum mismatch") from None
        raise base.unreachable(uri, f"HTTP {status}") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise failures.convert_error(error, uri) from None
    except GoogleAuthError as error:
        if isinstance(error, TransportError) or error.retryable:  # the token server does not answer
            raise retry.ServerUnavailable(type(error).__name__) from None
        raise refused(uri, type(error).__name__) from None


def _described(uri: str, blob: storage.Blob, name: str) -> FileInfo:
    md5 = base64.b64decode(blob.md5_hash).hex() if blob.md5_hash else ""
    modified = blob.updated.timestamp() if blob.updated else 0.0
    encoding = blob.content_encoding or ""
    return FileInfo(uri, name, int(blob.size or 0), md5, str(blob.generation or ""), blob.crc32c or "", modified, encoding)
