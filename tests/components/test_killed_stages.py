"""Every stage that writes, killed during its work: the run and the webhook name it, and no partial output remains.

A stage runs on the outputs of earlier stages, with the exit handler of the pipelines, as `kfp-vision run` runs it. The joins
follow loops: see tests/pipelines/test_killed_runs.py. train_trial is covered by train_classifier.
"""

import base64
import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kfp import dsl
from support import exported_model, run_component, several_labels, sigkill
from support.model_servers import until
from support.registry_servers import KubeflowRegistry
from support.webhook_receiver import Web

from kfp_vision import components
from kfp_vision.cli import run
from kfp_vision.collection.collected import CollectedAnswer, pack_batch, read_collected
from kfp_vision.collection.drift import read_drift
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.prediction.held_out import HELD_OUT_FILE, keep_held_out
from kfp_vision.records.records_folder import read_examples
from kfp_vision.reports import outcome, run_state
from kfp_vision.repository import version
from kfp_vision.storage import sample

pytestmark = pytest.mark.slow

PATH = "/hooks/runs"
LOGGED, REQUEST = 6, "org.kubeflow.serving.inference.request"  # requests of KServe's logger, and what it calls one
MAX_ATTEMPTS = 5  # a stage may end before it is killed
# When to kill each stage. The first three stand for all that only check fields and lists: killed before they write anything.
MOMENTS: dict[str, sigkill.Moment] = {
    "check_run": sigkill.at_once,
    "fingerprint_images": sigkill.at_once,
    "partition_records": sigkill.at_once,
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
    "review_images": sigkill.there("chosen"),
    "collect_logged": lambda process, folder: any(folder.parents[2].glob("collected/*/*/*.jsonl.gz")),
    "check_drift": lambda process, folder: any(folder.parents[2].glob("collected/*/drift.json")),
    "register_model": lambda process, folder: bool(REGISTRY.versions),
}
REGISTRY = KubeflowRegistry()  # that register_model registers in
RERUN = {
    "ingest_images",
    "split_images",
    "write_tfrecords",
    "deploy_model",
    "fetch_records",
    "fetch_model",
    "fetch_embedder",
    "deploy_index",
    "review_images",
    "collect_logged",
    "check_drift",
    "register_model",
}  # fast enough to be rerun here
# The fixture with the outputs of an undisturbed run, by stage.
UNDISTURBED = {
    "ingest_images": "ingested",
    "split_images": "split",
    "write_tfrecords": "written",
    "evaluate_classifier": "evaluated",
    "deploy_model": "deployed",
}


# The output that a stage writes for seconds, which cannot be complete.
UNFINISHED = {
    "train_classifier": "model",
    "evaluate_classifier": "report",
    "check_serving": "proof",
    "call_endpoint": "answer",
    "predict_images": "predictions",
    "index_images": "part",
    "search_images": "found",
    "audit_images": "page",
}


def json_fields(*names: str) -> Callable[[Path], object]:
    return lambda file: {name: json.loads(file.read_text())[name] for name in names}


def read_all_examples(folder: Path) -> object:
    return list(read_examples(folder))


# How to read each output for comparison; an output that exists must be complete and equal.
READERS: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(("images", "refused"), Path.read_bytes),
    "tables": lambda folder: {file.name: file.read_bytes() for file in folder.iterdir()},
    **dict.fromkeys(("train_records", "validation_records", "test_records"), read_all_examples),
    **dict.fromkeys(("metrics", "verdict"), json_fields("model_fingerprint", "verdict")),
    "label_map": lambda folder: (folder / "labels.txt").read_bytes(),
    "model": lambda folder: version.exported_version(folder).fingerprint,
    "endpoint": json_fields("kind", "version", "model_name"),
    "deployed": json_fields("repository", "version", "pictures"),
    **dict.fromkeys(("chosen", "tasks"), Path.read_bytes),
    "registered": lambda file: [one["version"] for one in json.loads(file.read_text())["registries"]],
}
# The same for stages whose outputs of these names hold something else.
READERS_OF_STAGES: dict[str, dict[str, Callable[[Path], object]]] = {
    "review_images": {"metrics": json_fields("pictures", "chosen", "unreadable")},
    "collect_logged": {"metrics": lambda file: json.loads(file.read_text()).keys()},  # the rerun finds fewer new files
    "check_drift": {"metrics": json_fields("drifted", "images", "fingerprint", "area", "embeddings_p", "shares_p")},
}


