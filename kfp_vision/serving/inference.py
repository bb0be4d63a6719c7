"""Inference with a loaded model version: classifies, embeds and explains the images of all requests in shared batches."""

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kfp_vision.core import hardware
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines.engine import Sight
from kfp_vision.prediction import overlay
from kfp_vision.prediction.classifier import Answer, Classifier
from kfp_vision.prediction.explanation import Choice, Explanation, explain_seen
from kfp_vision.repository.version import Version
from kfp_vision.search.embedding import check_has_embeddings
from kfp_vision.serving import telemetry
from kfp_vision.serving.batching import MAX_BATCH_SIZE, DynamicBatcher

MAX_PIXELS = 50_000_000
MAX_WAITING_IMAGES = 1024  # images, some seconds of work; later requests get 503 and Retry-After rather than a long wait
MAX_DECODED_IMAGES = 4 * MAX_BATCH_SIZE  # of 0.6 MB each at 224 pixels; the others wait as they came
MAX_DECODING_THREADS = 4  # images decoded at a time, each of which may take 700 MB; enough for thousands a second
OVERLAY_SIDE = 640  # pixels, the most of an image with a map laid over it: a screen of a phone, in 60 KB
WARM_UP_BATCH_SIZES = (1, MAX_BATCH_SIZE)  # batch sizes whose first run is slow


class Overloaded(Exception):
    """Too many images are waiting already."""


