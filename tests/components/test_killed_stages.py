"""Every stage killed in the middle of its work: the run names it, so does whoever is told, and nothing half of it is left.

A stage runs behind what the stages before it made, with the exit handler of the pipelines, through what `kfp-vision run` calls.
The joins stand behind loops: see tests/pipelines/test_killed_runs.py. A trial is a training.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from support import run_component, sigkill
from support.model_servers import until
from support.webhook_receiver import Web

from kfp_vision import components
from kfp_vision.cli import run
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.records.folder import read_examples
from kfp_vision.reports import outcome, run_state
from kfp_vision.repository import version

PATH = "/hooks/runs"
TRIES = 5  # where a stage is faster than who would kill it
# Stage to the moment of its end; the first ones look at fields and lists, and write nothing.
MOMENTS: dict[str, sigkill.Moment] = {
    "check_run": sigkill.at_once,
    "check_training": sigkill.at_once,
    "check_sweep": sigkill.at_once,
    "check_preparation": sigkill.at_once,
    "check_prediction": sigkill.at_once,
    "check_search": sigkill.at_once,
    "fingerprint_images": sigkill.at_once,
    "decide_training": sigkill.at_once,
    "choose_trials": sigkill.at_once,
    "partition_records": sigkill.at_once,
    "list_images": sigkill.at_once,
    "ingest_images": sigkill.there("images"),
    "split_images": sigkill.begun("label_map"),
    "write_tfrecords": sigkill.begun("test_records"),
    "write_partition": sigkill.begun("part"),
    "train_classifier": sigkill.begun("model"),
    "evaluate_classifier": sigkill.there("metrics", "verdict"),
    "check_serving": sigkill.with_server,
    "deploy_model": lambda process, folder: any(folder.parents[2].glob("repository/[0-9]*")),
    "call_endpoint": sigkill.with_server,
    "fetch_records": sigkill.begun("test_records"),
    "fetch_model": sigkill.begun("model"),
    "predict_images": sigkill.begun("predictions"),
    "fetch_embedder": sigkill.begun("model"),
    "index_images": sigkill.begun("part"),
    "search_images": sigkill.begun("found"),
    "audit_images": sigkill.there("findings"),
    "deploy_index": lambda process, folder: any(folder.parents[2].glob("repository/index/[0-9]*")),
}
AGAIN = {
    "ingest_images",
    "split_images",
    "write_tfrecords",
    "deploy_model",
    "fetch_records",
    "fetch_model",
    "fetch_embedder",
    "deploy_index",
}  # are run again here: it takes no time
# Stage to the session's fixture of what it makes undisturbed.
UNDISTURBED = {
    "ingest_images": "ingested",
    "split_images": "split",
    "write_tfrecords": "written",
    "evaluate_classifier": "evaluated",
    "deploy_model": "deployed",
}


# What a stage was at work on for seconds.
NOT_YET = {
    "train_classifier": "model",
    "evaluate_classifier": "report",
    "check_serving": "proof",
    "call_endpoint": "answer",
    "predict_images": "predictions",
    "index_images": "part",
    "search_images": "found",
    "audit_images": "page",
}


def of_json(*names: str) -> Callable[[Path], object]:
    return lambda file: {name: json.loads(file.read_text())[name] for name in names}


def pictures_of(folder: Path) -> object:
    return list(read_examples(folder))


# Output to what is read of it: where it is there it is whole, and says the same.
READ: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(("images", "refused"), Path.read_bytes),
    "tables": lambda folder: {file.name: file.read_bytes() for file in folder.iterdir()},
    **dict.fromkeys(("train_records", "validation_records", "test_records"), pictures_of),
    **dict.fromkeys(("metrics", "verdict"), of_json("model_fingerprint", "verdict")),
    "label_map": lambda folder: (folder / "labels.txt").read_bytes(),
    "model": lambda folder: version.exported_version(folder).fingerprint,
    "endpoint": of_json("kind", "version", "model_name"),
    "deployed": of_json("repository", "version", "pictures"),
}


@dataclass(frozen=True)
class Killed:
    """A stage that was killed.

    Attributes:
        root: what was made lies below it.
        line: what the run ended with.
        printed: what it printed.
        kill: how it ended.
    """

    root: Path
    line: str
    printed: list[str]
    kill: sigkill.Kill


@pytest.fixture
def web(monkeypatch) -> Iterator[Web]:
    """Who is told how a run ended."""
    for name in (*outcome.REPORT_ENVIRONMENT, run_state.CLUSTER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with Web({PATH: (200, "ok")}).running() as running:
        monkeypatch.setenv(outcome.WEBHOOK, f"{running.url}{PATH}")
        yield running


def given(stage: str, root: Path, request: pytest.FixtureRequest) -> tuple[dict[str, Path], dict[str, Any]]:
    """The artifacts and the other inputs of a stage."""

    def of(fixture: str) -> Any:
        return request.getfixturevalue(fixture)

    def model() -> dict[str, Path]:
        return {"model": of("trained").folder / "model"}

    pictures = {"images_uri": str(of("pictures")), "leave_out_uri": "", "advanced": {}}
    whole = {"partition": 0, "partitions": 1}
    decided = pictures | {"recipe": "fields", "skip_unchanged": True, "model_name": "flowers"}
    lists = {"networks": ["vgg16"], "optimizers": ["sgd"], "batch_sizes": [16], "learning_rates": [0.1]}
    if stage.startswith("check_") and stage != "check_serving":
        form = next(pipeline for pipeline in PIPELINES.values() if stage in run.stage_names(pipeline))
        values, kinds = run.form_defaults(form), run.form_fields(form)
        whole_numbers = {name: int(value) for name, value in values.items() if kinds[name] == "NUMBER_INTEGER"}
        every = {"partitions": 1} | values | whole_numbers
        return {}, {name: every[name] for name in getattr(components, stage).component_spec.inputs}
    if stage == "split_images":
        return {"images": of("ingested").folder / "images"}, {"advanced": {}, **of("ratios")}
    if stage in ("write_tfrecords", "write_partition"):
        tables = {name: of("split").folder / name for name in ("tables", "label_map")}
        return tables, {"images_per_shard": 8, "advanced": {}} | (whole if stage == "write_partition" else {})
    if stage == "evaluate_classifier":
        wishes = {
            "min_accuracy": 1e-9,
            "test_image_uri": "",
            "deploy_to": "none",
            "unchanged": False,
            "advanced": {"beat_largest_class": False},
        }
        return of("evaluate_inputs"), wishes
    if stage == "deploy_model":
        return of("deploy_inputs"), {"deploy_to": str(root / "repository"), "advanced": {}}
    if stage == "call_endpoint":
        return of("held_out") | {"endpoint": of("deployed").folder / "endpoint"}, {"test_image_uri": "", "advanced": {}}
    if stage == "index_images":
        return model() | {"images": of("ingested").folder / "images"}, {"index_uri": "", **whole}
    if stage == "predict_images":
        return model(), {"predict_uri": str(of("pictures")), "all_scores": False, "advanced": {}, **whole}
    if stage == "deploy_index":
        shutil.copytree(model()["model"] / "serving", root / "repository", dirs_exist_ok=True)
        return {"index": of("index")}, {"deploy_to": str(root / "repository")}
    return {
        "fetch_embedder": lambda: ({}, {"model_uri": str(model()["model"]), "network": "inception_v1", "checkpoint_uri": ""}),
        "list_images": lambda: ({}, {"fingerprint": "any", "images_uri": str(of("pictures")), "partitions": 2}),
        "search_images": lambda: ({"index": of("index")}, {"queries_uri": str(of("pictures")), "nearest": 3, "label": ""}),
        "audit_images": lambda: ({"index": of("index")}, of("ratios")),
        "fingerprint_images": lambda: ({}, pictures),
        "partition_records": lambda: ({}, {"partitions": 2}),
        "ingest_images": lambda: ({}, run_component.to_ingest(of("pictures")) | of("ratios")),
        "train_classifier": lambda: (of("train_inputs"), of("recipe")),
        "check_serving": lambda: (of("judged"), {"deploy_to": "none", "accepted": True}),
        "decide_training": lambda: ({}, {**decided, "deploy_to": str(root / "nowhere")}),
        "choose_trials": lambda: ({}, {**lists, "trials": 0, "advanced": {}}),
        "fetch_records": lambda: ({}, {"records_uri": str(of("written").folder), "advanced": {}}),
        "fetch_model": lambda: ({}, {"model_uri": str(model()["model"])}),
    }[stage]()


def killed(stage: str, root: Path, artifacts: dict[str, Path], parameters: dict[str, Any]) -> Killed | None:
    """A run of a stage, ended by the exit handler, in which the stage is killed; nothing where it was faster."""
    component = getattr(components, stage)

    @dsl.pipeline(name="one-step")
    def one_step_and_its_end():
        with dsl.ExitHandler(outcome_reported(), name="run"):
            inputs = {name: run_component.imported(component, name, path) for name, path in artifacts.items()}
            component(**inputs, **parameters)

    shown = io.StringIO()
    with sigkill.killing(root, stage, MOMENTS[stage]) as kill, contextlib.redirect_stdout(shown):
        try:
            run.run(one_step_and_its_end, {}, root)
        except InputError as error:
            return Killed(root, str(error), shown.getvalue().splitlines(), kill)
        except AssertionError:  # of the ends of all pipelines it has none
            assert not kill.processes
    return None


@pytest.mark.parametrize("stage", MOMENTS)
def test_a_killed_stage_is_named_leaves_nothing_half_written_and_can_be_run_again(stage, web, request, tmp_path, monkeypatch):
    roots = [tmp_path / str(number) for number in range(TRIES)]
    tries = (killed(stage, root, *given(stage, root, request)) for root in roots)
    found = next(filter(None, tries))
    log = next(found.root.glob("*/run.log"))
    reason = f"{stage} must finish; got a killed process, probably out of memory. "
    assert found.line == f"error: {reason}Give it more memory, or see {log}."

    assert f"      the run failed at {stage}" in found.printed
    assert [line.split("] ")[1] for line in found.printed if line.startswith("[")][-2:] == [stage, "report_outcome"]
    sent = web.got[-1][2]
    assert (sent["state"], sent["failed_stages"][0]["name"]) == ("FAILED", stage)
    assert sent["failed_stages"][0]["error"].startswith(reason)

    until(lambda: not any(sigkill.lives(process) for process in found.kill.processes))
    left = {path.name: path for path in found.kill.folder.glob("[!.]*")}
    artifacts, parameters = given(stage, found.root, request)
    if stage in AGAIN:
        again = run_component.run(getattr(components, stage), tmp_path / "again", artifacts, **parameters)
        assert again.succeeded, again.printed
        assert_the_same(left, again.folder)
        assert {path.name for path in again.folder.glob(".*")} == set()
    if stage in UNDISTURBED:
        assert_the_same(left, request.getfixturevalue(UNDISTURBED[stage]).folder)
    if stage in AGAIN & UNDISTURBED.keys():
        made = {path.name: path for path in again.folder.iterdir()}
        assert_the_same(made, request.getfixturevalue(UNDISTURBED[stage]).folder)
    assert NOT_YET.get(stage) not in left


def assert_the_same(outputs: dict[str, Path], folder: Path) -> None:
    """What is there is what was made elsewhere."""
    for name in outputs.keys() & READ.keys():
        assert READ[name](outputs[name]) == READ[name](folder / name), name
