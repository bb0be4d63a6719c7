"""Validation of the form: invalid values are rejected in one line with field, value and remedy."""

import math
from dataclasses import fields as fields_of
from importlib import metadata

import pytest

from kfp_vision.cli.run import form_defaults
from kfp_vision.core import advanced
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import hyperparameter_sweep, image_classification, prepare_records
from kfp_vision.preflight import checks, rules


@pytest.fixture
def fields() -> dict[str, object]:
    """Returns every field of the form at its default, with whole numbers as floats, as KFP passes them."""
    return form_defaults(image_classification)


def error_line(refusal: pytest.ExceptionInfo[InputError]) -> str:
    line = str(refusal.value)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_accepts_the_defaults_of_the_form(fields):
    rules.check_values(fields)


def test_ftrl_is_rejected_for_whole_networks(fields):
    rules.check_values(fields | {"optimizer": "ftrl", "train_last_layer_only": True})
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"optimizer": "ftrl"})
    assert error_line(refusal).endswith("Set train_last_layer_only to true, or optimizer to momentum.")


def test_ftrl_is_rejected_after_steps_of_the_head(fields):
    given = fields | {"optimizer": "ftrl", "train_last_layer_only": True, "recipe": "quick"}
    with pytest.raises(InputError, match=r"head_steps of advanced must be 0 with optimizer=ftrl, .*; got 1000\. Set advanced"):
        rules.check_values(given)
    rules.check_values(given | {"advanced": {"head_steps": 0}})


def test_accepts_other_valid_values(fields):
    value = {
        "validation_ratio": 0,
        "test_ratio": 0.5,
        "images_per_shard": 1,
        "partitions": 100.0,
        "network": "googlenet",
        "batch_size": 1,
        "train_steps": 1,
        "learning_rate": 10,
        "image_size": 32,
        "gpu_count": 0,
        "fine_tune": False,
        "checkpoint_uri": "",
        "learning_rate_schedule": "cosine",
        "optimizer": "adamw",
        "model_name": "My-flowers_2",
        "min_accuracy": 0.99,
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "advanced": {"flip": False, "seed": 3.0, "momentum": 0, "precision": "bfloat16"},
    }
    rules.check_values(fields | value)


