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
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

from kfp_vision.core import values
from kfp_vision.core.errors import DamagedError, FieldError, InputError
from kfp_vision.storage import base, name_encodings, packing

SUFFIXES = (".tgz", ".tar.gz", ".tar", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".zip")
MAX_ENTRIES = 2_000_000  # ImageNet has 1.3 million
MAX_BYTES = 1 << 40
# Images hardly compress; deflate can compress zeros 1032-fold, bzip2 a million-fold.
MAX_RATIO = 200
RATIO_FLOOR = 64 << 20  # unpacked bytes allowed for any archive, however small
COPY_CHUNK_BYTES = 1 << 20
# What Python's readers raise when bytes are not an archive, or a damaged one.
READ_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    OSError,
    EOFError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    UnicodeDecodeError,  # a name that is said to be UTF-8
)
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # with members, and empty: APPNOTE.TXT, sections 4.3.7 and 4.3.16
EXECUTABLE_MAGIC = b"MZ"  # of a zip that unpacks itself
DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x5d\0\0": lzma.open,  # of the program lzma
}
# Of a zip member: APPNOTE.TXT, sections 4.4.4, 4.4.5 and 4.6.9.
ENCRYPTED_FLAG, UTF8_FLAG = 1, 1 << 11
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
OTHER_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "xz", 96: "JPEG", 98: "PPMd", 99: "AES"}
UNICODE_PATH = 0x7075
# Of the parts that split, 7-Zip and zip -s write: photos.zip.001, photos.tgz.aa, photos.tgzaa, photos.z01.
PART_ENDING = re.compile(r"\.(\d{3}|z\d\d|part[-_]?\w{1,4}|a[a-z])$|\.(zip|tar|tgz|gz|bz2|xz)a[a-z]$", re.IGNORECASE)
SPLIT_ZIP_ENDING = re.compile(r"\.z\d\d$", re.IGNORECASE)
JOIN_PARTS = "Join its parts first, as in cat photos.zip.* > photos.zip, or 7z x photos.zip.001."
REPACK = "Pack or download it again."
ENCODING_SETTING = f"name_encoding of advanced (or {base.NAME_ENCODING_VARIABLE})"  # of names

_given_encoding = ""  # of names; set for the whole process
_decisions: dict[str, name_encodings.Decision] = {}  # by the URI of each archive that was read and had to be decided on


def set_name_encoding(name: str) -> None:
    """Sets the encoding of the names in archives that do not say it, for all threads of this process.

    Args:
        name: a codec of Python; empty to use that of the environment, or to find it for each archive.
    """
    global _given_encoding
    _given_encoding = name


def name_encoding() -> str:
    """Returns the encoding of names that this process was given; empty to find it for each archive.

    Raises:
        FieldError: that in the environment is not an encoding.
    """
    name = _given_encoding or os.environ.get(base.NAME_ENCODING_VARIABLE, "").strip()
    if name and not values.is_text_codec(name):
        rule = f"{base.NAME_ENCODING_VARIABLE} must name a codec of Python that extends ASCII"
        raise FieldError(rule, name, f"Set it to {name_encodings.EXAMPLE}, say.")
    return name


def note_on_names(uri: str) -> str:
    """Returns a sentence on how the names of an archive were read; empty if it says so itself, or they are ASCII.

    Args:
        uri: of the archive, as for `read_members`, which this process has read.
    """
    decision = _decisions.get(uri)
    if not decision or (decision.name == name_encodings.UTF8 and not decision.second):
        return ""
    if not decision.sample[0]:
        return f"The names in {base.redact_uri(uri)} are read as {decision.name}, as name_encoding says."
    right, other = decision.sample
    second = f", or {decision.second} ({other})" if decision.second else ""
    why = "do not say their encoding" if name_encodings.UTF8 in (decision.name, decision.second) else "are not UTF-8"
    return (
        f"The names in {base.redact_uri(uri)} {why}, and are read as {decision.name} ({right}){second}. "
        f"If that is wrong, set {ENCODING_SETTING}."
    )


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
    bound = unpacked_bound(path.stat().st_size)
    seen: set[str] = set()
    total = 0
    for number, (stored, size, opened) in enumerate(_entries(path, uri, bound), start=1):
        if number > MAX_ENTRIES:
            raise InputError(f"an archive must have at most {MAX_ENTRIES:,} entries", uri, "Split it into several.")
        total += size
        if total > bound:
            raise bomb(uri, bound)
        name = _relative_to_root(stored)
        if opened is None or not name:
            if folders is not None and name and stored.endswith("/"):
                folders.add(name)
            continue
        if name in seen:
            raise DamagedError("an archive must not contain a name twice", f"{name} twice in {uri}", "Pack its folder again.")
        seen.add(name)
        yield name, size, opened


