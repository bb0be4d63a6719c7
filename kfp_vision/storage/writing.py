"""Uploads files and folders, removes them, and checks that a URI is writable."""

import io
import shutil
import tempfile
import uuid
from pathlib import Path

from kfp_vision.core.errors import AccessError, FieldError
from kfp_vision.storage import atomic, base, reading, stores, uris
from kfp_vision.storage.uris import Location


def write_file(content: Path | bytes, uri: str) -> None:
    """Writes a file or an object, atomically, replacing an existing one.

    Folders are created. Stores verify a checksum; requests are retried while a store is down or busy.

    Args:
        content: bytes, or the path of a file to copy.
        uri: to write to.

    Raises:
        ObjectNotFound: the bucket does not exist.
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
        FieldError: the URI is read-only.
    """
    location = Location.of_file(uri)
    if location.is_remote:
        from kfp_vision.storage import transfer

        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            transfer.upload(uri, source)
        return
    with atomic.replacing(location.path) as beside:
        beside.write_bytes(content) if isinstance(content, bytes) else shutil.copyfile(content, beside)


def write_new_file(content: bytes, uri: str) -> None:
    """Writes a file or an object whose name was never used before, atomically; fast in a folder of many files.

    Args:
        content: to write.
        uri: to write to.

    Raises:
        ObjectNotFound, InputError, OSError: as `write_file`.
    """
    location = Location.of_file(uri)
    if location.is_remote:
        write_file(content, uri)
    else:
        atomic.write_new(location.path, content)


def remove_partial_files(uri: str) -> None:
    """Removes the incomplete files that killed processes of this host left in a folder; in buckets there are none.

    Args:
        uri: of the folder, which need not exist.
    """
    location = Location.of_file(uri)
    if location.is_local and location.path.is_dir():
        atomic.remove_partial_files(location.path)


def delete_file(uri: str) -> None:
    """Deletes a file or an object, if it exists.

    Args:
        uri: of the file or the object.

    Raises:
        AccessError: the store denies access.
        UnreachableError: the store does not answer.
    """
    location = Location.of_file(uri)
    if location.is_remote:
        stores.store(uri).remove(uri)
    else:
        location.path.unlink(missing_ok=True)


def check_writable(uri: str, field: str) -> None:
    """Checks that a folder or a bucket folder is writable; in a bucket, by creating and deleting an object.

    A local folder need not exist if it can be created; this function does not create it.

    Args:
        uri: of the folder.
        field: its name in messages.

    Raises:
        FieldError: the URI does not name a folder.
        NotFoundError: the bucket does not exist.
        AccessError: it is not writable.
        UnreachableError: the store does not answer.
    """
    remedy = "Give a folder, or a bucket folder as s3://bucket/folder."
    location = Location.of_file(uri)
    if not uri or not (location.is_local or location.is_in_bucket) or location.is_archive:
        raise FieldError(f"{field} must name a folder or a bucket folder to write to", base.redact_uri(uri), remedy)
    if location.is_in_bucket:
        uris.check_uri(uri, field)
        probe = uris.join_uri(uri, f".kfp-vision-{uuid.uuid4().hex}")
        with reading.require_existing(field):
            write_file(b"", probe)
            delete_file(probe)
        return
    path = location.path
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir():
        raise FieldError(f"{field} must name a folder", uri, remedy)
    try:
        with tempfile.TemporaryFile(dir=existing):  # which has no name; what a system says of permissions is not all there is
            pass
    except OSError as error:
        rule, found = f"{field} must name a writable folder", f"{uri} ({error.strerror})"
        raise AccessError(rule, found, f"Let this user write to {existing}.") from None


class Mirror:
    """Copies a folder of append-only files to another folder or a bucket folder, incrementally.

    Other files in the target are kept.

    Args:
        folder: to copy from.
        uri: to copy to.
    """

    def __init__(self, folder: Path, uri: str):
        self._folder, self._uri = folder, uri
        self._copied: dict[str, int] = {}

    def sync(self) -> None:
        """Copies the files that are new or have grown since the last call.

        Raises:
            ObjectNotFound, InputError, OSError: as `write_file`; the next call repeats the file that failed.
        """
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name, before = path.relative_to(self._folder).as_posix(), self._copied.get(str(path), -1)
            if path.stat().st_size > before:
                content = path.read_bytes()
                self._write(content, max(before, 0), uris.join_uri(self._uri, name))
                self._copied[str(path)] = len(content)

    def _write(self, content: bytes, before: int, uri: str) -> None:
        # Local files are appended to, as readers such as TensorBoard keep them open.
        if Location.of_file(uri).is_remote or not before:
            write_file(content, uri)
        else:
            with Path(uri).open("ab") as file:
                file.write(content[before:])
