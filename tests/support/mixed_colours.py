"""The colour model of several labels, and images of known answers: their levels of red, green and blue tell the scores."""

import io
import math
from pathlib import Path

from PIL import Image
from support import colour_model

from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow, join_labels
from kfp_vision.records import convert
from kfp_vision.repository.version import Version

THRESHOLDS = (0.5, 0.5, 0.97)  # of red, green and blue
# Levels of red, green and blue; the labels that they give, the most probable first. The third is above no threshold but that
# of red, although blue is the most probable; the last is above none.
IMAGES = {
    "red": ((200, 30, 30), ["red"]),
    "violet": ((160, 30, 200), ["blue", "red"]),
    "purple": ((130, 30, 160), ["red"]),
    "white": ((220, 160, 240), ["blue", "red", "green"]),
    "black": ((0, 0, 0), []),
}


def picture(name: str) -> bytes:
    """Encodes an image of one colour, as PNG."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), IMAGES[name][0]).save(file, "PNG")
    return file.getvalue()


def probabilities(name: str) -> list[float]:
    """Returns the probabilities of red, green and blue, by the definition of the colour model."""
    return [1 / (1 + math.exp(colour_model.SCALE * (colour_model.HALF - level))) for level in IMAGES[name][0]]


def scores(name: str) -> list[float]:
    """Returns the probabilities of the labels of an image."""
    return [probabilities(name)[list(colour_model.RGB).index(label)] for label in IMAGES[name][1]]


def write_version(folder: Path, **changes) -> Version:
    """Writes a version of a model repository."""
    return Version(colour_model.write_version(folder, thresholds=THRESHOLDS, **changes))


def write_folder(root: Path) -> Path:
    """Writes an image of each colour into folders named after its labels, `blue|red` say; returns the root."""
    for name, (_, labels) in IMAGES.items():
        folder = root / "|".join(labels)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(picture(name))
    return root


def write_records(root: Path) -> Path:
    """Writes records of one image of each colour for train and for validation, and none for test; returns the root."""
    for split, names in (("train", IMAGES), ("validation", IMAGES), ("test", ())):
        examples = (
            (ImageRow("", join_labels(IMAGES[name][1]), 0, "", f"{name}.png"), validate_image(picture(name))) for name in names
        )
        convert.write_shards(root / split, split, examples, list(colour_model.RGB), 100, several=True)
    return root
