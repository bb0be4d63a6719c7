"""Inference with a loaded model version: classifies and embeds the images of all requests in shared batches."""

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kfp_vision.core import hardware
from kfp_vision.dataset.images import Rejected
from kfp_vision.prediction.classifier import Answer, Classifier, to_decodable
from kfp_vision.repository.version import Version
from kfp_vision.search.embedding import check_has_embeddings
from kfp_vision.serving import telemetry
from kfp_vision.serving.batching import MAX_BATCH_SIZE, DynamicBatcher

MAX_PIXELS = 50_000_000
MAX_WAITING_IMAGES = 1024  # images, some seconds of work; later requests get 503 and Retry-After rather than a long wait
MAX_DECODING_THREADS = 4  # images decoded at a time, each of which may take 700 MB; enough for thousands a second
MAX_CROP_DIFFERENCE = 1e-3  # largest difference between the probabilities of an image and of its crop
WARM_UP_BATCH_SIZES = (1, MAX_BATCH_SIZE)  # batch sizes whose first run is slow

Crop = Callable[[bytes], Any]


class Overloaded(Exception):
    """Too many images are waiting already."""


class LoadedModel:
    """A loaded model version that classifies the images of all requests in shared batches.

    Each image is checked, decoded and cropped on its own, in parallel with running batches, so that a damaged image
    affects no other; the crops are batched. Where the version has no signature for crops, or crops images differently
    itself, the encoded images are batched instead. Embeddings are always computed from crops.

    Args:
        version: the version to load.
        name: the model's name in metrics; empty for its own.

    Raises:
        InputError: the version does not load, or does not answer as its description says.
    """

    def __init__(self, version: Version, name: str = ""):
        self.version, self._name = version, name or version.name
        self._classifier = Classifier(version, MAX_PIXELS)
        self._cropper = self._classifier.make_cropper() if self._classifier.crop_size else None
        self._crop = _if_equivalent(self._cropper, self._classifier)
        self._decoding = ThreadPoolExecutor(min(hardware.cores(), MAX_DECODING_THREADS), "pictures")
        computing = ThreadPoolExecutor(1, "batches")  # one batch uses all cores; two would slow each other down
        self._predictions = DynamicBatcher(self._predict_batch, threads=computing)
        self._embeddings = DynamicBatcher(self._embed_batch, threads=computing)
        self._in_flight = 0
        self._waiting = telemetry.WAITING_IMAGES.labels(self._name)
        sample = _prepare(_noise("JPEG"), self._crop)
        for size in WARM_UP_BATCH_SIZES:
            self._predict([sample] * size)

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
            answers = await asyncio.gather(*(self._submit(image, self._crop, self._predictions) for image in images))
        self.count(answers, "named")
        return answers

    async def embed(self, image: bytes) -> npt.NDArray[np.float32] | Rejected:
        """Computes the embedding of an image.

        Args:
            image: encoded.

        Returns:
            The input of the classification head, float32 (width,), of length 1; or why the image was rejected.
        """
        embedding: npt.NDArray[np.float32] | Rejected = await self._submit(image, self._cropper, self._embeddings)
        return embedding

    def warm_up_embeddings(self) -> None:
        """Runs the embedding batches whose first run is slow.

        Raises:
            InputError: the version has no embeddings.
        """
        check_has_embeddings(self._classifier, self.version)
        sample = _prepare(_noise("JPEG"), self._cropper)
        for size in WARM_UP_BATCH_SIZES:
            self._classifier.embed_crops([sample] * size)

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

    async def _submit(self, image: bytes | Rejected, crop: Crop | None, batches: DynamicBatcher) -> Any:
        if isinstance(image, Rejected):
            return image
        prepared = await asyncio.get_running_loop().run_in_executor(self._decoding, _prepare, image, crop)
        return prepared if isinstance(prepared, Rejected) else await batches.submit(prepared)

    def _predict_batch(self, prepared: list[Any]) -> Sequence[Answer]:
        with self._measure_batch(len(prepared)):
            return self._predict(prepared)

    def _embed_batch(self, crops: list[Any]) -> Sequence[npt.NDArray[np.float32]]:
        with self._measure_batch(len(crops)):
            return list(self._classifier.embed_crops(crops))

    @contextlib.contextmanager
    def _measure_batch(self, size: int) -> Iterator[None]:
        telemetry.BATCH_SIZE.labels(self._name).observe(size)
        with telemetry.BATCH_SECONDS.labels(self._name).time():
            yield

    def _predict(self, prepared: list[Any]) -> Sequence[Answer]:
        return self._classifier.classify_crops(prepared) if self._crop else self._classifier.classify_valid(prepared)


def _prepare(image: bytes, crop: Crop | None) -> Any:
    """Returns the crop of an image, without `crop` the image as TensorFlow reads it, or why it is rejected."""
    encoded = to_decodable(image, MAX_PIXELS)
    return encoded if isinstance(encoded, Rejected) or not crop else crop(encoded)


def _if_equivalent(crop: Crop | None, classifier: Classifier) -> Crop | None:
    """Returns a cropper if the export gives the same probabilities for its crops as for whole images."""
    if not crop:
        return None
    for image_format in ("JPEG", "PNG"):
        encoded = _noise(image_format)
        (cropped,), whole = classifier.classify_crops([crop(encoded)]), classifier.probabilities([encoded])
        if not np.abs(cropped.probabilities - whole).max() <= MAX_CROP_DIFFERENCE:
            return None
    return crop


def _noise(image_format: str) -> bytes:
    """Encodes an image that reveals a different crop: coarse noise, larger than most networks' input, and not square."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, image_format)
    return file.getvalue()
