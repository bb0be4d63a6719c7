"""Draws a diagram of each pipeline: its stages, the groups that hold them, and the data between them.

`python -m kfp_vision.pipelines.graphs` redraws all of them with Graphviz's `dot`.
"""

import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from kfp.dsl.base_component import BaseComponent

from kfp_vision.components.container_images import GPU_IMAGE
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import PIPELINES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "graphs"
UNNAMED = "Output"  # KFP's name for the output of a stage that returns one value
ON_GPU = "on a GPU"
WHATEVER = "whatever happened"
CLUSTER = "cluster_"  # prefix by which dot recognizes a group
LINE = 36  # characters per line of an arrow's label
NUMBERED_LOOP = re.compile(r"for-loop-\d+")  # KFP's name for an unnamed loop

CHANNEL = re.compile(r"inputs\.parameter_values\['pipelinechannel--(.*?)'\]")
CAST = re.compile(r"\b(?:int|double)\((.*?)\)")
OPERATORS = {"==": "is", "!=": "is not", "<": "is below", ">=": "is at least", ">": "is above", "<=": "is at most"}
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}

# The light colors of the reports, on an opaque sheet, because the page around it may be dark.
PAPER, WASH, INK, MUTED, RULE, FIRST, TINT = "#fdfcfa", "#f4f2ec", "#1d1d1b", "#62605a", "#c9c5b9", "#2a5b97", "#e6edf6"
FONT = "Helvetica,Arial,sans-serif"
STYLE = f"""\
bgcolor=transparent pad=0.02 nodesep=0.3 ranksep=0.22 compound=true
fontname="{FONT}" fontsize=10 fontcolor="{MUTED}" labeljust=l
node [fontname="{FONT}" fontsize=11 fontcolor="{INK}" color="{RULE}" fillcolor=white]
node [shape=box style="rounded,filled" height=0.33 margin="0.14,0.06"]
edge [fontname="{FONT}" fontsize=9 fontcolor="{MUTED}" color="{MUTED}" arrowsize=0.6]"""


class Flow(NamedTuple):
    """Input of a stage from another one.

    Attributes:
        stage: the stage it comes from.
        output: the output; empty if the stage only waits for the other.
    """

    stage: str
    output: str = ""


class Arrow(NamedTuple):
    """An arrow between two stages.

    Attributes:
        tail: the stage it starts from.
        head: the stage it points to.
        out_of: outermost group that it leaves, at whose edge it starts; empty for none.
        into: outermost group that it enters, at whose edge it ends, because a group waits as a whole; empty for none.
        words: names of the outputs passed along it.
    """

    tail: str
    head: str
    out_of: str
    into: str
    words: str


@dataclass
class Graph:
    """The parts of a pipeline that are drawn.

    Attributes:
        within: enclosing group of each stage and group; empty for none.
        labels: label of each group.
        flows: inputs of each stage from other stages.
        last: exit stages, each with the group that it follows.
        on_gpu: stages that run in the GPU image.
    """

    within: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    flows: dict[str, set[Flow]] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    on_gpu: set[str] = field(default_factory=set)

    def arrows(self) -> list[Arrow]:
        """Lists the arrows without those implied by others, at most one between the same two groups."""
        before = self._before()
        taken: dict[tuple[str, str], list[Flow]] = {}
        drawn: dict[tuple[str, str], tuple[str, str]] = {}
        for head, flows in sorted(self.flows.items()):
            direct = {flow.stage for flow in flows}
            for tail in sorted(direct.difference(*(before[stage] for stage in direct))):
                out_of, into = self._crossed(tail, head)
                ends = out_of or tail, into or head
                drawn.setdefault(ends, (tail, head))
                taken.setdefault(ends, []).extend(flow for flow in flows if flow.stage == tail)
        arrows = []
        for ends, (tail, head) in drawn.items():
            words = sorted({flow.output for flow in taken[ends]} - {"", UNNAMED})
            arrows.append(Arrow(tail, head, *self._crossed(tail, head), ", ".join(words)))
        for head, box in self.last.items():
            inside = (stage for stage in self.flows if box in self._around(stage))
            tail = max(
                inside, key=lambda stage: (len(before[stage]), stage)
            )  # the last one, so that the exit is drawn below all
            arrows.append(Arrow(tail, head, *self._crossed(tail, head), WHATEVER))
        return arrows

    def _before(self) -> dict[str, set[str]]:
        """Lists all ancestors of each stage."""
        direct = {stage: {flow.stage for flow in flows} for stage, flows in self.flows.items()}
        before: dict[str, set[str]] = {}
        for stage in TopologicalSorter(direct).static_order():
            before[stage] = direct[stage].union(*(before[one] for one in direct[stage]))
        return before

    def _crossed(self, tail: str, head: str) -> tuple[str, str]:
        """Finds the outermost group that an arrow leaves, and the outermost one that it enters."""
        left, entered = list(self._around(tail)), list(self._around(head))
        out_of = [box for box in left if box not in entered]
        into = [box for box in entered if box not in left]
        return out_of[-1] if out_of else "", into[-1] if into else ""

    def _around(self, name: str) -> Iterator[str]:
        while name := self.within[name]:
            yield name


