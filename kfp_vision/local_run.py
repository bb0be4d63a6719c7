"""Runs a compiled pipeline on this machine through `kfp.local`, with a progress display.

Each run has its own folder, with `run.log`, the stages' artifacts as KFP lays them out, and links to the results at the top,
such as `report.html` and `model`.
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
from enum import Enum, auto
from pathlib import Path
from typing import Any, TextIO

from google.protobuf import json_format
from kfp import local
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from kfp_vision.core.errors import InputError
from kfp_vision.preflight import checks, rules
from kfp_vision.reports import outcome, results
from kfp_vision.reports.run_state import FailedStage

CONDITION_FIELD = re.compile(r"pipelinechannel--(\w+)'\]")
COLORS = re.compile(r"\x1b\[\d+m")
STARTED = re.compile(r"Executing task '([\w-]+)'")
ENDED = re.compile(r"Task '[\w-]+' finished with status (\w+)")
INDENT = "    "  # KFP's indent of what a stage prints
NOISE = re.compile(
    r"\[KFP Executor|[IWE]\d{4} \d\d:|WARNING: All log messages before absl|To enable the following instructions"
)


def fields(pipeline: GraphComponent) -> dict[str, str]:
    """Lists the fields of a pipeline's form.

    Args:
        pipeline: the pipeline.

    Returns:
        The type of each field by name, as KFP names it.
    """
    return {
        name: ParameterType.ParameterTypeEnum.Name(parameter.parameter_type)
        for name, parameter in pipeline.pipeline_spec.root.input_definitions.parameters.items()
    }


def defaults(pipeline: GraphComponent) -> dict[str, Any]:
    """Lists the default values of a pipeline's form.

    Args:
        pipeline: the pipeline.

    Returns:
        The default of each field by name.
    """
    return {
        name: json_format.MessageToDict(parameter.default_value)
        for name, parameter in pipeline.pipeline_spec.root.input_definitions.parameters.items()
    }


def preflight(pipeline: GraphComponent, values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the fields as the first stage will, before anything is written.

    Args:
        pipeline: the pipeline.
        values: values of all fields.

    Returns:
        The outputs of the first stage, such as recipe.

    Raises:
        InputError: the one that the first stage would end with.
    """
    (check,) = checks.CHECKS.keys() & set(stage_names(pipeline))
    command = [sys.executable, "-m", "kfp_vision.preflight.rules", check]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise InputError.from_line(last if last.startswith(InputError.PREFIX) else f"{InputError.PREFIX}{last}")
    checked: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return checked


def unchanged(values: Mapping[str, Any], recipe: str) -> bool:
    """Checks whether skip_unchanged makes the run unnecessary. Unlike on a cluster, no cache provides earlier outputs here.

    Args:
        values: values of all fields.
        recipe: the output of that name of `preflight`.

    Returns:
        Whether the deployed model was trained on the same data and fields.

    Raises:
        InputError: the store or the cluster cannot be read.
    """
    if not values.get("skip_unchanged"):
        return False
    from kfp_vision.deployment import decision  # needs packages that the plain install lacks

    inputs = {name: values[name] for name in ("images_uri", "leave_out_uri", "skip_unchanged", "deploy_to", "model_name")}
    return decision.decide_training(**inputs, recipe=recipe, settings=rules.deployment_settings(values["advanced"])).unchanged


