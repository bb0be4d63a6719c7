"""Archives: the files in a tar or a zip by their names, whatever their packer meant them to do."""

import contextlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kfp_vision.errors import InputError

SUFFIXES = (".tgz", ".tar.gz", ".tar", ".tar.bz2", ".zip")
# What Python's readers raise at bytes that are no archive, or a broken or an encrypted one.
UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError)


def members(path: Path, uri: str) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """(name, size, read) of the regular files of an archive, in its own order; links and devices are left out."""
    if zipfile.is_zipfile(path):
        with _whole(uri):
            zipped = zipfile.ZipFile(path)
        with zipped:
            for info in zipped.infolist():
                if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
                    name = info.filename.removeprefix("./")
                    yield name, info.file_size, partial(_read, uri, partial(zipped.open, info))
        return
    try:
        archive = tarfile.open(path, "r:*")  # noqa: SIM115 (closed below)
    except UNREADABLE:
        remedy = f"Give a folder of class folders, or one of {', '.join(SUFFIXES)}."
        raise InputError("a data source that is a file must be an archive", uri, remedy) from None
    with archive:
        while member := _next(uri, archive):
            if member.isfile():
                name = member.name.removeprefix("./")
                yield name, member.size, partial(_read, uri, partial(archive.extractfile, member))


def unpack(path: Path, uri: str, folder: Path) -> dict[str, Path]:
    """Members by name. The files are numbered, so that no name in an archive can reach outside the folder."""
    files = {}
    for number, (name, _, read) in enumerate(members(path, uri)):
        files[name] = folder / str(number)
        files[name].write_bytes(read())
    return files


def _next(uri: str, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _whole(uri):
        return archive.next()


def _read(uri: str, opened: Callable[[], Any]) -> bytes:
    with _whole(uri), opened() as member:
        return member.read()


@contextlib.contextmanager
def _whole(uri: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise InputError("an archive must be whole", f"{uri} ({error})", "Pack or download it again.") from None
