"""The embedded sample: deterministic, valid images whose classes differ in shape and not in colour."""

import hashlib
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kfp_vision.storage import sample

SOME_NAMES = [f"{label}/{file_name}" for label in sample.CLASSES for file_name in ("0001.jpg", "0020.png")]
NEIGHBOURS = 5
FOLDS = 5


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[pathlib.Path, int]:
    """Writes the whole sample; returns its folder and the count that `write` returned."""
    folder = tmp_path_factory.mktemp("sample") / "not" / "there yet"
    return folder, sample.write_images(folder)


def test_names_are_sorted_and_complete():
    names = sample.image_names()
    assert names == sorted(set(names))
    assert len(names) == len(sample.CLASSES) * sample.IMAGES_PER_CLASS == 600
    assert all(re.fullmatch(r"[a-z]+/\d{4}\.(jpg|png)", name) for name in names)
    assert sum(name.endswith(".png") for name in names) == 30
    for label in sample.CLASSES:
        assert sum(name.startswith(f"{label}/") for name in names) == 120


def test_classes_are_five_sorted_words():
    assert len(sample.CLASSES) == 5
    assert list(sample.CLASSES) == sorted(set(sample.CLASSES))
    assert all(label.isalpha() and label.islower() for label in sample.CLASSES)


def test_drawing_is_deterministic_in_any_order():
    first = [sample.draw(name) for name in SOME_NAMES]
    repeated = [sample.draw(name) for name in reversed(SOME_NAMES)][::-1]
    assert first == repeated
    assert len(set(first)) == len(first)


def test_another_process_draws_the_same_bytes():
    in_process = hashlib.sha256(b"".join(sample.draw(name) for name in SOME_NAMES)).hexdigest()
    program = (
        "import hashlib, sys; from kfp_vision.storage import sample; "
        "print(hashlib.sha256(b''.join(sample.draw(name) for name in sys.argv[1:])).hexdigest(), sample.fingerprint())"
    )
    root = pathlib.Path(sample.__file__).parents[2]
    command = [sys.executable, "-c", program, *SOME_NAMES]
    in_subprocess = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split()
    assert in_subprocess == [in_process, sample.fingerprint()]


def test_the_fingerprint_depends_on_the_version(monkeypatch):
    before = sample.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    monkeypatch.setattr(sample, "VERSION", sample.VERSION + 1)
    assert sample.fingerprint() != before


@pytest.mark.parametrize("name", ["", "bellcup", "bellcup/0000.jpg", "bellcup/0020.jpg", "bellcup/0121.jpg", "rose/0001.jpg"])
def test_an_unknown_name_is_rejected_with_a_remedy(name):
    with pytest.raises(ValueError, match=r"names\(\)") as refusal:
        sample.draw(name)
    assert repr(name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_write_creates_all_named_files(written):
    folder, count = written
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == sample.image_names()
    assert count == len(files)
    for name in SOME_NAMES:
        assert (folder / name).read_bytes() == sample.draw(name)


def test_every_image_has_the_documented_format_and_size(written):
    folder, _ = written
    sizes = set()
    for name in sample.image_names():
        with Image.open(folder / name) as image:
            image.load()
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[pathlib.Path(name).suffix], name
            assert image.mode == "RGB", name
            assert 240 <= min(image.size) <= max(image.size) <= 500, name
            sizes.add(image.size)
    assert len(sizes) > 500, "sizes should vary"


def test_all_images_differ(written):
    folder, _ = written
    assert len({(folder / name).read_bytes() for name in sample.image_names()}) == len(sample.image_names())


def test_mean_colour_does_not_predict_the_class(written):
    folder, _ = written
    colours = np.array([mean_colour(folder / name) for name in sample.image_names()])
    labels = np.array([sample.CLASSES.index(name.split("/")[0]) for name in sample.image_names()])
    assert neighbours_accuracy(colours, labels) < 0.70
    assert centroids_accuracy(colours, labels) < 0.70


def test_the_two_colour_classifiers_detect_differing_colours():
    """Guards the test above: both classifiers are nearly perfect on images that differ in colour."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    colours = 50.0 * labels[:, None] + rng.normal(0, 8, (200, 3))
    assert neighbours_accuracy(colours, labels) > 0.95
    assert centroids_accuracy(colours, labels) > 0.95


def mean_colour(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.reduce(8)).mean(axis=(0, 1))


def neighbours_accuracy(colours: np.ndarray, labels: np.ndarray) -> float:
    """Returns the leave-one-out accuracy of a nearest-neighbour vote; colours: (images, 3), labels: (images,)."""
    distances = ((colours[:, None] - colours[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = labels[np.argsort(distances, axis=1)[:, :NEIGHBOURS]]
    votes = (nearest[:, :, None] == np.arange(labels.max() + 1)).sum(axis=1)
    return float((votes.argmax(axis=1) == labels).mean())


def centroids_accuracy(colours: np.ndarray, labels: np.ndarray) -> float:
    """Returns the cross-validated accuracy of the nearest class mean; colours: (images, 3), labels: (images,)."""
    correct = 0
    for fold in range(FOLDS):
        held_out = np.arange(len(labels)) % FOLDS == fold
        means = np.array([colours[~held_out & (labels == label)].mean(axis=0) for label in range(labels.max() + 1)])
        guesses = ((colours[held_out][:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
        correct += int((guesses == labels[held_out]).sum())
    return correct / len(labels)
