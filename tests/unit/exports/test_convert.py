"""Converts a real model to every format, and runs the files with a few lines of anybody's code."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from support import colour_model, exported_colours

from kfp_vision.core import children
from kfp_vision.core.frameworks import tf
from kfp_vision.exports import convert, runtimes
from kfp_vision.exports.formats import FORMATS
from kfp_vision.repository.version import Version

pytestmark = pytest.mark.slow

CODE = {
    ".tflite": """
from ai_edge_litert.interpreter import Interpreter
answer = Interpreter(file).get_signature_runner()(images=image)["probabilities"]
""",
    ".onnx": """
import onnxruntime
(answer,) = onnxruntime.InferenceSession(file).run(["probabilities"], {"images": image})
""",
    ".xml": """
import openvino
answer = openvino.compile_model(file, "CPU")(image)["probabilities"]
""",
}
PROGRAM = """
import sys
import numpy as np
file, image = sys.argv[1], np.load(sys.argv[2])[:1]
{code}
assert answer.dtype == np.float32, answer.dtype
print(answer.argmax(), *answer.shape)
"""


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    return exported_colours.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Writes noise around the three colours, for calibration and as input."""
    noise = np.random.default_rng(0).normal(0, 20, (30, colour_model.SIZE, colour_model.SIZE, 3))
    colours = np.array(list(colour_model.RGB.values()))[np.arange(30) % 3][:, None, None]
    file = tmp_path_factory.mktemp("crops") / "crops.npy"
    np.save(file, np.clip(colours + noise, 0, 255).astype(np.uint8))
    return file


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_answers_as_the_model_does(name, version, crops, tmp_path):
    form = FORMATS[name]
    file = convert.convert(version, form, tmp_path / name, crops)
    opened, images = runtimes.open_file(file, threads=1), np.load(crops)
    assert opened.metadata["labels"] == exported_colours.LABELS
    assert opened.metadata["image_size"] == colour_model.SIZE
    assert opened.metadata == json.loads((file.parent / "model.json").read_text())
    assert (file.parent / "labels.txt").read_text() == "0:red\n1:green\n2:blue\n"
    pixels = tf.constant(images.astype(np.float32))
    expected = tf.saved_model.load(str(version.folder)).signatures["pixels"](images=pixels)["probabilities"].numpy()
    allowed = 0.05 if form.calibrated or name in ("litert_float16", "openvino") else 1e-5  # OpenVINO: bfloat16 where there is
    assert np.abs(opened.probabilities(images) - expected).max() < allowed

    capital = file.rename(file.with_suffix(file.suffix.upper()))
    assert runtimes.open_file(capital).metadata == opened.metadata
    capital.rename(file)

    program = PROGRAM.format(code=CODE[file.suffix])
    command = [sys.executable, "-W", "ignore", "-c", program, str(file), str(crops)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("0 1 3\n", 0), done.stderr


def test_labels_of_a_litert_file_can_be_unzipped(version, crops, tmp_path):
    file = convert.convert(version, FORMATS["litert_int8"], tmp_path / "out", crops)
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt") == b"red\ngreen\nblue\n"
    assert runtimes.open_file(file).float_operations() == []


def test_a_model_that_only_takes_encoded_images_is_refused_in_one_line(crops, tmp_path):
    module = tf.Module()
    takes_bytes = tf.function(lambda image_bytes: {"probabilities": tf.zeros((tf.size(image_bytes), 3))})
    signature = takes_bytes.get_concrete_function(tf.TensorSpec((None,), tf.string, name="image_bytes"))
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": signature})
    (tmp_path / "1" / "assets.extra").mkdir()
    about = {"model_name": "old", "labels": exported_colours.LABELS, "image_size": 16}
    (tmp_path / "1" / "assets.extra" / "model.json").write_text(json.dumps(about))
    with pytest.raises(children.ChildFailed) as failure:
        convert.convert(Version(tmp_path / "1"), FORMATS["onnx"], tmp_path / "out", crops)
    assert str(failure.value) == (
        f"a model must have the signature pixels to be exported; got {tmp_path}/1 with serving_default. Train or "
        "export it again."
    )
