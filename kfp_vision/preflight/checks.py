"""The checks before a run: every field, and everything outside that the run depends on."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from kfp_vision.core import kube_config
from kfp_vision.core.advanced import DEPLOYMENT_ADVANCED, Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import ONE, normalize_numbers
from kfp_vision.exports import formats
from kfp_vision.networks import NETWORKS
from kfp_vision.preflight import nodes, rules
from kfp_vision.storage import base, retry, uris
from kfp_vision.training import choose_network, trial_plan
from kfp_vision.training.recipe_presets import Preset

# Environment variable: digest of the form that `kfp-vision run` has just checked, for the stage that would check it again.
CHECKED_VARIABLE = "KFP_VISION_CHECKED"
# Fields that do not affect the trained model, only where it trains and how it is used; left out of the recipe hash.
FIELDS_NOT_IN_RECIPE = (
    "recipe",  # what it sets is in the other fields
    "leave_out_uri",  # the fingerprint of the data covers the exclusions, wherever the list is stored
    "labels_uri",  # as above
    "check_images",
    "partitions",
    "log_uri",
    "checkpoint_dir",
    "workers",
    "gpu_type",
    "gpu_count",
    "node_selector",
    "tolerations",
    "min_accuracy",
    "deploy_to",
    "skip_unchanged",
    "test_image_uri",
    "predict_uri",
    "formats",
    "register_in",
)
ADVANCED_NOT_IN_RECIPE = (
    *DEPLOYMENT_ADVANCED,
    "check_nodes",
    "training_api",
    "training_runtime",
    "training_queue",
    "training_priority",
    "trial_reduction_factor",
    "beat_largest_class",
    "compare_with_deployed",
    "profile_steps",
    "save_interval_secs",
    "cache_pictures",
    "max_refused_ratio",
    "store_wait_seconds",
    "collected_uri",
)
# Defaults of fields that are younger than the hashes of deployed models.
LATER_FIELDS = {"labels": ONE}
LATER_ADVANCED = {"label_separator": "", "train_last_blocks_only": False}


class RunPreflight(NamedTuple):
    """What `check_run` passes on to later stages.

    Attributes:
        advanced: the settings of `advanced` that the data stages read; KFP's cache reuses these stages if other ones change.
        recipe: a hash of all fields that affect the trained model, the images excepted.
        gpus: `gpu_count` as a string: KFP's driver ignores resource requests that are numbers
            (`resolvePodSpecInputRuntimeParameter` in backend/src/v2/driver/resolve.go of KFP 2.17.0).
        preset: what the form's recipe sets, for the training; see `recipe_presets.Preset`.
        form: every field as it was given, for the model's papers.
    """

    advanced: dict[str, Any]
    recipe: str
    gpus: str
    preset: dict[str, Any]
    form: dict[str, Any]


class SweepPreflight(NamedTuple):
    """What `check_sweep` passes on to later stages.

    Attributes:
        advanced: see `RunPreflight`.
        gpus: see `RunPreflight`.
        form: see `RunPreflight`.
    """

    advanced: dict[str, Any]
    gpus: str
    form: dict[str, Any]


class TrainingPreflight(NamedTuple):
    """What `check_training` passes on to later stages.

    Attributes:
        gpus: see `RunPreflight`.
        preset: see `RunPreflight`.
        form: see `RunPreflight`.
    """

    gpus: str
    preset: dict[str, Any]
    form: dict[str, Any]


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
    given, was_checked, form = dict(form), _was_checked(form), rules.read_uris(form)
    advanced = rules.check_values(form)
    form, preset = fill_in(form, advanced)
    if not was_checked:
        _check_images(form)
        _check_surroundings(form, advanced)
    return RunPreflight(advanced.for_data(), _recipe(form, advanced), _gpus(form), preset.to_json(), given)


def check_training(form: Mapping[str, Any]) -> TrainingPreflight:
    """Checks a run of `train_only`; see `check_run`.

    Args:
        form: every field, by name.

    Returns:
        What later stages need.

    Raises:
        InputError: the first rule that is broken.
    """
    given, was_checked, form = dict(form), _was_checked(form), rules.read_uris(form)
    advanced = rules.check_train_only_values(form)
    form, preset = fill_in(form, advanced)
    if not was_checked:
        from kfp_vision.records import records_folder  # as in _check_images

        records_folder.check_records_uri(form["records_uri"], "records_uri")
        _check_surroundings(form, advanced)
    return TrainingPreflight(_gpus(form), preset.to_json(), given)


def check_sweep(form: Mapping[str, Any]) -> SweepPreflight:
    """Checks a run of `hyperparameter_sweep`; see `check_run`.

    Args:
        form: every field, by name.

    Returns:
        What later stages need.

    Raises:
        InputError: the first rule that is broken, by any trial.
    """
    given, was_checked, form = dict(form), _was_checked(form), rules.read_uris(form)
    advanced = rules.check_sweep_values(form)
    if not was_checked:
        _check_comparison(form, advanced)
        _check_trials(form, advanced)
    return SweepPreflight(advanced.for_data(), _gpus(form), given)


def _check_comparison(form: Mapping[str, Any], advanced: Advanced) -> None:
    """Checks that the trials of a sweep on a cluster have a bucket through which they are compared."""
    is_needed = advanced.trial_reduction_factor and kube_config.is_stage()
    if is_needed and uris.scheme_of(form["checkpoint_dir"]) not in base.BUCKETS:
        rule = (
            "checkpoint_dir must be a folder in a bucket for trial_reduction_factor on a cluster, where the trials are compared"
        )
        raise InputError(rule, form["checkpoint_dir"], "Set it to s3://bucket/checkpoints/flowers, say.")


def _check_trials(form: Mapping[str, Any], advanced: Advanced) -> None:
    first, *others = ({**form, **trial} for trial in trial_plan.plan_trials(form, advanced.seed))
    _check_images(form)
    _check_surroundings(first, advanced)
    for trial in {other["network"]: other for other in others if other["network"] != first["network"]}.values():
        _check_checkpoint(trial, advanced)


def check_preparation(form: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a run of `prepare_records`; see `check_run`.

    Args:
        form: every field, by name.

    Returns:
        The settings of `advanced` that the data stages read.

    Raises:
        InputError: the first rule that is broken.
    """
    was_checked, form = _was_checked(form), rules.read_uris(form)
    advanced = rules.check_preparation_values(form)
    if not was_checked:
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
    was_checked, form = _was_checked(form), rules.read_uris(form)
    rules.check_prediction_values(form)
    if was_checked:
        return
    from kfp_vision.prediction import batch
    from kfp_vision.repository import version  # as in _check_images

    version.check_model_uri(form["model_uri"], "model_uri")
    batch.check_images_uri(form["predict_uri"], "predict_uri")


