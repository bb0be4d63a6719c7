"""Pictures that are asked about: the nearest of each in an index here or behind a server, as a table and as a page."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from kfp_vision import prediction, reports, storage
from kfp_vision.errors import InputError, without_secrets
from kfp_vision.pictures import Refused
from kfp_vision.prediction import SEARCH, Service
from kfp_vision.search import Hit, Index, unknown_label

COLUMNS = ("query", "rank", "path", "label", "similarity")
QUERIES_SHOWN = 100  # on the page


class Near(NamedTuple):
    """The pictures nearest to one, the nearest first, and a thumbnail of that one; empty where a server has found them."""

    hits: list[Hit]
    thumbnail: bytes


class Searcher(Protocol):
    """What finds the nearest pictures: an index in this process, or a server."""

    def nearest(self, pictures: Sequence[bytes]) -> list[Near | Refused]:
        """What is near to each encoded picture, or why that cannot be said."""


class Local:
    """An index in this process, with its model.

    Args:
        index: which is searched.
        count: how many pictures are wanted of each.
        label: of the pictures that alone count; empty for all.

    Raises:
        InputError: no picture has the label, or the model does not load.
    """

    def __init__(self, index: Index, count: int, label: str = ""):
        if label:
            index.having(label)
        self._index, self._count, self._label, self._embedder = index, count, label, index.embedder()

    def nearest(self, pictures: Sequence[bytes]) -> list[Near | Refused]:
        """See `Searcher.nearest`."""
        embedded = list(self._embedder.embedded(pictures))
        vectors = [one[0] for one in embedded if not isinstance(one, Refused)]
        hits = iter(self._index.search(np.stack(vectors), self._count, self._label) if vectors else [])
        return [one if isinstance(one, Refused) else Near(next(hits), one[1]) for one in embedded]


class Remote:
    """A server with whose model an index lies.

    Args:
        url: see `prediction.Service`.
        count: how many pictures are wanted of each.
        label: of the pictures that alone count; empty for all.

    Raises:
        InputError: nobody answers there, no index lies with the model, or no picture has the label.
    """

    def __init__(self, url: str, count: int, label: str = ""):
        self._service, self._asked = Service(url), {"top_k": count} | ({"label": label} if label else {})
        status, about = self._service.about("index")
        if status != 200:
            found = f"HTTP {status} at {self._service.model}/index ({prediction.reason_in(about)})"
            raise InputError("a server must have an index to search in", found, "Start it with --index, or see its log.")
        if label and label not in about["labels"]:
            raise unknown_label(label, about["labels"])

    def nearest(self, pictures: Sequence[bytes]) -> list[Near | Refused]:
        """See `Searcher.nearest`."""
        return self._service.asked(SEARCH, pictures, _near, **self._asked)


def _near(answer: dict[str, Any]) -> Near:
    return Near([Hit(hit["id"], hit["path"], hit["label"], hit["similarity"]) for hit in answer["hits"]], b"")


def search_images(index: Path, queries_uri: str, *, count: int, label: str, table: Path, page: Path) -> dict[str, int]:
    """Finds the nearest pictures of every picture at a URI.

    Args:
        index: its folder.
        queries_uri: of a picture, or whatever `storage.walk` reads.
        count: how many are wanted of each.
        label: of the pictures that alone count; empty for all.
        table: where they are written (CSV): query, rank from 1, path, label, similarity; the last four empty where the picture
            cannot be read.
        page: where they are shown (HTML), those of the first hundred.

    Returns:
        queries and unreadable, how many.

    Raises:
        InputError: no picture lies there, no picture in the index has the label, or the index is torn.
    """
    opened = Index(index)
    searcher = Local(opened, count, label)
    asked, unreadable = 0, 0
    shown: list[tuple[str, str, list[tuple[Hit, str]]]] = []
    with storage.replacing(table) as beside:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for uri, _, near in prediction.each(searcher.nearest, prediction.pictures_at(queries_uri)):
                asked += 1
                if isinstance(near, Refused):
                    unreadable += 1
                    print(without_secrets(f"unreadable: {uri} ({near})"))
                    writer.writerow((uri, "", "", "", ""))
                    continue
                for rank, hit in enumerate(near.hits, start=1):
                    writer.writerow((uri, rank, hit.path, hit.label, f"{hit.similarity:.6f}"))
                if len(shown) < QUERIES_SHOWN:
                    small = [reports.as_uri(opened.thumbnail(opened.by_content[hit.content_id])) for hit in near.hits]
                    shown.append((uri, reports.as_uri(near.thumbnail), list(zip(near.hits, small, strict=True))))
        if not asked:
            raise InputError("there must be pictures to search for", f"none at {queries_uri}", "Give a picture or a folder.")
    reports.write_search_page(page, queries=shown, total=asked, images=opened.about.pictures)
    print(f"{asked} pictures searched for among {opened.about.pictures}, {unreadable} unreadable")
    return {"queries": asked, "unreadable": unreadable}
