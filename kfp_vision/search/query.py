"""Searches an index, in this process or behind a server, for the nearest neighbours of images."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from kfp_vision.core.errors import InputError, redact
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.table import SkippedFiles
from kfp_vision.prediction import batch, client
from kfp_vision.prediction.client import SEARCH, ServingClient
from kfp_vision.reports import pages
from kfp_vision.reports.formatting import plural
from kfp_vision.reports.thumbnails import data_uri
from kfp_vision.search.index import Hit, Index, unknown_label_error
from kfp_vision.storage import atomic, unwritable, uris

RESULT_COLUMNS = ("query", "rank", "path", "label", "similarity")
MAX_QUERIES_SHOWN = 100  # on the page


class Neighbours(NamedTuple):
    """The nearest neighbours of an image.

    Attributes:
        hits: The neighbours, the nearest first.
        thumbnail: Thumbnail (JPEG) of the image itself; empty if a server has searched.
    """

    hits: list[Hit]
    thumbnail: bytes


class Searcher(Protocol):
    """Finds nearest neighbours, in this process (`LocalSearcher`) or with a server (`RemoteSearcher`)."""

    def nearest(self, images: Sequence[bytes]) -> list[Neighbours | Rejected]:
        """Finds the nearest neighbours of images.

        Args:
            images: Encoded images.

        Returns:
            For each image its neighbours, or why it was rejected.
        """


class LocalSearcher:
    """Searches an index in this process, with its model.

    Args:
        index: The index.
        count: Number of images to find for each query.
        label: Searches only images with this label; empty for all.

    Raises:
        InputError: No image has the label, or the model does not load.
    """

    def __init__(self, index: Index, count: int, label: str = ""):
        if label:
            index.positions_with_label(label)
        self._index, self._count, self._label, self._embedder = index, count, label, index.embedder()

    def nearest(self, images: Sequence[bytes]) -> list[Neighbours | Rejected]:
        """Finds the nearest neighbours of images; see `Searcher.nearest`."""
        embedded = list(self._embedder.embed(images))
        vectors = [one[0] for one in embedded if not isinstance(one, Rejected)]
        hits = iter(self._index.search(np.stack(vectors), self._count, self._label) if vectors else [])
        return [one if isinstance(one, Rejected) else Neighbours(next(hits), one[1]) for one in embedded]


class RemoteSearcher:
    """Searches the index of a server.

    Args:
        url: URL of the server or of its model, see `client.ServingClient`.
        count: Number of images to find for each query.
        label: Searches only images with this label; empty for all.

    Raises:
        InputError: The server does not answer or has no index, or no image has the label.
    """

    def __init__(self, url: str, count: int, label: str = ""):
        self._service, self._parameters = ServingClient(url), {"top_k": count} | ({"label": label} if label else {})
        status, about = self._service.get("index")
        if status != 200:
            found = f"HTTP {status} at {self._service.model}/index ({client.error_reason(about)})"
            raise InputError("a server must have an index to search in", found, "Start it with --index, or see its log.")
        if label and label not in about["labels"]:
            raise unknown_label_error(label, about["labels"])

    def nearest(self, images: Sequence[bytes]) -> list[Neighbours | Rejected]:
        """Finds the nearest neighbours of images; see `Searcher.nearest`."""
        return self._service.request(SEARCH, images, _parse, **self._parameters)


def _parse(answer: dict[str, Any]) -> Neighbours:
    hits = (Hit(hit["id"], hit["path"], hit["label"], hit["similarity"], hit.get("labels")) for hit in answer["hits"])
    return Neighbours(list(hits), b"")


@unwritable.in_one_line("table", "page")
def search_images(index: Path, queries_uri: str, *, count: int, label: str, table: Path, page: Path) -> dict[str, int]:
    """Finds the nearest neighbours of every image at a URI.

    Args:
        index: Folder of the index.
        queries_uri: An image, or anything that `reading.walk` reads.
        count: Number of images to find for each query.
        label: Searches only images with this label; empty for all.
        table: CSV file to write, with the columns query, rank (from 1), path, label, similarity; the last four are empty for
            a query that cannot be read.
        page: HTML page to write, with the first hundred queries.

    Returns:
        Numbers of images: queries (all), and unreadable ones.

    Raises:
        InputError: There are no images at the URI, no image in the index has the label, or the index is damaged.
    """
    queries_uri = uris.from_field(queries_uri)
    opened = Index(index)
    searcher = LocalSearcher(opened, count, label)
    queries, unreadable, skipped = 0, 0, SkippedFiles()
    shown: list[tuple[str, str, list[tuple[Hit, str]]]] = []
    with atomic.replacing(table) as beside:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(RESULT_COLUMNS)
            for uri, _, near in batch.apply_in_batches(searcher.nearest, batch.read_images(queries_uri, skipped=skipped)):
                queries += 1
                if isinstance(near, Rejected):
                    unreadable += 1
                    print(redact(f"unreadable: {uri} ({near})"))
                    writer.writerow((uri, "", "", "", ""))
                    continue
                for rank, hit in enumerate(near.hits, start=1):
                    writer.writerow((uri, rank, hit.path, hit.label, f"{hit.similarity:.6f}"))
                if len(shown) < MAX_QUERIES_SHOWN:
                    thumbnails = [data_uri(opened.thumbnail(opened.by_content[hit.content_id])) for hit in near.hits]
                    shown.append((uri, data_uri(near.thumbnail), list(zip(near.hits, thumbnails, strict=True))))
        if not queries:
            files = f" ({'; '.join(skipped.lines())})" if skipped else ""
            raise InputError(
                "there must be images to search for", f"none at {queries_uri}{files}", "Give an image or a folder."
            )
    for line in batch.describe_reading(queries_uri, skipped):
        print(line)
    pages.write_search_page(page, queries=shown, total=queries, images=opened.about.pictures)
    print(f"{plural(queries, 'query', 'queries')} among {opened.about.pictures} images, {unreadable} unreadable")
    return {"queries": queries, "unreadable": unreadable}
