"""A model folder of a network with reproducible random weights, for tests of search.

The small network loads in a second, and images that look alike come out alike. What a search cannot confuse needs a real one.
"""

from pathlib import Path
from typing import Any

from kfp_vision.networks import Network
from kfp_vision.prediction import export

IMAGE_SIZE = 64  # pixels
LABELS = ["bellcup", "globelet"]


class RandomFilters(Network):
    """One layer of random filters."""

    def build(self, classes: int, *, image_size: int = 0, fast: bool = True, **options: Any) -> Any:
        """Builds the Keras model, as `Network.build` does."""
        from kfp_vision.core.frameworks import keras

        pixels = keras.Input((image_size, image_size, 3))
        filters = keras.layers.Conv2D(8, 8, strides=8, activation="relu")(keras.layers.Rescaling(1 / 127.5, -1)(pixels))
        features = keras.layers.Flatten()(filters)
        return keras.Model(pixels, keras.layers.Dense(classes)(keras.layers.Dropout(0.2)(features)))


FILTERS = RandomFilters("random_filters", builder="")


def write_model(folder: Path, network: Network = FILTERS, **shape: float) -> Path:
    """Writes the model folder, with the same weights each time; the shape holds further options of the network."""
    from kfp_vision.core.frameworks import keras

    keras.utils.set_random_seed(7)
    shape = {"image_size": IMAGE_SIZE, **shape}
    settings = {"network": network.name, "model_name": "flowers", **shape}
    export.write_model(folder, network.build(len(LABELS), **shape), network, LABELS, settings, shape, [])
    return folder
