"""The images most worth a label: unsure, far from what is known and from each other, on embeddings of a real model."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from kfp_vision.networks import IMAGENET
from kfp_vision.prediction.likeness import spread
from kfp_vision.review import choose
from kfp_vision.search import build
from kfp_vision.search.embedding import Embedder

PHOTOGRAPHS, COPIED = 60, 12
ALTERED = {
    "mirrored": ImageOps.mirror,
    "smaller": lambda image: image.resize((4 * image.width // 5, 4 * image.height // 5)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "trimmed": lambda image: image.crop((6, 4, image.width - 4, image.height - 6)),
}


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def test_a_small_margin_is_unsure():
    found = choose.margin_unsure(np.array([[0.5, 0.5, 0], [0.9, 0.05, 0.05], [0, 1, 0]], np.float32))
    assert found == pytest.approx([1, 0.15, 0])


def test_a_probability_at_its_threshold_is_unsure_whatever_the_others_are():
    thresholds = [0.2, 0.5]
    found = choose.threshold_unsure(np.array([[0.2, 0], [0, 1], [0.1, 1], [0.6, 0.5]], np.float32), thresholds)
    assert found == pytest.approx([1, 0, 0.5, 1])


def test_the_choice_covers_what_is_unknown_and_prefers_the_unsure():
    rows = spread(np.array([[1, 0, 0], [0.99, 0.01, 0], [0, 1, 0], [0, 0, 1]], np.float32))
    unsure = np.array([0.9, 0.8, 0.2, 0.1], np.float32)
    found = choose.choose_images(rows, unsure, rows[:0], 4)
    assert [choice.position for choice in found] == [0, 2, 3]  # the second is a near-copy of the first
    assert found[0].worth == pytest.approx(0.9)
    known = choose.choose_images(rows, unsure, rows[:1], 4)
    assert [choice.position for choice in known] == [2, 3]
    assert [choice.position for choice in choose.choose_images(rows, unsure, rows[:1], 1)] == [2]


def test_an_image_that_the_model_is_certain_of_may_be_chosen_too():
    rows = spread(np.eye(3, dtype=np.float32))
    found = choose.choose_images(rows, np.array([0, 0.5, 0], np.float32), rows[:0], 3)
    assert [choice.position for choice in found] == [1, 0, 2]


def test_nothing_is_chosen_from_nothing():
    assert choose.choose_images(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros((0, 3), np.float32), 5) == []


@pytest.mark.slow
def test_of_near_copies_among_photographs_one_is_chosen(flower_photos, tmp_path):
    version = build.fetch_embedder("", "efficientnet_lite0", IMAGENET, tmp_path / "model")
    files = sorted(flower_photos.glob("*/*.jpg"))
    files, known = (files[start :: len(files) // PHOTOGRAPHS][:PHOTOGRAPHS] for start in (0, 5))
    images = [Image.open(file).convert("RGB") for file in files]
    altered = [jpeg(alter(image)) for image in images[:: PHOTOGRAPHS // COPIED] for alter in ALTERED.values()]
    originals = [number for number in range(0, PHOTOGRAPHS, PHOTOGRAPHS // COPIED) for _ in ALTERED]
    shown = [*range(PHOTOGRAPHS), *originals]
    embedded = Embedder(version).embed([*(file.read_bytes() for file in (*known, *files)), *altered])
    known_rows, rows = np.split(spread(np.stack([vector for vector, _ in embedded])), [PHOTOGRAPHS])
    unsure = np.random.default_rng(0).random(len(rows), np.float32)
    chosen = [shown[choice.position] for choice in choose.choose_images(rows, unsure, known_rows, len(rows))]
    twice = [number for number in set(chosen) if chosen.count(number) > 1]
    assert twice == []
    assert len(chosen) >= 0.95 * PHOTOGRAPHS  # different photographs are not taken for copies