@pytest.mark.parametrize(
    ("field", "value", "shown", "remedy"),
    [
        ("network", "resnet", "resnet", "Choose one, say inception_v1."),
        ("network", ["inception_v1"], "['inception_v1']", "Choose one, say inception_v1."),
        ("optimizer", "SGD", "SGD", "Choose one, say adadelta."),
        ("learning_rate_schedule", "", '""', "Choose one, say exponential."),
        ("deploy_to", 5, "5", 'Write it as JSON, such as "somewhere".'),
        ("log_uri", 5, "5", 'Write it as JSON, such as "somewhere".'),
        ("checkpoint_dir", ["logs"], "['logs']", 'Write it as JSON, such as "somewhere".'),
        ("validation_ratio", -0.1, "-0.1", "Set it to 0.2, say."),
        ("validation_ratio", 1, "1", "Set it to 0.2, say."),
        ("validation_ratio", math.nan, "nan", "Set it to 0.2, say."),
        ("validation_ratio", True, "True", "Set it to 0.2, say."),
        ("validation_ratio", "0.2", "0.2", "Set it to 0.2, say."),
        ("test_ratio", 20, "20", "Set it to 0.2, say."),
        ("test_ratio", None, "None", "Set it to 0.2, say."),
        ("test_ratio", 0.8, "1.0", "Leave some images to train on: 0.2 and 0.1, say."),
        ("min_accuracy", 95, "95", "Set it to 0.2, say."),
        ("min_accuracy", math.inf, "inf", "Set it to 0.2, say."),
        ("images_per_shard", 0, "0", "Set it to 1000, say."),
        ("images_per_shard", 0.5, "0.5", "Set it to 1000, say."),
        ("partitions", 0, "0", "Set it to 4, say."),
        ("partitions", 2.5, "2.5", "Set it to 4, say."),
        ("partitions", 100000, "100000", "Set it to 4, say."),
        ("partitions", "four", "four", "Set it to 4, say."),
        ("batch_size", -16, "-16", "Set it to 16, say."),
        ("batch_size", 2.5, "2.5", "Set it to 16, say."),
        ("batch_size", 10**12, "1000000000000", "Set it to 16, say."),
        ("batch_size", True, "True", "Set it to 16, say."),
        ("train_steps", math.nan, "nan", "Set it to 6000, say."),
        ("train_steps", math.inf, "inf", "Set it to 6000, say."),
        ("train_steps", "many", "many", "Set it to 6000, say."),
        ("learning_rate", 0, "0", "Set it to 0.0025, say."),
        ("learning_rate", -0.01, "-0.01", "Set it to 0.0025, say."),
        ("learning_rate", math.nan, "nan", "Set it to 0.0025, say."),
        ("learning_rate", math.inf, "inf", "Set it to 0.0025, say."),
        ("gpu_count", -1, "-1", "Set it to 1, say."),
        ("gpu_count", 0.5, "0.5", "Set it to 1, say."),
        ("image_size", 10**6, "1000000", "Set it to 224, say."),
        ("train_steps", 1e300, "1e+300", "Set it to 6000, say."),
        ("image_size", 31, "31", "Set it to 224, say."),
        ("image_size", -224, "-224", "Set it to 224, say."),
        ("image_size", 224.5, "224.5", "Set it to 224, say."),
        ("image_size", math.nan, "nan", "Set it to 224, say."),
        ("image_size", "large", "large", "Set it to 224, say."),
        ("check_images", "false", "false", "Write it as JSON, such as true."),
        ("fine_tune", 1, "1", "Write it as JSON, such as true."),
        ("train_last_layer_only", 0.0, "0.0", "Write it as JSON, such as true."),
        ("model_name", "", '""', "Choose a name such as flowers."),
        ("model_name", "my flowers", "my flowers", "Choose a name such as flowers."),
        ("model_name", "../flowers", "../flowers", "Choose a name such as flowers."),
        ("model_name", "-", "-", "Choose a name such as flowers."),
        ("node_selector", ["gpu"], "['gpu']", 'Write it as JSON, such as {"pool": "gpu"}.'),
        ("tolerations", {"key": "gpu"}, "{'key': 'gpu'}", "Write it as JSON, such as [{"),
        ("advanced", ["momentum"], "['momentum']", 'Write it as JSON, such as {"momentum": 0.9}.'),
    ],
)
def test_an_invalid_value_is_rejected_with_its_field_and_a_remedy(fields, field, value, shown, remedy):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {field: value})
    line = error_line(refusal)
    rule, _, remainder = line.partition("; got ")
    assert field in rule
    assert remainder.startswith(f"{shown}. ")
    assert remedy in remainder


def test_ratios_without_held_out_images_are_rejected(fields):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"validation_ratio": 0.0, "test_ratio": 0.0})
    assert error_line(refusal) == (
        "error: validation_ratio or test_ratio must be above 0, to measure the model; got 0 for both. Set one to 0.2."
    )


@pytest.mark.parametrize(("validation_ratio", "test_ratio"), [(0.5, 0.5), (0.9, 0.2)])
def test_ratios_without_training_images_are_rejected(fields, validation_ratio, test_ratio):
    with pytest.raises(InputError, match="validation_ratio and test_ratio together must stay below 1; got 1") as refusal:
        rules.check_values(fields | {"validation_ratio": validation_ratio, "test_ratio": test_ratio})
    error_line(refusal)


def test_fine_tuning_without_a_checkpoint_is_rejected(fields):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": ""})
    assert error_line(refusal) == (
        'error: fine_tune=true must have a checkpoint to start from; got "". '
        "Set checkpoint_uri=imagenet, or fine_tune to false."
    )


