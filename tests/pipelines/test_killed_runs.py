"""Runs through the command line in which a stage is killed: how they end, who is told, and what comes out when begun again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import colour_model, sample_images, sigkill
from support.webhook_receiver import Web

from kfp_vision.reports import outcome

PATH = "/hooks/runs"
SPLITS = ("train", "validation", "test")
LAST = "report_outcome"


@dataclass(frozen=True)
class Run:
    """A command that ended.

    Attributes:
        code: its exit code.
        lines: what it printed to stdout.
        stderr: and to stderr.
        artifacts: the folders of its stages' outputs; nothing where there are none.
        sent: what whoever is told was sent.
        kill: of the stage that was to be killed.
    """

    code: int
    lines: list[str]
    stderr: str
    artifacts: Path
    sent: Any
    kill: sigkill.Kill

    @property
    def stages(self) -> list[str]:
        """Those that were started, as often as they were."""
        return [line.split()[1] for line in self.lines if line.startswith("[")]


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with Web({PATH: (200, "ok")}).running() as running:
        yield running


def carry_out(web: Web, output: Path, pipeline: str, form: dict[str, object], stage: str = "", turn: int = 1) -> Run:
    """Runs a pipeline, of which a stage is killed as soon as it begins; none where none is named."""
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", pipeline, *fields, "--json", "--output", str(output)]
    environment = {name: value for name, value in os.environ.items() if name not in outcome.REPORT_ENVIRONMENT}
    environment |= {outcome.WEBHOOK: f"{web.url}{PATH}"}
    with sigkill.killing(output, stage, sigkill.at_once, turn) as kill:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    named = f"{pipeline.replace('_', '-')}-*"
    run_dir = max(output.glob(named))  # the newest, by the time in its name
    artifacts = next(run_dir.glob(named), run_dir)
    return Run(done.returncode, done.stdout.splitlines(), done.stderr, artifacts, web.got[-1][2], kill)


def assert_the_kill_is_told(run: Run, stage: str) -> None:
    assert run.kill.processes
    assert run.code == 1
    reason = f"{stage} must finish; got a killed process, probably out of memory. Give it more memory, or"
    assert run.stderr.startswith(f"error: {reason} see ") and run.stderr.count("\n") == 1
    assert {*run.stages[run.stages.index(stage) + 1 :]} - {stage} == {LAST}
    (failed,) = run.sent["failed_stages"]
    assert (run.sent["state"], failed["name"]) == ("FAILED", stage)
    assert failed["error"].startswith(reason)
    assert f"      the run failed at {stage}" in run.lines


def written(artifacts: Path, *outputs: str) -> dict[str, bytes]:
    """The files of some outputs of a run that are there, by where they lie in it."""
    files = [file for output in outputs for place in artifacts.glob(output) for file in (place, *place.rglob("*"))]
    return {file.relative_to(artifacts).as_posix(): file.read_bytes() for file in files if file.is_file()}


RECORDS = ("split-images/*", "*/write-partition/part", "join-records/*_records")
NOT_RECORDS = "split-images/executor_output.json"  # in which the run's folder is named
PREPARATION = {"test_ratio": 0.1, "images_per_shard": 6, "partitions": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """Where all runs but the undisturbed ones have their folders."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def prepared(web, pictures, tmp_path_factory) -> Run:
    """Records that nobody disturbed."""
    return carry_out(web, tmp_path_factory.mktemp("undisturbed"), "prepare_records", PREPARATION | {"images_uri": pictures})


def records_of(run: Run) -> dict[str, bytes]:
    found = written(run.artifacts, *RECORDS)
    found.pop(NOT_RECORDS, None)
    return found


@pytest.mark.parametrize(("stage", "turn"), [("check_preparation", 1), ("write_partition", 2), ("join_records", 1)])
def test_a_run_of_which_a_stage_is_killed_ends_there_and_what_the_others_wrote_is_whole(
    web, pictures, prepared, output, stage, turn
):
    killed = carry_out(web, output, "prepare_records", PREPARATION | {"images_uri": pictures}, stage, turn)
    assert_the_kill_is_told(killed, stage)
    assert not (killed.artifacts.parent / "records").exists() and not (killed.artifacts.parent / "report.html").exists()
    found = records_of(killed)
    assert found.items() < records_of(prepared).items()
    assert bool(found) is (stage != "check_preparation")


def test_begun_again_it_gives_the_very_records(web, pictures, prepared, output):
    again = carry_out(web, output, "prepare_records", PREPARATION | {"images_uri": pictures})
    assert (again.code, again.stderr, again.sent["state"]) == (0, "", "SUCCEEDED")
    assert records_of(again) == records_of(prepared)
    assert {name.split("/")[0] for name in records_of(again)} == {
        "split-images", "partitions-iteration-0", "partitions-iteration-1", "join-records",
    }  # fmt: skip


def test_a_training_that_is_killed_ends_the_run_before_anything_is_evaluated_or_deployed(web, pictures, output, tmp_path):
    form = {"images_uri": pictures, "fine_tune": "false", "gpu_count": 0, "deploy_to": tmp_path / "repository"}
    form |= {"predict_uri": pictures, "log_uri": tmp_path / "logs"}
    killed = carry_out(web, output, "image_classification", form, "train_classifier")
    assert_the_kill_is_told(killed, "train_classifier")
    assert not (tmp_path / "repository").exists() and not list(killed.artifacts.glob("train-classifier/model"))


@pytest.fixture(scope="module")
def naming(tmp_path_factory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("naming")
    colour_model.write_version(root / "models" / "1")
    for colour in colour_model.RGB:
        (root / "pictures" / colour).mkdir(parents=True)
        for number in range(3):
            (root / "pictures" / colour / f"{number}.jpg").write_bytes(colour_model.picture(colour))
    return {"model_uri": root / "models", "predict_uri": root / "pictures", "partitions": 2}


def test_pictures_of_which_a_part_was_being_named_when_it_was_killed_are_all_named_when_it_is_begun_again(web, naming, output):
    killed = carry_out(web, output, "batch_prediction", naming, "predict_images", turn=2)
    assert_the_kill_is_told(killed, "predict_images")
    again = carry_out(web, output, "batch_prediction", naming)
    assert (again.code, again.stderr, again.sent["state"]) == (0, "", "SUCCEEDED")
    parts = ("*/predict-images/predictions", "join-predictions/predictions")
    found, whole = written(killed.artifacts, *parts), written(again.artifacts, *parts)
    assert found.items() < whole.items() and len(found) == 1
    assert again.sent["results"] == [
        "9 images classified, 0 unreadable; accuracy 1.0000 on the 9 in folders named after a class"
    ]
    rows = whole["join-predictions/predictions"].decode().splitlines()[1:]
    assert [row.split(",")[1:3] for row in rows] == [[colour, colour] for colour in sorted(colour_model.RGB) for _ in range(3)]
