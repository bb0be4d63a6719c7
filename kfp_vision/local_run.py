"""A pipeline on this machine: the very one that is compiled, through `kfp.local`, with a view of how far it is.

A run has a folder of its own: `run.log` with everything that was printed, the stages' artifacts as KFP lays them out, and
at the top `report.html` and `model`, which lead to what a person came for.
"""

import contextlib
import copy
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from google.protobuf import json_format
from kfp import local
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from kfp_vision import outcome, parameters, results
from kfp_vision.errors import InputError

CONDITION_FIELD = re.compile(r"pipelinechannel--(\w+)'\]")
COLOURS = re.compile(r"\x1b\[\d+m")
STARTED = re.compile(r"Executing task '([\w-]+)'")
ENDED = re.compile(r"Task '[\w-]+' finished with status (\w+)")
INDENT = "    "  # KFP sets what a stage prints apart by it
NOISE = re.compile(
    r"\[KFP Executor|[IWE]\d{4} \d\d:|WARNING: All log messages before absl|To enable the following instructions"
)


def fields(pipeline: GraphComponent) -> dict[str, str]:
    """The fields of a pipeline's form, name to type."""
    return {
        name: ParameterType.ParameterTypeEnum.Name(parameter.parameter_type)
        for name, parameter in pipeline.pipeline_spec.root.input_definitions.parameters.items()
    }


def defaults(pipeline: GraphComponent) -> dict[str, Any]:
    """The fields' default values."""
    return {
        name: json_format.MessageToDict(parameter.default_value)
        for name, parameter in pipeline.pipeline_spec.root.input_definitions.parameters.items()
    }


