"""The committed YAML matches the code, and holds what the backend and the run form need."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import dsl, kubernetes
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from kfp_vision import REGISTRY, components
from kfp_vision.cli.run import form_fields, stage_names
from kfp_vision.core.errors import format_value
from kfp_vision.pipelines import PIPELINES, compiling
from kfp_vision.reports import outcome
from kfp_vision.repository import registries
from kfp_vision.storage import base

ROOT = Path(__file__).resolve().parents[2]
MAX_FIELDS = 36
STAGES = [
    "call-endpoint",
    "check-run",
    "check-serving",
    "decide-training",
    "deploy-model",
    "evaluate-classifier",
    "export-model",
    "ingest-images",
    "predict-images",
    "register-model",
    "report-outcome",
    "split-images",
    "train-classifier",
    "write-tfrecords",
]
REPLACED_BY = {"write-tfrecords": ["join-records", "partition-records", "write-partition"]}  # in the partitioned pipeline
TRAINING = ["image_classification", "image_classification_partitioned"]
# The YAML, in order, that is outdated after a change to split_images, or to the image for GPUs.
FORMS_LIKE_IT = ["image_classification", "quick_classification", "image_classification_partitioned"]
USING_THE_SPLIT = [*FORMS_LIKE_IT, "prepare_records", "hyperparameter_sweep", "split_images"]
USING_A_GPU = [*FORMS_LIKE_IT, "train_only", "hyperparameter_sweep", "train_classifier", "train_trial"]
CHANNEL = "pipelinechannel--"  # prefix of a field's name within a group of tasks
BOOLEANS = ["check_images", "fine_tune", "skip_unchanged", "train_last_layer_only"]
CHOICES = {
    "recipe": {"tutorial", "quick", "best"},
    "network": {
        "auto",
        *("inception_v1", "googlenet", "inception_v3", "resnet50", "resnet50_v2", "resnet101", "resnet101_v2", "resnet152"),
        *("resnet152_v2", "vgg16", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_v2_b0", "nasnet_mobile"),
        *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "efficientnet_lite3", "efficientnet_lite4"),
        "convnext_tiny",
    },
    "optimizer": {"adadelta", "adagrad", "adam", "adamw", "ftrl", "momentum", "rmsprop", "sgd"},
    "learning_rate_schedule": {"exponential", "fixed", "polynomial", "cosine"},
    "labels": {"one", "several"},
}


def read_committed(name: str) -> str:
    return (ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=TRAINING)
def name(request) -> str:
    """Returns the name of each pipeline that trains a classifier."""
    return request.param


@pytest.fixture(scope="module")
def expected_stages(name) -> list[str]:
    if name == "image_classification":
        return STAGES
    return sorted(one for stage in STAGES for one in REPLACED_BY.get(stage, [stage]))


@pytest.fixture(scope="module")
def spec(name) -> PipelineSpec:
    """Returns the committed pipeline, parsed with KFP's own schema."""
    document, _ = yaml.safe_load_all(read_committed(name))
    return json_format.ParseDict(document, PipelineSpec())


@pytest.fixture(scope="module")
def graphs(spec) -> dict[str, dict]:
    """Returns the tasks of each group: the root, the body of the exit handler, the conditions and loops."""
    inner = {name: component.dag.tasks for name, component in spec.components.items() if component.HasField("dag")}
    return {"root": spec.root.dag.tasks, **inner}


@pytest.fixture(scope="module")
def stages(graphs) -> dict:
    """Returns every task that runs a container."""
    return {name: task for tasks in graphs.values() for name, task in tasks.items() if task.component_ref.name not in graphs}


@pytest.fixture(scope="module")
def on_kubernetes(name) -> dict[str, KubernetesExecutorConfig]:
    """Returns the Kubernetes configuration of each executor, parsed with KFP's own schema."""
    _, document = yaml.safe_load_all(read_committed(name))
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


