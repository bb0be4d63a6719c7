"""Rules of the backend of Kubeflow Pipelines 2.17.0 for compiled pipelines, one function each; `kfp.local` checks none of them.

Each takes a pipeline and returns a line for each fault. Files are those of kubeflow/pipelines at the tag 2.17.0. "Seen" marks
what was observed on a cluster with Kubeflow Pipelines 2.17.0 and Argo Workflows 4.0.5.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kubernetes.utils.quantity import parse_quantity
from support import executor_input
from support.kfp_driver import (
    LAST,
    OPERAND,
    PLACEHOLDER,
    TAKES,
    Artifact,
    Loop,
    Origin,
    Path,
    Pipeline,
    Task,
    Value,
    condition,
    kind_of,
    waits_for,
)

from kfp_vision.preflight import rules

# The maximum number of iterations of a loop, by the field that sets it.
MOST = {"partitions": rules.MAX_PARTITIONS, "trials": rules.MAX_TRIALS}
ROOM = 0.9  # of the longest argument; the rest is for a longer root and the settings of a store
LONG_ROOT = "s3://" + "r" * 195
LIFETIMES = ("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure")
HOUR = 3600
# Argo Workflows, pkg/apis/workflow/v1alpha1/validation_utils.go: workflowFieldNameFmt and workflowFieldMaxLength.
FIELD_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]{0,127}")
# Kubernetes, "Labels and Selectors", and "Object Names and IDs", RFC 1123 label names.
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9][-a-z0-9.]{0,251}[a-z0-9]/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# Kubernetes, apimachinery/pkg/api/resource/quantity.go: the grammar above Quantity. parse_quantity accepts more, like "32 G".
QUANTITY = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")
TMP = "/tmp"
ON_GPU = "-gpu"  # in the name of a container image
# Stages, by the names of their functions, that must not reuse an earlier result, and why.
OUTSIDE = {
    "check_*": "says whether fields, stores and model will do: what would do then may be gone",
    "decide_training": "lists the images and what is deployed: the cache of the stages behind it hangs on its answer",
    "fingerprint_images": "lists the images: the cache of the stages behind it hangs on its answer",
    "fetch_*": "takes the newest version of what lies in a store",
    "evaluate_classifier": "compares with the version that is deployed",
    "predict_images": "names the images that lie at a URI now",
    "search_images": "takes the images that lie at a URI now",
    "review_images": "takes the images that lie at a URI now, or what was collected until now",
    "deploy_*": "writes a version into a repository, or tells the cluster to serve it",
    "register_model": "tells the registries that people look in of a model, once by its fingerprint",
    "export_model": "copies files into a repository",
    "collect_logged": "takes what the logger has written by now, and writes to the collection",
    "call_endpoint": "asks the service that is deployed",
    "report_outcome": "tells people how this very run ended",
}
DEPLOYS = "deploy_*"


def values_have_the_type_of_each_input(pipeline: Pipeline) -> list[str]:
    """A value must have the type of its input, at each group that it passes; text accepts any value. Otherwise the run ends.

    backend/src/v2/driver/resolve.go, resolveInputs: handleParamTypeValidationAndConversion and ValidateLiteralParameter.
    Seen: "input parameter trial type mismatch: expect STRUCT, got string".
    """
    faults = list(pipeline.faults)
    for name, declared in pipeline.form.items():
        if "defaultValue" not in declared:
            continue
        if (kind := kind_of(declared["defaultValue"])) != TAKES[declared["parameterType"]]:
            faults.append(f"field {name}: the default is of the kind {kind}, the field a {declared['parameterType']}")
        if declared.get("literals") and declared["defaultValue"] not in declared["literals"]:
            faults.append(f"field {name}: the default is none of {declared['literals']}")
    return faults


def an_item_of_a_list_is_no_dictionary(pipeline: Pipeline) -> list[str]:
    """A loop over a list from a stage or a field turns items that are dictionaries or lists into text: use their parts instead.

    The compiler declares the item of a plain `list` as STRING (kfp/dsl/for_loop.py, LoopParameterArgument), and the driver
    converts it. Seen: numbers and texts arrive unchanged, a dictionary as text, its parts by `item.key` with their types;
    dictionaries that are constants of the pipeline arrive unchanged.
    """
    faults = []
    for stage in pipeline.stages.values():
        declared = stage.component.get("inputDefinitions", {}).get("parameters", {})
        for name, value in stage.parameters.items():
            kind = declared.get(name, {}).get("parameterType")
            listed = value.origin.of.origin if value.origin.sort == "item" and value.origin.of else None
            whole = listed and listed.sort != "constant" and not value.origin.part
            if whole and kind in ("STRUCT", "LIST"):
                faults.append(f"{stage.where}: {name} is a {kind}, and takes an item of {listed}")
    return faults


def what_a_pod_asks_for_is_a_text(pipeline: Pipeline) -> list[str]:
    """Image, CPU, memory and accelerators given by an input must be text: other types are ignored.

    backend/src/v2/driver/resolve.go, resolvePodSpecInputRuntimeParameter: GetStringValue() of the stage's own input;
    driver.go, initPodSpecPatch: an accelerator without a type or a count is skipped. Seen: with gpu_count=1 as a
    number the pod requested no GPU; as text it did.
    """
    faults = []
    for stage in pipeline.stages.values():
        for entry, text in _resolved_texts(pipeline.container(stage)):
            found = PLACEHOLDER.search(text)
            if not found:
                continue
            value = stage.parameters.get(found[1])
            if value is None:
                faults.append(f"{stage.where}: {entry} takes {found[1]}, which is no input of it")
            elif value.kind != "string":
                faults.append(f"{stage.where}: {entry} takes {found[1]}, a {value.kind} ({value.origin}), which has no text")
            if text != f"{{{{{found[0]}}}}}":
                faults.append(f"{stage.where}: {entry} loses what stands around {found[1]}")
    return faults


def _resolved_texts(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields name and text of everything that initPodSpecPatch resolves for a container."""
    resources = container.get("resources", {})
    yield "image", container.get("image", "")
    yield from ((name, text) for name, text in resources.items() if name.startswith("resource"))
    accelerator = resources.get("accelerator", {})
    yield from ((name, text) for name, text in accelerator.items() if name.startswith("resource"))


