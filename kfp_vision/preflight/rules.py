"""The rules for the values of the form's fields; nothing outside is asked."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kfp_vision.core.advanced import PREPARATION_ADVANCED, READING_ADVANCED, SEARCH_ADVANCED, Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import (
    MAX_NEAREST,
    NOWHERE,
    ONE,
    RATIO_RULE,
    SEVERAL,
    check_choices,
    check_model_name,
    check_number,
    check_set,
    check_type,
    suggest_name,
)
from kfp_vision.exports import formats
from kfp_vision.networks import AUTO_NETWORK, IMAGENET, NETWORKS, Network
from kfp_vision.preflight import nodes
from kfp_vision.repository import registries
from kfp_vision.storage import uris
from kfp_vision.training import trial_plan
from kfp_vision.training.recipe_presets import RECIPES, Preset
from kfp_vision.training.schedules import SCHEDULES

FTRL = "ftrl"
OPTIMIZERS = ("adadelta", "adagrad", "adam", "adamw", FTRL, "momentum", "rmsprop", "sgd")
# The options of the drop-down fields of a training; not every form has all.
CHOICES: dict[str, tuple[str, ...]] = {
    "labels": (ONE, SEVERAL),
    "recipe": RECIPES,
    "network": (*NETWORKS, AUTO_NETWORK),
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": SCHEDULES,
}

TASKS = ("classification", "detection")
TRIAL_CHOICES = {name: choices for name, choices in CHOICES.items() if name != "recipe"} | {"network": tuple(NETWORKS)}
SEARCH_CHOICES: dict[str, tuple[str, ...]] = {name: TRIAL_CHOICES[name] for name in ("labels", "network")}
PREPARATION_CHOICES: dict[str, tuple[str, ...]] = {"labels": CHOICES["labels"], "task": TASKS}
MAX_PARTITIONS = 100  # one pod each; their outputs are passed on in one command-line argument, limited to 131,071 bytes
MAX_TRIALS = 100  # one training each
MAX_WORKERS = 64  # of one training
# Far above what trainings use. More would not fit into any memory, and be found only in the training, after minutes.
MAX_BATCH_SIZE, MAX_IMAGE_SIZE, MAX_TRAIN_STEPS = 65_536, 4_096, 1_000_000_000
SWEEP_EXAMPLES = {
    "networks": '["inception_v1", "resnet50"]',
    "optimizers": '["sgd", "adam"]',
    "batch_sizes": "[16, 32]",
    "learning_rates": "[0.001, 0.01]",
}
# How errors name the fields of a trial that come from lists.
EACH_SWEPT = {field: f"each of {name}" for name, field in trial_plan.SWEPT_FIELDS.items()}


# The fields that hold an address; white space that was pasted around it does not count.
URI_FIELDS = (
    "images_uri",
    "leave_out_uri",
    "labels_uri",
    "records_uri",
    "collected_uri",
    "logged_uri",
    "checkpoint_uri",
    "test_image_uri",
    "predict_uri",
    "model_uri",
    "index_uri",
    "queries_uri",
    "deploy_to",
    "log_uri",
    "checkpoint_dir",
)


def read_uris(form: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the white space around the addresses of a form.

    Args:
        form: every field, by name.

    Returns:
        The form with the addresses as the stages read them.

    Raises:
        InputError: a word with white space around it, which the conditions of a pipeline would take for an address.
    """
    addresses = {name: uris.from_field(form[name]) for name in URI_FIELDS if isinstance(form.get(name), str)}
    for name, value in addresses.items():
        if value != form[name] and value in ("", NOWHERE):
            rule = f"{name} must be an address, or {value or 'empty'} without white space around it"
            raise InputError(rule, form[name], "Clear the field, and type it again.")
    return {**form, **addresses}


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
    _check_data(form)
    form = Preset.of_form(form).apply(form)
    advanced = Advanced.parse(form["advanced"])
    if form["validation_ratio"] + form["test_ratio"] == 0:
        rule = "validation_ratio or test_ratio must be above 0, to measure the model"
        raise InputError(rule, "0 for both", "Set one to 0.2.")
    check_choices(form, CHOICES)
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
    form = Preset.of_form(form).apply(form)
    check_choices({"labels": ONE} | form, CHOICES)  # records.json says how many labels an image has
    advanced = Advanced.parse(form["advanced"])
    _check_training_fields(form, advanced)
    check_set("records_uri", form["records_uri"], "Give the folder `records` of a prepare_records run, local or in a bucket.")
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
    for name in trial_plan.SWEPT_FIELDS:
        _check_list(name, form[name])
    rule = f"0 (for every combination) or a whole number up to {MAX_TRIALS}"
    check_number("trials", form["trials"], 0, MAX_TRIALS + 1, rule, "20", whole=True)
    combinations = math.prod(len(form[name]) for name in trial_plan.SWEPT_FIELDS)
    if not form["trials"] and combinations > MAX_TRIALS:
        remedy = "Set trials to the number of combinations to draw at random, or give fewer values."
        raise InputError(f"there must be at most {MAX_TRIALS} combinations to try all of them", combinations, remedy)
    choices_of = {EACH_SWEPT.get(field, field): choices for field, choices in TRIAL_CHOICES.items()}
    for values in itertools.product(*(form[name] for name in trial_plan.SWEPT_FIELDS)):
        trial = {**form, **dict(zip(trial_plan.SWEPT_FIELDS.values(), values, strict=True))}
        check_choices({EACH_SWEPT.get(field, field): value for field, value in trial.items()}, choices_of)
        _check_training_fields(trial, advanced, EACH_SWEPT)
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
    check_choices(form, PREPARATION_CHOICES)
    _check_known_advanced("prepare_records", form["advanced"], PREPARATION_ADVANCED)
    advanced = _check_data(form)
    if form["task"] != "classification":
        if form["labels"] != ONE:
            rule = f"labels must be {ONE} unless task=classification"
            raise InputError(rule, form["labels"], "Set it to one: annotations hold any number of boxes.")
        if form["labels_uri"]:
            rule = "labels_uri must be empty unless task=classification"
            raise InputError(rule, form["labels_uri"], "Clear it, and correct the XML files: boxes have labels of their own.")
        for name in ("class_folder", "min_images_per_class"):
            if name in advanced.changed():
                rule = f"{name} of advanced must be left out unless task=classification"
                raise InputError(rule, getattr(advanced, name), "Leave it out: annotations name the classes.")
    return advanced


