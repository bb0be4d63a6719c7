"""Reads, writes and verifies TFRecord files.

A file is a sequence of records: length (8 bytes, little endian), its masked CRC-32C, the bytes, their masked CRC-32C. Source:
tensorflow/core/lib/io/record_writer.h. No checksum covers the whole file, so a file truncated between two records looks
intact; `Shard` therefore keeps its size and a checksum of all its bytes.
"""

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import DamagedError

TFRECORD_SUFFIX = ".tfrecord"
FRAME_HEAD, FRAME_FOOT = 12, 4  # bytes before a record (length and its checksum) and after it (checksum)
CRC_MASK = 0xA282EAD8
WRITE_BUFFER = 1 << 20  # bytes; about a dozen images per system call
READ_BUFFER = 1 << 22
INTACT_RULE = "records must be intact"
REWRITE_REMEDY = "Copy that file again, or write the records again."


@dataclass(frozen=True)
class Shard:
    """The size and checksum of a file when it was written.

    Attributes:
        bytes: its size.
        crc32c: the CRC-32C of all its bytes, in eight hexadecimal digits.
    """

    bytes: int
    crc32c: str


def frame_record(record: list[bytes]) -> list[bytes]:
    """Frames a record for a TFRecord file: adds its length before it and its checksum after it.

    Args:
        record: the record, in pieces.
    """
    length = struct.pack("<Q", sum(map(len, record)))
    return [length + masked_crc([length]), *record, masked_crc(record)]


def write_shard(path: Path, records: Iterable[list[bytes]]) -> tuple[Shard, int]:
    """Writes a TFRecord file.

    Args:
        path: of the file.
        records: each framed, in pieces; see `frame_record`.

    Returns:
        The size and checksum of the file, and the number of records.
    """
    crc = size = count = 0
    with path.open("wb", buffering=WRITE_BUFFER) as file:
        for record in records:
            file.writelines(record)
            crc, size, count = _extend(crc, record), size + sum(map(len, record)), count + 1
    return Shard(size, _hex(crc)), count


def read_shard(path: Path, known: Shard | None, named: str) -> Iterator[bytes]:
    """Yields the framed records of a file, as they were written.

    Args:
        path: of the file.
        known: the size and checksum when it was written, verified after the last record; None to skip that.
        named: the file's name in messages.

    Raises:
        DamagedError: the file is truncated or has changed.
    """
    crc = at = 0
    with path.open("rb", buffering=WRITE_BUFFER) as file:
        while head := file.read(FRAME_HEAD):
            if head[8:] != masked_crc([head[:8]]):
                raise damaged_at(named, at)
            rest = file.read(record_length(head) + FRAME_FOOT)
            if rest[-FRAME_FOOT:] != masked_crc([rest[:-FRAME_FOOT]]) or len(rest) != record_length(head) + FRAME_FOOT:
                raise damaged_at(named, at)
            yield head + rest
            crc, at = _extend(crc, [head, rest]), at + len(head) + len(rest)
    if known:
        _compare(named, Shard(at, _hex(crc)), known)


def verify_shard(path: Path, known: Shard, named: str) -> None:
    """Verifies that a file has the bytes that were written; reads all of it.

    Args:
        path: of the file.
        known: the size and checksum when it was written.
        named: the file's name in messages.

    Raises:
        DamagedError: it differs; names the file and both checksums.
    """
    crc = size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(READ_BUFFER):
            crc, size = _extend(crc, [chunk]), size + len(chunk)
    _compare(named, Shard(size, _hex(crc)), known)


def record_bounds(path: Path) -> npt.NDArray[np.int64]:
    """Returns the offset of each record in a file, and the file's size: int64 (records + 1,).

    Reads the file in long pieces, since a request costs more than its bytes where the file is remote; but of a record longer
    than a piece, only the first piece.

    Args:
        path: of the file; only the record lengths are verified.

    Raises:
        DamagedError: the file is truncated, or a length is damaged.
    """
    found, at = array("q"), 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        piece, begin = b"", 0
        while at < size:
            if at + FRAME_HEAD > begin + len(piece):
                piece, begin = os.pread(file.fileno(), WRITE_BUFFER, at), at
            head = piece[at - begin : at - begin + FRAME_HEAD]
            if head[8:] != masked_crc([head[:8]]):
                break
            found.append(at)
            at += FRAME_HEAD + record_length(head) + FRAME_FOOT
    if at != size:
        raise damaged_at(str(path), found[-1] if at > size else at)
    found.append(size)
    return np.array(found)


def record_length(head: bytes) -> int:
    """Returns the length in bytes of the record that follows a frame's `FRAME_HEAD` bytes."""
    return int(struct.unpack_from("<Q", head)[0])


def masked_crc(pieces: list[bytes]) -> bytes:
    """Returns the masked CRC-32C of some bytes, as TFRecord files store it: 4 bytes, little endian."""
    crc = _extend(0, pieces)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + CRC_MASK) & 0xFFFFFFFF)


def damaged_at(named: str, at: int) -> DamagedError:
    """Returns the error for a file that is damaged from a record on.

    Args:
        named: the file's name.
        at: the offset of that record in bytes.
    """
    return DamagedError("a TFRecord file must be intact", f"{named}, damaged after byte {at}", REWRITE_REMEDY)


def _compare(named: str, found: Shard, known: Shard) -> None:
    if found != known:
        differs = f"{named} with {found.bytes} bytes and the checksum {found.crc32c}"
        raise DamagedError(INTACT_RULE, f"{differs}, where {known.bytes} bytes and {known.crc32c} were written", REWRITE_REMEDY)


def _extend(crc: int, pieces: Iterable[bytes]) -> int:
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
    return crc


def _hex(crc: int) -> str:
    return f"{crc:08x}"
