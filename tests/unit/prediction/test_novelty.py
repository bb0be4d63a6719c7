"""Tells images that are like those of the training from others, by their embeddings."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from support import colour_model, exported_model, known_colours

from kfp_vision.core.errors import InputError
from kfp_vision.engines.engine import OPENVINO_FLOAT32, TENSORFLOW
from kfp_vision.prediction import novelty
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.prediction.novelty import NOVELTY_FILE, fit_novelty, load_novelty

CLASSES, WIDTH = 4, 24


def clusters(images: int, seed: int, lengths: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draws embeddings around the means of classes, wider in some directions than in others."""
    means = np.random.default_rng(0).normal(0, 1, (CLASSES, WIDTH))
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    return lengths * (means[labels] + generator.normal(0, np.linspace(0.05, 0.6, WIDTH), (images, WIDTH))), labels


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def root(rows: np.ndarray) -> np.ndarray:
    return unit(np.copysign(np.sqrt(np.abs(rows)), rows))


def squared_distances(rows: np.ndarray, centres: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Returns squared Mahalanobis distances, with four fifths of the covariance spread evenly over all directions."""
    shrunk = 0.2 * covariance + 0.8 * np.trace(covariance) / WIDTH * np.eye(WIDTH)
    return cdist(rows, centres, "mahalanobis", VI=np.linalg.inv(shrunk)) ** 2


def test_the_likeness_is_that_of_a_gaussian_and_of_the_relative_distance():
    rows, labels = clusters(200, 1)
    held_out, _ = clusters(100, 2)
    found = fit_novelty(rows, labels, CLASSES, held_out, 0.95)
    known, seen = root(rows), root(held_out)
    means = np.stack([known[labels == label].mean(0) for label in range(CLASSES)])
    within = np.cov((known - means[labels]).T, bias=True)
    smallest = 1e-5 * np.eye(WIDTH)
    covariances = [(50 * np.cov(known[labels == label].T, bias=True) + 10 * within) / 60 + smallest for label in range(CLASSES)]
    likelihoods = [multivariate_normal(mean, one).logpdf(seen) for mean, one in zip(means, covariances, strict=True)]
    centre = means.mean(0)
    overall = squared_distances(seen, centre[None], (known - centre).T @ (known - centre) / len(known))
    measures = np.stack(likelihoods, 1), overall - squared_distances(seen, means, within)
    expected = sum((one - one.max(1).mean()) / one.max(1).std() for one in measures) / 2
    np.testing.assert_allclose(found.likeness(held_out.astype("float32")), expected, atol=0.01)
    np.testing.assert_allclose(found.known_scores(held_out.astype("float32")), expected.max(1), atol=0.01)


def test_a_class_that_varies_less_keeps_images_out_that_another_would_let_in():
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    means = np.eye(WIDTH)[:2]
    rows = means[labels] + generator.normal(0, 1, (400, WIDTH)) * np.where(labels, 0.02, 0.15)[:, None]
    found = fit_novelty(rows[:300], labels[:300], 2, rows[300:], 0.95)
    offset = generator.normal(0, 0.1, WIDTH)
    wide, narrow = found.known_scores((means + offset).astype("float32"))
    assert wide > found.threshold > narrow


@pytest.mark.parametrize("images", [1, 2, 5])
def test_classes_of_few_images_give_numbers(images):
    rows, labels = clusters(CLASSES * images, 1)
    held_out = clusters(40, 2)[0].astype("float32")
    found = fit_novelty(rows, labels, CLASSES, held_out, 0.95)
    assert found.fits(CLASSES)
    assert np.isfinite(found.likeness(held_out)).all()
    far = -held_out[:, ::-1]
    assert np.median(found.known_scores(far)) < np.median(found.known_scores(held_out))


def test_a_bounded_number_of_images_and_of_directions_is_stored(monkeypatch):
    rows, labels = clusters(400, 1)
    held_out = clusters(200, 2)[0].astype("float32")
    whole = fit_novelty(rows, labels, CLASSES, held_out, 0.95)
    monkeypatch.setattr(novelty, "MAX_DIRECTIONS", 12)
    monkeypatch.setattr(novelty, "MAX_REFERENCES", 300)
    short = fit_novelty(rows, labels, CLASSES, held_out, 0.95)
    assert (whole.references.shape, short.references.shape) == ((400, WIDTH), (300, WIDTH))
    assert (whole.within.shape, short.within.shape) == ((WIDTH, WIDTH), (12, WIDTH))
    assert (whole.precisions.shape, short.precisions.shape) == ((CLASSES, WIDTH, WIDTH), (CLASSES, 12, 12))
    assert short.fits(CLASSES)
    assert np.corrcoef(short.known_scores(held_out), whole.known_scores(held_out))[0, 1] > 0.8


@pytest.mark.parametrize("share", [0.5, 0.95, 1])
def test_the_share_of_the_validation_images_is_known(share):
    rows, labels = clusters(200, 1)
    held_out, _ = clusters(1000, 2)
    found = fit_novelty(rows, labels, CLASSES, held_out, share)
    known = found.known_scores(unit(held_out).astype("float32")) >= found.threshold
    assert known.mean() == pytest.approx(share, abs=0.002)


def test_the_length_of_embeddings_does_not_matter_for_the_fit():
    one, other = (fit_novelty(*clusters(200, 1, lengths), CLASSES, clusters(100, 2)[0], 0.95) for lengths in (1.0, 30.0))
    np.testing.assert_allclose(one.means, other.means, atol=1e-6)


def test_a_class_without_training_images_is_like_no_image():
    rows, labels = clusters(200, 1)
    held_out = clusters(100, 2)[0]
    found = fit_novelty(rows, labels, CLASSES + 1, held_out, 0.95)
    likeness = found.likeness(unit(held_out).astype("float32"))
    assert likeness[:, CLASSES].max() < likeness.max(1).min()


@pytest.mark.slow
@pytest.mark.parametrize("engine", [OPENVINO_FLOAT32, TENSORFLOW])
def test_a_model_tells_an_image_that_is_like_none_of_its_classes(tmp_path, engine):
    classifier = Classifier(known_colours.write_version(tmp_path / "1"), engine=engine)
    images = [colour_model.picture("red", "PNG"), known_colours.yellow(), b"no image", colour_model.picture("blue", "PNG")]
    red, yellow, _, blue = classifier.classify(images)
    assert [(one.label, one.known) for one in (red, blue)] == [("red", True), ("blue", True)]
    assert yellow.known is False and yellow.label in ("red", "green")
    assert yellow.known_score < classifier.novelty.threshold <= min(red.known_score, blue.known_score)
    plain = Classifier(known_colours.Version(colour_model.write_version(tmp_path / "2")), engine=engine)
    (without,) = plain.classify(images[:1])
    assert (without.known, without.known_score) == (None, None)
    assert without.probabilities == pytest.approx(red.probabilities, abs=1e-6)


def test_a_version_without_the_file_does_not_tell(tmp_path):
    assert load_novelty(exported_model.version(tmp_path / "1")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": np.float32(np.nan)},
        {"means": np.zeros((2, 3), np.float32)},
        {"precisions": -np.ones((3, 3, 3), np.float32)},
        {"labels": 2},
    ],
)
def test_a_file_whose_parts_do_not_fit_is_rejected(tmp_path, change):
    labels = list("rgb")[: change.get("labels", 3)]
    version = exported_model.version(tmp_path / "1", labels=labels)
    stored = known_colours.fit()
    replace(stored, **{name: value for name, value in change.items() if name != "labels"}).save(version.folder / NOVELTY_FILE)
    with pytest.raises(InputError, match=r"must be whole; got .* \(its parts do not fit each other, or the labels\)\. "):
        load_novelty(version)


@pytest.mark.parametrize("damage", [b"", b"no arrays", b"\0" * 9000, "cut"])
def test_a_damaged_file_is_rejected_in_one_line(tmp_path, damage):
    version = exported_model.version(tmp_path / "1")
    file = version.folder / NOVELTY_FILE
    known_colours.fit().save(file)
    file.write_bytes(file.read_bytes()[:300] if damage == "cut" else damage)
    with pytest.raises(InputError, match=r"error: assets\.extra/novelty\.npz of a version must be whole; got .*1") as raised:
        load_novelty(version)
    assert "\n" not in str(raised.value) and "pickle" not in str(raised.value)
