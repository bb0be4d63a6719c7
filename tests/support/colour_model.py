"""A model with known answers, which distinguishes red, green and blue images.

It is a real export of the library, whose logits are the means of the colour channels. So its class activation maps are the
colour channels of the crop, in cells of four pixels. With thresholds, it tells every colour of an image: the logits are the
means less 100 levels.
"""

import io
import json
from pathlib import Path

from PIL import Image

from kfp_vision.core.values import SEVERAL

RGB = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
SIZE = 16  # pixels
CELLS = 4  # of a class activation map, a side
SCALE = 1 / 20  # logits a level
HALF = 100  # level at which a colour is as likely as not, for several labels


def picture(colour: str, image_format: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    """Encodes an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, RGB[colour]).save(file, image_format)
    return file.getvalue()


def halves(left: str, right: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Draws an image of two colours side by side."""
    image = Image.new("RGB", size, RGB[right])
    image.paste(RGB[left], (0, 0, size[0] // 2, size[1]))
    return image


def write_version(
    folder: Path,
    labels: tuple[str, ...] = tuple(RGB),
    name: str = "colours",
    scale: float = SCALE,
    thresholds: tuple[float, ...] = (),
) -> Path:
    """Writes a version of a model repository, of several labels if there are thresholds, and returns its folder."""
    import numpy as np

    from kfp_vision.core.frameworks import keras
    from kfp_vision.prediction import export
    from kfp_vision.repository import version

    pixels = keras.Input((SIZE, SIZE, 3))
    cells = keras.layers.AveragePooling2D(SIZE // CELLS)(pixels)
    model = keras.Model(pixels, keras.layers.Dense(len(RGB))(keras.layers.GlobalAveragePooling2D()(cells)))
    bias = np.full(len(RGB), -scale * HALF if thresholds else 0)
    model.layers[-1].set_weights([scale * np.eye(len(RGB)), bias])
    export.write_saved_model(folder, model, list(labels), SIZE, thresholds=thresholds)
    metadata_file = folder / version.VERSION_FILE
    metadata_file.parent.mkdir()
    several = {"labels_per_image": SEVERAL, "thresholds": thresholds} if thresholds else {}
    metadata = {"model_name": name, "network": "mean", "labels": labels, "image_size": SIZE, **several}
    metadata_file.write_text(json.dumps(metadata))
    return folder
