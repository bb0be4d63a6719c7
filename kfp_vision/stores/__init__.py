"""Object stores and web servers behind one small interface: what lies at a URI and below it, its bytes, and new ones.

A store is chosen by the URI's scheme. Credentials come from the environment alone; no URI and no message holds any.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import IO, BinaryIO, Protocol
from urllib.parse import parse_qsl, urlsplit

from kfp_vision.errors import AccessError, FieldError, UnreachableError, without_secrets

READERS = 48  # objects that are read at a time
CONNECT_SECONDS, READ_SECONDS = 10, 60
CHUNK = 1 << 18  # what arrives at a time, and is lost when the line breaks
MD5 = re.compile(r"[0-9a-f]{32}")
HASHES = re.compile(r"(md5|crc32c)=([\w+/]+=*)")  # in Cloud Storage's x-goog-hash
SCHEMES = ("s3", "cos", "gs", "http", "https")
BUCKETS = ("s3", "cos", "gs")  # the schemes with a bucket and a prefix behind it, which can be listed
AT_THE_END = re.compile(r"\?((?:endpoint|region)=[^?&]+(?:&(?:endpoint|region)=[^?&]+)*)$")
WAIT_SECONDS = "KFP_VISION_STORE_WAIT_SECONDS"  # how long a store is waited for, see `patience`
# What the stores read of the environment: a Kubernetes secret fills it, and a local container is given the same.
SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "COS_SECRET_ID",
    "COS_SECRET_KEY",
    "COS_SESSION_TOKEN",
    "GOOGLE_CREDENTIALS",
)
SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "COS_ENDPOINT",
    "COS_REGION",
    "STORAGE_EMULATOR_HOST",
    WAIT_SECONDS,
)
ENVIRONMENT = (*SECRETS, *SETTINGS)

# It says every retry, with the address, in which a signature may stand.
logging.getLogger("urllib3").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a store.

    Attributes:
        uri: where it is.
        name: its path below what was asked for; its last name where it was asked for itself.
        size: in bytes; -1 where the server does not say.
        md5: of its bytes in hex, if the store seems to say it; S3's ETag of an encrypted object looks like one and is none.
        version: what changes when the object does; empty if the server does not say.
        crc32c: of its bytes in base64, where the store says it.
        modified: when it was written, in seconds since 1970, where a listing says it; else 0.
    """

    uri: str
    name: str
    size: int
    md5: str = ""
    version: str = ""
    crc32c: str = ""
    modified: float = field(default=0.0, compare=False)


class Interrupted(Exception):
    """A transfer that stopped in the middle, or a server that is gone or busy: to be tried again.

    Attributes:
        rule: which is broken where that does not help.
        said: what the store does, in a line about the next try.
        no_such_name, after: see `patience.Unanswered`.
    """

    rule, said = "what an address gives must arrive whole", "broke off"
    no_such_name, after = False, 0.0


class NotThere(FileNotFoundError):
    """Nothing lies at a URI."""


class Changed(Exception):
    """The object is not the one any more whose first bytes have arrived."""


class Store(Protocol):
    """What every store can do. All of it may be called from many threads.

    A store that is gone or busy is waited for, see `patience`; of `send` and `put` alone whoever calls them repeats them.

    Raises (all methods):
        NotThere: no such object or bucket.
        InputError: the store refuses, or does not answer: what to set is said.
    """

    def server(self, uri: str) -> str:
        """Which server is asked for a URI: `https://host:port`."""

    def find(self, uri: str) -> Found:
        """What lies at a URI, without its bytes."""

    def below(self, uri: str) -> Iterator[Found]:
        """Every object below a URI, in the order of their keys, a page in memory at a time."""

    def send(self, uri: str, sink: IO[bytes], version: str = "") -> Found:
        """Writes an object's bytes to a sink, from the place on at which the sink stands.

        Raises:
            Interrupted: it did not come to its end; what has arrived is in the sink.
            Changed: its version is another one than was asked for.
        """

    def put(self, uri: str, source: BinaryIO, size: int) -> None:
        """Makes an object of so many bytes, or replaces the one that is there: as a whole, or not at all.

        What the client says of the bytes (MD5, SHA-256 or CRC-32C) the store compares with what arrives.

        Raises:
            Interrupted: it did not come to its end, or other bytes arrived; the source has been read, perhaps in part.
        """

    def remove(self, uri: str) -> None:
        """Removes an object, if it is there."""


