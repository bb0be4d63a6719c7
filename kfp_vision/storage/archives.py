"""Reads the files of tar and zip archives, including hostile ones.

No file is ever written under a member's name, so a member cannot escape the folder or overwrite another file. An archive
that cannot be read safely (a decompression bomb, a broken header, a duplicate name) is rejected entirely, never truncated.
"""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from kfp_vision.core.errors import DamagedError, FieldError, InputError

SUFFIXES = (".tgz", ".tar.gz", ".tar", ".tar.bz2", ".zip")
MAX_ENTRIES = 2_000_000  # ImageNet has 1.3 million
MAX_BYTES = 1 << 40
# Images hardly compress; deflate can compress zeros 1032-fold, bzip2 a million-fold.
MAX_RATIO = 200
RATIO_FLOOR = 64 << 20  # unpacked bytes allowed for any archive, however small
COPY_CHUNK_BYTES = 1 << 20
# What Python's readers raise when bytes are not an archive, or a damaged one.
READ_ERRORS = (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError)
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # with members, and empty: APPNOTE.TXT, sections 4.3.7 and 4.3.16
DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
ENCRYPTED_FLAG, UTF8_FLAG = 1, 1 << 11  # flags of a zip member: APPNOTE.TXT, section 4.4.4


def read_members(path: Path, uri: str, folders: set[str] | None = None) -> Iterator[tuple[str, int, Callable[..., bytes]]]:
    """Yields the regular files of an archive, in its order; skips links and devices.

    Names are relative to the archive's root, as GNU tar and unzip resolve them: without a leading `/` or `./`, and without
    everything up to the last `..`.

    Args:
        path: of the archive.
        uri: of the archive, for messages.
        folders: receives the names of the folders that the archive lists, which may be empty.

    Yields:
        (name, size in bytes, read) of each member; `read` returns its bytes, or the first few if given how many, and must be
        called before the next member.

    Raises:
        FieldError: the file is not an archive.
        DamagedError: it is damaged, or contains a name twice.
        InputError: it is encrypted, or has too many entries or bytes.
    """
    for name, size, opened in _files(path, uri, folders):
        yield name, size, partial(_read, uri, opened)


def unpack(path: Path, uri: str, folder: Path) -> dict[str, Path]:
    """Unpacks an archive into a folder, under numbers instead of the members' names.

    Args:
        path: of the archive.
        uri: of the archive, for messages.
        folder: to write to.

    Returns:
        The path of each file by its member's name, as `members` gives it.

    Raises:
        InputError: as `members`, or the disk is full.
    """
    files = {}
    for number, (name, _, opened) in enumerate(_files(path, uri)):
        files[name] = folder / str(number)
        with files[name].open("wb") as file, _intact(uri), opened() as member:
            shutil.copyfileobj(member, file, COPY_CHUNK_BYTES)
    return files


def _files(path: Path, uri: str, folders: set[str] | None = None) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Yields (name, size, open) of each regular file, after checking its header against the limits."""
    with path.open("rb") as file:
        begin = file.read(6)
    bound = min(MAX_BYTES, max(RATIO_FLOOR, MAX_RATIO * path.stat().st_size))
    entries = _zip_entries(path, uri) if begin.startswith(ZIP_MAGIC) else _tar_entries(path, uri, begin, bound)
    seen: set[str] = set()
    total = 0
    for number, (stored, size, opened) in enumerate(entries, start=1):
        if number > MAX_ENTRIES:
            raise InputError(f"an archive must have at most {MAX_ENTRIES:,} entries", uri, "Split it into several.")
        total += size
        if total > bound:
            raise _bomb(uri, bound)
        name = _relative_to_root(stored)
        if opened is None or not name:
            if folders is not None and name and stored.endswith("/"):
                folders.add(name)
            continue
        if name in seen:
            raise DamagedError("an archive must not contain a name twice", f"{name} twice in {uri}", "Pack its folder again.")
        seen.add(name)
        yield name, size, opened


# (name, size, open) of each entry; open is None unless it is a regular file, and the name of a folder ends in `/`.
Entries = Iterator[tuple[str, int, Callable[[], IO[bytes]] | None]]


def _zip_entries(path: Path, uri: str) -> Entries:
    with _intact(uri):
        zipped = zipfile.ZipFile(path)
    with zipped:
        for info in zipped.infolist():
            if info.flag_bits & ENCRYPTED_FLAG:
                raise InputError("an archive must not be encrypted", f"{info.filename} in {uri}", "Pack it without a password.")
            kind = stat.S_IFMT(info.external_attr >> 16)
            regular = not info.is_dir() and kind in (0, stat.S_IFREG)
            yield _zip_name(info), info.file_size, partial(zipped.open, info) if regular else None


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Returns a member's name with forward slashes; macOS writes UTF-8 without the flag, some Windows tools backslashes."""
    name = info.filename
    if not info.flag_bits & UTF8_FLAG:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")  # Python decodes names without the flag as cp437
    return name.replace("\\", "/")


