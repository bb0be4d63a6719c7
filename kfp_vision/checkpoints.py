"""Weights from elsewhere: TF-Slim checkpoints (V1 and V2), `.npz` files of arrays, models that Keras saved, and ImageNet's.

A TF-Slim checkpoint and an `.npz` call a weight as its publisher did, a saved model by its layer: `block5_conv3/kernel`.
"""

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfp_vision import storage, stores
from kfp_vision.errors import InputError
from kfp_vision.networks import IMAGENET, KERAS, NETWORKS, Network, layer_and_weight

CLASS_LAYER = -1  # the model's last
KERAS_FILE = "classifier.keras"  # of a model folder
KINDS = (
    "a TF-Slim checkpoint (its file, or the prefix of its .index file), an .npz, a .keras file, the model folder of a run, "
    f"an archive with one of these in it, or {IMAGENET}"
)
# Names of an optimizer's own state and of the step counter, which are no weights of the network.
NOT_WEIGHTS = (
    "global_step",
    "Momentum",
    "RMSProp",
    "Adam",
    "ExponentialMovingAverage",
    "Adagrad",
    "Adadelta",
    "Ftrl",
    "save_counter",
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name.

    Attributes:
        shapes: name to shape.
        read: gives the array of a name.
        by_layer: whether the names are `layer/weight`, and not those of a publisher.
        made_for: the network whose name it carries; empty if none.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    by_layer: bool = False
    made_for: str = ""


def load(model: Any, network: Network, uri: str) -> bool:
    """Copies a checkpoint's weights into a Keras model; the class layer is left as it is when the classes differ.

    Args:
        model: built by `network`.
        network: says how its weights are called in a checkpoint.
        uri: a checkpoint file, the prefix of one, an `.npz`, a `.keras` file, a model folder, an archive with one of these in
            it, Keras's `.h5` of ImageNet weights, or `imagenet`.

    Returns:
        Whether the class layer was taken over too.

    Raises:
        InputError: not a checkpoint, or one that does not fit: the names missing and left over are said.
    """
    with storage.temporary() as scratch:
        checkpoint = open_checkpoint(uri, network, scratch)
        wanted = _wanted_weights(model.layers, network, checkpoint)
        class_layer = _wanted_weights([model.layers[CLASS_LAYER]], network, checkpoint)
        skipped = set() if _fits(class_layer, checkpoint) else set(class_layer)
        _check_fit(wanted, skipped, network, checkpoint, uri)
        for name, variable in wanted.items():
            if name not in skipped:
                value = _read(checkpoint, name, uri)
                value = value if checkpoint.by_layer else network.value_from_checkpoint(name, value)
                variable.assign(np.asarray(value, "float32").reshape(variable.shape))
    return not skipped


def check(network: Network, uri: str, depth_multiplier: float = 1.0) -> None:
    """Refuses a checkpoint that does not fit a network.

    Raises:
        InputError: as `load` does.
    """
    load(network.build(2, depth_multiplier=depth_multiplier), network, uri)


def _wanted_weights(layers: Iterable[Any], network: Network, checkpoint: Checkpoint) -> dict[str, Any]:
    """Weights of the model's layers by their names in a checkpoint."""
    from kfp_vision.networks.applications import leaves

    name_of = layer_and_weight if checkpoint.by_layer else network.name_in_checkpoint
    return {name_of(layer.name, weight.name): weight for layer in leaves(layers) for weight in layer.weights}


def _fits(wanted: dict[str, Any], checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has all of some weights, in their shapes."""
    return all(
        name in checkpoint.shapes and np.prod(checkpoint.shapes[name]) == np.prod(weight.shape)
        for name, weight in wanted.items()
    )


def _read(checkpoint: Checkpoint, name: str, uri: str) -> np.ndarray:
    try:
        return checkpoint.read(name)
    except Exception as error:  # TensorFlow's own kinds, and not every checkpoint is TensorFlow's
        reason = f"{name} of {stores.shown(uri)} ({type(error).__name__})"
        raise InputError("every weight of a checkpoint must be readable", reason, "Copy or download it again.") from None


def open_checkpoint(uri: str, network: Network, scratch: Path) -> Checkpoint:
    """A checkpoint for reading; what consists of several files, or is an archive, is laid out in `scratch`.

    Raises:
        InputError: nothing there, or not a checkpoint.
    """
    network.check_start(uri)
    if uri == IMAGENET and network.imagenet == KERAS:
        return _open_keras_weights(IMAGENET, network, uri)
    if uri == IMAGENET:
        uri = network.imagenet
    path = _fetched(uri, scratch) if storage.scheme(uri) not in ("", "file") else _local(uri)
    if path.is_file() and storage.is_archive(uri):
        path = _only_checkpoint(path, uri, scratch)
    if path.suffix == ".npz":
        return _open_npz(path, uri)
    if path.suffix == ".keras":
        return _open_keras(path, uri)
    if path.suffix == ".h5" and network.imagenet == KERAS:
        return _open_keras_weights(str(path), network, uri)
    return _open_tensorflow(path, uri)


def _local(uri: str) -> Path:
    """The file of a checkpoint on this machine, or the prefix of its files."""
    path = Path(storage.absolute(uri))
    if path.is_dir():
        if not (path / KERAS_FILE).is_file():
            rule = f"a folder given as checkpoint_uri must be a run's model folder, with {KERAS_FILE} in it"
            raise InputError(rule, uri, f"Give {KINDS}.")
        return path / KERAS_FILE
    if not path.exists() and not path.with_name(f"{path.name}.index").exists():
        raise InputError("checkpoint_uri must name something that exists", uri, "Check the path.")
    return path


def _fetched(uri: str, scratch: Path) -> Path:
    """The file of a checkpoint that lies elsewhere, or the prefix of its files, downloaded."""
    storage.check_uri(uri, "checkpoint_uri")
    for file in (uri, stores.extended(uri, f"/{KERAS_FILE}")):
        if _exists(file):
            return storage.fetch(file)
    index = stores.extended(uri, ".index")
    if not _exists(index):
        raise InputError("checkpoint_uri must name something that exists", stores.shown(uri), "Check its spelling.")
    prefix = scratch / "checkpoint"
    (scratch / f"{prefix.name}.index").symlink_to(storage.fetch(index))
    shards = _shards(scratch / f"{prefix.name}.index", uri)
    for shard in range(shards):
        ending = f".data-{shard:05d}-of-{shards:05d}"
        (scratch / f"{prefix.name}{ending}").symlink_to(storage.fetch(stores.extended(uri, ending)))
    return prefix


def _exists(uri: str) -> bool:
    try:
        storage.describe(uri)
    except FileNotFoundError:
        return False
    return True


def _shards(index: Path, uri: str) -> int:
    """How many files of data belong to the index of a V2 checkpoint.

    The index is a table in LevelDB's format, not compressed. The first entry has an empty key, so three numbers of a byte
    stand before its value: what of the key is shared, what is not, and the value's length (tensor_bundle.h).
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleHeaderProto

    begin = index.read_bytes()[: 3 + 0x7F]
    try:
        header = BundleHeaderProto.FromString(begin[3 : 3 + begin[2]])
    except (DecodeError, IndexError):
        raise _no_checkpoint(uri) from None
    return header.num_shards


def _only_checkpoint(archive: Path, uri: str, scratch: Path) -> Path:
    """Unpacks an archive under the members' last names, and gives the one checkpoint among them."""
    for item in storage.walk(str(archive)):
        (scratch / Path(item.name).name).write_bytes(item.read())
    if (scratch / KERAS_FILE).is_file():  # a model folder, whose SavedModel has an .index of its own
        return scratch / KERAS_FILE
    prefixes = {file.with_suffix("") for file in scratch.glob("*.index")}
    files = {file for file in scratch.iterdir() if file.suffix in (".ckpt", ".npz", ".keras")}
    found = sorted(prefixes | files)
    if len(found) != 1:
        remedy = "Unpack it and name the checkpoint itself."
        raise InputError("an archive given as checkpoint_uri must hold one checkpoint", f"{len(found)} in {uri}", remedy)
    return found[0]


def _open_npz(path: Path, uri: str) -> Checkpoint:
    try:
        with path.open("rb") as file, np.load(file) as archive:
            arrays = dict(archive)
        return Checkpoint({name: array.shape for name, array in arrays.items()}, arrays.__getitem__)
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile):
        raise InputError("an .npz checkpoint must be a file of NumPy arrays", uri, "Save it with numpy.savez.") from None


def _open_keras(path: Path, uri: str) -> Checkpoint:
    import keras

    try:
        return _of_model(keras.saving.load_model(path, compile=False, safe_mode=True))
    except Exception as error:  # whatever Keras and h5py make of a broken or hostile file
        rule = "a .keras checkpoint must be a model that Keras can load, with no code in it"
        remedy = "Save it with model.save of Keras 3, of Keras's own layers alone."
        raise InputError(rule, f"{stores.shown(uri)} ({_first_line(error)})", remedy) from None


def _open_keras_weights(weights: str, network: Network, uri: str) -> Checkpoint:
    """ImageNet's weights of keras.applications: `imagenet` to download them, or such a file."""
    from kfp_vision.networks import applications

    try:
        return _of_model(applications.with_weights(weights, **network.settings))
    except Exception as error:  # Keras raises bare ones when a download fails
        found = _first_line(error)
    if weights == IMAGENET:
        remedy = "Try again with an empty ~/.keras/models, or download the file elsewhere and give it as checkpoint_uri."
        raise InputError(f"the ImageNet weights of {network.name} must be there to download", found, remedy)
    remedy = "Give a file of keras.applications whose name ends in notop.h5 or no_top.h5, or a .keras file."
    raise InputError(f"an .h5 checkpoint must hold Keras's ImageNet weights of {network.name}", f"{uri} ({found})", remedy)


def _of_model(model: Any) -> Checkpoint:
    from kfp_vision.networks.applications import leaves, settled_names

    layers = list(leaves(model.layers))
    names = settled_names(layers)
    weights = {layer_and_weight(names[layer.name], weight.name): weight for layer in layers for weight in layer.weights}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    made_for = model.name if model.name in NETWORKS else ""
    return Checkpoint(shapes, lambda name: weights[name].numpy(), by_layer=True, made_for=made_for)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _open_tensorflow(path: Path, uri: str) -> Checkpoint:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(path))
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError):
        raise _no_checkpoint(uri) from None
    weights = {name: tuple(shape) for name, shape in shapes.items() if not any(part in name for part in NOT_WEIGHTS)}
    return Checkpoint(weights, reader.get_tensor)


