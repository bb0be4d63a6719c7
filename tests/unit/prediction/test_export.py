"""The signatures of an exported model of several labels, as a stock TensorFlow server sees them."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from support import colour_model, embedding_model

from kfp_vision.core.frameworks import tf
from kfp_vision.engines import choice
from kfp_vision.engines.engine import OPENVINO_FLOAT32, TENSORFLOW
from kfp_vision.prediction import export
from kfp_vision.repository.version import Version, exported_version

pytestmark = pytest.mark.slow

MAX_PIXELS = 1_000_000
THRESHOLDS = (0.5, 0.4, 0.9)  # of red, green and blue


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return colour_model.write_version(tmp_path_factory.mktemp("repository") / "1", thresholds=THRESHOLDS)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def filled(*colour: int) -> np.ndarray:
    return np.full((colour_model.SIZE, colour_model.SIZE, 3), colour, np.float32)


def test_every_label_that_reaches_its_threshold_is_named_the_most_probable_first(version):
    images = np.stack([filled(110, 160, 30), filled(30, 105, 130), filled(30, 30, 130), filled(30, 30, 30)])
    answer = tf.saved_model.load(version).signatures["pixels"](tf.constant(images))
    # Of the second and the third image, blue is most probable with sigmoid(1.5) = 0.82, which is below its threshold.
    expected_labels = [[b"green", b"red", b""], [b"green", b"", b""], [b"", b"", b""], [b"", b"", b""]]
    assert answer["labels"].numpy().tolist() == expected_labels
    assert answer["classes"].numpy().tolist() == [b"green", b"blue", b"blue", b"red"]
    expected = 1 / (1 + np.exp(-(images.mean((1, 2)) - colour_model.HALF) * colour_model.SCALE))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)


def test_a_stock_server_answers_the_labels_of_encoded_images(version):
    serving = tf.saved_model.load(version).signatures["serving_default"]
    answer = serving(tf.constant([colour_model.picture("red", "PNG"), colour_model.picture("blue", "PNG")]))
    assert answer["labels"].numpy().tolist() == [[b"red", b"", b""], [b"blue", b"", b""]]
    assert sorted(answer) == ["class_idx", "classes", "labels", "probabilities"]


def test_both_engines_answer_sigmoids_with_and_without_maps(version):
    images = [colour_model.picture("green", "PNG"), encoded(colour_model.halves("red", "blue"))]
    tensorflow, openvino = (choice.load_engine(Version(version), name) for name in (TENSORFLOW, OPENVINO_FLOAT32))
    for engine in (tensorflow, openvino):
        crops = [engine.crop(image, MAX_PIXELS) for image in images]
        means = np.array([[30, 200, 30], [115, 30, 115]])
        expected = 1 / (1 + np.exp((colour_model.HALF - means) * colour_model.SCALE))
        np.testing.assert_allclose(engine.scores([engine.prepare(image, MAX_PIXELS) for image in images]), expected, atol=1e-4)
        np.testing.assert_allclose([evidence.scores for evidence in engine.explain(crops)], expected, atol=1e-4)


def test_the_thresholds_make_a_model_folder_one_of_several_labels(tmp_path):
    network, labels = embedding_model.FILTERS, embedding_model.LABELS
    shape = {"image_size": 16}
    settings = {"network": network.name, "model_name": "flowers", **shape}
    model = network.build(len(labels), **shape)
    history = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": math.nan}]
    export.write_model(tmp_path / "one", model, network, labels, settings, shape, history)
    stored = (tmp_path / "one" / "training.json").read_text()
    assert json.loads(stored, parse_constant=pytest.fail) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]
    export.write_model(tmp_path / "several", model, network, labels, settings | {"thresholds": [0.5, 0.25]}, shape, [])
    one, several = exported_version(tmp_path / "one"), exported_version(tmp_path / "several")
    assert (several.several, several.thresholds) == (True, [0.5, 0.25])
    assert not one.several
    assert json.loads((tmp_path / "several" / "model.json").read_text())["labels_per_image"] == "several"
    assert not {"labels_per_image", "thresholds"} & one.about.keys()
    assert "labels" not in tf.saved_model.load(one.folder).signatures["serving_default"].structured_outputs