def unpacked_bound(size: int) -> int:
    """Returns how many bytes a compressed file may unpack to.

    Args:
        size: of the file, in bytes.
    """
    return min(MAX_BYTES, max(RATIO_FLOOR, MAX_RATIO * size))


# (name, size, open) of each entry; open is None unless it is a regular file, and the name of a folder ends in `/`.
Entries = Iterator[tuple[str, int, Callable[[], IO[bytes]] | None]]


def _entries(path: Path, uri: str, bound: int) -> Entries:
    return _zip_entries(path, uri) if _is_zip(path) else _tar_entries(path, uri, bound)


def _is_zip(path: Path) -> bool:
    begin = _begin(path)
    return begin.startswith(ZIP_MAGIC) or (begin.startswith(EXECUTABLE_MAGIC) and zipfile.is_zipfile(path))


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(packing.BEGIN_BYTES)


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - packing.END_BYTES))
        return file.read()


@contextlib.contextmanager
def _open_zip(path: Path, uri: str) -> Iterator[zipfile.ZipFile]:
    with _intact(uri):
        zipped = zipfile.ZipFile(path)
    with zipped:
        yield zipped


def _zip_entries(path: Path, uri: str) -> Entries:
    decode = _decoder(path, uri)
    with _open_zip(path, uri) as zipped:
        for info in zipped.infolist():
            if info.flag_bits & ENCRYPTED_FLAG:
                raise InputError("an archive must not be encrypted", f"{info.filename} in {uri}", "Pack it without a password.")
            kind = stat.S_IFMT(info.external_attr >> 16)
            known, raw = _zip_name(info)
            # Some Windows tools separate folders by backslashes; in a code page one may be the second byte of a character.
            name = (known or decode(raw)).replace("\\", "/")
            regular = not name.endswith("/") and kind in (0, stat.S_IFREG)
            if regular and info.compress_type not in ZIP_METHODS:
                method = OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
                rule = "a zip must be compressed by Deflate, bzip2, LZMA or not at all"
                raise InputError(rule, f"{method} for {name} in {uri}", packing.UNPACK)
            yield name, info.file_size, partial(zipped.open, info) if regular else None


