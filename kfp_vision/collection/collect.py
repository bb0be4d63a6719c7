"""Collects a sample of a server's answers, in a thread beside it that never makes it wait.

Answers wait in memory until a batch is written, after `BATCH_SECONDS` or `BATCH_ANSWERS`. If they come faster than they can be
written, some are dropped and counted. What a killed server had answered since its last batch is lost, and nothing else.
"""

import math
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby

from kfp_vision.collection import retention
from kfp_vision.collection.collected import BATCH_SUFFIX, IMAGES_FOLDER, CollectedAnswer, pack_batch
from kfp_vision.collection.drift import Drift, read_drift
from kfp_vision.collection.settings import CollectSettings
from kfp_vision.core.errors import InputError
from kfp_vision.prediction.classifier import Prediction
from kfp_vision.repository.version import Version
from kfp_vision.storage import retry, uris, writing

BATCH_SECONDS, BATCH_ANSWERS, BATCH_BYTES = 10.0, 500, 16 << 20  # whichever is reached first; bytes of images
# Share of all megabytes that the images of a batch may have, since a collection is reduced by whole batches.
LARGEST_BATCH = 0.1
MAX_WAITING_ANSWERS, MAX_WAITING_BYTES = 10_000, 64 << 20  # in memory; more are dropped
RETENTION_SECONDS = 3600.0  # between two looks for what is too old
DRIFT_SECONDS = 60.0  # between two looks for the result of a check for drift
CLOSE_SECONDS = 10.0  # to write the last batch in
COLLECTED, DROPPED, LOST = "collected", "dropped", "lost"  # what becomes of an answer: written, no room, not writable
IMAGE_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
IMAGE_SUFFIXES |= {b"II": ".tif", b"MM": ".tif", b"P": ".ppm"}
OTHER_SUFFIX = ".heic"  # HEIC and AVIF begin with the length of their first box

Count = Callable[[str, str, int], None]  # counts answers: the model, what became of them, how many
NoteDrift = Callable[[str, Drift | None], None]  # takes the model, and the last check of the version that answers, if any


@dataclass(frozen=True)
class _Waiting:
    """An answer that is not written yet."""

    time: datetime
    model: str
    version: Version
    prediction: Prediction
    image: bytes


