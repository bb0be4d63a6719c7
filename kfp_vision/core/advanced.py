"""The fields of `advanced`: names, types, defaults and rules."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from kfp_vision.core import values
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import check_type, has_type_of, normalize_numbers

STOCK_RUNTIME = "tensorflow"  # value of service_runtime: TensorFlow Serving, the runtime that comes with KServe
ENGINES = ("auto", "openvino", "openvino-float32", "tensorflow")  # values of engine, see `engines`
# Where a model is served: in bfloat16 on a GPU, and in int8 with what is made after its training.
SERVING_ENGINES = (*ENGINES, "tensorflow-bfloat16", "openvino-int8")
STORE_WAIT_SECONDS = 600.0  # a stage waits for a store, unless `store_wait_seconds` of advanced or the environment is set


# The fields of `advanced` that the stages from ingest_images to the records read; prepare_records accepts no others.
PREPARATION_ADVANCED = (
    "class_folder",
    "min_images_per_class",
    "rare_classes",
    "max_refused_ratio",
    "check_pixels",
    "max_side",
    "conflicting_labels",
    "label_separator",
    "odd_images",
    "name_encoding",
    "store_wait_seconds",
)

# The fields of `advanced` that image_search reads; it accepts no others.
SEARCH_ADVANCED = ("class_folder", "max_refused_ratio", "label_separator", "name_encoding", "store_wait_seconds")

# The fields of `advanced` that batch_prediction, drift_detection and review read; they accept no others.
READING_ADVANCED = ("name_encoding", "store_wait_seconds")

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
    "service_collect",
    "collected_uri",
    "service_wait_seconds",
    "service_rollback",
    "runtime_version",
    "canary_percent",
)
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity
QUANTITY_PATTERN = re.compile(r"(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE]\d+)?")
AUTO, LOWEST, HIGHEST = "auto", "lowest", "highest"  # values of class_folder, besides a level
LEVEL_PATTERN = re.compile("[1-9][0-9]?")
LEAVE_OUT, TRAIN_ONLY = "leave_out", "train"  # values of rare_classes
SHARE_PATTERN = re.compile(r"0|1|0?\.\d{1,6}|[01]\.0{1,6}")
IN_BUCKET = re.compile("(s3|minio|cos|gs)://.")  # as `storage.base.BUCKETS`, which this room is below
REPLICAS_PATTERN = re.compile(r"\d{1,4}(-\d{1,4})?")
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")  # RFC 1123
# Labels that Kueue reads, of jobs and of pods: https://kueue.sigs.k8s.io/docs/reference/labels-and-annotations
QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
MAX_LABEL_VALUE = 63  # characters
ADVANCED_CHOICES = {
    "conflicting_labels": ("leave_out", "keep"),
    "rare_classes": (LEAVE_OUT, TRAIN_ONLY),
    "odd_images": ("keep", "leave_out"),
    "precision": ("auto", "bfloat16", "float32"),
    "class_weights": ("none", "balanced"),
    "export": ("best", "last"),
    "xla": ("auto", "on", "off"),
    "engine": ENGINES,
    "training_api": ("trainjob", "tfjob"),
    "service_runtime": ("kfp-vision", STOCK_RUNTIME),
}
ADVANCED_RULES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        (
            "depth_multiplier",
            "min_crop_area",
            "min_aspect_ratio",
            "num_epochs_per_decay",
            "learning_rate_decay_factor",
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
            "head_steps",
            "validate_every_steps",
            "early_stopping_patience",
            "save_interval_secs",
            "profile_steps",
            "max_side",
            "min_images_per_class",
            "weight_decay",
            "end_learning_rate",
            "opt_epsilon",
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
    (("known_share",), lambda value: 0 < value <= 1, "be above 0 and at most 1"),
    (("trial_reduction_factor",), lambda value: value == 0 or value >= 2, "be 0 or at least 2"),
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
        opt_epsilon: of `adadelta`, `adam`, `adamw` and `rmsprop`; 0 for the optimizer's own: 0.1 for `rmsprop`, else Keras's
            1e-7. TF-Slim's is 1 for all.
        ftrl_learning_rate_power: of `ftrl`.
        ftrl_initial_accumulator_value: of `ftrl`.
        ftrl_l1: L1 regularization strength of `ftrl`.
        ftrl_l2: L2 regularization strength of `ftrl`.
        rmsprop_momentum: of `rmsprop`.
        rmsprop_decay: of `rmsprop`.
        learning_rate_decay_factor: factor of the schedule `exponential`, every `num_epochs_per_decay` epochs.
        num_epochs_per_decay: epochs between two decays of the schedule `exponential`.
        end_learning_rate: last learning rate of the schedule `polynomial`.
        warmup_steps: steps in which the learning rate rises to `learning_rate`.
        batch_norm_decay: decay of batch norm's moving statistics; lowered by itself for short trainings.
        depth_multiplier: narrows `inception_v1`, `googlenet`, EfficientNet-Lite, and the MobileNets, where it is the `alpha`.
        dropout_keep_prob: share of the features that dropout keeps; 0 for the network's own.
        label_smoothing: share of each label that is spread over all classes; where images have several, towards one half.
        precision: compute type: `bfloat16`, `float32`, or `auto` for what suits the hardware.
        layers_to_freeze: prefixes of layer names, such as `Conv2d,Mixed_3`, whose layers are not trained.
        train_last_blocks_only: train only the layers from the last halving of the resolution on, such as EfficientNet-Lite0's
            last five blocks; those before stay as in the checkpoint.
        freeze_batch_norm: keep the statistics, scales and shifts of batch norm as the checkpoint has them.
        head_steps: steps of the classification head alone before train_steps, on embeddings computed once, at ten times the
            learning rate; 0 for none.
        moving_average_decay: decay of the moving average of the weights that is exported, such as 0.999; 0 for none.
        class_weights: `balanced` gives all classes the same total weight in the loss; where images have several labels, the
            images with a label and those without it.
        validate_every_steps: steps between two validations; 0 for five validations per training.
        early_stopping_patience: validations without improvement after which training stops; 0 for never.
        trial_reduction_factor: in a sweep, trains a trial on only while it is among the best one in so many, 3 for example
            (successive halving); 0 trains every trial to its end.
        export: weights to export: `best` on validation, or `last`; the others are beside them, as `last.keras` or `best.keras`.
        known_share: share of the validation images that the exported model is to call known, that is like its training images.
        name_unknown: name images that are not known `unknown`, in tables of predictions and on the server's page.
        save_interval_secs: seconds between two checkpoints in `checkpoint_dir`.
        deterministic: make results reproducible bit by bit, at some cost in speed.
        xla: compile with XLA: `on`, `off`, or `auto`, which does on one GPU of one worker, if that saves time.
        cache_pictures: keep decoded images in a quarter of the memory, as many as fit; else decode them each time.
        min_crop_area: smallest share of an image that a random crop keeps; where images have several labels, 0.8 instead of the
            default, since a smaller crop would leave labels out.
        min_aspect_ratio: smallest ratio of width to height of a crop.
        max_aspect_ratio: largest ratio of width to height of a crop.
        max_brightness_delta: largest brightness shift, as a share of white.
        lower_saturation: smallest saturation factor.
        upper_saturation: largest saturation factor.
        flip: mirror half of the images at random.
        rand_augment: RandAugment operations per image, such as 2; 0 for none.
        rand_augment_magnitude: magnitude of the RandAugment operations, 0 to 1.
        mixup_alpha: alpha of mixup, which blends pairs of images and their labels, such as 0.2; 0 for none.
        class_folder: folder that is the class: `lowest`, `highest`, a level from the top such as `2`, or `auto` for the lowest
            unless another is as likely.
        min_images_per_class: images that a class needs; 0 for one per split.
        rare_classes: `leave_out` excludes classes with fewer; `train` keeps them in training alone.
        conflicting_labels: `leave_out` excludes images that have two labels; `keep` keeps them under both.
        label_separator: what separates the labels of an image in a cell of an import file, with `labels=several`, such as `;`,
            `space` or `tab`; empty to find it.
        odd_images: `leave_out` leaves out images that are black, blank, blurred, tiny or odd in shape; `keep` counts them.
        max_refused_ratio: largest share of rejected images that is accepted; and of missing images of an import file.
        check_pixels: decode every image completely to check it, not only its header.
        max_side: longest side in pixels that images are shrunk to; 0 for no limit.
        name_encoding: encoding of the names in an archive that does not say it, such as `gbk`; empty to find it.
        store_wait_seconds: seconds to wait for a store that is unreachable or busy.
        collected_uri: folder that the server of the deployed model collects its answers in: with `skip_unchanged`, a drift that
            `drift_detection` finds there trains again; empty for none.
        versions_kept: versions that a model repository keeps; 0 for all, and never fewer than the newest and the one before.
        engine: what computes the model's answers wherever it is loaded: OpenVINO, in bfloat16 where the processor is fast at
            it; OpenVINO in float32; or TensorFlow. `auto` takes OpenVINO without a GPU, and TensorFlow with one.
        service_runtime: serving runtime of KServe: `kfp-vision`, our server, or `tensorflow`, the stock one.
        service_image: container image of our server; empty for `kfp-vision-serve`, for `kfp-vision` where only TensorFlow
            computes the model, or with GPUs for `kfp-vision-gpu`, from the registry of the stages.
        service_repository: bucket folder to which the model is copied, for KServe to read; empty for the artifact itself.
        service_account: Kubernetes service account that KServe reads the model with.
        service_namespace: namespace of the InferenceService; empty for that of the run.
        service_gpus: GPUs per pod.
        service_resources: Kubernetes quantities by resource, such as `{"cpu": "2", "memory": "4Gi"}`, or such under `requests`
            and `limits`.
        service_replicas: number of pods, or a range such as `1-3`; empty to leave it.
        service_timeout: seconds that a request may take, with Knative or a Gateway API; 0 to leave it.
        service_collect: share of answers that the pods keep in `collected_uri`, such as `0.1`; `0` for none, empty to leave it.
        service_wait_seconds: seconds to wait until the InferenceService is ready.
        service_rollback: go back to the previous version if the new one does not become ready; else leave it, for inspection.
        runtime_version: version of TensorFlow Serving for `service_runtime=tensorflow`; empty to leave it.
        canary_percent: percentage of the requests that go to the new version; the others go to the one before.
        check_nodes: check that a node of the cluster can run the training; false for autoscalers that add nodes on request.
        beat_largest_class: reject a model that is no better than always predicting the largest class, or of several labels,
            than chance.
        compare_with_deployed: reject a model that is worse than the deployed one. Set it to false once if the deployed model
            was trained on the held-out images, after another `validation_ratio` for example.
        profile_steps: steps of which TensorBoard shows a profile; 0 for none.
        training_api: what starts the workers on a cluster: `trainjob` of Kubeflow Trainer, or `tfjob` of the training operator.
        training_runtime: TrainingRuntime that a `trainjob` runs on, of manifests/training or a copy of it.
        training_queue: Kueue's queue for the job of the workers; empty for none.
        training_priority: priority class of the workers: of Kueue with a queue, else of the pods of a `tfjob`; empty for none.
        seed: seed of all random numbers.
    """

    # optimizers
    momentum: float = 0.9
    weight_decay: float = 0.00004
    adadelta_rho: float = 0.95
    adagrad_initial_accumulator_value: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    opt_epsilon: float = 0.0
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
    train_last_blocks_only: bool = False
    freeze_batch_norm: bool = False
    head_steps: int = 0
    moving_average_decay: float = 0.0
    class_weights: str = "none"
    # training loop
    validate_every_steps: int = 0
    early_stopping_patience: int = 0
    trial_reduction_factor: int = 0
    export: str = "best"
    known_share: float = 0.95
    name_unknown: bool = False
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
    class_folder: str = AUTO
    min_images_per_class: int = 0
    rare_classes: str = LEAVE_OUT
    conflicting_labels: str = "leave_out"
    label_separator: str = ""
    odd_images: str = "keep"
    max_refused_ratio: float = 0.05
    check_pixels: bool = True
    max_side: int = 0
    name_encoding: str = ""
    store_wait_seconds: float = STORE_WAIT_SECONDS
    collected_uri: str = ""
    # deployment
    versions_kept: int = 10
    engine: str = "auto"
    service_runtime: str = "kfp-vision"
    service_image: str = ""
    service_repository: str = ""
    service_account: str = ""
    service_namespace: str = ""
    service_gpus: int = 0
    service_resources: dict[str, Any] = field(default_factory=dict)
    service_replicas: str = ""
    service_timeout: int = 0
    service_collect: str = ""
    service_wait_seconds: float = 600.0
    service_rollback: bool = True
    runtime_version: str = ""
    canary_percent: int = 100
    # other
    check_nodes: bool = True
    beat_largest_class: bool = True
    compare_with_deployed: bool = True
    profile_steps: int = 3
    training_api: str = "trainjob"
    training_runtime: str = "kfp-vision"
    training_queue: str = ""
    training_priority: str = ""
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
        given = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
        for name, value in given.items():
            _check_advanced_type(name, value)
        advanced = cls(**{name: type(ADVANCED_DEFAULTS[name])(value) for name, value in given.items()})
        _check_advanced_rules(asdict(advanced))
        _check_classes(advanced)
        _check_name_encoding(advanced.name_encoding)
        _check_service(advanced)
        _check_training_job(advanced)
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


