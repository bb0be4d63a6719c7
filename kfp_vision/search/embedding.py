"""Pictures to vectors: what the class layer of a network sees of each, of length 1, so that alike pictures lie close."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from kfp_vision import hardware, parallel
from kfp_vision.errors import InputError
from kfp_vision.pictures import MAX_PIXELS, Refused
from kfp_vision.prediction import Classifier, readable
from kfp_vision.repository import Version

BATCH = 32
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 128, 75  # the longer side in pixels, JPEG

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
        # A picture is prepared in an eighth of the work of computing it; as many threads as cores would be in its way.
        prepared = parallel.mapped(self._prepared, pictures, workers=max(1, hardware.cores() // 2), limit=2 * BATCH)
        while batch := list(islice(prepared, BATCH)):
            crops = [one[0] for one in batch if not isinstance(one, Refused)]
            beside = crops[:1] * (BATCH - len(crops)) if filled else []
            vectors = iter(self._classifier.embeddings(crops + beside) if crops else [])
            for one in batch:
                yield one if isinstance(one, Refused) else (next(vectors), one[1])

    def one(self, picture: bytes) -> np.ndarray:
        """The vector of a picture, float32 (dimension,).

        Raises:
            Refused: it cannot be read.
        """
        (found,) = self.embedded([picture])
        if isinstance(found, Refused):
            raise found
        return found[0]

    def _prepared(self, picture: bytes | Refused) -> tuple[Any, bytes] | Refused:
        encoded = picture if isinstance(picture, Refused) else readable(picture, self._max_pixels)
        if isinstance(encoded, Refused):
            return encoded
        crop = self._crop(encoded)
        return crop if isinstance(crop, Refused) else (crop, thumbnail(encoded))


def check_embeds(classifier: Classifier, version: Version) -> None:
    """Refuses a model that gives no embeddings.

    Raises:
        InputError: it was exported by a version of this library that had none, or by somebody else.
    """
    if not classifier.gives_embeddings:
        rule = "a model must give embeddings to be searched with"
        raise InputError(rule, f"none of {version.folder}", "Train it again, or export it with this version of kfp-vision.")


def thumbnail(encoded: bytes) -> bytes:
    """A picture that `prediction.readable` has let pass, as a small JPEG."""
    with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
        image.draft("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
