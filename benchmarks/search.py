"""Search among a million vectors, against NumPy's comparing with all of them; and the way of pictures into an index.

The vectors are drawn as a network's are: of more dimensions than they have degrees of freedom, in clusters that overlap. Each
measurement is a process of its own, so that the memory is all its own: `python -m benchmarks.search WHAT FOLDER`.
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

from benchmarks import peers, photographs, scale
from benchmarks.measure import Figure, report, rounds
from kfp_vision import prediction, repository, search
from kfp_vision.search import nearest, parts
from kfp_vision.search.embedding import Embedder
from kfp_vision.serving import server

VECTORS, DIMENSION = 1_000_000, 1024  # those of Inception v1 and GoogLeNet
CENTRES, LATENT = 4000, 32
NOISE = 0.05  # in every dimension, beside coordinates of some 0.6
QUERIES = 1000  # which are not among the vectors
WANTED, BATCH = 10, 32
ASKED = {1: (300, 10), BATCH: (640, 64)}  # by batch: queries a round, ours and NumPy's
SECONDS, MIB, RECALL = 600, 6144, 95  # the bounds; of recall, in percent
NUMPY = "NumPy, all compared in float32"
INFERENCE = "the same export asked for classes, batches of 32 from memory"
CLIENTS = 16
CLASSES = f"the same server asked for classes, {CLIENTS} clients"

Search = Callable[[np.ndarray], np.ndarray]


def run() -> list[Figure]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        measured("draw", root)
        built, asked, embedded, answered = (measured(what, root) for what in ("build", "ask", "embed", "answer"))
    return [
        report("search_vs_numpy", f"{NUMPY}, one by one", "queries/s", asked["1"]),
        report("search_vs_numpy_batches", f"{NUMPY}, batches of {BATCH}", "queries/s", asked[str(BATCH)]),
        report("search_recall", "the bound", "% of the nearest ten", [(asked["recall"], RECALL)]),
        report("search_build", f"the bound, {VECTORS:,} vectors", "s", [(built["seconds"], SECONDS)], less=True),
        report("search_build_memory", "the bound", "MiB", [(built["memory"], MIB)], less=True),
        report("embed_vs_inference", INFERENCE, "img/s", embedded["rates"]),
        *(report(f"search_over_http_{name}", CLASSES, "ms", answered[name], less=True) for name in ("p50", "p99")),
    ]


def measured(what: str, root: Path) -> Any:
    """What one of `WORK` says, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search", what, str(root)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
    return json.loads(done.stdout)


def draw(root: Path) -> None:
    """Writes the vectors that are searched among, and those that are asked about."""
    for name, number, seed in (("vectors", VECTORS, 1), ("queries", QUERIES, 2)):
        with (root / name).open("wb") as file:
            for block in drawn(number, seed):
                file.write(block.tobytes())


def drawn(number: int, seed: int) -> Iterator[np.ndarray]:
    """Vectors of length 1, float16 (n, DIMENSION), some at a time: points around centres, through a layer and its rectifier."""
    fixed, draws = np.random.default_rng(0), np.random.default_rng(seed)
    centres = fixed.standard_normal((CENTRES, LATENT), "float32")
    weights = fixed.standard_normal((LATENT, DIMENSION), "float32") / np.sqrt(LATENT)
    biases = fixed.standard_normal(DIMENSION, "float32") / 2
    for start in range(0, number, nearest.BLOCK):
        some = min(nearest.BLOCK, number - start)
        points = centres[draws.integers(0, CENTRES, some)] + draws.standard_normal((some, LATENT), "float32")
        vectors = np.maximum(points @ weights + biases, 0) + NOISE * draws.standard_normal((some, DIMENSION), "float32")
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float16")


def build(root: Path) -> dict[str, float]:
    """Seconds and MiB that it takes to make the vectors searchable."""
    start = time.perf_counter()
    found = nearest.build(_read(root / "vectors"), root / "regions")
    seconds = time.perf_counter() - start
    (root / "probes").write_text(str(found.probes))
    return {"seconds": seconds, "memory": scale.peak_memory()}


