"""Nearest neighbour search with faiss: exact, or approximate for large collections.

Vectors have length 1, so that their inner product is their cosine similarity. Sources: https://github.com/facebookresearch/faiss
and Johnson et al., Billion-scale similarity search with GPUs, 2017 (arXiv 1702.08734).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

MAX_EXACT = 100_000  # vectors; larger collections are divided into regions
PCA_DIMENSIONS = 64  # principal components that a search compares first, if the vectors have more
TRAINING_VECTORS_PER_REGION = 40  # training vectors per region; faiss recommends 39 to 256
TARGET_RECALL = 0.96  # at 10, measured; above the 0.95 that is required
RECALL_QUERIES = 1000  # queries that recall is measured with
RECALL_AT = 10  # neighbours that recall is measured with
CANDIDATES_PER_NEIGHBOUR = 10  # candidates per wanted neighbour, ranked again by the exact similarity
PROBES_PRECISION = 1 / 8  # relative precision of the number of probes at which the search for the fewest stops
VECTORS_PER_BLOCK = 1 << 16  # vectors converted to float32 at a time


class Vectors(Protocol):
    """Vectors by position: an array (n, dimension), or rows of a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: Any, /) -> Any: ...


@dataclass(frozen=True)
class Recall:
    """Accuracy of an approximate search.

    Attributes:
        recall: Share of the true nearest ten that the search finds.
        probes: Number of regions that a search looks into.
    """

    recall: float
    probes: int


def search_exact(
    vectors: Vectors, queries: npt.NDArray[np.float32], count: int, chosen: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Finds the nearest vectors by comparing the queries with all of them.

    Args:
        vectors: float16 or float32 (n, dimension).
        queries: float32 (q, dimension).
        count: Number of vectors to find for each query.
        chosen: Positions of the vectors to compare with, ascending; None for all.

    Returns:
        Similarities, float32 (q, at most count), the largest first, and positions of the vectors, int64.
    """
    compared = len(vectors) if chosen is None else len(chosen)
    scores, positions = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, compared, VECTORS_PER_BLOCK):
        block = (
            np.arange(start, min(start + VECTORS_PER_BLOCK, compared))
            if chosen is None
            else chosen[start : start + VECTORS_PER_BLOCK]
        )
        # A slice of all is a view; a selection is a copy.
        part = np.asarray(vectors[block[0] : block[-1] + 1] if chosen is None else vectors[block], "float32")
        near = _largest(queries @ part.T, np.broadcast_to(block, (len(queries), len(block))), count)
        scores, positions = _largest(np.concatenate([scores, near[0]], 1), np.concatenate([positions, near[1]], 1), count)
    return scores, positions


def build_regions(vectors: npt.NDArray[np.float16], file: Path, seed: int = 0) -> Recall:
    """Writes a faiss index of a large collection, and measures it against the exact search.

    Args:
        vectors: float16 (n, dimension), mapped from a file.
        file: File to write.
        seed: Seed for choosing training vectors and test queries.

    Returns:
        The fewest probes that reach `TARGET_RECALL`, approximately, and the recall with them.
    """
    import faiss

    number, dimension = vectors.shape
    regions = 1 << round(math.log2(4 * math.sqrt(number)))
    description = f"IVF{regions},SQ8"
    if dimension > PCA_DIMENSIONS:
        description = f"PCA{PCA_DIMENSIONS},L2norm,{description}"
    made = faiss.index_factory(dimension, description, faiss.METRIC_INNER_PRODUCT)
    draw = np.random.default_rng(seed)
    sample = np.sort(draw.choice(number, min(number, TRAINING_VECTORS_PER_REGION * regions), replace=False))
    made.train(np.asarray(vectors[sample], "float32"))
    for block in _blocks(vectors):
        made.add(block)
    tried = np.sort(draw.choice(number, min(number, RECALL_QUERIES), replace=False))
    queries = np.asarray(vectors[tried], "float32")
    truth = search_exact(vectors, queries, RECALL_AT + 1)[1]

    def measure(probes: int) -> Recall:
        positions = search_approximate(made, vectors, queries, RECALL_AT + 1, probes)[1]
        rows = zip(positions.tolist(), truth.tolist(), tried.tolist(), strict=True)
        hits = [len((set(found) & set(true)) - {itself}) for found, true, itself in rows]  # a query always finds itself
        return Recall(min(1.0, sum(hits) / (RECALL_AT * len(tried))), probes)

    fewest = _fewest(measure, regions)
    faiss.write_index(made, str(file))
    return fewest


def _fewest(measure: Callable[[int], Recall], regions: int) -> Recall:
    """Returns the fewest probes that reach `TARGET_RECALL`, approximately: doubles them until they do, then bisects."""
    too_few, enough = 0, measure(1)
    while enough.recall < TARGET_RECALL and enough.probes < regions:
        too_few, enough = enough.probes, measure(min(regions, 2 * enough.probes))
    while enough.probes - too_few > max(1, PROBES_PRECISION * enough.probes):
        middle = measure((too_few + enough.probes) // 2)
        if middle.recall < TARGET_RECALL:
            too_few = middle.probes
        else:
            enough = middle
    return enough


def read_regions(file: Path) -> Any:
    """Reads the faiss index that `build_regions` wrote.

    Args:
        file: The file.

    Returns:
        faiss's index.
    """
    import faiss

    return faiss.read_index(str(file))


def search_approximate(
    made: Any,
    vectors: Vectors,
    queries: npt.NDArray[np.float32],
    count: int,
    probes: int,
    chosen: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Finds the nearest vectors with a faiss index, and ranks its candidates by their exact similarity.

    Args:
        made: faiss's index, from `read_regions`.
        vectors: float16 or float32 (n, dimension).
        queries: float32 (q, dimension).
        count: Number of vectors to find for each query.
        probes: Number of regions to look into.
        chosen: Positions of the vectors to compare with, ascending; None for all.

    Returns:
        Similarities, float32 (q, at most count), the largest first, and positions of the vectors, int64. Where the regions
        hold fewer vectors, these are -inf and -1.
    """
    import faiss

    selector = {} if chosen is None else {"sel": faiss.IDSelectorBatch(chosen)}
    settings: Any = faiss.SearchParametersIVF(nprobe=probes, **selector)  # type: ignore[call-arg]
    if isinstance(made, faiss.IndexPreTransform):
        settings = faiss.SearchParametersPreTransform(index_params=settings)  # type: ignore[call-arg]
    _, positions = made.search(queries, min(len(vectors), CANDIDATES_PER_NEIGHBOUR * max(count, RECALL_AT)), params=settings)
    scores = np.full(positions.shape, -np.inf, np.float32)
    for row, (query, near) in enumerate(zip(queries, positions, strict=True)):
        exists = near >= 0  # faiss pads with -1 where the regions hold fewer
        scores[row, exists] = np.asarray(vectors[near[exists]], "float32") @ query
    return _largest(scores, positions, count)


def _largest(
    scores: npt.NDArray[np.float32], positions: npt.NDArray[np.int64], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns the `count` largest scores of each row with their positions, in descending order."""
    if scores.shape[1] > count:
        kept = np.argpartition(-scores, count - 1, 1)[:, :count]
        scores, positions = np.take_along_axis(scores, kept, 1), np.take_along_axis(positions, kept, 1)
    order = np.argsort(-scores, 1, kind="stable")
    return np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)


def _blocks(vectors: npt.NDArray[np.float16]) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(vectors), VECTORS_PER_BLOCK):
        yield np.asarray(vectors[start : start + VECTORS_PER_BLOCK], "float32")
