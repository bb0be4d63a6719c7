"""Small images with any number of coloured squares, whose labels are their colours, and records of them."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from kfp_vision.dataset import label_map
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow, join_labels
from kfp_vision.records import convert

COLOURS = {"blue": (40, 60, 220), "green": (40, 180, 60), "red": (220, 50, 40)}
LABELS = list(COLOURS)
# Every set of colours, none included; two of each three images have one colour or two.
SETS = [labels for count in range(len(LABELS) + 1) for labels in combinations(LABELS, count)]
SIDE, SQUARE = 48, 20  # pixels


def draw(labels: tuple[str, ...], seed: int) -> bytes:
    """Encodes grey noise with a square of each colour, in corners that the seed chooses; a JPEG of 48 pixels a side."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(128, 20, (SIDE, SIDE, 3))
    corners = rng.permutation(4)
    for corner, label in zip(corners, labels, strict=False):
        top, left = (2 + (SIDE // 2) * int(step) for step in divmod(int(corner), 2))
        pixels[top : top + SQUARE, left : left + SQUARE] = rng.normal(COLOURS[label], 12, (SQUARE, SQUARE, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_records(root: Path, images: int = 32, validation: int = 16, test: int = 0, per_shard: int = 20) -> Path:
    """Writes records of `train`, `validation` and `test`, and `labels`, the label map, to a folder; sets in turn."""
    for split, first, count in (("train", 0, images), ("validation", 10_000, validation), ("test", 20_000, test)):
        sets = [SETS[number % len(SETS)] for number in range(count)]
        examples = (
            (ImageRow("", join_labels(labels), 0, "", f"{split}/{number}.jpg"), validate_image(draw(labels, first + number)))
            for number, labels in enumerate(sets)
        )
        convert.write_shards(root / split, split, examples, LABELS, per_shard, several=True)
    (root / "labels").mkdir()
    label_map.write_labels(root / "labels", LABELS, several=True)
    return root


def write_folder(root: Path, images: int = 40) -> Path:
    """Writes images to a folder, and beside them `labels.csv` (`uri,label`), whose labels are joined by `|`; returns that."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["uri,label"]
    for number in range(images):
        labels = SETS[number % len(SETS)]
        (root / f"{number:04d}.jpg").write_bytes(draw(labels, number))
        lines.append(f"{number:04d}.jpg,{'|'.join(labels) or '[]'}")  # [] says that there is none
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "labels.csv"
