"""The colour model, which also tells that an image is neither red, green nor blue: yellow, say."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from support import colour_model

from kfp_vision.prediction.likeness import Novelty
from kfp_vision.prediction.novelty import NOVELTY_FILE, fit_novelty
from kfp_vision.repository.version import VERSION_FILE, Version

YELLOW = (200, 200, 30)


def yellow() -> bytes:
    """Encodes an image that is like none of the three colours."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), YELLOW).save(file, "PNG")
    return file.getvalue()


def fit(share: float = 0.95) -> Novelty:
    """Fits on the colours of images that are red, green or blue, more or less; the embedding of an image is its mean colour."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 3
    colours = np.array(list(colour_model.RGB.values()))[labels] + generator.normal(0, 12, (240, 3))
    return fit_novelty(colours[:120], labels[:120], 3, colours[120:], share)


def write_version(folder: Path, *, name_unknown: bool = False, labels: tuple[str, ...] = tuple(colour_model.RGB)) -> Version:
    """Writes a version of a model repository."""
    colour_model.write_version(folder, labels)
    fit().save(folder / NOVELTY_FILE)
    about = json.loads((folder / VERSION_FILE).read_text()) | {"advanced": {"name_unknown": name_unknown}}
    (folder / VERSION_FILE).write_text(json.dumps(about))
    return Version(folder)
