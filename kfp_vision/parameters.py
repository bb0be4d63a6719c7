"""The fields of the run forms: their defaults, their choices, and the rules for their values."""

import difflib
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

from kfp_vision import nodes
from kfp_vision.core.advanced import STORE_WAIT_SECONDS
from kfp_vision.core.errors import InputError
from kfp_vision.networks import IMAGENET, NETWORKS, Network
from kfp_vision.storage import retry
from kfp_vision.training import trials
from kfp_vision.training.schedules import SCHEDULES

OPTIMIZERS = ("adadelta", "adagrad", "adam", "adamw", "ftrl", "momentum", "rmsprop", "sgd")
# The options of the drop-down fields of a training.
CHOICES: dict[str, tuple[str, ...]] = {
    "network": tuple(NETWORKS),
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": SCHEDULES,
}

TASKS = ("classification", "detection")
PREPARATION_CHOICES: dict[str, tuple[str, ...]] = {"task": TASKS}
# The fields of `advanced` that the stages from ingest_images to the records read; prepare_records accepts no others.
PREPARATION_ADVANCED = ("max_refused_ratio", "check_pixels", "max_side", "conflicting_labels", "store_wait_seconds")

# The fields of `advanced` that a deployment reads.
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

# Fields that do not affect the trained model, only where it trains and how it is used; left out of the recipe hash.
FIELDS_NOT_IN_RECIPE = (
    "leave_out_uri",  # the fingerprint of the data covers the exclusions, wherever the list is stored
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
ADVANCED_NOT_IN_RECIPE = (
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
RATIO_RULE = (0, 1, "at least 0 and below 1", "0.2")  # lowest value, upper bound, the rule in words, an example
MAX_PARTITIONS = 100  # one pod each; their outputs are passed on in one command-line argument, limited to 131,071 bytes
MAX_TRIALS = 100  # one training each
MAX_NEAREST = 1000
RESOURCE_SECTIONS = {"requests", "limits"}  # of service_resources
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity
QUANTITY_PATTERN = re.compile(r"(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE]\d+)?")
REPLICAS_PATTERN = re.compile(r"\d{1,4}(-\d{1,4})?")
SWEEP_EXAMPLES = {
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
        "be between 0 and 1",
    ),
    (
        ("adam_beta1", "adam_beta2", "adadelta_rho", "rmsprop_decay", "moving_average_decay"),
        lambda value: 0 <= value < 1,
        "be at least 0 and below 1",
    ),
    (("canary_percent",), lambda value: 0 <= value <= 100, "be between 0 and 100"),
    (("ftrl_learning_rate_power",), lambda value: value <= 0, "not be above 0"),
    (("seed",), lambda value: 0 <= value < 1 << 32, "be a whole number from 0 to 4294967295"),
)
ADVANCED_RANGES = (("min_aspect_ratio", "max_aspect_ratio"), ("lower_saturation", "upper_saturation"))


@dataclass(frozen=True)
class Advanced:
    """The form field `advanced`: settings that rarely need to change, named as in TF-Slim where it has them.

    Create it with `parse`, which checks the values; the constructor does not.

    Example:
        advanced = Advanced.parse({"momentum": 0.8})
        assert (advanced.momentum, advanced.seed) == (0.8, 0)

    Attributes:
        momentum: of the optimizer `momentum`.
        weight_decay: L2 penalty: half of it times the squared kernels is added to the loss; for `adamw`, its decoupled decay.
        adadelta_rho: decay rate of `adadelta`.
        adagrad_initial_accumulator_value: of `adagrad`.
        adam_beta1: of `adam` and `adamw`.
        adam_beta2: of `adam` and `adamw`.
        opt_epsilon: of `adadelta`, `adam`, `adamw` and `rmsprop`.
        ftrl_learning_rate_power: of `ftrl`.
        ftrl_initial_accumulator_value: of `ftrl`.
        ftrl_l1: L1 regularization strength of `ftrl`.
        ftrl_l2: L2 regularization strength of `ftrl`.
        rmsprop_momentum: of `rmsprop`.
        rmsprop_decay: of `rmsprop`.
        learning_rate_decay_factor: factor of the schedule `exponential`.
        num_epochs_per_decay: epochs between two decays of the schedule `exponential`.
        end_learning_rate: last learning rate of the schedule `polynomial`.
        warmup_steps: steps of linear warm-up.
        batch_norm_decay: decay of batch norm's moving statistics; lowered for short trainings.
        depth_multiplier: width of the network, relative to the published one.
        dropout_keep_prob: share of the features that dropout keeps; 0 for the network's own.
        label_smoothing: share of each label that is spread over all classes.
        precision: compute type: `bfloat16`, `float32`, or `auto` for what suits the hardware.
        layers_to_freeze: prefixes of layer names, separated by commas, whose layers are not trained.
        moving_average_decay: decay of the moving average of the weights that is validated and exported; 0 for none.
        class_weights: `balanced` gives all classes the same total weight in the loss.
        validate_every_steps: steps between two validations; 0 for five validations per training.
        early_stopping_patience: validations without improvement after which training stops; 0 for never.
        export: weights to export: `best` on validation, or `last`.
        save_interval_secs: seconds between two checkpoints.
        deterministic: make results reproducible bit by bit, at some cost in speed.
        xla: compile with XLA: `on`, `off`, or `auto`, which is on with one GPU.
        cache_pictures: cache decoded images in memory.
        min_crop_area: smallest share of an image that a random crop keeps.
        min_aspect_ratio: smallest ratio of width to height of a crop.
        max_aspect_ratio: largest ratio of width to height of a crop.
        max_brightness_delta: largest brightness shift, as a share of white.
        lower_saturation: smallest saturation factor.
        upper_saturation: largest saturation factor.
        flip: mirror half of the images at random.
        rand_augment: RandAugment operations per image; 0 for none.
        rand_augment_magnitude: magnitude of the RandAugment operations, 0 to 1.
        mixup_alpha: alpha of mixup; 0 for none.
        conflicting_labels: `leave_out` excludes images that have two labels; `keep` keeps them under both.
        max_refused_ratio: largest share of rejected images that is accepted.
        check_pixels: decode every image completely to check it, not only its header.
        max_side: longest side in pixels that images are shrunk to; 0 for no limit.
        store_wait_seconds: seconds to wait for a store that is unreachable or busy.
        versions_kept: versions that a model repository keeps; 0 for all.
        service_runtime: serving runtime of KServe: `kfp-vision` or `tensorflow`.
        service_image: container image of the server; empty for the default.
        service_repository: bucket folder from which KServe reads the model; empty for the artifact itself.
        service_account: Kubernetes service account that KServe reads the model with.
        service_namespace: namespace of the InferenceService; empty for that of the run.
        service_gpus: GPUs per pod.
        service_resources: Kubernetes quantities by resource, or such under `requests` and `limits`.
        service_replicas: number of pods, or a range such as `1-3`; empty to leave it.
        service_timeout: seconds that a request may take; 0 to leave it.
        service_wait_seconds: seconds to wait until the InferenceService is ready.
        service_rollback: go back to the previous version if the new one does not become ready.
        runtime_version: version of TensorFlow Serving for `service_runtime=tensorflow`; empty to leave it.
        canary_percent: percentage of the requests that go to the new version.
        check_nodes: check that a node of the cluster can run the training.
        beat_largest_class: reject a model that is no better than always predicting the largest class.
        compare_with_deployed: reject a model that is worse than the deployed one.
        profile_steps: steps to profile for TensorBoard; 0 for none.
        seed: seed of all random numbers.
    """

    # optimizers
    momentum: float = 0.9
    weight_decay: float = 0.00004
    adadelta_rho: float = 0.95
    adagrad_initial_accumulator_value: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    opt_epsilon: float = 1.0
    ftrl_learning_rate_power: float = -0.5
    ftrl_initial_accumulator_value: float = 0.1
    ftrl_l1: float = 0.0
    ftrl_l2: float = 0.0
    rmsprop_momentum: float = 0.9
    rmsprop_decay: float = 0.9
    # learning rate
    learning_rate_decay_factor: float = 0.94
    num_epochs_per_decay: float = 2.0
    end_learning_rate: float = 0.0001
    warmup_steps: int = 0
    # network
    batch_norm_decay: float = 0.9997
    depth_multiplier: float = 1.0
    dropout_keep_prob: float = 0.0
    label_smoothing: float = 0.0
    precision: str = "auto"
    layers_to_freeze: str = ""
    moving_average_decay: float = 0.0
    class_weights: str = "none"
    # training loop
    validate_every_steps: int = 0
    early_stopping_patience: int = 0
    export: str = "best"
    save_interval_secs: float = 600.0
    deterministic: bool = False
    xla: str = "auto"
    cache_pictures: bool = True
    # augmentation
    min_crop_area: float = 0.3
    min_aspect_ratio: float = 0.75
    max_aspect_ratio: float = 1.33
    max_brightness_delta: float = 32 / 255
    lower_saturation: float = 0.5
    upper_saturation: float = 1.5
    flip: bool = True
    rand_augment: int = 0
    rand_augment_magnitude: float = 0.3
    mixup_alpha: float = 0.0
    # data
    conflicting_labels: str = "leave_out"
    max_refused_ratio: float = 0.05
    check_pixels: bool = True
    max_side: int = 0
    store_wait_seconds: float = STORE_WAIT_SECONDS
    # deployment
    versions_kept: int = 10
    service_runtime: str = "kfp-vision"
    service_image: str = ""
    service_repository: str = ""
    service_account: str = ""
    service_namespace: str = ""
    service_gpus: int = 0
    service_resources: dict[str, Any] = field(default_factory=dict)
    service_replicas: str = ""
    service_timeout: int = 0
    service_wait_seconds: float = 600.0
    service_rollback: bool = True
    runtime_version: str = ""
    canary_percent: int = 100
    # other
    check_nodes: bool = True
    beat_largest_class: bool = True
    compare_with_deployed: bool = True
    profile_steps: int = 3
    seed: int = 0

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Checks the field `advanced` of a form, and fills in the defaults.

        Args:
            given: name to value of the settings that differ from their defaults. Whole numbers may come as floats.

        Returns:
            The settings, numbers converted to the types of the fields.

        Raises:
            InputError: a name is unknown, or a value has the wrong type or breaks a rule.
        """
        check_type("advanced", given, dict, '{"momentum": 0.9}')
        for name, value in given.items():
            _check_advanced_type(name, value)
        advanced = cls(**{name: type(ADVANCED_DEFAULTS[name])(value) for name, value in given.items()})
        _check_advanced_rules(asdict(advanced))
        _check_service(advanced)
        return advanced

    def changed(self) -> dict[str, Any]:
        """Returns the settings that differ from their defaults."""
        return {name: value for name, value in asdict(self).items() if value != ADVANCED_DEFAULTS[name]}

    def for_data(self) -> dict[str, Any]:
        """Returns the settings that the stages up to the records read."""
        return {name: getattr(self, name) for name in PREPARATION_ADVANCED}

    def for_deployment(self) -> dict[str, Any]:
        """Returns the settings that a deployment reads."""
        return {name: getattr(self, name) for name in DEPLOYMENT_ADVANCED}


ADVANCED_DEFAULTS: dict[str, Any] = asdict(Advanced())  # the defaults, by name


def deployment_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of `advanced` that a deployment reads, defaults filled in.

    Args:
        given: the field `advanced` of a form.

    Raises:
        InputError: see `Advanced.parse`.
    """
    return Advanced.parse(given).for_deployment()


def container_resources(given: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Converts `service_resources` to the `resources` of a Kubernetes container.

    Args:
        given: quantities by resource for both `requests` and `limits`, or one such dictionary for each of the two.

    Returns:
        `limits` and `requests`, with quantities as strings; empty if nothing is given.
    """
    parts = given if given.keys() == RESOURCE_SECTIONS else dict.fromkeys(RESOURCE_SECTIONS, given)
    quantities = {
        part: {name: str(normalize_numbers(value)) for name, value in parts[part].items()} for part in sorted(RESOURCE_SECTIONS)
    }
    return quantities if given else {}


def replica_range(given: str) -> tuple[int, int] | None:
    """Returns the minimum and maximum number of pods of `service_replicas`; None if it is empty.

    Args:
        given: a number or a range, such as `1-3`.
    """
    least, _, most = given.partition("-")
    return (int(least), int(most or least)) if given else None


def normalize_numbers(value: Any) -> Any:
    """Converts floats without a fraction to integers, also within dictionaries and lists.

    Forms, command lines and JSON write the same number as 16 or as 16.0.

    Args:
        value: as read from JSON.
    """
    if isinstance(value, Mapping):
        return {name: normalize_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [normalize_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def suggest_name(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Returns the remedy for an unknown name: the known name that is closest to it.

    Args:
        name: what was given.
        known: the names that exist.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else "Take one of these, or leave it out."


def check_type(name: str, value: Any, kind: type, example: str) -> None:
    """Checks the type of a form field.

    Args:
        name: the field.
        value: what was given.
        kind: `dict`, `list`, `bool` or `str`.
        example: a right value in JSON, for the message.

    Raises:
        InputError: the value has another type.
    """
    if not isinstance(value, kind):
        shapes = {dict: "a dictionary", list: "a list", bool: "true or false", str: "text"}
        raise InputError(f"{name} must be {shapes[kind]}", value, f"Write it as JSON, such as {example}.")


def has_type_of(value: Any, default: Any) -> bool:
    """Returns whether a value can replace a default: whole numbers may be floats, as JSON and KFP pass them.

    Args:
        value: what was given.
        default: a string, a dictionary, an integer or a float.
    """
    if isinstance(default, str | dict):
        return isinstance(value, type(default))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return isinstance(default, float) or float(value).is_integer()


def _check_advanced_type(name: str, value: Any) -> None:
    if name not in ADVANCED_DEFAULTS:
        raise InputError(
            f"advanced must hold known names only ({', '.join(ADVANCED_DEFAULTS)})", name, suggest_name(name, ADVANCED_DEFAULTS)
        )
    default = ADVANCED_DEFAULTS[name]
    if not (isinstance(value, bool) if isinstance(default, bool) else has_type_of(value, default)):
        rule = f"{name} of advanced must be of type {type(default).__name__}"
        raise InputError(rule, value, f"Set it to {default!r}, say.")


def _check_advanced_rules(advanced: Mapping[str, Any]) -> None:
    for name, choices in ADVANCED_CHOICES.items():
        if advanced[name] not in choices:
            rule = f"{name} of advanced must be one of {', '.join(choices)}"
            raise InputError(rule, advanced[name], f"Leave it at {ADVANCED_DEFAULTS[name]}.")
    for names, holds, rule in ADVANCED_RULES:
        for name in names:
            if not holds(advanced[name]):
                raise InputError(
                    f"{name} of advanced must {rule}", advanced[name], f"Set it to {ADVANCED_DEFAULTS[name]}, say."
                )
    for lower, upper in ADVANCED_RANGES:
        if advanced[lower] > advanced[upper]:
            found = f"{advanced[lower]:g} and {advanced[upper]:g}"
            raise InputError(f"{lower} of advanced must not be above {upper}", found, "Set both, the smaller one first.")


def _check_service(advanced: Advanced) -> None:
    given = advanced.service_resources
    parts = list(given.values()) if given.keys() == RESOURCE_SECTIONS else [given]
    if not all(_is_quantity(name, value) for part in parts for name, value in _items(part)):
        rule = "service_resources of advanced must map resources to Kubernetes quantities, or requests and limits to such"
        raise InputError(rule, given, 'Write {"cpu": "2", "memory": "4Gi"}, say.')
    pods = advanced.service_replicas
    least, most = (replica_range(pods) if REPLICAS_PATTERN.fullmatch(pods) else None) or (1, 0)
    if pods and not 0 <= least <= most > 0:
        rule = "service_replicas of advanced must be a number of pods, or a range such as 1-3"
        raise InputError(rule, pods, "Set it to 1-3, say.")
    if advanced.runtime_version and advanced.service_runtime != "tensorflow":
        rule = "runtime_version of advanced must be left out unless service_runtime=tensorflow"
        remedy = "Leave it out; service_image sets the container image of our server."
        raise InputError(rule, advanced.runtime_version, remedy)


def _items(part: Any) -> list[tuple[str, Any]]:
    return list(part.items()) if isinstance(part, dict) else [("", part)]


def _is_quantity(resource: str, value: Any) -> bool:
    return bool(resource and QUANTITY_PATTERN.fullmatch(str(value))) and not isinstance(value, bool)


def check_values(form: Mapping[str, Any]) -> Advanced:
    """Checks the values of the form of `image_classification`, or of its partitioned variant.

    Looks at the values only; `check_run` also checks what they refer to.

    Args:
        form: every field, by name.

    Returns:
        The field `advanced`, parsed.

    Raises:
        InputError: the first rule that is broken.
    """
    advanced = _check_data(form)
    if form["validation_ratio"] + form["test_ratio"] == 0:
        rule = "validation_ratio or test_ratio must be above 0, to measure the model"
        raise InputError(rule, "0 for both", "Set one to 0.2.")
    _check_choices(form, CHOICES)
    _check_training_fields(form, advanced)
    check_type("skip_unchanged", form["skip_unchanged"], bool, "true")
    if form["skip_unchanged"] and form["deploy_to"] == "none":
        remedy = "Set deploy_to to kserve or a model repository, or skip_unchanged to false."
        raise InputError("skip_unchanged must have a deployed model to compare with", "deploy_to=none", remedy)
    return advanced


def check_train_only_values(form: Mapping[str, Any]) -> Advanced:
    """Checks the values of the form of `train_only`; see `check_values`.

    Args:
        form: every field, by name.

    Returns:
        The field `advanced`, parsed.

    Raises:
        InputError: the first rule that is broken.
    """
    _check_choices(form, CHOICES)
    advanced = Advanced.parse(form["advanced"])
    _check_training_fields(form, advanced)
    _check_set("records_uri", form["records_uri"], "Give the folder `records` of a prepare_records run, local or in a bucket.")
    return advanced


def check_sweep_values(form: Mapping[str, Any]) -> Advanced:
    """Checks the values of the form of `hyperparameter_sweep`, for every combination of them; see `check_values`.

    Args:
        form: every field, by name.

    Returns:
        The field `advanced`, parsed.

    Raises:
        InputError: the first rule that is broken, by any combination.
    """
    advanced = _check_data(form)
    if not form["validation_ratio"]:
        rule = "validation_ratio must be above 0, to choose among the trials"
        raise InputError(rule, form["validation_ratio"], "Set it to 0.2, say.")
    for name in trials.SWEPT_FIELDS:
        _check_list(name, form[name])
    rule = f"0 (for every combination) or a whole number up to {MAX_TRIALS}"
    _check_number("trials", form["trials"], 0, MAX_TRIALS + 1, rule, "20", whole=True)
    combinations = math.prod(len(form[name]) for name in trials.SWEPT_FIELDS)
    if not form["trials"] and combinations > MAX_TRIALS:
        remedy = "Set trials to the number of combinations to draw at random, or give fewer values."
        raise InputError(f"there must be at most {MAX_TRIALS} combinations to try all of them", combinations, remedy)
    for values in itertools.product(*(form[name] for name in trials.SWEPT_FIELDS)):
        trial = {**form, **dict(zip(trials.SWEPT_FIELDS.values(), values, strict=True))}
        _check_choices(trial, CHOICES)
        _check_training_fields(trial, advanced)
    return advanced


def check_preparation_values(form: Mapping[str, Any]) -> Advanced:
    """Checks the values of the form of `prepare_records`; see `check_values`.

    Args:
        form: every field, by name.

    Returns:
        The field `advanced`, parsed.

    Raises:
        InputError: the first rule that is broken.
    """
    _check_choices(form, PREPARATION_CHOICES)
    advanced = _check_data(form)
    for name in form["advanced"]:
        if name not in PREPARATION_ADVANCED:
            rule = f"advanced of prepare_records must hold known names only ({', '.join(PREPARATION_ADVANCED)})"
            raise InputError(rule, name, suggest_name(name, list(PREPARATION_ADVANCED)))
    return advanced


def check_prediction_values(form: Mapping[str, Any]) -> None:
    """Checks the values of the form of `batch_prediction`; see `check_values`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    _check_set("model_uri", form["model_uri"], "Give the model folder of a run, or a model repository.")
    _check_set("predict_uri", form["predict_uri"], "Give a folder.")
    check_type("all_scores", form["all_scores"], bool, "true")
    _check_partitions(form["partitions"])


def check_search_values(form: Mapping[str, Any]) -> None:
    """Checks the values of the form of `image_search`; see `check_values`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    _check_choices(form, {"network": CHOICES["network"]})
    for name in ("images_uri", "model_uri", "checkpoint_uri", "index_uri", "queries_uri", "label", "deploy_to"):
        check_type(name, form[name], str, '"somewhere"')
    rule = f"a whole number from 1 to {MAX_NEAREST}"
    _check_number("nearest", form["nearest"], 1, MAX_NEAREST + 1, rule, "10", whole=True)
    check_type("audit", form["audit"], bool, "true")
    _check_ratios(form)
    _check_partitions(form["partitions"])
    if not form["model_uri"]:
        NETWORKS[form["network"]].check_start(form["checkpoint_uri"])


def check_model_name(name: str, field: str) -> None:
    """Checks that a model name can be part of a URL.

    Args:
        name: the name of the model.
        field: the form field or option that gave it, for the message.

    Raises:
        InputError: the name is empty, or has other characters than letters, digits, - and _.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"{field} must be letters, digits, - and _", name, "Choose a name such as flowers.")


def _check_training_fields(form: Mapping[str, Any], advanced: Advanced) -> None:
    _check_number("min_accuracy", form["min_accuracy"], *RATIO_RULE)
    for name, usual in (("batch_size", "16"), ("train_steps", "6000")):
        _check_number(name, form[name], 1, math.inf, "a whole number above 0", usual, whole=True)
    _check_number("learning_rate", form["learning_rate"], 1e-12, math.inf, "above 0", "0.0025")
    _check_number("gpu_count", form["gpu_count"], 0, math.inf, "0 or a whole number above it", "1", whole=True)
    network = NETWORKS[form["network"]]
    rule = f"0 (the network's own, {network.image_size}) or a whole number from {network.smallest} up"
    smallest = network.smallest if form["image_size"] else 0
    _check_number("image_size", form["image_size"], smallest, math.inf, rule, str(network.image_size), whole=True)
    for name in ("fine_tune", "train_last_layer_only"):
        check_type(name, form[name], bool, "true")
    for name in ("checkpoint_uri", "log_uri", "checkpoint_dir", "deploy_to", "test_image_uri", "predict_uri"):
        check_type(name, form[name], str, '"somewhere"')
    check_type("gpu_type", form["gpu_type"], str, '"nvidia.com/gpu"')
    if form["gpu_count"]:
        nodes.check_resource(form["gpu_type"])
    _check_width(network, form, advanced.depth_multiplier)
    if form["fine_tune"]:
        network.check_start(form["checkpoint_uri"])
    check_model_name(form["model_name"], "model_name")
    check_type("node_selector", form["node_selector"], dict, '{"pool": "gpu"}')
    check_type("tolerations", form["tolerations"], list, '[{"key": "nvidia.com/gpu", "operator": "Exists"}]')
    nodes.check_selector(form["node_selector"])
    nodes.check_tolerations(form["tolerations"])


def _check_width(network: Network, form: Mapping[str, Any], multiplier: float) -> None:
    if multiplier != 1 and not network.has_widths:
        others = ", ".join(other.name for other in NETWORKS.values() if other.has_widths)
        rule = f"depth_multiplier of advanced must be 1 for network={network.name}"
        raise InputError(rule, multiplier, f"Leave it out, or choose a network that comes in other widths ({others}).")
    if multiplier != 1 and form["fine_tune"] and form["checkpoint_uri"] == IMAGENET:
        rule = f"depth_multiplier of advanced must be 1 for checkpoint_uri={IMAGENET}"
        raise InputError(rule, multiplier, "Leave it out, or give a checkpoint of that width.")


def _check_data(form: Mapping[str, Any]) -> Advanced:
    """Checks the fields that the stages up to the records read; returns the parsed `advanced`."""
    _check_ratios(form)
    _check_number("images_per_shard", form["images_per_shard"], 1, math.inf, "a whole number above 0", "1000", whole=True)
    _check_partitions(form.get("partitions", 1))
    check_type("check_images", form["check_images"], bool, "true")
    check_type("leave_out_uri", form["leave_out_uri"], str, '"somewhere"')
    return Advanced.parse(form["advanced"])


def _check_ratios(form: Mapping[str, Any]) -> None:
    for name in ("validation_ratio", "test_ratio"):
        _check_number(name, form[name], *RATIO_RULE)
    held_out = form["validation_ratio"] + form["test_ratio"]
    if held_out >= 1:
        rule = "validation_ratio and test_ratio together must stay below 1"
        raise InputError(rule, held_out, "Leave some images to train on: 0.2 and 0.1, say.")


def _check_partitions(partitions: Any) -> None:
    rule = f"a whole number from 1 to {MAX_PARTITIONS}"
    _check_number("partitions", partitions, 1, MAX_PARTITIONS + 1, rule, "4", whole=True)


def _check_list(name: str, values: Any) -> None:
    """Checks one of the lists of `SWEPT`."""
    check_type(name, values, list, SWEEP_EXAMPLES[name])
    if not values or any(value in values[:place] for place, value in enumerate(values)):
        rule = f"{name} must hold one {trials.SWEPT_FIELDS[name].replace('_', ' ')} or several different ones"
        raise InputError(rule, values, f"Write it as JSON, such as {SWEEP_EXAMPLES[name]}.")


def _check_choices(form: Mapping[str, Any], choices_of: Mapping[str, tuple[str, ...]]) -> None:
    for name, choices in choices_of.items():
        if form[name] not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}", form[name], f"Choose one, say {choices[0]}.")