def what_kubernetes_is_asked_for_has_the_right_shape(pipeline: Pipeline) -> list[str]:
    """A node selector must be a dictionary, tolerations one or a list of them, a secret's name a text that is not empty.

    backend/src/v2/driver/k8s.go, extendPodSpecPatch: each is looked up among the inputs of the stage's group;
    resolveK8sJsonParameter and resolveInputParameterStr of resolve.go.
    """
    faults = []
    for stage in pipeline.stages.values():
        settings = pipeline.on_kubernetes(stage)
        checked = [
            ("nodeSelector", source, ("struct",)) for source in _specified(settings.get("nodeSelector"), "nodeSelectorJson")
        ]
        checked += [
            ("tolerations", source, ("struct", "list")) for source in _specified(settings.get("tolerations"), "tolerationJson")
        ]
        checked += [
            ("nodeAffinity", source, ("struct",)) for source in _specified(settings.get("nodeAffinity"), "nodeAffinityJson")
        ]
        for entry in ("secretAsEnv", "secretAsVolume", "imagePullSecret"):
            checked += [(entry, source, ("string",)) for source in _specified(settings.get(entry), "secretNameParameter")]
        for entry in ("configMapAsEnv", "configMapAsVolume"):
            checked += [(entry, source, ("string",)) for source in _specified(settings.get(entry), "configMapNameParameter")]
        for entry, source, kinds in checked:
            known = len(pipeline.faults)
            value = pipeline.value(source, stage.within, stage) if stage.within else None
            faults += [f"{fault} ({entry})" for fault in pipeline.faults[known:]]
            del pipeline.faults[known:]
            if value and value.kind not in kinds:
                expected = " or a ".join(kinds)
                faults.append(f"{stage.where}: {entry} is a {value.kind} ({value.origin}), and must be a {expected}")
            if value and kinds == ("string",) and value.origin.name == '""':
                faults.append(f"{stage.where}: {entry} names an empty text")
    return faults


def _specified(settings: Any, name: str) -> list[dict[str, Any]]:
    """Returns the values of an entry that come from a parameter; the entry is a dictionary or a list of them."""
    sources = settings if isinstance(settings, list) else [settings or {}]
    return [source[name] for source in sources if name in source]