def _tar_entries(path: Path, uri: str, begin: bytes, bound: int) -> Entries:
    opening: Callable[..., Any] = next((opener for magic, opener in DECOMPRESSORS.items() if begin.startswith(magic)), open)
    with opening(path, "rb") as unpacked:
        stream = _Bounded(unpacked, uri, bound)
        try:
            archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 (closed below)
        except READ_ERRORS:
            remedy = f"Give a folder of class folders, or one of {', '.join(SUFFIXES)}."
            raise FieldError("a data source that is a file must be an archive", uri, remedy) from None
        with archive:
            while member := _next(uri, archive):
                archive.members = []  # type: ignore[attr-defined]  # else two million of them fill the memory
                name = f"{member.name}/" if member.isdir() else member.name
                yield name, member.size, partial(_extracted, archive, member) if member.isfile() else None
            _check_end(uri, stream, archive.offset)


class _Bounded(io.RawIOBase):
    """Limits how far a compressed tar is unpacked: neither a long member nor a long header can exhaust time or disk."""

    def __init__(self, unpacked: IO[bytes], uri: str, bound: int):
        self._unpacked, self._uri, self._bound = unpacked, uri, bound

    def read(self, size: int = -1) -> bytes:
        self._check(self._unpacked.tell() + max(size, 0))
        return self._unpacked.read(size)

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._check(position)
        return self._unpacked.seek(position, whence)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._unpacked.tell()

    def _check(self, position: int) -> None:
        if position > self._bound + COPY_CHUNK_BYTES:  # tarfile reads ahead of the members
            raise _bomb(self._uri, self._bound)


def _bomb(uri: str, bound: int) -> InputError:
    remedy = "Give a folder, or pack the image files themselves."
    return InputError(f"an archive of this size must unpack to at most {bound >> 20:,} MiB", f"more in {uri}", remedy)


def _next(uri: str, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _intact(uri):
        return archive.next()


def _check_end(uri: str, stream: _Bounded, offset: int) -> None:
    """Rejects a tar that does not end in zeros: Python's reader silently takes a damaged header for the end.

    Reading to the end also makes the decompressor verify its checksum.
    """
    with _intact(uri):
        stream.seek(offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise EOFError("truncated")
        while block:
            if block.count(0) < len(block):
                raise tarfile.ReadError(f"damaged after byte {offset:,}")
            block = stream.read(COPY_CHUNK_BYTES)


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(member)
    assert opened is not None, "a regular file can be opened"
    return opened


def _relative_to_root(name: str) -> str:
    """Returns a member's path below the root: `daisy/1.jpg` for `./daisy/1.jpg`, `/daisy/1.jpg` and `x/../daisy/1.jpg`."""
    parts = name.split("/")
    climbs = [number for number, part in enumerate(parts) if part == ".."]
    below = parts[climbs[-1] + 1 :] if climbs else parts
    return "/".join(part for part in below if part not in ("", "."))


def _read(uri: str, opened: Callable[[], IO[bytes]], size: int = -1) -> bytes:
    with _intact(uri), opened() as member:
        return member.read(size)


@contextlib.contextmanager
def _intact(uri: str) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise InputError(
                "an archive must fit the scratch space", f"{uri} ({error})", "Set TMPDIR to a larger disk."
            ) from None
        raise DamagedError("an archive must be intact", f"{uri} ({error})", "Pack or download it again.") from None