def _check_set(name: str, value: Any, remedy: str) -> None:
    check_type(name, value, str, '"somewhere"')
    if not value:
        raise InputError(f"{name} must be set", value, remedy)


def _check_number(name: str, value: Any, lowest: float, below: float, rule: str, usual: str, *, whole: bool = False) -> None:
    if not (has_type_of(value, 0 if whole else 0.0) and lowest <= value < below):
        raise InputError(f"{name} must be {rule}", value, f"Set it to {usual}, say.")


# From here on, checks that also look at what the values refer to: stores, checkpoints, the cluster.


class RunPreflight(NamedTuple):
    """What `check_run` passes on to later stages.

    Attributes:
        advanced: the settings of `advanced` that the data stages read; KFP's cache reuses these stages if other ones change.
        recipe: a hash of all fields that affect the trained model, the images excepted.
        gpus: `gpu_count` as a string: KFP's driver ignores resource requests that are numbers
            (`resolvePodSpecInputRuntimeParameter` in backend/src/v2/driver/resolve.go of KFP 2.17.0).
    """

    advanced: dict[str, Any]
    recipe: str
    gpus: str


class SweepPreflight(NamedTuple):
    """What `check_sweep` passes on to later stages.

    Attributes:
        advanced: see `Checked`.
        gpus: see `Checked`.
    """

    advanced: dict[str, Any]
    gpus: str


