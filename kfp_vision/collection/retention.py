"""Bounds a collection: deletes days that are too old, and the oldest batches of one that is too large."""

import contextlib
import re
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import PurePosixPath

from kfp_vision.collection.collected import BATCH_SUFFIX, IMAGES_FOLDER, unpack_batch
from kfp_vision.core.errors import DamagedError
from kfp_vision.storage import reading, writing
from kfp_vision.storage.base import FileInfo
from kfp_vision.storage.uris import Location

# Names as this library writes them: a folder of somebody's photographs by date must lose nothing.
BATCH, IMAGE = r"\d{8}T\d{6}\.\d{6}-[0-9a-f]{8}(?:-\d+)?", r"[0-9a-f]{32}\.[a-z]+"
COLLECTED = re.compile(rf"[^/]+/(\d{{4}}-\d\d-\d\d)/(?:{BATCH}{re.escape(BATCH_SUFFIX)}|{IMAGES_FOLDER}/{IMAGE})")
REDUCED_SHARE = 0.9  # of the limit; below it, so that not every batch has the collection listed again


def delete_old(uri: str, days: int, max_bytes: float, today: date) -> int:
    """Deletes what is too old or too much of a collection; files that are not of one are never touched.

    Args:
        uri: of the collection.
        days: how many days are kept, today included.
        max_bytes: that all files together may have; if they have more, the oldest batches go, with their images.
        today: in UTC.

    Returns:
        Bytes that remain.

    Raises:
        InputError, OSError: the store does not answer or denies access, or a file cannot be deleted.
    """
    files = [found for found in reading.list_files(uri) if COLLECTED.fullmatch(found.name)]
    first = (today - timedelta(days=days - 1)).isoformat()
    kept = _delete(uri, files, [found for found in files if _day(found) < first])
    total = sum(found.size for found in kept)
    if total <= max_bytes:
        return total
    batches = sorted(
        (found for found in kept if found.name.endswith(BATCH_SUFFIX)), key=lambda found: found.name.split("/")[-1]
    )
    for batch in batches:
        kept = _delete(uri, kept, [batch, *_images_of(batch, kept)])
        total = sum(found.size for found in kept)
        if total <= REDUCED_SHARE * max_bytes:
            break
    return total


def _images_of(batch: FileInfo, files: Iterable[FileInfo]) -> list[FileInfo]:
    """Returns the images of a batch; with the last batch of a day before others, those that a killed process left too."""
    day = str(PurePosixPath(batch.name).parent)
    try:
        names = {f"{day}/{answer.image}" for answer in unpack_batch(_read(batch.uri), batch.uri) if answer.image}
    except (DamagedError, OSError):
        names = set()
    of_day = [found for found in files if found.name.startswith(f"{day}/")]
    is_last = sum(found.name.endswith(BATCH_SUFFIX) for found in of_day) == 1
    return [found for found in of_day if found.name in names or (is_last and not found.name.endswith(BATCH_SUFFIX))]


def _delete(uri: str, files: list[FileInfo], chosen: list[FileInfo]) -> list[FileInfo]:
    """Deletes the chosen files, batches before images; returns the others."""
    for found in sorted(chosen, key=lambda found: not found.name.endswith(BATCH_SUFFIX)):
        writing.delete_file(found.uri)
    gone = {found.name for found in chosen}
    if (location := Location.of_file(uri)).is_local:
        for day in {location.path.joinpath(*PurePosixPath(name).parts[:2]) for name in gone}:
            for folder in (day / IMAGES_FOLDER, day, day.parent):
                with contextlib.suppress(OSError):  # it is not empty, or not there
                    folder.rmdir()
    return [found for found in files if found.name not in gone]


def _day(found: FileInfo) -> str:
    match = COLLECTED.fullmatch(found.name)
    return match[1] if match else ""


def _read(uri: str) -> bytes:
    with reading.Reader() as reader:
        return reader.read(uri)
