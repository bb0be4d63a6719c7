"""Amazon S3, whatever speaks it (MinIO, Ceph, ...), and Tencent COS through its S3 interface, with the minio client.

`s3://bucket/key` lies at the endpoint that `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names, else on Amazon; a URI may say
otherwise at its end, `s3://bucket/key?endpoint=https://minio.example.org:9000&region=eu-west-1`. `cos://bucket-appid/key`
lies in the region `COS_REGION`, or `?region=ap-guangzhou`.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials import AWSConfigProvider, IamAwsProvider, Provider, StaticProvider
from minio.error import MinioException, S3Error
from urllib3.util import Retry

from kfp_vision import stores
from kfp_vision.errors import FieldError, InputError
from kfp_vision.stores import Changed, Found, Interrupted, NotThere, bucket_and_key, failures, given, parted, patience, transfer

AMAZON = "https://s3.amazonaws.com"
ANY_REGION = "us-east-1"  # what everybody but Amazon takes
# Encrypted with a key of its own, an object's ETag is no MD5: S3's documentation, "Checking object integrity".
ENCRYPTED = ("x-amz-server-side-encryption-customer-algorithm", "x-amz-server-side-encryption-aws-kms-key-id")
SET_S3 = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may list and read it (for a public bucket, neither), "
    "and AWS_REGION to its region."
)
SET_S3_TO_WRITE = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may write and delete there, and AWS_REGION to its region."
)
SET_COS = "Set COS_SECRET_ID and COS_SECRET_KEY to a key that may list and read it; for a public bucket, neither."
SET_COS_TO_WRITE = "Set COS_SECRET_ID and COS_SECRET_KEY to a key that may write and delete there."
REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "ExpiredToken", "InvalidToken")
STATUS = re.compile(r"(?:Response|status) code:? (\d{3})")
# Other bytes than their checksum; an object in parts whose end was asked for twice, as the first answer never came.
TO_BE_SENT_AGAIN = ("BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload")
BUSY = ("RequestTimeout",)  # with status 400
ONCE = Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0)
PART = 64 << 20  # bytes of an object that are sent, and stand in memory, at a time
ABSENCES = ("NoSuchKey", "NoSuchBucket", "ResourceNotFound")


def store(uri: str) -> "S3":
    """The store of an `s3://` or `cos://` URI.

    Raises:
        InputError: no region is set, or an endpoint is no http(s) address.
    """
    place, settings = parted(uri)
    scheme = urlsplit(place).scheme
    endpoint, region = settings.get("endpoint", ""), settings.get("region", "")
    if scheme == "cos":
        region = region or given("COS_REGION", "TENCENTCLOUD_REGION")
        endpoint = endpoint or given("COS_ENDPOINT") or (f"https://cos.{region}.myqcloud.com" if region else "")
        if not endpoint:
            raise FieldError("a cos:// address must have a region", "no COS_REGION", "Set it to ap-guangzhou, say.")
    else:
        endpoint = endpoint or given("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or AMAZON
        region = region or given("AWS_REGION", "AWS_DEFAULT_REGION") or ("" if endpoint == AMAZON else ANY_REGION)
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise FieldError("an endpoint must be an http(s) address", endpoint, "Write it as https://minio.example.org:9000, say.")
    return _made(scheme, endpoint.rstrip("/"), region, _identity())


def _identity() -> tuple[str, ...]:
    """What the credentials depend on, so that a change of the environment is seen."""
    return tuple(os.environ.get(name, "") for name in stores.SECRETS)


@cache
def _made(scheme: str, endpoint: str, region: str, identity: tuple[str, ...]) -> "S3":
    address = urlsplit(endpoint)
    client = _Client(
        address.netloc,
        secure=address.scheme == "https",
        region=region or None,
        credentials=credentials(scheme),
        http_client=_Connections(
            maxsize=stores.READERS,
            timeout=urllib3.Timeout(connect=stores.CONNECT_SECONDS, read=stores.READ_SECONDS),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        ),
    )
    client.scheme, client.server = scheme, f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    if address.netloc.endswith(".myqcloud.com"):  # COS has no other
        client.enable_virtual_style_endpoint()
    return S3(client, *((SET_COS, SET_COS_TO_WRITE) if scheme == "cos" else (SET_S3, SET_S3_TO_WRITE)))


os.register_at_fork(after_in_child=_made.cache_clear)  # two processes must not talk over one connection


class _Connections(urllib3.PoolManager):
    """Connections to an endpoint, over which a request is sent once: an answer that says to come again is no answer."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **how: Any) -> Any:  # type: ignore[override]  # as urllib3
        how.setdefault("retries", ONCE)
        response = super().urlopen(method, url, redirect, **how)
        if busy := failures.busy(response.status, response.headers):
            response.close()
            raise busy
        return response


