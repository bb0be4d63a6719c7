"""Cuts images for calibration out of training records."""

import numpy as np
import pytest
from support import colour_model, exported_colours

from kfp_vision.core.errors import InputError
from kfp_vision.exports import crops

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return exported_colours.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return exported_colours.write_records(tmp_path_factory.mktemp("records"))


def test_crops_are_of_training_images(version, records, tmp_path):
    assert crops.write_calibration_crops(version, records / "train", tmp_path / "crops.npy", 0) == 12
    written = np.load(tmp_path / "crops.npy")
    assert (written.shape, written.dtype) == ((12, colour_model.SIZE, colour_model.SIZE, 3), np.uint8)
    colours = np.array([colour_model.RGB[label] for label in exported_colours.LABELS * 4])
    assert np.abs(written.mean((1, 2)) - colours).max() < 3  # a JPEG's colours


def test_at_most_so_many_images_are_drawn(version, records, tmp_path, monkeypatch):
    monkeypatch.setattr(crops, "CALIBRATION_IMAGES", 5)
    drawn = []
    for seed in (1, 1, 2):
        assert crops.write_calibration_crops(version, records / "train", tmp_path / "crops.npy", seed) == 5
        drawn.append(np.load(tmp_path / "crops.npy"))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_held_out_images_are_refused(version, records, tmp_path):
    with pytest.raises(InputError, match=r"never on held-out ones; got 12 images of split validation. Connect the training"):
        crops.write_calibration_crops(version, records / "validation", tmp_path / "crops.npy", 0)
