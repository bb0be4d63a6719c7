"""Small images with any number of coloured squares, whose labels are their colours, and records of them."""

import io
import json
from itertools import combinations
from pathlib import Path
from typing import Any

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


def write_images(root: Path, images: int) -> dict[str, tuple[str, ...]]:
    """Writes images to a folder; returns the labels of each by its name, `NNNN.jpg`."""
    root.mkdir(parents=True, exist_ok=True)
    labels_of = {f"{number:04d}.jpg": SETS[number % len(SETS)] for number in range(images)}
    for number, (name, labels) in enumerate(labels_of.items()):
        (root / name).write_bytes(draw(labels, number))
    return labels_of


def write_folder(root: Path, images: int = 40) -> Path:
    """Writes images to a folder, and beside them `labels.csv` (`uri,label`), whose labels are joined by `|`; returns that."""
    labels_of = write_images(root, images)
    lines = [f"{name},{'|'.join(labels) or '[]'}" for name, labels in labels_of.items()]  # [] says that there is none
    (root / "labels.csv").write_text("\n".join(["uri,label", *lines, ""]), encoding="utf-8")
    return root / "labels.csv"


def write_coco(root: Path, images: int = 40) -> Path:
    """Writes images to a folder, and beside them `instances.json`, which has a box of each label on each; returns that.

    The form is that of pycocotools: https://cocodataset.org/#format-data.
    """
    listed: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    numbers = {label: 3 * position + 2 for position, label in enumerate(LABELS)}
    for image_id, (name, labels) in enumerate(write_images(root, images).items(), start=1000):
        listed.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
        of_image = {"image_id": image_id, "bbox": [2, 2, SQUARE, SQUARE], "area": SQUARE**2, "iscrowd": 0}
        boxes += [{"id": len(boxes) + at, "category_id": numbers[label]} | of_image for at, label in enumerate(labels, start=1)]
    categories = [{"id": number, "name": label, "supercategory": "square"} for label, number in numbers.items()]
    content = {"info": {}, "licenses": [], "images": listed, "annotations": boxes, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return root / "instances.json"


def write_label_studio(root: Path, images: int = 40, place: str = "/data/local-files/?d={}") -> Path:
    """Writes images to a folder, and beside them `export.json` of Label Studio, one task an image; returns that.

    The form is that of its export as JSON: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks.

    Args:
        root: of the images.
        images: how many.
        place: of an image on Label Studio's server; `{}` stands for the name of the image.
    """
    tasks = []
    for number, (name, labels) in enumerate(write_images(root, images).items(), start=1):
        value = {"choices": list(labels)}
        answers = [{"id": "a", "from_name": "colours", "to_name": "image", "type": "choices", "value": value}] if labels else []
        about = {"was_cancelled": False, "ground_truth": False, "updated_at": "2026-01-01T00:00:00.000000Z", "lead_time": 2.5}
        annotation = {"id": number, "completed_by": 1, "result": answers} | about
        tasks.append({"id": number, "annotations": [annotation], "predictions": [], "data": {"image": place.format(name)}})
    (root / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    return root / "export.json"
