"""A version that answers: loaded and warmed up, with the pictures of all requests that wait for it."""

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from kfp_vision import hardware
from kfp_vision.pictures import Refused
from kfp_vision.prediction import Answer, Classifier, damaged, readable
from kfp_vision.repository import Version
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
    its own, encoded pictures are what is computed together.

    Args:
        version: which is loaded.
        name: how the model is called in metrics; empty for its own name.

    Raises:
        InputError: it does not load, or does not answer as its description says.
    """

    def __init__(self, version: Version, name: str = ""):
        self.version, self._name = version, name or version.name
        self._classifier = Classifier(version, MAX_PIXELS)
        self._crop = _crop(self._classifier)
        self._threads = ThreadPoolExecutor(min(hardware.cores(), MOST_AT_ONCE), "pictures")
        self._batches = Batcher(self._compute)  # one at a time: it computes on all cores, and two would be in each other's way
        self._inside = 0
        self._waiting = observing.WAITING.labels(self._name)
        trial = self._prepare(_noise("JPEG"))
        for size in WARMED_UP:
            self._answers([trial] * size)

    async def name(self, pictures: Sequence[bytes | Refused]) -> list[Answer]:
        """An answer for each encoded picture, all of this version; those that are refused already keep their reason.

        Raises:
            Busy: too many wait.
        """
        if self._inside + len(pictures) > MAX_WAITING:
            raise Busy(f"{self._inside} pictures wait already; got {len(pictures)} more. Send them again in a moment.")
        self._enter(len(pictures))
        try:
            answers = await asyncio.gather(*map(self._named, pictures))
        finally:
            self._enter(-len(pictures))
        refused = sum(isinstance(answer, Refused) for answer in answers)
        observing.PICTURES.labels(self._name, "refused").inc(refused)
        observing.PICTURES.labels(self._name, "named").inc(len(answers) - refused)
        return answers

    def _enter(self, count: int) -> None:
        self._inside += count
        self._waiting.inc(count)

    async def _named(self, picture: bytes | Refused) -> Answer:
        if isinstance(picture, Refused):
            return picture
        ready = await asyncio.get_running_loop().run_in_executor(self._threads, self._prepare, picture)
        return ready if isinstance(ready, Refused) else await self._batches.result(ready)

    def _prepare(self, picture: bytes) -> Any:
        """What is computed of a picture, or why nothing is."""
        encoded = readable(picture, MAX_PIXELS)
        return encoded if isinstance(encoded, Refused) or not self._crop else self._crop(encoded)

    def _compute(self, prepared: list[Any]) -> Sequence[Answer]:
        observing.BATCH_SIZE.labels(self._name).observe(len(prepared))
        with observing.BATCH_SECONDS.labels(self._name).time():
            return self._answers(prepared)

    def _answers(self, prepared: list[Any]) -> Sequence[Answer]:
        return self._classifier.of_crops(prepared) if self._crop else self._classifier.answers(prepared)


def _crop(classifier: Classifier) -> Callable[[bytes], Any] | None:
    """From an encoded picture to what the signature `pixels` takes, or why there is none; nothing where the export's own
    crops are others.
    """
    size = classifier.crop_size
    if not size:
        return None
    import tensorflow as tf

    from kfp_vision import inputs

    graph = tf.function(lambda encoded: inputs.central_crop(encoded, size))
    graph = graph.get_concrete_function(tf.TensorSpec((), tf.string))

    def crop(encoded: bytes) -> Any:
        try:
            return graph(tf.constant(encoded))
        except tf.errors.InvalidArgumentError as error:
            return damaged(error)

    for image_format in ("JPEG", "PNG"):
        encoded = _noise(image_format)
        (apart,), together = classifier.of_crops([crop(encoded)]), classifier.probabilities([encoded])
        if not np.abs(apart.probabilities - together).max() <= SAME:
            return None
    return crop


def _noise(image_format: str) -> bytes:
    """A picture on which another crop would show: coarse noise, larger than most networks' pictures, and not square."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, image_format)
    return file.getvalue()
