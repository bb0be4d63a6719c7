"""The size of the argument with which Kubeflow Pipelines 2.17.0 passes inputs and output locations to a stage.

The driver puts an ExecutorInput into the pod's command (`--executor_input`, backend/src/v2/driver/driver.go, initPodSpecPatch);
the launcher in the pod puts it once more, with defaults filled in, where `{{$}}` stands in the arguments of the stage itself
(backend/src/v2/component/launcher_v2.go, compileCmdAndArgs). Each is one argument, and no argument of Linux may be longer than
32 pages with its final NUL (MAX_ARG_STRLEN, include/uapi/linux/binfmts.h; execve(2)).
"""

import ast
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import ExecutorInput
from support.kfp_driver import Artifact, Loop, Path, Pipeline, Task, Value

LONGEST = 32 * 4096 - 1  # bytes of an argument
# The default of the launcher's configuration: backend/src/v2/config/env.go, defaultPipelineRoot.
DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
UUID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
# The same file, getDefaultMinioSessionInfo; each artifact has it among its metadata (metadata/client.go, RecordArtifact).
SESSION = {
    "accessKeyKey": "accesskey",
    "disableSSL": "true",
    "endpoint": "seaweedfs.kubeflow:9000",
    "fromEnv": "false",
    "maxRetries": "5",
    "region": "minio",
    "secretKeyKey": "secretkey",
    "secretName": "mlpipeline-minio-artifact",
}
STORE = json.dumps({"Provider": "minio", "Params": SESSION}, separators=(",", ":"))
NAMES_RECORDED = 8  # written to the metadata of an artifact by code that does not name them
NAMES_GIVEN = 8  # in a dictionary that a stage returns
NAMES_OF_AN_ITEM = 5  # of an item of a list, assumed to be a dictionary


@dataclass(frozen=True)
class Sizes:
    """Assumptions about the values of a run.

    Attributes:
        items: returns the number of iterations of a loop.
        root: the pipeline root.
        text: the length of a text of the form, and of one that a stage returns.
        struct: names in a dictionary of the form, each with a text of 20 characters; the whole of `advanced` has 60.
        recorded: the value that a stage writes to the metadata of an artifact under one name.
        first_id: the ID of the first artifact in the installation.
        spaced: whether a space follows each comma. Some builds of Go's protojson write one, on purpose, and some do
            not (detrand of google.golang.org/protobuf).
    """

    items: Callable[[Loop], int]
    root: str = DEFAULT_ROOT
    text: int = 200
    struct: int = 60
    recorded: Any = "x" * 24
    first_id: int = 100_000
    spaced: bool = True


def arguments(pipeline: Pipeline, sizes: Sizes) -> dict[Path, int]:
    """Returns the size in bytes of the longest argument of each stage, by its path."""
    result = {path: executor_input(pipeline, path, sizes) for path in pipeline.stages}
    return {path: len(as_go_writes_it(entry, spaced=sizes.spaced)) for path, entry in result.items()}


def executor_input(pipeline: Pipeline, path: Path, sizes: Sizes) -> ExecutorInput:
    """Builds the input of a stage like driver and launcher: resolveInputs of driver/resolve.go, provisionOutputs of driver.go.

    Args:
        pipeline: the compiled one.
        path: the path of the stage.
        sizes: assumptions about the run.
    """
    stage = pipeline.stages[path]
    result = ExecutorInput()
    for name, value in stage.parameters.items():
        json_format.ParseDict(_assumed_value(pipeline, value, sizes), result.inputs.parameter_values[name])
    for name, declared in stage.component.get("inputDefinitions", {}).get("parameters", {}).items():
        if name not in stage.parameters and "defaultValue" in declared:  # addDefaultParams of the launcher
            json_format.ParseDict(declared["defaultValue"], result.inputs.parameter_values[name])
    for name, artifact in stage.artifacts.items():
        # An artifact passed through groups is read from the group's events, and has no type: GetInputArtifactsByExecutionID.
        many = 1 if artifact.given else math.prod(_turns(pipeline, loop, sizes) for loop in artifact.loops)
        for number in range(many):
            entry = result.inputs.artifacts[name].artifacts.add()
            entry.name = str(sizes.first_id + number)
            entry.uri = _output_uri(pipeline, artifact.stage, artifact.name, sizes)
            entry.metadata.update({"display_name": artifact.name, "store_session_info": STORE})
            entry.metadata.update(_recorded(pipeline, artifact, sizes))
            if not artifact.given:
                entry.type.instance_schema = ""
    definitions = stage.component.get("outputDefinitions", {})
    logs = {"executor-logs": {"artifactType": {"schemaTitle": "system.Artifact"}}}  # with PUBLISH_LOGS, as in KFP's manifests
    for name, declared in (definitions.get("artifacts", {}) | logs).items():
        entry = result.outputs.artifacts[name].artifacts.add()
        entry.name = name
        entry.uri = _output_uri(pipeline, path, name, sizes) + ("-0" if name == "executor-logs" else "")
        json_format.ParseDict(declared["artifactType"], entry.type)
    for name in definitions.get("parameters", {}):
        result.outputs.parameters[name].output_file = f"/tmp/kfp/outputs/{name}"
    scheme, _, below = _output_uri(pipeline, path, "output_metadata.json", sizes).partition("://")
    result.outputs.output_file = f"/{scheme}/{below}"
    return result


