"""An index of pictures: what a model makes of each, so that those nearest to another picture are found.

index.json          what it is: whose embeddings, how many pictures, how it is searched, and which folder holds the rest
3/vectors           float16, a row a picture, of length 1
3/pictures.csv      path, label, content id and split (where the data brings its own) of each, in the same order
3/thumbnails        small JPEGs, one after the other; 3/thumbnails.npy says where each begins
3/regions           faiss's index, where there are very many pictures
model/              the model that the embeddings are of

What is written anew is written beside, into a folder with the next number; `index.json` is what makes it count.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kfp_vision import catalog, repository, storage
from kfp_vision.catalog import Row
from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.search import nearest
from kfp_vision.search.embedding import Embedder

ABOUT_FILE, MODEL_FOLDER = "index.json", "model"
VECTORS, PICTURES, THUMBNAILS, PLACES, REGIONS = "vectors", "pictures.csv", "thumbnails", "thumbnails.npy", "regions"
COLUMNS = ("path", "label", "content_id", "split")
SAID_EVERY, REFUSED_NAMED = 10_000, 10  # pictures
AT_A_TIME = 256  # queries that are compared with all
REMEDY = "Index the pictures again."


@dataclass(frozen=True)
class About:
    """What an index is.

    Attributes:
        model_name, model_fingerprint: of the model whose embeddings it holds.
        dimension: of the vectors.
        pictures: how many.
        generation: the number of the folder that holds them.
        recall: of the truly nearest ten, the share that is found; 1 where all are compared.
        probes: regions that are looked into; 0 where all pictures are compared.
    """

    model_name: str
    model_fingerprint: str
    dimension: int
    pictures: int
    generation: int
    recall: float
    probes: int


class Indexed(NamedTuple):
    """A picture in an index; `split` is train, validation or test where the data is split already, else empty."""

    path: str
    label: str
    content_id: str
    split: str


@dataclass(frozen=True)
class Hit:
    """A picture that is near to another.

    Attributes:
        place: its number in the index.
        path, label: of the picture.
        similarity: the cosine of the angle between the two vectors; 1 for the same.
    """

    place: int
    path: str
    label: str
    similarity: float


class Index:
    """An index in a folder, opened.

    Args:
        folder: of the index.

    Raises:
        InputError: there is none, or it is torn.
    """

    def __init__(self, folder: Path):
        self.folder, self.about = folder, _about(folder)
        within = folder / str(self.about.generation)
        shape = (self.about.pictures, self.about.dimension)
        try:
            self.vectors = np.memmap(within / VECTORS, "float16", "r", shape=shape)
            with (within / PICTURES).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                self.pictures = [Indexed(*(row[column] for column in COLUMNS)) for row in csv.DictReader(file)]
            self._thumbnails = np.memmap(within / THUMBNAILS, "uint8", "r")
            self._begins = np.load(within / PLACES)
            self._regions = nearest.read(within / REGIONS) if self.about.probes else None
        except (OSError, ValueError, KeyError, RuntimeError) as reason:
            raise InputError("an index must be whole", f"{folder} ({' '.join(str(reason).split())[:200]})", REMEDY) from None
        if len(self.pictures) != self.about.pictures or len(self._begins) != self.about.pictures + 1:
            raise InputError("an index must be whole", f"{len(self.pictures)} rows for {self.about.pictures}", REMEDY)

    def thumbnail(self, place: int) -> bytes:
        """A small JPEG of a picture."""
        return self._thumbnails[self._begins[place] : self._begins[place + 1]].tobytes()

    def search(self, vectors: np.ndarray, count: int, label: str = "") -> list[list[Hit]]:
        """The pictures nearest to each vector, the nearest first.

        Args:
            vectors: float32 (n, dimension), of length 1.
            count: how many are wanted of each.
            label: of the pictures that alone count; empty for all.

        Raises:
            InputError: vectors of another dimension, or no picture has the label.
        """
        if vectors.shape[1:] != (self.about.dimension,):
            rule = f"vectors must have the {self.about.dimension} dimensions of the index"
            raise InputError(rule, vectors.shape[-1], "Search with the model that the index is of.")
        scores, places = self._nearest(vectors, count, self._chosen(label) if label else None)
        return [
            [self._hit(place, score) for place, score in zip(*row, strict=True) if place >= 0]
            for row in zip(places.tolist(), scores.tolist(), strict=True)
        ]

    def neighbours(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The pictures nearest to each picture of the index, itself excepted, the nearest first.

        Args:
            count: how many are wanted of each.

        Returns:
            Similarities, float32 (pictures, count), and places, int64; where there are fewer, -inf and -1.
        """
        shape = (self.about.pictures, count)
        scores, places = np.full(shape, -np.inf, "float32"), np.full(shape, -1, "int64")
        for start in range(0, self.about.pictures, AT_A_TIME):
            these = np.arange(start, min(start + AT_A_TIME, self.about.pictures))
            near, where = self._nearest(np.asarray(self.vectors[these], "float32"), count + 1, None)
            others = where != these[:, None]
            others[others.all(1), -1] = False  # a copy took its own place
            rows, columns = others.nonzero()
            order = others.cumsum(1)[rows, columns] - 1
            scores[start + rows, order], places[start + rows, order] = near[rows, columns], where[rows, columns]
        return scores, places

    def embedder(self) -> Embedder:
        """The model that the index is of."""
        return Embedder(repository.exported(self.folder / MODEL_FOLDER))

    @cached_property
    def by_content(self) -> dict[str, int]:
        """Content id to a place."""
        return {picture.content_id: place for place, picture in enumerate(self.pictures)}

    def _nearest(self, vectors: np.ndarray, count: int, chosen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if self._regions is None:
            return nearest.exact(self.vectors, vectors, count, chosen)
        return nearest.approximate(self._regions, self.vectors, vectors, count, self.about.probes, chosen)

    def _hit(self, place: int, score: float) -> Hit:
        return Hit(place, self.pictures[place].path, self.pictures[place].label, float(score))

    def _chosen(self, label: str) -> np.ndarray:
        chosen = np.array([place for place, picture in enumerate(self.pictures) if picture.label == label], "int64")
        if not len(chosen):
            labels = ", ".join(sorted({picture.label for picture in self.pictures}))
            raise InputError(f"label must be one of {labels}", label, "Leave it out for all pictures.")
        return chosen


class Built(NamedTuple):
    """What came of an index: how many pictures are in it, how many of them were computed, and why others are not."""

    about: About
    computed: int
    refused: list[tuple[str, str, str]]


def build(rows: Sequence[Row], model: Path, folder: Path, before: Path | None = None) -> Built:
    """Writes an index of pictures, or makes one be of them.

    Args:
        rows: of the pictures, as `catalog.scan` gives them.
        model: a model folder.
        folder: of the index; one that is there goes on answering until the new one is whole.
        before: an index of which the pictures that it has already are taken rather than computed again; it may be the same.

    Raises:
        InputError: no picture can be read, or the index before is torn.
    """
    embedder = Embedder(repository.exported(model))
    old = Index(before) if before else None
    if old and old.about.model_fingerprint != embedder.fingerprint:
        print("the index before is of another model: all is computed anew", flush=True)
        old = None
    generation = _about(folder).generation + 1 if (folder / ABOUT_FILE).exists() else 1
    with storage.replacing(folder / str(generation)) as beside:
        beside.mkdir()
        kept, computed, refused = _write(beside, rows, embedder, old)
        if not kept:
            reasons = "; ".join(sorted({reason for _, _, reason in refused})) or "no pictures"
            raise InputError("there must be pictures to index", reasons, "Give a folder of JPEGs or PNGs.")
        vectors = np.memmap(beside / VECTORS, "float16", "r", shape=(kept, embedder.dimension))
        found = nearest.build(vectors, beside / REGIONS) if kept > nearest.EXACT_UP_TO else nearest.Recall(1.0, 0)
    if not old or before != folder:
        with storage.replacing(folder / MODEL_FOLDER) as beside:
            shutil.copytree(repository.exported(model).folder, repository.exported(beside).folder)
    name = repository.exported(model).name
    about = About(name, embedder.fingerprint, embedder.dimension, kept, generation, found.recall, found.probes)
    storage.write_json(folder / ABOUT_FILE, asdict(about))
    for earlier in folder.iterdir():
        if earlier.name.isdecimal() and int(earlier.name) != generation:
            shutil.rmtree(earlier)
    print(f"{kept} pictures in the index, {computed} of them computed, {len(refused)} refused", flush=True)
    return Built(about, computed, refused)


def _write(
    folder: Path, rows: Sequence[Row], embedder: Embedder, old: Index | None
) -> tuple[int, int, list[tuple[str, str, str]]]:
    """Vectors, pictures and thumbnails; gives how many there are, how many were computed, and which were refused, and why."""
    begins, computed = [0], 0
    refused: list[tuple[str, str, str]] = []
    with (
        (folder / VECTORS).open("wb") as vectors,
        (folder / THUMBNAILS).open("wb") as thumbnails,
        (folder / PICTURES).open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
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
    rows: Sequence[Row], embedder: Embedder, old: Index | None
) -> Iterator[tuple[Row, bool, tuple[np.ndarray, bytes] | Refused]]:
    """Each row in order, whether its vector was computed, and its vector with a thumbnail, or why there is none."""
    known = old.by_content if old else {}
    with storage.Reader() as reader:

        def encoded() -> Iterator[bytes | Refused]:
            for row in reader.ahead(row for row in rows if row.content_id not in known):
                found = storage.outcome(lambda row=row: reader.read(row.uri))  # type: ignore[misc]
                yield Refused(found.strerror or str(found)) if isinstance(found, OSError) else found

        new = embedder.embedded(encoded())
        for row in rows:
            if old and row.content_id in known:
                place = known[row.content_id]
                yield row, False, (old.vectors[place], old.thumbnail(place))
            else:
                yield row, True, next(new)


def rows_at(uri: str) -> list[Row]:
    """The pictures at a URI, in whatever folders; those that lie in none have no label.

    Raises:
        InputError: nothing lies there.
    """
    return catalog.scan(uri, classes=False).rows


def _about(folder: Path) -> About:
    remedy = "Give the folder of an index."
    try:
        return About(**json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8")))
    except OSError:
        raise InputError("there must be an index", f"none in {folder}", remedy) from None
    except (ValueError, TypeError) as reason:
        raise InputError(f"{ABOUT_FILE} must say what the index is", f"{folder} ({reason})", REMEDY) from None