def each_task_waits_for_tasks_beside_it(pipeline: Pipeline) -> list[str]:
    """The dependencies of a task, and the sources of the outputs of a group, must be tasks of the same group, without cycles.

    backend/src/v2/compiler/argocompiler/dag.go, addImplicitDependencies: "unknown producer task"; Argo Workflows,
    workflow/validate/validate.go, validateDAG: "dependency not defined", and verifyNoCycles: "dependency cycle detected".
    """
    faults = []
    for group in pipeline.groups.values():
        waits = {key: sorted(waits_for(task) | _asked_for_its_status(task)) for key, task in group.tasks.items()}
        for key, others in waits.items():
            faults += [f"{group.where}: {key} waits for {other}, which is not there" for other in others if other not in waits]
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            faults.append(f"{group.where}: each waits for the next: {', '.join(reversed(error.args[1]))}")
        for name, subtask in _subtasks(group):
            if subtask not in waits:
                faults.append(f"{group.where}: its output {name} comes from {subtask}, which is not there")
    return faults


def _asked_for_its_status(task: Mapping[str, Any]) -> set[str]:
    given = task.get("inputs", {}).get("parameters", {}).values()
    return {source["taskFinalStatus"]["producerTask"] for source in given if "taskFinalStatus" in source}


def _subtasks(group: Task) -> Iterator[tuple[str, str]]:
    """Yields each output of a group with a task in the group that provides it."""
    outputs = group.component["dag"].get("outputs", {})
    for name, how in outputs.get("parameters", {}).items():
        sources = [how["valueFromParameter"]] if "valueFromParameter" in how else how["valueFromOneof"]["parameterSelectors"]
        yield from ((name, source["producerSubtask"]) for source in sources)
    for name, how in outputs.get("artifacts", {}).items():
        yield from ((name, source["producerSubtask"]) for source in how["artifactSelectors"])


def artifacts_have_the_type_of_each_input(pipeline: Pipeline) -> list[str]:
    """An artifact must have the type of its input, except system.Artifact; lists must go to lists; none may be missing.

    sdk/python/kfp/dsl/types/type_utils.py, check_artifact_type_compatibility, checks this at compile time. The driver,
    resolveInputArtifact of resolve.go, passes on any artifact: a stage then fails when it reads it.
    """
    faults = []
    for task in _everything(pipeline):
        for name, declared in task.component.get("inputDefinitions", {}).get("artifacts", {}).items():
            given = task.artifacts.get(name)
            if given:
                faults += [f"{task.where}: {fault}" for fault in _artifact_fault(pipeline, name, declared, given)]
            elif name not in task.spec.get("inputs", {}).get("artifacts", {}) and not declared.get("isOptional"):
                faults.append(f"{task.where}: nothing is given as {name}")
    return faults + _group_artifact_faults(pipeline)


def _artifact_fault(pipeline: Pipeline, name: str, declared: Mapping[str, Any], given: Artifact) -> Iterator[str]:
    """Returns what is wrong with the artifact for an input or output."""
    made = pipeline.stages[given.stage].component["outputDefinitions"]["artifacts"][given.name]
    source = f"{given.name} of {'/'.join(given.stage)}"
    expected, found = declared["artifactType"]["schemaTitle"], made["artifactType"]["schemaTitle"]
    if "system.Artifact" not in (expected, found) and expected != found:
        yield f"{name} is a {expected}, and {source} a {found}"
    if bool(declared.get("isArtifactList")) != bool(given.loops):
        yield f"{name} is {_is_list_artifact(declared.get('isArtifactList'))}, and {source} {_is_list_artifact(given.loops)}"


def _is_list_artifact(listed: Any) -> str:
    return "a list" if listed else "one artifact"


def _group_artifact_faults(pipeline: Pipeline) -> list[str]:
    """Returns the faults of the artifacts that groups pass on."""
    faults = []
    for group in pipeline.groups.values():
        for name, declared in group.component.get("outputDefinitions", {}).get("artifacts", {}).items():
            if group.within is None:
                continue
            reference = {"taskOutputArtifact": {"producerTask": group.path[-1], "outputArtifactKey": name}}
            known = len(pipeline.faults)
            given = pipeline.artifact(reference, group.within, group)
            del pipeline.faults[known:]
            if given:
                faults += [f"{group.where}: {fault}" for fault in _artifact_fault(pipeline, name, declared, given)]
    return faults


