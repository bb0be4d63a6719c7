"""A model folder of a narrow network with reproducible random weights, for tests of search."""

from pathlib import Path

from kfp_vision.networks import NETWORKS
from kfp_vision.prediction import export

SHAPE = {"image_size": 64, "depth_multiplier": 0.25}
LABELS = ["bellcup", "globelet"]


def write_model(folder: Path) -> Path:
    """Writes the model folder, with the same weights each time."""
    from kfp_vision.core.frameworks import keras

    keras.utils.set_random_seed(7)
    network = NETWORKS["inception_v1"]
    settings = {"network": network.name, "model_name": "flowers", **SHAPE}
    export.write_model(folder, network.build(len(LABELS), **SHAPE), network, LABELS, settings, SHAPE, [])
    return folder
