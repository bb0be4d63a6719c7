"""A model with known answers, which distinguishes red, green and blue images.

It is a real export of the library, whose logits are the means of the colour channels.
"""

import io
import json
from pathlib import Path

from PIL import Image

RGB = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
SIZE = 16  # pixels


def picture(colour: str, image_format: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    """Encodes an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, RGB[colour]).save(file, image_format)
    return file.getvalue()


def write_version(folder: Path, labels: tuple[str, ...] = tuple(RGB), name: str = "colours", scale: float = 1 / 20) -> Path:
    """Writes a version of a model repository, and returns its folder."""
    from kfp_vision.core.frameworks import keras
    from kfp_vision.prediction import export
    from kfp_vision.repository import version

    pixels = keras.Input((SIZE, SIZE, 3))
    logits = keras.layers.Rescaling(scale)(keras.layers.GlobalAveragePooling2D()(pixels))
    export.write_saved_model(folder, keras.Model(pixels, logits), list(labels), SIZE)
    metadata_file = folder / version.VERSION_FILE
    metadata_file.parent.mkdir()
    metadata_file.write_text(json.dumps({"model_name": name, "network": "mean", "labels": labels, "image_size": SIZE}))
    return folder
