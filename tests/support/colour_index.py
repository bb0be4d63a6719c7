"""A search index with known answers: images of one colour each, of which the model `colours` computes the mean."""

import colorsys
import io
import random
from pathlib import Path

import numpy as np
from PIL import Image
from support import colour_model

HUES = 8  # per label, adjacent
LABELS = ("reddish", "greenish", "bluish")
COUNT = HUES * len(LABELS)
SEED = 2871  # chosen so that no two images have nearly the same distance to a third


def write_model(root: Path, scale: float = 1 / 20) -> Path:
    """Writes the folder of the model `colours`; another scale makes a different model with the same answers."""
    colour_model.write_version(root / "serving" / "1", scale=scale)
    return root


def picture(number: int) -> bytes:
    """Encodes the image of a hue; the hues form a colour circle, at slightly uneven distances."""
    generator = random.Random(SEED)
    jittered = [hue + generator.uniform(-0.35, 0.35) for hue in range(COUNT)][number]
    red, green, blue = colorsys.hsv_to_rgb(jittered / COUNT % 1, 0.8, 0.9)
    file = io.BytesIO()
    Image.new("RGB", (48, 36), tuple(round(255 * part) for part in (red, green, blue))).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder: Path) -> Path:
    """Writes all images, and returns the folder."""
    for number in range(COUNT):
        file = folder / LABELS[number // HUES] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    return folder


def write(model: Path, photos: Path, folder: Path) -> Path:
    """Builds the index of a folder of images with a model, and returns its folder."""
    from kfp_vision.search import build

    build.build_index(build.find_images(str(photos)), model, folder)
    return folder


def nearest(number: int, count: int, among: range = range(COUNT)) -> list[str]:
    """Returns the file names of the images whose mean colours have the smallest angle to that of one, nearest first."""

    def direction(index: int) -> np.ndarray:
        with Image.open(io.BytesIO(picture(index))) as image:
            mean = np.asarray(image, "float64").mean((0, 1))
        return mean / np.linalg.norm(mean)

    target = direction(number)
    order = sorted(among, key=lambda index: -(direction(index) @ target))
    return [f"{index:02}.png" for index in order[:count]]
