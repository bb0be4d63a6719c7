"""Networks of keras.applications, with preprocessing inside the model and a new classification head.

Layers have the names that Keras gives them in a fresh process. All models map (batch, height, width, 3) RGB in 0 to 255 to
(batch, classes) logits in float32.
"""

import contextlib
import inspect
import io
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kfp_vision.core.frameworks import keras
from kfp_vision.networks.inception import add_head
from kfp_vision.networks.layers import FastDepthwiseConv2D, FastGroupedConv2D, FastReLU, FusedBatchNormalization
from kfp_vision.storage.base import READ_SECONDS

applications, layers, ops = keras.applications, keras.layers, keras.ops

# Mean and standard deviation of ImageNet's red, green and blue; source: keras.applications.imagenet_utils.preprocess_input.
MEAN, STANDARD_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
HEAD_NAME = "predictions"
# What replaces a stock layer where TensorFlow has faster kernels.
FAST: dict[Any, Any] = {
    layers.BatchNormalization: FusedBatchNormalization,
    layers.Conv2D: FastGroupedConv2D,
    layers.DepthwiseConv2D: FastDepthwiseConv2D,
    layers.ReLU: FastReLU,
}
NUMBERED_NAME = re.compile(r"^(.*?)(?:_(\d+))?$")  # a name that Keras derived from a class: `conv2d`, `conv2d_1`


def application(
    classes: int,
    *,
    name: str,
    kind: str,
    preprocessing: str,
    image_size: int,
    dropout: float = 0.2,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float = 0.9997,
    fast: bool = True,
) -> keras.Model:
    """Builds a network of keras.applications with a new classification head.

    Args:
        classes: number of classes, the width of the logits.
        name: of the model.
        kind: its function in keras.applications.
        preprocessing: a name in `PREPROCESSING`.
        image_size: height and width of the images in pixels.
        dropout: share of the features dropped before the logits.
        depth_multiplier: the `alpha` of the MobileNets, factor of all widths; other networks accept only 1.
        batch_norm_decay: decay of batch norm's moving statistics, if the network has batch norm.
        fast: whether some layers are those of `layers` instead of stock Keras layers.

    Returns:
        The model, with random weights.
    """
    images = keras.Input((image_size, image_size, 3), name="pictures")
    widths = {} if depth_multiplier == 1 else {"alpha": depth_multiplier}
    base = _build_base(kind, PREPROCESSING[preprocessing](images), weights=None, **widths)
    published = add_head(images, base.output, classes, dropout, HEAD_NAME, name=name)
    names = canonical_names(published.operations)

    def clone(layer: Any) -> Any:
        config = layer.get_config() | {"name": names[layer.name]}
        if isinstance(layer, layers.BatchNormalization):
            config["momentum"] = batch_norm_decay
        kind: Any = type(layer)
        return (FAST.get(kind, kind) if fast else kind).from_config(config)

    return keras.models.clone_model(published, clone_function=clone)


def build_pretrained(weights: str, *, kind: str, **_: Any) -> keras.Model:
    """Builds a network of keras.applications without its classification head, with pretrained weights.

    Args:
        weights: `imagenet`, downloaded unless Keras has it in its cache, or the path of such a file.
        kind: its function in keras.applications.
        **_: further settings of the network, ignored.

    Returns:
        The model, from images to features.

    Raises:
        Exception: of several kinds, if the download fails or the weights do not fit.
    """
    with _quiet_download():
        return _build_base(kind, keras.Input((224, 224, 3)), weights=weights)


def _build_base(kind: str, images: Any, **options: Any) -> keras.Model:
    build = getattr(applications, kind)
    # Their preprocessing computes in the precision of the run, and bfloat16 would round the pixels.
    bare = {"include_preprocessing": False} if "include_preprocessing" in inspect.signature(build).parameters else {}
    shape = tuple(images.shape[1:])  # MobileNet v2 ignores the shape of the tensor when it selects its weights
    return build(include_top=False, pooling="avg", input_tensor=images, input_shape=shape, **bare, **options)


def symmetric(images: Any) -> Any:
    """Scales pixels to -1 to 1.

    Args:
        images: (batch, height, width, 3) RGB in 0 to 255.

    Returns:
        Float32 of the same shape.
    """
    return _rescale(images, 1 / 127.5, -1.0)


def standardised(images: Any) -> Any:
    """Subtracts ImageNet's mean from the pixels, and divides them by its standard deviation.

    Args:
        images: (batch, height, width, 3) RGB in 0 to 255.

    Returns:
        Float32 of the same shape.
    """
    scale = [1 / (255 * deviation) for deviation in STANDARD_DEVIATION]
    return _rescale(images, scale, [-mean / deviation for mean, deviation in zip(MEAN, STANDARD_DEVIATION, strict=True)])


def caffe(images: Any) -> Any:
    """Reorders the channels to BGR, and subtracts ImageNet's mean.

    Args:
        images: (batch, height, width, 3) RGB in 0 to 255.

    Returns:
        Float32 of the same shape.
    """
    return _rescale(ops.flip(images, axis=-1), 1.0, [-mean for mean in CAFFE_MEAN])


def _rescale(images: Any, scale: Any, offset: Any) -> Any:
    return layers.Rescaling(scale, offset, name="preprocessing", dtype="float32")(images)


PREPROCESSING: dict[str, Callable[[Any], Any]] = {function.__name__: function for function in (symmetric, standardised, caffe)}


def canonical_names(operations: Iterable[Any]) -> dict[str, str]:
    """Maps names of layers and operations to those of a fresh process, where Keras numbers them from 0.

    Args:
        operations: layers and operations of a model.

    Returns:
        Name in this process to name in a fresh one.
    """
    counted = defaultdict(list)
    names = {}
    for operation in operations:
        stem, number = NUMBERED_NAME.findall(operation.name)[0]
        if stem.replace("_", "") == type(operation).__name__.lower():
            counted[stem].append((int(number or 0), operation.name))
        else:
            names[operation.name] = operation.name
    for stem, found in counted.items():
        for count, (_, name) in enumerate(sorted(found)):
            names[name] = f"{stem}_{count}" if count else stem
    return names


def flatten_layers(nested: Iterable[Any]) -> Iterator[Any]:
    """Yields layers, replacing each nested model by its layers.

    Args:
        nested: layers and models.

    Returns:
        The layers, in order.
    """
    for layer in nested:
        if isinstance(layer, keras.Model):
            yield from flatten_layers(layer.layers)
        else:
            yield layer


@contextlib.contextmanager
def _quiet_download() -> Iterator[None]:
    """Gives Keras's download the timeout of other downloads, where it has none, and hides its progress bar."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(READ_SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
