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

from kfp_vision import stores
from kfp_vision.errors import InputError
from kfp_vision.stores import Changed, Found, Interrupted, NotThere, bucket_and_key, given, parted, transfer

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
            raise InputError("a cos:// address must have a region", "no COS_REGION", "Set it to ap-guangzhou, say.")
    else:
        endpoint = endpoint or given("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or AMAZON
        region = region or given("AWS_REGION", "AWS_DEFAULT_REGION") or ("" if endpoint == AMAZON else ANY_REGION)
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise InputError("an endpoint must be an http(s) address", endpoint, "Write it as https://minio.example.org:9000, say.")
    return _made(scheme, endpoint.rstrip("/"), region, _identity())


def _identity() -> tuple[str, ...]:
    """What the credentials depend on, so that a change of the environment is seen."""
    return tuple(os.environ.get(name, "") for name in stores.SECRETS)


@cache
def _made(scheme: str, endpoint: str, region: str, identity: tuple[str, ...]) -> "S3":
    address = urlsplit(endpoint)
    client = Minio(
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
    if address.netloc.endswith(".myqcloud.com"):  # COS has no other
        client.enable_virtual_style_endpoint()
    return S3(client, *((SET_COS, SET_COS_TO_WRITE) if scheme == "cos" else (SET_S3, SET_S3_TO_WRITE)))


os.register_at_fork(after_in_child=_made.cache_clear)  # two processes must not talk over one connection


class _Connections(urllib3.PoolManager):
    """Connections to an endpoint; once it has answered it is waited for, also where nobody takes the call any more."""

    known = False

    def urlopen(self, method: str, url: str, redirect: bool = True, **how: Any) -> Any:  # type: ignore[override]  # as urllib3
        known = self.known
        # POST, too: it begins and ends an object in parts, and may do so twice.
        how["retries"] = transfer.retry(None, known=known)
        try:
            response = super().urlopen(method, url, redirect, **how)
        except urllib3.exceptions.MaxRetryError:
            if self.known == known:
                raise
            return self.urlopen(method, url, redirect, **how)  # another one was answered meanwhile
        self.known = True
        return response


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

    def __init__(self, client: Minio, remedy: str, remedy_to_write: str):
        self._client, self._remedy, self._remedy_to_write = client, remedy, remedy_to_write

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
        if isinstance(error, urllib3.exceptions.HTTPError):
            raise stores.unanswered(self._uri, _reason(error)) from None
        if isinstance(error, ValueError):
            rule = "a bucket must have a name that can be one"
            raise InputError(rule, f"{self._uri} ({error})", "Check the address.") from None


def _status(error: MinioException) -> int:
    """The HTTP status that an error is about; of an answer that is no XML the client tells it in words alone."""
    if isinstance(error, S3Error):
        return error.response.status
    told = STATUS.search(str(error))
    return int(told[1]) if told else 0


def _reason(error: BaseException) -> str:
    cause = getattr(error, "reason", None)
    return type(cause or error).__name__


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
        raise transfer.Broken(_reason(error), tag) from None
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
