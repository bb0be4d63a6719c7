"""Amazon S3, compatible stores (MinIO, Ceph, ...) and Tencent COS, with the minio client.

The endpoint of `s3://bucket/key` is `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, by default Amazon's; settings at the end of
a URI override it: `s3://bucket/key?endpoint=https://minio.example.org:9000&region=eu-west-1`. The region of
`cos://bucket-appid/key` is `COS_REGION`, or `?region=ap-guangzhou`.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials.providers import AWSConfigProvider, IamAwsProvider, Provider, StaticProvider
from minio.error import MinioException, S3Error
from urllib3.util import Retry

from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.storage import base, failures, retry
from kfp_vision.storage.base import FileInfo, Interrupted, ObjectChanged, ObjectNotFound, first_variable
from kfp_vision.storage.uris import Location

AMAZON = "https://s3.amazonaws.com"
ANY_REGION = "us-east-1"  # accepted by all stores but Amazon's
# The ETag of an object encrypted with a customer or KMS key is not an MD5: S3's documentation, "Checking object integrity".
ENCRYPTION_HEADERS = ("x-amz-server-side-encryption-customer-algorithm", "x-amz-server-side-encryption-aws-kms-key-id")
S3_READ_REMEDY = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may list and read it (for a public bucket, neither), "
    "and AWS_REGION to its region."
)
S3_WRITE_REMEDY = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may write and delete there, and AWS_REGION to its region."
)
COS_READ_REMEDY = "Set COS_SECRET_ID and COS_SECRET_KEY to a key that may list and read it; for a public bucket, neither."
COS_WRITE_REMEDY = "Set COS_SECRET_ID and COS_SECRET_KEY to a key that may write and delete there."
DENIED_CODES = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidToken",
)
STATUS_PATTERN = re.compile(r"(?:Response|status) code:? (\d{3})")
# A checksum mismatch; a multipart upload completed twice, as the first response was lost.
RETRYABLE_CODES = ("BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload")
BUSY_CODES = ("RequestTimeout",)  # with status 400
NO_RETRIES = Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0)
PART = 64 << 20  # bytes per part of an upload; one part is in memory
NOT_FOUND_CODES = ("NoSuchKey", "NoSuchBucket", "ResourceNotFound")


def store(uri: str) -> "S3":
    """Returns the store of an `s3://`, `minio://` or `cos://` URI; cached by endpoint and credentials.

    Args:
        uri: may end with settings.

    Raises:
        FieldError: a `minio://` URI has no endpoint, a `cos://` URI has no region, or the endpoint is not an http(s) address.
    """
    location = Location.of_file(uri)
    scheme, endpoint, region = location.scheme, location.setting("endpoint"), location.setting("region")
    if scheme == "cos":
        region = region or first_variable("COS_REGION", "TENCENTCLOUD_REGION")
        endpoint = endpoint or first_variable("COS_ENDPOINT") or (f"https://cos.{region}.myqcloud.com" if region else "")
        if not endpoint:
            raise FieldError("a cos:// address must have a region", "no COS_REGION", "Set it to ap-guangzhou, for example.")
    else:
        endpoint = endpoint or first_variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        if scheme == "minio" and not endpoint:
            rule = "a minio:// address, as Kubeflow shows it, must have the endpoint of its store"
            remedy = "Write it as s3://bucket/key?endpoint=http://seaweedfs.kubeflow:9000, or set AWS_ENDPOINT_URL."
            raise FieldError(rule, base.redact_uri(uri), remedy)
        endpoint = endpoint or AMAZON
        region = region or first_variable("AWS_REGION", "AWS_DEFAULT_REGION") or ("" if endpoint == AMAZON else ANY_REGION)
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise FieldError("an endpoint must be an http(s) address", endpoint, "Write it as https://minio.example.org:9000.")
    return _made(scheme, endpoint.rstrip("/"), region, _identity())


def _identity() -> tuple[str, ...]:
    """Returns what the credentials depend on, so that the cache notices changes of the environment."""
    return tuple(os.environ.get(name, "") for name in base.SECRET_VARIABLES)


@cache
def _made(scheme: str, endpoint: str, region: str, identity: tuple[str, ...]) -> "S3":
    address = urlsplit(endpoint)
    client = _Client(
        address.netloc,
        secure=address.scheme == "https",
        region=region or None,
        credentials=credentials(scheme),
        http_client=_Connections(
            maxsize=base.CONCURRENT_READS,
            timeout=urllib3.Timeout(connect=base.CONNECT_SECONDS, read=base.READ_SECONDS),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        ),
    )
    client.scheme, client.server = scheme, f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    if address.netloc.endswith(".myqcloud.com"):  # the only style of COS
        client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]  # of minio
    return S3(client, *((COS_READ_REMEDY, COS_WRITE_REMEDY) if scheme == "cos" else (S3_READ_REMEDY, S3_WRITE_REMEDY)))


os.register_at_fork(after_in_child=_made.cache_clear)  # processes must not share connections


class _Connections(urllib3.PoolManager):
    """Connections without retries of their own: a response that asks for a retry is raised as an error."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> Any:  # type: ignore[override]  # as urllib3
        options.setdefault("retries", NO_RETRIES)
        response = super().urlopen(method, url, redirect, **options)
        if busy := failures.convert_response(response.status, response.headers):
            response.close()
            raise busy
        return response


