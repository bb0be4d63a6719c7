"""Scores a model on the images of a folder of records."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.evaluation.metrics import Predictions
from kfp_vision.records import tf_dataset

BATCH_SIZE = 64


def predict_records(predict: Callable[[Sequence[bytes]], npt.NDArray[np.float32]], folder: Path) -> Predictions:
    """Runs a model on every image of a folder of records.

    Args:
        predict: maps encoded images to probabilities, (n, classes).
        folder: a folder of records.

    Returns:
        The predictions, in the order of the files.
    """
    names: list[str] = []
    labels, probabilities, sides = [], [], []
    for batch in tf_dataset.encoded_records(folder).map(tf_dataset.parse_record).batch(BATCH_SIZE):
        probabilities.append(predict(batch["image/encoded"].numpy()))
        names += [name.decode() for name in batch["image/filename"].numpy()]
        labels.append(batch["image/class/label"].numpy())
        sides.append(np.minimum(batch["image/height"].numpy(), batch["image/width"].numpy()))
    return Predictions(names, np.concatenate(labels), np.concatenate(probabilities), np.concatenate(sides))
