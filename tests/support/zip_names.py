"""Writes zips whose names are any bytes, as archivers in other countries write them; Python's only write ASCII and UTF-8."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

UNICODE_PATH = 0x7075  # APPNOTE.TXT, section 4.6.9


def unicode_path(stored: bytes, name: str, checksum_of: bytes | None = None) -> bytes:
    """Returns the extra field with the name in UTF-8.

    Args:
        stored: the name as the zip stores it.
        name: to write into the field.
        checksum_of: another name to compute the checksum of.
    """
    text = name.encode()
    return struct.pack("<HHBI", UNICODE_PATH, 5 + len(text), 1, zlib.crc32(checksum_of or stored)) + text


def write_zip(
    path: Path, files: Mapping[bytes, bytes], extras: Mapping[bytes, bytes] | None = None, flags: int = 0, method: int = 0
) -> Path:
    """Writes a zip of uncompressed members.

    Args:
        path: of the zip.
        files: content by name, in order.
        extras: extra field by name.
        flags: of every member.
        method: of compression, as it is written into the headers; the content is stored.
    """
    body = directory = b""
    for name, content in files.items():
        extra = (extras or {}).get(name, b"")
        sizes = (zlib.crc32(content), len(content), len(content), len(name), len(extra))
        at = len(body)
        body += struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, flags, method, 0, 0x21, *sizes) + name + extra + content
        made = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, flags, method, 0, 0x21, *sizes, 0, 0, 0, 0, at)
        directory += made + name + extra
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(files), len(files), len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path
