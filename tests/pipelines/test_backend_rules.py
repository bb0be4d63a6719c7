"""The committed pipelines follow the rules of Kubeflow Pipelines' backend, and each rule reports what breaks it."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from support import backend_rules, executor_input, run_component, run_shape, small_pipelines
from support.kfp_driver import Pipeline, holds
from support.local_outputs import unwritten

from kfp_vision.pipelines import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
MEASURED_BYTES = 140_362  # of one argument of join_records, on a cluster, with 50 partitions of generated images


@pytest.fixture(scope="module", params=PIPELINES)
def committed_pipeline(request) -> Pipeline:
    return Pipeline((ROOT / "pipelines" / f"{request.param}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("rule", backend_rules.RULES, ids=lambda rule: rule.__name__)
def test_every_committed_pipeline_follows_each_rule(committed_pipeline, rule):
    assert rule(committed_pipeline) == []


def find_faults(pipeline: Pipeline) -> dict[str, list[str]]:
    """Returns the faults that each broken rule reports, by the rule's name."""
    found = {rule.__name__: rule(pipeline) for rule in backend_rules.RULES}
    return {name: lines for name, lines in found.items() if lines}


@pytest.fixture(scope="module")
def sound_pipeline() -> str:
    return small_pipelines.compiled(small_pipelines.sound)


def test_a_sound_pipeline_breaks_no_rule(sound_pipeline, monkeypatch):
    monkeypatch.setitem(backend_rules.MOST, "partitions", 20)
    assert find_faults(Pipeline(sound_pipeline)) == {}
    assert find_faults(Pipeline(small_pipelines.compiled(small_pipelines.on_nodes))) == {}


LIFETIME_UNSET = "is not set, so that KFP's hour holds"
# Pipelines that KFP's compiler accepts: the stages, options of the compilation, and the faults by rule.
COMPILABLE: dict[str, tuple[Callable, dict[str, Any], dict[str, list[str]]]] = {
    "a number of GPUs": (
        small_pipelines.with_a_number_of_gpus,
        {},
        {
            "what_a_pod_asks_for_is_a_text": [
                "exit-handler-1/train-on: resourceCount takes pipelinechannel--gpu_count,"
                " a number (field gpu_count), which has no text"
            ]
        },
    ),
    "dictionaries of a stage": (
        small_pipelines.with_dictionaries_of_a_stage,
        {},
        {
            "values_have_the_type_of_each_input": [
                "exit-handler-1/for-loop-2/attempt: trial type mismatch: expect STRUCT, got string"
                " (an item of output exit-handler-1/choose/Output)"
            ],
            "an_item_of_a_list_is_no_dictionary": [
                "exit-handler-1/for-loop-2/attempt: trial is a STRUCT, and takes an item of output exit-handler-1/choose/Output"
            ],
        },
    ),
    "an artifact with metadata but no file": (
        small_pipelines.with_metadata_alone,
        {},
        {"every_artifact_has_a_file": ["exit-handler-1/measure: nothing is written to metrics"]},
    ),
    "a number compared to a text": (
        small_pipelines.with_a_number_compared_to_a_text,
        {},
        {
            "conditions_compare_like_with_like": [
                "exit-handler-1/condition-2: cannot be read:"
                " 'int(inputs.parameter_values['pipelinechannel--gpu_count'])' == '1'"
            ]
        },
    ),
    "a cached stage with a secret": (
        small_pipelines.with_a_secret_behind_the_cache,
        {},
        {
            "what_is_kept_for_another_run_depends_on_what_lies_outside": [
                "exit-handler-1/read: has credentials, is cached, and takes nothing from a stage that always runs"
            ]
        },
    ),
    "a cached look outside": (
        small_pipelines.with_a_look_that_is_kept,
        {},
        {
            "what_stands_for_the_outside_is_never_kept": [
                "exit-handler-1/look-2: is cached, and exit-handler-1/read knows by its value what lies outside"
            ]
        },
    ),
    "an unconditional deployment": (
        small_pipelines.with_a_deployment_in_every_run,
        {},
        {
            "what_looks_outside_or_changes_it_always_runs": [
                "exit-handler-1/deploy-model: is cached, and writes a version into a repository, or tells the cluster to"
                " serve it"
            ],
            "what_deploys_stands_below_a_condition": ["exit-handler-1/deploy-model: deploys, and stands below no condition"],
        },
    ),
    "no limits": (
        small_pipelines.on_nodes,
        {"equipped": False},
        {
            "each_pod_has_an_end_a_limit_and_room": [
                f"{stage}: has no {what}"
                for stage in ("exit-handler-1/train", "tell")
                for what in ("deadline", "limit of memory", "volume of limited size at /tmp")
            ]
        },
    ),
    "retries beyond the deadline": (
        small_pipelines.with_tries_without_an_end,
        {},
        {"a_stage_that_is_tried_again_has_the_time": ["exit-handler-1/look: 10800 s for 3 tries of up to 7200 s"]},
    ),
    "a loop without a limit": (
        small_pipelines.with_a_loop_that_nobody_limits,
        {},
        {"no_argument_is_too_long": ["exit-handler-1/for-loop-2: no limit is known for what it runs through"]},
    ),
    "no exit task": (
        small_pipelines.on_nodes,
        {"handled": False},
        {"one_last_task_looks_at_all_the_others": ["the root: 0 tasks run whatever happened; must be one"]},
    ),
    "only one of three lifetimes": (
        small_pipelines.on_nodes,
        {"config": dsl.PipelineConfig(ttl_seconds_after_finished=7 * small_pipelines.DAY)},
        {
            "a_run_is_kept_as_long_however_it_ends": [
                f"pipelineConfig: resourceTtlOnSuccess {LIFETIME_UNSET}",
                f"pipelineConfig: resourceTtlOnFailure {LIFETIME_UNSET}",
            ]
        },
    ),
}