def test_the_published_checkpoint_of_another_network_is_rejected_by_its_address(fields):
    default = form_defaults(image_classification)["checkpoint_uri"]
    rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": default})
    rules.check_values(fields | {"fine_tune": False, "checkpoint_uri": default, "network": "resnet50"})
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": default, "network": "resnet50"})
    assert error_line(refusal) == (
        f"error: the checkpoint must fit network=resnet50; got {default}, which is inception_v1. "
        "Set checkpoint_uri=imagenet, or network=inception_v1, or fine_tune to false."
    )


def test_imagenet_weights_that_are_not_published_are_rejected(fields):
    with pytest.raises(InputError, match="must name weights that are published; got network=googlenet") as refusal:
        rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": "imagenet", "network": "googlenet"})
    assert error_line(refusal).endswith(
        "Set checkpoint_uri to a checkpoint of googlenet, such as Caffe's weights as an .npz, or fine_tune to false."
    )


def test_imagenet_weights_in_a_package_may_be_missing_where_a_form_is_filled_in(fields, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: pytest.fail(f"looks for {name}"))
    rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": "imagenet", "network": "efficientnet_lite0"})


def test_an_unsupported_depth_multiplier_is_rejected(fields):
    narrow = {"fine_tune": False, "advanced": {"depth_multiplier": 0.5}}
    rules.check_values(fields | narrow | {"network": "mobilenet_v2"})
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | narrow | {"network": "vgg16"})
    assert error_line(refusal) == (
        "error: depth_multiplier of advanced must be 1 for network=vgg16; got 0.5. Leave it out, or choose a network that "
        "comes in other widths (inception_v1, googlenet, mobilenet_v2, mobilenet_v3_large, efficientnet_lite0, "
        "efficientnet_lite1, efficientnet_lite2, efficientnet_lite3, efficientnet_lite4)."
    )


def test_imagenet_weights_of_another_width_are_rejected(fields):
    imagenet = {"fine_tune": True, "checkpoint_uri": "imagenet", "network": "mobilenet_v2"}
    rules.check_values(fields | imagenet)
    with pytest.raises(InputError, match=r"advanced must be 1 for checkpoint_uri=imagenet; got 0\.5"):
        rules.check_values(fields | imagenet | {"advanced": {"depth_multiplier": 0.5}})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("momentun", 0.9, "Did you mean momentum?"),
        ("weight-decay", 0.1, "Did you mean weight_decay?"),
        ("colour", "red", "Take one of these, or leave it out."),
        ("momentum", "0.9", "Set it to 0.9, say."),
        ("momentum", True, "Set it to 0.9, say."),
        ("momentum", math.nan, "Set it to 0.9, say."),
        ("momentum", None, "Set it to 0.9, say."),
        ("momentum", 1.5, "Set it to 0.9, say."),
        ("label_smoothing", -0.1, "Set it to 0.0, say."),
        ("batch_norm_decay", 1.1, "Set it to 0.9997, say."),
        ("weight_decay", -0.1, "Set it to 4e-05, say."),
        ("warmup_steps", 1.5, "Set it to 0, say."),
        ("warmup_steps", -1, "Set it to 0, say."),
        ("rand_augment", -1, "Set it to 0, say."),
        ("rand_augment_magnitude", 1.1, "Set it to 0.3, say."),
        ("mixup_alpha", -0.1, "Set it to 0.0, say."),
        ("seed", -1, "Set it to 0, say."),
        ("seed", math.inf, "Set it to 0, say."),
        ("seed", False, "Set it to 0, say."),
        ("flip", 1, "Set it to True, say."),
        ("flip", "true", "Set it to True, say."),
        ("precision", 16, "Set it to 'auto', say."),
        ("precision", "float16", "Leave it at auto."),
        ("conflicting_labels", True, "Set it to 'leave_out', say."),
        ("conflicting_labels", "both", "Leave it at leave_out."),
        ("depth_multiplier", 0, "Set it to 1.0, say."),
        ("num_epochs_per_decay", 0, "Set it to 2.0, say."),
        ("min_crop_area", 0, "Set it to 0.3, say."),
        ("min_crop_area", 1.5, "Set it to 0.3, say."),
        ("max_refused_ratio", -0.5, "Set it to 0.05, say."),
        ("adam_beta2", 1.0, "Set it to 0.999, say."),
        ("rmsprop_decay", -0.9, "Set it to 0.9, say."),
        ("opt_epsilon", -1.0, "Set it to 0.0, say."),
        ("ftrl_learning_rate_power", 0.5, "Set it to -0.5, say."),
        ("seed", 1 << 32, "Set it to 0, say."),
        ("known_share", 0, "Set it to 0.95, say."),
        ("known_share", 1.01, "Set it to 0.95, say."),
        ("name_unknown", "yes", "Set it to False, say."),
        ("min_aspect_ratio", 2.0, "Set both, the smaller one first."),
        ("upper_saturation", 0.4, "Set both, the smaller one first."),
    ],
)
def test_an_invalid_value_of_advanced_is_rejected_with_its_name_and_a_remedy(fields, name, value, remedy):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"advanced": {name: value}})
    line = error_line(refusal)
    assert name in line
    assert " of advanced must " in line or "advanced must hold known names only" in line
    assert line.endswith(remedy)


