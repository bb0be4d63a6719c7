"""Class activation maps are exact, those of the place that a person sees, and depend on the weights of the model."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import colour_model, embedding_model, odd_images, place_model, sample_images

from kfp_vision.core.crop_shapes import SQUARE
from kfp_vision.core.frameworks import keras
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines.engine import OPENVINO_FILE, OPENVINO_FLOAT32, TENSORFLOW
from kfp_vision.engines.openvino_engine import OpenVinoEngine
from kfp_vision.networks import NETWORKS, find_feature_map, pretrained
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.prediction.explanation import explain
from kfp_vision.repository.version import Version, exported_version

pytestmark = pytest.mark.slow

# Of deep networks, both add the same numbers in another order.
ENGINES = {TENSORFLOW: 1e-5, OPENVINO_FLOAT32: 1e-4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Version:
    """A network of random weights that sees the square."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    network = replace(NETWORKS["inception_v1"], crop=SQUARE)
    return exported_version(embedding_model.write_model(folder, network, image_size=128, depth_multiplier=0.25))


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Version:
    return Version(colour_model.write_version(tmp_path_factory.mktemp("colours") / "1"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[bytes]:
    folder = sample_images.pictures(tmp_path_factory.mktemp("drawn"), classes=2, each=3)
    return [file.read_bytes() for file in sorted(folder.glob("*/*"))]


def gradcam(model: keras.Model, feature_map, images: np.ndarray, number: int) -> np.ndarray:
    """Computes Grad-CAM (Selvaraju et al., 2017, equations 1 and 2) by differentiating the network, without its last ReLU."""
    features = keras.Model(model.input, feature_map)(images, training=False)
    rest = keras.Model(feature_map, model.output)
    with tf.GradientTape() as tape:
        tape.watch(features)
        of_class = tf.reduce_sum(rest(features, training=False)[:, number])
    weights = tf.reduce_mean(tape.gradient(of_class, features), (1, 2), keepdims=True)
    return tf.reduce_sum(weights * features, -1).numpy()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_map_is_gradcam_of_the_same_network(trained, images, engine):
    classifier = Classifier(trained, engine=engine)
    model = keras.models.load_model(trained.folder.parent.parent / "classifier.keras")
    crops = np.stack([np.asarray(classifier.look(image).crop) for image in images])
    for number in range(len(trained.labels)):
        maps = np.stack([one.maps[0] for one in explain(classifier, images, [number] * len(images))])
        expected = gradcam(model, find_feature_map(model), crops, number)
        cells = maps.shape[1] * maps.shape[2]  # Grad-CAM takes the mean of the gradients, of which each has this share
        assert expected.shape == maps.shape and np.abs(maps).max() > 1e-3
        assert np.abs(cells * expected - maps).max() <= ENGINES[engine] * np.abs(maps).max()
        assert np.abs(maps - maps[:, ::-1]).max() > 0.1 * np.abs(maps).max()  # else a place would not show


@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_of_a_map_and_the_bias_are_the_logit(trained, images, engine):
    classifier = Classifier(trained, engine=engine)
    bias = keras.models.load_model(trained.folder.parent.parent / "classifier.keras").layers[-1].bias.numpy()
    numbers = range(len(trained.labels))
    maps = [[one.maps[0] for one in explain(classifier, images, [number] * len(images))] for number in numbers]
    logits = np.stack(maps, 1).mean((2, 3)) + bias
    scores = [one.prediction.probabilities for one in explain(classifier, images, [0] * len(images))]
    assert np.abs(tf.nn.softmax(logits) - scores).max() <= 1e-5
    assert [answer.probabilities for answer in classifier.classify(images)] == scores


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_map_is_of_the_image_as_a_person_sees_it(colours, engine, orientation):
    shown = colour_model.halves("red", "blue", (96, 64))
    stored = shown.transpose(UNTURNED[orientation]) if orientation in UNTURNED else shown
    exif = Image.Exif()
    exif[odd_images.ORIENTATION] = orientation
    encoded = odd_images.encode(stored, "JPEG", quality=95, subsampling=0, exif=exif.tobytes())
    (explained,) = explain(Classifier(colours, engine=engine), [encoded], [0])
    assert (explained.sides, explained.window) == ((64, 96), (4, 6, 56, 84))
    red, blue = (colour_model.SCALE * colour_model.RGB[name][0] for name in ("red", "blue"))
    assert explained.maps.shape == (1, colour_model.CELLS, colour_model.CELLS)
    assert np.abs(explained.maps[0] - [[red, red, blue, blue]] * colour_model.CELLS).max() < 0.15


UNTURNED = {  # what makes of an upright image one that its EXIF orientation sets upright again
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_window_of_a_network_that_sees_the_square_is_square(trained, engine):
    assert trained.crop == SQUARE
    wide = odd_images.encode(colour_model.halves("red", "blue", (160, 64)), "PNG")
    (explained,) = explain(Classifier(trained, engine=engine), [wide], [0])
    assert (explained.sides, explained.window) == ((64, 160), (4, 52, 56, 56))


def test_an_image_that_cannot_be_read_is_rejected_alone(colours):
    explained = explain(Classifier(colours), [b"no image", colour_model.picture("red")], [0, 2])
    assert isinstance(explained[0], Rejected) and str(explained[0]) == "not an image in a known format"
    assert (explained[1].prediction.label, explained[1].numbers) == ("red", [2])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_with_more_than_pooling_before_its_head_has_no_maps(tmp_path, engine):
    version = Version(place_model.write_version(tmp_path / "1"))
    assert not Classifier(version, engine=engine).engine.has_maps
    # So were all exports before there were maps: these files, and these signatures.
    assert {"openvino/model.xml", "openvino/model.bin"} <= version.files.keys() and "openvino/head.npy" not in version.files
    assert sorted(tf.saved_model.load(str(version.folder)).signatures) == ["embed", "pixels", "serving_default"]


def test_of_a_quantized_model_the_maps_and_their_scores_are_those_of_the_version(colours, tmp_path):
    other = colour_model.write_version(tmp_path / "1", scale=colour_model.SCALE / 10)  # in place of the quantized file
    engine = OpenVinoEngine(colours, bfloat16=False, quantized=other / OPENVINO_FILE)
    crop = engine.look(colour_model.picture("red"), 10**6).crop
    (evidence,) = engine.explain([crop])
    (expected,) = OpenVinoEngine(colours, bfloat16=False).explain([crop])
    assert np.array_equal(evidence.scores, expected.scores) and np.array_equal(evidence.maps([0]), expected.maps([0]))
    assert np.abs(engine.scores([crop]) - evidence.scores).max() > 0.1


def shuffle(model: keras.Model, layers: int, seed: int) -> None:
    """Shuffles the kernel of each of the last layers that have one, which keeps its distribution."""
    draw = np.random.default_rng(seed)
    with_kernel = [layer for layer in model.layers if hasattr(layer, "kernel")]
    for layer in with_kernel[-layers:]:
        layer.kernel.assign(draw.permutation(layer.kernel.numpy().ravel()).reshape(layer.kernel.shape))


def rank_correlation(maps: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean of Spearman's correlation of maps, (maps, rows, columns)."""
    ranks = [values.reshape(len(values), -1).argsort(1).argsort(1) for values in (maps, others)]
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(*ranks, strict=True)]))


def test_maps_depend_on_the_weights(flower_photos):
    """Adebayo et al., 2018, arXiv:1810.03292: with weights shuffled from the head down, a map must not stay what it was."""
    network = NETWORKS["efficientnet_lite0"]
    model = network.build(1000, fast=False)
    pretrained.load_pretrained(model, network, "imagenet")
    parts = keras.Model(model.input, [find_feature_map(model), model.output])
    seen = np.stack([np.asarray(Image.open(file).convert("RGB").resize((224, 224))) for file in photographs(flower_photos)])
    best = parts(seen.astype(np.float32))[1].numpy().argmax(1)

    def maps() -> np.ndarray:
        features = parts(seen.astype(np.float32))[0].numpy()
        return np.stack([one @ model.layers[-1].kernel.numpy()[:, number] for one, number in zip(features, best, strict=True)])

    trained = maps()
    assert rank_correlation(trained, maps()) == pytest.approx(1)
    for layers in (1, 5, 20, len(model.layers)):
        shuffle(model, layers, layers)
        assert abs(rank_correlation(trained, maps())) < 0.3, layers


def photographs(folder) -> list:
    return sorted(folder.glob("*/*.jpg"))[::50]