class TrainingPreflight(NamedTuple):
    """What `check_training` passes on to later stages.

    Attributes:
        gpus: see `Checked`.
    """

    gpus: str


def check_run(form: Mapping[str, Any]) -> RunPreflight:
    """Checks a run of `image_classification`, or of its partitioned variant, before any image is transferred.

    Checks the values, and that the data exists, the checkpoint fits the network, the targets are writable, and a node of the
    cluster can run the training.

    Args:
        form: every field, by name.

    Returns:
        What later stages need.

    Raises:
        InputError: the first rule that is broken.
    """
    advanced = check_values(form)
    _check_images(form)
    _check_surroundings(form, advanced)
    return RunPreflight(advanced.for_data(), _recipe(form, advanced), _gpus(form))


def check_training(form: Mapping[str, Any]) -> TrainingPreflight:
    """Checks a run of `train_only`; see `check_run`.

    Args:
        form: every field, by name.

    Returns:
        What later stages need.

    Raises:
        InputError: the first rule that is broken.
    """
    advanced = check_train_only_values(form)
    from kfp_vision.records import folder  # as in _check_images

    folder.check_records_uri(form["records_uri"], "records_uri")
    _check_surroundings(form, advanced)
    return TrainingPreflight(_gpus(form))


def check_sweep(form: Mapping[str, Any]) -> SweepPreflight:
    """Checks a run of `hyperparameter_sweep`; see `check_run`.

    Args:
        form: every field, by name.

    Returns:
        What later stages need.

    Raises:
        InputError: the first rule that is broken, by any trial.
    """
    from kfp_vision.training import trials  # as in _check_images

    advanced = check_sweep_values(form)
    first, *others = ({**form, **trial} for trial in trials.plan_trials(form, advanced.seed))
    _check_images(form)
    _check_surroundings(first, advanced)
    for trial in {other["network"]: other for other in others if other["network"] != first["network"]}.values():
        _check_checkpoint(trial, advanced)
    return SweepPreflight(advanced.for_data(), _gpus(form))


