"""Networks equal their originals: TF-Slim's Inception v1 in numbers, Caffe's GoogLeNet on photographs."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kfp_vision.networks import NETWORKS, decoding, find_feature_map, pretrained
from kfp_vision.networks.inception import BLOCK_CHANNELS
from kfp_vision.networks.layers import neighbour_matrix
from kfp_vision.training.trainer import build_network

DAISY = 985  # line of synset_words.txt, from 0


@pytest.fixture(scope="module")
def expected(real_data):
    return np.load(real_data / "slim" / "expected.npz")


@pytest.mark.parametrize("fast", [True, False], ids=["fused", "stock"])
def test_inception_v1_gives_the_outputs_of_tf_slim(real_data, expected, fast):
    network = NETWORKS["inception_v1"]
    model = network.build(1001, fast=fast)
    assert pretrained.load_pretrained(model, network, str(real_data / "slim" / "inception_v1.ckpt"))
    with_features = keras.Model(model.input, [model.get_layer("Mixed_5c").output, model.output])
    mixed_5c, logits = with_features((expected["images"] + 1) * 127.5, training=False)
    tolerance = 1e-4 * np.abs(expected["logits"]).max()
    np.testing.assert_allclose(logits, expected["logits"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(mixed_5c, expected["mixed_5c"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("fast", [True, False], ids=["fused", "stock"])
def test_inception_v1_in_bfloat16_gives_the_predictions_of_tf_slim(real_data, expected, fast):
    network = NETWORKS["inception_v1"]
    model = build_network("inception_v1", 1001, "bfloat16", fast=fast)
    pretrained.load_pretrained(model, network, str(real_data / "slim" / "inception_v1.ckpt"))
    assert model.get_layer("Mixed_5c").compute_dtype == "bfloat16"
    logits = model((expected["images"] + 1) * 127.5, training=False).numpy()
    assert np.argmax(logits, 1).tolist() == np.argmax(expected["logits"], 1).tolist()
    # With random weights all four images get the same class, so compare the other probabilities as well.
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-2 * np.abs(expected["logits"]).max(), rtol=0)


@pytest.mark.parametrize("fast", [True, False], ids=["fused", "stock"])
def test_inception_v1_has_the_endpoints_of_tf_slim(fast):
    model = NETWORKS["inception_v1"].build(5, fast=fast)
    # Endpoint to height and channels at 224 x 224, from the paper's table 1.
    shapes = {
        "Conv2d_1a_7x7": (112, 64),
        "MaxPool_2a_3x3": (56, 64),
        "Conv2d_2b_1x1": (56, 64),
        "Conv2d_2c_3x3": (56, 192),
        "MaxPool_3a_3x3": (28, 192),
        "Mixed_3b": (28, 256),
        "Mixed_3c": (28, 480),
        "MaxPool_4a_3x3": (14, 480),
        "Mixed_4b": (14, 512),
        "Mixed_4c": (14, 512),
        "Mixed_4d": (14, 512),
        "Mixed_4e": (14, 528),
        "Mixed_4f": (14, 832),
        "MaxPool_5a_2x2": (7, 832),
        "Mixed_5b": (7, 832),
        "Mixed_5c": (7, 1024),
    }
    pooled_before_rectified = {"Conv2d_1a_7x7", "Conv2d_2c_3x3"} if fast else set()
    for name, (side, channels) in shapes.items():
        if name in pooled_before_rectified:
            continue
        assert model.get_layer(name).output.shape == (None, side, side, channels), name
    assert model.get_layer("Mixed_4b.Branch_2.Conv2d_0b_3x3.conv").kernel_size == (3, 3)


def test_googlenet_has_the_kernels_and_size_of_the_paper():
    model = NETWORKS["googlenet"].build(1000)
    assert model.get_layer("inception_3a.5x5").kernel_size == (5, 5)
    assert model.count_params() == 6_998_552  # Caffe's bvlc_googlenet without auxiliary classifiers
    assert [layer.name for layer in model.layers if layer.name.startswith("inception") and layer.name.endswith("output")] == [
        f"inception_{tag}.output" for tag in BLOCK_CHANNELS
    ]


@pytest.mark.slow
def test_googlenet_recognizes_daisies_with_the_preprocessing_of_the_evaluation(real_data, flower_photos):
    network = NETWORKS["googlenet"]
    model = network.build(1000)
    assert pretrained.load_pretrained(model, network, str(real_data / "googlenet" / "bvlc_googlenet.npz"))
    files = sorted((flower_photos / "daisy").glob("*.jpg"))
    images = tf.stack([decoding.central_crop(tf.constant(file.read_bytes()), 224) for file in files])
    predicted = np.argmax(model.predict(images, batch_size=50, verbose=0), axis=1)
    assert np.mean(predicted == DAISY) >= 0.8


def test_fused_and_stock_googlenet_agree():
    network = NETWORKS["googlenet"]
    fast, stock = (network.build(3, image_size=64, depth_multiplier=0.25, fast=fast) for fast in (True, False))
    for layer in fast.layers:
        if layer.weights:
            stock.get_layer(layer.name).set_weights(layer.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(fast(images), stock(images), atol=1e-4)


def test_local_response_norm_equals_that_of_tensorflow():
    from kfp_vision.networks.layers import LocalResponseNormalization

    x = tf.constant(np.random.default_rng(0).normal(0, 50, (2, 5, 5, 32)), tf.float32)
    reference = tf.nn.local_response_normalization(x, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75)
    np.testing.assert_allclose(LocalResponseNormalization()(x), reference, rtol=1e-5)


def test_local_response_norm_has_the_gradients_of_tensorflow():
    from kfp_vision.networks.layers import LocalResponseNormalization

    rng = np.random.default_rng(0)
    x, upstream = (tf.constant(rng.normal(0, scale, (2, 5, 5, 32)), tf.float32) for scale in (300, 1))
    layer = LocalResponseNormalization()
    gradients = []
    for normalize in (layer, lambda x: tf.nn.local_response_normalization(x, 2, 1.0, layer.alpha / layer.size, 0.75)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            normalized = normalize(x)
        gradients.append(tape.gradient(normalized, x, upstream))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_the_neighbour_matrix_spans_two_channels_on_each_side():
    assert neighbour_matrix(6, 5)[3].tolist() == [0, 1, 1, 1, 1, 1]


def test_fused_batch_norm_equals_that_of_keras():
    images = np.random.default_rng(1).normal(3, 2, (8, 6, 6, 4)).astype("float32")
    from kfp_vision.networks.layers import FusedBatchNormalization

    ours, reference = (
        kind(momentum=0.9, epsilon=0.001, scale=False) for kind in (FusedBatchNormalization, keras.layers.BatchNormalization)
    )
    np.testing.assert_allclose(ours(images, training=True), reference(images, training=True), atol=1e-4)
    np.testing.assert_allclose(ours.moving_mean, reference.moving_mean, atol=1e-5)
    # The fused kernel's variance is unbiased, n / (n - 1) times that of Keras, as in TF-Slim.
    np.testing.assert_allclose(ours.moving_variance, reference.moving_variance, rtol=1e-2)
    np.testing.assert_allclose(ours(images, training=False), reference(images, training=False), atol=2e-2)


@pytest.mark.slow
def test_fused_and_stock_inception_v1_have_the_same_gradients():
    keras.utils.set_random_seed(0)  # with other weights, rounding may change the sign of a ReLU's input
    fast, stock = (
        NETWORKS["inception_v1"].build(3, image_size=64, dropout=0, depth_multiplier=0.1, fast=f) for f in (True, False)
    )
    stock.set_weights(fast.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    gradients = []
    for model in (fast, stock):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(images, training=True)))
        gradients.append(tape.gradient(loss, [variable.value for variable in model.trainable_variables]))
    for variable, ours, reference in zip(fast.trainable_variables, *gradients, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-3 * np.abs(reference).max(), err_msg=variable.path)


@pytest.mark.slow
def test_depthwise_convolution_and_fused_batch_norm_train_over_all_replicas(tmp_path):
    program = Path(__file__).parents[2] / "support" / "replicas.py"
    subprocess.run([sys.executable, program, tmp_path / "one.npz", tmp_path / "two.npz"], check=True)
    one_replica, two_replicas = (np.load(tmp_path / name) for name in ("one.npz", "two.npz"))
    for name in one_replica:
        tolerance = 1e-5 * np.abs(one_replica[name]).max()
        np.testing.assert_allclose(
            *np.broadcast_arrays(two_replicas[name], one_replica[name]), rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", [network.name for network in NETWORKS.values() if network.has_widths])
def test_depth_multiplier_makes_a_network_narrower(name):
    network = NETWORKS[name]
    model, full_width = (network.build(3, image_size=network.smallest, depth_multiplier=width) for width in (0.1, 1.0))
    assert model(np.zeros((1, 32, 32, 3), "float32")).shape == (1, 3)
    assert model.count_params() < full_width.count_params() / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_product_of_feature_map_and_head_is_the_logits_of_each_place(name):
    network = NETWORKS[name]
    model = network.build(3, image_size=max(network.smallest, 64), fast=False)
    feature_map = find_feature_map(model)
    assert (feature_map is None) == (name == "convnext_tiny")
    if feature_map is None:
        return
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *model.input.shape[1:])).astype("float32")
    features, logits = keras.Model(model.input, [feature_map, model.output])(pixels, training=False)
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose((features @ kernel).numpy().mean((1, 2)) + bias, logits, rtol=1e-4, atol=1e-5)


def test_a_head_with_an_activation_has_no_feature_map():
    pixels = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pixels))
    dropped = keras.layers.Dropout(0.2)(pooled)
    assert find_feature_map(keras.Model(pixels, keras.layers.Dense(2)(dropped))).shape == (None, 6, 6, 4)
    assert find_feature_map(keras.Model(pixels, keras.layers.Dense(2, activation="relu")(dropped))) is None
    assert find_feature_map(keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Dense(2)(dropped)))) is None
