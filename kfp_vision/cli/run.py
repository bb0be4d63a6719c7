"""Runs a compiled pipeline on this machine through `kfp.local`, with a progress display.

Each run has its own folder, with `run.log`, the stages' artifacts as KFP lays them out, and links to the results at the top,
such as `report.html` and `model`.
"""

import contextlib
import copy
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from google.protobuf import json_format
from kfp import local
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from kfp_vision.cli import outputs, progress
from kfp_vision.core import advanced, children, subprocesses
from kfp_vision.core.errors import InputError
from kfp_vision.preflight import checks
from kfp_vision.reports import outcome

SECONDS_OF_ONE_STOP = 1.0  # in which SIGTERM counts once: `timeout` sends it to the command, and to all of its process group
SECONDS_TO_END = 30.0  # for the processes of a run that is interrupted
CONDITION_FIELD = re.compile(r"pipelinechannel--(\w+)'\]")


def form_fields(pipeline: GraphComponent) -> dict[str, str]:
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


def form_defaults(pipeline: GraphComponent) -> dict[str, Any]:
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


def complete_form(pipeline: GraphComponent, values: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to a form the values that its pipeline sets for fields that the form lacks, such as the recipe of a short form.

    Args:
        pipeline: the pipeline.
        values: values of all fields of the form.

    Returns:
        Every field that the first stage checks, by name; the values as given if no stage checks them.
    """
    tasks = (task for graph in _graphs(pipeline.pipeline_spec) for name, task in graph.tasks.items() if _is_check(name))
    check = next(tasks, None)
    if check is None:  # a pipeline of somebody else
        return dict(values)
    fixed = {
        name: json_format.MessageToDict(value.runtime_value.constant)
        for name, value in check.inputs.parameters.items()
        if value.WhichOneof("kind") == "runtime_value"
    }
    return fixed | dict(values)


def _is_check(task: str) -> bool:
    return task.replace("-", "_") in checks.CHECKS


def check_fields(pipeline: GraphComponent, values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the fields as the first stage will, before anything is written.

    Args:
        pipeline: the pipeline.
        values: values of all fields, as `complete_form` returns them.

    Returns:
        The outputs of the first stage, such as recipe.

    Raises:
        InputError: the one that the first stage would end with; or the check was killed, say for lack of memory, or failed
            otherwise.
    """
    (check,) = checks.CHECKS.keys() & set(stage_names(pipeline))
    command = [sys.executable, "-m", "kfp_vision.preflight.checks", check]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if lines and lines[-1].startswith(InputError.PREFIX):
            raise InputError.from_line(lines[-1])
        reason = children.describe_failure(done.returncode, lines)
        rule = "the check of the fields must finish"
        if lines and done.returncode > 0:
            remedy = "See that there is enough memory and disk space; --debug shows where it failed."
            raise InputError(rule, reason, remedy) from children.ChildFailed("\n".join(lines))
        raise InputError(rule, f"a process that {reason}", "See that it has enough memory, and start the run again.")
    checked: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return checked


def is_unchanged(values: Mapping[str, Any], recipe: str) -> bool:
    """Checks whether skip_unchanged makes the run unnecessary. Unlike on a cluster, no cache provides earlier outputs here.

    Args:
        values: values of all fields.
        recipe: the output of that name of `check_fields`.

    Returns:
        Whether the deployed model was trained on the same data and fields.

    Raises:
        InputError: the store or the cluster cannot be read.
    """
    if not values.get("skip_unchanged"):
        return False
    from kfp_vision.deployment import decide_training  # needs packages that the plain install lacks

    names = ("images_uri", "leave_out_uri", "labels_uri", "labels", "skip_unchanged", "deploy_to", "model_name")
    inputs = {name: values[name] for name in names}
    given: Mapping[str, Any] = values["advanced"]
    inputs |= {name: given.get(name, "") for name in ("collected_uri", "label_separator")}
    return decide_training.decide_training(**inputs, recipe=recipe, settings=advanced.deployment_settings(given)).unchanged


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
        arguments: values of fields, which `check_fields` has accepted; the others keep their defaults.
        output: folder in which the run's folder is created.
        runner: `subprocess` for plain processes, `docker` for the stages' own container images.
        registry: registry of the container images; empty for the engine's local ones.
        network: the container engine's network to use if a field contains a remote address.
        debug: show everything that KFP and the stages print.

    Returns:
        The results as `outputs.collect_results` returns them, and skipped, the stages that did not run, and seconds, by stage
        and in total.

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
    values = complete_form(pipeline, form_defaults(pipeline) | arguments)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if runner == "docker":
            from kfp_vision.cli import containers  # needs packages that the plain install lacks

            used = containers.container_runner(pipeline, values, run_dir, registry=registry, network=network)
            kfp_runner = stack.enter_context(used)
        else:
            kfp_runner = local.SubprocessRunner(use_venv=False)
            # `check_fields` has made the checks of the first stage already. One in a container sees another network.
            stack.enter_context(_environment({checks.CHECKED_VARIABLE: checks.digest_form(values)}))
        run_dir.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context((run_dir / "run.log").open("w", encoding="utf-8"))
        # KFP leaves its default workspace behind after a failure.
        workspace = stack.enter_context(tempfile.TemporaryDirectory(prefix="kfp-vision-"))
        local.init(kfp_runner, pipeline_root=str(run_dir), workspace_root=workspace)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom or non-Python base image")
        warnings.filterwarnings("ignore", "Task '.*': settings .* have no effect in the current local runner")
        stack.enter_context(_environment(outcome.failures_environment(run_dir)))
        view = progress.ProgressView(sys.stdout, log, len(stages), debug)
        try:
            with contextlib.redirect_stdout(view), _stages_end_with_the_run(run_dir, view):
                make_sequential(pipeline)(**arguments)
        except BaseException as error:
            _show_report(run_dir)
            if isinstance(error, (RuntimeError, ValueError)):  # ValueError: a stage succeeded without writing an output
                raise _failure(view, run_dir) from error
            raise
    skipped = [stage for stage in stages if stage not in view.seconds]
    seconds = view.seconds | {"total": round(time.perf_counter() - start, 1)}
    return outputs.collect_results(run_dir) | {"skipped": skipped, "seconds": seconds}


@contextlib.contextmanager
def _stages_end_with_the_run(run_dir: Path, view: progress.ProgressView) -> Iterator[None]:
    """Passes SIGTERM on to the stage that runs, and ends what still runs when the body is interrupted or this process killed.

    The body goes on until the stage has ended, so that a training that saves its state can say so. A second SIGTERM, a second
    later, or one between two stages, ends the run at once.

    Raises:
        SystemExit: this process received SIGTERM.
    """
    ((name, value),) = outcome.failures_environment(run_dir).items()

    last = -math.inf

    def stop(*_: object) -> None:
        nonlocal last
        again, last = time.monotonic() - last < SECONDS_OF_ONE_STOP, time.monotonic()
        if again:
            return
        view.ended = True
        if view.stopped or not subprocesses.tell_all(name, value, signal.SIGTERM):
            raise SystemExit(subprocesses.SIGTERM_STATUS)
        view.stopped = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        view.ended = True
        subprocesses.tell_all(name, value, signal.SIGTERM)  # KFP waits for the turn of a loop that runs
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()  # only it may install signal handlers
    handlers: dict[signal.Signals, Callable[..., None]] = {signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored in the background
        handlers[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()} if is_main else {}
    with subprocesses.ending_with_this(name, value, SECONDS_TO_END):
        try:
            yield
        except Exception:
            if view.stopped:
                raise SystemExit(subprocesses.SIGTERM_STATUS) from None
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


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


def make_sequential(pipeline: GraphComponent) -> GraphComponent:
    """Copies a pipeline so that loops run one turn at a time, and no stage is retried.

    One turn already uses all cores, and `kfp.local` loses output of turns that print at the same time, even the end of a stage.
    Retries would keep the person at the screen waiting. A model is registered after it is published: others can read it only
    there. `kfp.local` runs stages that do not depend on each other in an order that changes from run to run.

    Args:
        pipeline: the pipeline.

    Returns:
        The copy.
    """
    sequential = copy.deepcopy(pipeline)
    for graph in _graphs(sequential.pipeline_spec):
        if {"publish", "registries"} <= set(graph.tasks):
            graph.tasks["registries"].dependent_tasks.append("publish")
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


def _graphs(spec: Any) -> list[Any]:
    """Lists the pipeline's own graph and the nested ones: loops, conditions, exit handlers."""
    return [spec.root.dag, *(component.dag for component in spec.components.values())]


def _is_graph(spec: Any, task: Any) -> bool:
    return bool(spec.components[task.component_ref.name].HasField("dag"))


def _show_report(run_dir: Path) -> None:
    """Collects the results of a run that ends early after its evaluation: the report is worth reading all the same."""
    if all(list(run_dir.glob(f"*/evaluate-classifier/{output}")) for output in ("report", "metrics")):
        print(f"\nreport    {outputs.collect_results(run_dir)['report']}", flush=True)


def _failure(view: progress.ProgressView, run_dir: Path) -> InputError:
    if view.failed:
        return InputError.from_line(view.failed[0].error)
    return InputError("every stage must succeed", f"a failure of {view.stage}", f"See {run_dir / 'run.log'}.")