class _Client(Minio):
    """The minio client, with retries by `patience` around each request.

    Each retry is signed again, as a signature expires after 15 minutes. All requests may be repeated, even POST: it begins
    and completes multipart uploads.
    """

    scheme, server = "s3", ""

    def _url_open(
        self,
        method: str,
        region: str,
        bucket_name: str | None = None,
        object_name: str | None = None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        uri = f"{self.scheme}://{bucket_name or ''}{f'/{object_name}' if object_name else ''}"
        send = partial(super()._url_open, method, region, bucket_name, object_name, *rest, **options)

        def attempt() -> Any:
            try:
                return send()
            except S3Error as error:
                if error.code in BUSY_CODES:
                    raise retry.ServerUnavailable(error.code) from None
                raise
            except urllib3.exceptions.HTTPError as error:
                raise failures.convert_error(error, uri) from None

        return retry.call_with_retries(attempt, uri, self.server)


def credentials(scheme: str) -> Provider | None:
    """Returns the source of credentials: the environment, else the pod's identity, else the user's credentials file.

    Args:
        scheme: `s3` or `cos`.

    Returns:
        The provider; None for anonymous access.
    """
    if scheme == "cos":
        key = first_variable("COS_SECRET_ID", "TENCENTCLOUD_SECRET_ID")
        secret = first_variable("COS_SECRET_KEY", "TENCENTCLOUD_SECRET_KEY")
        return StaticProvider(key, secret, first_variable("COS_SESSION_TOKEN") or None) if key and secret else None
    key, secret = (
        first_variable("AWS_ACCESS_KEY_ID", "MINIO_ACCESS_KEY"),
        first_variable("AWS_SECRET_ACCESS_KEY", "MINIO_SECRET_KEY"),
    )
    if key and secret:
        return StaticProvider(key, secret, first_variable("AWS_SESSION_TOKEN") or None)
    if first_variable(
        "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        return IamAwsProvider()
    file = Path(first_variable("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    return AWSConfigProvider(str(file), first_variable("AWS_PROFILE") or None) if file.is_file() else None


class S3:
    """The buckets at one endpoint.

    Args:
        client: of the endpoint.
        remedy: of the error for a denied read.
        remedy_to_write: of the error for a denied write.
    """

    def __init__(self, client: _Client, remedy: str, remedy_to_write: str):
        self._client, self._remedy, self._remedy_to_write = client, remedy, remedy_to_write

    def server(self, uri: str) -> str:
        """Returns the server of a URI, see `base.Store`."""
        return self._client.server

    def buckets(self) -> list[str]:
        """Lists the buckets that the key may see.

        Raises:
            AccessError: the server refuses the key, or to list the buckets.
            UnreachableError: it does not answer.
        """
        with self._reading(self._client.server):
            return [bucket.name for bucket in self._client.list_buckets()]

    def find(self, uri: str) -> FileInfo:
        """Returns an object's metadata, see `base.Store`."""
        location = Location.of_object(uri)
        with self._reading(uri):
            about = self._client.stat_object(location.bucket, location.key)
        return _described(uri, location.key, int(about.size or 0), about.etag, about.metadata or {})

    def below(self, uri: str, folders: set[str] | None = None) -> Iterator[FileInfo]:
        """Lists objects, see `base.Store`.

        Args:
            uri: of a folder of the bucket.
            folders: receives the names of the folders that have an object of their own.
        """
        location = Location.of_object(uri)
        prefix = base.key_prefix(location.key)
        with self._reading(uri):
            for found in self._client.list_objects(location.bucket, prefix, recursive=True):
                name = found.object_name or ""
                if name.endswith("/"):  # some tools create an empty object for a folder
                    base.add_folder(folders, name.removeprefix(prefix))
                else:
                    tag = (found.etag or "").strip('"')
                    size = int(found.size or 0)
                    modified = found.last_modified.timestamp() if found.last_modified else 0.0
                    yield FileInfo(location.with_key(name), name.removeprefix(prefix), size, _md5(tag), tag, modified=modified)

    def send(self, uri: str, sink: IO[bytes], version: str = "") -> FileInfo:
        """Downloads an object, see `base.Store`.

        Args:
            uri: of the object.
            sink: to write to, from its current position on.
            version: that the object must have; empty for any.
        """
        location = Location.of_object(uri)
        start = sink.tell()
        with self._reading(uri):
            condition: dict[str, Any] = {"If-Match": f'"{version}"'} if version else {}
            response = self._client.get_object(location.bucket, location.key, offset=start, request_headers=condition)
        return _copied(response, uri, location.key, sink, start)

    def head(self, uri: str, size: int) -> bytes:
        """Downloads the first bytes of an object, see `base.Store`.

        Args:
            uri: of the object.
            size: how many bytes.
        """
        location = Location.of_object(uri)
        with self._reading(uri):
            response = self._client.get_object(location.bucket, location.key, length=size)
        try:
            head = response.read(size, decode_content=False)
            if response.headers.get("content-length") != str(len(head)):
                response.close()  # a server without ranges sends the rest
            base.check_head(head, size, response.headers)
        except urllib3.exceptions.HTTPError as error:
            response.close()
            raise Interrupted(failures.describe_error(error)) from None
        finally:
            response.release_conn()
        return base.unpack_head(head, response.headers.get("content-encoding"))

    def put(self, uri: str, source: BinaryIO, size: int) -> None:
        """Uploads an object, see `base.Store`.

        Args:
            uri: of the object.
            source: to read from, from its current position on.
            size: in bytes.
        """
        location = Location.of_object(uri)
        with self._writing(uri):
            self._client.put_object(location.bucket, location.key, source, size, part_size=PART, num_parallel_uploads=1)

    def remove(self, uri: str) -> None:
        """Deletes an object, see `base.Store`."""
        location = Location.of_object(uri)
        with contextlib.suppress(ObjectNotFound), self._writing(uri):
            self._client.remove_object(location.bucket, location.key)

    def _reading(self, uri: str) -> AbstractContextManager[None]:
        return _translating(uri, partial(base.read_denied, remedy=self._remedy))

    def _writing(self, uri: str) -> AbstractContextManager[None]:
        return _translating(uri, partial(base.write_denied, remedy=self._remedy_to_write))


@contextlib.contextmanager
def _translating(uri: str, denied: Callable[[str, str], InputError]) -> Iterator[None]:
    """Converts the client's errors to a store's."""
    try:
        yield
    except MinioException as error:
        raise _translated(error, uri, denied) from None
    except ValueError as error:
        raise FieldError("a bucket must have a valid name", f"{uri} ({error})", "Check the address.") from None


def _translated(error: MinioException, uri: str, denied: Callable[[str, str], InputError]) -> BaseException:
    status, code = _status(error), error.code if isinstance(error, S3Error) else ""
    if retryable := next((known for known in RETRYABLE_CODES if known in str(error)), ""):
        return Interrupted(retryable)
    if status == 404 or code in NOT_FOUND_CODES:
        return ObjectNotFound(f"no such object or bucket: {uri}")
    if status == 412:
        return ObjectChanged(uri)
    answer = f"HTTP {status} ({code})" if code else f"HTTP {status}"
    if status in (400, 401, 403) or code in DENIED_CODES:
        return denied(uri, answer)
    return base.unreachable(uri, answer if status else type(error).__name__)


def _status(error: MinioException) -> int:
    """Returns the HTTP status of an error, or 0; for a response that is not XML it is only in the client's message."""
    if isinstance(error, S3Error):
        return error.response.status
    found = STATUS_PATTERN.search(str(error))
    return int(found[1]) if found else 0


def _copied(response: Any, uri: str, key: str, sink: IO[bytes], start: int) -> FileInfo:
    tag = response.headers.get("etag", "").strip('"')
    try:
        if start and not base.is_resumed(response.headers, start):
            sink.seek(0)
            sink.truncate()
            start = 0
        size = start + int(response.headers.get("content-length", -1 - start))
        for chunk in response.stream(base.STREAM_CHUNK_BYTES, decode_content=False):
            sink.write(chunk)
    except urllib3.exceptions.HTTPError as error:
        response.close()
        raise base.DownloadInterrupted(failures.describe_error(error), tag) from None
    finally:
        response.release_conn()
    if size >= 0 and sink.tell() < size:
        raise base.DownloadInterrupted("truncated", tag)
    return _described(uri, key, size, tag, response.headers)


def _described(uri: str, key: str, size: int, tag: str | None, headers: Any) -> FileInfo:
    tag = (tag or "").strip('"')
    encrypted = any(headers.get(name) for name in ENCRYPTION_HEADERS) or "aws:kms" in headers.get(
        "x-amz-server-side-encryption", ""
    )
    encoding = headers.get("content-encoding") or ""
    return FileInfo(uri, key.rpartition("/")[2], size, "" if encrypted else _md5(tag), tag, encoding=encoding)


def _md5(tag: str) -> str:
    """Returns the ETag if it looks like an MD5; that of a multipart upload has a `-` and is not one."""
    return tag if base.MD5_PATTERN.fullmatch(tag) else ""
