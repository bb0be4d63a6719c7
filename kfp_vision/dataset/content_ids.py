"""Content ids of images, from the store where it gives them, else from their bytes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from kfp_vision.core import threads
from kfp_vision.dataset.table import ImageRow, md5_hex
from kfp_vision.storage import base, reading, uris

VERIFIED_ETAGS = 16  # objects to read to verify that a store's ETags are MD5s

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def complete_content_ids(rows: list[ImageRow]) -> list[ImageRow]:
    """Adds missing content ids, and replaces those from a store unless a sample of them are the MD5s of the objects.

    Args:
        rows: of images, with the content ids that a listing gives, or without.

    Returns:
        The same rows, all with a content id.
    """
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
    """Maps a function that waits for a disk or a network, in threads.

    Args:
        function: called in threads.
        items: consumed slightly ahead of the results.

    Returns:
        The results in the items' order.
    """
    return threads.ordered_map(function, items, workers=base.CONCURRENT_READS, limit=4 * base.CONCURRENT_READS)
