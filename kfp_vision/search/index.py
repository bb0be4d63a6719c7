"""An index of images: their embeddings, searched for the nearest neighbours of an image.

    index.json          metadata: model, number of images, kind of search, and the generation in use
    3/vectors           embeddings, float16, one row per image, of length 1
    3/pictures.csv      path, label, content id, and split (if the data comes with splits) per image, in the same order; several
                        labels of an image are separated by tabs
    3/thumbnails        small JPEGs, concatenated; 3/thumbnails.npy holds their offsets
    3/regions           faiss's index, for large collections only
    model/              the model that computed the embeddings

An update writes a new generation, a folder with the next number, and then replaces `index.json`.
"""

import csv
import logging
import os
import shutil
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.core.values import sort_labels
from kfp_vision.dataset.table import LABEL_SEPARATOR, allow_long_cells, show_labels
from kfp_vision.repository.version import SERVING_FOLDER, versions
from kfp_vision.search import ann, parts
from kfp_vision.search.embedding import Embedder
from kfp_vision.search.parts import IMAGES_FILE, INDEX_COLUMNS, OFFSETS_FILE, REINDEX_REMEDY, THUMBNAILS_FILE, VECTORS_FILE

# faiss logs its missing builds for other processors as if modules were missing.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)

INDEX_FILE, MODEL_FOLDER, REGIONS_FILE = "index.json", "model", "regions"
INDEX_FILES = (
    VECTORS_FILE,
    IMAGES_FILE,
    THUMBNAILS_FILE,
    OFFSETS_FILE,
    REGIONS_FILE,
)  # the last one only for an approximate search
MAX_REJECTIONS_LOGGED = 10  # rejected images that are logged
QUERIES_PER_BLOCK = 256  # queries per block


@dataclass(frozen=True)
class IndexInfo:
    """Metadata of an index.

    Attributes:
        model_name: Name of the model that computed the embeddings.
        model_fingerprint: Fingerprint of that model.
        dimension: Dimension of the embeddings.
        pictures: Number of images.
        generation: Number of the folder with the files in use.
        recall: Recall at 10, measured against an exact search; 1 if the search is exact.
        probes: Number of regions that a search looks into; 0 if the search is exact.
    """

    model_name: str
    model_fingerprint: str
    dimension: int
    pictures: int
    generation: int
    recall: float
    probes: int


class IndexEntry(NamedTuple):
    """An image in an index.

    Attributes:
        path: URI of the image.
        label: Label of the image; empty if it has none. Where images have several, as `table.join_labels` gives them.
        content_id: MD5 of its bytes, in hex.
        split: train, validation or test if the data comes with splits; else empty.
    """

    path: str
    label: str
    content_id: str
    split: str

    @property
    def labels(self) -> list[str]:
        """Labels of the image."""
        return self.label.split(LABEL_SEPARATOR) if self.label else []


@dataclass(frozen=True)
class Hit:
    """An image found by a search.

    Attributes:
        content_id: MD5 of its bytes, in hex; identifies the image across generations of the index.
        path: URI of the image.
        label: Label of the image; empty if it has none. Where images have several, all of them with `|` between.
        similarity: Cosine similarity to the query, at most 1.
        labels: Labels of the image where images have several, else None.
    """

    content_id: str
    path: str
    label: str
    similarity: float
    labels: Sequence[str] | None = None


