"""Scores a model on the images of a folder of records."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.evaluation.metrics import Predictions
from kfp_vision.records import records_folder

BATCH_SIZE = 64


def predict_records(predict: Callable[[Sequence[bytes]], npt.NDArray[np.float32]], folder: Path) -> Predictions:
    """Runs a model on every image of a folder of records; holds one batch of them in memory.

    Args:
        predict: maps encoded images to probabilities, (n, classes).
        folder: a folder of records.

    Returns:
        The predictions, in the order of the files.

    Raises:
        InputError: the records are damaged.
    """
    names: list[str] = []
    labels: list[int] = []
    sides: list[int] = []
    probabilities = []
    records = records_folder.read_fields(folder)
    while batch := list(islice(records, BATCH_SIZE)):
        probabilities.append(predict([record.encoded for record in batch]))
        names += [record.name for record in batch]
        labels += [record.number for record in batch]
        sides += [min(record.height, record.width) for record in batch]
    return Predictions(names, np.array(labels), np.concatenate(probabilities), np.array(sides))
