"""The vectors nearest to a vector, by faiss: compared with all of them, or, of very many, with those in the same region.

Vectors have length 1, so that the inner product is the cosine of the angle between two. Source: https://github.com/facebookresearch/faiss
and Johnson et al., Billion-scale similarity search with GPUs, 2017 (arXiv 1702.08734).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EXACT_UP_TO = 100_000  # vectors; more are parted into regions
FEWEST_DIMENSIONS = 64  # that a search looks at first; principal components, where the vectors have more
TRAINED_A_REGION = 40  # vectors that a region is found by, of faiss's advice: 39 to 256
WANTED_RECALL = 0.96  # at 10, of the vectors that are truly nearest; what is asked for is 0.95
TRIED = 1000  # queries by which it is measured
NEAREST = 10
CHOSEN_AMONG = 10  # for each that is wanted, and for ten at least, so many are looked at again with the vectors themselves
PROBED_TO = 1 / 8  # of the fewest regions that find enough: so close is near enough
BLOCK = 1 << 16  # vectors at a time in float32


@dataclass(frozen=True)
class Recall:
    """Of the truly nearest ten, the share that an approximate search finds, and in how many regions it looks for them."""

    recall: float
    probes: int


def exact(
    vectors: np.ndarray, queries: np.ndarray, count: int, chosen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest vectors, compared with all.

    Args:
        vectors: float16 or float32 (n, dimension).
        queries: float32 (q, dimension).
        count: how many are wanted of each.
        chosen: places of those that alone count, ascending; None for all.

    Returns:
        Similarities, float32 (q, at most count), the largest first, and the places of the vectors.
    """
    wanted = len(vectors) if chosen is None else len(chosen)
    scores, places = np.empty((len(queries), 0), "float32"), np.empty((len(queries), 0), "int64")
    for start in range(0, wanted, BLOCK):
        block = np.arange(start, min(start + BLOCK, wanted)) if chosen is None else chosen[start : start + BLOCK]
        part = np.asarray(vectors[block[0] : block[-1] + 1] if chosen is None else vectors[block], "float32")
        near = _largest(queries @ part.T, np.broadcast_to(block, (len(queries), len(block))), count)
        scores, places = _largest(np.concatenate([scores, near[0]], 1), np.concatenate([places, near[1]], 1), count)
    return scores, places


def build(vectors: np.ndarray, file: Path, seed: int = 0) -> Recall:
    """Writes faiss's index of very many vectors, and measures it against the exact search.

    Args:
        vectors: float16 (n, dimension), mapped from a file.
        file: to write.
        seed: of what is drawn at random.

    Returns:
        What it finds with as few regions as `WANTED_RECALL` takes.
    """
    import faiss

    number, dimension = vectors.shape
    regions = 1 << round(math.log2(4 * math.sqrt(number)))
    kind = f"IVF{regions},SQ8"
    if dimension > FEWEST_DIMENSIONS:
        kind = f"PCA{FEWEST_DIMENSIONS},L2norm,{kind}"
    made = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    draw = np.random.default_rng(seed)
    sample = np.sort(draw.choice(number, min(number, TRAINED_A_REGION * regions), replace=False))
    made.train(np.asarray(vectors[sample], "float32"))
    for block in _blocks(vectors):
        made.add(block)
    tried = np.sort(draw.choice(number, min(number, TRIED), replace=False))
    queries = np.asarray(vectors[tried], "float32")
    truth = exact(vectors, queries, NEAREST + 1)[1]

    def found(probes: int) -> Recall:
        places = approximate(made, vectors, queries, NEAREST + 1, probes)[1]
        rows = zip(places.tolist(), truth.tolist(), tried.tolist(), strict=True)
        hits = [len((set(one) & set(other)) - {itself}) for one, other, itself in rows]  # it finds itself without any art
        return Recall(min(1.0, sum(hits) / (NEAREST * len(tried))), probes)

    chosen = _fewest(found, regions)
    faiss.write_index(made, str(file))
    return chosen


def _fewest(found: Callable[[int], Recall], regions: int) -> Recall:
    """The fewest regions that find `WANTED_RECALL`, nearly: doubled until they do, then halved between while it pays."""
    too_few, enough = 0, found(1)
    while enough.recall < WANTED_RECALL and enough.probes < regions:
        too_few, enough = enough.probes, found(min(regions, 2 * enough.probes))
    while enough.probes - too_few > max(1, PROBED_TO * enough.probes):
        middle = found((too_few + enough.probes) // 2)
        if middle.recall < WANTED_RECALL:
            too_few = middle.probes
        else:
            enough = middle
    return enough


def read(file: Path) -> Any:
    """faiss's index, as `build` wrote it."""
    import faiss

    return faiss.read_index(str(file))


def approximate(
    made: Any, vectors: np.ndarray, queries: np.ndarray, count: int, probes: int, chosen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `exact`, by faiss's index: what it finds is put in order by the vectors themselves."""
    import faiss

    selector = {} if chosen is None else {"sel": faiss.IDSelectorBatch(chosen)}
    how: Any = faiss.SearchParametersIVF(nprobe=probes, **selector)  # type: ignore[call-arg]
    if isinstance(made, faiss.IndexPreTransform):
        how = faiss.SearchParametersPreTransform(index_params=how)  # type: ignore[call-arg]
    _, places = made.search(queries, min(len(vectors), CHOSEN_AMONG * max(count, NEAREST)), params=how)
    scores = np.full(places.shape, -np.inf, "float32")
    for row, (query, near) in enumerate(zip(queries, places, strict=True)):
        there = near >= 0  # a region may hold fewer
        scores[row, there] = np.asarray(vectors[near[there]], "float32") @ query
    return _largest(scores, places, count)


def _largest(scores: np.ndarray, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape[1] > count:
        kept = np.argpartition(-scores, count - 1, 1)[:, :count]
        scores, places = np.take_along_axis(scores, kept, 1), np.take_along_axis(places, kept, 1)
    order = np.argsort(-scores, 1, kind="stable")
    return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), BLOCK):
        yield np.asarray(vectors[start : start + BLOCK], "float32")