class Collector:
    """Collects a sample of answers; `offer` takes microseconds, everything else is done in a thread.

    Args:
        settings: what to collect, and where.
        count: called with what became of answers.
        note_drift: called with the last check for drift of each model, when there is another one.

    Example:
        collector = Collector(CollectSettings("collected", share=1.0), count=lambda model, outcome, number: None)
        collector.offer("flowers", version, prediction, encoded)
        collector.close()
    """

    def __init__(self, settings: CollectSettings, count: Count, note_drift: NoteDrift = lambda model, drift: None):
        self._settings, self._count, self._note_drift = settings, count, note_drift
        self._answering: dict[str, str] = {}  # the fingerprint of the version that answered last, by model
        self._noted: dict[str, Drift | None] = {}
        self._next_drift = -math.inf
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._lock, self._wake, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._bytes, self._next_retention = 0, -math.inf
        self._last_warning = ""
        writing.remove_partial_files(settings.uri)
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)
        self._thread.start()

    def offer(self, model: str, version: Version, prediction: Prediction, image: bytes) -> None:
        """Keeps an answer, if it is drawn for the sample and there is room.

        Args:
            model: its name in URLs.
            version: that answered.
            prediction: the answer.
            image: encoded.
        """
        if random.random() >= self._settings.share:
            return
        size = len(image) if self._settings.images else 0
        if len(self._waiting) >= MAX_WAITING_ANSWERS or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._count(model, DROPPED, 1)
            return
        with self._lock:
            self._waiting_bytes += size
            self._waiting.append(_Waiting(datetime.now(UTC), model, version, prediction, image if size else b""))
        if len(self._waiting) >= BATCH_ANSWERS or self._waiting_bytes >= BATCH_BYTES:
            self._wake.set()

    def close(self) -> None:
        """Writes what is waiting, for `CLOSE_SECONDS` at most, and ends the thread."""
        self._ended.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        is_last = False
        with retry.in_background():
            self._attempt(self._delete_old)
            while not is_last:
                self._wake.wait(BATCH_SECONDS)
                self._wake.clear()
                is_last = self._ended.is_set()  # read before the last batch is taken, so that nothing comes after it
                self._attempt(self._write_waiting)
                self._attempt(self._delete_old)
                self._attempt(self._look_for_drift)

    def _attempt(self, work: Callable[[], None]) -> None:
        """Does work whose failure must not end the thread, whatever it is; each failure is logged once."""
        try:
            work()
            self._last_warning = ""
        except (Exception, InputError) as error:
            said = str(error) if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {error}"
            if said != self._last_warning:
                self._last_warning = said
                print(f"warning: cannot collect answers ({self._last_warning.removeprefix(InputError.PREFIX)})", flush=True)

    def _write_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        self._answering |= {one.model: one.version.fingerprint for one in waiting}
        by_folder = sorted(waiting, key=_folder)  # stable, so that each batch is in order of time
        failure: Exception | InputError | None = None
        most = min(BATCH_BYTES, int(LARGEST_BATCH * self._settings.max_mb * 1e6))
        parts = ((folder, part) for folder, group in groupby(by_folder, key=_folder) for part in _parts(group, most))
        for folder, answers in parts:
            try:
                self._write_batch(uris.join_uri(self._settings.uri, folder), answers)
            except (Exception, InputError) as error:  # the batches of other models and days are written all the same
                failure = error
                self._count(answers[0].model, LOST, len(answers))
            else:
                self._count(answers[0].model, COLLECTED, len(answers))
        if failure:
            raise failure

    def _write_batch(self, folder: str, waiting: list[_Waiting]) -> None:
        answers = [_collected(one) for one in waiting]
        for answer, one in zip(answers, waiting, strict=True):
            if answer.image:
                self._write(one.image, uris.join_uri(folder, answer.image))
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}{BATCH_SUFFIX}"
        self._write(pack_batch(answers), uris.join_uri(folder, name))  # last, so that each image it names is there

    def _write(self, content: bytes, uri: str) -> None:
        writing.write_new_file(content, uri)
        self._bytes += len(content)

    def _look_for_drift(self) -> None:
        now = time.monotonic()
        if now < self._next_drift:
            return
        self._next_drift = now + DRIFT_SECONDS
        for model, fingerprint in self._answering.items():
            found = read_drift(self._settings.uri, model)
            found = found if found and found.fingerprint == fingerprint else None  # that of an earlier version says nothing
            if found != self._noted.get(model):
                self._noted[model] = found
                self._note_drift(model, found)

    def _delete_old(self) -> None:
        now, max_bytes = time.monotonic(), self._settings.max_mb * 1e6  # monotonic: a clock that is set back must not stop it
        if now >= self._next_retention or self._bytes > max_bytes:
            self._next_retention = now + RETENTION_SECONDS
            today = datetime.now(UTC).date()
            self._bytes = retention.delete_old(self._settings.uri, self._settings.days, max_bytes, today)


def _folder(waiting: _Waiting) -> str:
    return f"{waiting.model}/{waiting.time.date().isoformat()}"


def _parts(waiting: Iterable[_Waiting], most: int) -> Iterator[list[_Waiting]]:
    """Yields answers in order, in lists whose images have so many bytes at most, or that hold one answer."""
    part: list[_Waiting] = []
    size = 0
    for one in waiting:
        if part and size + len(one.image) > most:
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.image)
    if part:
        yield part


def _collected(waiting: _Waiting) -> CollectedAnswer:
    answer = make_answer(secrets.token_hex(16), waiting.time, waiting.model, waiting.version, waiting.prediction)
    return with_image(answer, waiting.image) if waiting.image else answer


def make_answer(name: str, time: datetime, model: str, version: Version, prediction: Prediction) -> CollectedAnswer:
    """Makes a collected answer of a prediction.

    Args:
        name: of the answer, 32 hexadecimal digits.
        time: of the answer.
        model: its name in URLs.
        version: that answered.
        prediction: the answer.

    Returns:
        The answer, without an image.
    """
    return CollectedAnswer(
        id=name,
        time=time.isoformat(timespec="milliseconds"),
        model=model,
        version=version.number,
        fingerprint=version.fingerprint,
        labels=prediction.labels,
        scores=dict(zip(version.labels, prediction.probabilities, strict=True)),
        several=prediction.several,
        known=prediction.known,
        known_score=prediction.known_score,
        embedding=prediction.embedding,
    )


def with_image(answer: CollectedAnswer, image: bytes) -> CollectedAnswer:
    """Returns the answer with the path of its image.

    Args:
        answer: to add it to.
        image: encoded.
    """
    return replace(answer, image=image_path(answer.id, image))


def image_path(name: str, image: bytes) -> str:
    """Returns the path of an image below the folder of its day.

    Args:
        name: of the answer.
        image: encoded; its first bytes tell the ending.
    """
    return f"{IMAGES_FOLDER}/{name}{_suffix(image)}"


def _suffix(image: bytes) -> str:
    return next((suffix for start, suffix in IMAGE_SUFFIXES.items() if image.startswith(start)), OTHER_SUFFIX)
