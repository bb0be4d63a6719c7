"""Walks a compiled pipeline like the driver of Kubeflow Pipelines 2.17.0, to find the inputs of each stage and their origins.

`kfp.local` checks none of this. The files named below are those of the repository kubeflow/pipelines at its tag 2.17.0.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

# backend/src/v2/driver/resolve.go, resolveInputs: the kind of protobuf's Value that an input of a type takes. STRING takes any.
TAKES = {
    "BOOLEAN": "bool",
    "LIST": "list",
    "NUMBER_DOUBLE": "number",
    "NUMBER_INTEGER": "number",
    "STRING": "string",
    "STRUCT": "struct",
    "TASK_CONFIG": "struct",
    "TASK_FINAL_STATUS": "struct",
}
UNKNOWN = "unknown"  # of an item of a list, or a part of one: neither the compiled pipeline nor the driver knows it
# backend/src/v2/driver/util.go, inputPipelineChannelPattern.
PLACEHOLDER = re.compile(r"\$\.inputs\.parameters\['(.+?)'\]")
LAST = "ALL_UPSTREAM_TASKS_COMPLETED"
OPERAND = re.compile(r"inputs\.parameter_values\['(.+?)'\]")
Path = tuple[str, ...]  # of a task: the keys of its groups, and its own


@dataclass(frozen=True)
class Origin:
    """The origin of a value.

    Attributes:
        sort: field (of the form), constant, output (of a stage), collected (from all iterations of a loop), item, or status.
        name: the name of the field, output or item, or the constant as JSON.
        stage: for an output, the path of the task.
        of: for an item, its list; for a collected value, that of one iteration.
        loop: for a collected value, the path of the loop.
        part: the expression that selects a part of the value; empty for all of it.
    """

    sort: str
    name: str
    stage: Path = ()
    of: "Value | None" = None
    loop: Path = ()
    part: str = ""

    def __str__(self) -> str:
        if self.sort == "item":
            return f"an item of {self.of.origin if self.of else self.name}"
        if self.sort == "collected":
            return f"what all turns of {'/'.join(self.loop)} give"
        return f"{self.sort} {'/'.join((*self.stage, self.name))}"


@dataclass(frozen=True)
class Value:
    """A parameter value: its current kind in protobuf, and its origin."""

    kind: str
    origin: Origin

    def through(self) -> Iterator[Origin]:
        """Yields the origin, and the origins of which it is a part."""
        yield self.origin
        if self.origin.of:
            yield from self.origin.of.through()


@dataclass(frozen=True)
class Artifact:
    """An artifact passed to a task.

    Attributes:
        stage: the path of the task that produces it.
        name: the name of the output.
        loops: the paths of the loops it is collected from, which make it a list.
        given: whether it is an input of a group.
    """

    stage: Path
    name: str
    loops: tuple[Path, ...] = ()
    given: bool = False


@dataclass(frozen=True)
class Loop:
    """A loop: its path, and either the list it iterates over or its constant items."""

    path: Path
    items: Value | None = None
    raw: tuple[Any, ...] = ()


@dataclass
class Task:
    """A task as found on the walk: a stage, or a group of tasks.

    Attributes:
        path: the keys of its groups, and its own.
        spec: its specification in the pipeline.
        name: the name of its component.
        component: the component itself.
        parameters: its input parameters as the driver passes them, after type checks and conversions.
        artifacts: its input artifacts.
        within: its group; None for the root.
        loop: the loop, if it is one.
    """

    path: Path
    spec: dict[str, Any]
    name: str
    component: dict[str, Any]
    within: "Task | None" = None
    parameters: dict[str, Value] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    loop: Loop | None = None

    @property
    def where(self) -> str:
        return "/".join(self.path) or "the root"

    @property
    def title(self) -> str:
        """Returns the title on the page of KFP."""
        return self.spec.get("taskInfo", {}).get("name") or (self.path[-1] if self.path else "root")

    @property
    def condition(self) -> str:
        return self.spec.get("triggerPolicy", {}).get("condition", "")

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        return self.component.get("dag", {}).get("tasks", {})


class Pipeline:
    """A compiled pipeline, as resolved by the driver.

    Attributes:
        spec, platform: the pipeline and its settings for Kubernetes, as in the YAML.
        stages: the tasks that run a container, by path.
        groups: the root, the body of the exit handler, the conditions and the loops, by path.
        faults: the errors at which the driver would stop, with the paths of their tasks.
    """

    def __init__(self, text: str) -> None:
        documents = list(yaml.safe_load_all(text))
        self.spec: dict[str, Any] = documents[0]
        self.platform = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
        self.stages: dict[Path, Task] = {}
        self.groups: dict[Path, Task] = {}
        self.faults: list[str] = []
        form = self.form.items()
        given = {name: Value(TAKES[source["parameterType"]], Origin("field", name)) for name, source in form}
        self._walk(Task((), {}, "root", self.spec["root"], parameters=given))

    @property
    def name(self) -> str:
        return self.spec["pipelineInfo"]["name"]

    @property
    def form(self) -> dict[str, dict[str, Any]]:
        """Returns the definition of each field: type, default and more."""
        return self.spec["root"].get("inputDefinitions", {}).get("parameters", {})

    @property
    def root(self) -> Task:
        return self.groups[()]

    def component(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the component of a task."""
        return self.spec["components"][task["componentRef"]["name"]]

    def container(self, stage: Task) -> dict[str, Any]:
        """Returns the container of a stage; empty for an importer."""
        return self.spec["deploymentSpec"]["executors"][stage.component["executorLabel"]].get("container", {})

    def on_kubernetes(self, stage: Task) -> dict[str, Any]:
        executors = self.platform.get("deploymentSpec", {}).get("executors", {})
        return executors.get(stage.component["executorLabel"], {})

    def code(self, stage: Task) -> ast.FunctionDef | None:
        """Parses the function of a stage; None if it runs something else."""
        arguments = self.container(stage).get("args", [])
        if "--function_to_execute" not in arguments:
            return None
        called = arguments[arguments.index("--function_to_execute") + 1]
        module = ast.parse(self.container(stage)["command"][-1])
        return next(source for source in module.body if isinstance(source, ast.FunctionDef) and source.name == called)

    def _walk(self, group: Task) -> None:
        self.groups[group.path] = group
        for key, spec in group.tasks.items():
            task = Task((*group.path, key), spec, spec["componentRef"]["name"], self.component(spec), group)
            self._resolve(task)
            if "dag" in task.component:
                self._walk(task)
            else:
                self.stages[task.path] = task

    def _resolve(self, task: Task) -> None:
        """Resolves the inputs of a task; for a loop, those of each iteration."""
        given = task.spec.get("inputs", {})
        values = {name: self.value(source, task.within, task) for name, source in given.get("parameters", {}).items()}
        values = {name: value for name, value in values.items() if value}
        for name, source in given.get("parameters", {}).items():
            if (part := source.get("parameterExpressionSelector")) and name in values:
                values[name] = Value(UNKNOWN, Origin("item", name, of=values[name], part=part))
        artifacts = {name: self.artifact(source, task.within, task) for name, source in given.get("artifacts", {}).items()}
        task.artifacts = {name: artifact for name, artifact in artifacts.items() if artifact}
        iterator = task.spec.get("parameterIterator")
        if not iterator:
            task.parameters = self._checked(task, values)
            return
        item, listed = iterator["itemInput"], iterator["items"].get("inputParameter")
        values = self._checked(task, values, passed_over=item)
        if listed:
            task.loop = Loop(task.path, values.pop(listed))
            values[item] = Value(UNKNOWN, Origin("item", item, of=task.loop.items))
        else:
            task.loop = Loop(task.path, raw=tuple(json.loads(iterator["items"]["raw"])))
            kinds = {kind_of(source) for source in task.loop.raw}
            kind = kinds.pop() if len(kinds) == 1 else UNKNOWN
            values[item] = Value(kind, Origin("item", item, of=Value("list", Origin("constant", iterator["items"]["raw"]))))
        task.parameters = self._checked(task, values, passed_over=listed)

    def _checked(self, task: Task, values: dict[str, Value], passed_over: str | None = None) -> dict[str, Value]:
        """Converts and checks values like handleParamTypeValidationAndConversion and ValidateLiteralParameter of resolve.go."""
        checked = dict(values)
        for name, declared in task.component.get("inputDefinitions", {}).get("parameters", {}).items():
            if name == passed_over:
                continue
            if name not in values:
                if not declared.get("isOptional") and "defaultValue" not in declared:
                    self.faults.append(f"{task.where}: neither value nor default value for {name}")
                continue
            value, wanted = values[name], TAKES[declared["parameterType"]]
            literals = declared.get("literals") if value.origin.sort == "constant" else None
            if literals and json.loads(value.origin.name) not in literals:
                self.faults.append(f"{task.where}: {name} must be one of {literals}; got {value.origin.name}")
            if value.kind not in (wanted, UNKNOWN) and wanted != "string":
                expected = declared["parameterType"]
                self.faults.append(f"{task.where}: {name} type mismatch: expect {expected}, got {value.kind} ({value.origin})")
            checked[name] = Value(wanted, value.origin)
        return checked

    def value(self, source: Mapping[str, Any], group: Task, task: Task) -> Value | None:
        """Resolves the parameter of an input like resolveInputParameter of resolve.go: from the group, or from a sibling task.

        Args:
            source: the specification of the input, of a task or of its settings for Kubernetes.
            group: the group of the task.
            task: the task.

        Returns:
            None if the driver stops; `faults` then has the reason.
        """
        if "componentInputParameter" in source:
            name = source["componentInputParameter"]
            if name in group.parameters:
                return group.parameters[name]
            return self._stopped(task, f"{group.where} does not have input parameter {name}")
        if "taskOutputParameter" in source:
            produced = source["taskOutputParameter"]
            found = self._output(group.component, group.path, produced["producerTask"], produced["outputParameterKey"])
            asked = f"{produced['producerTask']} has no output parameter {produced['outputParameterKey']}"
            return found or self._stopped(task, asked)
        if "taskFinalStatus" in source:
            before = task.spec.get("dependentTasks", [])
            if not before or before[0] not in group.tasks:
                return self._stopped(task, "waits for no task whose final status it could have")
            return Value("struct", Origin("status", before[0]))
        constant = source["runtimeValue"]["constant"]
        return Value(kind_of(constant), Origin("constant", json.dumps(constant)))

    def _stopped(self, task: Task, reason: str) -> None:
        self.faults.append(f"{task.where}: {reason}")

    def _output(self, dag: Mapping[str, Any], path: Path, producer: str, key: str) -> Value | None:
        """Resolves an output of a task like resolveUpstreamParameters of resolve.go."""
        task = dag["dag"]["tasks"].get(producer)
        component = self.component(task) if task else {}
        declared = component.get("outputDefinitions", {}).get("parameters", {}).get(key)
        if not declared:
            return None
        if "dag" not in component:
            return Value(TAKES[declared["parameterType"]], Origin("output", key, stage=(*path, producer)))
        how = component["dag"].get("outputs", {}).get("parameters", {}).get(key, {})
        sources = [how["valueFromParameter"]] if "valueFromParameter" in how else how["valueFromOneof"]["parameterSelectors"]
        below = (*path, producer)
        given = [self._output(component, below, source["producerSubtask"], source["outputParameterKey"]) for source in sources]
        found = [source for source in given if source]
        if not found:
            return None
        if "parameterIterator" in task:
            return Value("list", Origin("collected", key, of=found[0], loop=below))
        return found[0]

    def artifact(self, source: Mapping[str, Any], group: Task, task: Task) -> Artifact | None:
        """Resolves the artifact of an input like resolveInputArtifact of resolve.go."""
        if "componentInputArtifact" in source:
            name = source["componentInputArtifact"]
            if name in group.artifacts:
                given = group.artifacts[name]
                return Artifact(given.stage, given.name, given.loops, given=True)
            self._stopped(task, f"{group.where} does not have input artifact {name}")
            return None
        produced = source["taskOutputArtifact"]
        found = self._made(group.component, group.path, produced["producerTask"], produced["outputArtifactKey"])
        if not found:
            self._stopped(task, f"{produced['producerTask']} has no output artifact {produced['outputArtifactKey']}")
        return found

    def _made(self, dag: Mapping[str, Any], path: Path, producer: str, key: str) -> Artifact | None:
        task = dag["dag"]["tasks"].get(producer)
        component = self.component(task) if task else {}
        if key not in component.get("outputDefinitions", {}).get("artifacts", {}):
            return None
        below = (*path, producer)
        if "dag" not in component:
            return Artifact(below, key)
        selector = component["dag"]["outputs"]["artifacts"][key]["artifactSelectors"][0]
        inner = self._made(component, below, selector["producerSubtask"], selector["outputArtifactKey"])
        if inner and "parameterIterator" in task:
            return Artifact(inner.stage, inner.name, (below, *inner.loops))
        return inner

    def values_behind(self, value: Value | None) -> tuple[set[str], set[Path]]:
        """Returns the fields and stages that a value is computed from, directly or through other stages."""
        fields, stages = set[str](), set[Path]()
        ahead = list(value.through()) if value else []
        while ahead:
            origin = ahead.pop()
            if origin.sort == "field":
                fields.add(origin.name)
            if origin.sort == "output" and origin.stage in self.stages.keys() - stages:
                stages.add(origin.stage)
                ahead += [source for given in self.stages[origin.stage].parameters.values() for source in given.through()]
        return fields, stages

    def fields_behind(self, value: Value | None) -> set[str]:
        """Returns the fields of the form that a value is computed from."""
        return self.values_behind(value)[0]

    @cached_property
    def last(self) -> dict[str, dict[str, Any]]:
        """Returns the tasks of the root that run whatever happened before, by key."""
        return {
            key: source for key, source in self.root.tasks.items() if source.get("triggerPolicy", {}).get("strategy") == LAST
        }


