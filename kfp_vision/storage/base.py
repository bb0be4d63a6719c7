"""What all stores share: their interface, errors, and the settings in a URI."""

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, BinaryIO, Protocol
from urllib.parse import parse_qsl, urlsplit

from kfp_vision.core.errors import AccessError, UnreachableError, redact

CONCURRENT_READS = 48  # objects read concurrently
CONNECT_SECONDS, READ_SECONDS = 10, 60
STREAM_CHUNK_BYTES = 1 << 18  # bytes read at a time; at most this much is lost when a connection breaks
MD5_PATTERN = re.compile(r"[0-9a-f]{32}")
HASH_HEADER = re.compile(r"(md5|crc32c)=([\w+/]+=*)")  # in the x-goog-hash header of Cloud Storage
GZIP_MAGIC = b"\x1f\x8b"
SCHEMES = ("s3", "minio", "cos", "gs", "http", "https")
S3_SCHEMES = ("s3", "minio", "cos")  # stores with the interface of S3, whose endpoint and region a URI may set
BUCKETS = (*S3_SCHEMES, "gs")  # schemes with a bucket and keys, which can be listed
SETTINGS_AT_END = re.compile(r"\?((?:endpoint|region)=[^?&]+(?:&(?:endpoint|region)=[^?&]+)*)$")
WAIT_VARIABLE = "KFP_VISION_STORE_WAIT_SECONDS"  # how long to wait for a store, see `patience`
NAME_ENCODING_VARIABLE = "KFP_VISION_NAME_ENCODING"  # of the names in archives, see `archives`
# Environment variables of the stores: set from a Kubernetes secret, and passed to local containers.
SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "COS_SECRET_ID",
    "COS_SECRET_KEY",
    "COS_SESSION_TOKEN",
    "GOOGLE_CREDENTIALS",
)
SETTING_VARIABLES = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "COS_ENDPOINT",
    "COS_REGION",
    "STORAGE_EMULATOR_HOST",
    WAIT_VARIABLE,
    NAME_ENCODING_VARIABLE,
)
ENVIRONMENT_VARIABLES = (*SECRET_VARIABLES, *SETTING_VARIABLES)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """An object in a store.

    Attributes:
        uri: of the object.
        name: its path below the folder that was listed; its last component if the object itself was requested.
        size: in bytes; -1 if unknown.
        md5: of its bytes, in hexadecimal, if the store reports one; may be wrong, as the ETag of an encrypted S3 object
            looks like an MD5 but is not.
        version: an identifier that changes with the object; empty if unknown.
        crc32c: of its bytes, in base64; empty if unknown.
        modified: time of the last write, in seconds since 1970, if a listing reports it; else 0.
        encoding: its Content-Encoding, such as `gzip`: size and checksums are those of the bytes as stored, which
            `transfer` unpacks. Listings of S3 do not report it.
    """

    uri: str
    name: str
    size: int
    md5: str = ""
    version: str = ""
    crc32c: str = ""
    modified: float = field(default=0.0, compare=False)
    encoding: str = ""


class Interrupted(Exception):
    """A transfer was interrupted, or a server is down or busy: worth retrying.

    Attributes:
        rule: that is broken, for the error after the last retry.
        symptom: what the store does, for the log line about the next retry.
        no_such_name: see `retry.ServerUnavailable`.
        after: see `retry.ServerUnavailable`.
    """

    rule, symptom = "a transfer must complete", "was interrupted"
    no_such_name, after = False, 0.0


class ObjectNotFound(FileNotFoundError):
    """The object or bucket does not exist."""


class ObjectChanged(Exception):
    """The object was replaced during its download."""


class Store(Protocol):
    """The interface of all stores; thread-safe.

    All methods retry while the store is down or busy, see `patience`; except `send`, `head` and `put`, which callers retry.

    All methods raise NotThere if the object or bucket does not exist, AccessError if the store denies access, and
    UnreachableError if it does not answer.
    """

    def server(self, uri: str) -> str:
        """Returns the server of a URI, as `https://host:port`."""

    def find(self, uri: str) -> FileInfo:
        """Returns the metadata of the object at a URI."""

    def below(self, uri: str, folders: set[str] | None = None) -> Iterator[FileInfo]:
        """Lists all objects below a URI, in the order of their keys, with one page in memory at a time.

        Args:
            uri: of a folder of the bucket.
            folders: receives the names of the folders for which there is an object of their own, which may be empty.
        """

    def send(self, uri: str, sink: IO[bytes], version: str = "") -> FileInfo:
        """Downloads an object, from the current position of the sink on.

        Args:
            uri: of the object.
            sink: to write to; its position is the number of bytes already received.
            version: that the object must have, see `FileInfo`; empty for any.

        Returns:
            The object's metadata.

        Raises:
            Interrupted: the download stopped early; the bytes received are in the sink.
            ObjectChanged: the object has another version.
        """

    def head(self, uri: str, size: int) -> bytes:
        """Downloads the first bytes of an object.

        Args:
            uri: of the object.
            size: how many bytes; fewer are returned if the object is shorter, or stored compressed (`Content-Encoding`).

        Raises:
            Interrupted: the download stopped early.
        """

    def put(self, uri: str, source: BinaryIO, size: int) -> None:
        """Creates or replaces an object, atomically.

        The store verifies the bytes by a checksum of the client's (MD5, SHA-256 or CRC-32C).

        Args:
            uri: of the object.
            source: to read from, from its current position on.
            size: how many bytes.

        Raises:
            Interrupted: the upload stopped early, or the checksum differs; the source may have been read in part.
        """

    def remove(self, uri: str) -> None:
        """Deletes an object, if it exists."""


