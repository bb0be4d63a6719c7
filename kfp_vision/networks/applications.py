"""The networks of keras.applications, with their preprocessing inside and a class layer of our own.

Layers carry the names that Keras gives them in a fresh process. All take (batch, height, width, 3) RGB in 0 to 255 and give
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

import keras
from keras import applications, layers, ops

from kfp_vision import stores
from kfp_vision.networks.inception import head
from kfp_vision.networks.layers import FusedBatchNormalization

# As keras.applications.imagenet_utils.preprocess_input has them; the mean and the deviation of ImageNet's red, green, blue.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
CLASS_LAYER = "predictions"
NUMBERED = re.compile(r"^(.*?)(?:_(\d+))?$")  # a name that Keras made of a class: `conv2d`, `conv2d_1`


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
    """A network of keras.applications for other classes.

    Args:
        classes: number of classes, the width of the logits.
        name: of the model.
        kind: the function of keras.applications.
        preprocessing: a name in `PREPROCESSING`.
        image_size: height and width of the pictures in pixels.
        dropout: share of the features dropped before the logits.
        depth_multiplier: the `alpha` of the MobileNets, by which every width is multiplied; the others know 1 only.
        batch_norm_decay: decay of every batch norm's moving statistics, if there is any.
        fast: batch norm on TensorFlow's fused kernel, or stock Keras layers only.
    """
    pictures = keras.Input((image_size, image_size, 3), name="pictures")
    widths = {} if depth_multiplier == 1 else {"alpha": depth_multiplier}
    base = _base(kind, PREPROCESSING[preprocessing](pictures), weights=None, **widths)
    published = head(pictures, base.output, classes, dropout, CLASS_LAYER, name=name)
    names = settled_names(published.operations)

    def cloned(layer: Any) -> Any:
        config = layer.get_config() | {"name": names[layer.name]}
        if not isinstance(layer, layers.BatchNormalization):
            return type(layer).from_config(config)
        norm = FusedBatchNormalization if fast else layers.BatchNormalization
        return norm.from_config(config | {"momentum": batch_norm_decay})

    return keras.models.clone_model(published, clone_function=cloned)


def with_weights(weights: str, *, kind: str, **_: Any) -> keras.Model:
    """A network of keras.applications without its class layer, with weights.

    Args:
        weights: `imagenet`, to be downloaded unless it lies in Keras's folder, or the path of such a file.
        kind: the function of keras.applications.

    Raises:
        Exception: of several kinds, when it cannot be downloaded, or does not fit.
    """
    with _patiently():
        return _base(kind, keras.Input((224, 224, 3)), weights=weights)


def _base(kind: str, pictures: Any, **options: Any) -> keras.Model:
    build = getattr(applications, kind)
    # Their own would compute in the precision of the run, and in bfloat16 that rounds the pixels.
    bare = {"include_preprocessing": False} if "include_preprocessing" in inspect.signature(build).parameters else {}
    shape = tuple(pictures.shape[1:])  # MobileNet v2 does not look for it at the tensor when it chooses its file
    return build(include_top=False, pooling="avg", input_tensor=pictures, input_shape=shape, **bare, **options)


def symmetric(pictures: Any) -> Any:
    """Pixels in -1 to 1."""
    return _rescaled(pictures, 1 / 127.5, -1.0)


def standardised(pictures: Any) -> Any:
    """Pixels less ImageNet's mean, by its deviation."""
    scale = [1 / (255 * deviation) for deviation in DEVIATION]
    return _rescaled(pictures, scale, [-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)])


def caffe(pictures: Any) -> Any:
    """Pixels in the order blue, green, red, less their mean."""
    return _rescaled(ops.flip(pictures, axis=-1), 1.0, [-mean for mean in CAFFE_MEAN])


def _rescaled(pictures: Any, scale: Any, offset: Any) -> Any:
    return layers.Rescaling(scale, offset, name="preprocessing", dtype="float32")(pictures)


PREPROCESSING: dict[str, Callable[[Any], Any]] = {way.__name__: way for way in (symmetric, standardised, caffe)}


def settled_names(operations: Iterable[Any]) -> dict[str, str]:
    """Names of layers and operations, to those they would have in a fresh process: there Keras counts from 0."""
    counted = defaultdict(list)
    names = {}
    for operation in operations:
        stem, number = NUMBERED.findall(operation.name)[0]
        if stem.replace("_", "") == type(operation).__name__.lower():
            counted[stem].append((int(number or 0), operation.name))
        else:
            names[operation.name] = operation.name
    for stem, found in counted.items():
        for count, (_, name) in enumerate(sorted(found)):
            names[name] = f"{stem}_{count}" if count else stem
    return names


def leaves(of: Iterable[Any]) -> Iterator[Any]:
    """Layers, those of a model among them in place of it."""
    for layer in of:
        if isinstance(layer, keras.Model):
            yield from leaves(layer.layers)
        else:
            yield layer


@contextlib.contextmanager
def _patiently() -> Iterator[None]:
    """Keras's download waits for ever and draws a bar; here it gives up as other downloads do, and is quiet."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(stores.READ_SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
