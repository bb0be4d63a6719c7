"""Images of one or two of the colours red, green and blue, with these as their labels, and a search index of them."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from support import colour_model

from kfp_vision.dataset.table import ImageRow, join_labels, md5_hex
from kfp_vision.search import build

SETS = [labels for count in (1, 2) for labels in combinations(colour_model.RGB, count)]
EACH = 20
COUNT = EACH * len(SETS)
LOW, HIGH, NOISE = 40, 200, 12  # levels of a colour


def true_labels(number: int) -> tuple[str, ...]:
    """Returns the colours of an image."""
    return SETS[number // EACH]


def picture(number: int) -> bytes:
    """Encodes an image; no two are equal."""
    noise = np.random.default_rng(number).normal(0, NOISE, 3)
    levels = [HIGH if colour in true_labels(number) else LOW for colour in colour_model.RGB]
    file = io.BytesIO()
    colours = tuple(int(level) for level in np.clip(np.array(levels) + noise, 0, 255))
    Image.new("RGB", (40 + number, 30), colours).save(file, "PNG")
    return file.getvalue()


def write_index(root: Path, changed: dict[int, tuple[str, ...]]) -> Path:
    """Writes images, a model and the index of both; some images get other labels than theirs. Returns the index's folder."""
    (root / "pictures").mkdir(parents=True)
    rows = []
    for number in range(COUNT):
        file = root / "pictures" / f"{number:03}.png"
        file.write_bytes(picture(number))
        label = join_labels(changed.get(number, true_labels(number)))
        rows.append(ImageRow(str(file), label, file.stat().st_size, md5_hex(file.read_bytes()), file.name))
    colour_model.write_version(root / "model" / "serving" / "1")
    build.build_index(rows, root / "model", root / "index")
    return root / "index"
