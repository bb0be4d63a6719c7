"""Pictures to vectors: what the class layer of a network sees of each, of length 1, so that alike pictures lie close."""

import io
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from kfp_vision import hardware, parallel
from kfp_vision.errors import InputError
from kfp_vision.pictures import MAX_PIXELS, Refused, checked_with_small
from kfp_vision.prediction import Classifier
from kfp_vision.repository import Version

BATCH = 32
BATCHES_AT_ONCE = 2  # the threads of one wait for each other at every layer, and compute the other's meanwhile
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 128, 75  # the longer side in pixels, JPEG

Prepared = tuple[Any, bytes] | Refused  # a crop and a thumbnail
Embedded = tuple[np.ndarray, bytes] | Refused


class Embedder:
    """An exported model that gives embeddings.

    Args:
        version: the SavedModel, with what it says of itself.
        max_pixels: a larger picture is refused.

    Attributes:
        fingerprint: of the version; vectors of one are not to be compared with those of another.
        dimension: of the vectors.

    Raises:
        InputError: it does not load, or was exported by a version of this library that gave no embeddings.
    """

    def __init__(self, version: Version, max_pixels: int = MAX_PIXELS):
        self.fingerprint, self._max_pixels = version.fingerprint, max_pixels
        self._classifier = Classifier(version, max_pixels)
        check_embeds(self._classifier, version)
        self._crop, size = self._classifier.cropper(), self._classifier.crop_size
        self.dimension = int(self._classifier.embeddings([np.zeros((size, size, 3), "float32")]).shape[1])

    def embedded(self, pictures: Iterable[bytes | Refused], *, filled: bool = False) -> Iterator[Embedded]:
        """For each encoded picture its vector, float32 (dimension,), and a thumbnail (JPEG); or why there are none.

        Pictures are decoded by threads while the ones before are computed; a few batches are in memory.

        Args:
            pictures: encoded, or refused already.
            filled: whether a batch that lacks pictures is filled up. TensorFlow takes other ways through smaller ones, so that
                the last bits of a vector would depend on how many pictures there are beside it.
        """
        prepared = parallel.mapped(self._prepared, pictures, workers=hardware.cores(), limit=2 * BATCH)
        computed = partial(self._computed, filled=filled)
        for batch in parallel.mapped(computed, _batches(prepared), workers=BATCHES_AT_ONCE, limit=BATCHES_AT_ONCE):
            yield from batch

    def one(self, picture: bytes) -> np.ndarray:
        """The vector of a picture, float32 (dimension,).

        Raises:
            Refused: it cannot be read.
        """
        (found,) = self.embedded([picture])
        if isinstance(found, Refused):
            raise found
        return found[0]

    def _prepared(self, picture: bytes | Refused) -> Prepared:
        if isinstance(picture, Refused):
            return picture
        try:
            whole, small = checked_with_small(picture, THUMBNAIL_SIDE, self._max_pixels)
        except Refused as reason:
            return reason
        crop = self._crop(whole.encoded)
        return crop if isinstance(crop, Refused) else (crop, thumbnail(small))

    def _computed(self, batch: list[Prepared], *, filled: bool) -> list[Embedded]:
        crops = [one[0] for one in batch if not isinstance(one, Refused)]
        beside = crops[:1] * (BATCH - len(crops)) if filled else []
        vectors = iter(self._classifier.embeddings(crops + beside) if crops else [])
        return [one if isinstance(one, Refused) else (next(vectors), one[1]) for one in batch]


def _batches(prepared: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    while batch := list(islice(prepared, BATCH)):
        yield batch


def check_embeds(classifier: Classifier, version: Version) -> None:
    """Refuses a model that gives no embeddings.

    Raises:
        InputError: it was exported by a version of this library that had none, or by somebody else.
    """
    if not classifier.gives_embeddings:
        rule = "a model must give embeddings to be searched with"
        raise InputError(rule, f"none of {version.folder}", "Train it again, or export it with this version of kfp-vision.")


def thumbnail(picture: Image.Image) -> bytes:
    """A picture as a small JPEG."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
