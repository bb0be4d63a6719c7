"""Cuts images as the model sees them, to the whole levels that exported files take."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import MAX_PIXELS
from kfp_vision.engines import cropping
from kfp_vision.records import example, records_folder
from kfp_vision.repository.version import Version

CALIBRATION_IMAGES = 200
CALIBRATION_SPLIT = "train"


def crop_image(version: Version, encoded: bytes) -> npt.NDArray[np.uint8]:
    """Cuts an image of records as exported files take it.

    Args:
        version: the exported model, whose image size and crop are taken.
        encoded: the image.

    Returns:
        uint8 (size, size, 3), RGB.

    Raises:
        Rejected: it cannot be read.
    """
    return cropping.crop(encoded, version.about["image_size"], MAX_PIXELS, version.crop)


def write_calibration_crops(version: Version, train_records: Path, file: Path, seed: int) -> int:
    """Writes crops of training images drawn at random, to choose the ranges of quantized activations by.

    Args:
        version: the exported model, whose image size is taken.
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
    records = records_folder.RandomAccessRecords(train_records)
    chosen = np.random.default_rng(seed).permutation(len(records))[:CALIBRATION_IMAGES]
    images = [crop_image(version, example.decode_example(records.read(int(at)))[1]) for at in np.sort(chosen)]
    np.save(file, np.stack(images))
    return len(images)