@pytest.mark.parametrize("case", COMPILABLE)
def test_reports_pipelines_that_compile_but_cannot_run(case, monkeypatch):
    monkeypatch.setitem(backend_rules.MOST, "partitions", 20)
    stages, options, expected = COMPILABLE[case]
    assert find_faults(Pipeline(small_pipelines.compiled(stages, **options))) == expected


BODY = ("components", "comp-exit-handler-1", "dag", "tasks")
LAST = ("root", "dag", "tasks", "tell")
ON_KUBERNETES = ("platforms", "kubernetes", "deploymentSpec", "executors")
TRAINER = ("deploymentSpec", "executors", "exec-train", "container")
TURN = ("components", "comp-for-loop-2", "dag", "tasks", "read")
FORM = ("root", "inputDefinitions", "parameters")
ACCEPTED = (*BODY, "condition-6", "triggerPolicy", "condition")
LOOP, TABLE, TRAINED = ("components", "comp-for-loop-2"), "pipelinechannel--read-table", "exit-handler-1/condition-6/train"
IN_THE_TURN, ON_NODES = "exit-handler-1/for-loop-2/read", "exit-handler-1/condition-6/condition-7/train-2"
# Edits of the sound pipeline that no compiler should produce: a path, the new value (None deletes the key), the faults by rule.
EDITS: dict[str, tuple[tuple[str, ...], Any, dict[str, list[str]]]] = {
    "a default of another type": (
        (*FORM, "gpu_count", "defaultValue"),
        "1",
        {
            "values_have_the_type_of_each_input": [
                "field gpu_count: the default is of the kind string, the field a NUMBER_INTEGER"
            ]
        },
    ),
    "a default outside the choices": (
        (*FORM, "uri", "literals"),
        ["here", "there"],
        {"values_have_the_type_of_each_input": ["field uri: the default is none of ['here', 'there']"]},
    ),
    "a constant outside the choices": (
        ("components", "comp-train-2", "inputDefinitions", "parameters", "gpu_count", "literals"),
        ["1", "2"],
        {"values_have_the_type_of_each_input": [f"{ON_NODES}: gpu_count must be one of ['1', '2']; got \"0\""]},
    ),
    "an input that its group lacks": (
        (*TURN, "inputs", "parameters", "fingerprint", "componentInputParameter"),
        "pipelinechannel--nothing",
        {
            "values_have_the_type_of_each_input": [
                f"{IN_THE_TURN}: exit-handler-1/for-loop-2 does not have input parameter pipelinechannel--nothing",
                f"{IN_THE_TURN}: neither value nor default value for fingerprint",
            ],
            "what_is_kept_for_another_run_depends_on_what_lies_outside": [
                f"{IN_THE_TURN}: has credentials, is cached, and takes nothing from a stage that always runs"
            ],
        },
    ),
    "an output without a producer": (
        (*BODY, "condition-6", "inputs", "parameters", "pipelinechannel--judge-Output", "taskOutputParameter", "producerTask"),
        "look-again",
        {
            "values_have_the_type_of_each_input": [
                "exit-handler-1/condition-6: look-again has no output parameter Output",
                "exit-handler-1/condition-6: neither value nor default value for pipelinechannel--judge-Output",
                "exit-handler-1/condition-6/condition-7: exit-handler-1/condition-6 does not have input parameter"
                " pipelinechannel--judge-Output",
                "exit-handler-1/condition-6/condition-7: neither value nor default value for pipelinechannel--judge-Output",
            ],
            "each_task_waits_for_tasks_beside_it": ["exit-handler-1: condition-6 waits for look-again, which is not there"],
            "conditions_compare_like_with_like": [
                "exit-handler-1/condition-6: has no input pipelinechannel--judge-Output",
                "exit-handler-1/condition-6: compares a bool with a unknown:"
                " inputs.parameter_values['pipelinechannel--judge-Output'] == true",
            ],
        },
    ),
    "cores from a missing input": (
        (*TRAINER, "resources", "resourceCpuLimit"),
        "{{$.inputs.parameters['cores']}}",
        {
            "what_a_pod_asks_for_is_a_text": [
                "exit-handler-1/condition-6/train: resourceCpuLimit takes cores, which is no input of it",
            ]
        },
    ),
    "an image name composed of parts": (
        (*TRAINER, "image"),
        "images/{{$.inputs.parameters['gpu_count']}}",
        {
            "what_a_pod_asks_for_is_a_text": [
                "exit-handler-1/condition-6/train: image loses what stands around gpu_count",
            ]
        },
    ),
    "a node selector that is a text": (
        (*ON_KUBERNETES, "exec-train-2", "nodeSelector", "nodeSelectorJson"),
        {"componentInputParameter": "pipelinechannel--deploy_to"},
        {
            "what_kubernetes_is_asked_for_has_the_right_shape": [
                f"{ON_NODES}: nodeSelector is a string (field deploy_to), and must be a struct"
            ]
        },
    ),
    "tolerations that the group lacks": (
        (*ON_KUBERNETES, "exec-train-2", "tolerations"),
        [{"tolerationJson": {"componentInputParameter": "pipelinechannel--tolerations"}}],
        {
            "what_kubernetes_is_asked_for_has_the_right_shape": [
                f"{ON_NODES}: exit-handler-1/condition-6/condition-7 does not have input parameter"
                " pipelinechannel--tolerations (tolerations)"
            ]
        },
    ),
    "a secret without a name": (
        (*ON_KUBERNETES, "exec-read", "secretAsEnv"),
        [{"secretNameParameter": {"runtimeValue": {"constant": ""}}}],
        {"what_kubernetes_is_asked_for_has_the_right_shape": [f"{IN_THE_TURN}: secretAsEnv names an empty text"]},
    ),
    "a component that is too long": (
        ("deploymentSpec", "executors", "exec-tell", "container", "env"),
        [{"name": "LONG", "value": "x" * 120_000}],
        {"no_argument_is_too_long": ["container exec-tell: an argument of the driver of 120,707 bytes, above 117,963"]},
    ),
    "a task that waits for a missing task": (
        (*BODY, "join", "dependentTasks"),
        ["for-loop-2", "join-again"],
        {"each_task_waits_for_tasks_beside_it": ["exit-handler-1: join waits for join-again, which is not there"]},
    ),
    "tasks that wait for each other": (
        (*BODY, "look", "dependentTasks"),
        ["join"],
        {
            "each_task_waits_for_tasks_beside_it": [
                "exit-handler-1: each waits for the next: for-loop-2, look, join, for-loop-2"
            ]
        },
    ),
    "a task that takes its own output": (
        (*BODY, "look", "inputs", "parameters", "uri"),
        {"taskOutputParameter": {"producerTask": "look", "outputParameterKey": "Output"}},
        {"each_task_waits_for_tasks_beside_it": ["exit-handler-1: each waits for the next: look, look"]},
    ),
    "a group output without a producer": (
        (*LOOP, "dag", "outputs", "artifacts", TABLE, "artifactSelectors"),
        [{"producerSubtask": "write", "outputArtifactKey": "table"}],
        {
            "values_have_the_type_of_each_input": [f"exit-handler-1/join: for-loop-2 has no output artifact {TABLE}"],
            "each_task_waits_for_tasks_beside_it": [
                f"exit-handler-1/for-loop-2: its output {TABLE} comes from write, which is not there"
            ],
        },
    ),
    "an artifact of another type": (
        ("components", "comp-read", "outputDefinitions", "artifacts", "table", "artifactType", "schemaTitle"),
        "system.Model",
        {
            "artifacts_have_the_type_of_each_input": [
                f"exit-handler-1/join: tables is a system.Dataset, and table of {IN_THE_TURN} a system.Model",
                f"exit-handler-1/for-loop-2: {TABLE} is a system.Dataset, and table of {IN_THE_TURN} a system.Model",
            ]
        },
    ),
    "an artifact of any type": (
        ("components", "comp-read", "outputDefinitions", "artifacts", "table", "artifactType", "schemaTitle"),
        "system.Artifact",
        {},
    ),
    "one artifact of a list": (
        ("components", "comp-join", "inputDefinitions", "artifacts", "tables", "isArtifactList"),
        None,
        {
            "artifacts_have_the_type_of_each_input": [
                f"exit-handler-1/join: tables is one artifact, and table of {IN_THE_TURN} a list"
            ]
        },
    ),
    "a missing input artifact": (
        (*BODY, "join", "inputs"),
        None,
        {"artifacts_have_the_type_of_each_input": ["exit-handler-1/join: nothing is given as tables"]},
    ),
    "memory in GB": (
        (*TRAINER, "resources", "resourceMemoryLimit"),
        "32 GB",
        {"what_a_pod_asks_for_is_a_quantity": [f"{TRAINED}: resourceMemoryLimit is '32 GB', which is no quantity"]},
    ),
    "memory with a space": (
        (*TRAINER, "resources", "resourceMemoryLimit"),
        "32 G",
        {"what_a_pod_asks_for_is_a_quantity": [f"{TRAINED}: resourceMemoryLimit is '32 G', which is no quantity"]},
    ),
    "zero cores": (
        (*TRAINER, "resources", "resourceCpuLimit"),
        "0",
        {"what_a_pod_asks_for_is_a_quantity": [f"{TRAINED}: resourceCpuLimit is '0', and must be above 0"]},
    ),
    "a memory request above the limit": (
        (*TRAINER, "resources", "resourceMemoryRequest"),
        "1025Mi",
        {"what_a_pod_asks_for_is_a_quantity": [f"{TRAINED}: resourceMemoryRequest is above resourceMemoryLimit"]},
    ),
    "a volume size in GB": (
        (*ON_KUBERNETES, "exec-train", "emptyDirMounts"),
        [{"volumeName": "tmp", "mountPath": "/tmp", "sizeLimit": "10GB"}],
        {"what_a_pod_asks_for_is_a_quantity": [f"{TRAINED}: sizeLimit is '10GB', which is no quantity"]},
    ),
    "a number of GPUs in words": (
        (*FORM, "gpus", "defaultValue"),
        "one",
        {"what_a_pod_asks_for_is_a_quantity": [f"{TRAINED}: resourceCount is 'one', which is no quantity"]},
    ),
    "a volume at another path": (
        (*ON_KUBERNETES, "exec-train", "emptyDirMounts"),
        [{"volumeName": "tmp", "mountPath": "/scratch", "sizeLimit": "10Gi"}],
        {"each_pod_has_an_end_a_limit_and_room": [f"{TRAINED}: has no volume of limited size at /tmp"]},
    ),
    "a volume without a size limit": (
        (*ON_KUBERNETES, "exec-train", "emptyDirMounts"),
        [{"volumeName": "tmp", "mountPath": "/tmp"}],
        {"each_pod_has_an_end_a_limit_and_room": [f"{TRAINED}: has no volume of limited size at /tmp"]},
    ),
    "a constant number of GPUs": (
        (*TRAINER, "resources", "accelerator", "resourceCount"),
        "1",
        {"a_field_decides_on_each_accelerator": [f"{TRAINED}: resourceCount is '1', and no field decides on it"]},
    ),
    "a constant type of GPU": (
        (*BODY[:1], "comp-condition-6", "dag", "tasks", "train", "inputs", "parameters", "pipelinechannel--gpu_type"),
        {"runtimeValue": {"constant": "nvidia.com/gpu"}},
        {
            "a_field_decides_on_each_accelerator": [
                f"{TRAINED}: resourceType is \"{{{{$.inputs.parameters['pipelinechannel--gpu_type']}}}}\", and no field"
                " decides on it"
            ]
        },
    ),
    "a stage for GPUs on any node": (
        (*TRAINER, "image"),
        "registry.example:5000/vision-gpu:1.0",
        {
            "what_is_made_for_a_gpu_gets_to_one": [
                f"{TRAINED}: runs on registry.example:5000/vision-gpu:1.0 without {what}"
                for what in ("node selector", "tolerations")
            ]
        },
    ),
    "one lifetime that differs": (
        ("platforms", "kubernetes", "pipelineConfig", "resourceTtlOnFailure"),
        60,
        {
            "a_run_is_kept_as_long_however_it_ends": [
                "pipelineConfig: the lifetimes differ: {'resourceTtlOnCompletion': 604800, 'resourceTtlOnSuccess': 604800,"
                " 'resourceTtlOnFailure': 60}",
                "pipelineConfig: a lifetime of 60 s, not above an hour",
            ]
        },
    ),
    "retries without a pause": (
        (*TURN, "retryPolicy", "backoffDuration"),
        None,
        {
            "a_stage_that_is_tried_again_has_the_time": [
                f"{IN_THE_TURN}: tried again 2 times, after 0 s times 2, within 10800 s"
            ]
        },
    ),
    "a stage beside the exit task": (
        ("root", "dag", "tasks", "look"),
        {"componentRef": {"name": "comp-look"}, "inputs": {"parameters": {"uri": {"componentInputParameter": "uri"}}}},
        {"one_last_task_looks_at_all_the_others": ["tell: does not look at look"]},
    ),
    "the status of another task": (
        (*LAST, "inputs", "parameters", "status", "taskFinalStatus", "producerTask"),
        "look",
        {
            "each_task_waits_for_tasks_beside_it": ["the root: tell waits for look, which is not there"],
            "one_last_task_looks_at_all_the_others": [
                "tell: status is the status of look, and the driver gives that of ['exit-handler-1']"
            ],
        },
    ),
    "an exit task that waits for nothing": (
        (*LAST, "dependentTasks"),
        None,
        {
            "values_have_the_type_of_each_input": [
                "tell: waits for no task whose final status it could have",
            ],
            "one_last_task_looks_at_all_the_others": [
                "tell: does not look at exit-handler-1",
                "tell: waits for []; must wait for the one task that holds the others",
                "tell: status is the status of exit-handler-1, and the driver gives that of []",
            ],
        },
    ),
    "an exit task outside the root": (
        (*BODY, "join", "triggerPolicy"),
        {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"},
        {"one_last_task_looks_at_all_the_others": ["exit-handler-1/join: runs whatever happened, and is not in the root"]},
    ),
    "a boolean compared to a text": (
        ACCEPTED,
        "inputs.parameter_values['pipelinechannel--judge-Output'] == 'true'",
        {
            "conditions_compare_like_with_like": [
                "exit-handler-1/condition-6: compares a bool with a string:"
                " inputs.parameter_values['pipelinechannel--judge-Output'] == 'true'"
            ]
        },
    ),
    "a condition on a field that the group lacks": (
        ACCEPTED,
        "inputs.parameter_values['pipelinechannel--uri'] != ''",
        {
            "conditions_compare_like_with_like": [
                "exit-handler-1/condition-6: has no input pipelinechannel--uri",
                "exit-handler-1/condition-6: compares a string with a unknown:"
                " inputs.parameter_values['pipelinechannel--uri'] != ''",
            ]
        },
    ),
    "a list of artifacts in a group": (
        (*BODY, "condition-6", "inputs", "artifacts"),
        {"tables": {"taskOutputArtifact": {"producerTask": "for-loop-2", "outputArtifactKey": "pipelinechannel--read-table"}}},
        {"a_list_of_artifacts_goes_to_no_group": ["exit-handler-1/condition-6: is given a list of artifacts, tables"]},
    ),
    "a task named like a driver": (
        (*BODY, "look-driver"),
        {"componentRef": {"name": "comp-look"}, "inputs": {"parameters": {"uri": {"runtimeValue": {"constant": "a"}}}}},
        {
            "names_are_ones_that_argo_and_kubernetes_take": [
                "exit-handler-1: two tasks of Argo are called look-driver",
            ]
        },
    ),
    "a task name with a space": (
        (*BODY, "look again"),
        {"componentRef": {"name": "comp-look"}, "inputs": {"parameters": {"uri": {"runtimeValue": {"constant": "a"}}}}},
        {
            "names_are_ones_that_argo_and_kubernetes_take": [
                "exit-handler-1: look again is no name of a task",
                "exit-handler-1: look again-driver is no name of a task",
            ]
        },
    ),
    "a pipeline name with a space": (
        ("pipelineInfo", "name"),
        "Tiny pipeline",
        {"names_are_ones_that_argo_and_kubernetes_take": ["the pipeline: Tiny pipeline is no name of Kubernetes"]},
    ),
    "a label that is a sentence": (
        (*ON_KUBERNETES, "exec-read", "podMetadata", "labels", "kfp-vision/role"),
        "a stage",
        {"names_are_ones_that_argo_and_kubernetes_take": [f"{IN_THE_TURN}: kfp-vision/role=a stage is no label"]},
    ),
}


def edit(text: str, path: tuple[str, ...], value: Any) -> str:
    """Returns the pipeline with one value changed; a path that begins with `platforms` leads into the second document."""
    documents = list(yaml.safe_load_all(text))
    node = documents[path[0] == "platforms"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    if value is None:
        del node[path[-1]]
    return yaml.safe_dump_all(documents)


@pytest.mark.parametrize("case", EDITS)
def test_reports_each_edit_of_a_sound_pipeline(case, sound_pipeline, monkeypatch):
    monkeypatch.setitem(backend_rules.MOST, "partitions", 20)
    path, value, expected = EDITS[case]
    found = find_faults(Pipeline(edit(sound_pipeline, path, value)))
    assert found == expected


def test_exactly_the_stages_that_read_or_change_the_outside_are_never_cached():
    found: dict[str, set[bool]] = {}
    for name in PIPELINES:
        pipeline = Pipeline((ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8"))
        for stage in pipeline.stages.values():
            cached = stage.spec["cachingOptions"].get("enableCache", False)
            found.setdefault(backend_rules.called(pipeline, stage), set()).add(cached)
    always_run = {stage for stage, cached in found.items() if cached == {False}}
    # Each of them has one pattern in OUTSIDE, and every pattern matches a stage.
    assert {stage: len(matching_patterns(stage)) for stage in found} == {stage: int(stage in always_run) for stage in found}
    assert {pattern for stage in found for pattern in matching_patterns(stage)} == backend_rules.OUTSIDE.keys()


def matching_patterns(stage: str) -> list[str]:
    return [pattern for pattern in backend_rules.OUTSIDE if fnmatch(stage, pattern)]


def test_every_rule_is_broken_by_some_case():
    found = {rule for table in (COMPILABLE, EDITS) for *_, expected in table.values() for rule in expected}
    assert found == {rule.__name__ for rule in backend_rules.RULES}


def argument_bytes(**changed: Any) -> int:
    """Returns the bytes of join_records' argument for 50 partitions, in an installation like the one that was measured."""
    pipeline = Pipeline(small_pipelines.compiled(small_pipelines.as_seen_with_fifty_partitions, "prepare-records"))
    sizes = {"recorded": 16, "first_id": 300, "spaced": False} | changed
    (found,) = (
        size
        for path, size in executor_input.arguments(pipeline, executor_input.Sizes(lambda loop: 50, **sizes)).items()
        if path[-1] == "join-records"
    )
    return found


def test_the_computed_argument_is_as_long_as_the_measured_one():
    assert argument_bytes() == pytest.approx(MEASURED_BYTES, rel=0.005)


def test_an_argument_grows_with_the_pipeline_root():
    longer = len(backend_rules.LONG_ROOT) - len(executor_input.DEFAULT_ROOT)
    # Five artifacts of each iteration, left_out, five outputs, the log of the stage, and the file that lists the outputs.
    assert argument_bytes(root=backend_rules.LONG_ROOT) - argument_bytes() == longer * (5 * 50 + 1 + 5 + 1 + 1)


def test_too_many_iterations_make_the_argument_too_long(monkeypatch):
    pipeline = Pipeline(small_pipelines.compiled(small_pipelines.as_seen_with_fifty_partitions))
    monkeypatch.setitem(backend_rules.MOST, "partitions", 50)
    (fault,) = backend_rules.no_argument_is_too_long(pipeline)
    assert fault.startswith("exit-handler-1/join-records: an argument of ")
    monkeypatch.setitem(backend_rules.MOST, "partitions", 20)
    assert backend_rules.no_argument_is_too_long(pipeline) == []


def test_counts_the_pods_of_a_run(sound_pipeline):
    pipeline = Pipeline(sound_pipeline)
    turns = {"for-loop-2": 2, "for-loop-4": 2, "for-loop-5": 3}  # partitions, the constant dictionaries, trials
    run = run_shape.shape(pipeline, lambda loop: turns[loop.path[-1]])
    # The drivers of the root and of the body, and the exit task; look, number, choose, judge and join; three loops, each with a
    # driver, and for each iteration a driver and a stage; accepted, with a stage in it; deploy, which "none" skips.
    assert run.pods == 2 + 2 + 5 * 2 + (1 + 2 * 3) + (1 + 2 * 3) + (1 + 3 * 3) + (1 + 2) + 1
    # If judge returns false, accepted is only its driver.
    assert run_shape.shape(pipeline, lambda loop: turns[loop.path[-1]], true=()).pods == run.pods - 2 - 1


def test_lists_the_graphs_of_a_run(sound_pipeline):
    run = run_shape.shape(Pipeline(sound_pipeline), lambda loop: 2)
    assert (run.layers, run.tasks) == (4, 11)
    graphs = {graph.title: (graph.tasks, graph.artifacts) for graph in run.graphs}
    # The body has nine boxes and two artifacts: the loop's tables, and the joined table.
    assert graphs["root"] == (2, 0) and graphs["root / run"] == (9, 2)
    assert graphs["root / run / partitions"] == (2, 0)
    assert graphs["root / run / partitions / turn"] == (1, 1)
    assert graphs["root / run / accepted / deploy"] == (1, 0)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("inputs.parameter_values['a'] == 'none'", "none", True),
        ("inputs.parameter_values['a'] != 'not true && none'", "none", True),
        ("int(inputs.parameter_values['a']) > 2", 2.0, False),
        ("inputs.parameter_values['a'] == true", False, False),
        ("!(inputs.parameter_values['a'] == true) && inputs.parameter_values['a'] != true", False, True),
        ("inputs.parameter_values['a'] == 'x' || inputs.parameter_values['a'] == 'y'", "y", True),
    ],
)
def test_evaluates_conditions_as_the_compiler_writes_them(text, value, expected):
    assert holds(text, {"a": value}) is expected


def test_lists_the_artifacts_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stage left an"):
        unwritten(tmp_path)
    assert run_component.run(small_pipelines.measure, tmp_path).succeeded
    assert unwritten(tmp_path) == ["measure/metrics"]
