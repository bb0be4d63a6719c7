"""A picture of each pipeline: its stages, the boxes they stand in, and what flows between them.

`python -m kfp_vision.pipelines.graphs` draws them all anew, with `dot`, of graphviz.
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

from kfp_vision.components.images import GPU_IMAGE
from kfp_vision.errors import InputError
from kfp_vision.pipelines import PIPELINES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "graphs"
UNNAMED = "Output"  # what KFP calls the output of a stage that returns one value
ON_GPU = "on a GPU"
WHATEVER = "whatever happened"
CLUSTER = "cluster_"  # what the names of boxes begin with for dot
LINE = 36  # characters of what stands beside an arrow
NUMBERED_LOOP = re.compile(r"for-loop-\d+")  # what KFP calls one that has no name

CHANNEL = re.compile(r"inputs\.parameter_values\['pipelinechannel--(.*?)'\]")
CAST = re.compile(r"\b(?:int|double)\((.*?)\)")
SAID = {"==": "is", "!=": "is not", "<": "is below", ">=": "is at least", ">": "is above", "<=": "is at most"}
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}

# The colours of the pages by day, on a sheet of paper of their own: the page around it may be dark.
PAPER, WASH, INK, MUTED, RULE, FIRST, TINT = "#fdfcfa", "#f4f2ec", "#1d1d1b", "#62605a", "#c9c5b9", "#2a5b97", "#e6edf6"
FONT = "Helvetica,Arial,sans-serif"
STYLE = f"""\
bgcolor=transparent pad=0.02 nodesep=0.3 ranksep=0.22 compound=true
fontname="{FONT}" fontsize=10 fontcolor="{MUTED}" labeljust=l
node [fontname="{FONT}" fontsize=11 fontcolor="{INK}" color="{RULE}" fillcolor=white]
node [shape=box style="rounded,filled" height=0.33 margin="0.14,0.06"]
edge [fontname="{FONT}" fontsize=9 fontcolor="{MUTED}" color="{MUTED}" arrowsize=0.6]"""


class Flow(NamedTuple):
    """What a stage takes: an output of another, or none where it only waits for it."""

    stage: str
    output: str = ""


class Arrow(NamedTuple):
    """What is drawn from a stage to another.

    Attributes:
        out_of: the outermost box that it leaves, at whose edge it begins; empty for none.
        into: the outermost box that it enters, at whose edge it ends: a box waits as a whole.
        words: the named outputs that go there.
    """

    tail: str
    head: str
    out_of: str
    into: str
    words: str


@dataclass
class Graph:
    """What there is of a pipeline to be drawn.

    Attributes:
        within: the box that each stage and each box stands in; empty for none.
        labels: what stands on each box.
        flows: what each stage takes of others.
        last: the stages that run whatever happened in a box, with that box.
        on_gpu: the stages whose image is the one for a GPU.
    """

    within: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    flows: dict[str, set[Flow]] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    on_gpu: set[str] = field(default_factory=set)

    def arrows(self) -> list[Arrow]:
        """All arrows but those that others imply. Between the same two boxes there is one."""
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
            tail = max(inside, key=lambda stage: (len(before[stage]), stage))  # so that it is drawn below all of them
            arrows.append(Arrow(tail, head, *self._crossed(tail, head), WHATEVER))
        return arrows

    def _before(self) -> dict[str, set[str]]:
        """All stages that each stage comes after."""
        direct = {stage: {flow.stage for flow in flows} for stage, flows in self.flows.items()}
        before: dict[str, set[str]] = {}
        for stage in TopologicalSorter(direct).static_order():
            before[stage] = direct[stage].union(*(before[one] for one in direct[stage]))
        return before

    def _crossed(self, tail: str, head: str) -> tuple[str, str]:
        """The outermost box that an arrow leaves, and the outermost one that it enters."""
        left, entered = list(self._around(tail)), list(self._around(head))
        out_of = [box for box in left if box not in entered]
        into = [box for box in entered if box not in left]
        return out_of[-1] if out_of else "", into[-1] if into else ""

    def _around(self, name: str) -> Iterator[str]:
        while name := self.within[name]:
            yield name


def main() -> None:
    """Draws all pictures anew."""
    program = shutil.which("dot")
    if program is None:
        raise InputError("there must be dot, of graphviz, to draw the pictures", "none", "Run apt-get install graphviz.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, pipeline in PIPELINES.items():
        command = [program, "-Tsvg", "-o", str(FOLDER / f"{name}.svg")]
        subprocess.run(command, input=dot(pipeline), encoding="utf-8", check=True)


def dot(pipeline: BaseComponent) -> str:
    """The picture of a pipeline as the program dot takes it."""
    graph = read(pipeline)
    sheet = f'subgraph {CLUSTER}sheet {{ style="rounded,filled" color="{PAPER}" fillcolor="{PAPER}" margin=10'
    top = f"digraph {_name(pipeline.pipeline_spec.pipeline_info.name)} {{"
    return "\n".join([top, STYLE, sheet, *_within(graph, ""), "}", *map(_arrow, graph.arrows()), "}\n"])


def _within(graph: Graph, around: str) -> Iterator[str]:
    """The stages and the boxes in a box, those in these boxes among them."""
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
    """The graph of a pipeline, from what it compiles to."""
    spec, graph = pipeline.pipeline_spec, Graph()
    _read(spec, spec.root.dag, graph, box="", given={}, awaited=set())
    return graph


def _read(spec: Any, dag: Any, graph: Graph, box: str, given: Mapping[str, set[Flow]], awaited: set[Flow]) -> None:
    """Reads the tasks of a group into a graph, and those of the groups within it.

    Args:
        box: the group.
        given: what each of its inputs is made of.
        awaited: what it waits for as a whole.
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
    """The outputs of stages that an input of a task is made of: none where it is a field or a constant."""
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
    """The outputs of stages that an output of a task is made of: its own where it is a stage, else those of stages within."""
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
    """A task itself where it is a stage, else all stages within."""
    component = spec.components[dag.tasks[key].component_ref.name]
    if not component.HasField("dag"):
        return {_name(key)}
    return {stage for within in component.dag.tasks for stage in _stages(spec, component.dag, within)}


def _name(key: str) -> str:
    return key.replace("-", "_")


def _label(key: str, task: Any) -> str:
    """What stands on the box of a group."""
    name = task.task_info.name
    if task.trigger_policy.condition:
        return in_words(task.trigger_policy.condition)
    if task.WhichOneof("iterator"):
        return "for each item" if NUMBERED_LOOP.fullmatch(name) else f"for each {name.removesuffix('s')}"
    return "one of these" if key.startswith("condition-branches") else name


def in_words(condition: str) -> str:
    """A condition of KFP's as a person says it: if deploy_to is not none."""
    plain = CAST.sub(r"\1", CHANNEL.sub(r"\1", condition))
    return f"if {' and '.join(map(_said, plain.split(' && ')))}"


def _said(comparison: str) -> str:
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
    return f"{what} {SAID[operator]} {value.strip(chr(39)) or 'empty'}"


if __name__ == "__main__":
    main()
