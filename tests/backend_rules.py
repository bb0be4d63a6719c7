"""What the backend of Kubeflow Pipelines 2.17.0 asks of a compiled pipeline, one function a rule; `kfp.local` asks none of it.

Each takes a pipeline and gives a line for each fault. The files named are those of kubeflow/pipelines at the tag 2.17.0; what a
rule calls seen was seen on a cluster with Kubeflow Pipelines 2.17.0 and Argo Workflows 4.0.5.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import executor_input
from kfp_driver import LAST, OPERAND, PLACEHOLDER, TAKES, Artifact, Loop, Path, Pipeline, Task, condition, kind_of

from kfp_vision import parameters

# The most turns that a loop makes, by the field that says how many.
MOST = {"partitions": parameters.MOST_PARTITIONS, "trials": parameters.MOST_TRIALS}
ROOM = 0.9  # of the longest argument: what is left is for a longer root, and for what a store's settings add
LONG_ROOT = "s3://" + "r" * 195
LIFETIMES = ("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure")
HOUR = 3600
# Argo Workflows, pkg/apis/workflow/v1alpha1/validation_utils.go: workflowFieldNameFmt and workflowFieldMaxLength.
FIELD_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]{0,127}")
# Kubernetes, "Labels and Selectors", and "Object Names and IDs", RFC 1123 label names.
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9][-a-z0-9.]{0,251}[a-z0-9]/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def values_have_the_type_of_each_input(pipeline: Pipeline) -> list[str]:
    """A value of another type than an input's ends the run, at each group that it comes through; a text takes anything.

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
    """A dictionary or a list out of a list that a stage or a field gives comes as text: take its parts, or a text, or a number.

    The compiler declares the item of a plain `list` as STRING (kfp/dsl/for_loop.py, LoopParameterArgument), and the driver
    makes it one. Seen: numbers and texts arrive as they are, a dictionary as text, its parts by `item.key` typed; dictionaries
    that stand in the pipeline itself arrive as such.
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
    """Image, cores, memory and accelerators that an input names must be texts: a number has no text, and is left out.

    backend/src/v2/driver/resolve.go, resolvePodSpecInputRuntimeParameter: GetStringValue() of what the stage itself is given;
    driver.go, initPodSpecPatch: an accelerator without a type or a count is passed over. Seen: gpu_count=1 as a number, and the
    pod asked for none; as a text, and it did.
    """
    faults = []
    for stage in pipeline.stages.values():
        for entry, text in _asked(pipeline.container(stage)):
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


def _asked(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What initPodSpecPatch resolves, of a container: name and text."""
    resources = container.get("resources", {})
    yield "image", container.get("image", "")
    yield from ((name, text) for name, text in resources.items() if name.startswith("resource"))
    accelerator = resources.get("accelerator", {})
    yield from ((name, text) for name, text in accelerator.items() if name.startswith("resource"))


def what_kubernetes_is_asked_for_has_the_right_shape(pipeline: Pipeline) -> list[str]:
    """A node selector is a dictionary, tolerations are one or a list of them, a secret's name is a text that is not empty.

    backend/src/v2/driver/k8s.go, extendPodSpecPatch: each is looked up among what the stage's group is given;
    resolveK8sJsonParameter and resolveInputParameterStr of resolve.go.
    """
    faults = []
    for stage in pipeline.stages.values():
        asked = pipeline.on_kubernetes(stage)
        wanted = [("nodeSelector", one, ("struct",)) for one in _specified(asked.get("nodeSelector"), "nodeSelectorJson")]
        wanted += [("tolerations", one, ("struct", "list")) for one in _specified(asked.get("tolerations"), "tolerationJson")]
        wanted += [("nodeAffinity", one, ("struct",)) for one in _specified(asked.get("nodeAffinity"), "nodeAffinityJson")]
        for entry in ("secretAsEnv", "secretAsVolume", "imagePullSecret"):
            wanted += [(entry, one, ("string",)) for one in _specified(asked.get(entry), "secretNameParameter")]
        for entry in ("configMapAsEnv", "configMapAsVolume"):
            wanted += [(entry, one, ("string",)) for one in _specified(asked.get(entry), "configMapNameParameter")]
        for entry, one, kinds in wanted:
            known = len(pipeline.faults)
            value = pipeline.value(one, stage.within, stage) if stage.within else None
            faults += [f"{fault} ({entry})" for fault in pipeline.faults[known:]]
            del pipeline.faults[known:]
            if value and value.kind not in kinds:
                right = " or a ".join(kinds)
                faults.append(f"{stage.where}: {entry} is a {value.kind} ({value.origin}), and must be a {right}")
            if value and kinds == ("string",) and value.origin.name == '""':
                faults.append(f"{stage.where}: {entry} names an empty text")
    return faults