def what_a_pod_asks_for_is_a_quantity(pipeline: Pipeline) -> list[str]:
    """CPU, memory, accelerators and disk must be quantities of Kubernetes, with limits above 0 and not below the requests.

    backend/src/v2/driver/driver.go, getPodResource and initPodSpecPatch: an invalid quantity ends the run; k8s.go,
    extendPodSpecPatch: MustParse of a sizeLimit crashes the driver. Kubernetes, pkg/apis/core/
    validation/validation.go: "must be less than or equal to memory limit". Kubernetes treats a limit of 0 as none.
    """
    faults = []
    for stage in pipeline.stages.values():
        sizes = [("sizeLimit", mount["sizeLimit"]) for mount in _mounts(pipeline, stage) if "sizeLimit" in mount]
        texts = [
            (entry, text)
            for entry, text in _resolved_texts(pipeline.container(stage))
            if entry not in ("image", "resourceType")
        ]
        known = {}
        for entry, text in texts + sizes:
            found = _default_value(pipeline, stage, text)
            if found is None:
                continue
            if not QUANTITY.fullmatch(found):
                faults.append(f"{stage.where}: {entry} is {found!r}, which is no quantity")
                continue
            known[entry] = parse_quantity(found)
            if known[entry] < 0 or (known[entry] == 0 and entry.endswith("Limit")):
                faults.append(f"{stage.where}: {entry} is {found!r}, and must be above 0")
        for of in ("Cpu", "Memory"):
            least, most = known.get(f"resource{of}Request"), known.get(f"resource{of}Limit")
            if least is not None and most is not None and least > most:
                faults.append(f"{stage.where}: resource{of}Request is above resource{of}Limit")
    return faults


def _mounts(pipeline: Pipeline, stage: Task) -> list[dict[str, Any]]:
    return list(pipeline.on_kubernetes(stage).get("emptyDirMounts", []))


def _default_value(pipeline: Pipeline, stage: Task, text: str) -> str | None:
    """Returns the value of a text with the form at its defaults; None if a stage determines it, or if there is no text."""
    found = PLACEHOLDER.search(text)
    value = stage.parameters.get(found[1]) if found else Value("string", Origin("constant", json.dumps(text)))
    if value is None or value.origin.sort not in ("constant", "field"):
        return None
    is_field = value.origin.sort == "field"
    given = pipeline.form[value.origin.name].get("defaultValue") if is_field else json.loads(value.origin.name)
    return given if isinstance(given, str) else None


def each_pod_has_an_end_a_limit_and_room(pipeline: Pipeline) -> list[str]:
    """A stage must have a deadline, a memory limit, and a volume of limited size at /tmp.

    backend/src/v2/driver/k8s.go, extendPodSpecPatch, sets no defaults: a stage that hangs then blocks its node, one without a
    limit takes the memory of other pods, and one that writes to the root file system fills the disk of the node.
    sdk/python/kfp/dsl/component_factory.py: a stage first runs `mktemp -d`, which is below /tmp.
    """
    faults = []
    for stage in pipeline.stages.values():
        if not (container := pipeline.container(stage)):
            continue
        resources = container.get("resources", {})
        if int(pipeline.on_kubernetes(stage).get("activeDeadlineSeconds", 0)) <= 0:
            faults.append(f"{stage.where}: has no deadline")
        if not (resources.get("resourceMemoryLimit") or resources.get("memoryLimit")):
            faults.append(f"{stage.where}: has no limit of memory")
        if not any(mount.get("mountPath") == TMP and mount.get("sizeLimit") for mount in _mounts(pipeline, stage)):
            faults.append(f"{stage.where}: has no volume of limited size at {TMP}")
    return faults


def a_field_decides_on_each_accelerator(pipeline: Pipeline) -> list[str]:
    """The count of an accelerator must come from the form by a placeholder, so that runs without one are possible.

    Its type may be a constant, in a form without that field. backend/src/v2/driver/driver.go, initPodSpecPatch: the limit is
    set if both are texts; `0` is a limit of 0.
    """
    faults = []
    for stage in pipeline.stages.values():
        accelerator = pipeline.container(stage).get("resources", {}).get("accelerator")
        for entry, older in (("resourceType", "type"), ("resourceCount", "count")) if accelerator is not None else ():
            text = str(accelerator.get(entry) or accelerator.get(older, ""))
            found = PLACEHOLDER.search(text)
            if text and not found and entry == "resourceType":
                continue
            if not found or not pipeline.fields_behind(stage.parameters.get(found[1])):
                faults.append(f"{stage.where}: {entry} is {text!r}, and no field decides on it")
    return faults


