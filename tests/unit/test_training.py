"""The trainer on a narrow network: it learns, it can be repeated, it stops when it must, and its export is what it trained."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kfp_vision import inputs, parameters, records, splitting, training
from kfp_vision.catalog import Row
from kfp_vision.errors import InputError
from kfp_vision.networks import NETWORKS
from kfp_vision.pictures import checked
from kfp_vision.training import optimizers, trainer, watching

LABELS = ["dark", "light"]
NARROW = {"depth_multiplier": 0.1, "opt_epsilon": 1e-7, "max_brightness_delta": 0.0}
RECIPE = training.Recipe(
    network="inception_v1",
    fine_tune=False,
    checkpoint_uri="",
    train_last_layer_only=False,
    batch_size=8,
    learning_rate=0.003,
    train_steps=60,
    optimizer="adam",
    learning_rate_schedule="fixed",
    image_size=32,
    gpu_count=0,
    model_name="shades",
    advanced=NARROW,
)


def shade(number: int, seed: int) -> bytes:
    """A noisy grey picture, dark or light; every other one a PNG."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(70 + 100 * number, 30, (40, 48, 3)), 0, 255).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if seed % 2 else "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of records and of the label map."""
    root = tmp_path_factory.mktemp("records")
    for split, first, count in (("train", 0, 32), ("validation", 100, 12)):
        examples = (
            (Row("", LABELS[i % 2], 0, "", f"{LABELS[i % 2]}/{i}.jpg"), checked(shade(i % 2, first + i // 2 * 2 + i % 3 % 2)))
            for i in range(count)
        )
        records.write_shards(root / split, split, examples, LABELS, 20)
    (root / "labels").mkdir()
    splitting.write_labels(root / "labels", LABELS)
    return root


def train(folders, out, **changes):
    recipe = replace(RECIPE, **changes)
    paths = {"model": out / "model", "events": out / "events", "page": out / "page.html"}
    reached = training.train_classifier(recipe, folders / "train", folders / "validation", folders / "labels", **paths)
    return reached, out / "model"


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    return train(folders, tmp_path_factory.mktemp("trained"))


def test_it_learns(trained):
    reached, _ = trained
    assert reached["validation_accuracy"] >= 0.9
    assert reached["step"] == 60


def test_the_model_folder_holds_what_a_server_needs(trained):
    _, model = trained
    assert (model / "serving" / "1" / "saved_model.pb").is_file()
    assert (model / "labels.txt").read_text() == "0:dark\n1:light\n"
    about = json.loads((model / "model.json").read_text())
    assert (about["network"], about["image_size"], about["model_name"]) == ("inception_v1", 32, "shades")
    history = json.loads((model / "training.json").read_text())
    assert [row["step"] for row in history] == list(range(1, 61))


def test_the_export_names_encoded_pictures(trained):
    _, model = trained
    served = tf.saved_model.load(str(model / "serving" / "1"))
    answers = served.signatures["serving_default"](image_bytes=tf.constant([shade(0, 500), shade(1, 501), shade(1, 502)]))
    assert [name.decode() for name in answers["classes"].numpy()] == ["dark", "light", "light"]
    assert answers["class_idx"].numpy().tolist() == [0, 1, 1]
    np.testing.assert_allclose(answers["probabilities"].numpy().sum(1), 1, atol=1e-5)


def test_the_export_keeps_to_operations_of_old_servers(trained):
    _, model = trained
    graph = tf.saved_model.load(str(model / "serving" / "1")).signatures["serving_default"].graph
    used = set(re.findall(r'\bop: "(\w+)"', str(graph.as_graph_def())))  # those of the functions within it, too
    assert {"DecodeImage", "ResizeBilinear", "Conv2D", "Softmax"} <= used
    assert not [name for name in used if "Xla" in name or "StatelessRandom" in name or "OneDnn" in name], used


def test_anybody_can_load_the_keras_file(trained, tmp_path):
    _, model = trained
    picture = np.full((1, 32, 32, 3), 200, "float32")
    np.save(tmp_path / "picture.npy", picture)
    program = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model({str(model / 'classifier.keras')!r})\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, model(np.load({str(tmp_path / 'picture.npy')!r})))\n"
        "assert not any(name.startswith('kfp_vision') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path)
    pixels = tf.saved_model.load(str(model / "serving" / "1")).signatures["pixels"]
    served = pixels(images=tf.constant(picture))["probabilities"].numpy()
    np.testing.assert_allclose(tf.nn.softmax(np.load(tmp_path / "logits.npy")), served, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_bfloat16_trains_on_float32_weights_and_exports_float32(folders, tmp_path, network):
    advanced = NARROW | {"precision": "bfloat16"}
    reached, model = train(folders, tmp_path, network=network, advanced=advanced, train_steps=3)
    assert np.isfinite(reached["loss"])
    exported = keras.saving.load_model(model / "classifier.keras")
    assert {weight.dtype for weight in exported.weights} == {"float32"}
    assert {layer.compute_dtype for layer in exported.layers} == {"float32"}


def test_the_same_seed_gives_the_same_batches(folders):
    def first_batches(seed):
        how = inputs.Augmentation()
        batches = inputs.training_batches(folders / "train", image_size=32, batch_size=8, seed=seed, augmentation=how)
        return np.concatenate([pictures.numpy() for pictures, _ in batches.take(6)])

    assert np.array_equal(first_batches(3), first_batches(3))
    assert not np.array_equal(first_batches(3), first_batches(4))


def test_augmented_pictures_stay_in_range_and_keep_their_labels(folders):
    how = inputs.Augmentation()
    batches = inputs.training_batches(folders / "train", image_size=32, batch_size=32, seed=0, augmentation=how)
    pictures, labels = next(iter(batches))
    assert pictures.numpy().min() >= 0 and pictures.numpy().max() <= 255
    bright = pictures.numpy().mean((1, 2, 3)) > 120
    assert np.array_equal(bright, labels.numpy() == 1)


def test_evaluation_batches_are_the_middle_of_the_picture(folders):
    pictures, labels = next(iter(inputs.evaluation_batches(folders / "validation", image_size=35, batch_size=64)))
    assert len(labels) == 12
    first = next(iter(tf.data.TFRecordDataset(str(folders / "validation" / "validation-00000-of-00001.tfrecord"))))
    encoded = inputs.parse(first)["image/encoded"].numpy()
    middle = Image.open(io.BytesIO(encoded)).convert("RGB").crop((3, 2, 45, 37)).resize((35, 35), Image.Resampling.BILINEAR)
    # Pillow smooths as it shrinks, TensorFlow does not: the same place, not the same pixels.
    assert np.abs(pictures[0].numpy().mean((0, 1)) - np.asarray(middle, "float32").mean((0, 1))).max() < 3


def test_only_the_last_layer_may_be_trained(folders, tmp_path):
    weights = tmp_path / "weights.npz"
    network = NETWORKS["inception_v1"]
    model = network.build(2, image_size=32, depth_multiplier=0.1)
    named = {network.name_in_checkpoint(layer.name, w.name): w.numpy() for layer in model.layers for w in layer.weights}
    np.savez(weights, **named)
    changes = {"fine_tune": True, "checkpoint_uri": str(weights), "train_last_layer_only": True, "train_steps": 5}
    _, folder = train(folders, tmp_path, **changes)
    after = keras.saving.load_model(folder / "classifier.keras")
    for layer in after.layers[:-1]:
        for weight in layer.weights:
            np.testing.assert_array_equal(weight.numpy(), named[network.name_in_checkpoint(layer.name, weight.name)])
    assert not np.array_equal(after.layers[-1].kernel, model.layers[-1].kernel)


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_nothing(folders, tmp_path):
    with pytest.raises(
        InputError, match=r"the loss must stay a number; got nan near step \d+, at rate 1e\+12\. Try a learning_rate"
    ):
        train(folders, tmp_path, optimizer="sgd", learning_rate=1e12, train_steps=20)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", parameters.OPTIMIZERS)
def test_every_optimizer_lowers_a_loss(name):
    optimizer = optimizers.make_optimizer(
        name, parameters.ADVANCED | {"opt_epsilon": 1e-3, "adagrad_initial_accumulator_value": 0.1}
    )
    variable = keras.Variable(np.array([3.0, -2.0], "float32"))
    optimizer.build([variable])
    optimizer.learning_rate.assign(0.1)
    for _ in range(20):
        optimizer.apply([2 * variable.value], [variable])
    assert float(tf.reduce_sum(tf.square(variable.value))) < 13.0


def test_weight_decay_is_the_gradient_of_tf_slims_penalty(folders):
    """One SGD step with weight decay differs from one without by exactly rate * decay * weight."""
    weights = []
    for decay in (0.0, 0.01):
        keras.utils.set_random_seed(0)
        advanced = parameters.advanced({"depth_multiplier": 0.1, "weight_decay": decay})
        model = trainer.build("inception_v1", 2, "float32", image_size=32, depth_multiplier=0.1, dropout=0.0)
        start = model.get_layer("Mixed_3b.Branch_0.Conv2d_0a_1x1.conv").kernel.numpy()
        recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.5, train_steps=1)
        taught = trainer.Trainer(model, recipe, advanced, 4)
        how = inputs.Augmentation()
        list(
            taught.run(inputs.training_batches(folders / "train", image_size=32, batch_size=8, seed=0, augmentation=how), None)
        )
        weights.append(model.get_layer("Mixed_3b.Branch_0.Conv2d_0a_1x1.conv").kernel.numpy())
    np.testing.assert_allclose(weights[0] - weights[1], 0.5 * 0.01 * start, atol=1e-5)


def test_a_line_of_progress():
    row = {"step": 120, "loss": 0.4104, "accuracy": 0.88, "images_per_second": 43.2}
    assert watching.progress_line(row, 6000, 136.2) == "step 120/6000  loss 0.410  acc 0.880  43 img/s  eta 2m16s"
