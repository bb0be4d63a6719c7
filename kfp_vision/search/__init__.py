"""An index of pictures: what a model makes of each, so that those nearest to another picture are found.

index.json          what it is: whose embeddings, how many pictures, how it is searched, and which folder holds the rest
3/vectors           float16, a row a picture, of length 1
3/pictures.csv      path, label and content id of each, in the same order
3/thumbnails        small JPEGs, one after the other; 3/thumbnails.npy says where each begins
3/regions           faiss's index, where there are very many pictures
model/              the model that the embeddings are of

What is written anew is written beside, into a folder with the next number; `index.json` is what makes it count.
"""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kfp_vision import catalog, repository, storage
from kfp_vision.catalog import Row
from kfp_vision.errors import InputError
from kfp_vision.search import nearest, parts
from kfp_vision.search.embedding import Embedder
from kfp_vision.search.parts import PICTURES, PLACES, REMEDY, THUMBNAILS, VECTORS, Part

ABOUT_FILE, MODEL_FOLDER, REGIONS = "index.json", "model", "regions"
REFUSED_NAMED = 10  # pictures


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
    """A picture in an index."""

    path: str
    label: str
    content_id: str


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
                self.pictures = [Indexed(row["path"], row["label"], row["content_id"]) for row in csv.DictReader(file)]
            self._thumbnails = np.memmap(within / THUMBNAILS, "uint8", "r")
            self._begins = np.load(within / PLACES)
            self._regions = nearest.read(within / REGIONS) if self.about.probes else None
        except (OSError, ValueError, KeyError, RuntimeError, EOFError) as reason:
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
        chosen = self._chosen(label) if label else None
        if self._regions is None:
            scores, places = nearest.exact(self.vectors, vectors, count, chosen)
        else:
            probes = self.about.probes
            scores, places = nearest.approximate(self._regions, self.vectors, vectors, count, probes, chosen)
        return [
            [self._hit(place, score) for place, score in zip(*row, strict=True) if place >= 0]
            for row in zip(places.tolist(), scores.tolist(), strict=True)
        ]

    def embedder(self) -> Embedder:
        """The model that the index is of."""
        return Embedder(repository.exported(self.folder / MODEL_FOLDER))

    @cached_property
    def by_content(self) -> dict[str, int]:
        """Content id to a place."""
        return {picture.content_id: place for place, picture in enumerate(self.pictures)}

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
    with storage.scratch(folder) as beside:  # on the same file system: nothing need be copied
        write_part(rows, model, beside / "part", before)
        return join([beside / "part"], model, folder)


def write_part(
    rows: Sequence[Row], model: Path, part: Path, before: Path | None = None, *, partition: int = 0, partitions: int = 1
) -> Part:
    """Writes one of several parts of an index, for `join` to put together.

    Args:
        rows: of all pictures, those of the other parts among them.
        model, before: as `build` takes them.
        part: the folder to make.
        partition: its number, from 0.
        partitions: how many there are.

    Raises:
        InputError: the index before is torn.
    """
    embedder = Embedder(repository.exported(model))
    old = Index(before) if before else None
    if old and old.about.model_fingerprint != embedder.fingerprint:
        print("the index before is of another model: all is computed anew", flush=True)
        old = None
    mine = parts.share(rows, old.by_content if old else {}, partition, partitions)
    if partitions > 1:
        print(f"partition {partition + 1} of {partitions}: {len(mine)} of {len(rows)} pictures", flush=True)
    return parts.write(mine, embedder, old, part)


def join(folders: Sequence[Path], model: Path, folder: Path) -> Built:
    """Puts the parts of an index together, as `build` would have written it.

    Args:
        folders: what `write_part` wrote, in the order of the parts.
        model: a model folder, the one that they are of.
        folder: of the index; one that is there goes on answering until the new one is whole.

    Raises:
        InputError: a part is torn or of another model, or there is no picture in any.
    """
    version = repository.exported(model)
    read = [parts.read(part, version.fingerprint) for part in folders]
    pictures, computed = (sum(getattr(part, name) for part in read) for name in ("pictures", "computed"))
    refused = [reject for part in folders for reject in catalog.read_unused(part / parts.REFUSED)]
    if not pictures:
        raise no_pictures(refused)
    dimension, generation = read[0].dimension, 1
    is_of_model = False
    if (folder / ABOUT_FILE).exists():
        earlier = _about(folder)
        generation, is_of_model = earlier.generation + 1, earlier.model_fingerprint == version.fingerprint
    with storage.replacing(folder / str(generation)) as beside:
        beside.mkdir()
        parts.concatenated(folders, beside)
        vectors = np.memmap(beside / VECTORS, "float16", "r", shape=(pictures, dimension))
        found = nearest.build(vectors, beside / REGIONS) if pictures > nearest.EXACT_UP_TO else nearest.Recall(1.0, 0)
    if not is_of_model:
        with storage.replacing(folder / MODEL_FOLDER) as beside:
            shutil.copytree(version.folder, repository.exported(beside).folder)
    about = About(version.name, version.fingerprint, dimension, pictures, generation, found.recall, found.probes)
    storage.write_json(folder / ABOUT_FILE, asdict(about))
    for other in folder.iterdir():
        if other.name.isdecimal() and int(other.name) != generation:
            shutil.rmtree(other)
    print(f"{pictures} pictures in the index, {computed} of them computed, {len(refused)} refused", flush=True)
    return Built(about, computed, refused)


def no_pictures(refused: Sequence[tuple[str, str, str]]) -> InputError:
    """What to say where nothing can be indexed, of the pictures that were refused."""
    reasons = "; ".join(sorted({reason for _, _, reason in refused})) or "no pictures"
    return InputError("there must be pictures to index", reasons, "Give a folder of JPEGs or PNGs.")


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