def test_the_committed_files_match_the_code():
    texts = compiling.texts()
    assert [str(file.relative_to(ROOT)) for file in texts] == COMPILED
    assert [file for file, text in texts.items() if file.read_text(encoding="utf-8") != text] == []


def test_no_other_yaml_is_committed():
    folders = ("pipelines", "components", "manifests/pipelines")
    found = {str(file.relative_to(ROOT)) for folder in folders for file in (ROOT / folder).glob("*.yaml")}
    assert found - set(COMPILED) == {"manifests/pipelines/kustomization.yaml"}


@pytest.mark.slow
def test_compilation_is_reproducible_in_another_environment(tmp_path):
    compiling.compile_all(tmp_path / "here")
    command = [sys.executable, "-m", "kfp_vision.cli", "compile", "--output", str(tmp_path / "there")]
    environment = os.environ | {"PYTHONHASHSEED": "4711", "TZ": "Pacific/Apia", "LC_ALL": "C"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    for file in COMPILED:
        texts = {(tmp_path / path / file).read_bytes() for path in ("here", "there")}
        assert texts == {(ROOT / file).read_bytes()}


def test_the_form_is_short_and_every_field_has_a_default_and_a_description(spec):
    fields = spec.root.input_definitions.parameters
    assert 0 < len(fields) <= MAX_FIELDS
    assert [name for name, field in fields.items() if not field.HasField("default_value")] == []
    assert [name for name, field in fields.items() if field.default_value.HasField("null_value")] == []
    assert [name for name, field in fields.items() if not field.description] == []


def test_booleans_and_choices_become_drop_downs(spec):
    fields = spec.root.input_definitions.parameters
    drop_downs = {name: [json_format.MessageToDict(value) for value in field.literals] for name, field in fields.items()}
    assert sorted(name for name in drop_downs if drop_downs[name] == [True, False]) == BOOLEANS
    assert {name: set(values) for name, values in drop_downs.items() if values and name not in BOOLEANS} == CHOICES
    for name, values in drop_downs.items():
        assert not values or json_format.MessageToDict(fields[name].default_value) in values


def test_the_training_takes_its_gpus_from_the_form_through_the_check(spec, stages):
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


def test_the_training_takes_node_selector_and_tolerations_from_the_form(on_kubernetes, graphs):
    train = on_kubernetes["exec-train-classifier"]
    sources = [train.node_selector.node_selector_json, *(entry.toleration_json for entry in train.tolerations)]
    channels = [one.component_input_parameter for one in sources]
    assert channels == [f"{CHANNEL}node_selector", f"{CHANNEL}tolerations"]
    # The driver looks these up among the inputs of the group, not of the task.
    body = graphs["root"]["run"].inputs.parameters
    assert [body[channel].component_input_parameter for channel in channels] == ["node_selector", "tolerations"]


SECRETS = {
    "kfp-vision-storage": base.ENVIRONMENT_VARIABLES,
    "kfp-vision-webhook": outcome.REPORT_ENVIRONMENT,
    "kfp-vision-registries": registries.ENVIRONMENT,
}


def test_credentials_come_from_optional_secrets(on_kubernetes):
    for config in on_kubernetes.values():
        for secret in config.secret_as_env:
            name = secret.secret_name_parameter.runtime_value.constant.string_value
            assert secret.optional
            assert {(key.secret_key, key.env_var) for key in secret.key_to_env} == {(one, one) for one in SECRETS[name]}


def test_only_report_outcome_has_the_label_for_access_to_kfp(on_kubernetes):
    labels = {stage: dict(config.pod_metadata.labels) for stage, config in on_kubernetes.items()}
    assert {stage for stage, pod_labels in labels.items() if pod_labels.get("access-ml-pipeline") == "true"} == {
        "exec-report-outcome"
    }


def test_data_stages_depend_only_on_the_advanced_fields_that_they_read(stages):
    for stage in ("split-images", "write-tfrecords") if "partition-records" not in stages else ("split-images",):
        advanced = stages[stage].inputs.parameters["advanced"]
        assert advanced.task_output_parameter.producer_task == "check-run" or advanced.component_input_parameter == (
            f"{CHANNEL}check-run-advanced"
        )
    assert stages["train-classifier"].inputs.parameters["advanced"].component_input_parameter == f"{CHANNEL}advanced"


def test_the_pipeline_has_the_expected_stages(stages, expected_stages):
    assert sorted(stages) == expected_stages


def test_the_check_runs_first(graphs):
    first = [name for name, task in graphs["comp-run"].items() if not task.dependent_tasks]
    assert first == ["check-run"]


def test_the_outcome_is_reported_after_success_and_failure(graphs):
    assert sorted(graphs["root"]) == ["report-outcome", "run"]
    last = graphs["root"]["report-outcome"]
    assert list(last.dependent_tasks) == ["run"]
    assert last.trigger_policy.strategy == last.trigger_policy.ALL_UPSTREAM_TASKS_COMPLETED
    assert last.inputs.parameters["status"].task_final_status.producer_task == "run"
    constants = {name: value.runtime_value.constant.string_value for name, value in last.inputs.parameters.items()}
    assert constants == {"status": "", "run_name": "{{$.pipeline_job_name}}", "run_id": "{{$.pipeline_job_uuid}}"}


def test_deploys_only_an_accepted_and_proven_model_where_a_target_is_set(graphs):
    group_of = {name: group for group, tasks in graphs.items() for name in tasks}
    conditions = {}
    for stage in ("check-serving", "deploy-model", "call-endpoint", "export-model", "register-model", "predict-images"):
        conditions[stage], group = [], group_of[stage]
        while group != "comp-run":
            (task,) = (task for tasks in graphs.values() for task in tasks.values() if task.component_ref.name == group)
            conditions[stage].append(task.trigger_policy.condition.removeprefix("inputs.parameter_values"))
            group = next(outer for outer, tasks in graphs.items() if task in tasks.values())
    accepted = "['pipelinechannel--evaluate-classifier-Output'] == true"
    proven = "['pipelinechannel--check-serving-Output'] == true"  # true only for an accepted model with a target
    assert conditions == {
        "check-serving": [],
        "deploy-model": [proven],
        "call-endpoint": [proven],
        "export-model": [accepted, "['pipelinechannel--formats'] != ''"],
        "register-model": [accepted, "['pipelinechannel--register_in'] != ''"],
        "predict-images": [accepted, "['pipelinechannel--predict_uri'] != ''"],
    }
    parameters = graphs["comp-run"]["check-serving"].inputs.parameters
    assert parameters["deploy_to"].component_input_parameter == f"{CHANNEL}deploy_to"
    assert parameters["accepted"].task_output_parameter.producer_task == "evaluate-classifier"
    unchanged = graphs["comp-run"]["evaluate-classifier"].inputs.parameters["unchanged"]
    assert unchanged.task_output_parameter.producer_task == "decide-training"
    inputs = graphs[group_of["deploy-model"]]["deploy-model"].inputs.artifacts
    assert sorted(inputs) == ["metrics", "model", "proof", "verdict"]


def test_the_papers_say_which_form_data_and_run_a_model_is_of(graphs):
    (deploy,) = (task for tasks in graphs.values() for name, task in tasks.items() if name == "deploy-model")
    given = deploy.inputs.parameters
    assert given["form"].component_input_parameter == f"{CHANNEL}check-run-form"
    assert given["data_fingerprint"].component_input_parameter == f"{CHANNEL}decide-training-fingerprint"
    constants = {name: given[name].runtime_value.constant.string_value for name in ("pipeline", "run_name", "run_id")}
    assert constants.pop("pipeline").replace("-", "_") in PIPELINES
    assert constants == {"run_name": "{{$.pipeline_job_name}}", "run_id": "{{$.pipeline_job_uuid}}"}  # KFP fills them in


def test_prepare_records_has_its_stages_and_a_choice_of_tasks():
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


def test_batch_prediction_classifies_in_a_loop_and_joins_the_tables():
    spec = PIPELINES["batch_prediction"].pipeline_spec
    form = spec.root.input_definitions.parameters
    assert sorted(form) == ["advanced", "all_scores", "model_uri", "partitions", "predict_uri"]
    assert [name for name, field in form.items() if not field.description or not field.HasField("default_value")] == []
    body = spec.components["comp-run"].dag.tasks
    assert [name for name, task in body.items() if not task.dependent_tasks] == ["check-prediction"]
    (loop,) = (task for task in body.values() if task.WhichOneof("iterator"))
    (prediction,) = spec.components[loop.component_ref.name].dag.tasks.values()
    assert prediction.component_ref.name == "comp-predict-images"
    assert prediction.inputs.parameters["partition"].component_input_parameter == loop.parameter_iterator.item_input
    joined = body["join-predictions"].inputs
    assert body[joined.artifacts["parts"].task_output_artifact.producer_task] == loop


@pytest.mark.parametrize("name", PIPELINES)
def test_the_advanced_settings_of_a_form_reach_every_stage_that_takes_them(name):
    spec = PIPELINES[name].pipeline_spec
    given = {
        task.component_ref.name: task.inputs.parameters["advanced"]
        for dag in (spec.root.dag, *(component.dag for component in spec.components.values()))
        for task in dag.tasks.values()
        if "advanced" in task.inputs.parameters
    }
    assert given and [stage for stage, value in given.items() if value.WhichOneof("kind") == "runtime_value"] == []


def test_the_partitioned_form_adds_only_the_field_partitions():
    both = [PIPELINES[name] for name in TRAINING]
    plain, partitioned = (dict(pipeline.pipeline_spec.root.input_definitions.parameters) for pipeline in both)
    assert form_fields(both[1]) == form_fields(both[0]) | {"partitions": "NUMBER_INTEGER"}
    assert partitioned.pop("partitions").default_value.number_value == 4
    assert partitioned == plain


def test_the_partitioned_pipeline_writes_in_a_loop_and_joins_the_records():
    document, _ = yaml.safe_load_all(read_committed("image_classification_partitioned"))
    spec = json_format.ParseDict(document, PipelineSpec())
    body = spec.components["comp-run"].dag.tasks
    (loop,) = (task for task in body.values() if task.WhichOneof("iterator"))
    items = loop.inputs.parameters[loop.parameter_iterator.items.input_parameter].task_output_parameter
    assert (items.producer_task, items.output_parameter_key) == ("partition-records", "Output")
    assert loop.iterator_policy.parallelism_limit == 0  # no limit but the cluster's capacity
    (writer,) = spec.components[loop.component_ref.name].dag.tasks.values()
    assert writer.component_ref.name == "comp-write-partition"
    assert writer.inputs.parameters["partition"].component_input_parameter == loop.parameter_iterator.item_input
    inputs = body["join-records"].inputs.artifacts
    assert sorted(inputs) == ["parts", "tables"]
    assert body[inputs["parts"].task_output_artifact.producer_task] == loop
    for stage in ("train-classifier", "evaluate-classifier"):
        held_out = body[stage].inputs.artifacts["validation_records"].task_output_artifact
        assert (held_out.producer_task, held_out.output_artifact_key) == ("join-records", "validation_records")


@pytest.mark.parametrize("registry", ["registry.example.org:5000/team", "registry.example.org:5000/team/"])
def test_a_registry_changes_only_the_image_names(registry):
    for name, pipeline in PIPELINES.items():
        text = compiling.compiled(pipeline, registry)
        images = re.findall(r"^ +image: (.*)$", text, re.MULTILINE)
        assert len(images) == len(stage_names(pipeline))
        assert all(image.startswith("registry.example.org:5000/team/kfp-vision") for image in images)
        assert text.replace("registry.example.org:5000/team/", f"{REGISTRY}/") == read_committed(name)


QUEUE = compiling.Queue("gpus", "low")


def pod_labels(text: str) -> dict[str, dict[str, str]]:
    """Returns the labels of each stage's pod in a compiled pipeline."""
    _, document = yaml.safe_load_all(text)
    executors = document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["podMetadata"]["labels"] for name, executor in executors.items()}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_queue_labels_the_pods_that_train_and_changes_nothing_else(name):
    text = compiling.compiled(compiling.with_queue(PIPELINES[name], QUEUE))
    added = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "low"}
    before, after = pod_labels(read_committed(name)), pod_labels(text)
    trains = {"train-classifier", "train-trial"} & before.keys()
    assert after == before | {stage: before[stage] | added for stage in trains}
    lines = [line for line in text.splitlines() if "kueue.x-k8s.io/" not in line]
    assert lines == read_committed(name).splitlines()
    assert bool(trains) == (name in {*USING_A_GPU})