def _specified(asked: Any, name: str) -> list[dict[str, Any]]:
    """The parts of an entry that a parameter gives; the entry is one, or a list."""
    ones = asked if isinstance(asked, list) else [asked or {}]
    return [one[name] for one in ones if name in one]


def no_argument_is_too_long(pipeline: Pipeline) -> list[str]:
    """All that a stage is given is one argument; Linux takes 131,071 bytes: here nine tenths, with the most turns of a loop.

    See executor_input. Seen: 50 partitions, and join_records had one argument of 140,362 bytes: "exec /var/run/argo/argoexec:
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
    """How many turns a loop may make: what stands in it, or the limit of the field that says so; None where no field does."""
    if loop.items is None:
        return len(loop.raw)
    return max((MOST[name] for name in pipeline.fields_behind(loop.items) if name in MOST), default=None)


def every_artifact_has_a_file(pipeline: Pipeline) -> list[str]:
    """An output artifact of which only the metadata is written has nothing at its place, and the page shows an error in red.

    backend/src/v2/component/launcher_v2.go, uploadOutputArtifacts, registers it all the same ("We allow components to not
    produce output files"); frontend/src/components/ArtifactPreview.tsx. Seen: "Error in retrieving artifact preview".

    An artifact that is handed on whole counts as written: what becomes of it the code of the stage does not tell;
    `local_outputs.unwritten` does, behind a run.
    """
    faults = []
    for stage in pipeline.stages.values():
        code = pipeline.code(stage)
        made = stage.component.get("outputDefinitions", {}).get("artifacts", {}) if code else {}
        faults += [f"{stage.where}: nothing is written to {name}" for name in made if code and not _is_written(code, name)]
    return faults


def _is_written(code: ast.AST, name: str) -> bool:
    """Whether a function takes the path of an artifact, or hands the artifact on."""
    aside = {id(node.value) for node in ast.walk(code) if isinstance(node, ast.Attribute) and _is_aside(node.attr)}
    return any(isinstance(node, ast.Name) and node.id == name and id(node) not in aside for node in ast.walk(code))


def _is_aside(attribute: str) -> bool:
    """Whether an attribute of an artifact is about its metadata: that, and `log_metric` and its like."""
    return attribute in ("metadata", "name", "framework") or attribute.startswith("log_")


def a_run_is_kept_as_long_however_it_ends(pipeline: Pipeline) -> list[str]:
    """Each of the three lifetimes is set, to the same: KFP's own default of an hour fills in those that are not.

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
    """Tries have a pause between them, and a time for all of them in which each fits with its own deadline.

    backend/src/v2/compiler/argocompiler/container.go, getTaskRetryParametersWithValues: what is not set becomes "0". Argo's
    maxDuration counts from the first try, the tries themselves included. A try helps against a lost pod alone: KFP's manifests
    set `retryPolicy: OnError` (the file above, templateDefaults). Seen: exit code 1, OOMKilled and a passed deadline are not
    tried again; a pod that was deleted is, under the same name.
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
    """One task of the root runs whatever happened: behind the one task that holds all the others, whose final status it gets.

    backend/src/v2/compiler/argocompiler/dag.go, DAG: it becomes a hook of the task that it waits for; driver/resolve.go,
    resolveInputParameter: the status is that of dependentTasks[0], which must stand in the same group.
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
    for name, one in last.get("inputs", {}).get("parameters", {}).items():
        asked = one.get("taskFinalStatus", {}).get("producerTask")
        if asked and asked not in before[:1]:
            faults.append(f"{key}: {name} is the status of {asked}, and the driver gives that of {before[:1]}")
        if "taskOutputParameter" in one:
            faults.append(f"{key}: {name} comes from a task, which may not have run")
    inner = [task for task in _everything(pipeline) if task.spec.get("triggerPolicy", {}).get("strategy") == LAST]
    return faults + [f"{task.where}: runs whatever happened, and is not in the root" for task in inner if len(task.path) > 1]


def conditions_compare_like_with_like(pipeline: Pipeline) -> list[str]:
    """A condition reads inputs that its task has, and compares texts with texts, numbers with numbers, booleans with booleans.

    backend/src/v2/expression/expression.go, Condition, evaluates it over the inputs with Google's CEL: a name that is not there
    ends the run, and a number equals no text.
    """
    faults = []
    for task in _everything(pipeline):
        if not task.condition:
            continue
        asked = OPERAND.findall(task.condition)
        faults += [f"{task.where}: has no input {name}" for name in asked if name not in task.parameters]
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
    """A stage with credentials is taken from the cache only where something that it takes comes from a stage that always runs.

    backend/src/v2/driver/cache.go, getFingerPrint: the key holds values, the identities of artifacts, image and command; never
    what lies in a bucket. This cannot tell whether that stage looked at the same bucket.
    """
    faults = []
    for stage in pipeline.stages.values():
        asked = pipeline.on_kubernetes(stage)
        if not _is_cached(stage) or not (asked.get("secretAsEnv") or asked.get("secretAsVolume")):
            continue
        behind = _behind(pipeline, stage)
        if all(_is_cached(pipeline.stages[path]) for path in behind):
            faults.append(f"{stage.where}: has credentials, is cached, and takes nothing from a stage that always runs")
    return faults


def _is_cached(stage: Task) -> bool:
    return bool(stage.spec.get("cachingOptions", {}).get("enableCache"))


def _behind(pipeline: Pipeline, stage: Task) -> set[Path]:
    """The stages that a stage's inputs come from, and theirs."""
    ahead = [artifact.stage for artifact in stage.artifacts.values()]
    ahead += [origin.stage for value in stage.parameters.values() for origin in value.through() if origin.sort == "output"]
    found = {path for path in ahead if path in pipeline.stages}
    return found.union(*(_behind(pipeline, pipeline.stages[path]) for path in found))


def names_are_ones_that_argo_and_kubernetes_take(pipeline: Pipeline) -> list[str]:
    """Tasks and templates have names that Argo takes, none twice; labels are ones that Kubernetes takes.

    backend/src/v2/compiler/argocompiler/dag.go: a task and its `-driver` stand side by side; templates are called after
    components, loops and hooks (argo.go: templateName mends nothing, addTemplate refuses the second of a name). The names of
    pods need no rule: Argo cuts them at 253 characters (workflow/util/pod_name.go).
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
    """What all turns of a loop give may be taken beside the loop alone: of a list that a group is given, its stages see one.

    backend/src/v2/metadata/client.go: CreateExecution writes an event for each artifact under the one name of the input, and
    GetInputArtifactsByExecutionID, from which a stage in the group takes it, keeps the last of a name.
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
    no_argument_is_too_long,
    every_artifact_has_a_file,
    a_run_is_kept_as_long_however_it_ends,
    a_stage_that_is_tried_again_has_the_time,
    one_last_task_looks_at_all_the_others,
    conditions_compare_like_with_like,
    what_is_kept_for_another_run_depends_on_what_lies_outside,
    names_are_ones_that_argo_and_kubernetes_take,
    a_list_of_artifacts_goes_to_no_group,
)
