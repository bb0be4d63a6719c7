"""Reads columns of texts from a Parquet file as KServe's logger writes it.

The logger writes with parquet-go, as it is by default: columns without nulls, pages without compression, texts as
DELTA_LENGTH_BYTE_ARRAY (`encodingOf` in its node.go) in pages of version 2. That is little of the format, and a library that
reads all of it is large: PyArrow has 170 MB and DuckDB 66 MB, where the container image of the stages has 85 MB left;
fastparquet has 18 MB and does not read that encoding. PLAIN and pages of version 1 are read as well; all else is rejected.

Source: the format's specification (https://github.com/apache/parquet-format: parquet.thrift, Encodings.md), and Thrift's
compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
"""

import itertools
import struct
from collections.abc import Collection, Iterator
from typing import Any

MAGIC = b"PAR1"
UNCOMPRESSED, BYTE_ARRAY, REQUIRED = 0, 6, 0  # CompressionCodec, Type, FieldRepetitionType
DATA_PAGE, DATA_PAGE_V2 = 0, 3  # PageType
PLAIN, DELTA_LENGTH_BYTE_ARRAY = 0, 6  # Encoding
MAX_DEPTH = 16  # of structures in each other; those of the format have four

Fields = dict[int, Any]  # of a structure of Thrift, by their numbers


def read_columns(content: bytes, names: Collection[str]) -> dict[str, list[bytes]]:
    """Reads columns of texts.

    Args:
        content: Of the file.
        names: Of the columns.

    Returns:
        The values of each column, in the order of the rows.

    Raises:
        ValueError: It is no such file, or damaged, or it lacks a column.

    Example:
        read_columns(Path("log.parquet").read_bytes(), ["id", "bytes"])["id"]
    """
    size = int.from_bytes(content[-8:-4], "little")
    if not content.startswith(MAGIC) or not content.endswith(MAGIC) or size > len(content) - 12:
        raise ValueError("not a Parquet file, or cut off")
    try:
        footer = _Thrift(content[-8 - size : -8]).structure()
        rows = footer[3]
        optional = {one[4].decode() for one in footer[2][1:] if one.get(3) != REQUIRED}
        columns: dict[str, list[bytes]] = {name: [] for name in names}
        left = dict.fromkeys(names, len(content))  # bytes that a column may still have, since none is there twice
        for column in (chunk[3] for group in footer[4] for chunk in group[1]):
            name = b".".join(column[3]).decode()
            if name in columns:
                if name in optional or column[1] != BYTE_ARRAY or column[4] != UNCOMPRESSED:
                    raise ValueError(f"the column {name} is compressed, has nulls or is no text")
                columns[name] += (found := list(_values(content, column[9], column[5])))
                left[name] -= sum(map(len, found))
                if left[name] < 0 or len(columns[name]) > rows:
                    raise ValueError(f"the column {name} has more than the file")
    except (IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"the file is damaged ({type(error).__name__})") from None
    if lacking := [name for name, values in columns.items() if len(values) != rows]:
        raise ValueError(f"the file lacks values of {', '.join(lacking)}")
    return columns


def _values(content: bytes, start: int, count: int) -> Iterator[bytes]:
    """Yields the values of a column, page by page."""
    while count > 0:
        reader = _Thrift(content, start)
        page = reader.structure()
        start = reader.at + page[3]
        data = content[reader.at : start]
        if len(data) != page[3]:
            raise ValueError("a page is cut off")
        if page[1] == DATA_PAGE:
            number, encoding = page[5][1], page[5][2]
        elif page[1] == DATA_PAGE_V2:
            number, encoding, levels = page[8][1], page[8][4], page[8].get(5, 0) + page[8].get(6, 0)
            data = data[levels:]
        else:
            raise ValueError(f"a page is of type {page[1]}, which is not read")
        if not 0 < number <= min(count, len(content)):  # no value of the logger is without a byte of its own
            raise ValueError(f"a page has {number} values")
        yield from _decode(data, number, encoding)
        count -= number


def _decode(data: bytes, number: int, encoding: int) -> Iterator[bytes]:
    if encoding == PLAIN:
        at = 0
        for _ in range(number):
            (length,) = struct.unpack_from("<I", data, at)
            yield _cut(data, at + 4, length)
            at += 4 + length
    elif encoding == DELTA_LENGTH_BYTE_ARRAY:
        lengths, at = _delta_integers(data, number)
        for length in lengths:
            yield _cut(data, at, length)
            at += length
    else:
        raise ValueError(f"a page has encoding {encoding}, which is not read")


def _cut(data: bytes, at: int, length: int) -> bytes:
    if length < 0 or at + length > len(data):
        raise ValueError("a value is cut off")
    return data[at : at + length]


def _delta_integers(data: bytes, number: int) -> tuple[list[int], int]:
    """Decodes DELTA_BINARY_PACKED: integers as differences, packed in blocks; returns them, and where they end."""
    reader = _Thrift(data)
    block, miniblocks, total, first = reader.varint(), reader.varint(), reader.varint(), reader.zigzag()
    per_miniblock = block // miniblocks if miniblocks else 0
    if total != number or not per_miniblock or per_miniblock % 8:
        raise ValueError("the lengths of a page are damaged")
    differences: list[int] = []
    while len(differences) < number - 1:
        least = reader.zigzag()
        widths = reader.take(miniblocks)
        for width in widths:
            if len(differences) >= number - 1:
                break  # the rest of a last block is not written
            packed = int.from_bytes(reader.take(width * per_miniblock // 8), "little")
            mask = (1 << width) - 1
            wanted = min(per_miniblock, number - 1 - len(differences))
            differences += [least + ((packed >> (width * place)) & mask) for place in range(wanted)]
    return list(itertools.accumulate(differences, initial=first)), reader.at


class _Thrift:
    """Reads Thrift's compact protocol.

    Args:
        content: What to read.
        at: Where to begin.
    """

    def __init__(self, content: bytes, at: int = 0):
        self._content, self.at = content, at

    def take(self, size: int) -> bytes:
        """Returns the next bytes."""
        found = _cut(self._content, self.at, size)
        self.at += size
        return found

    def varint(self) -> int:
        """Returns the next number without a sign: seven bits a byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):  # ten bytes hold 64 bits
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number is too long")

    def zigzag(self) -> int:
        """Returns the next number with a sign, which is in the lowest bit."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def structure(self, depth: int = 0) -> Fields:
        """Returns the next structure."""
        fields: Fields = {}
        number = 0
        while kind := (head := self.take(1)[0]) & 0x0F:
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)  # the type of a boolean is its value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        """Returns the next value of a type: byte, integer, double, text, list or set, or structure; the format has no maps."""
        if depth > MAX_DEPTH:
            raise ValueError("structures are too deep in each other")
        if kind in (4, 5, 6):
            return self.zigzag()
        if kind == 8:
            return self.take(self.varint())
        if kind in (9, 10):
            head = self.take(1)[0]
            size = self.varint() if head >> 4 == 15 else head >> 4
            if size > len(self._content):  # an entry has a byte at least
                raise ValueError("a list is too long")
            return [self._value(head & 0x0F, depth + 1) for _ in range(size)]
        if kind == 12:
            return self.structure(depth + 1)
        if kind in (1, 2, 3, 7):  # a boolean in a list is a byte
            return self.take(8 if kind == 7 else 1)
        raise ValueError(f"type {kind} of Thrift is not one of the format")
