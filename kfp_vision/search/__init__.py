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

from kfp_vision import catalog, repository, storage
from kfp_vision.catalog import Row
from kfp_vision.errors import InputError, shown
from kfp_vision.search import nearest, parts
from kfp_vision.search.embedding import Embedder
from kfp_vision.search.parts import COLUMNS, PICTURES, PLACES, REMEDY, THUMBNAILS, VECTORS, Part

# It says which of its builds for other processors are not there, as if modules were missing.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)

ABOUT_FILE, MODEL_FOLDER, REGIONS = "index.json", "model", "regions"
FILES = (VECTORS, PICTURES, THUMBNAILS, PLACES, REGIONS)  # the last one only where pictures are told apart by regions
REFUSED_NAMED = 10  # pictures
AT_A_TIME = 256  # queries that are compared with all


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
        content_id: MD5 of its bytes, in hex; by it the picture is found in the index again, and in one that is newer.
        path, label: of the picture.
        similarity: the cosine of the angle between the two vectors; 1 for the same.
    """

    content_id: str
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
        self.folder, self.about = folder, about_in(folder)
        within = folder / str(self.about.generation)
        shape = (self.about.pictures, self.about.dimension)
        try:
            self.vectors: np.ndarray = np.memmap(within / VECTORS, "float16", "r", shape=shape)
            with (within / PICTURES).open(**parts.TEXT) as file:
                self.pictures = [Indexed(*(row[column] for column in COLUMNS)) for row in csv.DictReader(file)]
            self._thumbnails = _Pieces(within / THUMBNAILS)
            self._begins = np.load(within / PLACES)
            self._regions = nearest.read(within / REGIONS) if self.about.probes else None
        except Exception as reason:  # whatever NumPy and faiss make of bytes that are no index
            raise InputError("an index must be whole", f"{folder} ({' '.join(str(reason).split())[:200]})", REMEDY) from None
        if len(self.pictures) != self.about.pictures or len(self._begins) != self.about.pictures + 1:
            raise InputError("an index must be whole", f"{len(self.pictures)} rows for {self.about.pictures}", REMEDY)
        if self._thumbnails.size != self._begins[-1]:
            found = f"{self._thumbnails.size} bytes of thumbnails for {self._begins[-1]} in {folder}"
            raise InputError("an index must be whole", found, REMEDY)

    def thumbnail(self, place: int) -> bytes:
        """A small JPEG of a picture."""
        return self._thumbnails(int(self._begins[place]), int(self._begins[place + 1]))

    def hold(self) -> None:
        """Has what searches take at hand, for who makes many, and whatever happens to the files meanwhile.

        Where all pictures are compared, their vectors are in memory as float32 from here on: to make them that anew each time
        takes longer than to compare them.
        """
        _ = self.by_content, self.by_label
        if self._regions is None:
            self.vectors = np.asarray(self.vectors, "float32")
        else:
            self.vectors = _Rows(self.folder / str(self.about.generation) / VECTORS, self.about)  # type: ignore[assignment]

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
        scores, places = self._nearest(vectors, count, self.having(label) if label else None)
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
        """The model that the index is of: the one in its folder, or a version that it lies with.

        Raises:
            InputError: neither is there, or it does not load.
        """
        own = self.folder / MODEL_FOLDER / repository.SERVING_FOLDER
        for version in reversed(repository.versions(own) or repository.versions(self.folder.absolute().parent)):
            if version.fingerprint == self.about.model_fingerprint:
                return Embedder(version)
        rule = f"an index must have its model, {self.about.model_name}, in its folder or lie with it"
        raise InputError(rule, f"none in {self.folder}", REMEDY)

    @cached_property
    def by_content(self) -> dict[str, int]:
        """Content id to a place."""
        return {picture.content_id: place for place, picture in enumerate(self.pictures)}

    def _nearest(self, vectors: np.ndarray, count: int, chosen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if self._regions is None:
            return nearest.exact(self.vectors, vectors, count, chosen)
        return nearest.approximate(self._regions, self.vectors, vectors, count, self.about.probes, chosen)

    @cached_property
    def by_label(self) -> dict[str, np.ndarray]:
        """Label to the places of its pictures, ascending."""
        places: dict[str, list[int]] = {}
        for place, picture in enumerate(self.pictures):
            places.setdefault(picture.label, []).append(place)
        return {label: np.array(places[label], "int64") for label in sorted(places)}

    def having(self, label: str) -> np.ndarray:
        """The places of the pictures with a label.

        Raises:
            InputError: there is none.
        """
        if label not in self.by_label:
            raise unknown_label(label, self.by_label)
        return self.by_label[label]

    def _hit(self, place: int, score: float) -> Hit:
        picture = self.pictures[place]
        return Hit(picture.content_id, picture.path, picture.label, float(score))


class _Pieces:
    """A file, read piece by piece. Of one that is mapped into memory, who cuts it short ends the process that looks there."""

    def __init__(self, file: Path):
        self._descriptor = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def __call__(self, begin: int, end: int) -> bytes:
        return os.pread(self._descriptor, end - begin, begin)


class _Rows:
    """Vectors in a file, of which those are read that are asked for."""

    def __init__(self, file: Path, about: About):
        self._pieces, self._about = _Pieces(file), about

    def __len__(self) -> int:
        return self._about.pictures

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        size = 2 * self._about.dimension
        read = b"".join(self._pieces(size * place, size * (place + 1)) for place in places.tolist())
        return np.frombuffer(read, "float16").reshape(-1, self._about.dimension)


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
        earlier = about_in(folder)
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
    forget_others(folder, generation)
    print(f"{pictures} pictures in the index, {computed} of them computed, {len(refused)} refused", flush=True)
    return Built(about, computed, refused)


def forget_others(folder: Path, generation: int) -> None:
    """Removes what lies in an index besides the generation that counts."""
    for other in folder.iterdir():
        if other.name.isdecimal() and int(other.name) != generation:
            shutil.rmtree(other)


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


def files_in(folder: Path) -> list[Path]:
    """The files of an index that are there and count, its model's apart: what says what it is, and what that names."""
    about = folder / ABOUT_FILE
    try:
        within = folder / str(about_in(folder).generation)
    except InputError:
        within = folder / "none"
    return [file for file in (about, *(within / name for name in FILES)) if file.exists()]


def unknown_label(label: str, known: Iterable[str]) -> InputError:
    """What to say where no picture of an index has a label."""
    return InputError(f"label must be one of {shown(', '.join(known))}", label, "Leave it out for all pictures.")


def about_in(folder: Path) -> About:
    """What the index in a folder is.

    Raises:
        InputError: there is none, or it does not say.
    """
    try:
        return described((folder / ABOUT_FILE).read_bytes(), folder)
    except OSError:
        raise InputError("there must be an index", f"none in {folder}", "Give the folder of an index.") from None


def described(said: bytes, where: object) -> About:
    """What an index says that it is, from the bytes of its `index.json`.

    Raises:
        InputError: it says nothing of the kind; where it lies is told.
    """
    try:
        return About(**json.loads(said))
    except (ValueError, TypeError) as reason:
        raise InputError(f"{ABOUT_FILE} must say what the index is", f"{where} ({reason})", REMEDY) from None