def check_collected(form: Mapping[str, Any]) -> None:
    """Checks a run of `drift_detection`; see `check_run`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    was_checked, form = _was_checked(form), rules.read_uris(form)
    rules.check_drift_values(form)
    if was_checked:
        return
    from kfp_vision.collection import collected
    from kfp_vision.repository import version  # as in _check_images
    from kfp_vision.storage import reading, writing

    version.check_model_uri(form["model_uri"], "model_uri")
    if form["logged_uri"]:
        reading.check_exists(form["logged_uri"], "logged_uri")
        writing.check_writable(form["collected_uri"], "collected_uri")
    else:
        collected.check_collection(form["collected_uri"], "collected_uri")


def check_review(form: Mapping[str, Any]) -> None:
    """Checks a run of `review`; see `check_run`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    was_checked, form = _was_checked(form), rules.read_uris(form)
    rules.check_review_values(form)
    if was_checked:
        return
    from kfp_vision.prediction import batch
    from kfp_vision.repository import version
    from kfp_vision.storage import reading  # as in _check_images

    version.check_model_uri(form["model_uri"], "model_uri")
    if form["images_uri"]:
        batch.check_images_uri(form["images_uri"], "images_uri")
    for name in ("collected_uri", "labels_uri"):
        if form[name]:
            reading.check_exists(form[name], name)


def check_search(form: Mapping[str, Any]) -> None:
    """Checks a run of `image_search`; see `check_run`.

    Args:
        form: every field, by name.

    Raises:
        InputError: the first rule that is broken.
    """
    was_checked, form = _was_checked(form), rules.read_uris(form)
    rules.check_search_values(form)
    if was_checked:
        return
    from kfp_vision.networks import pretrained
    from kfp_vision.prediction import batch
    from kfp_vision.repository import version
    from kfp_vision.search import build, deploy_index
    from kfp_vision.storage import reading  # as in _check_images

    reading.check_exists(form["images_uri"], "images_uri")
    if form["model_uri"]:
        version.check_model_uri(form["model_uri"], "model_uri")
    else:
        pretrained.check_pretrained(NETWORKS[form["network"]], form["checkpoint_uri"], 1.0)
    if form["index_uri"]:
        build.check_index(form["index_uri"], "index_uri")
    if form["queries_uri"]:
        batch.check_images_uri(form["queries_uri"], "queries_uri")
    deploy_index.check_index_target(form["deploy_to"], form["model_uri"])


def fill_in(form: Mapping[str, Any], advanced: Advanced) -> tuple[dict[str, Any], Preset]:
    """Fills in what the recipe of a form sets, and the network that `network=auto` chooses.

    Args:
        form: every field, by name, checked by a function of `rules`.
        advanced: what that function returned.

    Returns:
        The form as it is trained, and what was set in it.

    Raises:
        InputError: no network is found, or a field does not suit it.
    """
    preset = Preset.of_form(form)
    preset = choose_network.choose_network(preset.apply(form), preset, advanced.depth_multiplier)
    filled = preset.apply(form)
    rules.check_network_fields(filled, advanced)
    return filled, preset


def digest_form(form: Mapping[str, Any]) -> str:
    """Hashes the values of a form, however KFP writes its numbers.

    Args:
        form: every field, by name.

    Returns:
        The hash, in hex.
    """
    values = {"partitions": 1} | normalize_numbers(form)  # the stages take it, though not every form has it
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _was_checked(form: Mapping[str, Any]) -> bool:
    """Returns whether the process that started this stage has just checked the same form, with all that it refers to."""
    return os.environ.get(CHECKED_VARIABLE) == digest_form(form)


