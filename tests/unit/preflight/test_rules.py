"""Wrong values of the form are refused in one line, with the field, the value and a remedy; right ones pass."""

import math
from dataclasses import fields as fields_of

import pytest

from kfp_vision.cli.run import form_defaults
from kfp_vision.core import advanced
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import hyperparameter_sweep, image_classification, prepare_records
from kfp_vision.preflight import checks, rules


@pytest.fixture
def fields() -> dict[str, object]:
    """Every field of the form at its default, with numbers as KFP hands them out: whole ones as floats."""
    return form_defaults(image_classification)


def line_of(refusal: pytest.ExceptionInfo[InputError]) -> str:
    line = str(refusal.value)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_the_defaults_of_the_form_pass(fields):
    rules.check_values(fields)


def test_what_may_be_written_for_them_passes(fields):
    given = {
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
    rules.check_values(fields | given)


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
def test_a_wrong_value_is_refused_with_its_field_and_a_remedy(fields, field, value, shown, remedy):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {field: value})
    line = line_of(refusal)
    rule, _, rest = line.partition("; got ")
    assert field in rule
    assert rest.startswith(f"{shown}. ")
    assert remedy in rest


def test_nothing_held_out_is_refused(fields):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"validation_ratio": 0.0, "test_ratio": 0.0})
    assert line_of(refusal) == (
        "error: validation_ratio or test_ratio must be above 0, to measure the model; got 0 for both. Set one to 0.2."
    )


@pytest.mark.parametrize(("validation_ratio", "test_ratio"), [(0.5, 0.5), (0.9, 0.2)])
def test_everything_held_out_is_refused(fields, validation_ratio, test_ratio):
    with pytest.raises(InputError, match="validation_ratio and test_ratio together must stay below 1; got 1") as refusal:
        rules.check_values(fields | {"validation_ratio": validation_ratio, "test_ratio": test_ratio})
    line_of(refusal)


def test_fine_tuning_without_a_checkpoint_is_refused(fields):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": ""})
    assert line_of(refusal) == (
        'error: fine_tune=true must have a checkpoint to start from; got "". '
        "Set checkpoint_uri=imagenet, or fine_tune to false."
    )


def test_the_published_checkpoint_of_another_network_is_refused_by_its_address(fields):
    default = form_defaults(image_classification)["checkpoint_uri"]
    rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": default})
    rules.check_values(fields | {"fine_tune": False, "checkpoint_uri": default, "network": "resnet50"})
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": default, "network": "resnet50"})
    assert line_of(refusal) == (
        f"error: the checkpoint must fit network=resnet50; got {default}, which is inception_v1. "
        "Set checkpoint_uri=imagenet, or network=inception_v1, or fine_tune to false."
    )


def test_imagenet_weights_that_nobody_publishes_are_refused(fields):
    with pytest.raises(InputError, match="must name weights that are published; got network=googlenet") as refusal:
        rules.check_values(fields | {"fine_tune": True, "checkpoint_uri": "imagenet", "network": "googlenet"})
    line_of(refusal)


def test_a_width_that_a_network_does_not_come_in_is_refused(fields):
    narrow = {"fine_tune": False, "advanced": {"depth_multiplier": 0.5}}
    rules.check_values(fields | narrow | {"network": "mobilenet_v2"})
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | narrow | {"network": "vgg16"})
    assert line_of(refusal) == (
        "error: depth_multiplier of advanced must be 1 for network=vgg16; got 0.5. Leave it out, or choose a network that "
        "comes in other widths (inception_v1, googlenet, mobilenet_v2, mobilenet_v3_large)."
    )


