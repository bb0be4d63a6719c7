"""What the server tells of itself: Prometheus' metrics, and a line of JSON a request. Neither holds a picture or a token."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from kfp_vision.errors import shown
from kfp_vision.serving.batching import MAX_BATCH
from kfp_vision.serving.guards import App, Receive, Scope, Send

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = tuple(2**power for power in range(MAX_BATCH.bit_length()))
LONGEST_PATH = 200

REQUESTS = Counter("kfp_vision_requests", "Requests that were answered.", ("route", "status"))
ERRORS = Counter("kfp_vision_errors", "Requests that were answered with 4xx (client) or 5xx (server).", ("route", "side"))
LATENCY = Histogram(
    "kfp_vision_request_seconds", "From a request's header to the end of its answer.", ("route",), buckets=LATENCIES
)
PICTURES = Counter("kfp_vision_pictures", "Pictures that were named, searched for, or refused.", ("model", "outcome"))
WAITING = Gauge("kfp_vision_waiting_pictures", "Pictures that have come and are not answered yet.", ("model",))
BATCH_SIZE = Histogram("kfp_vision_batch_pictures", "Pictures that were computed together.", ("model",), buckets=SIZES)
BATCH_SECONDS = Histogram("kfp_vision_batch_seconds", "What a batch took to compute.", ("model",), buckets=LATENCIES)
VERSION = Gauge("kfp_vision_model_version", "The version that answers.", ("model",))
INDEXED = Gauge("kfp_vision_index_pictures", "Pictures in the index that is searched in.", ("model",))

log = logging.getLogger("kfp_vision.requests")


@dataclass
class Note:
    """What is learnt of a request while it is answered.

    Attributes:
        status: of HTTP, or the one that stands for a code of gRPC.
        model: which was asked; empty for none.
        version: which answered; 0 for none.
        pictures: how many it holds.
    """

    status: int = 500
    model: str = ""
    version: int = 0
    pictures: int = 0


_note: ContextVar[Note] = ContextVar("note")


def tell(model: str, version: int, pictures: int) -> None:
    """Adds to the line of the request that is being answered."""
    if note := _note.get(None):
        note.model, note.version, note.pictures = model, version, pictures


class Observed:
    """Counts and times every request, and writes its line when it has been answered."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with noted(route(scope["path"]), scope["method"], scope["path"]) as note:

            async def seen(message: Any) -> None:
                if message["type"] == "http.response.start":
                    note.status = message["status"]
                await send(message)

            await self.app(scope, receive, seen)


@contextlib.contextmanager
def noted(kind: str, method: str, path: str) -> Iterator[Note]:
    """Counts and times a request of a kind, and writes its line, with what the body sets of its note and what is told."""
    note, start = Note(), time.perf_counter()
    _note.set(note)
    try:
        yield note
    finally:
        seconds = time.perf_counter() - start
        REQUESTS.labels(kind, note.status).inc()
        LATENCY.labels(kind).observe(seconds)
        if note.status >= 400:
            ERRORS.labels(kind, "server" if note.status >= 500 else "client").inc()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        asked = {"time": now, "method": method, "path": shown(path, LONGEST_PATH)}
        log.info(json.dumps(asked | {"milliseconds": round(1000 * seconds, 1)} | asdict(note)))


def open_log() -> None:
    """Has the lines written to the standard output, in place of uvicorn's own."""
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("uvicorn.access").handlers.clear()


def route(path: str) -> str:
    """What kind of request it is: one of a few, whatever is asked for."""
    for verb in ("predict", "search"):
        if path.endswith(f":{verb}"):
            return verb
    if "/index/thumbnails/" in path:
        return "thumbnail"
    if path.endswith("/infer"):
        return "infer"
    if path.startswith("/v2/health/"):
        return "health"
    return {"/": "page", "/metrics": "metrics"}.get(path, "other")
