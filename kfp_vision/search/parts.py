"""Parts of an index, computed by one machine or by several in parallel, and joined.

Each part has consecutive images, so that the joined parts equal, byte for byte, what one machine would have written.
"""

import csv
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.table import ImageRow, allow_long_cells, show_labels, write_unused
from kfp_vision.prediction import batch
from kfp_vision.search.ann import Vectors
from kfp_vision.search.embedding import EmbeddedImage, Embedder
from kfp_vision.storage import atomic, reading

VECTORS_FILE, IMAGES_FILE, THUMBNAILS_FILE, OFFSETS_FILE = "vectors", "pictures.csv", "thumbnails", "thumbnails.npy"
PART_FILE, REJECTIONS_FILE = "part.json", "refused.csv"
INDEX_COLUMNS = ("path", "label", "content_id", "split")
PROGRESS_EVERY = 10_000  # images between two lines of progress
REUSED_PER_COMPUTED = 500  # embeddings reused from an earlier index in the time that computing one takes
JOIN_CHUNK_BYTES = 1 << 20  # bytes at a time
TEXT_OPTIONS: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
INTACT_PART_RULE, REINDEX_REMEDY = "a part of an index must be whole", "Index the images again."


@dataclass(frozen=True)
class PartInfo:
    """Metadata of a part.

    Attributes:
        model_fingerprint: Fingerprint of the model that computed the embeddings.
        dimension: Dimension of the embeddings.
        pictures: Number of images.
        computed: Number of images whose embeddings were computed rather than reused.
    """

    model_fingerprint: str
    dimension: int
    pictures: int
    computed: int


class ReusableIndex(Protocol):
    """An earlier index whose embeddings are reused: a `index.Index`.

    Attributes:
        vectors: Embeddings by position.
    """

    vectors: Vectors

    @property
    def by_content(self) -> Mapping[str, int]:
        """Positions by content id."""

    def thumbnail(self, position: int) -> bytes:
        """Returns the thumbnail (JPEG) of the image at a position."""


def write_part_files(rows: Sequence[ImageRow], embedder: Embedder, old: ReusableIndex | None, folder: Path) -> PartInfo:
    """Writes a part: embeddings, table and thumbnails as in an index, and the list of rejected images.

    Args:
        rows: Images of the part.
        embedder: The model.
        old: ReusableIndex index whose embeddings are reused.
        folder: Folder to create.

    Returns:
        Metadata of the part.
    """
    with atomic.replacing(folder) as beside:
        beside.mkdir()
        written = _write(beside, rows, embedder, old)
        part = PartInfo(embedder.fingerprint, embedder.dimension, written.images, written.computed)
        write_unused(beside / REJECTIONS_FILE, written.rejected)
        atomic.write_json(beside / PART_FILE, asdict(part))
    return part