@pytest.mark.parametrize(
    "value",
    [
        {"cpu": "2", "memory": "4Gi"},
        {"cpu": 2.0, "memory": 4e9},
        {"cpu": "500m", "nvidia.com/gpu": 1},
        {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1.5Gi"}},
        {},
    ],
)
def test_service_resources_accept_kubernetes_quantities(value):
    assert advanced.deployment_settings({"service_resources": value})["service_resources"] == value


def test_service_resources_are_both_requests_and_limits():
    resources = {"cpu": "2", "memory": "4Gi"}
    assert advanced.container_resources({"cpu": 2.0, "memory": "4Gi"}) == {"requests": resources, "limits": resources}
    parts = {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}
    assert advanced.container_resources(parts) == parts
    assert advanced.container_resources({}) == {}


@pytest.mark.parametrize(
    "value",
    [
        {"cpu": "two"},
        {"memory": "4 GB"},
        {"cpu": True},
        {"requests": {"cpu": "1"}},
        {"requests": "1", "limits": "2"},
        {"": "1"},
    ],
)
def test_invalid_service_resources_are_rejected(value):
    with pytest.raises(
        InputError, match=r"service_resources of advanced must map resources to Kubernetes quantities, or .*; got"
    ):
        advanced.Advanced.parse({"service_resources": value})


@pytest.mark.parametrize(("value", "pods"), [("", None), ("2", (2, 2)), ("1-3", (1, 3)), ("0-3", (0, 3))])
def test_service_replicas_are_a_number_or_a_range(value, pods):
    assert advanced.replica_range(advanced.Advanced.parse({"service_replicas": value}).service_replicas) == pods


@pytest.mark.parametrize("share", ["", "0", "0.1", "1", "1.0", ".25", "0.000001"])
def test_pods_may_collect_a_share_of_their_answers(share):
    given = {"service_collect": share, "collected_uri": "gs://bucket/collected"}
    assert advanced.Advanced.parse(given).service_collect == share


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *[
            ({"service_collect": share}, r"must be a number from 0 to 1 .*; got .*\. Set it to")
            for share in ("2", "-1", "1e-3", "nan", "1.5")
        ],
        ({"service_collect": "0.1"}, "must have a folder in a bucket as collected_uri"),
        ({"service_collect": "0.1", "collected_uri": "collected"}, "must have a folder in a bucket as collected_uri"),
        ({"service_collect": "1", "service_runtime": "tensorflow"}, "must be left out with service_runtime=tensorflow"),
    ],
)
def test_pods_that_cannot_collect_are_rejected(given, message):
    with pytest.raises(InputError, match=f"service_collect of advanced {message}"):
        advanced.Advanced.parse(given)