class _Client(Minio):
    """The client, with the patience of this process for each request.

    A request is signed anew each time: a signature is good for a quarter of an hour. All of them may be sent twice, POST
    too: it begins and ends an object in parts.
    """

    scheme, server = "s3", ""

    def _url_open(
        self, method: str, region: str, bucket_name: str | None = None, object_name: str | None = None, *rest: Any, **how: Any
    ) -> Any:
        uri = f"{self.scheme}://{bucket_name or ''}{f'/{object_name}' if object_name else ''}"
        send = partial(super()._url_open, method, region, bucket_name, object_name, *rest, **how)

        def onward() -> Any:
            try:
                return send()
            except S3Error as error:
                if error.code in BUSY:
                    raise patience.Unanswered(error.code) from None
                raise
            except urllib3.exceptions.HTTPError as error:
                raise failures.of(error, uri) from None

        return patience.patiently(onward, uri, self.server)


def credentials(scheme: str) -> Provider | None:
    """Where a key comes from: the environment, else the pod's own identity, else the user's file; `None` for nobody."""
    if scheme == "cos":
        key = given("COS_SECRET_ID", "TENCENTCLOUD_SECRET_ID")
        secret = given("COS_SECRET_KEY", "TENCENTCLOUD_SECRET_KEY")
        return StaticProvider(key, secret, given("COS_SESSION_TOKEN") or None) if key and secret else None
    key, secret = given("AWS_ACCESS_KEY_ID", "MINIO_ACCESS_KEY"), given("AWS_SECRET_ACCESS_KEY", "MINIO_SECRET_KEY")
    if key and secret:
        return StaticProvider(key, secret, given("AWS_SESSION_TOKEN") or None)
    if given("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return IamAwsProvider()
    file = Path(given("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    return AWSConfigProvider(str(file), given("AWS_PROFILE") or None) if file.is_file() else None


class S3:
    """Buckets at one endpoint.

    Args:
        client: how they are reached.
        remedy, remedy_to_write: what to set when it refuses that somebody reads or writes.
    """

    def __init__(self, client: _Client, remedy: str, remedy_to_write: str):
        self._client, self._remedy, self._remedy_to_write = client, remedy, remedy_to_write

    def server(self, uri: str) -> str:
        """See `stores.Store`."""
        return self._client.server

    def find(self, uri: str) -> Found:
        """See `stores.Store`."""
        bucket, key = bucket_and_key(parted(uri)[0])
        with self._said(uri):
            about = self._client.stat_object(bucket, key)
        return _described(uri, key, int(about.size or 0), about.etag, about.metadata or {})

    def below(self, uri: str) -> Iterator[Found]:
        """See `stores.Store`."""
        place, _ = parted(uri)
        bucket, key = bucket_and_key(place)
        prefix, end = stores.prefix_of(key), uri[len(place) :]
        begin = f"{urlsplit(place).scheme}://{bucket}/"
        with self._said(uri):
            for found in self._client.list_objects(bucket, prefix, recursive=True):
                name = found.object_name or ""
                if not name.endswith("/"):  # some tools make an empty object of a folder's name
                    tag = (found.etag or "").strip('"')
                    size = int(found.size or 0)
                    modified = found.last_modified.timestamp() if found.last_modified else 0.0
                    place = f"{begin}{name}{end}"
                    yield Found(place, name.removeprefix(prefix), size, _md5(tag), tag, modified=modified)

    def send(self, uri: str, sink: IO[bytes], version: str = "") -> Found:
        """See `stores.Store`."""
        bucket, key = bucket_and_key(parted(uri)[0])
        start = sink.tell()
        with self._said(uri):
            condition: dict[str, Any] = {"If-Match": f'"{version}"'} if version else {}
            response = self._client.get_object(bucket, key, offset=start, request_headers=condition)
        return _copied(response, uri, key, sink, start)

    def put(self, uri: str, source: BinaryIO, size: int) -> None:
        """See `stores.Store`."""
        bucket, key = bucket_and_key(parted(uri)[0])
        with self._said_of_writing(uri):
            self._client.put_object(bucket, key, source, size, part_size=PART, num_parallel_uploads=1)

    def remove(self, uri: str) -> None:
        """See `stores.Store`."""
        bucket, key = bucket_and_key(parted(uri)[0])
        with contextlib.suppress(NotThere), self._said_of_writing(uri):
            self._client.remove_object(bucket, key)

    def _said(self, uri: str) -> "_Said":
        return _Said(uri, partial(stores.refused, remedy=self._remedy))

    def _said_of_writing(self, uri: str) -> "_Said":
        return _Said(uri, partial(stores.not_writable, remedy=self._remedy_to_write))


class _Said:
    """Turns what the client raises into what a store raises."""

    def __init__(self, uri: str, refused: Callable[[str, str], InputError]):
        self._uri, self._refused = uri, refused

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, MinioException):
            status, code = _status(error), error.code if isinstance(error, S3Error) else ""
            if again := next((code for code in TO_BE_SENT_AGAIN if code in str(error)), ""):
                raise Interrupted(again) from None
            if status == 404 or code in ABSENCES:
                raise NotThere(f"no such object or bucket: {self._uri}") from None
            if status == 412:
                raise Changed(self._uri) from None
            said = f"HTTP {status} ({code})" if code else f"HTTP {status}"
            if status in (400, 401, 403) or code in REFUSALS:
                raise self._refused(self._uri, said) from None
            raise stores.unanswered(self._uri, said if status else type(error).__name__) from None
        if isinstance(error, ValueError):
            rule = "a bucket must have a name that can be one"
            raise FieldError(rule, f"{self._uri} ({error})", "Check the address.") from None


def _status(error: MinioException) -> int:
    """The HTTP status that an error is about; of an answer that is no XML the client tells it in words alone."""
    if isinstance(error, S3Error):
        return error.response.status
    told = STATUS.search(str(error))
    return int(told[1]) if told else 0


def _copied(response: Any, uri: str, key: str, sink: IO[bytes], start: int) -> Found:
    tag = response.headers.get("etag", "").strip('"')
    try:
        if start and not stores.goes_on(response.headers, start):
            sink.seek(0)
            sink.truncate()
            start = 0
        size = start + int(response.headers.get("content-length", -1 - start))
        for chunk in response.stream(stores.CHUNK, decode_content=False):
            sink.write(chunk)
    except urllib3.exceptions.HTTPError as error:
        response.close()
        raise transfer.Broken(failures.reason(error), tag) from None
    finally:
        response.release_conn()
    if size >= 0 and sink.tell() < size:
        raise transfer.Broken("cut off", tag)
    return _described(uri, key, size, tag, response.headers)


def _described(uri: str, key: str, size: int, tag: str | None, headers: Any) -> Found:
    tag = (tag or "").strip('"')
    encrypted = any(headers.get(name) for name in ENCRYPTED) or "aws:kms" in headers.get("x-amz-server-side-encryption", "")
    return Found(uri, key.rpartition("/")[2], size, "" if encrypted else _md5(tag), tag)


def _md5(tag: str) -> str:
    """An ETag that may be an MD5; of an object sent in parts it is none, and has a `-` in it."""
    return tag if stores.MD5.fullmatch(tag) else ""
