"""The fields of the run form: what values they take, checked before any data moves."""

import difflib
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kfp_vision import nodes
from kfp_vision.errors import InputError
from kfp_vision.networks import IMAGENET, NETWORKS, Network
from kfp_vision.schedules import SCHEDULES
from kfp_vision.stores import patience

OPTIMIZERS = ("adadelta", "adagrad", "adam", "adamw", "ftrl", "momentum", "rmsprop", "sgd")
# What a drop-down offers.
CHOICES: dict[str, tuple[str, ...]] = {
    "network": tuple(NETWORKS),
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": SCHEDULES,
}

# The same of `prepare_records`, which ends with the records, and what its `advanced` holds.
TASKS = ("classification", "detection")
PREPARATION_CHOICES: dict[str, tuple[str, ...]] = {"task": TASKS}
PREPARATION_ADVANCED = ("max_refused_ratio", "check_pixels", "max_side", "conflicting_labels", "store_wait_seconds")

# What the deployment reads of `advanced`.
DEPLOYMENT_ADVANCED = (
    "versions_kept",
    "service_runtime",
    "service_image",
    "service_repository",
    "service_account",
    "service_namespace",
    "service_gpus",
    "service_resources",
    "service_replicas",
    "service_timeout",
    "service_wait_seconds",
    "service_rollback",
    "runtime_version",
    "canary_percent",
)