@pytest.mark.parametrize("value", ["3-1", "0", "0-0", "1-", "-3", "one", "1-2-3", "1.5", "1 -3"])
def test_invalid_service_replicas_are_rejected(value):
    with pytest.raises(
        InputError, match=r"service_replicas of advanced must be a number of pods, or a range .*; got .*\. Set it to 1-3, say"
    ):
        advanced.Advanced.parse({"service_replicas": value})


def test_a_runtime_version_is_rejected_for_our_server():
    advanced.Advanced.parse({"runtime_version": "2.14.1", "service_runtime": "tensorflow"})
    with pytest.raises(
        InputError, match=r"runtime_version of advanced must be left out unless service_runtime=tensorflow; got 2\.14\.1"
    ):
        advanced.Advanced.parse({"runtime_version": "2.14.1"})


def test_advanced_has_defaults_and_converts_number_types():
    parsed = advanced.Advanced.parse({"seed": 3.0, "momentum": 0, "flip": False})
    assert parsed.seed == 3
    assert isinstance(parsed.seed, int)
    assert isinstance(parsed.momentum, float)
    assert parsed.flip is False
    assert parsed.weight_decay == 0.00004
    assert parsed.changed() == {"seed": 3, "momentum": 0.0, "flip": False}


def test_every_rule_of_advanced_refers_to_a_field():
    field_names = {name for names, _, _ in advanced.ADVANCED_RULES for name in names}
    field_names |= {name for pair in advanced.ADVANCED_RANGES for name in pair}
    field_names |= {*advanced.ADVANCED_CHOICES, *advanced.PREPARATION_ADVANCED, *checks.ADVANCED_NOT_IN_RECIPE}
    assert field_names <= {field.name for field in fields_of(advanced.Advanced)}


def test_missing_data_is_rejected_before_reading(fields, tmp_path):
    scratch = fields | {"fine_tune": False}
    with pytest.raises(InputError, match="images_uri must name something that exists; got /no/such/photos") as refusal:
        checks.check_run(scratch | {"images_uri": "/no/such/photos"})
    error_line(refusal)
    with pytest.raises(InputError, match=r"test_image_uri must name something that exists; got /no/such/1\.jpg") as refusal:
        checks.check_run(scratch | {"images_uri": str(tmp_path), "test_image_uri": "/no/such/1.jpg"})
    error_line(refusal)


@pytest.mark.parametrize("field", ["log_uri", "checkpoint_dir"])
def test_a_read_only_output_address_is_rejected(fields, tmp_path, field):
    valid = fields | {"fine_tune": False, "images_uri": str(tmp_path)}
    checks.check_run(valid | {field: str(tmp_path / "logs")})
    with pytest.raises(InputError, match=f"{field} must name a folder or a bucket folder to write to; got https://") as refusal:
        checks.check_run(valid | {field: "https://example.org/logs"})
    error_line(refusal)


def test_accepts_a_test_image_in_an_archive(fields, tmp_path):
    (tmp_path / "photos.tgz").write_bytes(b"only its place is looked at")
    uri = f"{tmp_path}/photos.tgz#daisy/1.jpg"
    checks.check_run(fields | {"fine_tune": False, "images_uri": str(tmp_path), "test_image_uri": uri})


