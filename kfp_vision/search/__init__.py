"""An index of images: their embeddings, searched for the nearest neighbours of an image.

    index.json          metadata: model, number of images, kind of search, and the generation in use
    3/vectors           embeddings, float16, one row per image, of length 1
    3/pictures.csv      path, label, content id, and split (if the data comes with splits) per image, in the same order
    3/thumbnails        small JPEGs, concatenated; 3/thumbnails.npy holds their offsets
    3/regions           faiss's index, for large collections only
    model/              the model that computed the embeddings

An update writes a new generation, a folder with the next number, and then replaces `index.json`.
"""

import csv
import json
import logging
import os
import shutil
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import InputError, format_value
from kfp_vision.dataset import scan, table
from kfp_vision.dataset.table import ImageRow
from kfp_vision.repository.version import SERVING_FOLDER, exported_version, versions
from kfp_vision.search import nearest, parts
from kfp_vision.search.embedding import Embedder
from kfp_vision.search.parts import COLUMNS, PICTURES, PLACES, REMEDY, THUMBNAILS, VECTORS, Part
from kfp_vision.storage import atomic

# faiss logs its missing builds for other processors as if modules were missing.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)

ABOUT_FILE, MODEL_FOLDER, REGIONS = "index.json", "model", "regions"
FILES = (VECTORS, PICTURES, THUMBNAILS, PLACES, REGIONS)  # the last one only for an approximate search
REFUSED_NAMED = 10  # rejected images that are logged
AT_A_TIME = 256  # queries per block


@dataclass(frozen=True)
class About:
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


class Indexed(NamedTuple):
    """An image in an index.

    Attributes:
        path: URI of the image.
        label: Label of the image; empty if it has none.
        content_id: MD5 of its bytes, in hex.
        split: train, validation or test if the data comes with splits; else empty.
    """

    path: str
    label: str
    content_id: str
    split: str