def ask(root: Path) -> dict[str, Any]:
    """By size of batch, rates of both in pairs; and the share of the truly nearest that ours finds, in percent."""
    vectors, queries = _read(root / "vectors"), np.asarray(_read(root / "queries"), "float32")
    made, probes = nearest.read(root / "regions"), int((root / "probes").read_text())
    whole = np.asarray(vectors, "float32")

    def ours(some: np.ndarray) -> np.ndarray:
        return nearest.approximate(made, vectors, some, WANTED, probes)[1]

    def peer(some: np.ndarray) -> np.ndarray:
        return compared(whole, some)

    said: dict[str, Any] = {}
    for batch, (most, fewer) in ASKED.items():
        pairs = [(rate(ours, queries[:most], batch), rate(peer, queries[:fewer], batch)) for _ in range(1 + rounds())]
        said[str(batch)] = pairs[1:]
    found, truth = ours(queries), np.concatenate([peer(queries[at : at + BATCH]) for at in range(0, len(queries), BATCH)])
    hits = [len(set(one) & set(other)) for one, other in zip(found.tolist(), truth.tolist(), strict=True)]
    return said | {"recall": 100 * sum(hits) / (WANTED * len(queries))}


def compared(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The places of the nearest vectors, the nearest first, as NumPy finds them fastest.

    Args:
        vectors: float32 (n, dimension).
        queries: float32 (q, dimension).
    """
    scores = queries @ vectors.T
    places = np.argpartition(scores, -WANTED, 1)[:, -WANTED:]
    order = np.argsort(-np.take_along_axis(scores, places, 1), 1)
    return np.take_along_axis(places, order, 1)


def rate(searched: Search, queries: np.ndarray, batch: int) -> float:
    """Queries a second, so many at a time."""
    start = time.perf_counter()
    for at in range(0, len(queries), batch):
        searched(queries[at : at + batch])
    return len(queries) / (time.perf_counter() - start)


def embed(root: Path) -> dict[str, Any]:
    """Pictures a second: read, checked, decoded, computed, made small and written, against decoded and computed alone."""
    from benchmarks import serve  # which imports TensorFlow, whose memory is none of the index's

    version = repository.versions(serve.write_model(root / "model"))[-1]
    rows = search.rows_at(str(photographs.copies(root / "pictures", 1)))
    embedder, classifier = Embedder(version), prediction.Classifier(version)
    encoded, folders = [Path(row.uri).read_bytes() for row in rows], count()

    def ours() -> float:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            written = parts.write(rows, embedder, None, root / f"part {next(folders)}")
        return written.pictures / (time.perf_counter() - start)

    def peer() -> float:
        start = time.perf_counter()
        for at in range(0, len(encoded), BATCH):
            classifier.probabilities(encoded[at : at + BATCH])
        return len(encoded) / (time.perf_counter() - start)

    return {"rates": [(ours(), peer()) for _ in range(1 + rounds())][1:]}


def answer(root: Path) -> dict[str, Any]:
    """Milliseconds from a picture to an answer of the server, of its index of the photographs and of its model, in pairs."""
    from benchmarks import serve  # as in `embed`

    place = serve.write_model(root / "served" / "serving")
    pictures = photographs.copies(root / "asked", 1)
    with contextlib.redirect_stdout(io.StringIO()):
        search.build(search.rows_at(str(pictures)), root / "served", place / "index")
    said: dict[str, list[tuple[float, float]]] = {"p50": [], "p99": []}
    with server.running(place) as url:
        for number in range(1 + rounds()):
            ours, peer = (serve.load(url, pictures, CLIENTS, verb=verb) for verb in ("search", "predict"))
            for name, pairs in said.items():
                pairs += [(getattr(ours, name), getattr(peer, name))] if number else []
    return said


def _read(file: Path) -> np.ndarray:
    return np.memmap(file, "float16", "r").reshape(-1, DIMENSION)


WORK: dict[str, Callable[[Path], Any]] = {"draw": draw, "build": build, "ask": ask, "embed": embed, "answer": answer}


def main(what: str, folder: str) -> None:
    """Prints what came of it as JSON."""
    print(json.dumps(WORK[what](Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
