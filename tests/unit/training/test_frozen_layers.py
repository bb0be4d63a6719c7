"""What computes the features of a frozen network: OpenVINO and TensorFlow, to the same values."""

import numpy as np
import pytest
import tensorflow as tf
from support import small_network
from support.shade_records import RECIPE

from kfp_vision import networks
from kfp_vision.engines import openvino_conversion
from kfp_vision.training import devices, frozen_layers
from kfp_vision.training.trainer import build_network

SIZE = 32
IMAGES = tf.constant(np.random.default_rng(5).uniform(0, 255, (11, SIZE, SIZE, 3)), tf.float32)
# Of the largest feature: the rounding of float16; and of bfloat16, layer by layer.
MOST_DIFFERENCE = {"float32": 1e-3, "bfloat16": 2e-2}


@pytest.fixture
def network(request):
    with small_network.registered():
        yield build_network(small_network.NAME, 3, getattr(request, "param", "float32"), image_size=SIZE)


def forward(network, scratch, images=frozen_layers.MIN_IMAGES_TO_CONVERT):
    return frozen_layers.forward_pass(network, body, RECIPE, image_size=SIZE, images=images, scratch=scratch)


def body(network):
    return networks.split_head(network)[0]


def features_of(network) -> np.ndarray:
    return tf.cast(body(network)(IMAGES, training=False), tf.float32).numpy()


def converted(scratch) -> list[str]:
    return [file.name for file in scratch.rglob("*.xml")]


@pytest.mark.parametrize("network", MOST_DIFFERENCE, indirect=True)
def test_the_features_of_many_images_come_from_openvino(network, tmp_path):
    computed = forward(network, tmp_path)(IMAGES)
    assert converted(tmp_path) == ["body.xml"]
    expected = features_of(network)
    assert computed.dtype == np.float16
    most = MOST_DIFFERENCE[network.layers[-2].compute_dtype]
    assert np.abs(computed - expected).max() <= most * np.abs(expected).max()


def test_few_images_are_computed_before_a_conversion_would_be_done(network, tmp_path):
    computed = forward(network, tmp_path, frozen_layers.MIN_IMAGES_TO_CONVERT - 1)(IMAGES)
    assert not converted(tmp_path)
    np.testing.assert_allclose(computed, features_of(network), rtol=1e-3, atol=1e-3)


def test_a_gpu_is_not_left_idle(network, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "count_gpus", lambda: 1)
    forward(network, tmp_path)
    assert not converted(tmp_path)


def test_what_openvino_does_not_convert_is_computed_by_tensorflow(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(openvino_conversion, "TIMEOUT", 0.001)
    computed = forward(network, tmp_path)(IMAGES)
    np.testing.assert_allclose(computed, features_of(network), rtol=1e-3, atol=1e-3)
    assert "TensorFlow computes the features, since OpenVINO does not: " in capsys.readouterr().out
    assert not converted(tmp_path)


def test_features_beyond_float16_become_infinite_without_a_warning(network, tmp_path):
    layer = network.get_layer(f"block_{len(small_network.WIDTHS) - 1}.BatchNorm")
    layer.moving_mean.assign(layer.moving_mean - 1e7)
    assert np.isinf(forward(network, tmp_path)(IMAGES)).any()
