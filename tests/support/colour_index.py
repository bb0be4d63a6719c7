"""An index whose right answers are known without asking it: pictures of one colour each, of which `colours` sees the mean."""

import colorsys
import io
import random
from pathlib import Path

import numpy as np
from PIL import Image
from support import colour_model

HUES = 8  # of each label, side by side
LABELS = ("reddish", "greenish", "bluish")
COUNT = HUES * len(LABELS)
SEED = 2871  # of the hues: no two pictures are nearly as near to a third one


def write_model(root: Path, scale: float = 1 / 20) -> Path:
    """Writes a model folder of `colours`; of another scale it is another model, which sees the same."""
    colour_model.write_version(root / "serving" / "1", scale=scale)
    return root


def picture(number: int) -> bytes:
    """The picture of a hue: all of them, from red over green and blue back to red, stand in a circle, not quite evenly."""
    draw = random.Random(SEED)
    moved = [one + draw.uniform(-0.35, 0.35) for one in range(COUNT)][number]
    red, green, blue = colorsys.hsv_to_rgb(moved / COUNT % 1, 0.8, 0.9)
    file = io.BytesIO()
    Image.new("RGB", (48, 36), tuple(round(255 * part) for part in (red, green, blue))).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder: Path) -> Path:
    """Writes them all, and gives the folder."""
    for number in range(COUNT):
        file = folder / LABELS[number // HUES] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    return folder


def write(model: Path, photos: Path, folder: Path) -> Path:
    """Writes the index of a folder of pictures as a model sees them, and gives its folder."""
    from kfp_vision.search import build

    build.build_index(build.find_images(str(photos)), model, folder)
    return folder


def nearest(number: int, count: int, among: range = range(COUNT)) -> list[str]:
    """File names of the pictures whose mean colours have the smallest angle to that of one, the nearest first."""

    def direction(one: int) -> np.ndarray:
        with Image.open(io.BytesIO(picture(one))) as image:
            mean = np.asarray(image, "float64").mean((0, 1))
        return mean / np.linalg.norm(mean)

    asked = direction(number)
    order = sorted(among, key=lambda one: -(direction(one) @ asked))
    return [f"{one:02}.png" for one in order[:count]]