def check_conditions(pipeline: GraphComponent, arguments: Mapping[str, Any]) -> None:
    """Rejects values that would break a condition: `kfp.local` pastes them into the expression, where a quote makes it false.

    Args:
        pipeline: the pipeline.
        arguments: values of the fields that were given.

    Raises:
        InputError: a field in a condition contains a quote, a backslash or a line break.
    """
    tasks = [task for component in pipeline.pipeline_spec.components.values() for task in component.dag.tasks.values()]
    conditional = {name for task in tasks for name in CONDITION_FIELD.findall(task.trigger_policy.condition)}
    for name in sorted(conditional & arguments.keys()):
        value = arguments[name]
        if isinstance(value, str) and set(value) & set("'\\\n\r"):
            rule = f"{name} of a local run must not contain a quote, a backslash or a line break"
            raise InputError(rule, value, "Rename the folder, or give a link to it.")


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
        output: folder in which the run's folder is created.
        runner: `subprocess` for plain processes, `docker` for the stages' own container images.
        registry: registry of the container images; empty for the engine's local ones.
        network: the container engine's network to use if a field contains a remote address.
        debug: show everything that KFP and the stages print.

    Returns:
        The results as `collect` returns them, and skipped, the stages that did not run, and seconds, by stage and in total.

    Raises:
        InputError: a stage failed (the message of the first one that did, or its name if it was killed), or the container
            engine is unavailable.

    Example:
        ```python
        run(PIPELINES["image_classification"], {"images_uri": "sample", "gpu_count": 0}, Path("runs"))
        ```
    """
    run_dir = output.absolute() / f"{pipeline.name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    stages = stage_names(pipeline)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if runner == "docker":
            from kfp_vision import containers  # needs packages that the plain install lacks

            values = defaults(pipeline) | arguments
            used = containers.runner(pipeline, values, run_dir, registry=registry, network=network)
            kfp_runner = stack.enter_context(used)
        else:
            kfp_runner = local.SubprocessRunner(use_venv=False)
        run_dir.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context((run_dir / "run.log").open("w", encoding="utf-8"))
        # KFP leaves its default workspace behind after a failure.
        workspace = stack.enter_context(tempfile.TemporaryDirectory(prefix="kfp-vision-"))
        local.init(kfp_runner, pipeline_root=str(run_dir), workspace_root=workspace)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom or non-Python base image")
        warnings.filterwarnings("ignore", "Task '.*': settings .* have no effect in the current local runner")
        stack.enter_context(_environment(outcome.failures_environment(run_dir)))
        view = View(sys.stdout, log, len(stages), debug)
        try:
            with contextlib.redirect_stdout(view):
                for_one_machine(pipeline)(**arguments)
        except (RuntimeError, ValueError) as error:  # ValueError: a stage succeeded without writing an output
            if list(run_dir.glob("*/evaluate-classifier/report")):  # the report is worth reading all the same
                collect(run_dir)
            raise _failure(view, run_dir) from error
    skipped = [stage for stage in stages if stage not in view.seconds]
    seconds = view.seconds | {"total": round(time.perf_counter() - start, 1)}
    return collect(run_dir) | {"skipped": skipped, "seconds": seconds}


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the body."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def for_one_machine(pipeline: GraphComponent) -> GraphComponent:
    """Copies a pipeline so that loops run one turn at a time and no stage is retried.

    One turn already uses all cores, and `kfp.local` loses output of turns that print at the same time, even the end of a stage.
    Retries would keep the person at the screen waiting.

    Args:
        pipeline: the pipeline.

    Returns:
        The copy.
    """
    sequential = copy.deepcopy(pipeline)
    for graph in _graphs(sequential.pipeline_spec):
        for task in graph.tasks.values():
            task.ClearField("retry_policy")
            if task.WhichOneof("iterator"):
                task.iterator_policy.parallelism_limit = 1
    return sequential


def stage_names(pipeline: GraphComponent) -> list[str]:
    """Lists the stages of a pipeline, including conditional ones.

    Args:
        pipeline: the pipeline.

    Returns:
        The names, sorted.
    """
    spec = pipeline.pipeline_spec
    stages = {name for graph in _graphs(spec) for name, task in graph.tasks.items() if not _is_graph(spec, task)}
    return sorted(name.replace("-", "_") for name in stages)


def collect(run_dir: Path) -> dict[str, Any]:
    """Collects the results of a run and links them at the top of its folder.

    Args:
        run_dir: the run's folder.

    Returns:
        run_dir, and report if there is one. In addition,
        for records: records (their folder), pictures (number of images by split) and refused (number of rejected images);
        for predictions: predictions (a table), pictures, unreadable, and accuracy if folder names give the labels;
        for an index: index (its folder), pictures and refused, and if those stages ran nearest (a table), findings (a table),
            audit (a report) and deployed (the output of `deploy_index`);
        for a training: model_dir, accuracy, accepted, reasons, and if those stages ran trials (a table), endpoint and answer
            (the outputs of `deploy_model` and `call_endpoint`) and predictions.
    """
    for stage, collector in COLLECTORS.items():
        if list(run_dir.glob(f"*/{stage}")):
            return collector(run_dir)
    raise AssertionError("every pipeline has one of these stages")


def _collect_records(run_dir: Path) -> dict[str, Any]:
    (joined,) = run_dir.glob("*/join-records")
    records = run_dir / "records"
    records.mkdir()
    images = {}
    for split in ("train", "validation", "test"):
        folder = joined / f"{split}_records"
        shutil.copytree(folder, records / split, copy_function=_link)
        images[split] = json.loads((folder / "records.json").read_text(encoding="utf-8"))["images"]
    for file in (joined.parent / "split-images" / "label_map").iterdir():
        shutil.copyfile(file, records / file.name)
    shutil.copyfile(joined / "refused", records / "refused.csv")
    shutil.copyfile(joined / "summary", run_dir / "report.html")
    with (joined / "refused").open(newline="", encoding="utf-8") as table:
        refused = sum(1 for _ in csv.DictReader(table))
    found = {"records": str(records), "pictures": images, "refused": refused, "report": str(run_dir / "report.html")}
    return {"run_dir": str(run_dir), **found}


def _link(file: str, place: str) -> None:
    """Hard-links a file, so that the folder of records can be moved or mounted without taking space twice."""
    from kfp_vision.storage import atomic  # needs packages that the plain install lacks

    atomic.hard_link(Path(file), Path(place))


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
    from kfp_vision.prediction import batch  # as in _link

    (joined,) = run_dir.glob("*/join-predictions")
    shutil.copyfile(joined / "predictions", run_dir / "predictions.csv")
    figures = batch.summary_metrics(json.loads((joined / "metrics").read_text(encoding="utf-8")))
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


# By the stage that the run reached; the first match applies.
COLLECTORS = {
    "evaluate-classifier": _collect_model,
    "join-predictions": _collect_predictions,
    "join-records": _collect_records,
    "join-index": _collect_index,
}


def _graphs(spec: Any) -> list[Any]:
    """Lists the pipeline's own graph and the nested ones: loops, conditions, exit handlers."""
    return [spec.root.dag, *(component.dag for component in spec.components.values())]


