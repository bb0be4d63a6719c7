"""Computes embeddings of images, of length 1, with an exported model: similar images have similar embeddings."""

import io
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kfp_vision.core import hardware, threads
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import MAX_PIXELS, Rejected, validate_and_decode
from kfp_vision.engines.choice import load_engine
from kfp_vision.engines.engine import Engine
from kfp_vision.repository.version import Version

EMBEDDING_BATCH_SIZE = 32  # images
CONCURRENT_BATCHES = 2  # the threads of a batch wait for each other at every layer; a second batch fills these gaps
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 128, 75  # longer side in pixels; of the JPEG

PreparedImage = tuple[Any, bytes] | Rejected  # a crop and a thumbnail
EmbeddedImage = tuple[npt.NDArray[np.float32], bytes] | Rejected  # an embedding and a thumbnail


class Embedder:
    """An exported model that computes embeddings.

    Args:
        version: The SavedModel with its metadata.
        max_pixels: Larger images are rejected.

    Attributes:
        fingerprint: Fingerprint of the version; embeddings of different versions are not comparable.
        dimension: Dimension of the embeddings.

    Raises:
        InputError: The model does not load, or was exported without embeddings.
    """

    def __init__(self, version: Version, max_pixels: int = MAX_PIXELS):
        self.fingerprint, self._max_pixels = version.fingerprint, max_pixels
        self._engine = load_engine(version)
        check_has_embeddings(self._engine, version)
        size = self._engine.crop_size
        self.dimension = int(self._engine.embeddings([np.zeros((size, size, 3), "float32")]).shape[1])

    def embed(self, images: Iterable[bytes | Rejected], *, pad_batches: bool = False) -> Iterator[EmbeddedImage]:
        """Computes the embeddings and thumbnails of images.

        Threads decode images while earlier ones are computed; a few batches are in memory at a time.

        Args:
            images: Encoded images, or why they were rejected.
            pad_batches: Whether to pad incomplete batches. Engines use other kernels for smaller batches, so that without
                padding the last bits of an embedding depend on the number of images in its batch.

        Yields:
            For each image its embedding, float32 (dimension,), and its thumbnail (JPEG); or why it was rejected.
        """
        prepared = threads.ordered_map(self._prepare, images, workers=hardware.cores(), limit=2 * EMBEDDING_BATCH_SIZE)
        compute = partial(self._compute, pad=pad_batches)
        for batch in threads.ordered_map(compute, _batches(prepared), workers=CONCURRENT_BATCHES, limit=CONCURRENT_BATCHES):
            yield from batch

    def embed_one(self, image: bytes) -> npt.NDArray[np.float32]:
        """Computes the embedding of one image.

        Args:
            image: Encoded image.

        Returns:
            The embedding, float32 (dimension,).

        Raises:
            Rejected: The image cannot be read.
        """
        (found,) = self.embed([image])
        if isinstance(found, Rejected):
            raise found
        return found[0]

    def _prepare(self, image: bytes | Rejected) -> PreparedImage:
        if isinstance(image, Rejected):
            return image
        try:
            valid, small = validate_and_decode(image, THUMBNAIL_SIDE, self._max_pixels)
        except Rejected as reason:
            return reason
        crop = self._engine.crop(valid.encoded, self._max_pixels)
        return crop if isinstance(crop, Rejected) else (crop, encode_thumbnail(small))

    def _compute(self, batch: list[PreparedImage], *, pad: bool) -> list[EmbeddedImage]:
        crops = [one[0] for one in batch if not isinstance(one, Rejected)]
        padding = crops[:1] * (EMBEDDING_BATCH_SIZE - len(crops)) if pad else []
        vectors: Iterator[npt.NDArray[np.float32]] = iter(self._engine.embeddings(crops + padding) if crops else [])
        return [one if isinstance(one, Rejected) else (next(vectors), one[1]) for one in batch]


def _batches(prepared: Iterator[PreparedImage]) -> Iterator[list[PreparedImage]]:
    while batch := list(islice(prepared, EMBEDDING_BATCH_SIZE)):
        yield batch


def check_has_embeddings(engine: Engine, version: Version) -> None:
    """Checks that a model computes embeddings.

    Args:
        engine: The loaded model.
        version: The version it was loaded from, for error messages.

    Raises:
        InputError: It was exported by an early version of this library or by another tool.
    """
    if not engine.has_embeddings:
        rule = "a model must compute embeddings to be searched with"
        raise InputError(rule, f"none from {version.folder}", "Train it again, or export it with this version of kfp-vision.")


def encode_thumbnail(image: Image.Image) -> bytes:
    """Encodes an image as a small JPEG.

    Args:
        image: The image; not changed.

    Returns:
        A JPEG whose longer side has at most `THUMBNAIL_SIDE` pixels.
    """
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