def waits_for(task: Mapping[str, Any]) -> set[str]:
    """Returns the dependencies of a task: declared ones, and those of addImplicitDependencies of argocompiler/dag.go."""
    given = task.get("inputs", {})
    sources = [source.get("taskOutputParameter") for source in given.get("parameters", {}).values()]
    sources += [source.get("taskOutputArtifact") for source in given.get("artifacts", {}).values()]
    return {*task.get("dependentTasks", []), *(source["producerTask"] for source in sources if source)}


def kind_of(constant: Any) -> str:
    """Returns the kind of protobuf value of a JSON value."""
    kinds = ((bool, "bool"), (int | float, "number"), (str, "string"), (list, "list"), (dict, "struct"))
    return next((kind for sort, kind in kinds if isinstance(constant, sort)), "null")


def condition(text: str) -> ast.Expression:
    """Translates a condition from Google's CEL to Python, for the few forms that KFP's compiler writes.

    Args:
        text: such as `inputs.parameter_values['a'] == 'b' && !(int(inputs.parameter_values['c']) > 1)`.

    Returns:
        A Python expression of `V`, the dictionary of the inputs.

    Raises:
        SyntaxError: if it has another form.
    """
    parts = re.split(r"(inputs\.parameter_values\['.+?'\]|'[^']*')", text)
    words = ((r"&&", " and "), (r"\|\|", " or "), (r"!(?!=)", " not "), (r"\btrue\b", "True"), (r"\bfalse\b", "False"))
    for place in range(0, len(parts), 2):
        for word, said in words:
            parts[place] = re.sub(word, said, parts[place])
    for place in range(1, len(parts), 2):
        parts[place] = re.sub(r"^inputs\.parameter_values", "V", parts[place])
    return ast.parse("".join(parts).strip(), mode="eval")


def holds(text: str, values: Mapping[str, Any]) -> bool:
    """Returns whether a condition holds for the given inputs."""
    known = {"V": values, "int": int, "double": float, "string": str}
    return eval(compile(condition(text), "condition", "eval"), {"__builtins__": {}}, known)  # of our own compiled pipelines