def _is_graph(spec: Any, task: Any) -> bool:
    return bool(spec.components[task.component_ref.name].HasField("dag"))


class _Phase(Enum):
    """What the printed lines belong to."""

    BETWEEN_STAGES = auto()
    INPUTS = auto()  # KFP prints the stage's inputs as JSON first
    OUTPUT = auto()
    TRACEBACK = auto()


class View(io.TextIOBase):
    """Receives what KFP prints: logs all of it, and shows stages, their progress and their duration.

    Args:
        shown: the stream for people.
        log: the run's log, a file in the run's folder.
        stages: number of stages of the pipeline.
        debug: whether to show everything instead.

    Attributes:
        seconds: duration by stage, of all its turns if it runs in a loop.
        turns: number of turns by stage.
        stage: the latest stage.
        failed: the failed stages, each with its last line.
    """

    def __init__(self, shown: TextIO, log: TextIO, stages: int, debug: bool):
        self.shown, self.log, self.stages, self.debug = shown, log, stages, debug
        self.seconds: dict[str, float] = {}
        self.turns: Counter[str] = Counter()
        self.stage = ""
        self.failed: list[FailedStage] = []
        self._phase, self._started_at, self._unfinished_line, self._error = _Phase.BETWEEN_STAGES, 0.0, "", ""

    def write(self, text: str) -> int:
        """Logs text and shows the progress that its complete lines report."""
        self.log.write(text)
        if self.debug:
            self.shown.write(text)
        *lines, self._unfinished_line = (self._unfinished_line + text).split("\n")
        for line in lines:
            self._read(COLORS.sub("", line))
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Flushes both streams."""
        self.log.flush()
        self.shown.flush()

    def isatty(self) -> bool:
        """Returns False, so that nothing colors its output."""
        return False

    def _read(self, line: str) -> None:
        if started := STARTED.search(line):
            self._start_stage(started[1].replace("-", "_"))
        elif ended := ENDED.search(line):
            self._end_stage(succeeded=ended[1] == "SUCCESS")
        elif line == f"{INDENT}{{":
            self._switch(_Phase.OUTPUT, _Phase.INPUTS)
        elif line == f"{INDENT}}}":
            self._switch(_Phase.INPUTS, _Phase.OUTPUT)
        elif line.startswith(INDENT) and line.strip() and not NOISE.match(line.strip()):
            self._read_from_stage(line.removeprefix(INDENT).rstrip())

    def _switch(self, before: _Phase, after: _Phase) -> None:
        if self._phase is before:
            self._phase = after

    def _start_stage(self, stage: str) -> None:
        self.stage, self._started_at, self._error, self._phase = stage, time.perf_counter(), "", _Phase.OUTPUT
        self.turns[stage] += 1
        turn = f" ({self.turns[stage]})" if self.turns[stage] > 1 else ""
        self._show(f"[{len(self.turns)}/{self.stages}] {stage}{turn}")

    def _end_stage(self, *, succeeded: bool) -> None:
        seconds = round(time.perf_counter() - self._started_at, 1)
        self.seconds[self.stage] = round(self.seconds.get(self.stage, 0.0) + seconds, 1)
        self._show(f"{INDENT}  {'done' if succeeded else 'failed'} in {seconds:.1f} s")
        self._phase = _Phase.BETWEEN_STAGES
        if not succeeded:
            self._note_failure()

    def _read_from_stage(self, line: str) -> None:
        if self._phase is _Phase.OUTPUT:
            self._read_output(line)
        elif self._phase is _Phase.TRACEBACK:
            self._read_traceback(line)

    def _read_output(self, line: str) -> None:
        if line.startswith("Traceback (most recent call last)"):
            self._phase = _Phase.TRACEBACK
        elif line.startswith(InputError.PREFIX):
            self._error = line
        else:
            self._show(f"{INDENT}  {line}")
            if line.startswith(results.RESULT_PREFIX):
                outcome.record_result(Path(self.log.name).parent, line.removeprefix(results.RESULT_PREFIX))

    def _read_traceback(self, line: str) -> None:
        if line.startswith(InputError.PREFIX):
            self._error = line
        elif not line.startswith((" ", "Traceback (most recent call last)")):  # the exception's own line
            self._error = f"{InputError.PREFIX}{self.stage} failed: {line} (full log: {self.log.name})"

    def _note_failure(self) -> None:
        """Records the failure, for the person at the screen and for the last stage, which reports it elsewhere."""
        error = self._error or str(_killed(self.stage, self.log.name))
        self.failed.append(FailedStage(self.stage, error))
        outcome.record_failure(Path(self.log.name).parent, FailedStage(self.stage, error.removeprefix(InputError.PREFIX)))

    def _show(self, line: str) -> None:
        if not self.debug:
            self.shown.write(f"{line}\n")


def _killed(stage: str, log: str) -> InputError:
    """Returns the error of a stage that ended without giving a reason."""
    remedy = f"Give it more memory, or see {log}."
    return InputError(f"{stage} must finish", "a killed process, probably out of memory", remedy)


def _failure(view: View, run_dir: Path) -> InputError:
    if view.failed:
        return InputError.from_line(view.failed[0].error)
    return InputError("every stage must succeed", f"a failure of {view.stage}", f"See {run_dir / 'run.log'}.")