def _zip_name(info: zipfile.ZipInfo) -> tuple[str, bytes]:
    """Returns the name of a member if its encoding is known, and its bytes as stored."""
    if info.flag_bits & UTF8_FLAG:
        return info.filename, b""
    raw = info.orig_filename.encode("cp437").partition(b"\0")[0]  # as which Python decodes names without the flag
    return ("", raw) if not raw else (raw.decode() if raw.isascii() else _unicode_path(info.extra, raw), raw)


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """Returns the name in the Unicode Path field, if there is one that was made for the stored name."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) > 5 and struct.unpack_from("<BI", field) == (1, zlib.crc32(raw)):
            with contextlib.suppress(UnicodeDecodeError):
                return field[5:].decode("utf-8").partition("\0")[0]
    return ""


@contextlib.contextmanager
def _open_tar(path: Path, uri: str, bound: int) -> Iterator[tuple[tarfile.TarFile, "_Bounded"]]:
    begin = _begin(path)
    opener = _decompressor(begin) or open
    with opener(path, "rb") as unpacked:
        stream = _Bounded(unpacked, uri, bound)
        try:
            archive = tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        except READ_ERRORS:
            raise _not_an_archive(uri, begin, path) from None
        with archive:
            yield archive, stream


def _decompressor(begin: bytes) -> Callable[..., Any] | None:
    return next((opener for magic, opener in DECOMPRESSORS.items() if begin.startswith(magic)), None)


def _not_an_archive(uri: str, begin: bytes, path: Path) -> FieldError:
    what, remedy = ("a part of an archive", _join_remedy(uri)) if _is_part(uri) else packing.describe(begin)
    if not what and packing.is_last_of_split_zip(_end(path)):
        what, remedy = "the last part of a split zip", packing.JOIN_SPLIT_ZIP
    remedy = remedy or "Give a folder of class folders, or pack it as .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz."
    return FieldError("a data source that is a file must be an archive", f"{uri} ({what})" if what else uri, remedy)


def _tar_entries(path: Path, uri: str, bound: int) -> Entries:
    decode = _decoder(path, uri)
    with _open_tar(path, uri, bound) as (archive, stream):
        while member := _next(uri, archive):
            archive.members = []  # type: ignore[attr-defined]  # else two million of them fill the memory
            raw = _raw_tar_name(member)
            name = decode(raw) if raw else member.name
            name = f"{name}/" if member.isdir() else name
            yield name, member.size, partial(_extracted, archive, member) if member.isfile() else None
        _check_end(uri, stream, archive.offset)


def _raw_tar_name(member: tarfile.TarInfo) -> bytes:
    """Returns the bytes of a name in an unknown encoding; empty if it is ASCII, or from a pax header, which is in UTF-8."""
    if member.name.isascii():
        return b""
    raw = member.name.encode("utf-8", "surrogateescape")
    return b"" if "path" in member.pax_headers and name_encodings.is_valid(raw, "utf-8") else raw


def _decoder(path: Path, uri: str) -> Callable[[bytes], str]:
    """Returns a function that decodes a name as all names of its archive are decoded; they are read at its first call."""
    decision: name_encodings.Decision | None = None

    def decode(raw: bytes) -> str:
        nonlocal decision
        if not decision:
            decision = _decisions[uri] = _decision(path, uri)
        try:
            return raw.decode(decision.codec)
        except UnicodeDecodeError:
            name = raw.decode("ascii", "backslashreplace")
            raise _undecodable(f"{name} in {uri}, which is not {decision.name}") from None

    return decode


def _undecodable(found: str) -> InputError:
    remedy = f"Set {ENCODING_SETTING} to it, such as {name_encodings.EXAMPLE}, or pack the folder again with names in UTF-8."
    return InputError("the names in an archive must be in one known encoding", found, remedy)


def _decision(path: Path, uri: str) -> name_encodings.Decision:
    status = path.stat()
    return _decided(path, uri, name_encoding(), status.st_size, status.st_mtime_ns)


@lru_cache(64)  # for the stage that lists the archive, unpacks it, and describes its names
def _decided(path: Path, uri: str, given: str, size: int, modified: int) -> name_encodings.Decision:
    if given:
        return name_encodings.Decision(given, given)
    try:
        return name_encodings.find_encoding(_raw_names(path, uri, unpacked_bound(size)))
    except name_encodings.UnknownEncoding as names:
        raise _undecodable(f"{names} in {uri}") from None


def _raw_names(path: Path, uri: str, bound: int) -> Iterator[bytes]:
    """Yields the names of an archive in an unknown encoding."""
    if _is_zip(path):
        with _open_zip(path, uri) as zipped:
            for info in zipped.infolist():
                known, raw = _zip_name(info)
                if not known:
                    yield raw
        return
    with _open_tar(path, uri, bound) as (archive, _):
        while member := _next(uri, archive):
            archive.members = []  # type: ignore[attr-defined]  # as in _tar_entries
            if raw := _raw_tar_name(member):
                yield raw


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
            raise bomb(self._uri, self._bound)


def bomb(uri: str, bound: int) -> InputError:
    """Returns the error for a file that unpacks to more than it may.

    Args:
        uri: of the file.
        bound: how many bytes it may unpack to.
    """
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
        remedy = _join_remedy(uri) if _is_part(uri) or "multiple disks" in str(error) else REPACK
        raise DamagedError("an archive must be intact", f"{uri} ({error})", remedy) from None


def _join_remedy(uri: str) -> str:
    return packing.JOIN_SPLIT_ZIP if SPLIT_ZIP_ENDING.search(uri.partition("?")[0]) else JOIN_PARTS


def _is_part(uri: str) -> bool:
    return PART_ENDING.search(uri.partition("?")[0]) is not None
