"""Cuts images as the model sees them, and rounds them to the pixels that exported files take."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records import example, records_folder

CALIBRATION_IMAGES = 200
CALIBRATION_SPLIT = "train"


def round_pixels(crop: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Rounds pixels.

    Args:
        crop: of any shape, from 0 to 255.

    Returns:
        The same as uint8.
    """
    rounded: npt.NDArray[np.uint8] = np.clip(np.rint(np.asarray(crop)), 0, 255).astype(np.uint8)
    return rounded


def write_calibration_crops(classifier: Classifier, train_records: Path, file: Path, seed: int) -> int:
    """Writes crops of training images drawn at random, to choose the ranges of quantized activations by.

    Args:
        classifier: the model, for its way of cropping.
        train_records: folder of training records.
        file: `.npy` file to write, uint8 (images, size, size, 3).
        seed: of the drawing.

    Returns:
        Number of images, at most `CALIBRATION_IMAGES`.

    Raises:
        InputError: the records are not of the training split, hold no image, or are damaged.
    """
    info = records_folder.verify_records(train_records)
    if info.split != CALIBRATION_SPLIT or not info.images:
        rule = "int8 must be calibrated on training images, never on held-out ones"
        raise InputError(rule, f"{info.images} images of split {info.split}", "Connect the training records.")
    records, crop = records_folder.RandomAccessRecords(train_records), classifier.make_cropper()
    chosen = np.random.default_rng(seed).permutation(len(records))[:CALIBRATION_IMAGES]
    images = (crop(example.decode_example(records.read(int(at)))[1]) for at in np.sort(chosen))
    rounded = [round_pixels(image) for image in images if not isinstance(image, Rejected)]
    np.save(file, np.stack(rounded))
    return len(rounded)
