"""Pretrained weights: matching ones are loaded, others are rejected in one line."""

import contextlib
import http.server
import tarfile
import threading
import zipfile
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications import mobilenet_v2

from kfp_vision.core.errors import InputError
from kfp_vision.networks import NETWORKS, pretrained
from kfp_vision.prediction import export

SMALL = {"image_size": 32, "depth_multiplier": 0.1}


def slim_values(classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Makes random weights of a narrow Inception v1 under TF-Slim's names, with optimizer state and a step counter."""
    model = NETWORKS["inception_v1"].build(classes, **SMALL)
    rng = np.random.default_rng(seed)
    values = {}
    for layer in model.layers:
        for weight in layer.weights:
            name = NETWORKS["inception_v1"].name_in_checkpoint(layer.name, weight.name)
            values[name] = rng.normal(0, 0.1, weight.shape).astype("float32")
    stem = "InceptionV1/Conv2d_1a_7x7/weights"
    return values | {f"{stem}/Momentum": np.zeros(values[stem].shape, "float32"), "global_step": np.int64(7)}


def write_slim_checkpoint(folder, values, version):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value) for name, value in values.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables, write_version=version)
        return saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False, write_state=False)


@pytest.mark.slow
@pytest.mark.parametrize("version", [tf.compat.v1.train.SaverDef.V1, tf.compat.v1.train.SaverDef.V2], ids=["V1", "V2"])
def test_reads_both_formats_of_tf_slim_checkpoints(tmp_path, version):
    values = slim_values(4)
    path = write_slim_checkpoint(tmp_path, values, version)
    network = NETWORKS["inception_v1"]
    model = network.build(4, **SMALL)
    assert pretrained.load_pretrained(model, network, path)
    np.testing.assert_array_equal(model.get_layer("Conv2d_1a_7x7.conv").kernel, values["InceptionV1/Conv2d_1a_7x7/weights"])
    np.testing.assert_array_equal(
        model.get_layer("Mixed_5b.Branch_2.Conv2d_0a_3x3.BatchNorm").moving_variance,
        values["InceptionV1/Mixed_5b/Branch_2/Conv2d_0a_3x3/BatchNorm/moving_variance"],
    )
    np.testing.assert_array_equal(model.layers[-1].bias, values["InceptionV1/Logits/Conv2d_0c_1x1/biases"])


def test_the_classification_head_is_not_loaded_if_the_classes_differ(tmp_path):
    np.savez(tmp_path / "weights.npz", **slim_values(4))
    network = NETWORKS["inception_v1"]
    model = network.build(3, **SMALL)
    before = model.layers[-1].kernel.numpy()
    assert not pretrained.load_pretrained(model, network, str(tmp_path / "weights.npz"))
    np.testing.assert_array_equal(model.layers[-1].kernel, before)
    assert np.abs(model.get_layer("Conv2d_1a_7x7.conv").kernel).max() > 0


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_an_npz_may_have_any_float_type(tmp_path, kind):
    values = {name: np.asarray(value, kind) for name, value in slim_values(4).items()}
    np.savez(tmp_path / "weights.npz", **values)
    network = NETWORKS["inception_v1"]
    model = network.build(4, **SMALL)
    pretrained.load_pretrained(model, network, str(tmp_path / "weights.npz"))
    kernel = model.get_layer("Conv2d_1a_7x7.conv").kernel
    assert kernel.dtype == "float32"
    np.testing.assert_allclose(kernel, values["InceptionV1/Conv2d_1a_7x7/weights"].astype("float32"))


@pytest.mark.slow
def test_reads_the_only_checkpoint_of_an_archive(tmp_path):
    path = write_slim_checkpoint(tmp_path, slim_values(4), tf.compat.v1.train.SaverDef.V1)
    with tarfile.open(tmp_path / "published.tar.gz", "w:gz") as archive:
        archive.add(path, "./inception_v1.ckpt")
    network = NETWORKS["inception_v1"]
    assert pretrained.load_pretrained(network.build(4, **SMALL), network, str(tmp_path / "published.tar.gz"))