def store(uri: str) -> Store:
    """The store that a URI lies in.

    Raises:
        InputError: its scheme is none of `SCHEMES`, or what it needs is missing.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("s3", "cos"):
        from kfp_vision.stores import s3

        return s3.store(uri)
    if scheme == "gs":
        from kfp_vision.stores import gcs

        return gcs.store()
    if scheme in ("http", "https"):
        from kfp_vision.stores import web

        return _web_store(web.Web)
    raise FieldError(f"an address must begin with one of {', '.join(f'{known}://' for known in SCHEMES)}", uri, "Name another.")


@cache
def _web_store(made: type) -> Store:
    return made()


os.register_at_fork(after_in_child=_web_store.cache_clear)  # two processes must not talk over one connection


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The two parts of `s3://bucket/key`; the key may be empty. Not percent-encoded: what stands there is the key.

    Raises:
        InputError: there is no bucket.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket:
        scheme = uri.partition("://")[0]
        raise FieldError(f"a URI with {scheme}:// must name a bucket", uri, f"Write it as {scheme}://bucket/folder.")
    return bucket, key


def parted(uri: str) -> tuple[str, dict[str, str]]:
    """A URI without the settings at its end, `?endpoint=...&region=...`, and the settings; any other `?` is part of a key."""
    found = AT_THE_END.search(uri) if urlsplit(uri).scheme in ("s3", "cos") else None
    return (uri[: found.start()], dict(parse_qsl(found[1]))) if found else (uri, {})


def extended(uri: str, ending: str) -> str:
    """The address of a file beside or below another: what stands behind a `?` stays there."""
    place = uri.partition("?")[0] if urlsplit(uri).scheme in ("http", "https") else parted(uri)[0]
    return f"{place.rstrip('/')}{ending}{uri[len(place) :]}"


def prefix_of(key: str) -> str:
    """What the keys below a folder begin with."""
    return f"{key.rstrip('/')}/" if key.rstrip("/") else ""


def goes_on(headers: Mapping[str, str], start: int) -> bool:
    """Whether an answer goes on at a byte, as it was asked to, or is the whole of it.

    The status does not tell: some S3 servers send a part with 200 rather than 206.
    """
    return headers.get("Content-Range", "").startswith(f"bytes {start}-")


def given(*names: str, environment: Mapping[str, str] = os.environ) -> str:
    """The first of some variables of the environment that is set, else an empty text."""
    return next((environment[name] for name in names if environment.get(name)), "")


def refused(uri: str, status: object, remedy: str) -> AccessError:
    """What to say when a store does not let somebody in."""
    return AccessError("an address must be open to whoever reads it", f"{status} at {shown(uri)}", remedy)


def not_writable(uri: str, status: object, remedy: str) -> AccessError:
    """What to say when a store does not let somebody write."""
    return AccessError("an address must be open to whoever writes there", f"{status} at {shown(uri)}", remedy)


def unanswered(uri: str, reason: object) -> UnreachableError:
    """What to say when a store does not answer, and waiting would not help."""
    return UnreachableError(
        "an address must answer", f"{reason} at {shown(uri)}", "Check the address and the way to it, or try again."
    )


def shown(uri: str) -> str:
    """The URI as it may stand in a message or a log: what is behind the `?` of a web address may be a signature."""
    return without_secrets(uri.partition("?")[0] + "?..." if urlsplit(uri).scheme in ("http", "https") and "?" in uri else uri)