def _no_checkpoint(uri: str) -> InputError:
    return InputError("checkpoint_uri must name a checkpoint", stores.shown(uri), f"Give {KINDS}.")


def _check_fit(wanted: dict[str, Any], skipped: set[str], network: Network, checkpoint: Checkpoint, uri: str) -> None:
    there = wanted.keys() & checkpoint.shapes.keys() - skipped
    missing = wanted.keys() - checkpoint.shapes.keys() - skipped
    misshapen = {name for name in there if not _fits({name: wanted[name]}, checkpoint)}
    if not missing and not misshapen:
        return
    problems = [
        _listed(missing, "missing"),
        _listed(misshapen, "of another shape"),
        _listed(checkpoint.shapes.keys() - wanted.keys(), "left over"),
    ]
    found = f"{stores.shown(uri)}: {'; '.join(problem for problem in problems if problem)}"
    raise InputError(f"the checkpoint must fit network={network.name}", found, _fitting(network, checkpoint, bool(missing)))


def _fitting(network: Network, checkpoint: Checkpoint, other: bool) -> str:
    """What to do about a checkpoint, of another network or only of other widths."""
    if not other:
        return f"Give a checkpoint of {network.name} that was trained at the same depth_multiplier."
    if checkpoint.made_for not in ("", network.name):
        return f"Give a checkpoint of {network.name}, or set network={checkpoint.made_for}."
    published = [one.name for one in NETWORKS.values() if one.checkpoint_name and one is not network]
    others = f", or choose the network it was made for ({', '.join(f'network={name}' for name in published)})"
    return f"Give a checkpoint of {network.name}{'' if checkpoint.by_layer else others}."


def _listed(names: Iterable[str], what: str) -> str:
    ordered = sorted(names)
    return f"{len(ordered)} weights {what} (such as {ordered[0]})" if ordered else ""
