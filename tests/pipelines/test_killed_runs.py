"""Runs through the command line in which a stage is killed: their exit, their report, and the result of a second run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import colour_model, sample_images, sigkill
from support.webhook_receiver import Web

from kfp_vision.core import subprocesses
from kfp_vision.reports import outcome

pytestmark = pytest.mark.slow

PATH = "/hooks/runs"
SPLITS = ("train", "validation", "test")
LAST = "report_outcome"


@dataclass(frozen=True)
class Run:
    """A finished command.

    Attributes:
        code: its exit code.
        lines: its lines on stdout.
        stderr: its output on stderr.
        artifacts: the folder with the outputs of its stages.
        sent: the message that its webhook received.
        kill: the kill that was planned.
    """

    code: int
    lines: list[str]
    stderr: str
    artifacts: Path
    sent: Any
    kill: sigkill.Kill

    @property
    def stages(self) -> list[str]:
        """Returns the stages in the order they started, once per start."""
        return [line.split()[1] for line in self.lines if line.startswith("[")]


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with Web({PATH: (200, "ok")}).running() as running:
        yield running


def run_pipeline(web: Web, output: Path, pipeline: str, form: dict[str, object], stage: str = "", turn: int = 1) -> Run:
    """Runs a pipeline, and kills the named stage, if any, as soon as it starts."""
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", pipeline, *fields, "--json", "--output", str(output)]
    environment = {name: value for name, value in os.environ.items() if name not in outcome.REPORT_ENVIRONMENT}
    environment |= {outcome.WEBHOOK: f"{web.url}{PATH}"}
    with sigkill.killing(output, stage, sigkill.at_once, turn) as kill:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    pattern = f"{pipeline.replace('_', '-')}-*"
    run_dir = max(output.glob(pattern))  # the newest, by the time in its name
    artifacts = next(run_dir.glob(pattern), run_dir)
    return Run(done.returncode, done.stdout.splitlines(), done.stderr, artifacts, web.got[-1][2], kill)


def assert_reports_the_kill(run: Run, stage: str) -> None:
    assert run.kill.processes
    assert run.code == 1
    reason = f"{stage} must finish; got a killed process, probably out of memory. Give it more memory, or"
    assert run.stderr.startswith(f"error: {reason} see ") and run.stderr.count("\n") == 1
    assert {*run.stages[run.stages.index(stage) + 1 :]} - {stage} == {LAST}
    (failed,) = run.sent["failed_stages"]
    assert (run.sent["state"], failed["name"]) == ("FAILED", stage)
    assert failed["error"].startswith(reason)
    assert f"      the run failed at {stage}" in run.lines


def read_outputs(artifacts: Path, *outputs: str) -> dict[str, bytes]:
    """Returns the existing files of some outputs, by their path in the run."""
    files = [file for output in outputs for path in artifacts.glob(output) for file in (path, *path.rglob("*"))]
    return {file.relative_to(artifacts).as_posix(): file.read_bytes() for file in files if file.is_file()}


RECORD_OUTPUTS = ("split-images/*", "*/write-partition/part", "join-records/*_records")
RUN_DEPENDENT_FILE = "split-images/executor_output.json"  # it contains the path of the run's folder
PREPARATION = {"test_ratio": 0.1, "images_per_shard": 6, "partitions": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """Returns the folder of all runs but the undisturbed one."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def undisturbed(web, images, tmp_path_factory) -> Run:
    """Returns a run of prepare_records without a kill."""
    return run_pipeline(web, tmp_path_factory.mktemp("undisturbed"), "prepare_records", PREPARATION | {"images_uri": images})


def read_records(run: Run) -> dict[str, bytes]:
    found = read_outputs(run.artifacts, *RECORD_OUTPUTS)
    found.pop(RUN_DEPENDENT_FILE, None)
    return found


@pytest.mark.parametrize(("stage", "turn"), [("check_preparation", 1), ("write_partition", 2), ("join_records", 1)])
def test_a_killed_stage_ends_the_run_and_earlier_outputs_are_whole(web, images, undisturbed, output, stage, turn):
    killed = run_pipeline(web, output, "prepare_records", PREPARATION | {"images_uri": images}, stage, turn)
    assert_reports_the_kill(killed, stage)
    assert not (killed.artifacts.parent / "records").exists() and not (killed.artifacts.parent / "report.html").exists()
    found = read_records(killed)
    assert found.items() < read_records(undisturbed).items()
    assert bool(found) is (stage != "check_preparation")