# What is rarely touched, with its default; under TF-Slim's name where it has one.
ADVANCED: dict[str, Any] = {
    # optimizers
    "momentum": 0.9,
    "weight_decay": 0.00004,
    "adadelta_rho": 0.95,
    "adagrad_initial_accumulator_value": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "opt_epsilon": 1.0,
    "ftrl_learning_rate_power": -0.5,
    "ftrl_initial_accumulator_value": 0.1,
    "ftrl_l1": 0.0,
    "ftrl_l2": 0.0,
    "rmsprop_momentum": 0.9,
    "rmsprop_decay": 0.9,
    # learning rate
    "learning_rate_decay_factor": 0.94,
    "num_epochs_per_decay": 2.0,
    "end_learning_rate": 0.0001,
    "warmup_steps": 0,
    # network
    "batch_norm_decay": 0.9997,
    "depth_multiplier": 1.0,
    "dropout_keep_prob": 0.0,
    "label_smoothing": 0.0,
    "precision": "auto",
    "layers_to_freeze": "",
    "moving_average_decay": 0.0,
    "class_weights": "none",
    # the course of the training
    "validate_every_steps": 0,
    "early_stopping_patience": 0,
    "export": "best",
    "save_interval_secs": 600.0,
    "deterministic": False,
    "xla": "auto",
    "cache_pictures": True,
    # augmentation
    "min_crop_area": 0.3,
    "min_aspect_ratio": 0.75,
    "max_aspect_ratio": 1.33,
    "max_brightness_delta": 32 / 255,
    "lower_saturation": 0.5,
    "upper_saturation": 1.5,
    "flip": True,
    "rand_augment": 0,
    "rand_augment_magnitude": 0.3,
    "mixup_alpha": 0.0,
    # data
    "conflicting_labels": "leave_out",
    "max_refused_ratio": 0.05,
    "check_pixels": True,
    "max_side": 0,
    "store_wait_seconds": patience.SECONDS,
    # deployment
    "versions_kept": 10,
    "service_runtime": "kfp-vision",
    "service_image": "",
    "service_repository": "",
    "service_account": "",
    "service_namespace": "",
    "service_gpus": 0,
    "service_resources": {},
    "service_replicas": "",
    "service_timeout": 0,
    "service_wait_seconds": 600.0,
    "service_rollback": True,
    "runtime_version": "",
    "canary_percent": 100,
    # the rest
    "check_nodes": True,
    "beat_largest_class": True,
    "compare_with_deployed": True,
    "profile_steps": 3,
    "seed": 0,
}
# What does not decide what a model becomes: where it is trained, how it is watched, what it is for.
BESIDE_THE_MODEL = (
    "leave_out_uri",  # what it names is a part of the fingerprint, wherever it lies
    "check_images",
    "partitions",
    "log_uri",
    "checkpoint_dir",
    "gpu_type",
    "gpu_count",
    "node_selector",
    "tolerations",
    "min_accuracy",
    "deploy_to",
    "skip_unchanged",
    "test_image_uri",
    "predict_uri",
)
ADVANCED_BESIDE_THE_MODEL = (
    *DEPLOYMENT_ADVANCED,
    "check_nodes",
    "beat_largest_class",
    "compare_with_deployed",
    "profile_steps",
    "save_interval_secs",
    "cache_pictures",
    "max_refused_ratio",
    "store_wait_seconds",
)
SHARE = (0, 1, "from 0 up to, not including, 1", "0.2")  # lowest, below, and what is said of it
MOST_PARTITIONS = 100  # each is a pod of its own, and what they made is handed over in one argument of 131,071 bytes
MOST_TRIALS = 100  # each is a training
MOST_NEAREST = 1000
PARTS = {"requests", "limits"}  # of service_resources
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity
QUANTITY = re.compile(r"(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE]\d+)?")
REPLICAS = re.compile(r"\d{1,4}(-\d{1,4})?")
# The lists of hyperparameter_sweep, and the field of a training that each has values for; and how they are written.
SWEPT = {"networks": "network", "optimizers": "optimizer", "batch_sizes": "batch_size", "learning_rates": "learning_rate"}
LISTS = {
    "networks": '["inception_v1", "resnet50"]',
    "optimizers": '["sgd", "adam"]',
    "batch_sizes": "[16, 32]",
    "learning_rates": "[0.001, 0.01]",
}
ADVANCED_CHOICES = {
    "conflicting_labels": ("leave_out", "keep"),
    "precision": ("auto", "bfloat16", "float32"),
    "class_weights": ("none", "balanced"),
    "export": ("best", "last"),
    "xla": ("auto", "on", "off"),
    "service_runtime": ("kfp-vision", "tensorflow"),
}
ADVANCED_RULES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        (
            "depth_multiplier",
            "min_crop_area",
            "min_aspect_ratio",
            "num_epochs_per_decay",
            "learning_rate_decay_factor",
            "opt_epsilon",
            "adagrad_initial_accumulator_value",
            "ftrl_initial_accumulator_value",
            "service_wait_seconds",
        ),
        lambda value: value > 0,
        "be above 0",
    ),
    (
        (
            "warmup_steps",
            "validate_every_steps",
            "early_stopping_patience",
            "save_interval_secs",
            "profile_steps",
            "max_side",
            "weight_decay",
            "end_learning_rate",
            "ftrl_l1",
            "ftrl_l2",
            "lower_saturation",
            "max_brightness_delta",
            "rand_augment",
            "mixup_alpha",
            "versions_kept",
            "service_gpus",
            "store_wait_seconds",
            "service_timeout",
        ),
        lambda value: value >= 0,
        "not be negative",
    ),
    (
        (
            "min_crop_area",
            "max_refused_ratio",
            "batch_norm_decay",
            "momentum",
            "rmsprop_momentum",
            "label_smoothing",
            "dropout_keep_prob",
            "rand_augment_magnitude",
        ),
        lambda value: 0 <= value <= 1,
        "lie between 0 and 1",
    ),
    (
        ("adam_beta1", "adam_beta2", "adadelta_rho", "rmsprop_decay", "moving_average_decay"),
        lambda value: 0 <= value < 1,
        "lie between 0 and 1, and below 1",
    ),
    (("canary_percent",), lambda value: 0 <= value <= 100, "lie between 0 and 100"),
    (("ftrl_learning_rate_power",), lambda value: value <= 0, "not be above 0"),
    (("seed",), lambda value: 0 <= value < 1 << 32, "be a whole number from 0 to 4294967295"),
)
ADVANCED_RANGES = (("min_aspect_ratio", "max_aspect_ratio"), ("lower_saturation", "upper_saturation"))


class Checked(NamedTuple):
    """What `check_run` says of the fields for the stages behind it.

    Attributes:
        advanced: what the stages of the data read of `advanced`: they are not run again when something else in it is changed.
        recipe: a hash of all fields that decide what the model becomes, the pictures excepted.
        gpus: `gpu_count` as a text: KFP's driver makes a request of a text alone, and leaves it out for a number
            (`resolvePodSpecInputRuntimeParameter` in backend/src/v2/driver/resolve.go of KFP 2.17.0).
    """

    advanced: dict[str, Any]
    recipe: str
    gpus: str