def part_rows(rows: Sequence[ImageRow], known: Collection[str], partition: int, partitions: int) -> Sequence[ImageRow]:
    """Returns the rows of one part: consecutive, and about as much work as those of any other part.

    Args:
        rows: All images.
        known: Content ids of images whose embeddings are reused.
        partition: Number of the part, from 0.
        partitions: Number of parts.

    Returns:
        The rows of the part; empty if there are more parts than images.
    """
    work = np.cumsum([0, *(1 if row.content_id in known else REUSED_PER_COMPUTED for row in rows)])
    ends = [int(work[-1]) * number // partitions for number in (partition, partition + 1)]
    begin, end = np.searchsorted(work, ends, "right") - 1
    return rows[begin:end]


def read_part_info(folder: Path, model_fingerprint: str) -> PartInfo:
    """Reads and checks the metadata of a part.

    Args:
        folder: Folder of the part.
        model_fingerprint: Fingerprint of the model that the part must have been computed with.

    Returns:
        The metadata.

    Raises:
        InputError: The part is damaged, or was computed with another model.
    """
    try:
        part = PartInfo(**json_text.parse((folder / PART_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as reason:
        raise InputError(INTACT_PART_RULE, f"{folder} ({reason})", REINDEX_REMEDY) from None
    if part.model_fingerprint != model_fingerprint:
        rule = "all parts of an index must be computed with its model"
        raise InputError(rule, f"{part.model_fingerprint} in {folder}", REINDEX_REMEDY)
    _check_sizes(folder, part)
    return part


def concatenate_parts(parts: Sequence[Path], folder: Path) -> None:
    """Concatenates the files of parts into a folder.

    Args:
        parts: Folders of the parts, in order; at least one has images.
        folder: Existing folder to write to.

    Raises:
        InputError: The table of a part does not match its thumbnails.
    """
    filled = [part for part in parts if (part / VECTORS_FILE).stat().st_size]
    for name in (VECTORS_FILE, THUMBNAILS_FILE):
        _concatenate([part / name for part in filled], folder / name)
    lengths = [np.diff(np.load(part / OFFSETS_FILE)) for part in filled]
    np.save(folder / OFFSETS_FILE, np.cumsum(np.concatenate([[0], *lengths]), dtype="int64"))
    allow_long_cells()  # an image may have thousands of labels
    with (folder / IMAGES_FILE).open("w", **TEXT_OPTIONS) as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(INDEX_COLUMNS)
        for part, thumbnails in zip(filled, lengths, strict=True):
            with (part / IMAGES_FILE).open(**TEXT_OPTIONS) as file:
                rows = csv.reader(file)
                next(rows, None)
                written = sum(1 for row in rows if writer.writerow(row))
            if written != len(thumbnails):
                raise InputError(INTACT_PART_RULE, f"{written} rows for {len(thumbnails)} images in {part}", REINDEX_REMEDY)


def _concatenate(files: Sequence[Path], target: Path) -> None:
    if len(files) == 1:  # need not be copied
        atomic.hard_link(files[0], target)
        return
    with target.open("wb") as whole:
        for one in files:
            with one.open("rb") as file:
                shutil.copyfileobj(file, whole, JOIN_CHUNK_BYTES)


def _check_sizes(folder: Path, part: PartInfo) -> None:
    try:
        offsets = np.load(folder / OFFSETS_FILE, "r")
        found = (len(offsets) - 1, *((folder / name).stat().st_size for name in (VECTORS_FILE, THUMBNAILS_FILE)))
    except (OSError, ValueError, EOFError) as reason:
        raise InputError(INTACT_PART_RULE, f"{folder} ({reason})", REINDEX_REMEDY) from None
    expected = (part.pictures, 2 * part.pictures * part.dimension, int(offsets[-1]))
    if found != expected:
        counted = "thumbnails, bytes of vectors and bytes of thumbnails"
        raise InputError(INTACT_PART_RULE, f"{folder} ({found} instead of {expected} {counted})", REINDEX_REMEDY)


class _Written(NamedTuple):
    images: int
    computed: int
    rejected: list[tuple[str, str, str]]


def _write(folder: Path, rows: Sequence[ImageRow], embedder: Embedder, old: ReusableIndex | None) -> _Written:
    offsets, computed = [0], 0
    rejected: list[tuple[str, str, str]] = []
    with (
        (folder / VECTORS_FILE).open("wb") as vectors,
        (folder / THUMBNAILS_FILE).open("wb") as thumbnails,
        (folder / IMAGES_FILE).open("w", **TEXT_OPTIONS) as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(INDEX_COLUMNS)
        for row, is_new, embedded in _embed(rows, embedder, old):
            if isinstance(embedded, Rejected):
                rejected.append((row.uri, show_labels(row.label), str(embedded)))
                continue
            vector, thumbnail = embedded
            vectors.write(np.asarray(vector, "float16").tobytes())
            thumbnails.write(thumbnail)
            writer.writerow((row.uri, row.label, row.content_id, row.split))
            offsets.append(offsets[-1] + len(thumbnail))
            computed += is_new
            if (len(offsets) - 1) % PROGRESS_EVERY == 0:
                print(f"{len(offsets) - 1} of {len(rows)} images", flush=True)
    np.save(folder / OFFSETS_FILE, np.array(offsets, "int64"))
    return _Written(len(offsets) - 1, computed, rejected)


def _embed(
    rows: Sequence[ImageRow], embedder: Embedder, old: ReusableIndex | None
) -> Iterator[tuple[ImageRow, bool, EmbeddedImage]]:
    """Yields each row in order, whether its embedding was computed, and the embedding with a thumbnail, or the rejection."""
    known = old.by_content if old else {}
    with reading.Reader() as reader:

        def read_new() -> Iterator[bytes | Rejected]:
            for row in reader.ahead(row for row in rows if row.content_id not in known):
                yield batch.bytes_or_rejection(reading.bytes_or_error(partial(reader.read, row.uri)))

        new = embedder.embed(read_new(), pad_batches=True)
        for row in rows:
            if old and row.content_id in known:
                position = known[row.content_id]
                yield row, False, (old.vectors[position], old.thumbnail(position))
            else:
                yield row, True, next(new)
