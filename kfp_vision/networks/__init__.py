"""The networks that can be trained, by name. Adding one is one entry here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kfp_vision.errors import InputError

if TYPE_CHECKING:
    import numpy as np

UNNAMED = re.compile(r"^variable_\d+$")
IMAGENET = "imagenet"  # as checkpoint_uri: the network's own weights, trained on ImageNet
KERAS = "keras.applications"  # where most of those come from, through Keras's own download
TF_SLIM_INCEPTION_V1 = "http://download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz"


@dataclass(frozen=True)
class Network:
    """A network and where its published weights come from.

    Attributes:
        name: as a person writes it.
        builder: function below this package that builds it, `module.function`; imported only then, since it imports Keras.
        settings: what the builder is told beside the classes and the options.
        image_size: height and width of its pictures in pixels, unless a run says otherwise.
        smallest: the smallest image size that it can be built for.
        has_widths: whether it can be built with another `depth_multiplier` than 1.
        imagenet: what `imagenet` stands for: an address, `KERAS`, or nothing where none is published.
        checkpoint_name: function from layer and weight to the weight's name in a published checkpoint; empty for the two.
        checkpoint_value: function from such a name and its value to the value here; empty for the value itself.
    """

    name: str
    builder: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 224
    smallest: int = 32
    has_widths: bool = False
    imagenet: str = ""
    checkpoint_name: str = ""
    checkpoint_value: str = ""

    def build(self, classes: int, *, image_size: int = 0, **options: Any) -> Any:
        """A Keras model: (batch, size, size, 3) RGB in 0 to 255 to (batch, classes) logits; see the builder for `options`."""
        build = _function(self.builder)
        return build(classes, image_size=image_size or self.image_size, **self.settings, **options)

    def name_in_checkpoint(self, layer: str, weight: str) -> str:
        """The name of a layer's weight in a published checkpoint."""
        return str(_function(self.checkpoint_name)(layer, weight)) if self.checkpoint_name else layer_and_weight(layer, weight)

    def value_from_checkpoint(self, name: str, value: "np.ndarray") -> "np.ndarray":
        """A weight of a published checkpoint, as this network computes with it."""
        return _function(self.checkpoint_value)(name, value) if self.checkpoint_value else value

    def check_start(self, checkpoint_uri: str) -> None:
        """Refuses what can be told to be wrong of a checkpoint's address alone.

        Raises:
            InputError: none is named or published, or it is the published one of another network.
        """
        own = f"checkpoint_uri={IMAGENET}" if self.imagenet else f"checkpoint_uri to a checkpoint of {self.name}"
        if not checkpoint_uri:
            remedy = f"Set {own}, or fine_tune to false."
            raise InputError("fine_tune=true must have a checkpoint to start from", checkpoint_uri, remedy)
        if checkpoint_uri == IMAGENET and not self.imagenet:
            remedy = f"Set {own}, such as Caffe's weights as an .npz, or fine_tune to false."
            raise InputError(f"checkpoint_uri={IMAGENET} must name weights that are published", f"network={self.name}", remedy)
        for other in NETWORKS.values():
            if checkpoint_uri == other.imagenet and other is not self:
                found = f"{checkpoint_uri}, which is {other.name}"
                remedy = f"Set {own}, or network={other.name}, or fine_tune to false."
                raise InputError(f"the checkpoint must fit network={self.name}", found, remedy)


def layer_and_weight(layer: str, weight: str) -> str:
    """The name of a weight where nobody gave it another, as in a file that Keras saved."""
    # Keras counts what has no name of its own, over the whole process: ConvNeXt's scales.
    return f"{layer}/{UNNAMED.sub('variable', weight)}"


def parted(model: Any) -> tuple[Any, Any]:
    """A network cut in two, of the same layers: pictures to features, and features to logits, with what drops some of them."""
    import keras

    last, dropout = model.layers[-1], model.layers[-2]
    assert isinstance(dropout, keras.layers.Dropout), dropout
    body = keras.Model(model.input, dropout.input)
    features = keras.Input(body.output.shape[1:], dtype=body.output.dtype)
    return body, keras.Model(features, last(dropout(features)))


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    found: Callable[..., Any] = getattr(import_module(f"{__name__}.{module}"), function)
    return found


def application(name: str, kind: str, preprocessing: str, **attributes: Any) -> Network:
    """A network of keras.applications.

    Args:
        name: as a person writes it.
        kind: the function of keras.applications.
        preprocessing: how it was trained to see pictures, a name in `applications.PREPROCESSING`.
        attributes: of `Network`.
    """
    settings = {"name": name, "kind": kind, "preprocessing": preprocessing}
    return Network(name, "applications.application", settings, imagenet=KERAS, **attributes)


NETWORKS = {
    network.name: network
    for network in (
        Network(
            "inception_v1",
            "inception.inception_v1",
            has_widths=True,
            imagenet=TF_SLIM_INCEPTION_V1,
            checkpoint_name="inception.slim_name",
        ),
        Network(
            "googlenet",
            "inception.googlenet",
            has_widths=True,
            checkpoint_name="inception.caffe_name",
            checkpoint_value="inception.caffe_value",
        ),
        application("inception_v3", "InceptionV3", "symmetric", image_size=299, smallest=75),
        application("resnet50", "ResNet50", "caffe"),
        application("resnet50_v2", "ResNet50V2", "symmetric"),
        application("resnet101", "ResNet101", "caffe"),
        application("resnet101_v2", "ResNet101V2", "symmetric"),
        application("resnet152", "ResNet152", "caffe"),
        application("resnet152_v2", "ResNet152V2", "symmetric"),
        application("vgg16", "VGG16", "caffe"),
        application("mobilenet_v2", "MobileNetV2", "symmetric", has_widths=True),
        application("mobilenet_v3_large", "MobileNetV3Large", "symmetric", has_widths=True),
        application("efficientnet_v2_b0", "EfficientNetV2B0", "standardised"),
        application("nasnet_mobile", "NASNetMobile", "symmetric"),
        application("convnext_tiny", "ConvNeXtTiny", "standardised"),
    )
}
