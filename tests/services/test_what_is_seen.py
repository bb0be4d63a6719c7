"""Conversion, `predict`, the server and the exported SavedModel alone give the same answer on an image in any form."""

import base64
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import odd_images, place_model
from support.model_servers import answering

from kfp_vision.dataset.table import SPLITS, ImageRow, md5_hex, write_table
from kfp_vision.engines.engine import OPENVINO_FLOAT32
from kfp_vision.prediction.classifier import Classifier, Prediction
from kfp_vision.records.convert import write_tfrecords
from kfp_vision.records.records_folder import read_examples
from kfp_vision.repository.version import Version

SAME = 1e-3  # of a probability
SCENE = odd_images.encode(odd_images.scene().convert("RGB"), "PNG")
STROKES = odd_images.encode(odd_images.scene().point([0] + 255 * [255]).convert("RGB"), "PNG")
NEGATIVE = odd_images.encode(odd_images.scene().point(range(255, -1, -1)).convert("RGB"), "PNG")
# Images that the exported SavedModel decodes on its own, with what a person sees.
EVERYWHERE = {
    "transparent PNG": (odd_images.transparent("PNG", "RGBA"), SCENE),
    "transparent grey PNG": (odd_images.transparent("PNG", "LA"), SCENE),
    "PNG with a transparent palette colour": (odd_images.transparent("PNG", "P"), SCENE),
    "PNG with a transparent grey": (odd_images.transparent("PNG", "L"), SCENE),
    "PNG with a transparent colour": (odd_images.transparent("PNG", "RGB"), SCENE),
    "PNG of two colours, one transparent": (odd_images.transparent_stroke(), STROKES),
    "PNG of 12 bits in 16": (odd_images.deep("png"), SCENE),
    "PNG of 16 bits": (odd_images.deep("png", bits=16), SCENE),
    "colour PNG of 12 bits in 16": (odd_images.deep("png", 3), SCENE),
    "colour PNG of 16 bits": (odd_images.deep("png", 3, bits=16), SCENE),
    "opaque PNG of 12 bits in 16 with alpha": (odd_images.deep("png", 4), SCENE),
    "transparent PNG of 12 bits in 16": (odd_images.deep_transparent(), SCENE),
    "transparent grey PNG of 12 bits in 16": (odd_images.deep_grey_and_alpha(), SCENE),
    "turned photograph": (odd_images.turned(), SCENE),
    "turned PNG": (odd_images.turned("PNG"), SCENE),
    "CMYK photograph": (odd_images.cmyk(), SCENE),
    "YCCK photograph": (odd_images.ycck(), SCENE),
    "PNG with a palette": (odd_images.encode(odd_images.scene().convert("P"), "PNG"), SCENE),
    "GIF": (odd_images.encode(odd_images.scene().convert("P"), "GIF"), SCENE),
    "GIF of several images": (
        odd_images.encode(
            odd_images.scene().convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (96, 64), 9)], loop=0
        ),
        SCENE,
    ),
    "BMP": (odd_images.encode(odd_images.scene().convert("RGB"), "BMP"), SCENE),
}
# Images that the exported SavedModel refuses, since TensorFlow would show them wrongly or not at all.
ELSEWHERE = {
    "CMYK photograph without Adobe's marker": (odd_images.cmyk(adobe=False), SCENE),
    "transparent GIF": (odd_images.transparent("GIF", "P"), SCENE),
    "GIF smaller than its screen": (odd_images.gif_within(), None),
    "BMP with a palette": (odd_images.encode(odd_images.scene().convert("P"), "BMP"), SCENE),
    "grey BMP": (odd_images.encode(odd_images.scene(), "BMP"), SCENE),
    "BMP of 32 bits": (odd_images.transparent("BMP", "RGBA"), None),
    "WebP": (odd_images.encode(odd_images.scene().convert("RGB"), "WEBP", lossless=True), SCENE),
    "transparent WebP": (odd_images.transparent("WEBP", "RGBA"), SCENE),
    "TIFF": (odd_images.encode(odd_images.scene(), "TIFF"), SCENE),
    "transparent TIFF": (odd_images.transparent("TIFF", "RGBA"), SCENE),
    "TIFF of 12 bits in 16": (odd_images.deep("tif"), SCENE),
    "colour TIFF of 12 bits in 16": (odd_images.deep("tif", 3), SCENE),
    "PGM of 12 bits": (odd_images.netpbm(4095), SCENE),
    "turned WebP": (odd_images.turned("WEBP"), SCENE),
    "AVIF": (odd_images.encode(odd_images.scene().convert("RGB"), "AVIF", quality=100), SCENE),
    "HEIC": (odd_images.encode(odd_images.scene().convert("RGB"), "HEIF", quality=100), SCENE),
    "turned HEIC": (odd_images.turned("HEIF"), SCENE),
}


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    return Version(place_model.write_version(tmp_path_factory.mktemp("models") / "places" / "1"))