def _check_images(form: Mapping[str, Any]) -> None:
    # Imported here, so that composing and compiling pipelines does not need the packages that read images.
    from kfp_vision.dataset import corrections, exclusions, import_files, scan
    from kfp_vision.dataset.import_lines import LabelRule
    from kfp_vision.storage import reading

    reading.check_exists(form["images_uri"], "images_uri")
    scan.check_sample(form["images_uri"], form["labels"])
    rule = LabelRule.of_fields(form["labels"], form["advanced"].get("label_separator", ""))
    if import_files.is_import_file(form["images_uri"]):
        import_files.read_import_file(form["images_uri"], rule)
    if form["leave_out_uri"]:
        reading.check_exists(form["leave_out_uri"], "leave_out_uri")
        exclusions.read_exclusions(form["leave_out_uri"])
    if form["labels_uri"]:
        reading.check_exists(form["labels_uri"], "labels_uri")
        corrections.read_labels(form["labels_uri"], rule)


def _check_surroundings(form: Mapping[str, Any], advanced: Advanced) -> None:
    """Checks what a training uses besides its images: nodes, URIs to read and to write, the deployment target."""
    from kfp_vision.deployment import deploy
    from kfp_vision.prediction import batch
    from kfp_vision.storage import reading, writing

    if form["gpu_count"] and (warning := nodes.image_warning(form["gpu_type"])):
        print(warning, flush=True)
    if advanced.check_nodes:
        placement = int(form["gpu_count"]), form["node_selector"], form["tolerations"]
        nodes.check_nodes(nodes.NodeRequirements(form["gpu_type"], *placement))
    if form["workers"] > 1 and kube_config.is_stage():
        _check_cluster(form, advanced)
    if form["test_image_uri"]:
        reading.check_image_uri(form["test_image_uri"], "test_image_uri")
    if form["predict_uri"]:
        batch.check_images_uri(form["predict_uri"], "predict_uri")
    deploy.check_target(form["deploy_to"], form["model_name"], advanced.for_deployment())
    formats.check_packages(formats.parse_formats(form["formats"]))
    for name in ("log_uri", "checkpoint_dir"):
        if form[name]:
            writing.check_writable(form[name], name)
    _check_checkpoint(form, advanced)


def _check_cluster(form: Mapping[str, Any], advanced: Advanced) -> None:
    """Checks that the cluster can train with several workers, and that there is a bucket through which they get the records."""
    from kfp_vision.training.job_client import JobClient  # as in _check_images

    if uris.scheme_of(form["checkpoint_dir"]) not in base.BUCKETS:
        rule = (
            "checkpoint_dir must be a folder in a bucket for workers above 1 on a cluster, through which they get the records"
        )
        raise InputError(rule, form["checkpoint_dir"], "Set it to s3://bucket/checkpoints/flowers, say.")
    JobClient(advanced.training_api).check(advanced.training_runtime)


def _check_checkpoint(form: Mapping[str, Any], advanced: Advanced) -> None:
    from kfp_vision.networks import pretrained  # as in _check_images

    if form["fine_tune"]:
        pretrained.check_pretrained(NETWORKS[form["network"]], form["checkpoint_uri"], advanced.depth_multiplier)


def _gpus(form: Mapping[str, Any]) -> str:
    """Returns the number of GPUs that the training's own pod requests: 0 if it only waits for its workers."""
    return str(int(form["gpu_count"])) if form["workers"] == 1 else "0"


def _recipe(form: Mapping[str, Any], advanced: Advanced) -> str:
    """Hashes what affects the trained model; see `RunPreflight`. Settings given at their defaults count as not given.

    What a form of an earlier version did not have counts only where it differs from its default, so that the hash stays the
    same for all who do not use it.
    """
    fields = {name: value for name, value in form.items() if name not in FIELDS_NOT_IN_RECIPE}
    fields = {name: value for name, value in fields.items() if LATER_FIELDS.get(name) != value}
    settings = {name: value for name, value in asdict(advanced).items() if name not in ADVANCED_NOT_IN_RECIPE}
    fields["advanced"] = {name: value for name, value in settings.items() if LATER_ADVANCED.get(name) != value}
    return hashlib.sha256(json.dumps(normalize_numbers(fields), sort_keys=True).encode()).hexdigest()


# By the name of a pipeline's first stage.
CHECKS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    check.__name__: check
    for check in (
        check_run,
        check_training,
        check_sweep,
        check_preparation,
        check_prediction,
        check_search,
        check_review,
        check_collected,
    )
}

if __name__ == "__main__":  # in a process of its own: TensorFlow needs much memory, and logs while it starts
    from kfp_vision.storage import reading_settings

    with retry.interactive():
        form = json.load(sys.stdin)
        reading_settings.apply_name_encoding(form.get("advanced", {}))
        checked = CHECKS[sys.argv[1]](form)
    print(json.dumps(checked._asdict() if hasattr(checked, "_asdict") else {}))