def test_imagenet_weights_of_another_width_are_refused(fields):
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
        ("opt_epsilon", 0.0, "Set it to 1.0, say."),
        ("ftrl_learning_rate_power", 0.5, "Set it to -0.5, say."),
        ("seed", 1 << 32, "Set it to 0, say."),
        ("min_aspect_ratio", 2.0, "Set both, the smaller one first."),
        ("upper_saturation", 0.4, "Set both, the smaller one first."),
    ],
)
def test_a_wrong_value_of_advanced_is_refused_with_its_name_and_a_remedy(fields, name, value, remedy):
    with pytest.raises(InputError) as refusal:
        rules.check_values(fields | {"advanced": {name: value}})
    line = line_of(refusal)
    assert name in line
    assert " of advanced must " in line or "advanced must hold known names only" in line
    assert line.endswith(remedy)


@pytest.mark.parametrize(
    "given",
    [
        {"cpu": "2", "memory": "4Gi"},
        {"cpu": 2.0, "memory": 4e9},
        {"cpu": "500m", "nvidia.com/gpu": 1},
        {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1.5Gi"}},
        {},
    ],
)
def test_resources_of_a_service_are_taken_as_kubernetes_writes_them(given):
    assert advanced.deployment_settings({"service_resources": given})["service_resources"] == given


def test_resources_of_a_service_are_requested_and_are_the_limit():
    both = {"cpu": "2", "memory": "4Gi"}
    assert advanced.container_resources({"cpu": 2.0, "memory": "4Gi"}) == {"requests": both, "limits": both}
    parts = {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}
    assert advanced.container_resources(parts) == parts
    assert advanced.container_resources({}) == {}


@pytest.mark.parametrize(
    "given",
    [
        {"cpu": "two"},
        {"memory": "4 GB"},
        {"cpu": True},
        {"requests": {"cpu": "1"}},
        {"requests": "1", "limits": "2"},
        {"": "1"},
    ],
)
def test_resources_that_are_no_quantities_are_refused(given):
    with pytest.raises(
        InputError, match=r"service_resources of advanced must map resources to Kubernetes quantities, or .*; got"
    ):
        advanced.Advanced.parse({"service_resources": given})


@pytest.mark.parametrize(("given", "pods"), [("", None), ("2", (2, 2)), ("1-3", (1, 3)), ("0-3", (0, 3))])
def test_replicas_are_a_number_or_the_least_and_the_most(given, pods):
    assert advanced.replica_range(advanced.Advanced.parse({"service_replicas": given}).service_replicas) == pods


@pytest.mark.parametrize("given", ["3-1", "0", "0-0", "1-", "-3", "one", "1-2-3", "1.5", " 1"])
def test_replicas_that_are_none_are_refused(given):
    with pytest.raises(
        InputError, match=r"service_replicas of advanced must be a number of pods, or a range .*; got .*\. Set it to 1-3, say"
    ):
        advanced.Advanced.parse({"service_replicas": given})


def test_a_version_of_a_runtime_is_refused_for_our_server():
    advanced.Advanced.parse({"runtime_version": "2.14.1", "service_runtime": "tensorflow"})
    with pytest.raises(
        InputError, match=r"runtime_version of advanced must be left out unless service_runtime=tensorflow; got 2\.14\.1"
    ):
        advanced.Advanced.parse({"runtime_version": "2.14.1"})


def test_advanced_fills_in_defaults_and_converts_the_types_of_numbers():
    whole = advanced.Advanced.parse({"seed": 3.0, "momentum": 0, "flip": False})
    assert whole.seed == 3
    assert isinstance(whole.seed, int)
    assert isinstance(whole.momentum, float)
    assert whole.flip is False
    assert whole.weight_decay == 0.00004
    assert whole.changed() == {"seed": 3, "momentum": 0.0, "flip": False}


def test_every_rule_of_advanced_is_about_a_field():
    named = {name for names, _, _ in advanced.ADVANCED_RULES for name in names}
    named |= {name for pair in advanced.ADVANCED_RANGES for name in pair}
    named |= {*advanced.ADVANCED_CHOICES, *advanced.PREPARATION_ADVANCED, *checks.ADVANCED_NOT_IN_RECIPE}
    assert named <= {field.name for field in fields_of(advanced.Advanced)}


def test_data_that_is_not_there_is_refused_before_any_is_read(fields, tmp_path):
    scratch = fields | {"fine_tune": False}
    with pytest.raises(InputError, match="images_uri must name something that exists; got /no/such/photos") as refusal:
        checks.check_run(scratch | {"images_uri": "/no/such/photos"})
    line_of(refusal)
    with pytest.raises(InputError, match=r"test_image_uri must name something that exists; got /no/such/1\.jpg") as refusal:
        checks.check_run(scratch | {"images_uri": str(tmp_path), "test_image_uri": "/no/such/1.jpg"})
    line_of(refusal)


@pytest.mark.parametrize("field", ["log_uri", "checkpoint_dir"])
def test_where_nothing_can_be_written_is_refused(fields, tmp_path, field):
    there = fields | {"fine_tune": False, "images_uri": str(tmp_path)}
    checks.check_run(there | {field: str(tmp_path / "logs")})
    with pytest.raises(InputError, match=f"{field} must name a folder or a bucket folder to write to; got https://") as refusal:
        checks.check_run(there | {field: "https://example.org/logs"})
    line_of(refusal)


def test_a_test_picture_in_an_archive_is_found(fields, tmp_path):
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
def test_a_wrong_value_of_a_preparation_is_refused(field, value, line):
    checks.check_preparation(SAMPLE)
    with pytest.raises(InputError) as refusal:
        checks.check_preparation(SAMPLE | {field: value})
    assert line_of(refusal).startswith(f"error: {line}")


def test_records_need_nothing_held_out():
    checks.check_preparation(SAMPLE | {"validation_ratio": 0.0, "advanced": {"max_side": 100}})


def of_a_sweep() -> dict[str, object]:
    return form_defaults(hyperparameter_sweep) | {"images_uri": "sample", "fine_tune": False}


@pytest.mark.parametrize(
    ("check", "form"),
    [
        (checks.check_run, lambda: form_defaults(image_classification) | {"images_uri": "sample", "fine_tune": False}),
        (checks.check_preparation, lambda: SAMPLE),
        (checks.check_sweep, of_a_sweep),
    ],
)
def test_a_list_of_pictures_to_leave_out_is_read_before_any_data_moves(tmp_path, check, form):
    listing = tmp_path / "list.csv"
    fields = form() | {"leave_out_uri": str(listing)}
    with pytest.raises(InputError, match="leave_out_uri must name something that exists; got ") as refusal:
        check(fields)
    line_of(refusal)
    listing.write_text("uri\n1.jpg\n")
    with pytest.raises(InputError, match="leave_out_uri must have a column path; got uri in ") as refusal:
        check(fields)
    line_of(refusal)
    listing.write_text("path,leave_out\n1.jpg,perhaps\n")
    with pytest.raises(
        InputError, match=r"column leave_out of leave_out_uri must be yes or no; got perhaps in .*, line 2\."
    ) as refusal:
        check(fields)
    line_of(refusal)
    with pytest.raises(InputError, match="leave_out_uri must be text; got ") as refusal:
        check(fields | {"leave_out_uri": ["1.jpg"]})
    line_of(refusal)
    listing.write_text("path\n1.jpg\n")
    check(fields)


def test_where_a_list_of_pictures_to_leave_out_lies_does_not_decide_what_a_model_becomes(fields, tmp_path):
    (tmp_path / "list.csv").write_text("path\n1.jpg\n")
    whole = fields | {"images_uri": "sample", "fine_tune": False}
    with_a_list = checks.check_run(whole | {"leave_out_uri": str(tmp_path / "list.csv")})
    assert with_a_list == checks.check_run(whole)
    assert with_a_list.recipe != checks.check_run(whole | {"train_steps": 1}).recipe