class CheckedSweep(NamedTuple):
    """What `check_sweep` says of the fields for the stages behind it; see `Checked`."""

    advanced: dict[str, Any]
    gpus: str


class CheckedTraining(NamedTuple):
    """What `check_training` says of the fields for the stages behind it; see `Checked`."""

    gpus: str


def check_run(parameters: Mapping[str, Any]) -> Checked:
    """Refuses wrong values, data that is not there, a checkpoint that does not fit, and a training that no node of the cluster
    can hold, without moving any picture.

    Args:
        parameters: name to value, of every field of `image_classification`, and of `image_classification_partitioned` if it is
            that one's form.

    Raises:
        InputError: for the first rule that is broken.
    """
    check_values(parameters)
    _check_pictures(parameters)
    _check_surroundings(parameters)
    return Checked(of_data(parameters["advanced"]), _recipe(parameters), _gpus(parameters))


def check_training(parameters: Mapping[str, Any]) -> CheckedTraining:
    """What `check_run` is for `image_classification`, for `train_only`.

    Args:
        parameters: name to value, of every field of `train_only`.

    Raises:
        InputError: for the first rule that is broken.
    """
    check_training_values(parameters)
    _check_shape("records_uri", parameters["records_uri"], str, '"somewhere"')
    if not parameters["records_uri"]:
        remedy = "Give the folder `records` of a run of prepare_records, here or in a bucket."
        raise InputError("records_uri must be set", parameters["records_uri"], remedy)
    from kfp_vision import records  # as in _check_pictures

    records.check_there(parameters["records_uri"], "records_uri")
    _check_surroundings(parameters)
    return CheckedTraining(_gpus(parameters))


def check_sweep(parameters: Mapping[str, Any]) -> CheckedSweep:
    """What `check_run` is for `image_classification`, for `hyperparameter_sweep`.

    Args:
        parameters: name to value, of every field of `hyperparameter_sweep`.

    Raises:
        InputError: for the first rule that is broken, by any trial.
    """
    whole = [{**parameters, **trial} for trial in check_sweep_values(parameters)]
    _check_pictures(parameters)
    _check_surroundings(whole[0])
    for first in {one["network"]: one for one in whole[1:] if one["network"] != whole[0]["network"]}.values():
        _check_checkpoint(first)
    return CheckedSweep(of_data(parameters["advanced"]), _gpus(parameters))


