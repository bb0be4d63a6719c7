"""Parses a URI once, into a value with its parts."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from kfp_vision import archives, stores
from kfp_vision.core.errors import FieldError

SAMPLE = "sample"
# A member of an archive in a bucket; settings may separate the two, see `stores.parted`.
IN_ARCHIVE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, archives.SUFFIXES))})(?:\?[^#]*)?)#(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Location:
    """The parts of a URI.

    Attributes:
        uri: as given, without the member.
        scheme: such as `s3`; empty for a local path and for `sample`.
        bucket: of an object; the host of a web address.
        key: of an object; the path of a local file; the rest of a web address. Not percent-decoded.
        settings: of a bucket, with the `?`: `?endpoint=...&region=...`; often empty.
        member: the name of an archive member; empty if the URI names a file.

    Example:
        ```python
        location = Location.parse("s3://bucket/photos.tgz?region=eu-west-1#daisy/1.jpg")
        location.bucket, location.key, location.member  # "bucket", "photos.tgz", "daisy/1.jpg"
        ```
    """

    uri: str
    scheme: str
    bucket: str
    key: str
    settings: str = ""
    member: str = ""

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Parses the URI of a file or of an archive member, which follows a `#`.

        Keys and local paths may contain other `#`; for a local path with one the file system is consulted.

        Args:
            uri: any.
        """
        archive, member = _split_member(uri)
        return replace(cls.of_file(archive), member=member)

    @classmethod
    def of_file(cls, uri: str) -> Self:
        """Parses the URI of a file or a folder; any `#` is part of its name.

        Args:
            uri: any.
        """
        scheme = uri_scheme(uri)
        if not scheme:
            return cls(uri, "", "", uri)
        if scheme in ("file", SAMPLE):
            return cls(uri, scheme, "", uri.removeprefix(f"{scheme}://"))
        place, _ = stores.parted(uri)
        bucket, _, key = place.partition("://")[2].partition("/")
        return cls(uri, scheme, bucket, key, uri[len(place) :])

    @classmethod
    def of_object(cls, uri: str) -> Self:
        """Parses the URI of an object or a bucket folder; any `#` is part of its key, which may be empty.

        Args:
            uri: with one of `stores.BUCKETS`.

        Raises:
            FieldError: the bucket is empty.
        """
        location = cls.of_file(uri)
        if not location.bucket:
            scheme = uri.partition("://")[0]
            raise FieldError(f"a URI with {scheme}:// must name a bucket", uri, f"Write it as {scheme}://bucket/folder.")
        return location

    @property
    def is_remote(self) -> bool:
        """Whether it is in a store or on a web server."""
        return self.scheme in stores.SCHEMES

    @property
    def is_in_bucket(self) -> bool:
        """Whether it is in an object store."""
        return self.scheme in stores.BUCKETS

    @property
    def is_local(self) -> bool:
        """Whether it is a local path."""
        return self.scheme in ("", "file") and self.uri != SAMPLE

    @property
    def is_archive(self) -> bool:
        """Whether the file is named like an archive."""
        return self.place.lower().endswith(archives.SUFFIXES)

    @property
    def place(self) -> str:
        """The URI without settings."""
        return self.uri.removesuffix(self.settings)

    @property
    def absolute(self) -> str:
        """The absolute path of a local file; any other URI as given."""
        return str(Path(self.key).expanduser().absolute()) if self.is_local and self.key else self.uri

    @property
    def path(self) -> Path:
        """The absolute path of a local file."""
        return Path(self.absolute)

    def setting(self, name: str) -> str:
        """Returns a setting of the bucket, or an empty string.

        Args:
            name: `endpoint` or `region`.
        """
        return dict(parse_qsl(self.settings.removeprefix("?"))).get(name, "")

    def with_key(self, key: str) -> str:
        """Returns the URI of another object in the same bucket, with the same settings.

        Args:
            key: of the object.
        """
        return f"{self.scheme}://{self.bucket}/{key}{self.settings}"


def uri_scheme(uri: str) -> str:
    """Returns the scheme of a URI, such as `http`, without parsing the rest; empty for a local path."""
    return urlsplit(uri).scheme if "://" in uri else ""


def _split_member(uri: str) -> tuple[str, str]:
    if "#" not in uri:
        return uri, ""
    scheme = uri_scheme(uri)
    if scheme in stores.BUCKETS:
        found = IN_ARCHIVE.match(uri)
        return (found[1], found[2]) if found else (uri, "")
    if scheme:
        archive, _, member = uri.partition("#")
        return archive, member
    if not Path(uri).is_file():
        for at, character in enumerate(uri):
            if character == "#" and Path(uri[:at]).is_file():
                return uri[:at], uri[at + 1 :]
    return uri, ""