def what_is_made_for_a_gpu_gets_to_one(pipeline: Pipeline) -> list[str]:
    """A stage with the GPU image must request an accelerator, and have a node selector and tolerations.

    backend/src/v2/driver/driver.go, initPodSpecPatch: without an accelerator nothing is requested, and the stage runs on the
    CPUs of any node; Kubernetes, "Taints and Tolerations": nodes with GPUs repel pods without a toleration of their taint.
    """
    faults = []
    for stage in pipeline.stages.values():
        container, settings = pipeline.container(stage), pipeline.on_kubernetes(stage)
        found = {
            "accelerator": container.get("resources", {}).get("accelerator"),
            "node selector": settings.get("nodeSelector"),
            "tolerations": settings.get("tolerations"),
        }
        if ON_GPU in container.get("image", "").rpartition("/")[2]:
            faults += [
                f"{stage.where}: runs on {container['image']} without {what}" for what, value in found.items() if not value
            ]
    return faults


def no_argument_is_too_long(pipeline: Pipeline) -> list[str]:
    """The inputs of a stage are one argument, which Linux limits to 131,071 bytes; here to nine tenths, with the longest loops.

    See executor_input. Seen: with 50 partitions, join_records had one argument of 140,362 bytes: "exec /var/run/argo/argoexec:
    argument list too long", with no log, after all the work.
    """
    turns = {task.path: most_turns(pipeline, task.loop) for task in _everything(pipeline) if task.loop}
    faults = [f"{'/'.join(path)}: no limit is known for what it runs through" for path, most in turns.items() if most is None]
    sizes = executor_input.Sizes(lambda loop: turns[loop.path] or 1, root=LONG_ROOT)
    most = int(executor_input.LONGEST * ROOM)
    for path, found in executor_input.arguments(pipeline, sizes).items():
        if found > most:
            faults.append(f"{'/'.join(path)}: an argument of {found:,} bytes, above {most:,}")
    for part, found in executor_input.static_arguments(pipeline).items():
        if found > most:
            faults.append(f"{part}: an argument of the driver of {found:,} bytes, above {most:,}")
    return faults


def _everything(pipeline: Pipeline) -> list[Task]:
    return [*pipeline.groups.values(), *pipeline.stages.values()]


def most_turns(pipeline: Pipeline, loop: Loop) -> int | None:
    """Returns the maximum number of iterations of a loop: its constant items, or the limit of the field; None if unlimited."""
    if loop.items is None:
        return len(loop.raw)
    return max((MOST[name] for name in pipeline.fields_behind(loop.items) if name in MOST), default=None)


def every_artifact_has_a_file(pipeline: Pipeline) -> list[str]:
    """Every output artifact must have a file: for one with only metadata, the page shows an error.

    backend/src/v2/component/launcher_v2.go, uploadOutputArtifacts, registers it all the same ("We allow components to not
    produce output files"); frontend/src/components/ArtifactPreview.tsx. Seen: "Error in retrieving artifact preview".

    An artifact that is passed to another function counts as written, since the code of the stage does not show its use;
    `local_outputs.unwritten` checks it after a run.
    """
    faults = []
    for stage in pipeline.stages.values():
        code = pipeline.code(stage)
        made = stage.component.get("outputDefinitions", {}).get("artifacts", {}) if code else {}
        faults += [f"{stage.where}: nothing is written to {name}" for name in made if code and not _is_written(code, name)]
    return faults


def _is_written(code: ast.AST, name: str) -> bool:
    """Returns whether a function uses the path of an artifact, or passes the artifact on."""
    aside = {id(node.value) for node in ast.walk(code) if isinstance(node, ast.Attribute) and _is_metadata_attribute(node.attr)}
    return any(isinstance(node, ast.Name) and node.id == name and id(node) not in aside for node in ast.walk(code))


def _is_metadata_attribute(attribute: str) -> bool:
    """Returns whether an attribute of an artifact concerns its metadata, such as `log_metric`."""
    return attribute in ("metadata", "name", "framework") or attribute.startswith("log_")