def check_sweep_values(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The part of `check_sweep` that looks at nothing but the values; gives the trials.

    Raises:
        InputError: for the first rule that is broken, by any trial.
    """
    from kfp_vision import sweep

    _check_data(parameters)
    if not parameters["validation_ratio"]:
        rule = "validation_ratio must be above 0, to choose among the trials"
        raise InputError(rule, parameters["validation_ratio"], "Set it to 0.2, say.")
    for name, field in SWEPT.items():
        given = parameters[name]
        _check_shape(name, given, list, LISTS[name])
        if not given or any(value in given[:place] for place, value in enumerate(given)):
            remedy = f"Write it as JSON, such as {LISTS[name]}."
            raise InputError(f"{name} must name one {field.replace('_', ' ')} or several different ones", given, remedy)
    rule = f"0 (for every combination) or a whole number up to {MOST_TRIALS}"
    _number("trials", parameters["trials"], 0, MOST_TRIALS + 1, rule, "20", whole=True)
    combinations = math.prod(len(parameters[name]) for name in SWEPT)
    if not parameters["trials"] and combinations > MOST_TRIALS:
        remedy = "Set trials to how many of them are to be drawn at random, or give fewer values."
        raise InputError(f"every combination must make {MOST_TRIALS} trials at most", combinations, remedy)
    for values in itertools.product(*(parameters[name] for name in SWEPT)):
        check_training_values({**parameters, **dict(zip(SWEPT.values(), values, strict=True))})
    return sweep.trials(parameters, advanced(parameters["advanced"])["seed"])


def _check_pictures(parameters: Mapping[str, Any]) -> None:
    """What the data is made of, in every pipeline that begins with pictures to learn from."""
    # Imported here, so that who only composes and compiles pipelines needs nothing that reads pictures.
    from kfp_vision import listings, storage

    storage.check_there(parameters["images_uri"], "images_uri")
    if parameters["leave_out_uri"]:
        storage.check_there(parameters["leave_out_uri"], "leave_out_uri")
        listings.to_leave_out(parameters["leave_out_uri"])


def _check_surroundings(parameters: Mapping[str, Any]) -> None:
    """What a training reads and writes beside its pictures, and where it can run."""
    from kfp_vision import deployment, prediction, storage  # as in _check_pictures

    _check_nodes(parameters)
    if parameters["test_image_uri"]:
        storage.check_picture_uri(parameters["test_image_uri"], "test_image_uri")
    if parameters["predict_uri"]:
        prediction.check_uri(parameters["predict_uri"], "predict_uri")
    deployment.check_target(parameters["deploy_to"], parameters["model_name"], of_deployment(parameters["advanced"]))
    for name in ("log_uri", "checkpoint_dir"):
        if parameters[name]:
            storage.check_writable(parameters[name], name)
    _check_checkpoint(parameters)


def _check_nodes(parameters: Mapping[str, Any]) -> None:
    if advanced(parameters["advanced"])["check_nodes"]:
        asked = int(parameters["gpu_count"]), parameters["node_selector"], parameters["tolerations"]
        nodes.check(nodes.Demand(parameters["gpu_type"], *asked))


def _check_checkpoint(parameters: Mapping[str, Any]) -> None:
    from kfp_vision import checkpoints  # as in _check_pictures

    if parameters["fine_tune"]:
        network = NETWORKS[parameters["network"]]
        checkpoints.check(network, parameters["checkpoint_uri"], advanced(parameters["advanced"])["depth_multiplier"])


def _gpus(parameters: Mapping[str, Any]) -> str:
    return str(int(parameters["gpu_count"]))


def _recipe(parameters: Mapping[str, Any]) -> str:
    """See `Checked`. A field of `advanced` that is given its default is as one that is not given."""
    deciding = {name: value for name, value in parameters.items() if name not in BESIDE_THE_MODEL}
    whole = advanced(parameters["advanced"])
    deciding["advanced"] = {name: value for name, value in whole.items() if name not in ADVANCED_BESIDE_THE_MODEL}
    return hashlib.sha256(json.dumps(_plain(deciding), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """The same with whole numbers as such: a form, a command line and JSON write 16 and 16.0 of the same field."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def of_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `advanced` that the stages up to the records read, those not given at their defaults.

    Raises:
        InputError: as `advanced` does.
    """
    whole = advanced(given)
    return {name: whole[name] for name in PREPARATION_ADVANCED}


def of_deployment(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `advanced` that the deployment reads, those not given at their defaults.

    Raises:
        InputError: as `advanced` does.
    """
    whole = advanced(given)
    return {name: whole[name] for name in DEPLOYMENT_ADVANCED}


def check_preparation(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What `check_run` is for `image_classification`, for `prepare_records`.

    Args:
        parameters: name to value, of every field of `prepare_records`.

    Returns:
        What the stages of the data read of `advanced`.

    Raises:
        InputError: for the first rule that is broken.
    """
    _check_choices(parameters, PREPARATION_CHOICES)
    _check_data(parameters)
    for name in parameters["advanced"]:
        if name not in PREPARATION_ADVANCED:
            rule = f"advanced of prepare_records must hold known names only ({', '.join(PREPARATION_ADVANCED)})"
            raise InputError(rule, name, did_you_mean(name, list(PREPARATION_ADVANCED)))
    from kfp_vision import detection  # as in _check_pictures

    if parameters["task"] == "detection":
        detection.check_uri(parameters["images_uri"])
    _check_pictures(parameters)
    return of_data(parameters["advanced"])


def check_prediction(parameters: Mapping[str, Any]) -> None:
    """What `check_run` is for `image_classification`, for `batch_prediction`.

    Args:
        parameters: name to value, of every field of `batch_prediction`.

    Raises:
        InputError: for the first rule that is broken.
    """
    for name in ("model_uri", "predict_uri"):
        _check_shape(name, parameters[name], str, '"somewhere"')
        if not parameters[name]:
            remedy = {"model_uri": "Give the model folder of a run, or a model repository.", "predict_uri": "Give a folder."}
            raise InputError(f"{name} must be set", parameters[name], remedy[name])
    _check_shape("all_scores", parameters["all_scores"], bool, "true")
    _check_partitions(parameters["partitions"])
    from kfp_vision import prediction, repository  # as in _check_pictures

    repository.check_there(parameters["model_uri"], "model_uri")
    prediction.check_uri(parameters["predict_uri"], "predict_uri")


def check_search(parameters: Mapping[str, Any]) -> None:
    """What `check_run` is for `image_classification`, for `image_search`.

    Args:
        parameters: name to value, of every field of `image_search`.

    Raises:
        InputError: for the first rule that is broken.
    """
    _check_choices(parameters, {"network": CHOICES["network"]})
    for name in ("images_uri", "model_uri", "checkpoint_uri", "index_uri", "queries_uri", "label", "deploy_to"):
        _check_shape(name, parameters[name], str, '"somewhere"')
    rule = f"a whole number from 1 to {MOST_NEAREST}"
    _number("nearest", parameters["nearest"], 1, MOST_NEAREST + 1, rule, "10", whole=True)
    _check_shape("audit", parameters["audit"], bool, "true")
    _check_ratios(parameters)
    _check_partitions(parameters["partitions"])
    network = NETWORKS[parameters["network"]]
    if not parameters["model_uri"]:
        network.check_start(parameters["checkpoint_uri"])
    from kfp_vision import checkpoints, prediction, repository, storage  # as in _check_pictures
    from kfp_vision.search import beside, sources

    storage.check_there(parameters["images_uri"], "images_uri")
    if parameters["model_uri"]:
        repository.check_there(parameters["model_uri"], "model_uri")
    else:
        checkpoints.check(network, parameters["checkpoint_uri"], 1.0)
    if parameters["index_uri"]:
        sources.check_index(parameters["index_uri"], "index_uri")
    if parameters["queries_uri"]:
        prediction.check_uri(parameters["queries_uri"], "queries_uri")
    beside.check_target(parameters["deploy_to"], parameters["model_uri"])


def check_values(parameters: Mapping[str, Any]) -> None:
    """The part of `check_run` that looks at nothing but the values.

    Raises:
        InputError: for the first rule that is broken.
    """
    _check_data(parameters)
    if parameters["validation_ratio"] + parameters["test_ratio"] == 0:
        raise InputError(
            "validation_ratio or test_ratio must be above 0, to measure the model", "0 for both", "Set one to 0.2."
        )
    check_training_values(parameters)
    _check_shape("skip_unchanged", parameters["skip_unchanged"], bool, "true")
    if parameters["skip_unchanged"] and parameters["deploy_to"] == "none":
        remedy = "Set deploy_to to where the model is to answer from, or skip_unchanged to false."
        raise InputError("skip_unchanged must have a deployed model to look at", "deploy_to=none", remedy)


def check_training_values(parameters: Mapping[str, Any]) -> None:
    """The part of `check_training` that looks at nothing but the values.

    Raises:
        InputError: for the first rule that is broken.
    """
    _check_choices(parameters, CHOICES)
    advanced(parameters["advanced"])
    _number("min_accuracy", parameters["min_accuracy"], *SHARE)
    for name, usual in (("batch_size", "16"), ("train_steps", "6000")):
        _number(name, parameters[name], 1, math.inf, "a whole number above 0", usual, whole=True)
    _number("learning_rate", parameters["learning_rate"], 1e-12, math.inf, "above 0", "0.0025")
    _number("gpu_count", parameters["gpu_count"], 0, math.inf, "0 or a whole number above it", "1", whole=True)
    network = NETWORKS[parameters["network"]]
    rule = f"0 (the network's own, {network.image_size}) or a whole number from {network.smallest} up"
    smallest = network.smallest if parameters["image_size"] else 0
    _number("image_size", parameters["image_size"], smallest, math.inf, rule, str(network.image_size), whole=True)
    for name in ("fine_tune", "train_last_layer_only"):
        _check_shape(name, parameters[name], bool, "true")
    for name in ("checkpoint_uri", "log_uri", "checkpoint_dir", "deploy_to", "test_image_uri", "predict_uri"):
        _check_shape(name, parameters[name], str, '"somewhere"')
    _check_shape("gpu_type", parameters["gpu_type"], str, '"nvidia.com/gpu"')
    if parameters["gpu_count"]:
        nodes.check_resource(parameters["gpu_type"])
    _check_widths(network, parameters)
    if parameters["fine_tune"]:
        network.check_start(parameters["checkpoint_uri"])
    check_name(parameters["model_name"], "model_name")
    _check_shape("node_selector", parameters["node_selector"], dict, '{"pool": "gpu"}')
    _check_shape("tolerations", parameters["tolerations"], list, '[{"key": "nvidia.com/gpu", "operator": "Exists"}]')
    nodes.check_selector(parameters["node_selector"])
    nodes.check_tolerations(parameters["tolerations"])


def _check_widths(network: Network, parameters: Mapping[str, Any]) -> None:
    """Refuses a depth_multiplier that the network, or what it starts from, does not come in."""
    multiplier = advanced(parameters["advanced"])["depth_multiplier"]
    if multiplier != 1 and not network.has_widths:
        others = ", ".join(other.name for other in NETWORKS.values() if other.has_widths)
        rule = f"depth_multiplier of advanced must be 1 for network={network.name}"
        raise InputError(rule, multiplier, f"Leave it out, or choose a network that comes in other widths ({others}).")
    if multiplier != 1 and parameters["fine_tune"] and parameters["checkpoint_uri"] == IMAGENET:
        rule = f"depth_multiplier of advanced must be 1 for checkpoint_uri={IMAGENET}"
        raise InputError(rule, multiplier, "Leave it out, or give a checkpoint of that width.")


def _check_choices(parameters: Mapping[str, Any], choices_of: Mapping[str, tuple[str, ...]]) -> None:
    for name, choices in choices_of.items():
        if parameters[name] not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}", parameters[name], f"Choose one, say {choices[0]}.")


def _check_data(parameters: Mapping[str, Any]) -> None:
    """What concerns the data up to its records, in every pipeline."""
    _check_ratios(parameters)
    _number("images_per_shard", parameters["images_per_shard"], 1, math.inf, "a whole number above 0", "1000", whole=True)
    _check_partitions(parameters.get("partitions", 1))
    _check_shape("check_images", parameters["check_images"], bool, "true")
    _check_shape("leave_out_uri", parameters["leave_out_uri"], str, '"somewhere"')
    advanced(parameters["advanced"])


def _check_ratios(parameters: Mapping[str, Any]) -> None:
    for name in ("validation_ratio", "test_ratio"):
        _number(name, parameters[name], *SHARE)
    held_out = parameters["validation_ratio"] + parameters["test_ratio"]
    if held_out >= 1:
        rule = "validation_ratio and test_ratio together must stay below 1"
        raise InputError(rule, held_out, "Leave some pictures to train on: 0.2 and 0.1, say.")


def _check_partitions(partitions: Any) -> None:
    rule = f"a whole number from 1 to {MOST_PARTITIONS}"
    _number("partitions", partitions, 1, MOST_PARTITIONS + 1, rule, "4", whole=True)


def check_name(name: str, field: str) -> None:
    """Refuses a model's name that could not stand in an address.

    Raises:
        InputError: naming the field.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"{field} must be letters, digits, - and _", name, "Choose a name such as flowers.")


def advanced(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `advanced`, those not given at their defaults.

    Raises:
        InputError: an unknown name, or a value of another type than the default's.
    """
    _check_shape("advanced", given, dict, '{"momentum": 0.9}')
    for name, value in given.items():
        if name not in ADVANCED:
            raise InputError(f"advanced must hold known names only ({', '.join(ADVANCED)})", name, did_you_mean(name, ADVANCED))
        default = ADVANCED[name]
        right = isinstance(value, bool) if isinstance(default, bool) else _is_like(value, default)
        if not right:
            kind = type(default).__name__
            raise InputError(f"{name} of advanced must be of type {kind}", value, f"Set it to {default!r}, say.")
    whole = ADVANCED | {name: type(ADVANCED[name])(value) for name, value in given.items()}
    for name, choices in ADVANCED_CHOICES.items():
        if whole[name] not in choices:
            rule = f"{name} of advanced must be one of {', '.join(choices)}"
            raise InputError(rule, whole[name], f"Leave it at {ADVANCED[name]}.")
    for names, holds, rule in ADVANCED_RULES:
        for name in names:
            if not holds(whole[name]):
                raise InputError(f"{name} of advanced must {rule}", whole[name], f"Set it to {ADVANCED[name]}, say.")
    for lower, upper in ADVANCED_RANGES:
        if whole[lower] > whole[upper]:
            found = f"{whole[lower]:g} and {whole[upper]:g}"
            raise InputError(f"{lower} of advanced must not be above {upper}", found, "Set both, the smaller one first.")
    _check_service(whole)
    return whole


def resources(given: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """`service_resources` as Kubernetes has it: what a pod requests, and what it may take at most.

    Args:
        given: quantities of resources for both, or `requests` and `limits` with some each; empty for nothing.
    """
    parts = given if given.keys() == PARTS else dict.fromkeys(PARTS, given)
    plain = {part: {name: str(_plain(value)) for name, value in parts[part].items()} for part in sorted(PARTS)}
    return plain if given else {}


def replicas(given: str) -> tuple[int, int] | None:
    """How many pods at least and at most `service_replicas` asks for; None where it is empty."""
    least, _, most = given.partition("-")
    return (int(least), int(most or least)) if given else None


def _check_service(whole: Mapping[str, Any]) -> None:
    """What of the deployment no list above has a rule for."""
    given = whole["service_resources"]
    parts = list(given.values()) if given.keys() == PARTS else [given]
    of_both = [(name, value) for part in parts for name, value in (part.items() if isinstance(part, dict) else [("", part)])]
    if not all(name and QUANTITY.fullmatch(str(value)) and not isinstance(value, bool) for name, value in of_both):
        rule = "service_resources of advanced must hold quantities as Kubernetes writes them, or requests and limits of such"
        raise InputError(rule, given, 'Write {"cpu": "2", "memory": "4Gi"}, say.')
    asked = whole["service_replicas"]
    least, most = (replicas(asked) if REPLICAS.fullmatch(asked) else None) or (1, 0)
    if asked and not 0 <= least <= most > 0:
        rule = "service_replicas of advanced must be a number of pods, or the least and the most, such as 1-3"
        raise InputError(rule, asked, "Set it to 1-3, say.")
    if whole["runtime_version"] and whole["service_runtime"] != "tensorflow":
        rule = "runtime_version of advanced must be of service_runtime=tensorflow"
        raise InputError(rule, whole["runtime_version"], "Leave it out; service_image names the image of our server.")


def did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """The remedy for a name that nobody knows."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else "Take one of these, or leave it out."


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, str | dict):
        return isinstance(value, type(default))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return isinstance(default, float) or float(value).is_integer()  # JSON and KFP hand out whole numbers as floats


def _number(name: str, value: Any, lowest: float, below: float, rule: str, usual: str, *, whole: bool = False) -> None:
    right = _is_like(value, 0 if whole else 0.0) and lowest <= value < below
    if not right:
        raise InputError(f"{name} must be {rule}", value, f"Set it to {usual}, say.")


def _check_shape(name: str, value: Any, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        shapes = {dict: "a dictionary", list: "a list", bool: "true or false", str: "a text"}
        raise InputError(f"{name} must be {shapes[kind]}", value, f"Write it as JSON, such as {example}.")


# By the stage that a pipeline begins with.
CHECKS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    check.__name__: check
    for check in (check_run, check_training, check_sweep, check_preparation, check_prediction, check_search)
}

if __name__ == "__main__":  # in a process of its own: TensorFlow is large, and talks while it starts
    with patience.for_a_person():
        checked = CHECKS[sys.argv[1]](json.load(sys.stdin))
    print(json.dumps(checked._asdict() if hasattr(checked, "_asdict") else {}))