def check_prediction_values(form: Mapping[str, Any]) -> None:
    """Checks the values of the form of `batch_prediction`; see `check_values`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    check_set("model_uri", form["model_uri"], "Give the model folder of a run, or a model repository.")
    check_set("predict_uri", form["predict_uri"], "Give a folder.")
    check_type("all_scores", form["all_scores"], bool, "true")
    _check_partitions(form["partitions"])
    _check_reading("batch_prediction", form["advanced"])


def check_drift_values(form: Mapping[str, Any]) -> None:
    """Checks the values of the form of `drift_detection`; see `check_values`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    check_set("model_uri", form["model_uri"], "Give the model repository that is served, or the model folder of a run.")
    check_set("collected_uri", form["collected_uri"], "Give the folder that the server collects in (--collect).")
    check_type("logged_uri", form["logged_uri"], str, '"somewhere"')
    check_number("days", form["days"], 1, 3651, "a whole number from 1 to 3650", "7", whole=True)
    _check_reading("drift_detection", form["advanced"])


def check_review_values(form: Mapping[str, Any]) -> None:
    """Checks the values of the form of `review`; see `check_values`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    for name in ("images_uri", "collected_uri", "labels_uri"):
        check_type(name, form[name], str, '"somewhere"')
    check_set("model_uri", form["model_uri"], "Give the model folder of a run, or a model repository.")
    if bool(form["images_uri"]) == bool(form["collected_uri"]):
        value = "both" if form["images_uri"] else "neither"
        raise InputError("either images_uri or collected_uri must be set", value, "Give a folder of images, or a collection.")
    check_number("review_images", form["review_images"], 1, math.inf, "a whole number above 0", "100", whole=True)
    _check_reading("review", form["advanced"])


def check_search_values(form: Mapping[str, Any]) -> None:
    """Checks the values of the form of `image_search`; see `check_values`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    check_choices(form, SEARCH_CHOICES)
    _check_known_advanced("image_search", form["advanced"], SEARCH_ADVANCED)
    _check_separator(form, Advanced.parse(form["advanced"]))
    for name in ("images_uri", "model_uri", "checkpoint_uri", "index_uri", "queries_uri", "label", "deploy_to"):
        check_type(name, form[name], str, '"somewhere"')
    rule = f"a whole number from 1 to {MAX_NEAREST}"
    check_number("nearest", form["nearest"], 1, MAX_NEAREST + 1, rule, "10", whole=True)
    check_type("audit", form["audit"], bool, "true")
    _check_ratios(form)
    _check_partitions(form["partitions"])
    if not form["model_uri"]:
        NETWORKS[form["network"]].check_start(form["checkpoint_uri"])


