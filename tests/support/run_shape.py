"""What a run of a compiled pipeline looks like on the page of Kubeflow Pipelines, and how many pods it takes.

`python tests/support/run_shape.py` prints it of each pipeline, its form as it stands: with what the stages then say, and with
every
condition true that a stage decides.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from support.kfp_driver import OPERAND, Loop, Pipeline, Task, Value, holds, waits_for

from kfp_vision.training import trials

# The stages that return false while a field has a value: components/check_serving.py, "deploy_to names a place".
SAY_NO = {"check-serving": ("deploy_to", "none")}


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
    """A run.

    Attributes:
        layers: how many graphs stand in each other.
        reached: the same without what stands within a condition that does not hold: its own graph is empty, and the last.
        tasks: how many stages the pipeline has.
        pods: how many run.
        graphs: each.
    """

    layers: int
    reached: int
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
    deepest = reached = 0
    for path, group in pipeline.groups.items():
        above = [pipeline.groups[path[:length]] for length in range(len(path) + 1)]
        depth = sum(2 if one.loop else 1 for one in above)
        deepest = max(deepest, depth)
        if all(_is_true(pipeline, one, true) for one in above[:-1]):
            reached = max(reached, depth)
        title = " / ".join(one.title for one in above)
        if group.loop:
            graphs.append(Layer(title, turns(group.loop), 0))
            title += " / turn"
        # frontend/src/lib/v2/StaticFlow.ts: addArtifactNodes, and addInputArtifactNodes for what comes into the group.
        made = [pipeline.component(task).get("outputDefinitions", {}).get("artifacts", {}) for task in group.tasks.values()]
        given = group.component.get("inputDefinitions", {}).get("artifacts", {}) if path else {}
        graphs.append(Layer(title, len(group.tasks), sum(map(len, made)) + len(given)))
    in_all = 1 + _pods(pipeline, pipeline.root, turns, true)  # the root's driver
    return Shape(deepest, reached, len(pipeline.stages), in_all, tuple(graphs))


def _pods(pipeline: Pipeline, group: Task, turns: Callable[[Loop], int], true: Collection[str] | None) -> int:
    """The pods within a group, once: argocompiler/dag.go, task and iteratorTask.

    Each stage has a driver and its own, each group a driver, and a loop one more for each turn. A condition that does not hold
    costs its driver; what waits for it, nothing (depends: `.Succeeded`).
    """
    in_all, left_out = 0, set[str]()
    for key in _in_order(group):
        if left_out.intersection(waits_for(group.tasks[key])):
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


def _in_order(group: Task) -> list[str]:
    """The keys of a group's tasks, each behind those that it waits for."""
    return list(TopologicalSorter({key: waits_for(task) for key, task in group.tasks.items()}).static_order())


def _is_true(pipeline: Pipeline, group: Task, true: Collection[str] | None) -> bool:
    if not group.condition:
        return True
    operands = {name: group.parameters[name] for name in OPERAND.findall(group.condition)}
    if any(value.origin.sort != "field" for value in operands.values()):
        return true is None or group.title in true
    return holds(group.condition, {name: _as_it_stands(pipeline, value) for name, value in operands.items()})


def conditions_of_the_form(pipeline: Pipeline) -> set[str]:
    """The titles of the conditions that hold with the form as it stands, of those that depend on what a stage says.

    A stage of SAY_NO says no; of every other one it is supposed that it says yes.
    """
    return {
        group.title
        for group in pipeline.groups.values()
        if group.condition and not any(_is_no(pipeline, group.parameters[name]) for name in OPERAND.findall(group.condition))
    }


def _is_no(pipeline: Pipeline, value: Value) -> bool:
    """Whether a value is what a stage returns that says no with the form as it stands."""
    if value.origin.sort != "output" or value.origin.name != "Output" or value.origin.stage[-1] not in SAY_NO:
        return False
    field, no = SAY_NO[value.origin.stage[-1]]
    asked = pipeline.stages[value.origin.stage].parameters[field]
    return asked.origin.sort == "field" and _as_it_stands(pipeline, asked) == no


def _as_it_stands(pipeline: Pipeline, value: Value) -> Any:
    return pipeline.form[value.origin.name]["defaultValue"]


def turns_of_the_form(pipeline: Pipeline) -> Callable[[Loop], int]:
    """How many turns each loop makes with the form as it stands: as `partitions` says, or one for each trial, or each item."""
    defaults = {name: field.get("defaultValue") for name, field in pipeline.form.items()}

    def turns(loop: Loop) -> int:
        if loop.items is None:
            return len(loop.raw)
        if "trials" in pipeline.fields_behind(loop.items):
            return int(defaults["trials"]) or math.prod(len(defaults[name]) for name in trials.SWEPT_FIELDS)
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
