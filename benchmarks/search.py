"""Measures search among a million vectors against NumPy's exhaustive search, and indexing and searching images.

The vectors resemble embeddings: more dimensions than degrees of freedom, in overlapping clusters. Each measurement runs in its
own process, so that its memory can be told apart: `python -m benchmarks.search TASK FOLDER`.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import peers, photographs, scale
from benchmarks.measure import Figure, report, rounds
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.repository.version import versions
from kfp_vision.search import ann, parts
from kfp_vision.search.build import build_index, find_images
from kfp_vision.search.embedding import Embedder
from kfp_vision.serving import server

VECTORS, DIMENSION = 1_000_000, 1024  # as Inception v1 and GoogLeNet have
CENTRES, LATENT = 4000, 32
NOISE = 0.05  # per dimension, where coordinates are around 0.6
QUERIES = 1000  # none of them among the vectors
NEAREST, BATCH = 10, 32
QUERIES_PER_ROUND = {1: (300, 10), BATCH: (640, 64)}  # queries per round of ours and NumPy, by batch size
SECONDS, MIB, RECALL = 600, 6144, 95  # the limits; recall in percent
NUMPY = "NumPy, exhaustive in float32"
INFERENCE = "classification by the same export, batches of 32 from memory"
CLIENTS = 16
CLASSES = f"classification by the same server, {CLIENTS} clients"

Vectors = npt.NDArray[np.floating[Any]]
Positions = npt.NDArray[np.intp]
Search = Callable[[Vectors], Positions]


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        measure_task("draw", root)
        built, asked, embedded, answered = (measure_task(task, root) for task in ("build", "ask", "embed", "answer"))
    return [
        report("search_vs_numpy", f"{NUMPY}, one by one", "queries/s", asked["1"]),
        report("search_vs_numpy_batches", f"{NUMPY}, batches of {BATCH}", "queries/s", asked[str(BATCH)]),
        report("search_recall", "the limit", "% of the nearest ten", [(asked["recall"], RECALL)]),
        report("search_build", f"the limit, {VECTORS:,} vectors", "s", [(built["seconds"], SECONDS)], less=True),
        report("search_build_memory", "the limit", "MiB", [(built["memory"], MIB)], less=True),
        report("embed_vs_inference", INFERENCE, "img/s", embedded["rates"]),
        *(report(f"search_over_http_{name}", CLASSES, "ms", answered[name], less=True) for name in ("p50", "p99")),
    ]


def measure_task(task: str, root: Path) -> Any:
    """Runs one of `WORK` in its own process.

    Args:
        task: name in `WORK`.
        root: folder of the data.

    Returns:
        What it returns.
    """
    command = [sys.executable, "-m", "benchmarks.search", task, str(root)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
    return json.loads(done.stdout)


def draw(root: Path) -> None:
    """Writes the vectors to search and the queries.

    Args:
        root: folder of the data.
    """
    for name, number, seed in (("vectors", VECTORS, 1), ("queries", QUERIES, 2)):
        with (root / name).open("wb") as file:
            for block in draw_vectors(number, seed):
                file.write(block.tobytes())


def draw_vectors(number: int, seed: int) -> Iterator[npt.NDArray[np.float16]]:
    """Draws unit vectors in blocks: points around centers, passed through a linear layer and a ReLU.

    Args:
        number: number of vectors.
        seed: seed of the points; centers and layer are always the same.

    Yields:
        Blocks of vectors, float16 (n, DIMENSION).
    """
    fixed, draws = np.random.default_rng(0), np.random.default_rng(seed)
    centres = fixed.standard_normal((CENTRES, LATENT), "float32")
    weights = fixed.standard_normal((LATENT, DIMENSION), "float32") / np.sqrt(LATENT)
    biases = fixed.standard_normal(DIMENSION, "float32") / 2
    for start in range(0, number, ann.VECTORS_PER_BLOCK):
        some = min(ann.VECTORS_PER_BLOCK, number - start)
        points = centres[draws.integers(0, CENTRES, some)] + draws.standard_normal((some, LATENT), "float32")
        vectors = np.maximum(points @ weights + biases, 0) + NOISE * draws.standard_normal((some, DIMENSION), "float32")
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float16")


def build(root: Path) -> dict[str, float]:
    """Builds the search structure.

    Args:
        root: folder of the data.

    Returns:
        Seconds and MiB.
    """
    start = time.perf_counter()
    found = ann.build_regions(_read(root / "vectors"), root / "regions")
    seconds = time.perf_counter() - start
    (root / "probes").write_text(str(found.probes))
    return {"seconds": seconds, "memory": scale.peak_memory()}


def ask(root: Path) -> dict[str, Any]:
    """Measures search rates and recall.

    Args:
        root: folder of the data.

    Returns:
        Rates of ours and NumPy in pairs, by batch size; and recall, the percentage of the true nearest neighbors found.
    """
    vectors, queries = _read(root / "vectors"), np.asarray(_read(root / "queries"), "float32")
    regions, probes = ann.read_regions(root / "regions"), int((root / "probes").read_text())
    in_float32 = np.asarray(vectors, "float32")

    def ours(batch_of_queries: Vectors) -> Positions:
        return ann.search_approximate(regions, vectors, batch_of_queries, NEAREST, probes)[1]

    def peer(batch_of_queries: Vectors) -> Positions:
        return search_exhaustively(in_float32, batch_of_queries)

    results: dict[str, Any] = {}
    for batch, (many, few) in QUERIES_PER_ROUND.items():
        pairs = [(rate(ours, queries[:many], batch), rate(peer, queries[:few], batch)) for _ in range(1 + rounds())]
        results[str(batch)] = pairs[1:]
    found, truth = ours(queries), np.concatenate([peer(queries[at : at + BATCH]) for at in range(0, len(queries), BATCH)])
    hits = [len(set(one) & set(other)) for one, other in zip(found.tolist(), truth.tolist(), strict=True)]
    return results | {"recall": 100 * sum(hits) / (NEAREST * len(queries))}


def search_exhaustively(vectors: Vectors, queries: Vectors) -> Positions:
    """Finds the nearest vectors exhaustively, in NumPy's fastest way.

    Args:
        vectors: float32 (n, dimension).
        queries: float32 (q, dimension).

    Returns:
        Positions of the nearest vectors, nearest first, int64 (q, WANTED).
    """
    scores = queries @ vectors.T
    places = np.argpartition(scores, -NEAREST, 1)[:, -NEAREST:]
    order = np.argsort(-np.take_along_axis(scores, places, 1), 1)
    return np.take_along_axis(places, order, 1)


def rate(find: Search, queries: Vectors, batch: int) -> float:
    """Measures a search function.

    Args:
        find: the search function.
        queries: float32 (q, dimension).
        batch: number of queries per call.

    Returns:
        Queries per second.
    """
    start = time.perf_counter()
    for at in range(0, len(queries), batch):
        find(queries[at : at + batch])
    return len(queries) / (time.perf_counter() - start)


def embed(root: Path) -> dict[str, Any]:
    """Measures indexing (read, check, decode, embed, thumbnail, write) against classification (decode, infer).

    Args:
        root: folder of the data.

    Returns:
        Pairs of images per second.
    """
    from benchmarks import serve  # imports TensorFlow, whose memory must not count as the index's

    version = versions(serve.write_model(root / "model"))[-1]
    rows = find_images(str(photographs.write_copies(root / "pictures", 1)))
    embedder, classifier = Embedder(version), Classifier(version)
    encoded, folders = [Path(row.uri).read_bytes() for row in rows], count()

    def ours() -> float:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            written = parts.write_part_files(rows, embedder, None, root / f"part {next(folders)}")
        return written.pictures / (time.perf_counter() - start)

    def peer() -> float:
        start = time.perf_counter()
        for at in range(0, len(encoded), BATCH):
            classifier.probabilities(encoded[at : at + BATCH])
        return len(encoded) / (time.perf_counter() - start)

    return {"rates": [(ours(), peer()) for _ in range(1 + rounds())][1:]}


def answer(root: Path) -> dict[str, Any]:
    """Measures the latency of search requests against prediction requests to the same server.

    Args:
        root: folder of the data.

    Returns:
        Pairs of milliseconds, by percentile.
    """
    from benchmarks import serve  # as in `embed`

    place = serve.write_model(root / "served" / "serving")
    pictures = photographs.write_copies(root / "asked", 1)
    with contextlib.redirect_stdout(io.StringIO()):
        build_index(find_images(str(pictures)), root / "served", place / "index")
    latencies: dict[str, list[tuple[float, float]]] = {"p50": [], "p99": []}
    with server.run_server(place) as url:
        for number in range(1 + rounds()):
            ours, peer = (serve.measure_load(url, pictures, CLIENTS, verb=verb) for verb in ("search", "predict"))
            for name, pairs in latencies.items():
                pairs += [(getattr(ours, name), getattr(peer, name))] if number else []
    return latencies


def _read(file: Path) -> npt.NDArray[np.float16]:
    return np.memmap(file, "float16", "r").reshape(-1, DIMENSION)


WORK: dict[str, Callable[[Path], Any]] = {"draw": draw, "build": build, "ask": ask, "embed": embed, "answer": answer}


def main(task: str, folder: str) -> None:
    """Runs one of `WORK` and prints its result as JSON.

    Args:
        task: name in `WORK`.
        folder: folder of the data.
    """
    print(json.dumps(WORK[task](Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
