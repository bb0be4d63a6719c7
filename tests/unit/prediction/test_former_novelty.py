"""Exports of earlier builds tell known images by the score that they were exported with."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from support import colour_model, exported_model

from kfp_vision.core.errors import InputError
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.prediction.novelty import NOVELTY_FILE, load_novelty
from kfp_vision.repository.version import Version

CLASSES, WIDTH, EACH = 3, 3, 40


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(seed: int) -> np.ndarray:
    """Draws roots of embeddings, sorted by class: colours that are more or less those of the colour model."""
    colours = np.repeat(np.array(list(colour_model.RGB.values())), EACH, axis=0)
    return unit(np.sqrt(np.clip(colours + np.random.default_rng(seed).normal(0, 12, colours.shape), 0, 255)))


def covariance_within(rows: np.ndarray) -> np.ndarray:
    centred = rows.reshape(CLASSES, EACH, WIDTH)
    centred = (centred - centred.mean(1, keepdims=True)).reshape(-1, WIDTH)
    covariance = centred.T @ centred / len(centred)
    return 0.4 * covariance + 0.6 * np.trace(covariance) / WIDTH * np.eye(WIDTH)


def store(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays that earlier builds stored."""
    rows = draw(1)
    means = rows.reshape(CLASSES, EACH, WIDTH).mean(1)
    variances, directions = np.linalg.eigh(covariance_within(rows))
    stored = {
        "references": rows.astype(np.float16),
        "counts": np.full(CLASSES, EACH),
        "means": (means - means.mean(0)).astype(np.float32),
        "centre": means.mean(0).astype(np.float32),
        "directions": directions.T[1:].astype(np.float32),
        "weights": (variances[0] / variances[1:]).astype(np.float32),
        "typical": np.array([[0.99, 0.01], [0.9, 0.1]], np.float32),
        "threshold": np.array(-3, np.float32),
    }
    return stored | changes


def test_the_likeness_is_that_to_the_nearest_image_and_to_the_mean_of_each_class(tmp_path):
    version = exported_model.version(tmp_path / "1", labels=list("rgb"))
    np.savez(version.folder / NOVELTY_FILE, **store())
    known, seen = draw(1), draw(2)
    nearest = np.stack([1 - cdist(seen, part, "cosine").min(1) for part in np.split(known, CLASSES)], 1)
    means = known.reshape(CLASSES, EACH, WIDTH).mean(1)
    whiten = sqrtm(np.linalg.inv(covariance_within(known))).real
    cosines = 1 - cdist((seen - means.mean(0)) @ whiten, (means - means.mean(0)) @ whiten, "cosine")
    expected = ((nearest - 0.99) / 0.01 + (cosines - 0.9) / 0.1) / 2
    found = load_novelty(version)
    np.testing.assert_allclose(found.likeness((seen**2).astype("float32")), expected, atol=0.05)  # references are float16


def test_a_class_without_training_images_is_like_no_image(tmp_path):
    version = exported_model.version(tmp_path / "1", labels=list("rgbx"))
    means = np.concatenate([store()["means"], np.zeros((1, WIDTH), np.float32)])
    np.savez(version.folder / NOVELTY_FILE, **store(counts=np.array([EACH] * CLASSES + [0]), means=means))
    likeness = load_novelty(version).likeness((draw(2) ** 2).astype("float32"))
    assert likeness[:, CLASSES].max() < likeness.max(1).min()


def test_a_file_whose_parts_do_not_fit_is_rejected(tmp_path):
    version = exported_model.version(tmp_path / "1", labels=list("rgb"))
    np.savez(version.folder / NOVELTY_FILE, **store(weights=np.ones(7, np.float32)))
    with pytest.raises(InputError, match=r"must be whole; got .* \(its parts do not fit each other, or the labels\)\. "):
        load_novelty(version)


@pytest.mark.slow
def test_a_model_answers_with_it(tmp_path):
    colour_model.write_version(tmp_path / "1")
    np.savez(tmp_path / "1" / NOVELTY_FILE, **store())
    (answer,) = Classifier(Version(tmp_path / "1")).classify([colour_model.picture("red", "PNG")])
    assert (answer.label, answer.known) == ("red", True)
