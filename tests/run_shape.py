"""What a run of a compiled pipeline looks like on the page of Kubeflow Pipelines, and how many pods it takes.

`python tests/run_shape.py` prints it of each pipeline, its form as it stands and every condition true that a stage decides.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_driver import OPERAND, Loop, Pipeline, Task, Value, holds

from kfp_vision import parameters


@dataclass(frozen=True)
class Layer:
    """One graph of the page.

    Attributes:
        title: the boxes that were opened to come here.
        tasks: boxes: stages, groups, turns of a loop.
        artifacts: nodes of artifacts beside them.
    """

    title: str
    tasks: int
    artifacts: int


@dataclass(frozen=True)
class Shape:
    """A run: how many graphs stand in each other, how many stages the pipeline has, how many pods run, and each graph."""

    layers: int
    tasks: int
    pods: int
    graphs: tuple[Layer, ...]


def shape(pipeline: Pipeline, turns: Callable[[Loop], int], true: Collection[str] | None = None) -> Shape:
    """The shape of a run with the form as it stands.

    A loop is two graphs: its turns, and the stages of one (frontend/src/lib/v2/DynamicFlow.ts, buildParallelForDag).

    Args:
        pipeline: the compiled one.
        turns: how many turns a loop makes.
        true: the titles of the conditions that hold, of those that depend on what a stage says; all of them by default. What
            depends on the form alone is worked out.
    """
    graphs: list[Layer] = []
    deepest = 0
    for path, group in pipeline.groups.items():
        above = [pipeline.groups[path[:length]] for length in range(len(path) + 1)]
        deepest = max(deepest, sum(2 if one.loop else 1 for one in above))
        title = " / ".join(one.title for one in above)
        if group.loop:
            graphs.append(Layer(title, turns(group.loop), 0))
            title += " / turn"
        # frontend/src/lib/v2/StaticFlow.ts: addArtifactNodes, and addInputArtifactNodes for what comes into the group.
        made = [pipeline.component(task).get("outputDefinitions", {}).get("artifacts", {}) for task in group.tasks.values()]
        given = group.component.get("inputDefinitions", {}).get("artifacts", {}) if path else {}
        graphs.append(Layer(title, len(group.tasks), sum(map(len, made)) + len(given)))
    in_all = 1 + _pods(pipeline, pipeline.root, turns, true)  # the root's driver
    return Shape(deepest, len(pipeline.stages), in_all, tuple(graphs))


def _pods(pipeline: Pipeline, group: Task, turns: Callable[[Loop], int], true: Collection[str] | None) -> int:
    """The pods within a group, once: argocompiler/dag.go, task and iteratorTask.

    Each stage has a driver and its own, each group a driver, and a loop one more for each turn. A condition that does not hold
    costs its driver; what waits for it, nothing (depends: `.Succeeded`).
    """
    in_all, left_out = 0, set[str]()
    for key in _in_order(group):
        if left_out.intersection(_before(group.tasks[key])):
            left_out.add(key)
            continue
        path = (*group.path, key)
        if path in pipeline.stages:
            in_all += 2 if pipeline.container(pipeline.stages[path]) else 1  # what imports an artifact does so in its driver
            continue
        inner = pipeline.groups[path]
        in_all += 1
        if not _is_true(pipeline, inner, true):
            left_out.add(key)
        elif inner.loop:
            in_all += turns(inner.loop) * (1 + _pods(pipeline, inner, turns, true))
        else:
            in_all += _pods(pipeline, inner, turns, true)
    return in_all


def _before(task: dict[str, Any]) -> set[str]:
    """What a task waits for: as it says itself, and addImplicitDependencies of argocompiler/dag.go."""
    given = task.get("inputs", {})
    ones = [one.get("taskOutputParameter") for one in given.get("parameters", {}).values()]
    ones += [one.get("taskOutputArtifact") for one in given.get("artifacts", {}).values()]
    return {*task.get("dependentTasks", []), *(one["producerTask"] for one in ones if one)}


def _in_order(group: Task) -> list[str]:
    """The keys of a group's tasks, each behind those that it waits for."""
    ordered: list[str] = []
    while len(ordered) < len(group.tasks):
        ordered += [key for key in group.tasks if key not in ordered and _before(group.tasks[key]) <= set(ordered)]
    return ordered


def _is_true(pipeline: Pipeline, group: Task, true: Collection[str] | None) -> bool:
    if not group.condition:
        return True
    operands = {name: group.parameters[name] for name in OPERAND.findall(group.condition)}
    if any(value.origin.sort != "field" for value in operands.values()):
        return true is None or group.title in true
    return holds(group.condition, {name: _as_it_stands(pipeline, value) for name, value in operands.items()})


def _as_it_stands(pipeline: Pipeline, value: Value) -> Any:
    return pipeline.form[value.origin.name]["defaultValue"]


def turns_of_the_form(pipeline: Pipeline) -> Callable[[Loop], int]:
    """How many turns each loop makes with the form as it stands: as `partitions` says, or one for each trial, or each item."""
    defaults = {name: field.get("defaultValue") for name, field in pipeline.form.items()}

    def turns(loop: Loop) -> int:
        if loop.items is None:
            return len(loop.raw)
        if "trials" in pipeline.fields_behind(loop.items):
            return int(defaults["trials"]) or math.prod(len(defaults[name]) for name in parameters.SWEPT)
        return int(defaults["partitions"])

    return turns


if __name__ == "__main__":
    for file in sorted((Path(__file__).resolve().parents[1] / "pipelines").glob("*.yaml")):
        read = Pipeline(file.read_text(encoding="utf-8"))
        run = shape(read, turns_of_the_form(read))
        print(f"{file.stem}: {run.layers} layers, {run.tasks} stages, {run.pods} pods")
        for graph in run.graphs:
            print(f"    {graph.title}: {graph.tasks} boxes, {graph.artifacts} artifacts")
