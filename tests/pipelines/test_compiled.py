"""What is committed is what the pipelines compile to, and it says what the backend and the run form have to know."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from kfp_vision import components
from kfp_vision.cli.run import form_fields, stage_names
from kfp_vision.core.errors import format_value
from kfp_vision.pipelines import PIPELINES, compiling
from kfp_vision.reports import outcome
from kfp_vision.storage import base

ROOT = Path(__file__).resolve().parents[2]
MOST_FIELDS = 30
STAGES = [
    "call-endpoint",
    "check-run",
    "check-serving",
    "decide-training",
    "deploy-model",
    "evaluate-classifier",
    "ingest-images",
    "predict-images",
    "report-outcome",
    "split-images",
    "train-classifier",
    "write-tfrecords",
]
INSTEAD = {"write-tfrecords": ["join-records", "partition-records", "write-partition"]}  # in partitions
TRAINING = ["image_classification", "image_classification_partitioned"]
# What has to be compiled anew, in its order, where a stage of the data is changed, or the image for GPUs.
WITH_DATA = [*TRAINING, "prepare_records", "hyperparameter_sweep", "split_images"]
ON_A_GPU = [*TRAINING, "train_only", "hyperparameter_sweep", "train_classifier", "train_trial"]
CHANNEL = "pipelinechannel--"  # what a field is called within a group of tasks
BOOLEANS = ["check_images", "fine_tune", "skip_unchanged", "train_last_layer_only"]
CHOICES = {
    "network": {
        *("inception_v1", "googlenet", "inception_v3", "resnet50", "resnet50_v2", "resnet101", "resnet101_v2", "resnet152"),
        *("resnet152_v2", "vgg16", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_v2_b0", "nasnet_mobile"),
        "convnext_tiny",
    },
    "optimizer": {"adadelta", "adagrad", "adam", "adamw", "ftrl", "momentum", "rmsprop", "sgd"},
    "learning_rate_schedule": {"exponential", "fixed", "polynomial", "cosine"},
}


def committed(name: str) -> str:
    return (ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=TRAINING)
def name(request) -> str:
    """The pipelines that train a classifier: what holds of the one holds of the other."""
    return request.param


@pytest.fixture(scope="module")
def names_of_stages(name) -> list[str]:
    if name == "image_classification":
        return STAGES
    return sorted(one for stage in STAGES for one in INSTEAD.get(stage, [stage]))


@pytest.fixture(scope="module")
def spec(name) -> PipelineSpec:
    """The committed pipeline, as KFP's own schema reads it."""
    document, _ = yaml.safe_load_all(committed(name))
    return json_format.ParseDict(document, PipelineSpec())


@pytest.fixture(scope="module")
def graphs(spec) -> dict[str, dict]:
    """The tasks of the pipeline by the group they stand in: the root, the body of the exit handler, and the conditions."""
    inner = {name: component.dag.tasks for name, component in spec.components.items() if component.HasField("dag")}
    return {"root": spec.root.dag.tasks, **inner}


@pytest.fixture(scope="module")
def stages(graphs) -> dict:
    """Every task that runs a container."""
    return {name: task for tasks in graphs.values() for name, task in tasks.items() if task.component_ref.name not in graphs}


@pytest.fixture(scope="module")
def on_kubernetes(name) -> dict[str, KubernetesExecutorConfig]:
    """What the committed pipeline asks of Kubernetes, by executor, as KFP's own schema reads it."""
    _, document = yaml.safe_load_all(committed(name))
    deployment = json_format.ParseDict(document, PlatformSpec()).platforms["kubernetes"].deployment_spec
    return {
        name: json_format.ParseDict(json_format.MessageToDict(executor), KubernetesExecutorConfig())
        for name, executor in deployment.executors.items()
    }


COMPILED = [
    *(f"pipelines/{name}.yaml" for name in PIPELINES),
    *(f"components/{name}.yaml" for name in components.__all__),
    *(f"manifests/pipelines/{name}.yaml" for name in PIPELINES),
]


def test_the_committed_files_are_what_is_compiled():
    texts = compiling.texts()
    assert [str(file.relative_to(ROOT)) for file in texts] == COMPILED
    assert [file for file, text in texts.items() if file.read_text(encoding="utf-8") != text] == []


def test_there_are_no_other_files():
    folders = ("pipelines", "components", "manifests/pipelines")
    there = {str(file.relative_to(ROOT)) for folder in folders for file in (ROOT / folder).glob("*.yaml")}
    assert there - set(COMPILED) == {"manifests/pipelines/kustomization.yaml"}