class LoadedModel:
    """A loaded model version that classifies the images of all requests in shared batches.

    Each image is checked, decoded and cropped on its own, in parallel with running batches, so that a damaged image
    affects no other; the crops are batched.

    Args:
        version: the version to load.
        name: the model's name in metrics; empty for its own.
        keep_embeddings: whether predictions get the embeddings of their images.

    Raises:
        InputError: the version does not load, or does not answer as its description says.
    """

    def __init__(self, version: Version, name: str = "", *, keep_embeddings: bool = False):
        self.version, self._name = version, name or version.name
        self._classifier = Classifier(version, MAX_PIXELS, keep_embeddings=keep_embeddings)
        self._engine = self._classifier.engine
        self._decoding = ThreadPoolExecutor(min(hardware.cores(), MAX_DECODING_THREADS), "pictures")
        computing = ThreadPoolExecutor(1, "batches")  # one batch uses all cores; two would slow each other down
        self._predictions = DynamicBatcher(self._predict_batch, threads=computing)
        self._embeddings = DynamicBatcher(self._embed_batch, threads=computing)
        self._explanations = DynamicBatcher(self._explain_batch, threads=computing)
        self._decoded = asyncio.Semaphore(MAX_DECODED_IMAGES)
        self._in_flight = 0
        self._waiting = telemetry.WAITING_IMAGES.labels(self._name)
        sample = self._classifier.prepare(_sample())
        for size in WARM_UP_BATCH_SIZES:
            self._classifier.classify_prepared([sample] * size)

    @property
    def engine(self) -> str:
        """What computes, and in which precision."""
        return self._engine.description

    @property
    def tells_known(self) -> bool:
        """Whether predictions say if an image is known."""
        return self._classifier.novelty is not None

    async def classify(self, images: Sequence[bytes | Rejected]) -> list[Answer]:
        """Classifies encoded images, all with this version.

        Args:
            images: encoded, or why an image was rejected already.

        Returns:
            For each image a prediction, or why it was rejected.

        Raises:
            Busy: too many images are waiting.
        """
        with self.reserve(len(images)):
            prepare = self._classifier.prepare
            answers = await asyncio.gather(*(self._submit(image, prepare, self._predictions) for image in images))
        named = [answer for answer in answers if isinstance(answer, Rejected) or answer.labels]
        self.count(named, "named")
        if self.version.several:
            telemetry.IMAGES_TOTAL.labels(self._name, "none").inc(len(answers) - len(named))
        return answers

    async def embed(self, image: bytes) -> npt.NDArray[np.float32] | Rejected:
        """Computes the embedding of an image.

        Args:
            image: encoded.

        Returns:
            The input of the classification head, float32 (width,), of length 1; or why the image was rejected.
        """
        embedding: npt.NDArray[np.float32] | Rejected = await self._submit(image, self._crop, self._embeddings)
        return embedding

    @property
    def has_maps(self) -> bool:
        """Whether the version has class activation maps to explain its answers."""
        return self._engine.has_maps

    async def explain(
        self, images: Sequence[bytes | Rejected], choose: Choice, *, lay_over: bool
    ) -> list[tuple[Explanation, list[bytes]] | Rejected]:
        """Explains the classification of encoded images, all with this version; only if `has_maps`.

        Args:
            images: encoded, or why an image was rejected already.
            choose: chooses the classes to explain.
            lay_over: whether to lay the maps over the images.

        Returns:
            For each image the explanation and a JPEG for each of its maps, none unless asked for; or why it was rejected.

        Raises:
            Busy: too many images are waiting.
        """
        with self.reserve(len(images)):
            explained = await asyncio.gather(*(self._explain(image, choose, lay_over) for image in images))
        self.count(explained, "explained")
        return explained

    def warm_up_embeddings(self) -> None:
        """Runs the embedding batches whose first run is slow.

        Raises:
            InputError: the version has no embeddings.
        """
        check_has_embeddings(self._engine, self.version)
        sample = self._crop(_sample())
        for size in WARM_UP_BATCH_SIZES:
            self._engine.embeddings([sample] * size)

    @contextlib.contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Counts images as waiting while the body runs.

        Args:
            count: number of images.

        Raises:
            Busy: too many images are waiting.
        """
        if self._in_flight + count > MAX_WAITING_IMAGES:
            found = f"{count} more with {self._in_flight} waiting"
            raise Overloaded(f"at most {MAX_WAITING_IMAGES} images may wait; got {found}. Send them again in a moment.")
        self._add_waiting(count)
        try:
            yield
        finally:
            self._add_waiting(-count)

    def count(self, answers: Sequence[Any], outcome: str) -> None:
        """Adds answers to the metrics.

        Args:
            answers: one for each image; those rejected are counted as such.
            outcome: the label that the others are counted under.
        """
        rejected = sum(isinstance(answer, Rejected) for answer in answers)
        telemetry.IMAGES_TOTAL.labels(self._name, "refused").inc(rejected)
        telemetry.IMAGES_TOTAL.labels(self._name, outcome).inc(len(answers) - rejected)

    def _add_waiting(self, count: int) -> None:
        self._in_flight += count
        self._waiting.inc(count)

    async def _submit(self, image: bytes | Rejected, prepare: Callable[[bytes], Any], batches: DynamicBatcher) -> Any:
        if isinstance(image, Rejected):
            return image
        async with self._decoded:
            prepared = await asyncio.get_running_loop().run_in_executor(self._decoding, prepare, image)
            return prepared if isinstance(prepared, Rejected) else await batches.submit(prepared)

    async def _explain(
        self, image: bytes | Rejected, choose: Choice, lay_over: bool
    ) -> tuple[Explanation, list[bytes]] | Rejected:
        def look(encoded: bytes) -> tuple[Sight, Choice] | Rejected:
            sight = self._classifier.look(encoded)
            return sight if isinstance(sight, Rejected) else (sight, choose)

        if isinstance(image, Rejected):
            return image
        explanation: Explanation | Rejected = await self._submit(image, look, self._explanations)
        if isinstance(explanation, Rejected):
            return explanation
        if not lay_over:
            return explanation, []
        draw = partial(overlay.lay_over, image, explanation, OVERLAY_SIDE, MAX_PIXELS)
        try:
            return explanation, await asyncio.get_running_loop().run_in_executor(self._decoding, draw)
        except Rejected as reason:
            return reason

    def _predict_batch(self, prepared: list[Any]) -> Sequence[Answer]:
        with self._measure_batch(len(prepared)):
            return self._classifier.classify_prepared(prepared)

    def _embed_batch(self, crops: list[Any]) -> Sequence[npt.NDArray[np.float32]]:
        with self._measure_batch(len(crops)):
            return list(self._engine.embeddings(crops))

    def _explain_batch(self, seen: list[tuple[Sight, Choice]]) -> Sequence[Explanation]:
        with self._measure_batch(len(seen)):
            return explain_seen(self._classifier, seen)

    def _crop(self, image: bytes) -> Any | Rejected:
        return self._engine.crop(image, MAX_PIXELS)

    @contextlib.contextmanager
    def _measure_batch(self, size: int) -> Iterator[None]:
        telemetry.BATCH_SIZE.labels(self._name).observe(size)
        with telemetry.BATCH_SECONDS.labels(self._name).time():
            yield


def _sample() -> bytes:
    """Encodes an image as large as photographs are; what the first one makes slow is done before a request comes."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()
