"""Scores a model on the images of a folder of records."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.evaluation.metrics import Predictions
from kfp_vision.evaluation.multilabel_metrics import MultilabelPredictions
from kfp_vision.records import records_folder

BATCH_SIZE = 64

Predict = Callable[[Sequence[bytes]], npt.NDArray[np.float32]]


def predict_records(predict: Predict, folder: Path) -> Predictions:
    """Runs a model on every image of a folder of records; holds one batch of them in memory.

    Args:
        predict: maps encoded images to probabilities, (n, classes).
        folder: a folder of records.

    Returns:
        The predictions, in the order of the files.

    Raises:
        InputError: the records are damaged.
    """
    scored = _score(predict, folder)
    return Predictions(scored.names, np.array([number for (number,) in scored.numbers]), scored.probabilities, scored.sides)


def predict_several_labels(predict: Predict, folder: Path, thresholds: Sequence[float]) -> MultilabelPredictions:
    """Does what `predict_records` does for images with several labels.

    Args:
        predict: maps encoded images to probabilities, (n, classes).
        folder: a folder of records.
        thresholds: the probability from which on an image is named each label.

    Returns:
        The predictions, in the order of the files.

    Raises:
        InputError: the records are damaged.
    """
    scored = _score(predict, folder)
    truth = records_folder.read_records_info(folder).label_array(scored.numbers) > 0
    return MultilabelPredictions(scored.names, truth, scored.probabilities, np.array(thresholds), scored.sides)


class _Scored(NamedTuple):
    names: list[str]
    numbers: list[tuple[int, ...]]
    probabilities: npt.NDArray[np.float32]
    sides: npt.NDArray[np.integer[Any]]


def _score(predict: Predict, folder: Path) -> _Scored:
    names: list[str] = []
    numbers: list[tuple[int, ...]] = []
    sides: list[int] = []
    probabilities = []
    records = records_folder.read_fields(folder)
    while batch := list(islice(records, BATCH_SIZE)):
        probabilities.append(predict([record.encoded for record in batch]))
        names += [record.name for record in batch]
        numbers += [record.numbers for record in batch]
        sides += [min(record.height, record.width) for record in batch]
    return _Scored(names, numbers, np.concatenate(probabilities), np.array(sides))