def a_run_is_kept_as_long_however_it_ends(pipeline: Pipeline) -> list[str]:
    """All three lifetimes must be set to the same value: KFP replaces those that are missing by one hour.

    backend/src/v2/compiler/argocompiler/argo.go, buildTTLStrategy; manifests/kustomize/third-party/argo/base/
    workflow-controller-configmap-patch.yaml, workflowDefaults. Seen: deleted after 59m59s with seven days compiled in, but only
    as secondsAfterCompletion.
    """
    config = pipeline.platform.get("pipelineConfig", {})
    found = {name: int(config.get(name, 0)) for name in LIFETIMES}
    faults = [f"pipelineConfig: {name} is not set, so that KFP's hour holds" for name, seconds in found.items() if not seconds]
    given = {seconds for seconds in found.values() if seconds}
    if len(given) > 1:
        faults.append(f"pipelineConfig: the lifetimes differ: {found}")
    return faults + [f"pipelineConfig: a lifetime of {seconds} s, not above an hour" for seconds in given if seconds <= HOUR]


def a_stage_that_is_tried_again_has_the_time(pipeline: Pipeline) -> list[str]:
    """Retries must have a pause between them, and a total time in which each fits with its own deadline.

    backend/src/v2/compiler/argocompiler/container.go, getTaskRetryParametersWithValues: unset values become "0". Argo's
    maxDuration counts from the first attempt and includes the attempts. Retries help only against lost pods: KFP's manifests
    set `retryPolicy: OnError` (the file above, templateDefaults). Seen: exit code 1, OOMKilled and an exceeded deadline are not
    retried; a deleted pod is, under the same name.
    """
    faults = []
    for stage in pipeline.stages.values():
        policy = stage.spec.get("retryPolicy")
        if policy is None:
            continue
        tries, factor = policy.get("maxRetryCount", 0), policy.get("backoffFactor", 0)
        pause, in_all = (_seconds(policy.get(name, "0s")) for name in ("backoffDuration", "backoffMaxDuration"))
        if tries < 1 or factor < 1 or pause <= 0 or in_all <= 0:
            faults.append(f"{stage.where}: tried again {tries} times, after {pause:g} s times {factor:g}, within {in_all:g} s")
        deadline = int(pipeline.on_kubernetes(stage).get("activeDeadlineSeconds", 0))
        if in_all < deadline * (tries + 1):
            faults.append(f"{stage.where}: {in_all:g} s for {tries + 1} tries of up to {deadline} s")
    return faults


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def one_last_task_looks_at_all_the_others(pipeline: Pipeline) -> list[str]:
    """One task of the root must always run, after the one task that contains all others, whose final status it gets.

    backend/src/v2/compiler/argocompiler/dag.go, DAG: it becomes a hook of the task that it depends on; driver/resolve.go,
    resolveInputParameter: the status is that of dependentTasks[0], which must be in the same group.
    """
    if len(pipeline.last) != 1:
        return [f"the root: {len(pipeline.last)} tasks run whatever happened; must be one"]
    ((key, last),) = pipeline.last.items()
    before = last.get("dependentTasks", [])
    faults = [f"{key}: does not look at {other}" for other in pipeline.root.tasks if other not in (key, *before)]
    if len(before) != 1 or before[0] not in pipeline.root.tasks:
        faults.append(f"{key}: waits for {before}; must wait for the one task that holds the others")
    if last["componentRef"]["name"] in {task.name for task in pipeline.groups.values()}:
        faults.append(f"{key}: is a group")
    for name, source in last.get("inputs", {}).get("parameters", {}).items():
        producer = source.get("taskFinalStatus", {}).get("producerTask")
        if producer and producer not in before[:1]:
            faults.append(f"{key}: {name} is the status of {producer}, and the driver gives that of {before[:1]}")
        if "taskOutputParameter" in source:
            faults.append(f"{key}: {name} comes from a task, which may not have run")
    inner = [task for task in _everything(pipeline) if task.spec.get("triggerPolicy", {}).get("strategy") == LAST]
    return faults + [f"{task.where}: runs whatever happened, and is not in the root" for task in inner if len(task.path) > 1]


def conditions_compare_like_with_like(pipeline: Pipeline) -> list[str]:
    """A condition must read inputs of its task, and compare values of the same type.

    backend/src/v2/expression/expression.go, Condition, evaluates it over the inputs with Google's CEL: a missing name ends the
    run, and a number never equals a text.
    """
    faults = []
    for task in _everything(pipeline):
        if not task.condition:
            continue
        operands = OPERAND.findall(task.condition)
        faults += [f"{task.where}: has no input {name}" for name in operands if name not in task.parameters]
        try:
            read = condition(task.condition)
        except SyntaxError:
            faults.append(f"{task.where}: cannot be read: {task.condition}")
            continue
        for node in ast.walk(read):
            if not isinstance(node, ast.Compare):
                continue
            kinds = {_kind(task, side) for side in (node.left, *node.comparators)}
            if len(kinds) > 1:
                faults.append(f"{task.where}: compares a {' with a '.join(sorted(kinds))}: {task.condition}")
            if kinds & {"list", "struct"}:
                faults.append(f"{task.where}: compares what is neither a text nor a number nor a boolean: {task.condition}")
    return faults


