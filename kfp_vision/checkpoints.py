"""Weights from elsewhere: TF-Slim checkpoints (V1 and V2) and `.npz` files of arrays, loose or in an archive."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfp_vision import storage
from kfp_vision.errors import InputError
from kfp_vision.networks import NETWORKS, Network

CLASS_LAYER = -1  # the model's last
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
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def load(model: Any, network: Network, uri: str) -> bool:
    """Copies a checkpoint's weights into a Keras model; the class layer is left as it is when the classes differ.

    Args:
        model: built by `network`.
        network: says how its weights are called in a checkpoint.
        uri: a checkpoint file, the prefix of one, an `.npz`, or an archive with one of these in it.

    Returns:
        Whether the class layer was taken over too.

    Raises:
        InputError: not a checkpoint, or one that does not fit: the names missing and left over are said.
    """
    with tempfile.TemporaryDirectory(prefix="kfp-vision-") as scratch:
        checkpoint = open_checkpoint(uri, Path(scratch))
        wanted = _wanted_weights(model, network)
        skipped = _misfit_class_layer(model, network, checkpoint)
        _check_fit(wanted, skipped, network, checkpoint, uri)
        for name, variable in wanted.items():
            if name not in skipped:
                value = network.value_from_checkpoint(name, checkpoint.read(name))
                variable.assign(np.asarray(value, "float32").reshape(variable.shape))
    return not skipped


def check(network: Network, uri: str, depth_multiplier: float = 1.0) -> None:
    """Refuses a checkpoint that does not fit a network.

    Raises:
        InputError: as `load` does.
    """
    load(network.build(2, depth_multiplier=depth_multiplier), network, uri)


def _wanted_weights(model: Any, network: Network) -> dict[str, Any]:
    """The model's weights by their names in a published checkpoint."""
    return {network.name_in_checkpoint(layer.name, weight.name): weight for layer in model.layers for weight in layer.weights}


def _misfit_class_layer(model: Any, network: Network, checkpoint: Checkpoint) -> set[str]:
    """Names of the class layer's weights, if the checkpoint was trained on another number of classes."""
    layer = model.layers[CLASS_LAYER]
    names = {network.name_in_checkpoint(layer.name, weight.name): weight for weight in layer.weights}
    fits = all(name in checkpoint.shapes and np.prod(checkpoint.shapes[name]) == np.prod(w.shape) for name, w in names.items())
    return set() if fits else set(names)


def open_checkpoint(uri: str, scratch: Path) -> Checkpoint:
    """A checkpoint for reading; an archive is unpacked into `scratch`.

    Raises:
        InputError: nothing there, or not a checkpoint.
    """
    if storage.scheme(uri):
        path = storage.fetch(uri)
    else:
        path = Path(storage.absolute(uri))
        if not path.exists() and not path.with_name(f"{path.name}.index").exists():
            raise InputError("checkpoint_uri must name something that exists", uri, "Check the path.")
    if path.is_file() and uri.lower().endswith(storage.ARCHIVE_SUFFIXES):
        path = _only_checkpoint(path, uri, scratch)
    return _open_npz(path, uri) if path.suffix == ".npz" else _open_tensorflow(path, uri)


def _only_checkpoint(archive: Path, uri: str, scratch: Path) -> Path:
    """Unpacks an archive under the members' last names, and gives the one checkpoint among them."""
    for item in storage.walk(str(archive)):
        (scratch / Path(item.name).name).write_bytes(item.read())
    prefixes = {file.with_suffix("") for file in scratch.glob("*.index")}
    files = {file for file in scratch.iterdir() if file.suffix in (".ckpt", ".npz")}
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


def _open_tensorflow(path: Path, uri: str) -> Checkpoint:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(path))
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError):
        remedy = (
            "Give a TF-Slim checkpoint (its file, or the prefix of its .index file), an .npz, or an archive with one in it."
        )
        raise InputError("checkpoint_uri must name a checkpoint", uri, remedy) from None
    weights = {name: tuple(shape) for name, shape in shapes.items() if not any(part in name for part in NOT_WEIGHTS)}
    return Checkpoint(weights, reader.get_tensor)


def _check_fit(wanted: dict[str, Any], skipped: set[str], network: Network, checkpoint: Checkpoint, uri: str) -> None:
    missing = wanted.keys() - checkpoint.shapes.keys() - skipped
    misshapen = {
        name
        for name in wanted.keys() & checkpoint.shapes.keys() - skipped
        if np.prod(checkpoint.shapes[name]) != np.prod(wanted[name].shape)
    }
    if not missing and not misshapen:
        return
    problems = [
        _listed(missing, "missing"),
        _listed(misshapen, "of another shape"),
        _listed(checkpoint.shapes.keys() - wanted.keys(), "left over"),
    ]
    others = ", ".join(f"network={other}" for other in NETWORKS if other != network.name)
    remedy = f"Give a checkpoint of {network.name}, or choose the network it was made for ({others})."
    found = f"{uri}: {'; '.join(problem for problem in problems if problem)}"
    raise InputError(f"the checkpoint must fit network={network.name}", found, remedy)


def _listed(names: Iterable[str], what: str) -> str:
    ordered = sorted(names)
    return f"{len(ordered)} weights {what} (such as {ordered[0]})" if ordered else ""
