"""The graphs of a run on the page of Kubeflow Pipelines, and its number of pods.

`python tests/support/run_shape.py` prints them for each pipeline with its form at the defaults: with the outputs that stages
then have, and with every condition true that depends on a stage.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from support.kfp_driver import OPERAND, Loop, Pipeline, Task, Value, holds, waits_for

from kfp_vision.training import trial_plan

# Stages that return false if a field has a value: components/check_serving.py, "deploy_to names a place".
SAY_NO = {"check-serving": ("deploy_to", "none")}


@dataclass(frozen=True)
class Layer:
    """One graph of the page.

    Attributes:
        title: the boxes that were opened to reach it.
        tasks: the number of boxes: stages, groups, iterations of a loop.
        artifacts: the number of artifact nodes.
    """

    title: str
    tasks: int
    artifacts: int


@dataclass(frozen=True)
class Shape:
    """The graphs and pods of a run.

    Attributes:
        layers: the depth of nested graphs.
        reached: the depth without the contents of conditions that do not hold, whose own graphs are empty.
        tasks: the number of stages of the pipeline.
        pods: the number of pods that run.
        graphs: all graphs.
    """

    layers: int
    reached: int
    tasks: int
    pods: int
    graphs: tuple[Layer, ...]


def shape(pipeline: Pipeline, turns: Callable[[Loop], int], true: Collection[str] | None = None) -> Shape:
    """Computes the shape of a run with the form at its defaults.

    A loop has two graphs: its iterations, and the stages of one (frontend/src/lib/v2/DynamicFlow.ts, buildParallelForDag).

    Args:
        pipeline: the compiled pipeline.
        turns: returns the number of iterations of a loop.
        true: the titles of the conditions that hold, among those that depend on stages; all by default. Conditions on fields
            are evaluated.
    """
    graphs: list[Layer] = []
    deepest = reached = 0
    for path, group in pipeline.groups.items():
        above = [pipeline.groups[path[:length]] for length in range(len(path) + 1)]
        depth = sum(2 if ancestor.loop else 1 for ancestor in above)
        deepest = max(deepest, depth)
        if all(_is_true(pipeline, ancestor, true) for ancestor in above[:-1]):
            reached = max(reached, depth)
        title = " / ".join(ancestor.title for ancestor in above)
        if group.loop:
            graphs.append(Layer(title, turns(group.loop), 0))
            title += " / turn"
        # frontend/src/lib/v2/StaticFlow.ts: addArtifactNodes, and addInputArtifactNodes for what comes into the group.
        made = [pipeline.component(task).get("outputDefinitions", {}).get("artifacts", {}) for task in group.tasks.values()]
        given = group.component.get("inputDefinitions", {}).get("artifacts", {}) if path else {}
        graphs.append(Layer(title, len(group.tasks), sum(map(len, made)) + len(given)))
    in_all = 1 + _pods(pipeline, pipeline.root, turns, true)  # the driver of the root
    return Shape(deepest, reached, len(pipeline.stages), in_all, tuple(graphs))


def _pods(pipeline: Pipeline, group: Task, turns: Callable[[Loop], int], true: Collection[str] | None) -> int:
    """Counts the pods of one execution of a group, like task and iteratorTask of argocompiler/dag.go.

    Each stage has a driver pod and its own, each group a driver, and a loop one more per iteration. A condition that does not
    hold has only its driver; tasks that depend on it have no pods (depends: `.Succeeded`).
    """
    in_all, left_out = 0, set[str]()
    for key in _in_order(group):
        if left_out.intersection(waits_for(group.tasks[key])):
            left_out.add(key)
            continue
        path = (*group.path, key)
        if path in pipeline.stages:
            in_all += 2 if pipeline.container(pipeline.stages[path]) else 1  # an importer runs in its driver
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


def _in_order(group: Task) -> list[str]:
    """Returns the keys of the tasks of a group, each after its dependencies."""
    return list(TopologicalSorter({key: waits_for(task) for key, task in group.tasks.items()}).static_order())


def _is_true(pipeline: Pipeline, group: Task, true: Collection[str] | None) -> bool:
    if not group.condition:
        return True
    operands = {name: group.parameters[name] for name in OPERAND.findall(group.condition)}
    if any(value.origin.sort != "field" for value in operands.values()):
        return true is None or group.title in true
    return holds(group.condition, {name: _as_it_stands(pipeline, value) for name, value in operands.items()})


def conditions_of_the_form(pipeline: Pipeline) -> set[str]:
    """Returns the titles of the conditions on outputs of stages that hold with the form at its defaults.

    Stages of SAY_NO return false; all others are assumed to return true.
    """
    return {
        group.title
        for group in pipeline.groups.values()
        if group.condition and not any(_is_no(pipeline, group.parameters[name]) for name in OPERAND.findall(group.condition))
    }


def _is_no(pipeline: Pipeline, value: Value) -> bool:
    """Returns whether a value is an output of a stage that returns false with the form at its defaults."""
    if value.origin.sort != "output" or value.origin.name != "Output" or value.origin.stage[-1] not in SAY_NO:
        return False
    field, no = SAY_NO[value.origin.stage[-1]]
    asked = pipeline.stages[value.origin.stage].parameters[field]
    return asked.origin.sort == "field" and _as_it_stands(pipeline, asked) == no


def _as_it_stands(pipeline: Pipeline, value: Value) -> Any:
    return pipeline.form[value.origin.name]["defaultValue"]


def turns_of_the_form(pipeline: Pipeline) -> Callable[[Loop], int]:
    """Returns a function that counts the iterations of a loop with the form at its defaults: partitions, trials, or items."""
    defaults = {name: field.get("defaultValue") for name, field in pipeline.form.items()}

    def turns(loop: Loop) -> int:
        if loop.items is None:
            return len(loop.raw)
        if "trials" in pipeline.fields_behind(loop.items):
            return int(defaults["trials"]) or math.prod(len(defaults[name]) for name in trial_plan.SWEPT_FIELDS)
        return int(defaults["partitions"])

    return turns


if __name__ == "__main__":
    for file in sorted((Path(__file__).resolve().parents[2] / "pipelines").glob("*.yaml")):
        read = Pipeline(file.read_text(encoding="utf-8"))
        run = shape(read, turns_of_the_form(read), true=conditions_of_the_form(read))
        at_most = shape(read, turns_of_the_form(read))
        print(f"{file.stem}: {run.tasks} stages")
        print(f"    layers with the fields as they are: {run.reached}; of all: {run.layers}")
        print(f"    pods of a run with the fields as they are: {run.pods}; where the stages say yes: {at_most.pods}")
        for graph in run.graphs:
            print(f"    {graph.title}: {graph.tasks} boxes, {graph.artifacts} artifacts")
