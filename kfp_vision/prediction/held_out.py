"""What an export keeps of its validation images, with which images in use are compared: their embeddings and scores."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from kfp_vision.core import numpy_faults
from kfp_vision.core.errors import DamagedError, NotFoundError
from kfp_vision.prediction.classifier import choose_labels
from kfp_vision.repository.version import Version

HELD_OUT_FILE = Path("assets.extra") / "validation.npz"  # of a version
MAX_HELD_OUT = 1000  # images that are stored; 2 MB for an embedding of 1,024 numbers


@dataclass(frozen=True)
class HeldOut:
    """Embeddings and scores of images that the model was not trained on.

    Attributes:
        embeddings: inputs of the classification head, float16 (images, width).
        scores: probabilities of all classes, float16 (images, classes).
    """

    embeddings: npt.NDArray[np.float16]
    scores: npt.NDArray[np.float16]

    def save(self, file: Path) -> None:
        """Writes the file that `load_held_out` reads.

        Args:
            file: to write, in a folder that exists.
        """
        np.savez(file, embeddings=self.embeddings, scores=self.scores)

    def named(self, thresholds: list[float]) -> npt.NDArray[np.bool_]:
        """Returns which classes the model names in each image, bool (images, classes).

        Args:
            thresholds: probability from which on an image has each label; empty for a model of one label.
        """
        scores = self.scores.astype(np.float32)
        found = np.zeros(scores.shape, bool)
        for row, image in zip(found, scores, strict=True):
            row[choose_labels(image, thresholds) if thresholds else [int(image.argmax())]] = True
        return found


def keep_held_out(embeddings: npt.NDArray[np.floating[Any]], scores: npt.NDArray[np.floating[Any]]) -> HeldOut:
    """Chooses what is stored, at even distances.

    Args:
        embeddings: of validation images, (images, width).
        scores: probabilities of all classes, (images, classes).

    Returns:
        At most `MAX_HELD_OUT` images of them.
    """
    chosen = np.unique(np.linspace(0, len(embeddings) - 1, MAX_HELD_OUT).astype(int))
    return HeldOut(embeddings[chosen].astype(np.float16), scores[chosen].astype(np.float16))


def load_held_out(version: Version) -> HeldOut:
    """Loads what a version keeps of its validation images.

    Args:
        version: the exported model.

    Returns:
        Their embeddings and scores.

    Raises:
        NotFoundError: the version keeps none, as those of earlier releases and of few validation images.
        DamagedError: the file is damaged.
    """
    file = version.folder / HELD_OUT_FILE
    if not file.is_file():
        rule = "a model must keep embeddings of its validation images to be compared with"
        raise NotFoundError(rule, f"none in {version.folder}", "Train it again with this release, on more images.")
    try:
        with np.load(io.BytesIO(file.read_bytes())) as stored:
            found = HeldOut(stored["embeddings"], stored["scores"])
        if found.embeddings.ndim != 2 or found.scores.shape != (len(found.embeddings), len(version.labels)):
            raise ValueError("its parts do not fit each other, or the labels")
        if not (len(found.embeddings) and np.isfinite(found.embeddings).all() and np.isfinite(found.scores).all()):
            raise ValueError("it must hold images, and finite numbers")
        return found
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        rule, remedy = f"{HELD_OUT_FILE} of a version must be whole", "Export or deploy it again."
        raise DamagedError(rule, f"{file} ({numpy_faults.describe(error)})", remedy) from None