@pytest.mark.slow
def test_an_archive_with_two_checkpoints_is_rejected(tmp_path):
    np.savez(tmp_path / "weights.npz", **slim_values(4))
    with tarfile.open(tmp_path / "two.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "weights.npz", "a.npz")
        archive.add(tmp_path / "weights.npz", "b.npz")
    assert "must hold one checkpoint; got 2 in" in refusal("inception_v1", tmp_path / "two.tar.gz")


def test_a_checkpoint_of_another_network_is_rejected_with_the_missing_names(real_data):
    message = refusal("inception_v1", real_data / "googlenet" / "bvlc_googlenet.npz")
    assert "must fit network=inception_v1" in message
    assert "228 weights missing (such as InceptionV1/Conv2d_1a_7x7/BatchNorm/beta)" in message
    assert "116 weights unused (such as conv1/7x7_s2/biases)" in message
    assert "network=googlenet" in message


def test_a_checkpoint_of_another_width_is_rejected_with_the_shapes(tmp_path):
    np.savez(tmp_path / "weights.npz", **slim_values(4))
    message = refusal("inception_v1", tmp_path / "weights.npz")
    assert "of another shape (such as InceptionV1/Conv2d_1a_7x7/BatchNorm/beta)" in message


@pytest.mark.parametrize("name", ["text.ckpt", "text.npz", "torn.npz", "empty.npz", "one-array.npz", "nowhere.ckpt"])
def test_an_invalid_checkpoint_is_rejected(tmp_path, name):
    if name == "torn.npz":
        np.savez(tmp_path / name, weights=np.zeros(1000))
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:2000])
    if name == "empty.npz":
        (tmp_path / name).touch()
    if name == "one-array.npz":
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.zeros(3))
    if name.startswith("text"):
        (tmp_path / name).write_text("not a checkpoint")
    assert str(tmp_path / name) in refusal("inception_v1", tmp_path / name)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """Writes a model folder of a narrow GoogLeNet with four classes; returns it and the weights by layer."""
    folder = tmp_path_factory.mktemp("run") / "model"
    trained = NETWORKS["googlenet"].build(4, **SMALL)
    export.write_model(folder, trained, NETWORKS["googlenet"], list("abcd"), {}, SMALL, [])
    return folder, {(layer.name, weight.name): weight.numpy() for layer in trained.layers for weight in layer.weights}


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["folder", "file", "archive"])
def test_loads_the_model_of_an_earlier_run(model_folder, tmp_path, checkpoint):
    folder, weights = model_folder
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as archive:
        archive.add(folder, "model")
    uri = {"folder": folder, "file": folder / "classifier.keras", "archive": tmp_path / "model.tgz"}[checkpoint]
    model = NETWORKS["googlenet"].build(4, **SMALL)
    assert pretrained.load_pretrained(model, NETWORKS["googlenet"], str(uri))
    for layer in model.layers:
        for weight in layer.weights:
            np.testing.assert_array_equal(weight, weights[layer.name, weight.name])


def test_a_model_of_other_classes_is_loaded_without_its_head(model_folder):
    folder, weights = model_folder
    model = NETWORKS["googlenet"].build(7, **SMALL)
    before = model.layers[-1].kernel.numpy()
    assert not pretrained.load_pretrained(model, NETWORKS["googlenet"], str(folder))
    np.testing.assert_array_equal(model.layers[-1].kernel, before)
    np.testing.assert_array_equal(model.get_layer("conv2.3x3").kernel, weights["conv2.3x3", "kernel"])


def test_a_model_of_another_network_is_rejected_with_its_name(model_folder):
    message = refusal("mobilenet_v2", model_folder[0])
    assert "must fit network=mobilenet_v2" in message
    assert "missing (such as Conv1/kernel)" in message
    assert "unused (such as conv1.7x7_s2/bias)" in message
    assert message.endswith("Give a checkpoint of mobilenet_v2, or set network=googlenet.")


def test_a_model_of_another_width_is_rejected_with_the_field(model_folder):
    message = refusal("googlenet", model_folder[0])
    assert "weights of another shape (such as conv1.7x7_s2/bias)" in message
    assert message.endswith("Give a checkpoint of googlenet that was trained with the same depth_multiplier.")


def test_a_folder_without_a_model_is_rejected(tmp_path):
    message = refusal("inception_v1", tmp_path)
    assert "must be a run's model folder, with classifier.keras in it" in message


def test_a_keras_file_with_code_is_rejected_and_not_executed(tmp_path):
    ran = tmp_path / "ran"
    inputs = keras.Input((2,))
    code = f"lambda x: (__import__('pathlib').Path({str(ran)!r}).touch(), x * 2)[1]"
    doubled = keras.layers.Lambda(eval(code), output_shape=(2,))(inputs)
    keras.Model(inputs, doubled).save(tmp_path / "hostile.keras")
    ran.unlink(missing_ok=True)
    assert "must be a model that Keras can load, with no code in it" in refusal("inception_v1", tmp_path / "hostile.keras")
    assert not ran.exists()