def test_compiling_again_and_elsewhere_gives_the_same_bytes(tmp_path):
    compiling.compile_all(tmp_path / "here")
    command = [sys.executable, "-m", "kfp_vision.cli", "compile", "--output", str(tmp_path / "there")]
    environment = os.environ | {"PYTHONHASHSEED": "4711", "TZ": "Pacific/Apia", "LC_ALL": "C"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    for file in COMPILED:
        texts = {(tmp_path / place / file).read_bytes() for place in ("here", "there")}
        assert texts == {(ROOT / file).read_bytes()}


def test_the_form_is_short_and_can_be_sent_as_it_stands(spec):
    fields = spec.root.input_definitions.parameters
    assert 0 < len(fields) <= MOST_FIELDS
    assert [name for name, field in fields.items() if not field.HasField("default_value")] == []
    assert [name for name, field in fields.items() if field.default_value.HasField("null_value")] == []
    assert [name for name, field in fields.items() if not field.description] == []


def test_a_choice_is_a_drop_down(spec):
    fields = spec.root.input_definitions.parameters
    drop_downs = {name: [json_format.MessageToDict(value) for value in field.literals] for name, field in fields.items()}
    assert sorted(name for name in drop_downs if drop_downs[name] == [True, False]) == BOOLEANS
    assert {name: set(values) for name, values in drop_downs.items() if values and name not in BOOLEANS} == CHOICES
    for name, values in drop_downs.items():
        assert not values or json_format.MessageToDict(fields[name].default_value) in values


def test_the_gpus_of_the_training_are_those_of_the_form_as_a_text_of_the_check(spec, stages):
    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    accelerator = executors["exec-train-classifier"]["container"]["resources"]["accelerator"]
    inputs = stages["train-classifier"].inputs.parameters
    channels = {
        entry: re.fullmatch(r"\{\{\$\.inputs\.parameters\['(.+)'\]\}\}", text)[1] for entry, text in accelerator.items()
    }
    assert inputs[channels["resourceType"]].component_input_parameter == f"{CHANNEL}gpu_type"
    count = inputs[channels["resourceCount"]].task_output_parameter
    assert (count.producer_task, count.output_parameter_key) == ("check-run", "gpus")
    checked = stages["check-run"].inputs.parameters["gpu_count"]
    assert checked.component_input_parameter == f"{CHANNEL}gpu_count"


def test_training_alone_chooses_its_nodes(on_kubernetes, graphs):
    train = on_kubernetes["exec-train-classifier"]
    given = [train.node_selector.node_selector_json, *(entry.toleration_json for entry in train.tolerations)]
    channels = [one.component_input_parameter for one in given]
    assert channels == [f"{CHANNEL}node_selector", f"{CHANNEL}tolerations"]
    # The driver looks these up among what the group is given, not among what the task is.
    body = graphs["root"]["run"].inputs.parameters
    assert [body[channel].component_input_parameter for channel in channels] == ["node_selector", "tolerations"]


SECRETS = {"kfp-vision-storage": base.ENVIRONMENT_VARIABLES, "kfp-vision-webhook": outcome.REPORT_ENVIRONMENT}


def test_credentials_come_from_secrets_that_may_be_missing(on_kubernetes):
    for config in on_kubernetes.values():
        for secret in config.secret_as_env:
            name = secret.secret_name_parameter.runtime_value.constant.string_value
            assert secret.optional
            assert {(key.secret_key, key.env_var) for key in secret.key_to_env} == {(one, one) for one in SECRETS[name]}


def test_the_pod_that_asks_kfp_says_so(on_kubernetes):
    labels = {stage: dict(config.pod_metadata.labels) for stage, config in on_kubernetes.items()}
    assert {stage for stage, given in labels.items() if given.get("access-ml-pipeline") == "true"} == {"exec-report-outcome"}


def test_the_stages_of_the_data_come_from_the_cache_when_what_they_do_not_read_is_changed(stages):
    for stage in ("split-images", "write-tfrecords") if "partition-records" not in stages else ("split-images",):
        given = stages[stage].inputs.parameters["advanced"]
        assert given.task_output_parameter.producer_task == "check-run" or given.component_input_parameter == (
            f"{CHANNEL}check-run-advanced"
        )
    assert stages["train-classifier"].inputs.parameters["advanced"].component_input_parameter == f"{CHANNEL}advanced"


def test_every_stage_is_there(stages, names_of_stages):
    assert sorted(stages) == names_of_stages


def test_nothing_starts_before_the_run_is_checked(graphs):
    first = [name for name, task in graphs["comp-run"].items() if not task.dependent_tasks]
    assert first == ["check-run"]


def test_the_outcome_is_told_whatever_happens(graphs):
    assert sorted(graphs["root"]) == ["report-outcome", "run"]
    last = graphs["root"]["report-outcome"]
    assert list(last.dependent_tasks) == ["run"]
    assert last.trigger_policy.strategy == last.trigger_policy.ALL_UPSTREAM_TASKS_COMPLETED
    assert last.inputs.parameters["status"].task_final_status.producer_task == "run"
    given = {name: value.runtime_value.constant.string_value for name, value in last.inputs.parameters.items()}
    assert given == {"status": "", "run_name": "{{$.pipeline_job_name}}", "run_id": "{{$.pipeline_job_uuid}}"}


def test_a_model_is_deployed_behind_its_verdict_its_proof_and_the_wish_alone(graphs):
    stands_in = {name: group for group, tasks in graphs.items() for name in tasks}
    conditions = {}
    for stage in ("check-serving", "deploy-model", "call-endpoint", "predict-images"):
        conditions[stage], group = [], stands_in[stage]
        while group != "comp-run":
            (task,) = (task for tasks in graphs.values() for task in tasks.values() if task.component_ref.name == group)
            conditions[stage].append(task.trigger_policy.condition.removeprefix("inputs.parameter_values"))
            group = next(outer for outer, tasks in graphs.items() if task in tasks.values())
    accepted = "['pipelinechannel--evaluate-classifier-Output'] == true"
    proven = "['pipelinechannel--check-serving-Output'] == true"  # of an accepted model that is to be deployed
    assert conditions == {
        "check-serving": [],
        "deploy-model": [proven],
        "call-endpoint": [proven],
        "predict-images": [accepted, "['pipelinechannel--predict_uri'] != ''"],
    }
    given = graphs["comp-run"]["check-serving"].inputs.parameters
    assert given["deploy_to"].component_input_parameter == f"{CHANNEL}deploy_to"
    assert given["accepted"].task_output_parameter.producer_task == "evaluate-classifier"
    judged = graphs["comp-run"]["evaluate-classifier"].inputs.parameters["unchanged"]
    assert judged.task_output_parameter.producer_task == "decide-training"
    taken = graphs[stands_in["deploy-model"]]["deploy-model"].inputs.artifacts
    assert sorted(taken) == ["model", "proof", "verdict"]


def test_a_preparation_ends_with_the_records_and_offers_its_tasks():
    spec = PIPELINES["prepare_records"].pipeline_spec
    assert stage_names(PIPELINES["prepare_records"]) == [
        "check_preparation",
        "fingerprint_images",
        "ingest_images",
        "join_records",
        "partition_records",
        "report_outcome",
        "split_images",
        "write_partition",
    ]
    form = spec.root.input_definitions.parameters
    assert [value.string_value for value in form["task"].literals] == ["classification", "detection"]
    assert [name for name, field in form.items() if not field.description or not field.HasField("default_value")] == []
    body = spec.components["comp-run"].dag.tasks
    assert [name for name, task in body.items() if not task.dependent_tasks] == ["check-preparation"]


def test_pictures_are_named_in_a_loop_and_the_tables_joined():
    spec = PIPELINES["batch_prediction"].pipeline_spec
    form = spec.root.input_definitions.parameters
    assert sorted(form) == ["all_scores", "model_uri", "partitions", "predict_uri"]
    assert [name for name, field in form.items() if not field.description or not field.HasField("default_value")] == []
    body = spec.components["comp-run"].dag.tasks
    assert [name for name, task in body.items() if not task.dependent_tasks] == ["check-prediction"]
    (loop,) = (task for task in body.values() if task.WhichOneof("iterator"))
    (named,) = spec.components[loop.component_ref.name].dag.tasks.values()
    assert named.component_ref.name == "comp-predict-images"
    assert named.inputs.parameters["partition"].component_input_parameter == loop.parameter_iterator.item_input
    joined = body["join-predictions"].inputs
    assert body[joined.artifacts["parts"].task_output_artifact.producer_task] == loop


def test_in_partitions_the_form_has_one_field_more_and_says_all_the_others():
    both = [PIPELINES[name] for name in TRAINING]
    plain, partitioned = (dict(pipeline.pipeline_spec.root.input_definitions.parameters) for pipeline in both)
    assert form_fields(both[1]) == form_fields(both[0]) | {"partitions": "NUMBER_INTEGER"}
    assert partitioned.pop("partitions").default_value.number_value == 4
    assert partitioned == plain


def test_in_partitions_the_writers_run_in_a_loop_and_all_of_them_are_joined():
    document, _ = yaml.safe_load_all(committed("image_classification_partitioned"))
    spec = json_format.ParseDict(document, PipelineSpec())
    body = spec.components["comp-run"].dag.tasks
    (loop,) = (task for task in body.values() if task.WhichOneof("iterator"))
    items = loop.inputs.parameters[loop.parameter_iterator.items.input_parameter].task_output_parameter
    assert (items.producer_task, items.output_parameter_key) == ("partition-records", "Output")
    assert loop.iterator_policy.parallelism_limit == 0  # as many at a time as the cluster has room for
    (writer,) = spec.components[loop.component_ref.name].dag.tasks.values()
    assert writer.component_ref.name == "comp-write-partition"
    assert writer.inputs.parameters["partition"].component_input_parameter == loop.parameter_iterator.item_input
    taken = body["join-records"].inputs.artifacts
    assert sorted(taken) == ["parts", "tables"]
    assert body[taken["parts"].task_output_artifact.producer_task] == loop
    for stage in ("train-classifier", "evaluate-classifier"):
        held_out = body[stage].inputs.artifacts["validation_records"].task_output_artifact
        assert (held_out.producer_task, held_out.output_artifact_key) == ("join-records", "validation_records")


@pytest.mark.parametrize("registry", ["registry.example.org:5000/team", "registry.example.org:5000/team/"])
def test_a_registry_holds_the_images_and_changes_nothing_else(registry):
    for name, pipeline in PIPELINES.items():
        text = compiling.compiled(pipeline, registry)
        images = re.findall(r"^ +image: (.*)$", text, re.MULTILINE)
        assert len(images) == len(stage_names(pipeline))
        assert all(image.startswith("registry.example.org:5000/team/kfp-vision") for image in images)
        assert text.replace("registry.example.org:5000/team/", "") == committed(name)


@pytest.fixture
def copy_of_the_house(tmp_path) -> Path:
    """Library, components and pipelines as an installed package has them, to be edited."""
    package = tmp_path / "kfp_vision"
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kfp_vision", package, ignore=leave_out)
    for part in ("components", "pipelines"):
        shutil.copytree(ROOT / part, package / part, ignore=leave_out)
    return tmp_path


def check(house: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "compile", "--check"]
    environment = os.environ | {"PYTHONPATH": str(house)}
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)


