"""URIs of files, folders, objects and archives: parsing and validation."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from kfp_vision.core.errors import FieldError, NotFoundError
from kfp_vision.storage import archives, base

SAMPLE = "sample"
SEVERAL_SAMPLE = "sample?labels=several"
SAMPLES = (SAMPLE, SEVERAL_SAMPLE)
MLFLOW_MODEL = "models:/"  # begins the URI of a model in MLflow, which has one slash
# A member of an archive in a bucket; settings may separate the two, see `base.split_settings`. After an archive without one of
# the endings two slashes follow the `#`, which else is part of a key.
ARCHIVE_MEMBER = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, archives.SUFFIXES))})(?:\?[^#]*)?)#(.+)", re.IGNORECASE | re.DOTALL
)
UNNAMED_ARCHIVE_MEMBER = re.compile(r"(.+?)#//(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Location:
    """The parts of a URI.

    Attributes:
        uri: as given, without the member.
        scheme: such as `s3`; empty for a local path and for the samples.
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
        place, _ = base.split_settings(uri)
        bucket, _, key = place.partition("://")[2].partition("/")
        return cls(uri, scheme, bucket, key, uri[len(place) :])

    @classmethod
    def of_object(cls, uri: str) -> Self:
        """Parses the URI of an object or a bucket folder; any `#` is part of its key, which may be empty.

        Args:
            uri: with one of `base.BUCKETS`.

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
        return self.scheme in base.SCHEMES

    @property
    def is_in_bucket(self) -> bool:
        """Whether it is in an object store."""
        return self.scheme in base.BUCKETS

    @property
    def is_local(self) -> bool:
        """Whether it is a local path."""
        return self.scheme in ("", "file") and self.uri not in SAMPLES

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
    return urlsplit(uri).scheme if "://" in uri or uri.startswith(MLFLOW_MODEL) else ""


def _split_member(uri: str) -> tuple[str, str]:
    if "#" not in uri:
        return uri, ""
    scheme = uri_scheme(uri)
    if scheme in base.BUCKETS:
        found = UNNAMED_ARCHIVE_MEMBER.match(uri) or ARCHIVE_MEMBER.match(uri)
        return (found[1], found[2]) if found else (uri, "")
    if scheme:
        archive, _, member = uri.partition("#")
        return archive, member
    if not Path(uri).is_file():
        for at, character in enumerate(uri):
            if character == "#" and Path(uri[:at]).is_file():
                return uri[:at], uri[at + 1 :]
    return uri, ""


ARCHIVE_SUFFIXES = archives.SUFFIXES
SCHEMES = ("", "file", SAMPLE, *base.SCHEMES)


def absolute_uri(uri: str) -> str:
    """Makes a local path absolute and removes `file://`; returns any other URI unchanged."""
    return Location.of_file(uri).absolute


def from_field(uri: str) -> str:
    """Returns the URI that a person put into a field of a form, without the white space that was pasted around it.

    Args:
        uri: as given. A local path that exists with its white space keeps it.
    """
    return uri if uri == uri.strip() or (Location.of_file(uri).is_local and Path(uri).exists()) else uri.strip()


def scheme_of(uri: str) -> str:
    """Returns the scheme of a URI, such as `http`; empty for a local path."""
    return uri_scheme(uri)


def check_uri(uri: str, field: str) -> None:
    """Checks a URI without network access: its scheme is supported, and a local path exists.

    Args:
        uri: to check.
        field: its name in messages.

    White space around it is ignored, see `from_field`.

    Raises:
        FieldError: the URI is empty, malformed, has an unsupported scheme, or contains credentials.
        NotFoundError: the local path does not exist.
    """
    uri = from_field(uri)
    location = Location.of_file(uri)
    if not uri:
        raise FieldError(f"{field} must name the location of the data", uri, "Set it to a folder, an archive or an address.")
    if location.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in base.SCHEMES)
        remedy = "Copy the data to a folder, an archive or a bucket."
        raise FieldError(f"{field} must be a local path, `sample`, or begin with one of {known}", base.redact_uri(uri), remedy)
    if "@" in urlsplit(uri).netloc:
        remedy = "Remove them, and set them in the environment."
        raise FieldError(f"{field} must not contain a user name or password", f"{location.scheme}://...", remedy)
    if location.is_in_bucket:
        Location.of_object(uri)
    if uri.startswith(f"{SAMPLE}?") and uri != SEVERAL_SAMPLE and not location.path.exists():
        raise FieldError(f"{field} must be {SAMPLE} or {SEVERAL_SAMPLE} to draw images", uri, f"Write it as {SEVERAL_SAMPLE}.")
    if location.is_local and not location.path.exists():
        raise NotFoundError(f"{field} must name something that exists", uri, "Check the path and its permissions.")


def split_member(uri: str) -> tuple[str, str]:
    """Splits a URI at the `#` that follows an archive; keys and local paths may contain other `#`.

    Args:
        uri: of a file or of an archive member.

    Returns:
        The URI of the file or the archive, and the member's name, or an empty string.
    """
    location = Location.parse(uri)
    return location.uri, location.member


def join_member(archive: str, name: str) -> str:
    """Returns the URI of an archive member, which `split_member` splits again.

    Args:
        archive: URI of the archive.
        name: of the member.

    Example:
        ```python
        join_member("s3://bucket/photos.zip", "daisy/1.jpg")  # "s3://bucket/photos.zip#daisy/1.jpg"
        join_member("s3://bucket/photos", "daisy/1.jpg")  # "s3://bucket/photos#//daisy/1.jpg"
        ```
    """
    location = Location.of_file(archive)
    return f"{archive}#{'//' if location.is_in_bucket and not location.is_archive else ''}{name}"


def is_archive(uri: str) -> bool:
    """Checks whether a URI ends like an archive."""
    return Location.of_file(uri).is_archive


def join_uri(folder: str, name: str) -> str:
    """Joins a folder and a name.

    Args:
        folder: a path or the URI of a bucket folder.
        name: relative to it, with forward slashes.

    Returns:
        The absolute path, or the URI.
    """
    location = Location.of_file(folder)
    return base.append_to_path(folder, f"/{name}") if location.is_in_bucket else str(location.path / name)
