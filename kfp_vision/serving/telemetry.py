"""Telemetry: Prometheus metrics, and one line of JSON per request. Neither contains an image or a token."""

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

from kfp_vision.collection.drift import Drift
from kfp_vision.core.errors import format_value
from kfp_vision.serving.batching import MAX_BATCH_SIZE
from kfp_vision.serving.middleware import ASGIApp, Receive, Scope, Send

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZE_BUCKETS = tuple(2**power for power in range(MAX_BATCH_SIZE.bit_length()))
MAX_PATH_LENGTH = 200

REQUESTS = Counter("kfp_vision_requests", "Requests answered.", ("route", "status"))
ERRORS = Counter("kfp_vision_errors", "Requests answered with 4xx (client) or 5xx (server).", ("route", "side"))
LATENCY = Histogram(
    "kfp_vision_request_seconds",
    "Time from a request's headers to the end of its response.",
    ("route",),
    buckets=LATENCY_BUCKETS,
)
IMAGES_TOTAL = Counter("kfp_vision_pictures", "Images classified, searched for, explained, or rejected.", ("model", "outcome"))
WAITING_IMAGES = Gauge("kfp_vision_waiting_pictures", "Images received and not answered yet.", ("model",))
BATCH_SIZE = Histogram("kfp_vision_batch_pictures", "Images per batch.", ("model",), buckets=BATCH_SIZE_BUCKETS)
BATCH_SECONDS = Histogram("kfp_vision_batch_seconds", "Time to compute a batch.", ("model",), buckets=LATENCY_BUCKETS)
MODEL_VERSION = Gauge("kfp_vision_model_version", "The model version that answers.", ("model",))
COLLECTED = Counter("kfp_vision_collected", "Answers written to the collection, dropped, or lost.", ("model", "outcome"))
DRIFTED = Gauge("kfp_vision_drifted", "Whether the last check of the version that answers has found a drift.", ("model",))
DRIFT_P_VALUE = Gauge("kfp_vision_drift_p_value", "P values of that check, by what was compared.", ("model", "of"))
INDEX_IMAGES = Gauge("kfp_vision_index_pictures", "Images in the search index.", ("model",))

request_log = logging.getLogger("kfp_vision.requests")


def note_drift(model: str, drift: Drift | None) -> None:
    """Shows the last check for drift in the metrics.

    Args:
        model: name of the model in URLs.
        drift: the check; None if there was none of the version that answers, which is shown as no drift.
    """
    DRIFTED.labels(model).set(bool(drift and drift.drifted))
    DRIFT_P_VALUE.labels(model, "images").set(drift.embeddings_p if drift else 1)
    DRIFT_P_VALUE.labels(model, "novel").set(drift.novel_p if drift else 1)
    DRIFT_P_VALUE.labels(model, "classes").set(drift.shares_p if drift else 1)


@dataclass
class RequestNote:
    """The fields of a request's log line that are known only while it is answered.

    Attributes:
        status: HTTP status, or the one equivalent to the gRPC code.
        model: the requested model; empty for none.
        version: the version that answered; 0 for none.
        pictures: number of images in the request.
    """

    status: int = 500
    model: str = ""
    version: int = 0
    pictures: int = 0


_note: ContextVar[RequestNote] = ContextVar("note")


def annotate_request(model: str, version: int, images: int) -> None:
    """Sets fields of the current request's log line.

    Args:
        model: the requested model.
        version: the version that answers.
        images: number of images in the request.
    """
    if note := _note.get(None):
        note.model, note.version, note.pictures = model, version, images


class RequestTelemetry:
    """Middleware that counts, times and logs every HTTP request.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, and logs it when it is answered (arguments as ASGI defines them)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with record_request(route_label(scope["path"], scope["method"]), scope["method"], scope["path"]) as note:

            async def send_and_note(message: Any) -> None:
                if message["type"] == "http.response.start":
                    note.status = message["status"]
                await send(message)

            await self.app(scope, receive, send_and_note)


@contextlib.contextmanager
def record_request(kind: str, method: str, path: str) -> Iterator[RequestNote]:
    """Counts, times and logs a request, which the body answers.

    Args:
        kind: the route's label in the metrics.
        method: HTTP method, or `GRPC`.
        path: the path requested.

    Yields:
        The fields of the log line, for the body to set.
    """
    note, start = RequestNote(), time.perf_counter()
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
        request = {"time": now, "method": method, "path": format_value(path, MAX_PATH_LENGTH)}
        request_log.info(json.dumps(request | {"milliseconds": round(1000 * seconds, 1)} | asdict(note)))


def open_request_log() -> None:
    """Writes the request log to standard output, in place of uvicorn's access log."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    request_log.addHandler(handler)
    request_log.setLevel(logging.INFO)
    request_log.propagate = False
    logging.getLogger("uvicorn.access").handlers.clear()


def route_label(path: str, method: str) -> str:
    """Returns the metrics label of a request: one of a fixed few, so that clients cannot create new time series."""
    if method == "OPTIONS":  # a browser's question before the request of a page elsewhere
        return "preflight"
    for verb in ("predict", "search", "explain"):
        if path.endswith(f":{verb}"):
            return verb
    if "/index/thumbnails/" in path:
        return "thumbnail"
    if path.endswith("/infer"):
        return "infer"
    if path.startswith("/v2/health/"):
        return "health"
    return {"/": "page", "/metrics": "metrics"}.get(path, "other")
