"""The run form as the Kubeflow UI shows it: names, types, defaults and drop-downs, in alphabetical order."""

import json
import re
from pathlib import Path

import pytest
import yaml

from kfp_vision import REGISTRY
from kfp_vision.pipelines import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
FORM = """
advanced - STRUCT: {}
batch_size - NUMBER_INTEGER: 16
check_images - BOOLEAN: true [true, false]
checkpoint_dir - STRING: ""
checkpoint_uri - STRING: "http://download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz"
deploy_to - STRING: "none"
fine_tune - BOOLEAN: true [true, false]
formats - STRING: ""
gpu_count - NUMBER_INTEGER: 1
gpu_type - STRING: "nvidia.com/gpu"
image_size - NUMBER_INTEGER: 0
images_per_shard - NUMBER_INTEGER: 1000
images_uri - STRING: "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
labels - STRING: "one" ["one", "several"]
labels_uri - STRING: ""
learning_rate - NUMBER_DOUBLE: 0.0025
learning_rate_schedule - STRING: "exponential" [4 choices]
leave_out_uri - STRING: ""
log_uri - STRING: ""
min_accuracy - NUMBER_DOUBLE: 0
model_name - STRING: "classifier"
network - STRING: "inception_v1" [21 choices]
node_selector - STRUCT: {}
optimizer - STRING: "sgd" [8 choices]
predict_uri - STRING: ""
recipe - STRING: "tutorial" [3 choices]
register_in - STRING: ""
skip_unchanged - BOOLEAN: false [true, false]
test_image_uri - STRING: ""
test_ratio - NUMBER_DOUBLE: 0
tolerations - LIST: []
train_last_layer_only - BOOLEAN: false [true, false]
train_steps - NUMBER_INTEGER: 6000
validation_ratio - NUMBER_DOUBLE: 0.2
workers - NUMBER_INTEGER: 1
"""
QUICK_FORM = """
advanced - STRUCT: {}
deploy_to - STRING: "none"
gpu_count - NUMBER_INTEGER: 0
images_uri - STRING: "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
labels - STRING: "one" ["one", "several"]
min_accuracy - NUMBER_DOUBLE: 0
model_name - STRING: "classifier"
recipe - STRING: "quick" [3 choices]
test_image_uri - STRING: ""
"""
DATA_FIELDS = (
    *(
        "check_images",
        "images_per_shard",
        "images_uri",
        "labels",
        "labels_uri",
        "leave_out_uri",
        "validation_ratio",
        "test_ratio",
    ),
    "skip_unchanged",
)
BATCH_PREDICTION_FORM = """
advanced - STRUCT: {}
all_scores - BOOLEAN: false [true, false]
model_uri - STRING: ""
partitions - NUMBER_INTEGER: 1
predict_uri - STRING: "sample"
"""
SWEEP_FORM = """
advanced - STRUCT: {}
batch_sizes - LIST: [16.0]
check_images - BOOLEAN: true [true, false]
checkpoint_dir - STRING: ""
checkpoint_uri - STRING: "imagenet"
deploy_to - STRING: "none"
fine_tune - BOOLEAN: true [true, false]
formats - STRING: ""
gpu_count - NUMBER_INTEGER: 1
gpu_type - STRING: "nvidia.com/gpu"
image_size - NUMBER_INTEGER: 0
images_per_shard - NUMBER_INTEGER: 1000
images_uri - STRING: "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
labels - STRING: "one" ["one", "several"]
labels_uri - STRING: ""
learning_rate_schedule - STRING: "exponential" [4 choices]
learning_rates - LIST: [0.0025, 0.01]
leave_out_uri - STRING: ""
log_uri - STRING: ""
min_accuracy - NUMBER_DOUBLE: 0
model_name - STRING: "classifier"
networks - LIST: ["inception_v1"]
node_selector - STRUCT: {}
optimizers - LIST: ["sgd", "momentum"]
predict_uri - STRING: ""
register_in - STRING: ""
test_image_uri - STRING: ""
test_ratio - NUMBER_DOUBLE: 0.1
tolerations - LIST: []
train_last_layer_only - BOOLEAN: false [true, false]
train_steps - NUMBER_INTEGER: 6000
trials - NUMBER_INTEGER: 0
validation_ratio - NUMBER_DOUBLE: 0.2
workers - NUMBER_INTEGER: 1
"""
REVIEW_FORM = """
advanced - STRUCT: {}
collected_uri - STRING: ""
images_uri - STRING: ""
labels_uri - STRING: ""
model_uri - STRING: ""
review_images - NUMBER_INTEGER: 100
"""
SEARCH_FORM = """
advanced - STRUCT: {}
audit - BOOLEAN: true [true, false]
checkpoint_uri - STRING: "http://download.tensorflow.org/models/inception_v1_2016_08_28.tar.gz"
deploy_to - STRING: "none"
images_uri - STRING: "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
index_uri - STRING: ""
label - STRING: ""
labels - STRING: "one" ["one", "several"]
model_uri - STRING: ""
nearest - NUMBER_INTEGER: 10
network - STRING: "inception_v1" [20 choices]
partitions - NUMBER_INTEGER: 1
queries_uri - STRING: ""
test_ratio - NUMBER_DOUBLE: 0
validation_ratio - NUMBER_DOUBLE: 0.2
"""
KFP_INTERNALS = re.compile(r"pipelinechannel|{{|\b(artifact|dag|executor|component|channel)s?\b", re.IGNORECASE)


