"""OpenVINO gives TensorFlow's answers, whatever the batch, in several threads, and without its telemetry."""

import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import embedding_model, exported_model, sample_images

from kfp_vision.core import hardware
from kfp_vision.core.crop_shapes import SQUARE, STRETCHED
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines import choice
from kfp_vision.engines.cropping import crop_floats
from kfp_vision.engines.engine import (
    OPENVINO,
    OPENVINO_FILE,
    OPENVINO_FLOAT32,
    OPENVINO_HEAD_FILE,
    TENSORFLOW,
    TENSORFLOW_BFLOAT16,
)
from kfp_vision.engines.openvino_model import LARGEST_TILE, scale_by_channel
from kfp_vision.engines.openvino_runtime import read_model
from kfp_vision.networks import NETWORKS
from kfp_vision.repository.version import Version, exported_version

pytestmark = pytest.mark.slow

MAX_PIXELS = 10_000_000
IMAGES = 21  # five tiles of 4 and one of 1


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    folder = tmp_path_factory.mktemp("model") / "model"
    return exported_version(embedding_model.write_model(folder, NETWORKS["inception_v1"], depth_multiplier=0.25))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[bytes]:
    folder = sample_images.pictures(tmp_path_factory.mktemp("drawn"), classes=3, each=IMAGES // 3)
    return [file.read_bytes() for file in sorted(folder.glob("*/*"))]


@pytest.fixture(scope="module")
def expected(version, images) -> dict[str, np.ndarray]:
    """TensorFlow's scores and embeddings."""
    engine = choice.load_engine(version, TENSORFLOW)
    return {
        "scores": engine.scores([engine.prepare(image, MAX_PIXELS) for image in images]),
        "embeddings": engine.embeddings([engine.crop(image, MAX_PIXELS) for image in images]),
    }


def test_all_engines_see_the_square_of_a_wide_image_that_the_network_was_published_for(tmp_path):
    network = NETWORKS["efficientnet_lite0"]
    folder = embedding_model.write_model(tmp_path / "model", network, depth_multiplier=0.25)
    version, wide = exported_version(folder), ramp((200, 64))
    assert version.crop == version.about["crop"] == SQUARE
    tensorflow = choice.load_engine(version, TENSORFLOW)
    engines = (choice.load_engine(version, OPENVINO_FLOAT32), tensorflow)
    in_process = [engine.scores([engine.prepare(wide, MAX_PIXELS)]) for engine in engines]
    by_the_signature = tensorflow.scores_of_encoded([wide])
    assert np.abs(np.stack(in_process) - by_the_signature).max() <= 1e-4
    crop = engines[0].crop(wide, MAX_PIXELS)
    assert np.abs(crop - crop_floats(wide, crop.shape[0], MAX_PIXELS, STRETCHED)).mean() > 5  # else it shows nothing


def ramp(sides: tuple[int, int]) -> bytes:
    """Returns a PNG with a grey ramp across."""
    file = io.BytesIO()
    Image.linear_gradient("L").rotate(90).resize(sides).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "most"), [(OPENVINO_FLOAT32, 1e-4), (OPENVINO, 3e-2), (TENSORFLOW_BFLOAT16, 3e-2)]
)  # bfloat16 has 8 bits
def test_answers_as_tensorflow_does(version, images, expected, name, most, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: hardware.FAST_BFLOAT16_FLAGS)  # where it is emulated, it is only slow
    engine = choice.load_engine(version, name)
    assert (engine.name, engine.crop_size, engine.has_embeddings) == (name, embedding_model.IMAGE_SIZE, True)
    crops = [engine.prepare(image, MAX_PIXELS) for image in images]
    assert {(crop.shape, crop.dtype.name) for crop in crops} == {((64, 64, 3), "float32")}
    assert np.abs(engine.scores(crops) - expected["scores"]).max() <= most
    embeddings = engine.embeddings(crops)
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() <= 1e-2
    assert (embeddings * expected["embeddings"]).sum(1).min() >= 1 - most


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_the_answer_for_an_image_does_not_depend_on_its_batch(version, images, expected, cores, monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    engine = choice.load_engine(version, OPENVINO_FLOAT32)
    crops = [engine.crop(image, MAX_PIXELS) for image in images]
    together = engine.scores(crops)
    assert np.abs(together - expected["scores"]).max() <= 1e-4
    for size in (1, 2, 3, LARGEST_TILE, LARGEST_TILE + 1, 2 * LARGEST_TILE + 3):
        assert np.abs(engine.scores(crops[:size]) - together[:size]).max() <= 1e-5


def test_each_channel_of_the_pixels_is_scaled_by_constants_of_its_own(version):
    model = read_model(version.folder / OPENVINO_FILE)
    scale_by_channel(model)
    scaling = {}
    for node in model.get_ordered_ops():
        scaling.setdefault(node.get_type_name(), [operand.get_partial_shape() for operand in node.inputs()])  # of the first one
    for kind in ("Multiply", "Add"):
        assert [sorted(side.get_length() for side in shape) for shape in scaling[kind] if shape.is_static] == [[1, 1, 1, 3]]


def test_several_threads_get_the_answers_of_one(version, images):
    engine = choice.load_engine(version, OPENVINO_FLOAT32)
    crops = [engine.crop(image, MAX_PIXELS) for image in images]
    alone = np.concatenate([engine.scores([crop]) for crop in crops])
    batches = [crops[start : start + size] for size in (1, 3, 7) for start in range(0, IMAGES, size)]
    with ThreadPoolExecutor(8) as pool:
        answers = np.concatenate(list(pool.map(engine.scores, batches)))
    assert np.abs(answers - np.tile(alone, (3, 1))).max() <= 1e-6


def test_an_unreadable_image_is_rejected(version):
    rejected = choice.load_engine(version, OPENVINO_FLOAT32).prepare(b"no image", MAX_PIXELS)
    assert isinstance(rejected, Rejected) and str(rejected) == "not an image in a known format"


def test_a_damaged_file_is_rejected_in_one_line(tmp_path):
    found = exported_model.version(tmp_path / "1")
    (found.folder / OPENVINO_FILE).parent.mkdir()
    (found.folder / OPENVINO_FILE).write_text("<net name='none'")
    with pytest.raises(InputError, match="error: a model must load and answer; got ") as raised:
        choice.load_engine(found, OPENVINO)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no array", b"\0" * 9000, "cut off", "a folder"])
def test_a_damaged_kernel_of_the_head_is_rejected_in_one_line(version, tmp_path, content):
    folder = shutil.copytree(version.folder, tmp_path / "1")
    whole = (folder / OPENVINO_HEAD_FILE).read_bytes()
    if content == "a folder":
        (folder / OPENVINO_HEAD_FILE).unlink()
        (folder / OPENVINO_HEAD_FILE).mkdir()
    else:
        (folder / OPENVINO_HEAD_FILE).write_bytes(whole[:-8] if content == "cut off" else content)
    with pytest.raises(InputError, match="error: a model must load and answer; got ") as raised:
        choice.load_engine(Version(folder), OPENVINO_FLOAT32)
    assert "\n" not in str(raised.value) and "pickle" not in str(raised.value)


def test_a_process_that_answers_loads_no_tensorflow_and_no_telemetry(version, images, tmp_path):
    program = (
        "import json, sys, threading\n"
        "from pathlib import Path\n"
        "from kfp_vision.prediction.classifier import Classifier\n"
        "from kfp_vision.repository.version import Version\n"
        "(answer,) = Classifier(Version(Path(sys.argv[1]))).classify([Path(sys.argv[2]).read_bytes()])\n"
        "threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]\n"
        "json.dump([answer.label, threads, sorted({name.split('.')[0] for name in sys.modules})], sys.stdout)"
    )
    image = tmp_path / "image.jpg"
    image.write_bytes(images[0])
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", program, str(version.folder), str(image)]
    environment = os.environ | {"HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    label, threads, loaded = json.loads(done.stdout)
    assert label in embedding_model.LABELS and threads == []
    assert {"openvino", "simplejpeg"} <= set(loaded)
    assert {"tensorflow", "keras", "openvino_telemetry"}.isdisjoint(loaded)
    assert list(home.iterdir()) == []


def test_the_files_of_openvino_are_beside_the_saved_model(version):
    assert {"openvino/model.xml", "openvino/model.bin", "openvino/head.npy", "saved_model.pb"} <= version.files.keys()
    assert Path(version.files["openvino/model.xml"]).read_text().startswith("<?xml")