def split_settings(uri: str) -> tuple[str, dict[str, str]]:
    """Splits the settings, `?endpoint=...&region=...`, off the end of a URI; any other `?` is part of the key.

    Args:
        uri: any; only those in `S3_SCHEMES` have settings.

    Returns:
        The URI without its settings, and the settings.
    """
    found = SETTINGS_AT_END.search(uri) if urlsplit(uri).scheme in S3_SCHEMES else None
    return (uri[: found.start()], dict(parse_qsl(found[1]))) if found else (uri, {})


def append_to_path(uri: str, ending: str) -> str:
    """Appends to the path of a URI, before its `?`.

    Args:
        uri: of a file or a folder.
        ending: to append, such as `/name`.
    """
    place = uri.partition("?")[0] if urlsplit(uri).scheme in ("http", "https") else split_settings(uri)[0]
    return f"{place.rstrip('/')}{ending}{uri[len(place) :]}"


def key_prefix(key: str) -> str:
    """Returns the common prefix of the keys below a folder."""
    return f"{key.rstrip('/')}/" if key.rstrip("/") else ""


def add_folder(folders: set[str] | None, name: str) -> None:
    """Adds the name of a folder, unless it is the one listed.

    Args:
        folders: to add to; None for not at all.
        name: of the folder, which ends in `/`.
    """
    if folders is not None and name.strip("/"):
        folders.add(name.strip("/"))


def is_resumed(headers: Mapping[str, str], start: int) -> bool:
    """Checks whether a response resumes at a byte, as requested, rather than starting over.

    The status is not reliable: some S3 servers send a range with 200 instead of 206.

    Args:
        headers: of the response.
        start: the byte.
    """
    return headers.get("Content-Range", "").startswith(f"bytes {start}-")


def check_head(head: bytes, size: int, headers: Mapping[str, str]) -> None:
    """Checks that the first bytes of an object have arrived: clients do not report an answer that breaks off.

    Args:
        head: the bytes received.
        size: how many were requested.
        headers: of the response.

    Raises:
        Interrupted: there are fewer than the response announced.
    """
    if len(head) < min(size, int(headers.get("Content-Length", 0))):
        raise Interrupted("truncated")


def unpack_head(head: bytes, encoding: str | None) -> bytes:
    """Unpacks the first bytes of an object that is stored compressed, as `gsutil cp -z` leaves it.

    Args:
        head: the bytes as stored.
        encoding: the object's `Content-Encoding`, if any.

    Returns:
        The bytes that can be unpacked from them; as they are if they are not gzip.
    """
    if "gzip" not in (encoding or ""):
        return head
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head)
    except zlib.error:
        return head


def first_variable(*names: str, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the first environment variable that is set, or an empty string.

    Args:
        *names: of the variables, in order of precedence.
        environment: to look in.
    """
    return next((environment[name] for name in names if environment.get(name)), "")


def read_denied(uri: str, status: object, remedy: str) -> AccessError:
    """Returns the error for a denied read.

    Args:
        uri: that was read.
        status: of the response.
        remedy: which credentials to set.
    """
    return AccessError("the address must be readable with the given credentials", f"{status} at {redact_uri(uri)}", remedy)


def write_denied(uri: str, status: object, remedy: str) -> AccessError:
    """Returns the error for a denied write.

    Args:
        uri: that was written.
        status: of the response.
        remedy: which credentials to set.
    """
    return AccessError("the address must be writable with the given credentials", f"{status} at {redact_uri(uri)}", remedy)


def unreachable(uri: str, reason: object) -> UnreachableError:
    """Returns the error for a store that does not answer and is not worth retrying.

    Args:
        uri: that was requested.
        reason: for the failure.
    """
    return UnreachableError(
        "the server must answer", f"{reason} at {redact_uri(uri)}", "Check the address and the network, or try again."
    )


def redact_uri(uri: str) -> str:
    """Returns a URI without secrets, for messages and logs: the query of a web address may contain a signature."""
    return redact(uri.partition("?")[0] + "?..." if urlsplit(uri).scheme in ("http", "https") and "?" in uri else uri)


class DownloadInterrupted(Interrupted):
    """A download that stopped after its response had begun.

    Args:
        reason: in plain words.
        version: of the object, as in the response.
    """

    def __init__(self, reason: object, version: str):
        super().__init__(str(reason))
        self.version = version