def main() -> None:
    """Redraws all diagrams in `docs/graphs`.

    Raises:
        InputError: Graphviz is not installed.
    """
    program = shutil.which("dot")
    if program is None:
        raise InputError("Graphviz must be installed to draw the diagrams", "no dot", "Run apt-get install graphviz.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, pipeline in PIPELINES.items():
        command = [program, "-Tsvg", "-o", str(FOLDER / f"{name}.svg")]
        subprocess.run(command, input=dot(pipeline), encoding="utf-8", check=True)


def dot(pipeline: BaseComponent) -> str:
    """Renders a pipeline in Graphviz's DOT language.

    Args:
        pipeline: the pipeline.

    Returns:
        The DOT text.
    """
    graph = read(pipeline)
    sheet = f'subgraph {CLUSTER}sheet {{ style="rounded,filled" color="{PAPER}" fillcolor="{PAPER}" margin=10'
    top = f"digraph {_name(pipeline.pipeline_spec.pipeline_info.name)} {{"
    return "\n".join([top, STYLE, sheet, *_within(graph, ""), "}", *map(_arrow, graph.arrows()), "}\n"])


def _within(graph: Graph, around: str) -> Iterator[str]:
    """Renders the stages and groups in a group, recursively."""
    for name in sorted(name for name, box in graph.within.items() if box == around):
        if name in graph.labels:
            yield f'subgraph {CLUSTER}{name} {{ label="{graph.labels[name]}" style="rounded,filled" color="{RULE}"'
            yield f'fillcolor="{PAPER if around else WASH}"'
            yield from _within(graph, name)
            yield "}"
        elif name in graph.on_gpu:
            gap = '<font point-size="3"> <br/></font>'
            label = f'{gap}{name}<br/>{gap}<font point-size="9" color="{FIRST}">{ON_GPU}</font>'
            yield f'{name} [label=<{label}> color="{FIRST}" fillcolor="{TINT}"]'
        else:
            yield name


def _arrow(arrow: Arrow) -> str:
    beside = "".join(rf"  {line}\l" for line in textwrap.wrap(arrow.words, LINE))
    look = [f'label="{beside}"']
    if arrow.out_of:
        look.append(f"ltail={CLUSTER}{arrow.out_of}")
    if arrow.into:
        look.append(f"lhead={CLUSTER}{arrow.into}")
    if arrow.words == WHATEVER:
        look.append("style=dashed")
    return f"{arrow.tail} -> {arrow.head} [{' '.join(look)}]"


def read(pipeline: BaseComponent) -> Graph:
    """Reads the graph of a pipeline from its compiled form.

    Args:
        pipeline: the pipeline.

    Returns:
        The graph.
    """
    spec, graph = pipeline.pipeline_spec, Graph()
    _read(spec, spec.root.dag, graph, box="", given={}, awaited=set())
    return graph


def _read(spec: Any, dag: Any, graph: Graph, box: str, given: Mapping[str, set[Flow]], awaited: set[Flow]) -> None:
    """Reads the tasks of a group into a graph, recursively.

    Args:
        spec: the compiled pipeline.
        dag: the group's tasks.
        graph: the graph to extend.
        box: name of the group; empty for the pipeline itself.
        given: stage outputs behind each input of the group.
        awaited: stages that the group waits for as a whole.
    """
    for key, task in dag.tasks.items():
        name, component = _name(key), spec.components[task.component_ref.name]
        graph.within[name] = box
        inputs = {**task.inputs.parameters, **task.inputs.artifacts}
        taken = {of: _sources(spec, dag, value, given) for of, value in inputs.items()}
        waits = awaited | {Flow(stage) for other in task.dependent_tasks for stage in _stages(spec, dag, other)}
        ended = {_name(value.task_final_status.producer_task) for value in task.inputs.parameters.values()} - {""}
        if component.HasField("dag"):
            graph.labels[name] = _label(key, task)
            loop = task.parameter_iterator
            taken[loop.item_input] = taken.get(loop.items.input_parameter, set())
            _read(spec, component.dag, graph, name, taken, waits)
            continue
        if ended:
            (graph.last[name],) = ended
        else:
            graph.flows[name] = waits.union(*taken.values())
        if spec.deployment_spec["executors"][component.executor_label]["container"]["image"] == GPU_IMAGE:
            graph.on_gpu.add(name)


def _sources(spec: Any, dag: Any, value: Any, given: Mapping[str, set[Flow]]) -> set[Flow]:
    """Finds the stage outputs behind a task's input; empty for a field or a constant."""
    kind = value.WhichOneof("kind")
    source = getattr(value, kind)
    if kind in ("component_input_parameter", "component_input_artifact"):
        return given.get(source, set())
    if kind == "task_output_parameter":
        return _outputs(spec, dag, source.producer_task, source.output_parameter_key)
    if kind == "task_output_artifact":
        return _outputs(spec, dag, source.producer_task, source.output_artifact_key)
    return set()


def _outputs(spec: Any, dag: Any, key: str, output: str) -> set[Flow]:
    """Finds the stage outputs behind a task's output: its own if the task is a stage, else those of the stages within."""
    component = spec.components[dag.tasks[key].component_ref.name]
    if not component.HasField("dag"):
        return {Flow(_name(key), output)}
    outputs = component.dag.outputs
    if output in outputs.artifacts:
        made = [(one.producer_subtask, one.output_artifact_key) for one in outputs.artifacts[output].artifact_selectors]
    else:
        selected = outputs.parameters[output]
        one_of = [selected.value_from_parameter, *selected.value_from_oneof.parameter_selectors]
        made = [(one.producer_subtask, one.output_parameter_key) for one in one_of if one.producer_subtask]
    return {flow for within, inner in made for flow in _outputs(spec, component.dag, within, inner)}


def _stages(spec: Any, dag: Any, key: str) -> set[str]:
    """Lists the stages of a task: itself if it is a stage, else all stages within."""
    component = spec.components[dag.tasks[key].component_ref.name]
    if not component.HasField("dag"):
        return {_name(key)}
    return {stage for within in component.dag.tasks for stage in _stages(spec, component.dag, within)}


def _name(key: str) -> str:
    return key.replace("-", "_")


def _label(key: str, task: Any) -> str:
    """Returns the label of a group."""
    name = task.task_info.name
    if task.trigger_policy.condition:
        return in_words(task.trigger_policy.condition)
    if task.WhichOneof("iterator"):
        return "for each item" if NUMBERED_LOOP.fullmatch(name) else f"for each {name.removesuffix('s')}"
    return "one of these" if key.startswith("condition-branches") else name


def in_words(condition: str) -> str:
    """Phrases a KFP condition for people, such as `if deploy_to is not none`.

    Args:
        condition: the condition, an expression in KFP's language.

    Returns:
        The phrase.
    """
    plain = CAST.sub(r"\1", CHANNEL.sub(r"\1", condition))
    return f"if {' and '.join(map(_comparison_in_words, plain.split(' && ')))}"


def _comparison_in_words(comparison: str) -> str:
    negated = comparison.startswith("!(")
    channel, operator, value = (comparison[2:-1] if negated else comparison).split(" ", maxsplit=2)
    operator = OPPOSITE[operator] if negated else operator
    producer, _, what = channel.rpartition("-")
    stage = _name(producer)
    if what == UNNAMED and value in ("true", "false"):
        return f"{stage} says {'yes' if (value == 'true') == (operator == '==') else 'no'}"
    if what == UNNAMED:
        what = f"what {stage} says"
    elif "-loop-item" in channel:
        what = "it"
    elif stage:
        what = f"{what} of {stage}"
    return f"{what} {OPERATORS[operator]} {value.strip(chr(39)) or 'empty'}"


if __name__ == "__main__":
    main()
