"""The files of records: how a TFRecord file is laid out, what is known of it once it is written, and whether it is that still.

A file is a sequence of records: length (8 bytes, little endian), its masked CRC-32C, the bytes, their masked CRC-32C. Source:
tensorflow/core/lib/io/record_writer.h. No checksum in it is of the whole file, so that one which ends too soon between two
records looks whole: its size and a checksum of all its bytes are written down beside it.
"""

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from kfp_vision.errors import DamagedError

SUFFIX = ".tfrecord"
FRAME_HEAD, FRAME_FOOT = 12, 4  # bytes before a record, its length and that one's checksum, and behind it
CRC_MASK = 0xA282EAD8
WRITE_BUFFER = 1 << 20  # bytes: a dozen pictures a call
READ_BUFFER = 1 << 22
WHOLE = "records must be whole"
REWRITE = "Copy that file there once more, or write the records anew."


@dataclass(frozen=True)
class Shard:
    """What is known of a file since it was written.

    Attributes:
        bytes: its size.
        crc32c: the CRC-32C of all its bytes, in eight hexadecimal digits.
    """

    bytes: int
    crc32c: str


def framed(record: list[bytes]) -> list[bytes]:
    """The pieces of a record with those that stand around it in a TFRecord file: its length before, its checksum behind it."""
    length = struct.pack("<Q", sum(map(len, record)))
    return [length + masked_crc([length]), *record, masked_crc(record)]


def write(path: Path, records: Iterable[list[bytes]]) -> tuple[Shard, int]:
    """Writes a file of framed records; gives what is known of it then, and how many there are."""
    crc = size = count = 0
    with path.open("wb", buffering=WRITE_BUFFER) as file:
        for record in records:
            file.writelines(record)
            crc, size, count = _extended(crc, record), size + sum(map(len, record)), count + 1
    return Shard(size, _said(crc)), count


def read(path: Path, known: Shard | None, named: str) -> Iterator[bytes]:
    """The framed records of a file, each as it was written.

    Args:
        path: of the file.
        known: since it was written, where anything is; compared when the last record was taken.
        named: what the file is called.

    Raises:
        InputError: the file is cut off or has changed.
    """
    crc = at = 0
    with path.open("rb", buffering=WRITE_BUFFER) as file:
        while head := file.read(FRAME_HEAD):
            if head[8:] != masked_crc([head[:8]]):
                raise damaged(named, at)
            rest = file.read(length_of(head) + FRAME_FOOT)
            if rest[-FRAME_FOOT:] != masked_crc([rest[:-FRAME_FOOT]]) or len(rest) != length_of(head) + FRAME_FOOT:
                raise damaged(named, at)
            yield head + rest
            crc, at = _extended(crc, [head, rest]), at + len(head) + len(rest)
    if known:
        _compare(named, Shard(at, _said(crc)), known)


def check(path: Path, known: Shard, named: str) -> None:
    """Refuses a file whose bytes are not those that were written; takes as long as reading it once.

    Args:
        path: of the file.
        known: since it was written.
        named: what the file is called.

    Raises:
        InputError: naming the file, and both checksums.
    """
    crc = size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(READ_BUFFER):
            crc, size = _extended(crc, [chunk]), size + len(chunk)
    _compare(named, Shard(size, _said(crc)), known)


def starts(path: Path) -> np.ndarray:
    """Where each record of a file begins, int64 (records,).

    Raises:
        InputError: the file is cut off, or damaged where a length stands.
    """
    found, at = array("q"), 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            head = os.pread(file.fileno(), FRAME_HEAD, at)
            if head[8:] != masked_crc([head[:8]]):
                break
            found.append(at)
            at += FRAME_HEAD + length_of(head) + FRAME_FOOT
    if at != size:
        raise damaged(str(path), found[-1] if at > size else at)
    return np.array(found)


def length_of(head: bytes) -> int:
    """How many bytes the record has that a frame's head stands before."""
    return int(struct.unpack_from("<Q", head)[0])


def masked_crc(pieces: list[bytes]) -> bytes:
    """The checksum of some bytes as a TFRecord file holds it, 4 bytes."""
    crc = _extended(0, pieces)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + CRC_MASK) & 0xFFFFFFFF)


def damaged(named: str, at: int) -> DamagedError:
    """What to say of a file that cannot be read on from the record at a byte."""
    return DamagedError("a TFRecord file must be whole", f"{named}, damaged behind byte {at}", REWRITE)


def _compare(named: str, found: Shard, known: Shard) -> None:
    if found != known:
        differs = f"{named} with {found.bytes} bytes and the checksum {found.crc32c}"
        raise DamagedError(WHOLE, f"{differs}, where {known.bytes} bytes and {known.crc32c} were written", REWRITE)


def _extended(crc: int, pieces: Iterable[bytes]) -> int:
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
    return crc


def _said(crc: int) -> str:
    return f"{crc:08x}"