def check_preparation(form: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a run of `prepare_records`; see `check_run`.

    Args:
        form: every field, by name.

    Returns:
        The settings of `advanced` that the data stages read.

    Raises:
        InputError: the first rule that is broken.
    """
    advanced = check_preparation_values(form)
    from kfp_vision.dataset import annotations  # as in _check_images

    if form["task"] == "detection":
        annotations.check_detection_uri(form["images_uri"])
    _check_images(form)
    return advanced.for_data()


def check_prediction(form: Mapping[str, Any]) -> None:
    """Checks a run of `batch_prediction`; see `check_run`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    check_prediction_values(form)
    from kfp_vision.prediction import batch
    from kfp_vision.repository import version  # as in _check_images

    version.check_model_uri(form["model_uri"], "model_uri")
    batch.check_images_uri(form["predict_uri"], "predict_uri")


def check_search(form: Mapping[str, Any]) -> None:
    """Checks a run of `image_search`; see `check_run`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    check_search_values(form)
    from kfp_vision.networks import pretrained
    from kfp_vision.prediction import batch
    from kfp_vision.repository import version
    from kfp_vision.search import beside, sources
    from kfp_vision.storage import reading  # as in _check_images

    reading.check_exists(form["images_uri"], "images_uri")
    if form["model_uri"]:
        version.check_model_uri(form["model_uri"], "model_uri")
    else:
        pretrained.check_pretrained(NETWORKS[form["network"]], form["checkpoint_uri"], 1.0)
    if form["index_uri"]:
        sources.check_index(form["index_uri"], "index_uri")
    if form["queries_uri"]:
        batch.check_images_uri(form["queries_uri"], "queries_uri")
    beside.check_target(form["deploy_to"], form["model_uri"])


def _check_images(form: Mapping[str, Any]) -> None:
    # Imported here, so that composing and compiling pipelines does not need the packages that read images.
    from kfp_vision.dataset import exclusions
    from kfp_vision.storage import reading

    reading.check_exists(form["images_uri"], "images_uri")
    if form["leave_out_uri"]:
        reading.check_exists(form["leave_out_uri"], "leave_out_uri")
        exclusions.read_exclusions(form["leave_out_uri"])


def _check_surroundings(form: Mapping[str, Any], advanced: Advanced) -> None:
    """Checks what a training uses besides its images: nodes, URIs to read and to write, the deployment target."""
    from kfp_vision import deployment
    from kfp_vision.prediction import batch
    from kfp_vision.storage import reading, writing

    if advanced.check_nodes:
        placement = int(form["gpu_count"]), form["node_selector"], form["tolerations"]
        nodes.check(nodes.Demand(form["gpu_type"], *placement))
    if form["test_image_uri"]:
        reading.check_image_uri(form["test_image_uri"], "test_image_uri")
    if form["predict_uri"]:
        batch.check_images_uri(form["predict_uri"], "predict_uri")
    deployment.check_target(form["deploy_to"], form["model_name"], advanced.for_deployment())
    for name in ("log_uri", "checkpoint_dir"):
        if form[name]:
            writing.check_writable(form[name], name)
    _check_checkpoint(form, advanced)


def _check_checkpoint(form: Mapping[str, Any], advanced: Advanced) -> None:
    from kfp_vision.networks import pretrained  # as in _check_images

    if form["fine_tune"]:
        pretrained.check_pretrained(NETWORKS[form["network"]], form["checkpoint_uri"], advanced.depth_multiplier)


def _gpus(form: Mapping[str, Any]) -> str:
    return str(int(form["gpu_count"]))


def _recipe(form: Mapping[str, Any], advanced: Advanced) -> str:
    """Hashes what affects the trained model; see `Checked`. Settings given at their defaults count as not given."""
    fields = {name: value for name, value in form.items() if name not in FIELDS_NOT_IN_RECIPE}
    fields["advanced"] = {name: value for name, value in asdict(advanced).items() if name not in ADVANCED_NOT_IN_RECIPE}
    return hashlib.sha256(json.dumps(normalize_numbers(fields), sort_keys=True).encode()).hexdigest()


# By the name of a pipeline's first stage.
CHECKS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    check.__name__: check
    for check in (check_run, check_training, check_sweep, check_preparation, check_prediction, check_search)
}

if __name__ == "__main__":  # in a process of its own: TensorFlow needs much memory, and logs while it starts
    with retry.interactive():
        checked = CHECKS[sys.argv[1]](json.load(sys.stdin))
    print(json.dumps(checked._asdict() if hasattr(checked, "_asdict") else {}))