def test_a_queue_reaches_the_kubernetes_objects_too_and_may_be_without_a_priority():
    trains = PIPELINES["hyperparameter_sweep"]
    assert compiling.with_queue(trains, compiling.NO_QUEUE) is trains
    text = compiling.manifest(compiling.with_queue(trains, compiling.Queue("gpus")))
    assert re.findall(r"kueue\S+ \S+", text) == ["kueue.x-k8s.io/queue-name: gpus"]


def test_kfp_takes_no_label_of_a_pod_from_the_form():
    """Once it does, training_queue of advanced can set this label, and no pipeline need be compiled for a queue."""

    def label_from_form(queue: str = "gpus") -> None:
        kubernetes.add_pod_label(components.join_index(parts=[]), "kueue.x-k8s.io/queue-name", queue)

    with pytest.raises(TypeError):
        dsl.pipeline(name="queued")(label_from_form)


@pytest.fixture
def package_copy(tmp_path) -> Path:
    """Returns a folder with an editable copy of library, components and pipelines, laid out as when installed."""
    package = tmp_path / "kfp_vision"
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kfp_vision", package, ignore=leave_out)
    for part in ("components", "pipelines"):
        shutil.copytree(ROOT / part, package / part, ignore=leave_out)
    return tmp_path


def run_check(root: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "compile", "--check"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_check_passes_for_unchanged_code(package_copy):
    done = run_check(package_copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "every YAML is up to date\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "outdated"),
    [
        ("components/split_images.py", "Splits the table", "Slices the table", USING_THE_SPLIT),
        ("components/container_images.py", "kfp-vision-gpu:", "kfp-vision-cuda:", USING_A_GPU),
        (
            "pipelines/image_classification.py",
            "train_steps: int = 6000",
            "train_steps: int = 6001",
            [*FORMS_LIKE_IT, "train_only"],
        ),
        ("preflight/rules.py", '"optimizer": OPTIMIZERS', '"model_name": OPTIMIZERS', [*TRAINING, "train_only"]),
        ("pipelines/prepare_records.py", "partitions: int = 1", "partitions: int = 2", ["prepare_records"]),
    ],
)
def test_the_check_lists_the_yaml_that_an_edit_makes_outdated(package_copy, file, old, new, outdated):
    edited = package_copy / "kfp_vision" / file
    text = edited.read_text(encoding="utf-8")
    assert text.count(old) == 1
    edited.write_text(text.replace(old, new), encoding="utf-8")
    done = run_check(package_copy)
    paths = [f"{'pipelines' if name in PIPELINES else 'components'}/{name}.yaml" for name in outdated]
    stale = [package_copy / "kfp_vision" / path for path in paths]
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: every YAML must match the code; got {format_value('outdated ' + ', '.join(map(str, stale)))}. "
        "Run kfp-vision compile, and commit.\n"
    )
    assert [file.read_bytes() for file in stale] == [(ROOT / path).read_bytes() for path in paths]
