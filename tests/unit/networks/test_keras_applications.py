"""Networks of keras.applications equal Keras's own, preprocess images alike, train, and load in stock Keras."""

import subprocess
import sys
from dataclasses import asdict

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import applications
from support import bfloat16_step

from kfp_vision.networks import KERAS_APPLICATIONS, NETWORKS, pretrained
from kfp_vision.prediction import export
from kfp_vision.training.trainer import build_network

# Network to Keras's builder and preprocessing function; None if Keras's model has preprocessing inside.
PUBLISHED = {
    "inception_v3": (applications.InceptionV3, applications.inception_v3.preprocess_input),
    "resnet50": (applications.ResNet50, applications.resnet.preprocess_input),
    "resnet50_v2": (applications.ResNet50V2, applications.resnet_v2.preprocess_input),
    "resnet101": (applications.ResNet101, applications.resnet.preprocess_input),
    "resnet101_v2": (applications.ResNet101V2, applications.resnet_v2.preprocess_input),
    "resnet152": (applications.ResNet152, applications.resnet.preprocess_input),
    "resnet152_v2": (applications.ResNet152V2, applications.resnet_v2.preprocess_input),
    "vgg16": (applications.VGG16, applications.vgg16.preprocess_input),
    "mobilenet_v2": (applications.MobileNetV2, applications.mobilenet_v2.preprocess_input),
    "mobilenet_v3_large": (applications.MobileNetV3Large, None),
    "efficientnet_v2_b0": (applications.EfficientNetV2B0, None),
    "nasnet_mobile": (applications.NASNetMobile, applications.nasnet.preprocess_input),
    "convnext_tiny": (applications.ConvNeXtTiny, None),
}
QUICK = ("mobilenet_v2", "mobilenet_v3_large", "efficientnet_v2_b0")  # tested where slow tests are not
DEEPER = {"resnet101": "resnet50", "resnet152": "resnet50", "resnet101_v2": "resnet50_v2", "resnet152_v2": "resnet50_v2"}
SHALLOW = sorted(PUBLISHED.keys() - DEEPER.keys())
OTHERS = sorted(NETWORKS.keys() - PUBLISHED)
LABELS = ["dark", "light"]


def networks(*names: str) -> pytest.MarkDecorator:
    """Gives a test each network, of which all but three are slow.

    Tests that take the same first names take turns on one network, which is built once.
    """
    values = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("name", values, scope="module")


@pytest.fixture(scope="module")
def model(name: str) -> keras.Model:
    """Returns our network for three classes, of the smallest images, with any weights."""
    return NETWORKS[name].build(3, image_size=NETWORKS[name].smallest)


def pixels(size: int, images: int = 2) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (images, size, size, 3)).astype("float32")


def published(name: str, size: int) -> keras.Model:
    """Builds Keras's own model without classification head, with weights that keep activations in range."""
    model = PUBLISHED[name][0](include_top=False, weights=None, pooling="avg", input_shape=(size, size, 3))
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name == "kernel":
            weight.assign(rng.normal(0, np.sqrt(1.5 / np.prod(weight.shape[:-1])), weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return model


def preprocess_as_published(name: str, images: np.ndarray) -> np.ndarray:
    """Preprocesses images as Keras's own model needs them."""
    preprocess = PUBLISHED[name][1]
    return preprocess(images.copy()) if preprocess else images


def test_every_network_of_keras_is_tested():
    assert sorted(PUBLISHED) == sorted(network.name for network in NETWORKS.values() if network.imagenet == KERAS_APPLICATIONS)


@pytest.mark.parametrize("name", DEEPER)
def test_a_deeper_network_differs_from_a_shallower_one_only_in_its_function(name):
    """So what holds for the one holds for the other, which takes minutes to build."""
    (kind, ours), (shallower, like) = (
        (PUBLISHED[one][0].__name__, {**asdict(NETWORKS[one]), "name": ""}) for one in (name, DEEPER[name])
    )
    assert ours["settings"] == {**like["settings"], "name": name, "kind": kind}
    assert like["settings"]["kind"] == shallower
    assert ours | {"settings": {}} == like | {"settings": {}}


@networks(*SHALLOW)
def test_images_are_preprocessed_as_published(name, model):
    size = NETWORKS[name].smallest
    if PUBLISHED[name][1]:
        expected = preprocess_as_published(name, pixels(size))
    else:
        reference = PUBLISHED[name][0](include_top=False, weights=None, input_shape=(size, size, 3))
        first = next(layer for layer in reference.layers if layer.weights)
        expected = keras.Model(reference.input, first.input)(pixels(size))
    preprocessed = keras.Model(model.input, model.get_layer("preprocessing").output)(pixels(size))
    np.testing.assert_allclose(preprocessed, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.slow
@networks(*SHALLOW)
def test_a_model_saved_by_keras_is_loaded_and_gives_the_same_features(tmp_path, name, model):
    network = NETWORKS[name]
    reference = published(name, network.smallest)
    reference.save(tmp_path / "published.keras")
    assert not pretrained.load_pretrained(model, network, str(tmp_path / "published.keras"))  # it has no classification head
    expected = reference(preprocess_as_published(name, pixels(network.smallest)))
    assert 1e-3 < np.std(expected) < 1e4
    features = keras.Model(model.input, model.layers[-2].output)(pixels(network.smallest))
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.slow
@networks(*SHALLOW)
def test_trains_in_bfloat16(name):
    norms = bfloat16_step.assert_trains(name, pixels(NETWORKS[name].smallest, 4))
    assert {norm.momentum for norm in norms} == ({0.5} if norms else set())


@pytest.mark.slow
@networks("mobilenet_v3_large", "convnext_tiny")
def test_the_export_loads_in_tensorflow_and_stock_keras(tmp_path, name):
    trained = build_network(name, 2, "bfloat16", image_size=32)
    shape = {"image_size": 32, "depth_multiplier": 1.0}
    model = tmp_path / "model"
    export.write_model(model, trained, NETWORKS[name], LABELS, {"network": name}, shape, [])
    np.save(tmp_path / "pictures.npy", pixels(32))
    program = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('model/classifier.keras')\n"
        "np.save('logits.npy', model(np.load('pictures.npy')))\n"
        "assert not any(name.startswith('kfp_vision') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path)
    served = tf.saved_model.load(str(model / "serving" / "1")).signatures
    probabilities = served["pixels"](images=tf.constant(pixels(32)))["probabilities"].numpy()
    np.testing.assert_allclose(tf.nn.softmax(np.load(tmp_path / "logits.npy")), probabilities, atol=1e-5)
    encoded = tf.io.encode_png(tf.cast(pixels(40)[0], tf.uint8))
    assert served["serving_default"](image_bytes=encoded[None])["classes"].numpy()[0].decode() in LABELS


@pytest.mark.slow
@networks(*SHALLOW, *OTHERS)
def test_the_exported_network_equals_the_trained_one(name, model):
    network = NETWORKS[name]
    for weight in model.weights:
        weight.assign(weight + 0.01)
    stock = export.rebuild_in_stock_layers(model, network, 3, {"image_size": network.smallest})
    expected = model(pixels(network.smallest)).numpy()
    np.testing.assert_allclose(stock(pixels(network.smallest)), expected, atol=1e-3 * np.abs(expected).max(), rtol=0)