@pytest.mark.parametrize("broken", ["no zip", "torn", "without weights"])
def test_a_damaged_keras_file_is_rejected(model_folder, tmp_path, broken):
    content = model_folder[0] / "classifier.keras"
    file = tmp_path / "broken.keras"
    if broken == "no zip":
        file.write_text("not a model")
    elif broken == "torn":
        file.write_bytes(content.read_bytes()[: content.stat().st_size // 2])
    else:
        with zipfile.ZipFile(content) as source, zipfile.ZipFile(file, "w") as copy:
            copy.writestr("config.json", source.read("config.json"))
            copy.writestr("metadata.json", source.read("metadata.json"))
    message = refusal("googlenet", file)
    assert "must be a model that Keras can load" in message and str(file) in message


@contextlib.contextmanager
def serve(folder):
    """Serves a folder over HTTP; returns its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_reads_a_checkpoint_prefix_and_a_model_over_http(model_folder, tmp_path):
    values = slim_values(4)
    write_slim_checkpoint(tmp_path, values, tf.compat.v1.train.SaverDef.V2)
    network, model = NETWORKS["inception_v1"], NETWORKS["inception_v1"].build(4, **SMALL)
    with serve(tmp_path) as address:
        assert pretrained.load_pretrained(model, network, f"{address}/model.ckpt")
        assert f"{address}/other.ckpt" in refusal("inception_v1", f"{address}/other.ckpt")
    np.testing.assert_array_equal(model.get_layer("Conv2d_1a_7x7.conv").kernel, values["InceptionV1/Conv2d_1a_7x7/weights"])
    with serve(model_folder[0]) as address:
        googlenet = NETWORKS["googlenet"].build(4, **SMALL)
        assert pretrained.load_pretrained(googlenet, NETWORKS["googlenet"], f"{address}/classifier.keras")


@pytest.fixture
def keras_site(tmp_path, monkeypatch):
    """Serves a folder with MobileNet v2's published file in place of Keras's own server; returns the folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    with serve(folder) as address:
        # The only file for which Keras has no checksum.
        monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", f"{address}/")
        monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
        yield folder


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


MOBILENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def published_mobilenet(folder):
    """Writes Keras's file of MobileNet v2 without classification head, with random weights; returns the model."""
    model = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(224, 224, 3))
    model.save(folder / MOBILENET_FILE)
    return model


@pytest.mark.slow
def test_imagenet_downloads_the_weights_of_keras(keras_site, tmp_path, capfd):
    theirs = published_mobilenet(keras_site)
    network = NETWORKS["mobilenet_v2"]
    ours = network.build(2, image_size=32)
    assert not pretrained.load_pretrained(ours, network, "imagenet")
    np.testing.assert_array_equal(ours.get_layer("Conv_1").kernel, theirs.get_layer("Conv_1").kernel)
    np.testing.assert_array_equal(ours.get_layer("block_3_expand_BN").gamma, theirs.get_layer("block_3_expand_BN").gamma)
    assert "━" not in capfd.readouterr().out  # a progress bar would clutter the log
    # Without internet access, the same file is given as a checkpoint.
    repeated = network.build(2, image_size=32)
    assert not pretrained.load_pretrained(repeated, network, str(keras_site / MOBILENET_FILE))
    np.testing.assert_array_equal(repeated.get_layer("Conv_1").kernel, theirs.get_layer("Conv_1").kernel)


@pytest.mark.slow
def test_a_failed_download_is_rejected_with_the_address_and_a_remedy(keras_site):
    message = refusal("mobilenet_v2", "imagenet")
    assert "the ImageNet weights of mobilenet_v2 must be downloadable; got URL fetch failure on http://127.0.0.1" in message
    assert MOBILENET_FILE in message
    assert message.endswith("or download the file elsewhere and give it as checkpoint_uri.")


def test_weights_of_another_application_are_rejected(keras_site):
    published_mobilenet(keras_site)
    assert "must hold Keras's ImageNet weights of vgg16" in refusal("vgg16", keras_site / MOBILENET_FILE)


def refusal(network: str, path) -> str:
    with pytest.raises(InputError) as caught:
        pretrained.check_pretrained(NETWORKS[network], str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)