class Index:
    """An opened index.

    Args:
        folder: Folder of the index.

    Attributes:
        folder: Folder of the index.
        about: Metadata of the index.
        vectors: Embeddings by position, float16 or float32 (images, dimension), of length 1.
        images: Images by position.

    Raises:
        InputError: There is no index in the folder, or it is damaged.

    Example:
        index = Index(Path("index"))
        vector = index.embedder().embed_one(Path("daisy.jpg").read_bytes())
        for hit in index.search(vector[None], 10)[0]:
            print(f"{hit.similarity:.3f} {hit.label} {hit.path}")
    """

    def __init__(self, folder: Path):
        self.folder, self.about = folder, read_index_info(folder)
        within = folder / str(self.about.generation)
        shape = (self.about.pictures, self.about.dimension)
        allow_long_cells()  # an image may have thousands of labels
        try:
            self.vectors: ann.Vectors = np.memmap(within / VECTORS_FILE, "float16", "r", shape=shape)
            with (within / IMAGES_FILE).open(**parts.TEXT_OPTIONS) as file:
                self.images = [IndexEntry(*(row[column] for column in INDEX_COLUMNS)) for row in csv.DictReader(file)]
            self._thumbnails = _ByteRanges(within / THUMBNAILS_FILE)
            self._offsets = np.load(within / OFFSETS_FILE)
            self._regions = ann.read_regions(within / REGIONS_FILE) if self.about.probes else None
        except Exception as reason:  # NumPy and faiss raise many types for damaged files
            raise InputError(
                "an index must be whole", f"{folder} ({' '.join(str(reason).split())[:200]})", REINDEX_REMEDY
            ) from None
        if len(self.images) != self.about.pictures or len(self._offsets) != self.about.pictures + 1:
            raise InputError("an index must be whole", f"{len(self.images)} rows for {self.about.pictures}", REINDEX_REMEDY)
        if self._thumbnails.size != self._offsets[-1]:
            found = f"{self._thumbnails.size} bytes of thumbnails for {self._offsets[-1]} in {folder}"
            raise InputError("an index must be whole", found, REINDEX_REMEDY)

    def thumbnail(self, position: int) -> bytes:
        """Returns the thumbnail (JPEG) of the image at a position."""
        return self._thumbnails(int(self._offsets[position]), int(self._offsets[position + 1]))

    def preload(self) -> None:
        """Loads what searches need into memory, so that many of them are fast and unaffected by changes to the files.

        For an exact search, the vectors are converted to float32 once; the conversion takes longer than a search.
        """
        _ = self.by_content, self.by_label, self.several
        if self._regions is None:
            self.vectors = np.asarray(self.vectors, "float32")
        else:
            self.vectors = _FileRows(self.folder / str(self.about.generation) / VECTORS_FILE, self.about)

    def search(self, vectors: npt.NDArray[np.float32], count: int, label: str = "") -> list[list[Hit]]:
        """Finds the images nearest to each vector.

        Args:
            vectors: Queries, float32 (queries, dimension), of length 1.
            count: Number of images to find for each query.
            label: Searches only images with this label; empty for all.

        Returns:
            For each query its hits, the nearest first.

        Raises:
            InputError: The vectors have another dimension, or no image has the label.
        """
        if vectors.shape[1:] != (self.about.dimension,):
            rule = f"vectors must have the {self.about.dimension} dimensions of the index"
            raise InputError(rule, vectors.shape[-1], "Search with the model that the index was built with.")
        similarities, positions = self._nearest(vectors, count, self.positions_with_label(label) if label else None)
        return [
            [self._hit(position, similarity) for position, similarity in zip(*row, strict=True) if position >= 0]
            for row in zip(positions.tolist(), similarities.tolist(), strict=True)
        ]

    def neighbours(self, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Finds the nearest neighbours of every image in the index, without the image itself.

        Args:
            count: Number of neighbours to find for each image.

        Returns:
            Similarities, float32 (images, count), the largest first, and positions, int64 (images, count). Missing neighbours,
            if the index has fewer, are -inf and -1.
        """
        shape = (self.about.pictures, count)
        similarities, positions = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
        for start in range(0, self.about.pictures, QUERIES_PER_BLOCK):
            queries = np.arange(start, min(start + QUERIES_PER_BLOCK, self.about.pictures))
            similar, found = self._nearest(np.asarray(self.vectors[queries], "float32"), count + 1, None)
            itself = found == queries[:, None]
            similar[itself], found[itself] = -np.inf, -1
            # A stable sort moves the image itself to the end, where it is cut off. If it was not found at all, because its
            # copies are just as near, the farthest neighbour is cut off instead.
            order = np.argsort(itself, axis=1, kind="stable")[:, :count]
            columns = slice(order.shape[1])
            similarities[queries, columns] = np.take_along_axis(similar, order, 1)
            positions[queries, columns] = np.take_along_axis(found, order, 1)
        return similarities, positions

    def embedder(self) -> Embedder:
        """Loads the model that the index was built with, from the index's folder or from the versions beside it.

        Returns:
            The loaded model.

        Raises:
            InputError: The model is in neither place, or does not load.
        """
        own = self.folder / MODEL_FOLDER / SERVING_FOLDER
        for version in reversed(versions(own) or versions(self.folder.absolute().parent)):
            if version.fingerprint == self.about.model_fingerprint:
                return Embedder(version)
        rule = f"an index must have its model, {self.about.model_name}, in its folder or beside it"
        raise InputError(rule, f"none in {self.folder}", REINDEX_REMEDY)

    @cached_property
    def by_content(self) -> dict[str, int]:
        """Positions by content id."""
        return {image.content_id: position for position, image in enumerate(self.images)}

    @cached_property
    def several(self) -> bool:
        """Whether an image has several labels."""
        return any(LABEL_SEPARATOR in image.label for image in self.images)

    @cached_property
    def by_label(self) -> dict[str, npt.NDArray[np.int64]]:
        """Positions by label, ascending; labels are in the order of `sort_labels`, the empty one is of images without any."""
        positions: dict[str, list[int]] = {}
        for position, image in enumerate(self.images):
            for label in image.labels or [""]:
                positions.setdefault(label, []).append(position)
        return {label: np.array(positions[label], "int64") for label in sort_labels(positions)}

    def positions_with_label(self, label: str) -> npt.NDArray[np.int64]:
        """Returns the positions of the images with a label, ascending.

        Raises:
            InputError: No image has the label.
        """
        if label not in self.by_label:
            raise unknown_label_error(label, self.by_label)
        return self.by_label[label]

    def _nearest(
        self, vectors: npt.NDArray[np.float32], count: int, chosen: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        if self._regions is None:
            return ann.search_exact(self.vectors, vectors, count, chosen)
        return ann.search_approximate(self._regions, self.vectors, vectors, count, self.about.probes, chosen)

    def _hit(self, position: int, similarity: float) -> Hit:
        image = self.images[position]
        labels = image.labels if self.several else None
        return Hit(image.content_id, image.path, show_labels(image.label), float(similarity), labels)


class _ByteRanges:
    """A file read by byte ranges; a memory map would end the process with SIGBUS if another one truncated the file."""

    def __init__(self, file: Path):
        self._descriptor = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def __call__(self, begin: int, end: int) -> bytes:
        return os.pread(self._descriptor, end - begin, begin)


class _FileRows:
    """Vectors in a file, of which only the requested rows are read."""

    def __init__(self, file: Path, about: IndexInfo):
        self._ranges, self._about = _ByteRanges(file), about

    def __len__(self) -> int:
        return self._about.pictures

    def __getitem__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        size = 2 * self._about.dimension
        rows = b"".join(self._ranges(size * position, size * (position + 1)) for position in positions.tolist())
        return np.frombuffer(rows, np.float16).reshape(-1, self._about.dimension)


def remove_other_generations(folder: Path, generation: int) -> None:
    """Removes all generations of an index but one.

    Args:
        folder: Folder of the index.
        generation: Number of the generation to keep.
    """
    for other in folder.iterdir():
        if other.name.isdecimal() and int(other.name) != generation:
            shutil.rmtree(other)


def index_files(folder: Path) -> list[Path]:
    """Lists the existing files of the current generation of an index, `index.json` first, without its model.

    Args:
        folder: Folder of the index.

    Returns:
        Paths of the files; empty if there is no index.
    """
    about = folder / INDEX_FILE
    try:
        within = folder / str(read_index_info(folder).generation)
    except InputError:
        within = folder / "none"
    return [file for file in (about, *(within / name for name in INDEX_FILES)) if file.exists()]


def unknown_label_error(label: str, known: Iterable[str]) -> InputError:
    """Returns the error for a label that no image of an index has.

    Args:
        label: The label.
        known: Labels in the index.
    """
    return InputError(f"label must be one of {format_value(', '.join(known))}", label, "Leave it out to search all images.")


def read_index_info(folder: Path) -> IndexInfo:
    """Reads the metadata of the index in a folder.

    Args:
        folder: Folder of the index.

    Returns:
        The metadata.

    Raises:
        InputError: There is no index, or its metadata is damaged.
    """
    try:
        return parse_index_info((folder / INDEX_FILE).read_bytes(), folder)
    except OSError:
        raise InputError("there must be an index", f"none in {folder}", "Give the folder of an index.") from None


def parse_index_info(content: bytes, where: object) -> IndexInfo:
    """Parses the metadata of an index.

    Args:
        content: Content of `index.json`.
        where: Path or URI of the index, for error messages.

    Returns:
        The metadata.

    Raises:
        InputError: The content is not valid.
    """
    try:
        return IndexInfo(**json_text.parse(content))
    except (ValueError, TypeError) as reason:
        raise InputError(f"{INDEX_FILE} must hold the metadata of an index", f"{where} ({reason})", REINDEX_REMEDY) from None