def preflight(pipeline: GraphComponent, values: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses wrong values as the first stage would, before anything is made, and gives what that stage would give.

    Raises:
        InputError: with the line that the function of `parameters` ends with which the first stage calls.
    """
    (check,) = parameters.CHECKS.keys() & set(stage_names(pipeline))
    command = [sys.executable, "-m", "kfp_vision.parameters", check]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise InputError.from_line(last if last.startswith(InputError.PREFIX) else f"{InputError.PREFIX}{last}")
    given: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return given


def unchanged(values: Mapping[str, Any], recipe: str) -> bool:
    """Whether skip_unchanged ends a run before it begins: here no cache gives what the stages made before, as KFP's does.

    Args:
        values: of all fields of a pipeline.
        recipe: what `preflight` gave under that name.

    Raises:
        InputError: what the store or the cluster says.
    """
    if not values.get("skip_unchanged"):
        return False
    from kfp_vision import deployment  # reads pictures: more than the plain install can

    given = {name: values[name] for name in ("images_uri", "leave_out_uri", "skip_unchanged", "deploy_to", "model_name")}
    return deployment.decide_training(**given, recipe=recipe, settings=parameters.of_deployment(values["advanced"])).unchanged


def check_conditions(pipeline: GraphComponent, arguments: Mapping[str, Any]) -> None:
    """KFP writes a text into the condition that it evaluates here; a quote in it would quietly make the condition false.

    Raises:
        InputError: a field that a condition looks at holds a quote, a backslash or the end of a line.
    """
    tasks = [task for component in pipeline.pipeline_spec.components.values() for task in component.dag.tasks.values()]
    fields = {name for task in tasks for name in CONDITION_FIELD.findall(task.trigger_policy.condition)}
    for name in sorted(fields & arguments.keys()):
        value = arguments[name]
        if isinstance(value, str) and set(value) & set("'\\\n\r"):
            rule = f"{name} of a run on this machine must hold no quote and no backslash"
            raise InputError(rule, value, "Give the folder another name, or a link to it.")


def run(
    pipeline: GraphComponent,
    arguments: dict[str, Any],
    output: Path,
    *,
    runner: str = "subprocess",
    registry: str = "",
    network: str = "bridge",
    debug: bool = False,
) -> dict[str, Any]:
    """Runs a pipeline on this machine.

    Args:
        pipeline: an entry of `kfp_vision.pipelines.PIPELINES`.
        arguments: values of fields; the others keep their defaults.
        output: where the run's folder is made.
        runner: `subprocess` for plain processes, `docker` for the stages' own container images.
        registry: where those images lie; empty for the engine's own.
        network: which of the engine's networks they are in, where a field names an address.
        debug: show everything that KFP and the stages print.

    Returns:
        What `collect` gives; skipped, the stages that did not run; and seconds by stage and in all.

    Raises:
        InputError: a stage failed; the message is the stage's own, of the first one where several did, or names the stage
            where it was killed and could say nothing. Or there is nothing to run containers with.
    """
    run_dir = output.absolute() / f"{pipeline.name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    stages = stage_names(pipeline)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if runner == "docker":
            from kfp_vision import containers  # reads pictures' URIs: more than the plain install can

            given = (pipeline, defaults(pipeline) | arguments, run_dir)
            chosen = stack.enter_context(containers.runner(*given, registry=registry, network=network))
        else:
            chosen = local.SubprocessRunner(use_venv=False)
        run_dir.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context((run_dir / "run.log").open("w", encoding="utf-8"))
        workspace = stack.enter_context(tempfile.TemporaryDirectory(prefix="kfp-vision-"))  # KFP's own stays after a failure
        local.init(chosen, pipeline_root=str(run_dir), workspace_root=workspace)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom or non-Python base image")
        warnings.filterwarnings("ignore", "Task '.*': settings .* have no effect in the current local runner")
        stack.enter_context(_environment(outcome.environment(run_dir)))
        view = View(sys.stdout, log, len(stages), debug)
        try:
            with contextlib.redirect_stdout(view):
                for_one_machine(pipeline)(**arguments)
        except (RuntimeError, ValueError) as error:  # the latter where a stage ended well and left an output out
            if list(run_dir.glob("*/evaluate-classifier/report")):  # what was made is worth reading all the same
                collect(run_dir)
            raise _failure(view, run_dir) from error
    skipped = [stage for stage in stages if stage not in view.seconds]
    seconds = view.seconds | {"total": round(time.perf_counter() - start, 1)}
    return collect(run_dir) | {"skipped": skipped, "seconds": seconds}


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """What the stages find in their environment beside what is there, as long as the body lasts."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def for_one_machine(pipeline: GraphComponent) -> GraphComponent:
    """A copy of a pipeline whose loops take one turn after the other, and whose stages are tried once.

    Each turn works on all cores as it is, and KFP would lose some of what two print at a time, the end of one of them with it.
    A person who waits is told what failed rather than kept waiting.
    """
    alone = copy.deepcopy(pipeline)
    for graph in _graphs(alone.pipeline_spec):
        for task in graph.tasks.values():
            task.ClearField("retry_policy")
            if task.WhichOneof("iterator"):
                task.iterator_policy.parallelism_limit = 1
    return alone


def stage_names(pipeline: GraphComponent) -> list[str]:
    """The stages of a pipeline, those that depend on a condition as well."""
    spec = pipeline.pipeline_spec
    stages = {name for graph in _graphs(spec) for name, task in graph.tasks.items() if not _is_graph(spec, task)}
    return sorted(name.replace("-", "_") for name in stages)


def collect(run_dir: Path) -> dict[str, Any]:
    """What came out of a run, with what a person came for put at the top of its folder.

    Returns:
        run_dir, and report where there is one. Of a run that ended with records: records, the folder that holds them, pictures
        by split, and refused, how many. Of one that named pictures: predictions, the table, pictures, unreadable, and accuracy
        where folders give the labels. Of one that made an index: index, its folder, pictures and refused, how many; nearest, a
        table, where pictures were searched for; findings, a table, and audit, its page; and deployed, what `deploy_index`
        wrote, where these ran. Of one that trained: model_dir, accuracy, accepted, reasons; where these stages ran, also
        endpoint and answer, what `deploy_model` and `call_endpoint` wrote, and predictions.
    """
    for stage, collected in COLLECTORS.items():
        if list(run_dir.glob(f"*/{stage}")):
            return collected(run_dir)
    raise AssertionError("every pipeline has one of these stages")


def _collect_records(run_dir: Path) -> dict[str, Any]:
    (joined,) = run_dir.glob("*/join-records")
    records = run_dir / "records"
    records.mkdir()
    pictures = {}
    for split in ("train", "validation", "test"):
        folder = joined / f"{split}_records"
        shutil.copytree(folder, records / split, copy_function=_link)
        pictures[split] = json.loads((folder / "records.json").read_text(encoding="utf-8"))["images"]
    for file in (joined.parent / "split-images" / "label_map").iterdir():
        shutil.copyfile(file, records / file.name)
    shutil.copyfile(joined / "refused", records / "refused.csv")
    shutil.copyfile(joined / "summary", run_dir / "report.html")
    with (joined / "refused").open(newline="", encoding="utf-8") as table:
        refused = sum(1 for _ in csv.DictReader(table))
    found = {"records": str(records), "pictures": pictures, "refused": refused, "report": str(run_dir / "report.html")}
    return {"run_dir": str(run_dir), **found}


def _link(file: str, place: str) -> None:
    """The folder of records is whole by itself, wherever it is moved or mounted, and takes no room twice."""
    from kfp_vision import storage  # reads pictures: more than the plain install can

    storage.link(Path(file), Path(place))


def _collect_model(run_dir: Path) -> dict[str, Any]:
    (evaluation,) = run_dir.glob("*/evaluate-classifier")
    artifacts = evaluation.parent
    shutil.copyfile(evaluation / "report", run_dir / "report.html")
    trained = next(artifacts / stage for stage in ("compare-trials", "train-classifier") if (artifacts / stage).exists())
    (run_dir / "model").symlink_to((trained / "model").relative_to(run_dir))
    figures = json.loads((evaluation / "metrics").read_text(encoding="utf-8"))
    result = {
        "run_dir": str(run_dir),
        "model_dir": str(run_dir / "model"),
        "report": str(run_dir / "report.html"),
        "accuracy": figures["accuracy"],
        **figures["verdict"],
    }
    for output, name in (("trials", "trials.csv"), ("page", "trials.html")):
        if (artifacts / "compare-trials" / output).exists():
            shutil.copyfile(artifacts / "compare-trials" / output, run_dir / name)
            result |= {"trials": str(run_dir / name)}
    for stage, output in (("deploy-model", "endpoint"), ("call-endpoint", "answer")):
        if (artifacts / stage / output).exists():
            result[output] = json.loads((artifacts / stage / output).read_text(encoding="utf-8"))
    if (artifacts / "predict-images" / "predictions").exists():
        shutil.copyfile(artifacts / "predict-images" / "predictions", run_dir / "predictions.csv")
        result["predictions"] = str(run_dir / "predictions.csv")
    return result


def _collect_predictions(run_dir: Path) -> dict[str, Any]:
    from kfp_vision import prediction  # as in _link

    (joined,) = run_dir.glob("*/join-predictions")
    shutil.copyfile(joined / "predictions", run_dir / "predictions.csv")
    figures = prediction.headlines(json.loads((joined / "metrics").read_text(encoding="utf-8")))
    return {"run_dir": str(run_dir), "predictions": str(run_dir / "predictions.csv")} | figures


def _collect_index(run_dir: Path) -> dict[str, Any]:
    (indexed,) = run_dir.glob("*/join-index")
    (run_dir / "index").symlink_to((indexed / "index").relative_to(run_dir))
    figures = json.loads((indexed / "metrics").read_text(encoding="utf-8"))
    result = {"run_dir": str(run_dir), "index": str(run_dir / "index")}
    result |= {name: figures[name] for name in ("pictures", "refused")}
    searched = indexed.parent / "search-images"
    if (searched / "found").exists():
        shutil.copyfile(searched / "found", run_dir / "nearest.csv")
        shutil.copyfile(searched / "page", run_dir / "report.html")
        result |= {"nearest": str(run_dir / "nearest.csv"), "report": str(run_dir / "report.html")}
    audited = indexed.parent / "audit-images"
    if (audited / "findings").exists():
        shutil.copyfile(audited / "findings", run_dir / "findings.csv")
        shutil.copyfile(audited / "page", run_dir / "audit.html")
        result |= {"findings": str(run_dir / "findings.csv"), "audit": str(run_dir / "audit.html")}
    if (deployed := indexed.parent / "deploy-index" / "deployed").exists():
        result["deployed"] = json.loads(deployed.read_text(encoding="utf-8"))
    return result


# By the stage that a run got to; the first one counts.
COLLECTORS = {
    "evaluate-classifier": _collect_model,
    "join-predictions": _collect_predictions,
    "join-records": _collect_records,
    "join-index": _collect_index,
}


def _graphs(spec: Any) -> list[Any]:
    """The pipeline's own graph and those within it: loops, conditions, what an exit handler ends."""
    return [spec.root.dag, *(component.dag for component in spec.components.values())]


def _is_graph(spec: Any, task: Any) -> bool:
    return spec.components[task.component_ref.name].HasField("dag")


class View(io.TextIOBase):
    """Takes what KFP prints: keeps all of it in a log, and shows which stage runs, how far it is, and how long it took."""

    def __init__(self, shown: TextIO, log: TextIO, stages: int, debug: bool):
        self.shown, self.log, self.stages, self.debug = shown, log, stages, debug
        self.seconds: dict[str, float] = {}  # of all turns, where a stage runs in a loop
        self.turns: Counter[str] = Counter()
        self.stage = ""
        self.failed: list[outcome.Stage] = []  # with the line that each of them ended with
        self._since, self._line, self._error = 0.0, "", ""
        self._running, self._in_json, self._in_traceback = False, False, False

    def write(self, text: str) -> int:
        self.log.write(text)
        if self.debug:
            self.shown.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._take(COLOURS.sub("", line))
        self.flush()
        return len(text)

    def flush(self) -> None:
        self.log.flush()
        self.shown.flush()

    def isatty(self) -> bool:
        return False

    def _take(self, line: str) -> None:
        if line in (f"{INDENT}{{", f"{INDENT}}}"):  # KFP says first, as JSON, what it calls the stage with
            self._in_json = line.endswith("{")
        elif started := STARTED.search(line):
            self.stage, self._since, self._error = started[1].replace("-", "_"), time.perf_counter(), ""
            self._running, self._in_json, self._in_traceback = True, False, False
            self.turns[self.stage] += 1
            again = f" ({self.turns[self.stage]})" if self.turns[self.stage] > 1 else ""
            self._show(f"[{len(self.turns)}/{self.stages}] {self.stage}{again}")
        elif ended := ENDED.search(line):
            took = round(time.perf_counter() - self._since, 1)
            self.seconds[self.stage] = round(self.seconds.get(self.stage, 0.0) + took, 1)
            self._show(f"{INDENT}  {'done' if ended[1] == 'SUCCESS' else 'failed'} in {took:.1f} s")
            self._running = False
            if ended[1] != "SUCCESS":
                self._note_failure()
        elif self._running and not self._in_json and line.startswith(INDENT) and line.strip() and not NOISE.match(line.strip()):
            self._take_from_stage(line.removeprefix(INDENT).rstrip())

    def _take_from_stage(self, line: str) -> None:
        if line.startswith("Traceback (most recent call last)"):
            self._in_traceback = True
        elif line.startswith(InputError.PREFIX):
            self._error = line
        elif not self._in_traceback:
            self._show(f"{INDENT}  {line}")
            if line.startswith(results.PREFIX):
                outcome.note_result(Path(self.log.name).parent, line.removeprefix(results.PREFIX))
        elif line.strip() and not line.startswith(" "):
            self._error = f"{InputError.PREFIX}{self.stage} failed: {line} (all of it is in {self.log.name})"

    def _note_failure(self) -> None:
        """What failed, for who runs the pipeline, and for the last stage, which tells others."""
        error = self._error or str(_killed(self.stage, self.log.name))
        self.failed.append(outcome.Stage(self.stage, error))
        told = outcome.Stage(self.stage, error.removeprefix(InputError.PREFIX))
        outcome.note(Path(self.log.name).parent, told)

    def _show(self, line: str) -> None:
        if not self.debug:
            self.shown.write(f"{line}\n")


def _killed(stage: str, log: str) -> InputError:
    """What to say of a stage that ended and gave no reason."""
    remedy = f"Give it more memory, or look into {log}."
    return InputError(f"{stage} must come to its end", "one that was killed, as happens where memory is short", remedy)


def _failure(view: View, run_dir: Path) -> InputError:
    if view.failed:
        return InputError.from_line(view.failed[0].error)
    return InputError("every stage must succeed", f"a failure of {view.stage}", f"See {run_dir / 'run.log'}.")
