"""A version that answers: loaded and warmed up, with the pictures of all requests that wait for it."""

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from kfp_vision import hardware
from kfp_vision.pictures import Refused
from kfp_vision.prediction import Answer, Classifier, readable
from kfp_vision.repository import Version
from kfp_vision.search.embedding import check_embeds
from kfp_vision.serving import observing
from kfp_vision.serving.batching import MAX_BATCH, Batcher

MAX_PIXELS = 50_000_000
MAX_WAITING = 1024  # pictures, some seconds of work; who comes later is told to come again rather than kept waiting
MOST_AT_ONCE = 4  # pictures that are decoded, of which one may take 700 MB; enough for thousands a second
SAME = 1e-3  # what two ways to the same probabilities may differ by
WARMED_UP = (1, MAX_BATCH)  # batches whose first one is slow


class Busy(Exception):
    """More pictures wait than are worth waiting behind."""


class Loaded:
    """A version of a model, which names the pictures of all requests in common batches.

    Each picture is checked, decoded and cropped by itself, beside the computing of others, so that a damaged one harms nobody;
    the crops are computed together. Where a version's signatures do not allow that, or other crops would be those of
    its own, encoded pictures are what is computed together. Embeddings are computed in the same way, of crops alone.

    Args:
        version: which is loaded.
        name: how the model is called in metrics; empty for its own name.

    Raises:
        InputError: it does not load, or does not answer as its description says.
    """

    def __init__(self, version: Version, name: str = ""):
        self.version, self._name = version, name or version.name
        self._classifier = Classifier(version, MAX_PIXELS)
        self._cropper = self._classifier.make_cropper() if self._classifier.crop_size else None
        self._crop = _as_its_own(self._cropper, self._classifier)
        self._threads = ThreadPoolExecutor(min(hardware.cores(), MOST_AT_ONCE), "pictures")
        one = ThreadPoolExecutor(1, "batches")  # at a time: it computes on all cores, and two would be in each other's way
        self._batches, self._embeddings = Batcher(self._compute, threads=one), Batcher(self._embed, threads=one)
        self._inside = 0
        self._waiting = observing.WAITING.labels(self._name)
        trial = _prepared(_noise("JPEG"), self._crop)
        for size in WARMED_UP:
            self._answers([trial] * size)

    async def name(self, pictures: Sequence[bytes | Refused]) -> list[Answer]:
        """An answer for each encoded picture, all of this version; those that are refused already keep their reason.

        Raises:
            Busy: too many wait.
        """
        with self.waiting(len(pictures)):
            answers = await asyncio.gather(*(self._result(picture, self._crop, self._batches) for picture in pictures))
        self.count(answers, "named")
        return answers

    async def embedding(self, picture: bytes) -> np.ndarray | Refused:
        """What the class layer sees of an encoded picture, float32 (width,), of length 1; or why it sees nothing."""
        return await self._result(picture, self._cropper, self._embeddings)

    def warm_up_embeddings(self) -> None:
        """Computes first embeddings, which take longer than those after them.

        Raises:
            InputError: the version gives none.
        """
        check_embeds(self._classifier, self.version)
        trial = _prepared(_noise("JPEG"), self._cropper)
        for size in WARMED_UP:
            self._classifier.embed_crops([trial] * size)

    @contextlib.contextmanager
    def waiting(self, count: int) -> Iterator[None]:
        """As long as the body lasts, so many pictures more wait.

        Raises:
            Busy: too many do already.
        """
        if self._inside + count > MAX_WAITING:
            raise Busy(f"{self._inside} pictures wait already; got {count} more. Send them again in a moment.")
        self._enter(count)
        try:
            yield
        finally:
            self._enter(-count)

    def count(self, answers: Sequence[Any], outcome: str) -> None:
        """Has the metrics know what has become of pictures: an outcome, or a refusal."""
        refused = sum(isinstance(answer, Refused) for answer in answers)
        observing.PICTURES.labels(self._name, "refused").inc(refused)
        observing.PICTURES.labels(self._name, outcome).inc(len(answers) - refused)

    def _enter(self, count: int) -> None:
        self._inside += count
        self._waiting.inc(count)

    async def _result(self, picture: bytes | Refused, crop: Callable[[bytes], Any] | None, batches: Batcher) -> Any:
        if isinstance(picture, Refused):
            return picture
        ready = await asyncio.get_running_loop().run_in_executor(self._threads, _prepared, picture, crop)
        return ready if isinstance(ready, Refused) else await batches.result(ready)

    def _compute(self, prepared: list[Any]) -> Sequence[Answer]:
        with self._observed(len(prepared)):
            return self._answers(prepared)

    def _embed(self, crops: list[Any]) -> Sequence[np.ndarray]:
        with self._observed(len(crops)):
            return list(self._classifier.embed_crops(crops))

    @contextlib.contextmanager
    def _observed(self, size: int) -> Iterator[None]:
        observing.BATCH_SIZE.labels(self._name).observe(size)
        with observing.BATCH_SECONDS.labels(self._name).time():
            yield

    def _answers(self, prepared: list[Any]) -> Sequence[Answer]:
        return self._classifier.classify_crops(prepared) if self._crop else self._classifier.classify_valid(prepared)


def _prepared(picture: bytes, crop: Callable[[bytes], Any] | None) -> Any:
    """What is computed of a picture, or why nothing is: its crop; where there is none, the picture as TensorFlow reads it."""
    encoded = readable(picture, MAX_PIXELS)
    return encoded if isinstance(encoded, Refused) or not crop else crop(encoded)


def _as_its_own(crop: Callable[[bytes], Any] | None, classifier: Classifier) -> Callable[[bytes], Any] | None:
    """A cropper, if an export answers to its crops as to the pictures themselves."""
    if not crop:
        return None
    for image_format in ("JPEG", "PNG"):
        encoded = _noise(image_format)
        (apart,), together = classifier.classify_crops([crop(encoded)]), classifier.probabilities([encoded])
        if not np.abs(apart.probabilities - together).max() <= SAME:
            return None
    return crop


def _noise(image_format: str) -> bytes:
    """A picture on which another crop would show: coarse noise, larger than most networks' pictures, and not square."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, image_format)
    return file.getvalue()
