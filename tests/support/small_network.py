"""A network of three convolutions, trained and exported in seconds, for tests of what surrounds a network.

Most of the time of a short training goes to tracing the step and the export, layer by layer.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp_vision.networks import NETWORKS, Network

NAME = "small"
WIDTHS = (16, 32, 64)


class SmallNetwork(Network):
    """Convolution, batch norm, ReLU and max pooling, three times, and the head of the other networks."""

    def build(
        self,
        classes: int,
        *,
        image_size: int = 0,
        dropout: float = 0.2,
        depth_multiplier: float = 1.0,
        batch_norm_decay: float = 0.9,
        fast: bool = True,
    ) -> Any:
        """Builds the Keras model, as `Network.build` does; it has one width only."""
        from kfp_vision.core.frameworks import keras
        from kfp_vision.networks import layers
        from kfp_vision.networks.inception import add_head, max_pool

        images = keras.Input((image_size, image_size, 3), name="pictures")
        values = keras.layers.Rescaling(1 / 127.5, -1.0, name="preprocessing", dtype="float32")(images)
        for number, width in enumerate(WIDTHS):
            values = layers.convolution(values, width, 3, name=f"block_{number}.conv", stride=1, fast=fast)
            name = f"block_{number}.BatchNorm"
            values = layers.batch_normalization(values, name=name, momentum=batch_norm_decay, fast=fast)
            values = max_pool(keras.layers.ReLU(name=f"block_{number}.relu")(values), 3, 2, f"block_{number}.pool")
        features = keras.layers.GlobalAveragePooling2D(name="features")(values)
        return add_head(images, features, classes, dropout, "logits", name=self.name)


SMALL = SmallNetwork(NAME, builder="", image_size=32, has_widths=True)


@contextmanager
def registered() -> Iterator[None]:
    """Lets trainings choose it meanwhile, here and in processes that start; tests of all networks do not see it."""
    import pytest  # not in the processes that only register it

    tests = Path(__file__).parents[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, NAME, SMALL)
        patch.setenv("PYTHONPATH", str(tests), prepend=os.pathsep)
        patch.setenv("PYTHONPATH", str(tests / "support" / "with_small_network"), prepend=os.pathsep)
        yield