DEFAULT_ADVANCED = Advanced()
ADVANCED_DEFAULTS: dict[str, Any] = asdict(DEFAULT_ADVANCED)


def _check_advanced_type(name: str, value: Any) -> None:
    if name not in ADVANCED_DEFAULTS:
        raise InputError(
            f"advanced must hold known names only ({', '.join(ADVANCED_DEFAULTS)})",
            name,
            values.suggest_name(name, ADVANCED_DEFAULTS),
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


def _check_classes(advanced: Advanced) -> None:
    given = advanced.class_folder
    if given not in (AUTO, LOWEST, HIGHEST) and not LEVEL_PATTERN.fullmatch(given):
        rule = f"class_folder of advanced must be {AUTO}, {LOWEST}, {HIGHEST} or a level from the top, as text"
        raise InputError(rule, given, 'Set it to "highest", or to "2" for the second folder from the top, say.')
    if advanced.rare_classes != LEAVE_OUT and not advanced.min_images_per_class:
        rule = "rare_classes of advanced must be left out unless min_images_per_class is above 0"
        raise InputError(rule, advanced.rare_classes, "Set min_images_per_class to 10, say.")


def _check_name_encoding(name: str) -> None:
    if name and not values.is_text_codec(name):
        rule = "name_encoding of advanced must be empty or an encoding that Python knows and that extends ASCII"
        raise InputError(rule, name, "Set it to gbk, say.")


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
    _check_collecting(advanced)
    if advanced.runtime_version and advanced.service_runtime != STOCK_RUNTIME:
        rule = "runtime_version of advanced must be left out unless service_runtime=tensorflow"
        remedy = "Leave it out; service_image sets the container image of our server."
        raise InputError(rule, advanced.runtime_version, remedy)


def _check_collecting(advanced: Advanced) -> None:
    share = advanced.service_collect
    if share and not SHARE_PATTERN.fullmatch(share):
        rule = "service_collect of advanced must be a number from 0 to 1 with at most six decimals, as text"
        raise InputError(rule, share, 'Set it to "0.1", say.')
    if not share or not float(share):
        return
    if advanced.service_runtime == STOCK_RUNTIME:
        rule = "service_collect of advanced must be left out with service_runtime=tensorflow, which collects nothing"
        raise InputError(rule, share, "Leave it out, and have KServe's logger write to a bucket.")
    if not IN_BUCKET.match(advanced.collected_uri):
        rule = "service_collect of advanced must have a folder in a bucket as collected_uri, which all pods reach"
        raise InputError(rule, advanced.collected_uri, "Set collected_uri to s3://bucket/collected, say.")


def _check_training_job(advanced: Advanced) -> None:
    for name in ("training_runtime", "training_queue", "training_priority"):
        given = getattr(advanced, name)
        if (given or name == "training_runtime") and not OBJECT_NAME.fullmatch(given):
            rule = f"{name} of advanced must be the name of an object: lower-case letters, digits, - and ."
            raise InputError(rule, given, f"Set it to {ADVANCED_DEFAULTS[name] or 'gpus'}, say.")
    if advanced.training_priority and not advanced.training_queue and advanced.training_api == "trainjob":
        rule = (
            "training_priority of advanced must be left out of a trainjob without a queue, whose pods have that of its runtime"
        )
        remedy = "Set training_queue, or training_runtime to a runtime with a priorityClassName."
        raise InputError(rule, advanced.training_priority, remedy)


def _items(part: Any) -> list[tuple[str, Any]]:
    return list(part.items()) if isinstance(part, dict) else [("", part)]


def _is_quantity(resource: str, value: Any) -> bool:
    return bool(resource and QUANTITY_PATTERN.fullmatch(str(value))) and not isinstance(value, bool)


RESOURCE_SECTIONS = {"requests", "limits"}  # of service_resources


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
