"""A loaded version answers many requests together as the export answers each picture alone."""

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
from kfp_vision.prediction.classifier import Classifier, Prediction
from kfp_vision.repository.version import VERSION_FILE, Version
from kfp_vision.serving import inference
from kfp_vision.serving.inference import LoadedModel, Overloaded


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    return Version(colour_model.write_version(tmp_path_factory.mktemp("version") / "1"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[bytes]:
    """Drawn flowers, and one picture of each format and of a size that a JPEG is decoded smaller of."""
    folder = sample_images.pictures(tmp_path_factory.mktemp("drawn"), classes=3, each=8)
    formats = [colour_model.picture("green", image_format) for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    return [*(file.read_bytes() for file in sorted(folder.glob("*/*"))), *formats, colour_model.picture("red", size=(900, 700))]


def asked(version: Version, requests: list[list[bytes | Rejected]]) -> list[list]:
    """The answers to requests that come at the same time."""

    async def run() -> list[list]:
        server = LoadedModel(version)
        return await asyncio.gather(*(server.classify(request) for request in requests))

    return coroutines.result(run())


def difference(answers: list, expected: list) -> float:
    both = zip(answers, expected, strict=True)
    return max(np.abs(np.subtract(one.probabilities, other.probabilities)).max() for one, other in both)


def test_pictures_of_many_requests_are_named_as_each_alone(version, pictures):
    alone = [Classifier(version).classify([picture])[0] for picture in pictures]
    answers = list(itertools.chain(*asked(version, [[picture] for picture in pictures[:-6]] + [pictures[-6:]])))
    assert difference(answers, alone) < 1e-5
    assert [answer.label for answer in answers] == [answer.label for answer in alone]


def test_one_bad_picture_harms_nobody(version):
    whole, end = colour_model.picture("blue", size=(90, 90)), b"\xff\xd9"
    at = whole.rindex(end) - 20
    broken = whole[:at] + b"\xff\xc4" + whole[at + 2 :]
    bad = [b"", b"no picture", broken, Rejected("wrong base64")]
    answers = asked(version, [[colour_model.picture("red")], bad, [broken, colour_model.picture("green")]])
    assert [answer.label for answer in (answers[0][0], answers[2][1])] == ["red", "green"]
    assert all(isinstance(answer, Rejected) for answer in (*answers[1][:2], answers[1][3]))
    assert str(answers[1][3]) == "wrong base64"


def write_with_another_crop(folder: Path) -> Version:
    """An export as somebody else writes it: it looks at the whole picture, not at its middle."""
    pixels = keras.Input((colour_model.SIZE, colour_model.SIZE, 3))
    model = keras.Model(pixels, keras.layers.Rescaling(1 / 20)(keras.layers.GlobalAveragePooling2D()(pixels)))
    one = tf.TensorSpec((colour_model.SIZE, colour_model.SIZE, 3), tf.float32)

    def whole(encoded: tf.Tensor) -> tf.Tensor:
        picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.ensure_shape(tf.image.resize(picture, one.shape[:2]), one.shape)

    def named(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(model(pictures))}

    archive = keras.export.ExportArchive()
    archive.track(model)

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return named(tf.map_fn(whole, image_bytes, fn_output_signature=one))

    archive.add_endpoint("serving_default", from_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
    archive.add_endpoint("pixels", named, [tf.TensorSpec((None, *one.shape), tf.float32, name="images")])
    archive.write_out(str(folder), verbose=False)
    (folder / VERSION_FILE).parent.mkdir()
    about = {"model_name": "whole", "labels": list(colour_model.RGB), "image_size": colour_model.SIZE}
    (folder / VERSION_FILE).write_text(json.dumps(about))
    return Version(folder)


def test_an_export_that_crops_otherwise_is_asked_as_it_wants_to_be(tmp_path, pictures):
    version = write_with_another_crop(tmp_path / "1")
    expected = Classifier(version).classify(pictures)
    ((*answers, bad),) = asked(version, [[*pictures, b"no picture"]])
    assert isinstance(bad, Rejected)
    assert difference(answers, expected) < 1e-5
    by_the_middle = LoadedModel(Version(colour_model.write_version(tmp_path / "2")))
    assert difference(coroutines.result(by_the_middle.classify(pictures)), expected) > inference.MAX_CROP_DIFFERENCE


def test_who_comes_when_too_many_wait_is_sent_away(version):
    async def run() -> tuple[list, list]:
        server = LoadedModel(version)
        many = [colour_model.picture("red")] * inference.MAX_WAITING_IMAGES
        waiting = asyncio.create_task(server.classify(many))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="at most 1024 images may wait; got 1 more with 1024 waiting"):
            await server.classify(many[:1])
        return await waiting, await server.classify(many[:1])

    first, again = coroutines.result(run())
    assert all(isinstance(answer, Prediction) for answer in first) and again[0].label == "red"
