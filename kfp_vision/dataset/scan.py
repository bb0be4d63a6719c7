"""Finds the images of a data set with their labels, and lists them in a table; the images stay where they are."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import TypeVar

from kfp_vision.core import threads
from kfp_vision.core.advanced import DEFAULT_ADVANCED, Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import exclusions, import_files
from kfp_vision.dataset.table import Catalog, ImageRow, md5_hex
from kfp_vision.storage import base, reading, uris

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
UNSUPPORTED_SUFFIXES = {".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF"}  # written by phones
# Folders that file managers and network drives add: thumbnails, and deleted files.
THUMBNAIL_FOLDERS = ("@eadir", "thumbs", "thumbnails")
TRASH_FOLDERS = ("#recycle", "@recycle", "$recycle.bin")
NOT_IN_CLASS_FOLDER = "not in a class folder"
FOLDER_CACHE_SIZE = 1 << 16  # cached folders; a million images are in far fewer
VERIFIED_ETAGS = 16  # objects to read to verify that a store's ETags are MD5s
# Unicode categories that label maps and lists cannot hold: control characters, line and paragraph separators, surrogates (bytes
# that are not UTF-8). Spaces and joiners of any script are allowed.
UNWRITABLE_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def scan_images(images_uri: str, advanced: Advanced = DEFAULT_ADVANCED, *, classes: bool = True) -> Catalog:
    """Finds the images in a folder, an archive or an import file.

    The label of an image is the name of its folder. If class folders are in train, and in validation or test next to it, these
    folders are the predefined splits; they may be below any common folders.

    Args:
        images_uri: of the data.
        advanced: settings of the data.
        classes: whether to skip images that are in no folder; if False, they get an empty label.

    Returns:
        A catalog sorted by name.

    Raises:
        InputError: there is nothing at the URI, or an import file has an invalid line.
    """
    if import_files.is_import_file(images_uri):
        found = _scan_import_file(images_uri, advanced)
    else:
        found = _scan_folders(images_uri, advanced, classes)
    found.rows.sort(key=lambda row: row.name)
    return found


def fingerprint_images(images_uri: str, leave_out_uri: str = "") -> str:
    """Computes a hash of the data at a URI from listings (names, sizes, versions), without downloading images.

    Args:
        images_uri: of the data; for an import file, the files it names are included.
        leave_out_uri: an exclusion list to include; empty for none. The order of its lines and its other columns do not matter,
            and an empty list equals none.

    Returns:
        A SHA-256 in hex.

    Raises:
        InputError: there is nothing at the URI, or an import file or exclusion list has an invalid line.
    """
    source = _fingerprint_source(images_uri)
    excluded = exclusions.read_exclusions(leave_out_uri) if leave_out_uri else []
    return hashlib.sha256("\n".join([source, *sorted(excluded)]).encode()).hexdigest() if excluded else source


def _fingerprint_source(images_uri: str) -> str:
    listing = reading.fingerprint(images_uri)
    if not import_files.is_import_file(images_uri):
        return listing
    digest = hashlib.sha256(listing.encode())
    files = dict.fromkeys(uris.split_member(entry.uri)[0] for entry in import_files.read_import_file(images_uri))
    for version in map_concurrently(_describe_version, files):
        digest.update(f"{version}\n".encode())
    return digest.hexdigest()


def _describe_version(uri: str) -> str:
    try:
        found = reading.describe(uri)
    except (OSError, ValueError):
        return "not there"  # the ingest stage rejects it, with its line
    return f"{found.size} {found.version}"


def _scan_folders(images_uri: str, advanced: Advanced, classes: bool) -> Catalog:
    found = Catalog([])
    for item in reading.walk(images_uri):
        label = _parent_folder(item.name).name
        reason = skip_reason(item.name) or ("" if label or not classes else NOT_IN_CLASS_FOLDER)
        if reason:
            found.skipped.add(reason, item.name)
            continue
        content_id = item.md5 if item.random_access else md5_hex(item.read())
        found.rows.append(ImageRow(item.uri, label, item.size, content_id, item.name))
    return _assign_splits(replace(found, rows=_complete_content_ids(found.rows)))


def _complete_content_ids(rows: list[ImageRow]) -> list[ImageRow]:
    """Adds missing content ids, and replaces those from a store unless a sample of them are the MD5s of the objects."""
    from_store = [row for row in rows if row.content_id and _is_object(row)]
    sampled = from_store[:: max(1, len(from_store) // VERIFIED_ETAGS)][:VERIFIED_ETAGS]
    if any(row.content_id != actual for row, (actual, _) in zip(sampled, _hash_images(sampled), strict=True)):
        print(
            "the store's ETags are not MD5s of the images (encryption, or Content-Encoding?): reading every image to hash it",
            flush=True,
        )
        rows = [replace(row, content_id="") if _is_object(row) else row for row in rows]
    hashes = _hash_images(row for row in rows if not row.content_id)
    return [row if row.content_id else _with_hash(row, *next(hashes)) for row in rows]


def _with_hash(row: ImageRow, content_id: str, size: int) -> ImageRow:
    """Sets what was found by reading; the size of an object with a Content-Encoding differs from that in the listing."""
    return replace(row, content_id=content_id, bytes=size)


def _is_object(row: ImageRow) -> bool:
    """Returns whether an image is an object of a bucket; members of an archive there are hashed by us."""
    return uris.scheme_of(row.uri) in base.BUCKETS and not uris.split_member(row.uri)[1]


def _hash_images(rows: Iterable[ImageRow]) -> Iterator[tuple[str, int]]:
    """Yields the MD5 and the size of each image."""

    def read(row: ImageRow) -> tuple[str, int]:
        encoded = reader.read(row.uri)
        return md5_hex(encoded), len(encoded)

    with reading.Reader() as reader:
        yield from map_concurrently(read, rows)


def map_concurrently(function: Callable[[Argument], Result], items: Iterable[Argument]) -> Iterator[Result]:
    """Maps a function that waits for a disk or a network, in threads."""
    return threads.ordered_map(function, items, workers=base.CONCURRENT_READS, limit=4 * base.CONCURRENT_READS)


def _assign_splits(found: Catalog) -> Catalog:
    """Sets the predefined splits by folder, and skips images that are in a split folder but in no class folder."""
    folders = [_parent_folder(row.name) for row in found.rows]
    split_of, split_roots = splits_by_folder(folders, class_folders=True)
    assigned = replace(found, rows=[])
    for row, folder, split in zip(found.rows, folders, split_of, strict=True):
        if folder.parent in split_roots and folder.name.lower() in import_files.SPLIT_NAMES:
            assigned.skipped.add(NOT_IN_CLASS_FOLDER, row.name)
        else:
            assigned.rows.append(replace(row, split=split) if split else row)
    return assigned


def splits_by_folder(folders: list[PurePosixPath], *, class_folders: bool) -> tuple[list[str], set[PurePosixPath]]:
    """Finds predefined splits: folders named train, and validation or test next to it.

    Args:
        folders: folder of each image, below the root of the data.
        class_folders: whether the folder of an image is its class, and thus not a split.

    Returns:
        The split of each image, empty if it has none; and the parents of the split folders.
    """
    places = [_split_folder(folder, class_folders) for folder in folders]
    splits_at: dict[PurePosixPath, set[str]] = {}
    for parent, split in filter(None, places):
        splits_at.setdefault(parent, set()).add(split)
    split_roots = {parent for parent, splits in splits_at.items() if "train" in splits and len(splits) > 1}
    return [place[1] if place and place[0] in split_roots else "" for place in places], split_roots


def _parent_folder(name: str) -> PurePosixPath:
    return _cached_path(name.rpartition("/")[0])


@lru_cache(FOLDER_CACHE_SIZE)
def _cached_path(folder: str) -> PurePosixPath:
    return PurePosixPath(folder)


@lru_cache(FOLDER_CACHE_SIZE)
def _split_folder(folder: PurePosixPath, class_folder: bool) -> tuple[PurePosixPath, str] | None:
    """Returns the parent and the split of the topmost folder (above the class folder) that is named after a split."""
    folders = [folder, *folder.parents][:-1]
    for candidate in reversed(folders[1:] if class_folder else folders):
        if split := import_files.SPLIT_NAMES.get(candidate.name.lower()):
            return candidate.parent, split
    return None


def _scan_import_file(images_uri: str, advanced: Advanced) -> Catalog:
    entries = import_files.read_import_file(images_uri)
    for entry in entries:
        if is_unwritable(entry.name + entry.label):
            raise import_files.invalid_line_error(images_uri, entry.line, "a control character")
    with reading.Reader() as reader:
        rows = list(map_concurrently(partial(_read_entry, images_uri, reader), entries))
    return Catalog(_complete_content_ids(rows))


def _read_entry(images_uri: str, reader: reading.Reader, entry: import_files.ImportEntry) -> ImageRow:
    try:
        if uris.scheme_of(entry.uri) in base.BUCKETS and not uris.split_member(entry.uri)[1]:
            found = reading.describe(entry.uri)
            return ImageRow(entry.uri, entry.label, found.size, found.md5, entry.name, entry.split)
        encoded = reader.read(entry.uri)
    except (OSError, ValueError) as error:
        remedy = "Correct or remove the line; relative URIs are resolved against the location of the file."
        rule = "every image of an import file must be readable"
        raise InputError(rule, f"{error} in {base.redact_uri(images_uri)}, line {entry.line}", remedy) from None
    return ImageRow(entry.uri, entry.label, len(encoded), md5_hex(encoded), entry.name, entry.split)


def skip_reason(name: str) -> str:
    """Returns why the file at a path is skipped; empty if it is an image.

    Args:
        name: path below the root of the data.
    """
    folder, _, file = name.rpartition("/")
    if reason := _folder_skip_reason(folder):
        return reason
    suffix = f".{file.rpartition('.')[2].lower()}"
    if file.startswith("."):
        return "hidden"
    if unsupported := UNSUPPORTED_SUFFIXES.get(suffix):
        return f"{unsupported} is not supported; convert it to JPEG"
    if suffix not in IMAGE_SUFFIXES:
        return "not an image"
    return "control character in the name" if is_unwritable(name) else ""


@lru_cache(FOLDER_CACHE_SIZE)
def _folder_skip_reason(folder: str) -> str:
    names = {part.lower() for part in folder.split("/")}
    if "__macosx" in names or any(name.startswith(".") for name in names):
        return "hidden"
    if not names.isdisjoint(THUMBNAIL_FOLDERS):
        return "thumbnail"
    return "" if names.isdisjoint(TRASH_FOLDERS) else "deleted"


def is_unwritable(text: str) -> bool:
    """Returns whether a name contains characters that lists and label maps cannot hold.

    Args:
        text: the name.
    """
    return not text.isprintable() and any(unicodedata.category(character) in UNWRITABLE_CATEGORIES for character in text)
