"""Tells which files of a data set are images: by their ending if it is a usual one, else by their first bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby, islice
from operator import attrgetter

from kfp_vision.core import threads
from kfp_vision.dataset import images
from kfp_vision.dataset.table import Catalog, first_names, is_unwritable
from kfp_vision.storage import archives, base, reading

# Images without reading them; the conversion rejects those that are not. All others are told by their first bytes.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
FORMATS = "JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF or HEIC"  # that are read, for messages
NOT_AN_IMAGE, EMPTY, UNREADABLE = "not an image", "an empty file", "cannot be read"
HIDDEN, THUMBNAIL, DELETED, UNWRITABLE = "hidden", "thumbnail", "deleted", "control character in the name"
# Not images, without reading them, and why. Camera raw is a TIFF by its first bytes.
OTHER_SUFFIXES = {
    NOT_AN_IMAGE: (
        *(".txt", ".md", ".rst", ".pdf", ".doc", ".docx", ".rtf", ".html", ".htm", ".css", ".js", ".py", ".sh", ".m", ".ipynb"),
        *(".csv", ".tsv", ".xls", ".xlsx", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".log", ".lst", ".db", ".ini"),
    ),
    "a video; its frames are not taken": (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp"),
    "camera raw; convert it to JPEG": (
        *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng"),
        *(".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr", ".iiq"),
    ),
    "a format that is not read; convert it to PNG": (".psd", ".svg", ".eps", ".jp2", ".j2k", ".jxl", ".exr", ".hdr", ".dcm"),
    "an archive; unpack it, or give it as images_uri": (*archives.SUFFIXES, ".gz", ".bz2", ".xz", ".7z", ".rar"),
}
REASON_BY_SUFFIX = {f".{suffix.rpartition('.')[2]}": reason for reason, names in OTHER_SUFFIXES.items() for suffix in names}
# Reasons for which a file may be one that a person wants to train on, unlike those for hidden and deleted files.
FORMAT_REASONS = (*OTHER_SUFFIXES, EMPTY, UNREADABLE)
FILE_REASONS = (*FORMAT_REASONS, HIDDEN, THUMBNAIL, DELETED, UNWRITABLE)  # that do not depend on the folders around the file
NOTABLE_SHARE = 0.01  # of the files, skipped for what they are, above which the page has a note
# Folders that file managers and network drives add: thumbnails, and deleted files.
THUMBNAIL_FOLDERS = ("@eadir", "thumbs", "thumbnails")
TRASH_FOLDERS = ("#recycle", "@recycle", "$recycle.bin")
HEAD_BYTES = max(1024, images.MAGIC_BYTES)  # read of a file that its name does not tell; a gzip header may be 300 bytes
MAX_MEMBER_BYTES = 64 << 20  # of an archive member that is read once, to tell it and to use it
CHUNK_FILES = 4096  # that are told at a time, so that their first bytes are read concurrently
FOLDER_CACHE_SIZE = 1 << 16  # cached folders; a million images are in far fewer


def with_skip_reasons(items: Iterable[reading.Item]) -> Iterator[tuple[reading.Item, str]]:
    """Tells which files are images.

    A file without a usual ending is read: its first `HEAD_BYTES` in a folder or a bucket, concurrently; a member of an archive
    up to 64 MiB is read entirely, and kept until the next item is taken.

    Args:
        items: of one `reading.walk`.

    Yields:
        Each item, in order, and why it is skipped; empty if it is an image.
    """
    for random_access, run in groupby(items, attrgetter("random_access")):
        if random_access:
            while chunk := list(islice(run, CHUNK_FILES)):
                yield from zip(chunk, _reasons(chunk), strict=True)
        else:
            yield from map(_tell_member, run)


def skip_reason(name: str) -> str | None:
    """Returns why the file at a path is skipped, as far as its name tells.

    Args:
        name: path below the root of the data.

    Returns:
        The reason; empty if the file counts as an image; None if its first bytes must tell.
    """
    folder, _, file = name.rpartition("/")
    if reason := folder_skip_reason(folder):
        return reason
    if file.startswith("."):
        return HIDDEN
    _, dot, ending = file.rpartition(".")
    suffix = f".{ending.lower()}" if dot else ""
    if suffix not in IMAGE_SUFFIXES and (other := REASON_BY_SUFFIX.get(suffix)):
        return other
    if is_unwritable(name):
        return UNWRITABLE
    return "" if suffix in IMAGE_SUFFIXES else None


@lru_cache(FOLDER_CACHE_SIZE)
def folder_skip_reason(folder: str) -> str:
    """Returns why the files in a folder are skipped, whatever they are; empty if they are not.

    Args:
        folder: path below the root of the data.
    """
    names = {part.lower() for part in folder.split("/")}
    if "__macosx" in names or any(name.startswith(".") for name in names):
        return HIDDEN
    if not names.isdisjoint(THUMBNAIL_FOLDERS):
        return THUMBNAIL
    return "" if names.isdisjoint(TRASH_FOLDERS) else DELETED


def looks_like_image(uri: str) -> bool:
    """Tells by its first bytes whether a file, also in a store or on a web server, is an image.

    Args:
        uri: of the file.

    Raises:
        OSError: there is no such file.
        InputError: the store fails.
    """
    return images.looks_like_image(reading.read_head(uri, HEAD_BYTES))


def format_notes(found: Catalog) -> list[str]:
    """Counts the files that are skipped for what they are, if they are more than a hundredth; for a page that names them.

    Args:
        found: the catalog of the data.

    Returns:
        At most one sentence.
    """
    counts = {reason: count for reason, count in found.skipped.most_common() if reason in FORMAT_REASONS}
    skipped, files = sum(counts.values()), len(found.rows) + found.skipped.total()
    if skipped <= NOTABLE_SHARE * files:
        return []
    listed = ", ".join(f"{reason.partition(';')[0]} {count:,}" for reason, count in counts.items())
    return [f"{skipped:,} of {files:,} files are skipped for what they are: {listed}; see the names below."]


def ending_notes(found: Catalog) -> list[str]:
    """Describes the images that are told by their first bytes.

    Args:
        found: the catalog of the data.

    Returns:
        At most one sentence.
    """
    told = [row.name for row in found.rows if not row.name.lower().endswith(IMAGE_SUFFIXES)]
    if not told:
        return []
    return [f"{len(told):,} files without a usual ending are images by their first bytes: {first_names(told, len(told))}."]


def _reasons(items: list[reading.Item]) -> Iterator[str]:
    """Yields why each file is skipped; reads the first bytes of those that their names do not tell, concurrently."""
    by_name = [skip_reason(item.name) for item in items]
    untold = [item for item, reason in zip(items, by_name, strict=True) if reason is None]
    told = threads.ordered_map(_tell_file, untold, workers=base.CONCURRENT_READS, limit=4 * base.CONCURRENT_READS)
    for reason in by_name:
        yield next(told) if reason is None else reason


def _tell_file(item: reading.Item) -> str:
    if not item.size:
        return EMPTY
    head = reading.bytes_or_error(partial(item.read, HEAD_BYTES))
    return UNREADABLE if isinstance(head, OSError) else _tell(head)


def _tell_member(item: reading.Item) -> tuple[reading.Item, str]:
    """Tells a member of an archive, which is read once: for a second time a compressed tar is unpacked from its beginning."""
    reason = skip_reason(item.name)
    if reason is not None:
        return item, reason
    if not item.size:
        return item, EMPTY
    if item.size > MAX_MEMBER_BYTES:
        return item, _tell(item.read(HEAD_BYTES))
    encoded = item.read()
    return replace(item, read=partial(reading.first_bytes, encoded)), _tell(encoded[:HEAD_BYTES])


def _tell(head: bytes) -> str:
    return "" if images.looks_like_image(head) else NOT_AN_IMAGE
