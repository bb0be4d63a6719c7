"""Tells what a file is that is no archive we read, by its first bytes, and what to do with it."""

import gzip
import io
import lzma
import zlib

BEGIN_BYTES = 1024
UNPACK = "Unpack it, and give the folder, or pack that as .zip or .tar.gz."
DIRECT = "Give the address that downloads the file itself, not the page about it."
JOIN_SPLIT_ZIP = "Join its parts first: zip -s 0 photos.zip --out whole.zip."
END_OF_ZIP, END_BYTES = b"PK\x05\x06", 22 + 0xFFFF  # of its last record, and its greatest size, with the comment
# First bytes, what they begin, and the remedy. Sources: the file formats' specifications, and file(1)'s magic.
KNOWN: tuple[tuple[bytes, str, str], ...] = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a file compressed by Zstandard (.zst)", UNPACK),
    (b"\x04\x22\x4d\x18", "a file compressed by LZ4", UNPACK),
    (b"\x1f\x9d", "a file compressed by compress (.Z)", UNPACK),
    (b"\x1f\xa0", "a file compressed by compress (.Z)", UNPACK),
    (b"LZIP", "a file compressed by lzip", UNPACK),
    (b"\x89LZO\0", "a file compressed by lzop", UNPACK),
    (b"\xff\x06\0\0sNaPpY", "a file compressed by Snappy", UNPACK),
    (b"MSCF", "a Windows cabinet", UNPACK),
    (b"xar!", "a xar archive", UNPACK),
    (b"07070", "a cpio archive", UNPACK),
    (b"\xc7\x71", "a cpio archive", UNPACK),
    (b"!<arch>", "an ar archive", UNPACK),
    (b"hsqs", "a SquashFS image", UNPACK),
    (b"PK\x07\x08", "the first part of a split zip", JOIN_SPLIT_ZIP),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Export its images into one folder per class."),
    (b"PAR1", "a Parquet file", "Export its images into one folder per class."),
    (b"ARROW1", "an Arrow file", "Export its images into one folder per class."),
    (b"SQLite format 3\0", "a SQLite database", "Export its images into one folder per class."),
    (b"MATLAB 5.0", "a MATLAB file", "Export its images into one folder per class."),
    (b"\x93NUMPY", "a NumPy array", "Export its images into one folder per class."),
    (b"\xff\xd8\xff", "a single image", "Give the folder of the class folders."),
    (b"\x89PNG\r\n\x1a\n", "a single image", "Give the folder of the class folders."),
    (b"GIF8", "a single image", "Give the folder of the class folders."),
    (b"%PDF-", "a PDF", "Give the images in it, in one folder per class."),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Run git lfs pull first."),
)
COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x5d\0\0", "lzma"))


ARCHIVE_SUFFIXES = (
    *(".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma"),
    *(".z", ".cab", ".iso"),
)
# Files that come with packed data and say something about it.
BESIDE_SUFFIXES = (
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".pdf", ".log"),
    *(".parquet", ".idx", ".index", ".md5", ".sha1", ".sha256", ".mat", ".py", ".sh"),
)
BESIDE_NAMES = ("license", "licence", "readme", "copying", "md5sums", "sha256sums", "thumbs.db", "desktop.ini")


def has_archive_suffix(name: str) -> bool:
    """Checks whether a name ends like that of a packed file, of any kind.

    Args:
        name: of the file.
    """
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_beside_data(name: str) -> bool:
    """Checks whether a file is one that only accompanies data: a licence, a list, or a hidden file.

    Args:
        name: path of the file.
    """
    file = name.rpartition("/")[2].lower()
    return file.startswith((".", "_")) or "__macosx/" in name.lower() or file in BESIDE_NAMES or file.endswith(BESIDE_SUFFIXES)


def describe(begin: bytes) -> tuple[str, str]:
    """Tells what a file is, and what to do with it.

    Args:
        begin: its first bytes, `BEGIN_BYTES` of them if there are as many.

    Returns:
        What it is, such as "a RAR archive", and the remedy; empty strings if it is none of the known kinds.
    """
    if not begin:
        return "an empty file", "Download or copy it again."
    if begin.lstrip(b"\xef\xbb\xbf\t\r\n ").lower().startswith((b"<!doctype html", b"<html")):
        return "a web page", DIRECT
    for magic, what, remedy in KNOWN:
        if begin.startswith(magic):
            return what, remedy
    for magic, name in COMPRESSED:
        if begin.startswith(magic):
            inner, remedy = describe_inner(begin)
            within = f" that holds {inner}" if inner else " that holds no tar"
            return f"a file compressed by {name}{within}", remedy or UNPACK
    return "", ""


def is_last_of_split_zip(end: bytes) -> bool:
    """Checks that a file is the last part of a split zip, `photos.zip` beside `photos.z01`, which begins anyhow.

    Args:
        end: its last bytes, `END_BYTES` of them if there are as many.
    """
    _, found, record = end.rpartition(END_OF_ZIP)
    return bool(found) and len(record) >= 18 and record[:2] not in (b"\0\0", b"\xff\xff")  # the number of this part, from 0


def describe_inner(begin: bytes) -> tuple[str, str]:
    """Tells what a compressed file holds, as `describe` does, if enough of it can be unpacked from its first bytes."""
    unpacked = b""
    try:
        if begin.startswith(b"\x1f\x8b"):
            unpacked = gzip.GzipFile(fileobj=io.BytesIO(begin)).read1(BEGIN_BYTES)
        elif begin.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
            unpacked = lzma.LZMADecompressor().decompress(begin, BEGIN_BYTES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return "", ""
    if unpacked.startswith(b"PK\x03\x04"):
        return "a zip", "Unpack it once, and give the zip."
    return describe(unpacked) if unpacked else ("", "")