def form_lines(name: str) -> list[str]:
    """Returns a line per field, as the UI shows it from the committed pipeline."""
    spec, _ = yaml.safe_load_all((ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8"))
    lines = []
    for field, declaration in sorted(spec["root"]["inputDefinitions"]["parameters"].items()):
        default = json.dumps(declaration["defaultValue"]).removesuffix(".0") if "defaultValue" in declaration else "nothing"
        choices = declaration.get("literals", [])
        suffix = f" [{len(choices)} choices]" if len(choices) > 2 else f" [{', '.join(map(json.dumps, choices))}]"
        lines.append(f"{field} - {declaration['parameterType']}: {default}{suffix if choices else ''}")
    return lines


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image_classification", FORM),
        ("quick_classification", QUICK_FORM),
        ("image_classification_partitioned", FORM.replace("predict_uri", "partitions - NUMBER_INTEGER: 4\npredict_uri")),
        (
            "train_only",
            "\n".join(line for line in FORM.splitlines() if line.partition(" ")[0] not in DATA_FIELDS).replace(
                "register_in", 'records_uri - STRING: ""\nregister_in'
            ),
        ),
        ("hyperparameter_sweep", SWEEP_FORM),
        ("image_search", SEARCH_FORM),
        ("review", REVIEW_FORM),
        ("batch_prediction", BATCH_PREDICTION_FORM),
    ],
)
def test_the_form_has_the_expected_fields_types_defaults_and_choices(name, expected):
    found = form_lines(name)
    print("\n".join(found))
    assert found == expected.strip().splitlines()


@pytest.mark.parametrize("name", PIPELINES)
def test_a_form_is_short_has_defaults_and_hides_kfps_internals(name):
    lines = form_lines(name)
    assert 0 < len(lines) <= 36
    assert [line for line in lines if line.endswith(": nothing") or KFP_INTERNALS.search(line)] == []


FILES = sorted(file for folder in ("components", "pipelines") for file in (ROOT / folder).rglob("*.yaml"))
FILES += sorted(file for file in (ROOT / "manifests").rglob("*") if file.is_file())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_yaml_installs_nothing_pins_image_versions_and_holds_no_secrets(file):
    text = file.read_text(encoding="utf-8")
    assert re.search(r"pip3? install|apt-get|:latest\b", text) is None
    images = re.findall(r"^\s*-? ?image: *(\S+)$", text, re.MULTILINE)
    assert [image for image in images if not re.fullmatch(rf"{REGISTRY}/kfp-vision(-gpu|-serve)?:\d+\.\d+\.\d+", image)] == []
    assert re.search(r"(?i)(secret_?key|password|token): *['\"]?[A-Za-z0-9+/]{16,}", text) is None
