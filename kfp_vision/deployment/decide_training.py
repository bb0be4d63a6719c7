"""Decides whether to train: fingerprints the data and the fields, and compares them with the deployed model."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp_vision.collection.drift import read_drift
from kfp_vision.core.values import ONE
from kfp_vision.dataset import scan
from kfp_vision.deployment.deploy import target_of
from kfp_vision.reports import results
from kfp_vision.storage import uris


class TrainingDecision(NamedTuple):
    """What a model is to be trained from.

    Attributes:
        fingerprint: hash of the images; see `scan.fingerprint_images`.
        trained_from: hash of the fingerprint and of the fields that determine the model.
        unchanged: whether the deployed model was trained from the same; false if that was not checked.
    """

    fingerprint: str
    trained_from: str
    unchanged: bool


def decide_training(
    images_uri: str,
    leave_out_uri: str,
    recipe: str,
    skip_unchanged: bool,
    deploy_to: str,
    model_name: str,
    settings: Mapping[str, Any],
    labels: str = ONE,
    labels_uri: str = "",
    collected_uri: str = "",
    label_separator: str = "",
) -> TrainingDecision:
    """Decides whether to train: not if the deployed model was trained from the same images and fields, and has not drifted.

    Args:
        images_uri: the images, as `scan.fingerprint_images` takes them.
        leave_out_uri: the list of images to exclude, as `scan.fingerprint_images` takes it.
        recipe: hash of the fields that determine the model, as `checks.check_run` returns it.
        skip_unchanged: whether to compare with the deployed model.
        deploy_to: `kserve`, or a repository.
        model_name: the model's name.
        settings: what `advanced.deployment_settings` returns.
        labels: `one` or `several` labels of an image, as `scan.fingerprint_images` takes it; `recipe` covers it.
        labels_uri: the list of labels, as `scan.fingerprint_images` takes it.
        collected_uri: what the server of the deployed model has collected, with the last check for drift; empty for none.
        label_separator: what separates the labels of an image, as `scan.fingerprint_images` takes it; `recipe` covers it.

    Returns:
        The decision.

    Raises:
        InputError: an error of the store or the cluster.
    """
    fingerprint = scan.fingerprint_images(images_uri, leave_out_uri, labels, labels_uri, label_separator)
    trained_from = hashlib.sha256(f"{fingerprint} {recipe}".encode()).hexdigest()
    target = target_of(deploy_to)
    unchanged = skip_unchanged and target.is_deployed(trained_from, model_name, settings)
    drift = read_drift(uris.from_field(collected_uri), model_name) if unchanged and collected_uri else None
    if drift and drift.drifted and target.serves(drift.fingerprint, model_name, settings):
        print(f"trains although neither the images nor the fields have changed: {drift.in_words()}")
        unchanged = False
    elif unchanged:
        results.announce(f"nothing new: neither the images nor the fields have changed since {model_name} was deployed")
    elif skip_unchanged:
        print(f"images or fields have changed since {model_name} was deployed, or it was never deployed")
    return TrainingDecision(fingerprint, trained_from, unchanged)