def _kind(task: Task, side: ast.expr) -> str:
    if isinstance(side, ast.Constant):
        return kind_of(side.value)
    if isinstance(side, ast.Call) and isinstance(side.func, ast.Name):
        return "string" if side.func.id == "string" else "number"
    if isinstance(side, ast.UnaryOp):
        return _kind(task, side.operand)
    name = side.slice.value if isinstance(side, ast.Subscript) and isinstance(side.slice, ast.Constant) else ""
    return task.parameters[name].kind if name in task.parameters else "unknown"


def what_is_kept_for_another_run_depends_on_what_lies_outside(pipeline: Pipeline) -> list[str]:
    """A cached stage with credentials must have an input from a stage that always runs.

    backend/src/v2/driver/cache.go, getFingerPrint: the key holds values, the identities of artifacts, image and command, but
    not the contents of buckets. This rule cannot tell whether that stage reads the same bucket.
    """
    faults = []
    for stage in pipeline.stages.values():
        if not _is_cached(stage) or not _has_credentials(pipeline, stage):
            continue
        behind = _upstream_stages(pipeline, stage)
        if all(_is_cached(pipeline.stages[path]) for path in behind):
            faults.append(f"{stage.where}: has credentials, is cached, and takes nothing from a stage that always runs")
    return faults


def _is_cached(stage: Task) -> bool:
    return bool(stage.spec.get("cachingOptions", {}).get("enableCache"))


def _has_credentials(pipeline: Pipeline, stage: Task) -> bool:
    settings = pipeline.on_kubernetes(stage)
    return bool(settings.get("secretAsEnv") or settings.get("secretAsVolume"))


def _upstream_stages(pipeline: Pipeline, stage: Task) -> set[Path]:
    """Returns the stages that the inputs of a stage come from, directly or indirectly."""
    found, ahead = set[Path](), [stage]
    while ahead:
        current = ahead.pop()
        before = {artifact.stage for artifact in current.artifacts.values()}
        before |= {
            origin.stage for value in current.parameters.values() for origin in value.through() if origin.sort == "output"
        }
        before = (before & pipeline.stages.keys()) - found
        found |= before
        ahead += [pipeline.stages[path] for path in before]
    return found


def what_stands_for_the_outside_is_never_kept(pipeline: Pipeline) -> list[str]:
    """A stage with credentials that gives a value to a cached stage with credentials must always run.

    backend/src/v2/driver/cache.go, getFingerPrint: such a value, like the fingerprint of a folder, is the only part of the key
    of the second stage that depends on external data. If it is cached itself, it no longer changes with the data. An artifact,
    and a value beside an artifact of the same stage, are as fresh as that stage, to which this rule applies as well.
    """
    faults = set()
    for stage in pipeline.stages.values():
        if not _is_cached(stage) or not _has_credentials(pipeline, stage):
            continue
        givers = set[Path]().union(*(pipeline.values_behind(value)[1] for value in stage.parameters.values()))
        givers -= {artifact.stage for artifact in stage.artifacts.values()}
        for giver in (pipeline.stages[path] for path in givers):
            if _is_cached(giver) and _has_credentials(pipeline, giver):
                faults.add(f"{giver.where}: is cached, and {stage.where} knows by its value what lies outside")
    return sorted(faults)


def what_looks_outside_or_changes_it_always_runs(pipeline: Pipeline) -> list[str]:
    """A stage of OUTSIDE must never be cached.

    backend/src/v2/driver/container.go, Container: a cached stage does not run, whatever its side effects.
    """
    return [
        f"{stage.where}: is cached, and {why}"
        for stage in pipeline.stages.values()
        for pattern, why in OUTSIDE.items()
        if fnmatch(called(pipeline, stage), pattern) and _is_cached(stage)
    ]


def called(pipeline: Pipeline, stage: Task) -> str:
    """Returns the name of the function that a stage runs; without one, of its component."""
    code = pipeline.code(stage)
    return code.name if code else stage.name.removeprefix("comp-").replace("-", "_")