def _check_training_fields(form: Mapping[str, Any], advanced: Advanced, named: Mapping[str, str] | None = None) -> None:
    """Checks the fields of a training.

    Args:
        form: every field, by name.
        advanced: the field `advanced`, parsed.
        named: how errors name a field, where not by its name.

    Raises:
        InputError: the first rule that is broken.
    """
    named = named or {}
    check_number("min_accuracy", form["min_accuracy"], *RATIO_RULE)
    for name, most, usual in (("batch_size", MAX_BATCH_SIZE, "16"), ("train_steps", MAX_TRAIN_STEPS, "6000")):
        rule = f"a whole number from 1 to {most}"
        check_number(named.get(name, name), form[name], 1, most + 1, rule, usual, whole=True)
    name = named.get("learning_rate", "learning_rate")
    check_number(name, form["learning_rate"], 1e-12, math.inf, "above 0", "0.0025")
    check_number("gpu_count", form["gpu_count"], 0, math.inf, "0 or a whole number above it", "1", whole=True)
    _check_workers(form, advanced, named.get("batch_size", "batch_size"))
    for name in ("fine_tune", "train_last_layer_only"):
        check_type(name, form[name], bool, "true")
    _check_optimizer(form, advanced, f"take {FTRL} out of optimizers" if "optimizer" in named else "optimizer to momentum")
    rule = f"0 or a whole number up to {MAX_IMAGE_SIZE}"
    check_number("image_size", form["image_size"], 0, MAX_IMAGE_SIZE + 1, rule, "224", whole=True)
    for name in ("checkpoint_uri", "log_uri", "checkpoint_dir", "deploy_to", "test_image_uri", "predict_uri"):
        check_type(name, form[name], str, '"somewhere"')
    formats.parse_formats(form["formats"])
    check_type("register_in", form["register_in"], str, '"mlflow"')
    registries.parse_registries(form["register_in"])
    check_type("gpu_type", form["gpu_type"], str, '"nvidia.com/gpu"')
    if form["gpu_count"]:
        nodes.check_gpus(form["gpu_type"], int(form["gpu_count"]))
    if form["network"] != AUTO_NETWORK:
        check_network_fields(form, advanced)
    check_model_name(form["model_name"], "model_name")
    check_type("node_selector", form["node_selector"], dict, '{"pool": "gpu"}')
    check_type("tolerations", form["tolerations"], list, '[{"key": "nvidia.com/gpu", "operator": "Exists"}]')
    nodes.check_selector(form["node_selector"])
    nodes.check_tolerations(form["tolerations"])


def check_network_fields(form: Mapping[str, Any], advanced: Advanced) -> None:
    """Checks the fields whose rules depend on the network.

    Args:
        form: every field, by name, with a network other than auto.
        advanced: the field `advanced`, parsed.

    Raises:
        InputError: the first rule that is broken.
    """
    network = NETWORKS[form["network"]]
    rule = f"0 (the network's own, {network.image_size}) or a whole number from {network.smallest} up"
    smallest = network.smallest if form["image_size"] else 0
    check_number("image_size", form["image_size"], smallest, math.inf, rule, str(network.image_size), whole=True)
    _check_width(network, form, advanced.depth_multiplier)
    if form["fine_tune"]:
        network.check_start(form["checkpoint_uri"])