SAMPLE = form_defaults(prepare_records) | {"images_uri": "sample"}


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("task", "detect", "task must be one of classification, detection; got detect. Choose one, say classification."),
        ("validation_ratio", 1.5, "validation_ratio must be at least 0 and below 1; got 1.5. Set it to 0.2, say."),
        ("images_per_shard", 0, "images_per_shard must be a whole number above 0; got 0. Set it to 1000, say."),
        ("partitions", 101, "partitions must be a whole number from 1 to 100; got 101. Set it to 4, say."),
        ("check_images", "no", "check_images must be true or false; got no. Write it as JSON, such as true."),
        ("advanced", [], "advanced must be a dictionary; got []. Write it as JSON, such as"),
        ("advanced", {"max_side": -1}, "max_side of advanced must not be negative; got -1. Set it to 0, say."),
        ("images_uri", "", 'images_uri must name the location of the data; got "". Set it to'),
    ],
)
def test_an_invalid_value_of_prepare_records_is_rejected(field, value, line):
    checks.check_preparation(SAMPLE)
    with pytest.raises(InputError) as refusal:
        checks.check_preparation(SAMPLE | {field: value})
    assert error_line(refusal).startswith(f"error: {line}")


def test_prepare_records_needs_no_held_out_images():
    checks.check_preparation(SAMPLE | {"validation_ratio": 0.0, "advanced": {"max_side": 100}})


def sweep_fields() -> dict[str, object]:
    return form_defaults(hyperparameter_sweep) | {"images_uri": "sample", "fine_tune": False}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"networks": ["resnet50", "auto"]}, "each of networks must be one of inception_v1, "),
        ({"optimizers": ["SGD"]}, "each of optimizers must be one of adadelta, "),
        ({"batch_sizes": [16, 1.5]}, "each of batch_sizes must be a whole number from 1 to 65536; got 1.5. Set it to 16, say."),
        ({"learning_rates": [0.1, 0]}, "each of learning_rates must be above 0; got 0. Set it to 0.0025, say."),
        (
            {"batch_sizes": [16, 15], "gpu_count": 1, "workers": 2},
            "each of batch_sizes must be a multiple of the 2 devices of ",
        ),
        ({"learning_rate_schedule": "never"}, "learning_rate_schedule must be one of "),
    ],
)
def test_an_invalid_item_of_a_sweep_is_rejected_with_the_list_that_holds_it(given, line):
    rules.check_sweep_values(sweep_fields())
    with pytest.raises(InputError) as refusal:
        rules.check_sweep_values(sweep_fields() | given)
    assert error_line(refusal).startswith(f"error: {line}")


@pytest.mark.parametrize("changes", [{}, {"train_last_layer_only": True, "advanced": {"head_steps": 5}}])
def test_ftrl_is_rejected_for_whole_networks_in_a_sweep_with_the_list_that_holds_it(changes):
    with pytest.raises(InputError) as refusal:
        rules.check_sweep_values(sweep_fields() | {"optimizers": ["sgd", "ftrl"]} | changes)
    assert error_line(refusal).endswith(", or take ftrl out of optimizers.")


@pytest.mark.parametrize(
    ("check", "form"),
    [
        (checks.check_run, lambda: form_defaults(image_classification) | {"images_uri": "sample", "fine_tune": False}),
        (checks.check_preparation, lambda: SAMPLE),
        (checks.check_sweep, sweep_fields),
    ],
)
def test_the_exclusion_list_is_validated_by_the_check(tmp_path, check, form):
    listing = tmp_path / "list.csv"
    fields = form() | {"leave_out_uri": str(listing)}
    with pytest.raises(InputError, match="leave_out_uri must name something that exists; got ") as refusal:
        check(fields)
    error_line(refusal)
    listing.write_text("uri\n1.jpg\n")
    with pytest.raises(InputError, match="leave_out_uri must have a column path; got uri in ") as refusal:
        check(fields)
    error_line(refusal)
    listing.write_text("path,leave_out\n1.jpg,perhaps\n")
    with pytest.raises(
        InputError, match=r"column leave_out of leave_out_uri must be yes or no; got perhaps in .*, line 2\."
    ) as refusal:
        check(fields)
    error_line(refusal)
    with pytest.raises(InputError, match="leave_out_uri must be text; got ") as refusal:
        check(fields | {"leave_out_uri": ["1.jpg"]})
    error_line(refusal)
    listing.write_text("path\n1.jpg\n")
    check(fields)


