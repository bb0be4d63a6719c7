"""Parts of an index: what is computed of pictures, by one machine or by several at a time, and put together.

Each takes consecutive pictures, so that one part behind the other is what one machine would have written, byte for byte.
"""

import csv
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfp_vision import catalog, storage
from kfp_vision.catalog import Row
from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.search.embedding import Embedder

if TYPE_CHECKING:
    from kfp_vision.search import Index

VECTORS, PICTURES, THUMBNAILS, PLACES = "vectors", "pictures.csv", "thumbnails", "thumbnails.npy"
ABOUT_FILE, REFUSED = "part.json", "refused.csv"
COLUMNS = ("path", "label", "content_id", "split")
SAID_EVERY = 10_000  # pictures
TAKEN_WHILE_COMPUTED = 500  # pictures that an index before has, in the time in which one is computed
COPIED = 1 << 20  # bytes at a time
TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
WHOLE, REMEDY = "a part of an index must be whole", "Index the pictures again."


@dataclass(frozen=True)
class Part:
    """What a part is.

    Attributes:
        model_fingerprint: of the model whose embeddings it holds.
        dimension: of the vectors.
        pictures: how many it holds.
        computed: how many of them an index before had not.
    """

    model_fingerprint: str
    dimension: int
    pictures: int
    computed: int


def write(rows: Sequence[Row], embedder: Embedder, old: "Index | None", folder: Path) -> Part:
    """Writes a part: vectors, pictures and thumbnails as an index has them, and the list of refused pictures.

    Args:
        rows: of its pictures.
        embedder: the model.
        old: an index of which the pictures that it has already are taken rather than computed again.
        folder: to be made.
    """
    with storage.replacing(folder) as beside:
        beside.mkdir()
        pictures, computed, refused = _write(beside, rows, embedder, old)
        part = Part(embedder.fingerprint, embedder.dimension, pictures, computed)
        catalog.write_unused(beside / REFUSED, refused)
        storage.write_json(beside / ABOUT_FILE, asdict(part))
    return part


def share(rows: Sequence[Row], known: Collection[str], partition: int, partitions: int) -> Sequence[Row]:
    """The rows of one of several parts: consecutive, and as much work as those of any other.

    Args:
        rows: of all pictures.
        known: content ids of those that are not computed.
        partition: its number, from 0.
        partitions: how many there are.
    """
    work = np.cumsum([0, *(1 if row.content_id in known else TAKEN_WHILE_COMPUTED for row in rows)])
    ends = [int(work[-1]) * number // partitions for number in (partition, partition + 1)]
    begin, end = np.searchsorted(work, ends, "right") - 1
    return rows[begin:end]


def read(folder: Path, model_fingerprint: str) -> Part:
    """What a part says of itself.

    Raises:
        InputError: it is torn, or of another model.
    """
    try:
        part = Part(**json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as reason:
        raise InputError(WHOLE, f"{folder} ({reason})", REMEDY) from None
    if part.model_fingerprint != model_fingerprint:
        raise InputError("all parts of an index must be of its model", f"{part.model_fingerprint} in {folder}", REMEDY)
    _check_sizes(folder, part)
    return part


def concatenated(parts: Sequence[Path], folder: Path) -> None:
    """Writes the files of parts, of which one at least has pictures, into a folder, one part behind the other.

    Raises:
        InputError: a part lists other pictures than it holds.
    """
    filled = [part for part in parts if (part / VECTORS).stat().st_size]
    for name in (VECTORS, THUMBNAILS):
        _append([part / name for part in filled], folder / name)
    lengths = [np.diff(np.load(part / PLACES)) for part in filled]
    np.save(folder / PLACES, np.cumsum(np.concatenate([[0], *lengths]), dtype="int64"))
    with (folder / PICTURES).open("w", **TEXT) as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        for part, listed in zip(filled, lengths, strict=True):
            with (part / PICTURES).open(**TEXT) as file:
                rows = csv.reader(file)
                next(rows, None)
                written = sum(1 for row in rows if writer.writerow(row))
            if written != len(listed):
                raise InputError(WHOLE, f"{written} rows for {len(listed)} pictures in {part}", REMEDY)


def _append(files: Sequence[Path], place: Path) -> None:
    """One file behind the other; of one the very file."""
    if len(files) == 1:
        storage.link(files[0], place)
        return
    with place.open("wb") as whole:
        for one in files:
            with one.open("rb") as file:
                shutil.copyfileobj(file, whole, COPIED)


def _check_sizes(folder: Path, part: Part) -> None:
    try:
        places = np.load(folder / PLACES, "r")
        found = (len(places) - 1, *((folder / name).stat().st_size for name in (VECTORS, THUMBNAILS)))
    except (OSError, ValueError, EOFError) as reason:
        raise InputError(WHOLE, f"{folder} ({reason})", REMEDY) from None
    expected = (part.pictures, 2 * part.pictures * part.dimension, int(places[-1]))
    if found != expected:
        counted = "thumbnails, bytes of vectors and bytes of thumbnails"
        raise InputError(WHOLE, f"{folder} ({found} instead of {expected} {counted})", REMEDY)


def _write(
    folder: Path, rows: Sequence[Row], embedder: Embedder, old: "Index | None"
) -> tuple[int, int, list[tuple[str, str, str]]]:
    """Vectors, pictures and thumbnails; gives how many there are, how many were computed, and which were refused, and why."""
    begins, computed = [0], 0
    refused: list[tuple[str, str, str]] = []
    with (
        (folder / VECTORS).open("wb") as vectors,
        (folder / THUMBNAILS).open("wb") as thumbnails,
        (folder / PICTURES).open("w", **TEXT) as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, is_new, found in _embedded(rows, embedder, old):
            if isinstance(found, Refused):
                refused.append((row.uri, row.label, str(found)))
                continue
            vector, thumbnail = found
            vectors.write(np.asarray(vector, "float16").tobytes())
            thumbnails.write(thumbnail)
            writer.writerow((row.uri, row.label, row.content_id, row.split))
            begins.append(begins[-1] + len(thumbnail))
            computed += is_new
            if (len(begins) - 1) % SAID_EVERY == 0:
                print(f"{len(begins) - 1} of {len(rows)} pictures", flush=True)
    np.save(folder / PLACES, np.array(begins, "int64"))
    return len(begins) - 1, computed, refused


def _embedded(
    rows: Sequence[Row], embedder: Embedder, old: "Index | None"
) -> Iterator[tuple[Row, bool, tuple[np.ndarray, bytes] | Refused]]:
    """Each row in order, whether its vector was computed, and its vector with a thumbnail, or why there is none."""
    known = old.by_content if old else {}
    with storage.Reader() as reader:

        def encoded() -> Iterator[bytes | Refused]:
            for row in reader.ahead(row for row in rows if row.content_id not in known):
                found = storage.outcome(lambda row=row: reader.read(row.uri))  # type: ignore[misc]
                yield Refused(found.strerror or str(found)) if isinstance(found, OSError) else found

        new = embedder.embedded(encoded(), filled=True)
        for row in rows:
            if old and row.content_id in known:
                place = known[row.content_id]
                yield row, False, (old.vectors[place], old.thumbnail(place))
            else:
                yield row, True, next(new)