def what_deploys_stands_below_a_condition(pipeline: Pipeline) -> list[str]:
    """A stage that deploys must be in a group with a condition on an input.

    backend/src/v2/driver/dag.go, DAG, `execution.Condition`: nothing else prevents its stages from running.
    """
    return [
        f"{stage.where}: deploys, and stands below no condition"
        for path, stage in pipeline.stages.items()
        if fnmatch(called(pipeline, stage), DEPLOYS)
        and not any(OPERAND.search(pipeline.groups[path[:length]].condition) for length in range(len(path)))
    ]


def names_are_ones_that_argo_and_kubernetes_take(pipeline: Pipeline) -> list[str]:
    """Names of tasks and templates must be valid in Argo and unique; labels must be valid in Kubernetes.

    backend/src/v2/compiler/argocompiler/dag.go: a task and its `-driver` are siblings; templates are named after
    components, loops and hooks (argo.go: templateName changes nothing, addTemplate rejects duplicates). The names of pods need
    no rule: Argo truncates them at 253 characters (workflow/util/pod_name.go).
    """
    faults = [f"the pipeline: {pipeline.name} is no name of Kubernetes"] * (not OBJECT_NAME.fullmatch(pipeline.name))
    components = {task.name for task in pipeline.groups.values()}
    templates = Counter(f"exit-hook-root-{key}" for key in pipeline.last) + Counter(components)
    for group in {group.name: group for group in pipeline.groups.values()}.values():
        run = Counter(name for key in group.tasks for name in (key, f"{key}-driver"))
        faults += [f"{group.where}: two tasks of Argo are called {name}" for name, many in run.items() if many > 1]
        faults += [f"{group.where}: {name} is no name of a task" for name in run if not FIELD_NAME.fullmatch(name)]
        for key, task in group.tasks.items():
            if "parameterIterator" in task:
                called = task["componentRef"]["name"]
                templates += Counter((f"{called}-{key}-iterator", f"{called}-iteration"))
    faults += [f"two templates of Argo are called {name}" for name, many in templates.items() if many > 1]
    faults += [f"{name} is no name of a template" for name in templates if not FIELD_NAME.fullmatch(name)]
    for stage in pipeline.stages.values():
        for key, value in pipeline.on_kubernetes(stage).get("podMetadata", {}).get("labels", {}).items():
            if not (LABEL_KEY.fullmatch(key) and LABEL.fullmatch(value)):
                faults.append(f"{stage.where}: {key}={value} is no label")
    return faults


def a_list_of_artifacts_goes_to_no_group(pipeline: Pipeline) -> list[str]:
    """A list collected from a loop must be used beside the loop: the stages of a group would get only one item.

    backend/src/v2/metadata/client.go: CreateExecution writes an event for each artifact under the name of the input, and
    GetInputArtifactsByExecutionID, which the stages of the group use, keeps the last one of a name.
    """
    given: Iterator[tuple[Task, str, Artifact]] = (
        (group, name, artifact) for group in pipeline.groups.values() for name, artifact in group.artifacts.items()
    )
    return [f"{group.where}: is given a list of artifacts, {name}" for group, name, artifact in given if artifact.loops]


RULES = (
    values_have_the_type_of_each_input,
    an_item_of_a_list_is_no_dictionary,
    what_a_pod_asks_for_is_a_text,
    what_kubernetes_is_asked_for_has_the_right_shape,
    each_task_waits_for_tasks_beside_it,
    artifacts_have_the_type_of_each_input,
    what_a_pod_asks_for_is_a_quantity,
    each_pod_has_an_end_a_limit_and_room,
    a_field_decides_on_each_accelerator,
    what_is_made_for_a_gpu_gets_to_one,
    no_argument_is_too_long,
    every_artifact_has_a_file,
    a_run_is_kept_as_long_however_it_ends,
    a_stage_that_is_tried_again_has_the_time,
    one_last_task_looks_at_all_the_others,
    conditions_compare_like_with_like,
    what_is_kept_for_another_run_depends_on_what_lies_outside,
    what_stands_for_the_outside_is_never_kept,
    what_looks_outside_or_changes_it_always_runs,
    what_deploys_stands_below_a_condition,
    names_are_ones_that_argo_and_kubernetes_take,
    a_list_of_artifacts_goes_to_no_group,
)