def test_a_second_run_writes_identical_records(web, images, undisturbed, output):
    again = run_pipeline(web, output, "prepare_records", PREPARATION | {"images_uri": images})
    assert (again.code, again.stderr, again.sent["state"]) == (0, "", "SUCCEEDED")
    assert read_records(again) == read_records(undisturbed)
    assert {name.split("/")[0] for name in read_records(again)} == {
        "split-images", "partitions-iteration-0", "partitions-iteration-1", "join-records",
    }  # fmt: skip


def test_a_killed_training_ends_the_run_before_evaluation_and_deployment(web, images, output, tmp_path):
    form = {"images_uri": images, "fine_tune": "false", "gpu_count": 0, "deploy_to": tmp_path / "repository"}
    form |= {"predict_uri": images, "log_uri": tmp_path / "logs"}
    killed = run_pipeline(web, output, "image_classification", form, "train_classifier")
    assert_reports_the_kill(killed, "train_classifier")
    assert not (tmp_path / "repository").exists() and not list(killed.artifacts.glob("train-classifier/model"))


@pytest.fixture(scope="module")
def prediction_form(tmp_path_factory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("naming")
    colour_model.write_version(root / "models" / "1")
    for colour in colour_model.RGB:
        (root / "pictures" / colour).mkdir(parents=True)
        for number in range(3):
            (root / "pictures" / colour / f"{number}.jpg").write_bytes(colour_model.picture(colour))
    return {"model_uri": root / "models", "predict_uri": root / "pictures", "partitions": 2}


def test_a_second_run_classifies_every_image_after_a_killed_partition(web, prediction_form, output):
    killed = run_pipeline(web, output, "batch_prediction", prediction_form, "predict_images", turn=2)
    assert_reports_the_kill(killed, "predict_images")
    again = run_pipeline(web, output, "batch_prediction", prediction_form)
    assert (again.code, again.stderr, again.sent["state"]) == (0, "", "SUCCEEDED")
    parts = ("*/predict-images/predictions", "join-predictions/predictions")
    found, whole = read_outputs(killed.artifacts, *parts), read_outputs(again.artifacts, *parts)
    assert found.items() < whole.items() and len(found) == 1
    assert again.sent["results"] == [
        "9 images classified, 0 unreadable; accuracy 1.0000 on the 9 in folders named after a class"
    ]
    rows = whole["join-predictions/predictions"].decode().splitlines()[1:]
    assert [row.split(",")[1:3] for row in rows] == [[colour, colour] for colour in sorted(colour_model.RGB) for _ in range(3)]


def send_to_run(number: int, output: Path, pipeline: str, form: dict[str, object], stage: str) -> tuple[int, str]:
    """Runs a pipeline, sends its command a signal while a stage runs, and returns its exit code and what it printed then."""
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    with subprocess.Popen(
        [sys.executable, "-m", "kfp_vision.cli", "run", pipeline, *fields, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # tests that run in the background ignore it
    ) as process:
        assert process.stdout and process.stderr
        assert any(line.startswith("[") and line.split()[1] == stage for line in process.stdout)
        (run_dir,) = output.iterdir()
        ((name, value),) = outcome.failures_environment(run_dir).items()
        while not subprocesses.tell_all(name, value, subprocesses.NO_SIGNAL):
            time.sleep(0.01)
        process.send_signal(number)
        if number == signal.SIGTERM:  # as by `timeout`
            time.sleep(0.02)
            process.send_signal(number)
        rest, stderr = process.stdout.read(), process.stderr.read()
    assert subprocesses.tell_all(name, value, subprocesses.NO_SIGNAL) == 0
    assert {line.split()[1] for line in rest.splitlines() if line.startswith("[")} <= {LAST}, rest + stderr
    return process.returncode, rest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_command_that_is_told_to_stop_ends_its_stage_too(images, tmp_path, number, code):
    stage = "check_preparation"
    ended, rest = send_to_run(number, tmp_path, "prepare_records", {"images_uri": images}, stage)
    assert ended == code, rest
    if number == signal.SIGTERM:
        assert f"{stage}: {stage} must finish; got SIGTERM to the run. Start it again, or see " in rest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_no_other_turn_of_a_loop_starts_once_the_command_is_told_to_stop(prediction_form, tmp_path, number, code):
    ended, rest = send_to_run(number, tmp_path, "batch_prediction", prediction_form | {"partitions": 3}, "predict_images")
    assert ended == code, rest


def test_no_other_turn_of_a_loop_starts_once_one_has_failed(web, prediction_form, tmp_path):
    killed = run_pipeline(web, tmp_path, "batch_prediction", prediction_form | {"partitions": 3}, "predict_images")
    assert_reports_the_kill(killed, "predict_images")
    assert killed.stages.count("predict_images") == 1
