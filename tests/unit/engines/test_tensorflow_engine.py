"""TensorFlow's crops are compiled once for an image size, not once for all."""

import io

import pytest
from PIL import Image
from support import colour_model, place_model

from kfp_vision.engines.tensorflow_engine import TensorFlowEngine
from kfp_vision.repository.version import Version


@pytest.mark.slow
def test_models_of_different_image_sizes_get_crops_of_their_own(tmp_path):
    written = [writer.write_version(tmp_path / str(n)) for n, writer in enumerate((colour_model, place_model, colour_model))]
    engines = [TensorFlowEngine(Version(folder)) for folder in written]
    image = colour_model.picture("red")
    crops = [engine.crop(image, 10**6).numpy() for engine in engines]
    assert [crop.shape for crop in crops] == [
        (size, size, 3) for size in (colour_model.SIZE, place_model.SIZE, colour_model.SIZE)
    ]
    with Image.open(io.BytesIO(image)) as decoded:
        red = decoded.getpixel((20, 15))
    assert all(abs(crop.mean((0, 1)) - red).max() < 3 for crop in crops)