@dataclass(frozen=True)
class KilledStage:
    """A stage that was killed.

    Attributes:
        root: the folder of the run.
        line: the error line of the run.
        printed: the lines it printed.
        kill: the processes that were killed.
    """

    root: Path
    line: str
    printed: list[str]
    kill: sigkill.Kill


@pytest.fixture
def webhook(monkeypatch) -> Iterator[Web]:
    """Starts a web server and sets it as the webhook for the outcome of a run."""
    for name in (*outcome.REPORT_ENVIRONMENT, run_state.CLUSTER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with Web({PATH: (200, "ok")}).running() as running:
        monkeypatch.setenv(outcome.WEBHOOK, f"{running.url}{PATH}")
        yield running


@pytest.fixture
def registry() -> Iterator[KubeflowRegistry]:
    with REGISTRY.running():
        yield REGISTRY


def stage_inputs(stage: str, root: Path, request: pytest.FixtureRequest) -> tuple[dict[str, Path], dict[str, Any]]:
    """Returns the input artifacts and the parameters of a stage."""

    def fixture_value(fixture: str) -> Any:
        return request.getfixturevalue(fixture)

    def model() -> dict[str, Path]:
        return {"model": fixture_value("trained").folder / "model"}

    data_fields = {
        "images_uri": str(fixture_value("image_folder")),
        "leave_out_uri": "",
        "labels_uri": "",
        "labels": "one",
        "advanced": {},
    }
    single_partition = {"partition": 0, "partitions": 1}
    if stage == "check_run":
        form = next(pipeline for pipeline in PIPELINES.values() if stage in run.stage_names(pipeline))
        values, kinds = run.form_defaults(form), run.form_fields(form)
        whole_numbers = {name: int(value) for name, value in values.items() if kinds[name] == "NUMBER_INTEGER"}
        all_fields = {"partitions": 1} | values | whole_numbers
        return {}, {name: all_fields[name] for name in getattr(components, stage).component_spec.inputs}
    if stage == "split_images":
        settings = {"labels": "one", "advanced": {}, **fixture_value("ratios")}
        return {"images": fixture_value("ingested").folder / "images"}, settings
    if stage in ("write_tfrecords", "write_partition"):
        tables = {name: fixture_value("split").folder / name for name in ("tables", "label_map")}
        return tables, {"images_per_shard": 8, "advanced": {}} | (single_partition if stage == "write_partition" else {})
    if stage == "evaluate_classifier":
        arguments = {
            "min_accuracy": 1e-9,
            "test_image_uri": "",
            "deploy_to": "none",
            "unchanged": False,
            "advanced": {"beat_largest_class": False},
        }
        return fixture_value("evaluate_inputs"), arguments
    if stage == "deploy_model":
        values = {"deploy_to": str(root / "repository"), "advanced": {}, **run_component.ORIGIN}
        return fixture_value("deploy_inputs"), values
    if stage == "call_endpoint":
        return fixture_value("held_out") | {"endpoint": fixture_value("deployed").folder / "endpoint"}, {
            "test_image_uri": "",
            "advanced": {},
        }
    if stage == "index_images":
        values = {"index_uri": "", "advanced": {}, **single_partition}
        return model() | {"images": fixture_value("ingested").folder / "images"}, values
    if stage == "predict_images":
        return model(), {
            "predict_uri": str(fixture_value("image_folder")),
            "all_scores": False,
            "advanced": {},
            **single_partition,
        }
    if stage == "deploy_index":
        shutil.copytree(model()["model"] / "serving", root / "repository", dirs_exist_ok=True)
        return {"index": fixture_value("index")}, {"deploy_to": str(root / "repository"), "advanced": {}}
    if stage == "register_model":
        inputs = {name: fixture_value("deploy_inputs")[name] for name in ("model", "verdict", "metrics")}
        values = {"register_in": f"model-registry+{fixture_value('registry').url}", **run_component.ORIGIN}
        return inputs | {"report": fixture_value("evaluated").folder / "report"}, values
    if stage == "collect_logged":
        place = {"logged_uri": str(write_log(root / "logs")), "collected_uri": str(root / "collected")}
        return model(), {"days": 7, "advanced": {}, **place}
    if stage == "check_drift":
        return {"model": write_answers(root)}, {"collected_uri": str(root / "collected"), "days": 7, "advanced": {}}
    return {
        "review_images": lambda: (
            model(),
            {
                "images_uri": str(fixture_value("image_folder")),
                "collected_uri": "",
                "labels_uri": "",
                "review_images": 9,
                "advanced": {},
            },
        ),
        "fetch_embedder": lambda: (
            {},
            {"model_uri": str(model()["model"]), "network": "inception_v1", "checkpoint_uri": "", "advanced": {}},
        ),
        "search_images": lambda: (
            {"index": fixture_value("index")},
            {"queries_uri": str(fixture_value("image_folder")), "nearest": 3, "label": "", "advanced": {}},
        ),
        "audit_images": lambda: ({"index": fixture_value("index")}, fixture_value("ratios")),
        "fingerprint_images": lambda: ({}, data_fields),
        "partition_records": lambda: ({}, {"partitions": 2}),
        "ingest_images": lambda: ({}, run_component.ingest_arguments(fixture_value("image_folder")) | fixture_value("ratios")),
        "train_classifier": lambda: (fixture_value("train_inputs"), fixture_value("recipe")),
        "check_serving": lambda: (fixture_value("serving_check_inputs"), {"deploy_to": "none", "accepted": True}),
        "fetch_records": lambda: ({}, {"records_uri": str(fixture_value("written").folder), "advanced": {}}),
        "fetch_model": lambda: ({}, {"model_uri": str(model()["model"]), "advanced": {}}),
    }[stage]()


def write_log(folder: Path) -> Path:
    """Writes what KServe's logger writes for some requests, a file each; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(LOGGED):
        body = base64.b64encode(sample.draw(f"bellcup/{number + 1:04}.jpg")).decode()
        event = {
            "Bytes": body,
            "ContentType": "image/jpeg",
            "ReqType": REQUEST,
            "Id": str(number),
            "InferenceService": "flowers",
        }
        if not (folder / f"{number}.json").exists():
            (folder / f"{number}.json").write_text(json.dumps(event))
    return folder


def write_answers(root: Path) -> Path:
    """Writes answers into a collection, and the model that gave them, unless it is there; returns the folder of the model."""
    if (root / "exported").exists():
        return root / "exported"
    draw, now = np.random.default_rng(0), datetime.now(UTC)
    exported = exported_model.version(root / "exported" / "serving" / "1")
    keep_held_out(draw.random((100, 8)), np.tile([0.9, 0.1], (100, 1))).save(exported.folder / HELD_OUT_FILE)
    scores = {label: 1 / len(exported.labels) for label in exported.labels}
    given = {"model": "flowers", "version": 1, "fingerprint": exported.fingerprint, "labels": [exported.labels[0]]}
    answers = [
        CollectedAnswer(f"{number:032x}", now.isoformat(timespec="milliseconds"), scores=scores, embedding=row, **given)
        for number, row in enumerate(draw.random((60, 8), np.float32))
    ]
    day = root / "collected" / "flowers" / f"{now:%Y-%m-%d}"
    day.mkdir(parents=True, exist_ok=True)
    (day / f"{now:%Y%m%d}T235959.999999-00000000.jsonl.gz").write_bytes(pack_batch(answers))
    return root / "exported"


def assert_whole_outside(stage: str, root: Path) -> None:
    """Asserts that what a stage writes elsewhere than in its outputs is whole, and there once."""
    if stage == "collect_logged":
        names = [answer.id for answer in read_collected(str(root / "collected"))]
        assert len(names) == len(set(names)) == LOGGED
        assert list((root / "collected").rglob("*.partial")) == []
    if stage == "check_drift":
        drift = read_drift(str(root / "collected"), "flowers")
        assert drift and drift.images == 60
    if stage == "register_model":
        assert [len(entries) for entries in (REGISTRY.models, REGISTRY.versions, REGISTRY.artifacts)] == [1, 1, 1]
        assert REGISTRY.refused == []


def run_and_kill(stage: str, root: Path, artifacts: dict[str, Path], parameters: dict[str, Any]) -> KilledStage | None:
    """Runs a stage with the exit handler and kills it; returns None if the stage ended first."""
    component = getattr(components, stage)

    @dsl.pipeline(name="one-step")
    def one_step_and_its_end():
        with dsl.ExitHandler(outcome_reported(), name="run"):
            inputs = {name: run_component.import_artifact(component, name, path) for name, path in artifacts.items()}
            component(**inputs, **parameters)

    stdout = io.StringIO()
    with sigkill.killing(root, stage, MOMENTS[stage]) as kill, contextlib.redirect_stdout(stdout):
        try:
            run.run(one_step_and_its_end, {}, root)
        except InputError as error:
            return KilledStage(root, str(error), stdout.getvalue().splitlines(), kill)
        except AssertionError:  # raised for a pipeline without a known final output
            assert not kill.processes
    return None


@pytest.mark.parametrize("stage", MOMENTS)
def test_a_killed_stage_is_reported_leaves_no_partial_outputs_and_can_be_rerun(stage, webhook, request, tmp_path, monkeypatch):
    roots = [tmp_path / str(number) for number in range(MAX_ATTEMPTS)]
    attempts = (run_and_kill(stage, root, *stage_inputs(stage, root, request)) for root in roots)
    killed_stage = next(filter(None, attempts))
    log = next(killed_stage.root.glob("*/run.log"))
    reason = f"{stage} must finish; got a killed process, probably out of memory. "
    assert killed_stage.line == f"error: {reason}Give it more memory, or see {log}."

    assert f"      the run failed at {stage}" in killed_stage.printed
    assert [line.split("] ")[1] for line in killed_stage.printed if line.startswith("[")][-2:] == [stage, "report_outcome"]
    payload = webhook.got[-1][2]
    assert (payload["state"], payload["failed_stages"][0]["name"]) == ("FAILED", stage)
    assert payload["failed_stages"][0]["error"].startswith(reason)

    until(lambda: not any(sigkill.lives(process) for process in killed_stage.kill.processes))
    remaining = {path.name: path for path in killed_stage.kill.folder.glob("[!.]*")}
    artifacts, parameters = stage_inputs(stage, killed_stage.root, request)
    if stage in RERUN:
        rerun = run_component.run(getattr(components, stage), tmp_path / "again", artifacts, **parameters)
        assert rerun.succeeded, rerun.printed
        assert_same_outputs(remaining, rerun.folder, stage)
        assert_whole_outside(stage, killed_stage.root)
        assert {path.name for path in rerun.folder.glob(".*")} == set()
    if stage in UNDISTURBED:
        assert_same_outputs(remaining, request.getfixturevalue(UNDISTURBED[stage]).folder)
    if stage in RERUN & UNDISTURBED.keys():
        rerun_outputs = {path.name: path for path in rerun.folder.iterdir()}
        assert_same_outputs(rerun_outputs, request.getfixturevalue(UNDISTURBED[stage]).folder)
    assert UNFINISHED.get(stage) not in remaining


@pytest.mark.parametrize("stage", ["ingest_images", "split_images", "write_tfrecords"])
def test_a_killed_stage_leaves_the_same_outputs_to_its_rerun_where_images_have_several_labels(stage, ratios, webhook, tmp_path):
    listed = several_labels.write_folder(tmp_path / "photos", 80)
    ingest_values = run_component.ingest_arguments(listed, labels="several") | ratios
    split_values = {"labels": "several", "advanced": {}, **ratios}
    stages: dict[str, tuple[dict[str, Path], dict[str, Any]]] = {"ingest_images": ({}, ingest_values)}
    if stage != "ingest_images":
        ingested = run_component.run(components.ingest_images, tmp_path / "ingest", **ingest_values)
        stages["split_images"] = {"images": ingested.folder / "images"}, split_values
    if stage == "write_tfrecords":
        split = run_component.run(components.split_images, tmp_path / "split", *stages["split_images"][:1], **split_values)
        tables = {name: split.folder / name for name in ("tables", "label_map")}
        stages["write_tfrecords"] = tables, {"images_per_shard": 8, "advanced": {}}
    artifacts, parameters = stages[stage]
    attempts = (run_and_kill(stage, tmp_path / str(number), artifacts, parameters) for number in range(MAX_ATTEMPTS))
    killed_stage = next(filter(None, attempts))
    until(lambda: not any(sigkill.lives(process) for process in killed_stage.kill.processes))
    rerun = run_component.run(getattr(components, stage), tmp_path / "again", artifacts, **parameters)
    assert rerun.succeeded, rerun.printed
    assert_same_outputs({path.name: path for path in killed_stage.kill.folder.glob("[!.]*")}, rerun.folder)
    if stage == "write_tfrecords":
        labels = [label for _, _, label in read_examples(rerun.folder / "train_records")]
        assert {"", "blue", "blue\tgreen", "blue\tgreen\tred"} <= set(labels)


def assert_same_outputs(outputs: dict[str, Path], folder: Path, stage: str = "") -> None:
    """Asserts that outputs equal those of the same names in a folder."""
    readers = READERS | READERS_OF_STAGES.get(stage, {})
    for name in outputs.keys() & readers.keys():
        assert readers[name](outputs[name]) == readers[name](folder / name), name
