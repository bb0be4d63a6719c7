"""What the server tells of itself: Prometheus' metrics, and a line of JSON a request. Neither holds a picture or a token."""

import json
import logging
import sys
import time
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
LATENCY = Histogram("kfp_vision_request_seconds", "From a request's header to the end of its answer.", ("route",), buckets=LATENCIES)
PICTURES = Counter("kfp_vision_pictures", "Pictures that were named, or refused as unreadable.", ("model", "outcome"))
WAITING = Gauge("kfp_vision_waiting_pictures", "Pictures that have come and are not answered yet.", ("model",))
BATCH_SIZE = Histogram("kfp_vision_batch_pictures", "Pictures that were computed together.", ("model",), buckets=SIZES)
BATCH_SECONDS = Histogram("kfp_vision_batch_seconds", "What a batch took to compute.", ("model",), buckets=LATENCIES)
VERSION = Gauge("kfp_vision_model_version", "The version that answers.", ("model",))

log = logging.getLogger("kfp_vision.requests")


@dataclass
class Told:
    """What is learnt of a request while it is answered.

    Attributes:
        model: which was asked; empty for none.
        version: which answered; 0 for none.
        pictures: how many it holds.
    """

    model: str = ""
    version: int = 0
    pictures: int = 0


_told: ContextVar[Told] = ContextVar("told")


def tell(model: str, version: int, pictures: int) -> None:
    """Adds to the line of the request that is being answered."""
    if told := _told.get(None):
        told.model, told.version, told.pictures = model, version, pictures


class Observed:
    """Counts and times every request, and writes its line when it has been answered."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, told = time.perf_counter(), 500, Told()
        _told.set(told)

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            _count(route(scope["path"]), status, time.perf_counter() - start)
            log.info(_line(scope, status, time.perf_counter() - start, told))


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
    if path.endswith(":predict"):
        return "predict"
    if path.endswith("/infer"):
        return "infer"
    if path.startswith("/v2/health/"):
        return "health"
    return {"/": "page", "/metrics": "metrics"}.get(path, "other")


def _count(kind: str, status: int, seconds: float) -> None:
    REQUESTS.labels(kind, status).inc()
    LATENCY.labels(kind).observe(seconds)
    if status >= 400:
        ERRORS.labels(kind, "server" if status >= 500 else "client").inc()


def _line(scope: Scope, status: int, seconds: float, told: Told) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    asked = {"time": now, "method": scope["method"], "path": shown(scope["path"], LONGEST_PATH)}
    return json.dumps(asked | {"status": status, "milliseconds": round(1000 * seconds, 1)} | asdict(told))