@dataclass(frozen=True)
class Hit:
    """An image found by a search.

    Attributes:
        content_id: MD5 of its bytes, in hex; identifies the image across generations of the index.
        path: URI of the image.
        label: Label of the image; empty if it has none.
        similarity: Cosine similarity to the query, at most 1.
    """

    content_id: str
    path: str
    label: str
    similarity: float


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
        self.folder, self.about = folder, about_in(folder)
        within = folder / str(self.about.generation)
        shape = (self.about.pictures, self.about.dimension)
        try:
            self.vectors: nearest.Vectors = np.memmap(within / VECTORS, "float16", "r", shape=shape)
            with (within / PICTURES).open(**parts.TEXT) as file:
                self.images = [Indexed(*(row[column] for column in COLUMNS)) for row in csv.DictReader(file)]
            self._thumbnails = _ByteRanges(within / THUMBNAILS)
            self._offsets = np.load(within / PLACES)
            self._regions = nearest.read(within / REGIONS) if self.about.probes else None
        except Exception as reason:  # NumPy and faiss raise many types for damaged files
            raise InputError("an index must be whole", f"{folder} ({' '.join(str(reason).split())[:200]})", REMEDY) from None
        if len(self.images) != self.about.pictures or len(self._offsets) != self.about.pictures + 1:
            raise InputError("an index must be whole", f"{len(self.images)} rows for {self.about.pictures}", REMEDY)
        if self._thumbnails.size != self._offsets[-1]:
            found = f"{self._thumbnails.size} bytes of thumbnails for {self._offsets[-1]} in {folder}"
            raise InputError("an index must be whole", found, REMEDY)

    def thumbnail(self, position: int) -> bytes:
        """Returns the thumbnail (JPEG) of the image at a position."""
        return self._thumbnails(int(self._offsets[position]), int(self._offsets[position + 1]))

    def preload(self) -> None:
        """Loads what searches need into memory, so that many of them are fast and unaffected by changes to the files.

        For an exact search, the vectors are converted to float32 once; the conversion takes longer than a search.
        """
        _ = self.by_content, self.by_label
        if self._regions is None:
            self.vectors = np.asarray(self.vectors, "float32")
        else:
            self.vectors = _FileRows(self.folder / str(self.about.generation) / VECTORS, self.about)

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
        for start in range(0, self.about.pictures, AT_A_TIME):
            queries = np.arange(start, min(start + AT_A_TIME, self.about.pictures))
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
        raise InputError(rule, f"none in {self.folder}", REMEDY)

    @cached_property
    def by_content(self) -> dict[str, int]:
        """Positions by content id."""
        return {image.content_id: position for position, image in enumerate(self.images)}

    @cached_property
    def by_label(self) -> dict[str, npt.NDArray[np.int64]]:
        """Positions by label, ascending; labels are sorted."""
        positions: dict[str, list[int]] = {}
        for position, image in enumerate(self.images):
            positions.setdefault(image.label, []).append(position)
        return {label: np.array(positions[label], "int64") for label in sorted(positions)}

    def positions_with_label(self, label: str) -> npt.NDArray[np.int64]:
        """Returns the positions of the images with a label, ascending.

        Raises:
            InputError: No image has the label.
        """
        if label not in self.by_label:
            raise unknown_label(label, self.by_label)
        return self.by_label[label]

    def _nearest(
        self, vectors: npt.NDArray[np.float32], count: int, chosen: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        if self._regions is None:
            return nearest.exact(self.vectors, vectors, count, chosen)
        return nearest.approximate(self._regions, self.vectors, vectors, count, self.about.probes, chosen)

    def _hit(self, position: int, similarity: float) -> Hit:
        image = self.images[position]
        return Hit(image.content_id, image.path, image.label, float(similarity))


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

    def __init__(self, file: Path, about: About):
        self._ranges, self._about = _ByteRanges(file), about

    def __len__(self) -> int:
        return self._about.pictures

    def __getitem__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        size = 2 * self._about.dimension
        rows = b"".join(self._ranges(size * position, size * (position + 1)) for position in positions.tolist())
        return np.frombuffer(rows, np.float16).reshape(-1, self._about.dimension)


class Built(NamedTuple):
    """The result of building an index.

    Attributes:
        about: Metadata of the index.
        computed: Number of images whose embeddings were computed rather than reused.
        refused: URI, label and reason of each rejected image.
    """

    about: About
    computed: int
    refused: list[tuple[str, str, str]]


def build(rows: Sequence[ImageRow], model: Path, folder: Path, before: Path | None = None) -> Built:
    """Builds an index, or updates the one in the folder.

    Args:
        rows: Images to index, as from `scan.scan_images`.
        model: Model folder.
        folder: Folder of the index; an existing index stays usable until the new one is complete.
        before: Earlier index whose embeddings are reused; may be the same folder.

    Returns:
        Metadata of the index, and what was computed and rejected.

    Raises:
        InputError: No image can be read, or the earlier index is damaged.

    Example:
        built = build(rows_at("photos"), Path("model"), Path("index"))
        print(f"{built.about.pictures} images, {len(built.refused)} rejected")
    """
    with atomic.scratch_folder(folder) as beside:  # on the same file system, so that files can be linked instead of copied
        write_part(rows, model, beside / "part", before)
        return join([beside / "part"], model, folder)


def write_part(
    rows: Sequence[ImageRow], model: Path, part: Path, before: Path | None = None, *, partition: int = 0, partitions: int = 1
) -> Part:
    """Computes one of several parts of an index, for `join`.

    Args:
        rows: All images to index, including those of the other parts.
        model: Model folder.
        part: Folder to create.
        before: Earlier index whose embeddings are reused.
        partition: Number of the part, from 0.
        partitions: Number of parts.

    Returns:
        Metadata of the part.

    Raises:
        InputError: The earlier index is damaged.
    """
    embedder = Embedder(exported_version(model))
    old = Index(before) if before else None
    if old and old.about.model_fingerprint != embedder.fingerprint:
        print("the earlier index was built with another model: computing all embeddings", flush=True)
        old = None
    own_rows = parts.share(rows, old.by_content if old else {}, partition, partitions)
    if partitions > 1:
        print(f"partition {partition + 1} of {partitions}: {len(own_rows)} of {len(rows)} images", flush=True)
    return parts.write(own_rows, embedder, old, part)


def join(folders: Sequence[Path], model: Path, folder: Path) -> Built:
    """Joins parts into the index that `build` would have written.

    Args:
        folders: Folders that `write_part` wrote, in the order of the parts.
        model: Model folder that the parts were computed with.
        folder: Folder of the index; an existing index stays usable until the new one is complete.

    Returns:
        Metadata of the index, and what was computed and rejected.

    Raises:
        InputError: A part is damaged or was computed with another model, or no part has any images.
    """
    version = exported_version(model)
    joined = [parts.read(part, version.fingerprint) for part in folders]
    pictures, computed = sum(part.pictures for part in joined), sum(part.computed for part in joined)
    refused = [reject for part in folders for reject in table.read_unused(part / parts.REFUSED)]
    if not pictures:
        raise no_pictures(refused)
    dimension, generation, has_model = joined[0].dimension, 1, False
    if (folder / ABOUT_FILE).exists():
        earlier = about_in(folder)
        generation, has_model = earlier.generation + 1, earlier.model_fingerprint == version.fingerprint
    with atomic.replacing(folder / str(generation)) as beside:
        beside.mkdir()
        parts.concatenated(folders, beside)
        vectors = np.memmap(beside / VECTORS, "float16", "r", shape=(pictures, dimension))
        measured = nearest.build(vectors, beside / REGIONS) if pictures > nearest.EXACT_UP_TO else nearest.Recall(1.0, 0)
    if not has_model:
        with atomic.replacing(folder / MODEL_FOLDER) as beside:
            shutil.copytree(version.folder, exported_version(beside).folder)
    about = About(version.name, version.fingerprint, dimension, pictures, generation, measured.recall, measured.probes)
    atomic.write_json(folder / ABOUT_FILE, asdict(about))
    forget_others(folder, generation)
    print(f"{pictures} images in the index, {computed} embeddings computed, {len(refused)} images rejected", flush=True)
    return Built(about, computed, refused)


def forget_others(folder: Path, generation: int) -> None:
    """Removes all generations of an index but one.

    Args:
        folder: Folder of the index.
        generation: Number of the generation to keep.
    """
    for other in folder.iterdir():
        if other.name.isdecimal() and int(other.name) != generation:
            shutil.rmtree(other)


def no_pictures(refused: Sequence[tuple[str, str, str]]) -> InputError:
    """Returns the error for an index without any images.

    Args:
        refused: URI, label and reason of each rejected image.
    """
    reasons = "; ".join(sorted({reason for _, _, reason in refused})) or "no images"
    return InputError("there must be images to index", reasons, "Give a folder of JPEGs or PNGs.")


def rows_at(uri: str) -> list[ImageRow]:
    """Lists the images at a URI; an image that is not in a folder has no label.

    Args:
        uri: A folder, an archive or an import file, see `scan.scan_images`.

    Returns:
        One row per image, sorted by name.

    Raises:
        InputError: There is nothing at the URI.
    """
    return scan.scan_images(uri, classes=False).rows


def files_in(folder: Path) -> list[Path]:
    """Lists the existing files of the current generation of an index, `index.json` first, without its model.

    Args:
        folder: Folder of the index.

    Returns:
        Paths of the files; empty if there is no index.
    """
    about = folder / ABOUT_FILE
    try:
        within = folder / str(about_in(folder).generation)
    except InputError:
        within = folder / "none"
    return [file for file in (about, *(within / name for name in FILES)) if file.exists()]


def unknown_label(label: str, known: Iterable[str]) -> InputError:
    """Returns the error for a label that no image of an index has.

    Args:
        label: The label.
        known: Labels in the index.
    """
    return InputError(f"label must be one of {format_value(', '.join(known))}", label, "Leave it out to search all images.")


def about_in(folder: Path) -> About:
    """Reads the metadata of the index in a folder.

    Args:
        folder: Folder of the index.

    Returns:
        The metadata.

    Raises:
        InputError: There is no index, or its metadata is damaged.
    """
    try:
        return described((folder / ABOUT_FILE).read_bytes(), folder)
    except OSError:
        raise InputError("there must be an index", f"none in {folder}", "Give the folder of an index.") from None


def described(content: bytes, where: object) -> About:
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
        return About(**json.loads(content))
    except (ValueError, TypeError) as reason:
        raise InputError(f"{ABOUT_FILE} must hold the metadata of an index", f"{where} ({reason})", REMEDY) from None
