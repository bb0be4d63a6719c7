"""Records of dark and light noise, and trainings of small networks that learn to distinguish them in seconds."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from support import small_network

from kfp_vision.core.advanced import Advanced
from kfp_vision.dataset import label_map
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.records import convert
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.train import train_classifier

LABELS = ["dark", "light"]
NARROW = {"depth_multiplier": 0.1, "max_brightness_delta": 0.0}
RECIPE = Recipe(
    network=small_network.NAME,
    fine_tune=False,
    checkpoint_uri="",
    train_last_layer_only=False,
    batch_size=8,
    learning_rate=0.003,
    train_steps=60,
    optimizer="adam",
    learning_rate_schedule="fixed",
    image_size=32,
    gpu_count=0,
    model_name="shades",
    advanced=Advanced.parse(NARROW),
)


def shade(number: int, seed: int) -> bytes:
    """Encodes a noisy image, dark or light; odd seeds give a PNG."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(70 + 100 * number, 30, (40, 48, 3)), 0, 255).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if seed % 2 else "JPEG")
    return file.getvalue()


def write(root: Path, dark: float = 0.5, images: int = 32, validation: int = 12, per_shard: int = 20) -> Path:
    """Writes `train`, `validation` and `labels` to a folder; `dark` is the share of dark training images."""
    for split, first, count in (("train", 0, images), ("validation", 100, validation)):
        numbers = [int(i % 2 if split == "validation" else i >= dark * count) for i in range(count)]
        examples = (
            (ImageRow("", LABELS[number], 0, "", f"{LABELS[number]}/{i}.jpg"), validate_image(shade(number, first + i)))
            for i, number in enumerate(numbers)
        )
        convert.write_shards(root / split, split, examples, LABELS, per_shard)
    (root / "labels").mkdir()
    label_map.write_labels(root / "labels", LABELS)
    return root


def train(folders: Path, out: Path, **changes) -> tuple[dict[str, float], Path]:
    """Trains a network of three convolutions with the recipe, unless changed; returns the metrics and the model folder."""
    if "advanced" in changes:
        changes["advanced"] = Advanced.parse(changes["advanced"])
    recipe = replace(RECIPE, **changes)
    paths = {"model": out / "model", "events": out / "events", "page": out / "page.html"}
    with small_network.registered():
        reached = train_classifier(recipe, folders / "train", folders / "validation", folders / "labels", **paths)
    return reached, out / "model"
