"""Pictures that are asked about: the nearest of each in an index, as a table and as a page."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from kfp_vision import prediction, reports, storage
from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.search import Hit, Index

COLUMNS = ("query", "rank", "path", "label", "similarity")
QUERIES_SHOWN = 100  # on the page
BATCH = 32


def found(index: Index, uri: str, count: int, label: str = "") -> Iterator[tuple[str, bytes, list[Hit] | Refused]]:
    """(URI, thumbnail, the nearest pictures or why there are none) of each picture at a URI.

    Args:
        index: which is searched.
        uri: of a picture, or whatever `storage.walk` reads.
        count: how many are wanted of each.
        label: of the pictures that alone count; empty for all.

    Raises:
        InputError: nothing lies there, or no picture has the label.
    """
    embedder = index.embedder()
    pictures = prediction.pictures_at(uri)
    while group := list(islice(pictures, BATCH)):
        encoded = [prediction.arrived(one) for _, _, one in group]
        answers = list(embedder.embedded(encoded))
        vectors = [one[0] for one in answers if not isinstance(one, Refused)]
        hits = iter(index.search(np.stack(vectors), count, label) if vectors else [])
        for (place, _, _), answer in zip(group, answers, strict=True):
            yield (place, b"", answer) if isinstance(answer, Refused) else (place, answer[1], next(hits))


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
    asked, unreadable = 0, 0
    shown: list[tuple[str, str, list[tuple[Hit, str]]]] = []
    with storage.replacing(table) as beside:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for uri, small, hits in found(opened, queries_uri, count, label):
                asked += 1
                if isinstance(hits, Refused):
                    unreadable += 1
                    print(f"unreadable: {uri} ({hits})")
                    writer.writerow((uri, "", "", "", ""))
                    continue
                for rank, hit in enumerate(hits, start=1):
                    writer.writerow((uri, rank, hit.path, hit.label, f"{hit.similarity:.6f}"))
                if len(shown) < QUERIES_SHOWN:
                    shown.append(
                        (uri, reports.as_uri(small), [(hit, reports.as_uri(opened.thumbnail(hit.place))) for hit in hits])
                    )
        if not asked:
            raise InputError("there must be pictures to search for", f"none at {queries_uri}", "Give a picture or a folder.")
    reports.write_search_page(page, queries=shown, asked=asked, pictures=opened.about.pictures)
    print(f"{asked} pictures searched for among {opened.about.pictures}, {unreadable} unreadable")
    return {"queries": asked, "unreadable": unreadable}
