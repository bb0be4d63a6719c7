"""The networks that can be trained, by name. Adding one is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Network:
    """A network and where its published weights come from.

    Attributes:
        name: as a person writes it.
        module: the module below this package that builds it; imported only when it is built, since it imports Keras.
        image_size: height and width of its pictures in pixels, unless a run says otherwise.
        smallest: the smallest image size that it can be built for.
        checkpoint_name: function of that module, from layer and weight to the weight's name in a published checkpoint.
        checkpoint_value: function of that module, from such a name and its value to the value here; empty for none.
    """

    name: str
    module: str
    image_size: int
    smallest: int
    checkpoint_name: str
    checkpoint_value: str = ""

    def build(self, classes: int, *, image_size: int = 0, **options: Any) -> Any:
        """A Keras model: (batch, size, size, 3) RGB in 0 to 255 to (batch, classes) logits; see the module for `options`."""
        return self._function(self.name)(classes, image_size=image_size or self.image_size, **options)

    def name_in_checkpoint(self, layer: str, weight: str) -> str:
        """The name of a layer's weight in a published checkpoint."""
        return str(self._function(self.checkpoint_name)(layer, weight))

    def value_from_checkpoint(self, name: str, value: "np.ndarray") -> "np.ndarray":
        """A weight of a published checkpoint, as this network computes with it."""
        return self._function(self.checkpoint_value)(name, value) if self.checkpoint_value else value

    def _function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(import_module(f"{__name__}.{self.module}"), name)
        return function


NETWORKS = {
    network.name: network
    for network in (
        Network("inception_v1", "inception", 224, 32, "slim_name"),
        Network("googlenet", "inception", 224, 32, "caffe_name", "caffe_value"),
    )
}