def test_the_check_passes_while_nothing_is_edited(copy_of_the_house):
    done = check(copy_of_the_house)
    assert (done.returncode, done.stdout, done.stderr) == (0, "every YAML is up to date\n", "")


@pytest.mark.parametrize(
    ("file", "was", "becomes", "concerned"),
    [
        ("components/split_images.py", "Splits the table", "Slices the table", WITH_DATA),
        ("components/images.py", "kfp-vision-gpu:", "kfp-vision-cuda:", ON_A_GPU),
        ("pipelines/image_classification.py", "train_steps: int = 6000", "train_steps: int = 6001", [*TRAINING, "train_only"]),
        ("preflight/rules.py", '"optimizer": OPTIMIZERS', '"model_name": OPTIMIZERS', [*TRAINING, "train_only"]),
        ("pipelines/prepare_records.py", "partitions: int = 1", "partitions: int = 2", ["prepare_records"]),
    ],
)
def test_the_check_notices_an_edit(copy_of_the_house, file, was, becomes, concerned):
    edited = copy_of_the_house / "kfp_vision" / file
    text = edited.read_text(encoding="utf-8")
    assert text.count(was) == 1
    edited.write_text(text.replace(was, becomes), encoding="utf-8")
    done = check(copy_of_the_house)
    places = [f"{'pipelines' if name in PIPELINES else 'components'}/{name}.yaml" for name in concerned]
    stale = [copy_of_the_house / "kfp_vision" / place for place in places]
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: every YAML must match the code; got outdated {format_value(', '.join(map(str, stale)))}. "
        "Run kfp-vision compile, and commit.\n"
    )
    assert [file.read_bytes() for file in stale] == [(ROOT / place).read_bytes() for place in places]