@pytest.mark.parametrize(
    ("check", "form"),
    [
        (checks.check_run, lambda: form_defaults(image_classification) | {"images_uri": "sample", "fine_tune": False}),
        (checks.check_preparation, lambda: SAMPLE),
        (checks.check_sweep, sweep_fields),
    ],
)
def test_the_list_of_labels_is_validated_by_the_check(tmp_path, check, form):
    listing = tmp_path / "labels.csv"
    fields = form() | {"labels_uri": str(listing)}
    with pytest.raises(InputError, match="labels_uri must name something that exists; got ") as refusal:
        check(fields)
    error_line(refusal)
    listing.write_text("path,label\n,bellcup\n")
    with pytest.raises(InputError, match=r"must give an image and its label; got no URI in .*, line 2\.") as refusal:
        check(fields)
    error_line(refusal)
    with pytest.raises(InputError, match="labels_uri must be text; got ") as refusal:
        check(fields | {"labels_uri": 1})
    error_line(refusal)
    listing.write_text("path,label\n1.jpg,?\n")
    check(fields)


def test_labels_of_people_are_refused_for_boxes():
    with pytest.raises(InputError) as refusal:
        rules.check_preparation_values(form_defaults(prepare_records) | {"labels_uri": "labels.csv", "task": "detection"})
    assert error_line(refusal).startswith("error: labels_uri must be empty unless task=classification; got labels.csv.")


def test_the_lines_of_an_import_file_are_validated_by_the_check(tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("1.jpg,cat\n2.jpg,cat,sometimes\n")
    with pytest.raises(InputError, match=r"got the ml_use sometimes \(not training, validation or test\) in .*, line 2\."):
        checks.check_preparation(SAMPLE | {"images_uri": str(listing)})
    listing.write_text("1.jpg,cat\n2.jpg,cat,test\n")
    checks.check_preparation(SAMPLE | {"images_uri": str(listing)})


def test_the_location_of_the_lists_is_not_part_of_the_recipe(fields, tmp_path):
    (tmp_path / "list.csv").write_text("path\n1.jpg\n")
    parsed = fields | {"images_uri": "sample", "fine_tune": False}
    with_a_list = checks.check_run(parsed | {"leave_out_uri": str(tmp_path / "list.csv")})
    without = checks.check_run(parsed)
    assert with_a_list._replace(form=without.form) == without
    (tmp_path / "labels.csv").write_text("path,label\n1.jpg,bellcup\n")
    with_labels = checks.check_run(parsed | {"labels_uri": str(tmp_path / "labels.csv")})
    assert with_labels._replace(form=without.form) == without
    assert with_a_list.recipe != checks.check_run(parsed | {"train_steps": 1}).recipe


def test_several_labels_are_refused_for_boxes_and_unknown_values_everywhere(fields):
    rules.check_values(fields | {"labels": "several", "advanced": {"label_separator": ";"}})
    for pipeline, check in ((image_classification, rules.check_values), (hyperparameter_sweep, rules.check_sweep_values)):
        with pytest.raises(InputError) as refusal:
            check(form_defaults(pipeline) | {"labels": "many"})
        assert error_line(refusal).startswith("error: labels must be one of one, several; got many.")
    form = form_defaults(prepare_records)
    rules.check_preparation_values(form | {"labels": "several"})
    with pytest.raises(InputError) as refusal:
        rules.check_preparation_values(form | {"labels": "several", "task": "detection"})
    assert error_line(refusal).startswith("error: labels must be one unless task=classification; got several.")


@pytest.mark.parametrize("labels", ["one", "several"])
def test_a_separator_of_labels_needs_several_of_them(fields, labels):
    form = fields | {"labels": labels, "advanced": {"label_separator": "space"}}
    if labels == "several":
        assert rules.check_values(form).label_separator == "space"
        return
    with pytest.raises(InputError) as refusal:
        rules.check_values(form)
    assert error_line(refusal).endswith("Leave it out, or set labels to several.")


def test_the_recipe_of_a_run_with_one_label_is_that_of_before_the_field_labels(fields):
    before = "84f65830fa7d19c186f2b46ff76cd98581d88caace043e726cfe43c1379137b7"  # a younger field belongs in LATER_FIELDS
    assert checks._recipe(fields, rules.check_values(fields)) == before
    several = fields | {"labels": "several"}
    hashes = {
        checks._recipe(form, rules.check_values(form)) for form in (several, several | {"advanced": {"label_separator": ";"}})
    }
    assert len(hashes | {before}) == 3


@pytest.mark.parametrize("workers", [0, 65, 1.5, "2", True])
def test_the_number_of_workers_is_a_small_whole_number(fields, workers):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"workers": workers})
    assert error_line(refusal) == f"error: workers must be a whole number from 1 to 64; got {workers}. Set it to 2, say."


