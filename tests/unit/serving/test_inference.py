"""Inference in the server: concurrent requests get the answers of the export for each image alone."""

import asyncio
import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import colour_model, coroutines, sample_images

from kfp_vision.dataset.images import Rejected
from kfp_vision.engines.tensorflow_engine import MAX_CROP_DIFFERENCE
from kfp_vision.prediction.classifier import Classifier, Prediction
from kfp_vision.repository.version import VERSION_FILE, Version
from kfp_vision.serving import inference
from kfp_vision.serving.inference import LoadedModel, Overloaded


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    return Version(colour_model.write_version(tmp_path_factory.mktemp("version") / "1"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[bytes]:
    """Drawn flowers, one image of each format, and a JPEG large enough to be decoded at a reduced size."""
    folder = sample_images.pictures(tmp_path_factory.mktemp("drawn"), classes=3, each=8)
    formats = [colour_model.picture("green", image_format) for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    return [*(file.read_bytes() for file in sorted(folder.glob("*/*"))), *formats, colour_model.picture("red", size=(900, 700))]


def classify_concurrently(version: Version, requests: list[list[bytes | Rejected]]) -> list[list]:
    """Classifies the requests concurrently, and returns the answers to each."""

    async def run() -> list[list]:
        server = LoadedModel(version)
        return await asyncio.gather(*(server.classify(request) for request in requests))

    return coroutines.result(run())


def difference(answers: list, expected: list) -> float:
    both = zip(answers, expected, strict=True)
    return max(np.abs(np.subtract(image_spec.probabilities, other.probabilities)).max() for image_spec, other in both)


@pytest.mark.slow
def test_concurrent_requests_get_the_answers_of_single_ones(version, pictures):
    classifier = Classifier(version)
    alone = [classifier.classify([picture])[0] for picture in pictures]
    answers = list(itertools.chain(*classify_concurrently(version, [[picture] for picture in pictures[:-6]] + [pictures[-6:]])))
    assert difference(answers, alone) < 1e-5
    assert [answer.label for answer in answers] == [answer.label for answer in alone]


@pytest.mark.slow
def test_damaged_images_do_not_affect_other_requests(version):
    decode_whole_image, end = colour_model.picture("blue", size=(90, 90)), b"\xff\xd9"
    at = decode_whole_image.rindex(end) - 20
    broken = decode_whole_image[:at] + b"\xff\xc4" + decode_whole_image[at + 2 :]
    bad = [b"", b"no picture", broken, Rejected("wrong base64")]
    answers = classify_concurrently(version, [[colour_model.picture("red")], bad, [broken, colour_model.picture("green")]])
    assert [answer.label for answer in (answers[0][0], answers[2][1])] == ["red", "green"]
    assert all(isinstance(answer, Rejected) for answer in (*answers[1][:2], answers[1][3]))
    assert str(answers[1][3]) == "wrong base64"


def write_with_another_crop(folder: Path) -> Version:
    """Writes a third-party export, which resizes the whole image instead of cropping its center."""
    pixels = keras.Input((colour_model.SIZE, colour_model.SIZE, 3))
    model = keras.Model(pixels, keras.layers.Rescaling(1 / 20)(keras.layers.GlobalAveragePooling2D()(pixels)))
    image_spec = tf.TensorSpec((colour_model.SIZE, colour_model.SIZE, 3), tf.float32)

    def decode_whole_image(encoded: tf.Tensor) -> tf.Tensor:
        picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.ensure_shape(tf.image.resize(picture, image_spec.shape[:2]), image_spec.shape)

    def classify_pixels(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(model(pictures))}

    archive = keras.export.ExportArchive()
    archive.track(model)

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return classify_pixels(tf.map_fn(decode_whole_image, image_bytes, fn_output_signature=image_spec))

    archive.add_endpoint("serving_default", from_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
    archive.add_endpoint("pixels", classify_pixels, [tf.TensorSpec((None, *image_spec.shape), tf.float32, name="images")])
    archive.write_out(str(folder), verbose=False)
    (folder / VERSION_FILE).parent.mkdir()
    about = {"model_name": "whole", "labels": list(colour_model.RGB), "image_size": colour_model.SIZE}
    (folder / VERSION_FILE).write_text(json.dumps(about))
    return Version(folder)


@pytest.mark.slow
def test_an_export_with_its_own_crop_gets_encoded_images(tmp_path, pictures):
    version = write_with_another_crop(tmp_path / "1")
    expected = Classifier(version).classify(pictures)
    ((*answers, bad),) = classify_concurrently(version, [[*pictures, b"no picture"]])
    assert isinstance(bad, Rejected)
    assert difference(answers, expected) < 1e-5
    center_cropping = LoadedModel(Version(colour_model.write_version(tmp_path / "2")))
    assert difference(coroutines.result(center_cropping.classify(pictures)), expected) > MAX_CROP_DIFFERENCE


@pytest.mark.slow
def test_requests_beyond_the_queue_limit_are_rejected(version):
    async def run() -> tuple[list, list]:
        server = LoadedModel(version)
        full_queue = [colour_model.picture("red")] * inference.MAX_WAITING_IMAGES
        waiting = asyncio.create_task(server.classify(full_queue))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="at most 1024 images may wait; got 1 more with 1024 waiting"):
            await server.classify(full_queue[:1])
        return await waiting, await server.classify(full_queue[:1])

    first, retried = coroutines.result(run())
    assert all(isinstance(answer, Prediction) for answer in first) and retried[0].label == "red"