def as_go_writes_it(message: ExecutorInput, *, spaced: bool) -> bytes:
    """Formats a message on one line, as protojson does."""
    whole = _whole_numbers(json_format.MessageToDict(message))
    return json.dumps(whole, ensure_ascii=False, separators=(", " if spaced else ",", ":")).encode()


def _whole_numbers(value: Any) -> Any:
    """Converts floats like 1.0 to 1, as Go writes them."""
    if isinstance(value, dict):
        return {name: _whole_numbers(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _output_uri(pipeline: Pipeline, stage: Path, output: str, sizes: Sizes) -> str:
    """Builds an output URI like GenerateOutputURI of metadata/client.go: root, pipeline, run, task, random part, output."""
    return "/".join((sizes.root, pipeline.name, UUID, stage[-1], UUID, output))


def _turns(pipeline: Pipeline, path: Path, sizes: Sizes) -> int:
    loop = pipeline.groups[path].loop if path in pipeline.groups else pipeline.stages[path].loop
    return sizes.items(loop) if loop else 1


def _assumed_value(pipeline: Pipeline, value: Value, sizes: Sizes) -> Any:
    """Returns an assumed value of an input."""
    origin = value.origin
    if origin.sort == "constant" and not origin.part:
        return json.loads(origin.name)
    if origin.sort == "collected" and origin.of:
        return [_assumed_value(pipeline, origin.of, sizes)] * _turns(pipeline, origin.loop, sizes)
    if origin.sort == "status":
        return {"state": "COMPLETE", "pipelineTaskName": origin.name, "pipelineJobResourceName": "a" * 63, "error": {}}
    if value.kind == "list":
        return [_dictionary(NAMES_OF_AN_ITEM)] * _assumed_length(pipeline, origin, sizes)
    names = NAMES_GIVEN if origin.sort == "output" else sizes.struct
    return {"bool": False, "number": 1234567.123456, "struct": _dictionary(names)}.get(value.kind, "x" * sizes.text)


def _dictionary(names: int) -> dict[str, str]:
    return {f"{'x' * 16}{number:04}": "x" * 20 for number in range(names)}


def _assumed_length(pipeline: Pipeline, origin: Any, sizes: Sizes) -> int:
    """Returns the assumed number of items of a list: the iterations of the loops over it, or 20."""
    loops = [group.loop for group in pipeline.groups.values() if group.loop and group.loop.items]
    turns = [sizes.items(loop) for loop in loops if loop.items and loop.items.origin == origin]
    return max(turns, default=20)


def _recorded(pipeline: Pipeline, artifact: Artifact, sizes: Sizes) -> Mapping[str, Any]:
    """Returns the metadata that a stage writes to an artifact, as far as its code shows."""
    code = pipeline.code(pipeline.stages[artifact.stage])
    names: list[str] = []
    for node in ast.walk(code) if code else ():
        if isinstance(node, ast.Subscript) and _is_metadata(node.value, artifact.name):
            names += [node.slice.value if isinstance(node.slice, ast.Constant) else "x" * 12]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_metadata(node.func.value, artifact.name):
            given = node.args[0] if node.args else None
            keys = given.keys if isinstance(given, ast.Dict) else [None] * NAMES_RECORDED
            names += [key.value if isinstance(key, ast.Constant) else f"{'x' * 12}{at}" for at, key in enumerate(keys)]
    return {str(name): sizes.recorded for name in names}


def _is_metadata(node: ast.expr, name: str) -> bool:
    """Returns whether an expression is the metadata of the named artifact."""
    is_it = isinstance(node, ast.Attribute) and node.attr == "metadata"
    return is_it and isinstance(node.value, ast.Name) and node.value.id == name


def static_arguments(pipeline: Pipeline) -> dict[str, int]:
    """Returns the size in bytes of the arguments of the driver's own pods, which do not grow with a run.

    The specification of each component, of each container and of each task: argocompiler/dag.go and container.go, the
    templates system-dag-driver and system-container-driver.
    """
    parts: dict[str, Any] = {f"component {name}": entry for name, entry in pipeline.spec["components"].items()}
    parts |= {"component root": pipeline.spec["root"]}
    parts |= {f"container {label}": entry for label, entry in pipeline.spec["deploymentSpec"]["executors"].items()}
    everything: list[Task] = [*pipeline.groups.values(), *pipeline.stages.values()]
    parts |= {f"task {task.where}": task.spec for task in everything}
    return {name: len(json.dumps(part, ensure_ascii=False).encode()) for name, part in parts.items()}
