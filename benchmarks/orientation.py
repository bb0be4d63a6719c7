"""Measures what the export's look at EXIF costs: `serving_default` on JPEGs of camera size, against the export without it.

`python -m benchmarks.orientation` prints a line of JSON per figure: images per second without EXIF, with orientation 1 and with
6, at batch 1 and 32.
"""

import io
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from benchmarks import photographs, serve
from benchmarks.measure import Figure, compare
from kfp_vision.core.frameworks import tf
from kfp_vision.networks import orientation
from kfp_vision.repository.version import FIRST_VERSION

WIDTH, HEIGHT, QUALITY = 4000, 3000, 90  # 12 megapixels
BATCHES = (1, 32)
SECONDS = 2.5  # per measurement
WITHOUT = "the same export without EXIF orientation and transparency"
EXIF_ORIENTATIONS = {"no_exif": 0, "exif_1": 1, "exif_6": 6}


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ours, peer = _load(Path(scratch) / "ours"), _load_without(Path(scratch) / "peer")
        figures = []
        for name, value in EXIF_ORIENTATIONS.items():
            image = camera_image(value)
            for size in BATCHES:
                batch = tf.constant([image] * size)
                rates = [lambda model=model, batch=batch: _rate(model, batch) for model in (ours, peer)]
                figures.append(compare(f"serving_default_{name}_{size}", WITHOUT, "img/s", *rates))
    return figures


def camera_image(value: int) -> bytes:
    """Encodes a photograph of 12 megapixels as a JPEG.

    Args:
        value: its EXIF orientation; 0 for no EXIF data.

    Returns:
        The encoded image.
    """
    _, encoded = next(photographs.read_images())
    exif = Image.Exif()
    if value:
        exif[ExifTags.Base.Orientation] = value
    file = io.BytesIO()
    with Image.open(io.BytesIO(encoded)) as image:
        image.convert("RGB").resize((WIDTH, HEIGHT)).save(file, "JPEG", quality=QUALITY, exif=exif)
    return file.getvalue()


def _load(place: Path) -> Any:
    """Writes and loads an export, with random weights."""
    return tf.saved_model.load(str(serve.write_model(place) / FIRST_VERSION))


def _load_without(place: Path) -> Any:
    functions = (orientation.jpeg_orientation, orientation.png_properties, orientation.turn_upright)
    try:
        orientation.jpeg_orientation = lambda encoded: tf.constant(1)
        orientation.png_properties = lambda encoded: (tf.constant(1), tf.constant(False))
        orientation.turn_upright = lambda image, value: image
        return _load(place)
    finally:
        orientation.jpeg_orientation, orientation.png_properties, orientation.turn_upright = functions


def _rate(model: Any, batch: tf.Tensor) -> float:
    signature, done, start = model.signatures["serving_default"], 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SECONDS or not done:
        signature(image_bytes=batch)["probabilities"].numpy()
        done += len(batch)
    return done / seconds


if __name__ == "__main__":
    run()