@pytest.fixture(scope="module")
def alone(version):
    """The exported SavedModel, loaded by TensorFlow without the library."""
    loaded = tf.saved_model.load(str(version.folder))
    return lambda encoded: loaded.signatures["serving_default"](image_bytes=tf.constant([encoded]))["probabilities"][0].numpy()


@pytest.fixture(scope="module")
def served(version):
    """A real server's answers by kind."""
    every = EVERYWHERE | ELSEWHERE
    body = json.dumps({"instances": [{"b64": base64.b64encode(encoded).decode()} for encoded, _ in every.values()]})
    with answering(["serve", str(version.folder.parent), "--port", "0", "--engine", OPENVINO_FLOAT32]) as url:
        request = urllib.request.Request(f"{url}/v1/models/places:predict", body.encode())
        with urllib.request.urlopen(request) as response:
            answers = json.load(response)["predictions"]
    return dict(zip(every, (answer.get("probabilities", answer) for answer in answers), strict=True))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> dict[str, bytes]:
    """The images as conversion writes them to records, by kind."""
    root = tmp_path_factory.mktemp("conversion")
    rows = []
    for kind, (encoded, _) in (EVERYWHERE | ELSEWHERE).items():
        file = root / kind
        file.write_bytes(encoded)
        rows.append(ImageRow(str(file), "scene", len(encoded), md5_hex(encoded), kind))
    tables = {split: root / f"{split}.csv" for split in SPLITS}
    for split, table in tables.items():
        write_table(table, rows if split == "train" else [])
    (root / "labels").mkdir()
    (root / "labels" / "labels.txt").write_text("0:scene\n")
    outputs = {split: root / "records" / split for split in SPLITS}
    write_tfrecords(tables, root / "labels", outputs, root / "rejected.csv", images_per_shard=100, max_refused_ratio=0.0)
    return {Path(name).name: encoded for name, encoded, _ in read_examples(outputs["train"])}


@pytest.fixture(scope="module")
def classifier(version) -> Classifier:
    return Classifier(version, engine=OPENVINO_FLOAT32)


@pytest.fixture(scope="module")
def of_record(classifier):
    """The answer on a record, whose pixels are cropped as in evaluation."""
    return lambda encoded: classifier.probabilities([encoded])[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERYWHERE | ELSEWHERE)
def test_an_image_in_any_form_gets_the_same_answer_everywhere(classifier, alone, served, recorded, of_record, kind):
    encoded, seen = (EVERYWHERE | ELSEWHERE)[kind]
    (predicted,) = classifier.classify([encoded])
    assert isinstance(predicted, Prediction)
    answers = {"record": of_record(recorded[kind]), "predict": predicted.probabilities, "server": served[kind]}
    if kind in EVERYWHERE:
        answers["SavedModel alone"] = alone(encoded)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError):
            alone(encoded)
    for one in answers:
        assert np.abs(np.subtract(answers[one], predicted.probabilities)).max() < SAME, one
    if seen:
        assert np.abs(np.subtract(predicted.probabilities, alone(seen))).max() < 3 * SAME  # some formats change a few shades


def test_the_answers_depend_on_what_is_seen(alone):
    for other in (STROKES, NEGATIVE, odd_images.encode(Image.new("RGB", (96, 64)), "PNG")):
        assert np.abs(alone(SCENE) - alone(other)).max() > 10 * SAME