def test_all_devices_of_all_workers_share_a_batch_evenly(fields):
    rules.check_values(fields | {"workers": 4.0, "gpu_count": 2.0, "batch_size": 24})
    rules.check_values(
        fields | {"workers": 1, "gpu_count": 3, "batch_size": 16}
    )  # the training says it, where GPUs are missing
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"workers": 4.0, "gpu_count": 2.0, "batch_size": 20})
    assert error_line(refusal).endswith("of the 8 devices of all workers, which share every batch; got 20. Set it to 24, say.")


def test_several_workers_without_gpus_are_not_compiled_with_xla(fields):
    several = fields | {"workers": 2.0, "batch_size": 16}
    rules.check_values(several | {"gpu_count": 0, "advanced": {"xla": "auto"}})
    rules.check_values(several | {"gpu_count": 1, "advanced": {"xla": "on"}})
    with pytest.raises(InputError) as refusal:
        rules.check_values(several | {"gpu_count": 0, "advanced": {"xla": "on"}})
    rule = "xla of advanced must not be on for several workers without GPUs, where XLA cannot compile sums over machines"
    assert error_line(refusal) == f"error: {rule}; got workers=2. Leave it out, or set workers to 1."


def test_the_number_of_workers_is_not_part_of_the_recipe_and_the_stage_that_waits_for_them_takes_no_gpu(fields):
    parsed = fields | {"images_uri": "sample", "fine_tune": False, "gpu_count": 2}
    alone, together = (checks.check_run(parsed | {"workers": workers}) for workers in (1.0, 2.0))
    assert (alone.gpus, together.gpus) == ("2", "0")
    assert alone.recipe == together.recipe


def test_trials_are_compared_through_a_bucket_on_a_cluster_and_anywhere_else_on_one_machine(monkeypatch):
    form, compared = {"checkpoint_dir": ""}, advanced.Advanced.parse({"trial_reduction_factor": 3})
    checks._check_comparison(form, compared)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KFP_POD_NAME", "check-sweep")
    checks._check_comparison(form, advanced.Advanced())
    checks._check_comparison({"checkpoint_dir": "s3://bucket/checkpoints"}, compared)
    with pytest.raises(InputError) as refusal:
        checks._check_comparison(form, compared)
    line = "error: checkpoint_dir must be a folder in a bucket for trial_reduction_factor on a cluster, where the trials are"
    assert error_line(refusal).startswith(line)


@pytest.mark.parametrize("value", [1, -3])
def test_a_factor_that_ends_no_trial_is_rejected(value):
    with pytest.raises(InputError) as refusal:
        advanced.Advanced.parse({"trial_reduction_factor": value})
    assert error_line(refusal) == (
        f"error: trial_reduction_factor of advanced must be 0 or at least 2; got {value}. Set it to 0, say."
    )