def _check_workers(form: Mapping[str, Any], advanced: Advanced, batch_size: str) -> None:
    """Checks the number of workers; `batch_size` is how errors name that field."""
    rule = f"a whole number from 1 to {MAX_WORKERS}"
    check_number("workers", form["workers"], 1, MAX_WORKERS + 1, rule, "2", whole=True)
    devices = int(form["workers"] * max(form["gpu_count"], 1))
    if form["workers"] > 1 and form["batch_size"] % devices:
        rule = f"{batch_size} must be a multiple of the {devices} devices of all workers, which share every batch"
        multiple = math.ceil(form["batch_size"] / devices) * devices
        raise InputError(rule, form["batch_size"], f"Set it to {multiple}, say.")
    if form["workers"] > 1 and not form["gpu_count"] and advanced.xla == "on":
        rule = "xla of advanced must not be on for several workers without GPUs, where XLA cannot compile sums over machines"
        raise InputError(rule, f"workers={form['workers']:g}", "Leave it out, or set workers to 1.")


def _check_optimizer(form: Mapping[str, Any], advanced: Advanced, other: str) -> None:
    """Refuses `ftrl` for whole networks: its first step sets all weights to about 0, and from there no gradient leads away.

    A head that `head_steps` have trained is lost in the same way. `other` is the remedy of another optimizer.
    """
    if form["optimizer"] == FTRL and not form["train_last_layer_only"]:
        rule = f"optimizer={FTRL} must train the classification head alone, since it forgets the weights that it starts from"
        remedy = f"Set train_last_layer_only to true, or {other}."
        raise InputError(rule, "train_last_layer_only=false", remedy)
    if form["optimizer"] == FTRL and advanced.head_steps:
        rule = f"head_steps of advanced must be 0 with optimizer={FTRL}, which forgets the head that they train"
        raise InputError(rule, str(advanced.head_steps), f'Set advanced to {{"head_steps": 0}}, or {other}.')


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
    check_number("images_per_shard", form["images_per_shard"], 1, math.inf, "a whole number above 0", "1000", whole=True)
    _check_partitions(form.get("partitions", 1))
    check_type("check_images", form["check_images"], bool, "true")
    for name in ("leave_out_uri", "labels_uri"):
        check_type(name, form[name], str, '"somewhere"')
    advanced = Advanced.parse(form["advanced"])
    _check_separator(form, advanced)
    return advanced


def _check_known_advanced(pipeline: str, given: Any, known: Sequence[str]) -> None:
    """Checks that only those fields of `advanced` are given that a pipeline reads."""
    check_type("advanced", given, dict, '{"store_wait_seconds": 60}')
    for name in given:
        if name not in known:
            rule = f"advanced of {pipeline} must hold known names only ({', '.join(known)})"
            raise InputError(rule, name, suggest_name(name, list(known)))


def _check_reading(pipeline: str, given: Any) -> None:
    _check_known_advanced(pipeline, given, READING_ADVANCED)
    Advanced.parse(given)


def _check_separator(form: Mapping[str, Any], advanced: Advanced) -> None:
    if advanced.label_separator and form["labels"] != SEVERAL:
        rule = f"label_separator of advanced must be left out unless labels={SEVERAL}"
        raise InputError(rule, advanced.label_separator, f"Leave it out, or set labels to {SEVERAL}.")


def _check_ratios(form: Mapping[str, Any]) -> None:
    for name in ("validation_ratio", "test_ratio"):
        check_number(name, form[name], *RATIO_RULE)
    held_out = form["validation_ratio"] + form["test_ratio"]
    if held_out >= 1:
        rule = "validation_ratio and test_ratio together must stay below 1"
        raise InputError(rule, held_out, "Leave some images to train on: 0.2 and 0.1, say.")


def _check_partitions(partitions: Any) -> None:
    rule = f"a whole number from 1 to {MAX_PARTITIONS}"
    check_number("partitions", partitions, 1, MAX_PARTITIONS + 1, rule, "4", whole=True)


def _check_list(name: str, values: Any) -> None:
    """Checks one of the lists of `SWEPT_FIELDS`."""
    check_type(name, values, list, SWEEP_EXAMPLES[name])
    if not values or any(value in values[:place] for place, value in enumerate(values)):
        rule = f"{name} must hold one {trial_plan.SWEPT_FIELDS[name].replace('_', ' ')} or several different ones"
        raise InputError(rule, values, f"Write it as JSON, such as {SWEEP_EXAMPLES[name]}.")
