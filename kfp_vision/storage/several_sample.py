"""Draws the sample whose images have several labels: two to four of the sample's flowers on each, all of different classes.

Flowers and backdrops are those of `sample`, and so is what they do not give away. An image is a pure function of its name.
"""

import csv
import hashlib
import pathlib
from random import Random

import PIL
from PIL import Image, ImageDraw

from kfp_vision.storage import sample

IMAGES = 600
FLOWERS = (2, 3, 4)  # on an image, in turn
VERSION = 1  # of the drawing: increase it when the bytes of any image change
SIZES = (0.8, 0.96)  # diameter of a flower as a share of the shorter side of its cell
FOLDER = "several"  # of the images in their URIs
TABLE = "labels.csv"  # which `write_images` writes beside them


def image_names() -> list[str]:
    """Returns the names of all images, sorted: `NNNN.jpg`."""
    return [f"{number:04d}.jpg" for number in range(1, IMAGES + 1)]


def labels_of(name: str) -> list[str]:
    """Returns the classes of the flowers on an image, sorted.

    Args:
        name: one of `image_names()`.

    Raises:
        ValueError: no image of the sample has that name.
    """
    return sorted(_choose_labels(name, _random_of(name)))


def draw(name: str) -> bytes:
    """Draws an image: RGB, 240 to 500 pixels a side.

    The same name gives the same bytes wherever `fingerprint()` is the same.

    Args:
        name: one of `image_names()`.

    Returns:
        The bytes of a JPEG.

    Raises:
        ValueError: no image of the sample has that name.
    """
    rng = _random_of(name)
    return sample.encode_image(compose_image(_choose_labels(name, rng), rng), "JPEG")


def fingerprint() -> str:
    """Returns the SHA-256, in hexadecimal, of everything that determines names, labels and bytes of the images."""
    return hashlib.sha256(repr((VERSION, IMAGES, FLOWERS, sample.fingerprint(), PIL.__version__)).encode()).hexdigest()


def write_images(folder: pathlib.Path) -> int:
    """Writes every image, and `labels.csv`, a table of their labels, as import files may be.

    Args:
        folder: to write to; created if necessary.

    Returns:
        The number of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in image_names():
        (folder / name).write_bytes(draw(name))
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerows([("uri", "label"), *((name, "|".join(labels_of(name))) for name in image_names())])
    return IMAGES


def compose_image(labels: list[str], rng: Random) -> Image.Image:
    """Draws an image of some classes, each flower with colours and a cell of its own.

    Args:
        labels: up to four of `sample.CLASSES`.
        rng: source of all randomness.

    Returns:
        The image, RGB.
    """
    canvas = sample.choose_canvas(rng)
    sky, ground = sample.choose_backdrop_colours(rng)
    flowers = place_flowers(canvas, len(labels), rng)
    palettes = [sample.choose_flower_colours(sky, ground, rng) for _ in labels]
    image = sample.draw_backdrop(canvas, flowers, palettes[0], rng)
    pen = ImageDraw.Draw(image)
    sample.draw_grass(pen, canvas, palettes[0], rng)
    for label, flower, palette in sorted(zip(labels, flowers, palettes, strict=True), key=lambda one: one[1].y):
        sample.draw_flower(pen, label, flower, canvas[1], palette, rng)  # lower ones before the stems of higher ones
    return sample.add_camera_effects(image.reduce(sample.OVERSAMPLING), rng)


def place_flowers(canvas: tuple[int, int], count: int, rng: Random) -> list[sample.Flower]:
    """Places flowers in different cells of a grid: two side by side or one above the other, more in two rows of two.

    Args:
        canvas: width and height in pixels.
        count: number of flowers, 1 to 4.
        rng: source of all randomness.
    """
    width, height = canvas
    columns, rows = (2, 2) if count > 2 else (2, 1) if width > height else (1, 2)
    cells = sorted(((column, row) for column in range(columns) for row in range(rows)), key=lambda _: rng.random())
    wide, high = width / columns, height / rows
    flowers = []
    for column, row in cells[:count]:
        radius = min(wide, high) * rng.uniform(*SIZES) / 2
        x = wide * column + rng.uniform(0.94 * radius, wide - 0.94 * radius)
        y = high * row + rng.uniform(0.94 * radius, high - 0.94 * radius)
        flowers.append(sample.Flower(x, y, radius, sample.random_angle(rng)))
    return flowers


def _random_of(name: str) -> Random:
    if name not in image_names():
        raise ValueError(
            f"images of the sample with several labels are NNNN.jpg, got {name!r}: take 0001.jpg to {IMAGES:04d}.jpg"
        )
    return sample.random_of(f"{FOLDER}/{VERSION}/{name}")


def _choose_labels(name: str, rng: Random) -> list[str]:
    count = FLOWERS[int(name.partition(".")[0]) % len(FLOWERS)]
    return sorted(sample.CLASSES, key=lambda _: rng.random())[:count]
