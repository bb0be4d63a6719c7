"""Outages of an object store in the middle of every stage that reads or writes one; see CONTRIBUTING.md.

A stage waits for a store that is back within minutes, and logs each retry. A stage that fails leaves nothing that looks
complete, and gives the same result when it is repeated. Times are scaled down, except in the last test.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import colour_index, exported_model, fault_proxy, run_component, sample_images
from support.model_servers import NUMBERS, Place, until

from kfp_vision import components
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan, table
from kfp_vision.dataset.ingest import ingest_images
from kfp_vision.dataset.split import split_images
from kfp_vision.prediction import batch, classifier
from kfp_vision.preflight import checks
from kfp_vision.records import convert
from kfp_vision.records.records_folder import copy_records
from kfp_vision.repository import bucket_repository, publish
from kfp_vision.repository import version as repository_version
from kfp_vision.repository.bucket_repository import local_copy
from kfp_vision.repository.version import Version, exported_version, fetch_version
from kfp_vision.search import build
from kfp_vision.search import deploy_index as search_deploy_index
from kfp_vision.search.deploy_index import sync_index
from kfp_vision.search.index import read_index_info
from kfp_vision.storage import atomic, base, reading, retry, writing
from kfp_vision.training import checkpointing

pytestmark = pytest.mark.slow

OUTAGE_SECONDS = 0.3  # for which a store is gone
WAIT_SECONDS = 0.5  # for which a stage waits for a store that stays gone
ONE_MINUTE = 60  # the pauses have grown to their longest after half of it
LABELS = ["bellcup", "globelet"]
RATIOS = {"validation_ratio": 0.2, "test_ratio": 0.1}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(bucket_repository, "MAX_BACKOFF_SECONDS", 0.05)
    return tmp_path / "scratch"


class FakeClassifier:
    """Classifies images by a hash of their bytes: it needs no loading, and its answers never change."""

    def classify(self, images: Sequence[bytes]) -> list[classifier.Answer]:
        numbers = [hashlib.md5(image).digest()[0] % len(LABELS) for image in images]
        return [classifier.Prediction(LABELS[number], number, [1.0 - number, float(number)]) for number in numbers]


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class ModelAndIndexes:
    """A model, an index of the images of one class (`before`), and an index of all images (`newer`)."""

    model: Path
    before: Path
    newer: Path


@dataclass(frozen=True)
class Inputs:
    """The inputs and targets of the stages.

    Attributes:
        images: the URI of a bucket folder of images.
        archive: the URI of an archive of the same images.
        models: the URI of a model repository.
        tables: the folder of the split tables.
        version: an export that is in no repository yet.
        records: the URI of records of all splits.
        index: the URI of an index of some of the images.
        model_and_indexes: the model of that index, and an index of all images.
        target: the URI of a folder to write to; it holds a version, a checkpoint, and the model with its index.
    """

    images: str
    archive: str
    models: str
    tables: Path
    version: Version
    records: str
    index: str
    model_and_indexes: ModelAndIndexes
    target: str


def check_fields(inputs: Inputs, folder: Path) -> None:
    fields = {"images_uri": inputs.images, "leave_out_uri": "", "labels_uri": "", "labels": "one", "task": "classification"}
    fields |= {"check_images": True, "images_per_shard": 7, "partitions": 1, "advanced": {}, **RATIOS}
    checked = checks.check_preparation(fields)
    atomic.write_json(folder / "checked", checked)


def fingerprint_folder(inputs: Inputs, folder: Path) -> None:
    writing.write_file(scan.fingerprint_images(inputs.images).encode(), str(folder / "fingerprint"))


def ingest_folder(inputs: Inputs, folder: Path) -> None:
    ingest_images(inputs.images, check_images=True, splits=3, table=folder / "images", page=folder / "page.html")


def ingest_archive(inputs: Inputs, folder: Path) -> None:
    shutil.rmtree(reading._downloads())  # a new pod has no downloads
    ingest_images(inputs.archive, check_images=True, splits=3, table=folder / "images", page=folder / "page.html")


def write_tables(inputs: Inputs, folder: Path) -> None:
    write_records(inputs.tables, folder, folder)


def write_records(tables: Path, folder: Path, side_outputs: Path) -> None:
    splits = {split: tables / f"{split}.csv" for split in table.SPLITS}
    outputs = {split: folder / split for split in table.SPLITS}
    options = {"images_per_shard": 7, "max_refused_ratio": 0.0, "summary": side_outputs / "summary.html"}
    convert.write_tfrecords(splits, tables / "labels", outputs, side_outputs / "refused.csv", **options)


def predict_folder(inputs: Inputs, folder: Path) -> None:
    batch.predict_images(FakeClassifier(), LABELS, inputs.images, folder / "predictions.csv")


def fetch_model(inputs: Inputs, folder: Path) -> None:
    fetch_version(inputs.models, folder / "model")


def read_deployed_model(inputs: Inputs, folder: Path) -> None:
    """Reads the deployed model as evaluate_classifier and call_endpoint do."""
    with local_copy(inputs.models) as path:
        for version in repository_version.versions(path):
            writing.write_file(version.fingerprint.encode(), str(folder / "fingerprint"))


def fetch_records(inputs: Inputs, folder: Path) -> None:
    copy_records(inputs.records, {split: folder / split for split in table.SPLITS}, folder / "labels")


def index_folder(inputs: Inputs, folder: Path) -> None:
    """Lists and indexes the images as list_images and index_images do."""
    folder.mkdir(exist_ok=True)
    build.list_images(inputs.images, 1, folder / "listed")
    build.index_images(folder / "listed", inputs.model_and_indexes.model, inputs.index, part=folder / "part")


def deploy_model(inputs: Inputs, folder: Path) -> None:
    publish.publish(inputs.version, f"{inputs.target}/repository")


def save_checkpoints(inputs: Inputs, folder: Path) -> None:
    """Saves checkpoints as train_classifier does with checkpoint_dir."""
    checkpoints = checkpointing.CheckpointFolder(f"{inputs.target}/states", {})
    for step in range(checkpoints.newest().step + 1, 5):
        checkpoints.save(state(step))
    checkpoints.wait()


def deploy_index(inputs: Inputs, folder: Path) -> None:
    search_deploy_index.deploy_index(inputs.model_and_indexes.newer, f"{inputs.target}/indexed", folder / "deployed")


def state(step: int) -> checkpointing.TrainingState:
    return checkpointing.TrainingState(step, {"weights": np.full((200, 100), step, "float32")}, {})


Stage = Callable[[Inputs, Path], None]
READING: tuple[Stage, ...] = (
    check_fields,
    fingerprint_folder,
    ingest_folder,
    ingest_archive,
    write_tables,
    predict_folder,
    fetch_model,
    read_deployed_model,
    fetch_records,
    index_folder,
)
WRITING: tuple[Stage, ...] = (deploy_model, save_checkpoints, deploy_index)


@pytest.fixture(scope="module")
def model_and_indexes(tmp_path_factory) -> ModelAndIndexes:
    root = tmp_path_factory.mktemp("made")
    model, photos = colour_index.write_model(root / "model"), sample_images.pictures(root / "photos")
    before, newer = root / "before", root / "newer"
    return ModelAndIndexes(
        model, colour_index.write(model, photos / LABELS[0], before), colour_index.write(model, photos, newer)
    )


@pytest.fixture
def inputs(place: Place, model_and_indexes, tmp_path) -> Inputs:
    return set_up(place, model_and_indexes, tmp_path)


@pytest.fixture
def stoppable_place(stoppable, monkeypatch) -> Place:
    """Returns the S3 server that the test stops and restarts."""
    return Place("s3", stoppable, monkeypatch)


def set_up(place: Place, model_and_indexes: ModelAndIndexes, tmp_path: Path) -> Inputs:
    folder = sample_images.pictures(tmp_path / "photos")
    archive_bytes = io.BytesIO()
    with tarfile.open(fileobj=archive_bytes, mode="w:gz") as archive:
        archive.add(folder, "photos")
    first_version = exported_model.version(tmp_path / "first" / "1", weights=b"first")
    files = {f"photos/{name}": content for name, content in read_tree(folder).items()} | {
        "photos.tgz": archive_bytes.getvalue()
    }
    uri = place.bucket(files | {f"models/3/{name}": content for name, content in read_tree(first_version.folder).items()})
    tables = tmp_path / "tables"
    ingest_images(f"{uri}/photos", check_images=True, splits=3, table=tables / "images", page=tables / "page.html")
    parts = {split: tables / f"{split}.csv" for split in table.SPLITS}
    left_out = tables / "left_out.csv"
    split_images(tables / "images", **RATIOS, **parts, label_map=tables / "labels", left_out=left_out)
    write_records(tables, tmp_path / "records", tmp_path)
    return Inputs(
        images=f"{uri}/photos",
        archive=f"{uri}/photos.tgz",
        models=f"{uri}/models",
        tables=tables,
        version=exported_model.version(tmp_path / "new" / "1", weights=b"the new weights"),
        records=place.bucket(read_tree(tmp_path / "records")),
        index=place.bucket(read_tree(model_and_indexes.before)),
        model_and_indexes=model_and_indexes,
        target=fill_target(place, first_version, model_and_indexes),
    )


def fill_target(place: Place, first_version: Version, model_and_indexes: ModelAndIndexes) -> str:
    """Fills a new target folder with a version, an index and a checkpoint, and returns its URI."""
    target = f"{place.bucket({'other': b'stays'})}/target"
    publish.publish(first_version, f"{target}/repository")
    publish.publish(exported_version(model_and_indexes.model), f"{target}/indexed")
    search_deploy_index.deploy_index(
        model_and_indexes.before, f"{target}/indexed", model_and_indexes.before.with_name("deployed")
    )
    checkpoints = checkpointing.CheckpointFolder(f"{target}/states", {})
    checkpoints.save(state(1))
    checkpoints.wait()
    return target


@dataclass(frozen=True)
class TargetState:
    """The contents of a target folder, as readers find them.

    Attributes:
        versions: the fingerprints of the versions.
        step: the step of the newest checkpoint.
        weights: the value of all weights of that checkpoint.
        images: the number of images in the index.
    """

    versions: frozenset[str]
    step: int
    weights: float
    images: int


def read_target(target: str, scratch: Path) -> TargetState:
    versions = publish.repository_at(f"{target}/repository").versions()
    newest = checkpointing.CheckpointFolder(f"{target}/states", {}).newest()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        assert sync_index(f"{target}/indexed", Path(folder) / "index")
        images = read_index_info(Path(folder) / "index").pictures
        fingerprints = frozenset(one.download(Path(folder)).fingerprint for one in versions)
    return TargetState(fingerprints, newest.step, float(newest.arrays["weights"][0, 0]), images)


def count_requests(stage: Stage, inputs: Inputs, place: Place, folder: Path) -> int:
    """Returns the number of requests that a stage sends without an outage."""
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        stage(inputs, folder)
    place.lead_over()
    return line.requests


def retry_lines(printed: str) -> list[str]:
    """Returns the lines that announce a retry."""
    return [line for line in printed.splitlines() if line.startswith("warning: ") and "; retrying in " in line]


@pytest.mark.parametrize("stage", READING, ids=lambda stage: stage.__name__)
def test_a_reading_stage_survives_a_short_outage_and_fails_cleanly_in_a_long_one(
    place, inputs, stage, tmp_path, monkeypatch, capsys
):
    requests = count_requests(stage, inputs, place, tmp_path / "whole")
    expected = read_tree(tmp_path / "whole")
    for after in sorted({1, requests // 2} & set(range(1, requests))):
        capsys.readouterr()
        with fault_proxy.outage(place.port, after=after, seconds=OUTAGE_SECONDS) as line:
            place.lead_over(line.address)
            stage(inputs, tmp_path / f"back soon {after}")
        assert line.fates["gone"]
        # Google's client also requests the bucket itself, and ignores a failure of that request.
        assert retry_lines(capsys.readouterr().out) or (place.scheme, after) == ("gs", 1)
        assert read_tree(tmp_path / f"back soon {after}") == expected
    for after in sorted(
        {0, requests // 2 if requests > 2 else 0}
    ):  # Google's client does not need its answer about the bucket itself
        folder = tmp_path / f"gone {after}"
        assert_fails_in_one_line(place, after, lambda folder=folder: stage(inputs, folder), monkeypatch)
        assert read_tree(folder).items() <= expected.items() and read_tree(folder) != expected
        place.lead_over()
        stage(inputs, folder)
        assert read_tree(folder) == expected


@pytest.mark.parametrize("stage", WRITING, ids=lambda stage: stage.__name__)
def test_a_writing_stage_survives_a_short_outage_and_fails_cleanly_in_a_long_one(
    place, inputs, stage, tmp_path, scratch, monkeypatch, capsys
):
    before = read_target(inputs.target, scratch)
    requests = count_requests(stage, inputs, place, tmp_path)
    expected = read_target(inputs.target, scratch)
    assert expected != before
    first = exported_model.version(tmp_path / "again" / "1", weights=b"first")
    for after in (1, requests // 2):
        retried = replace(inputs, target=fill_target(place, first, inputs.model_and_indexes))
        capsys.readouterr()
        with fault_proxy.outage(place.port, after=after, seconds=OUTAGE_SECONDS) as line:
            place.lead_over(line.address)
            stage(retried, tmp_path)
        assert line.fates["gone"]
        assert retry_lines(capsys.readouterr().out)
        place.lead_over()
        assert read_target(retried.target, scratch) == expected
    for after in (0, requests // 2):
        retried = replace(inputs, target=fill_target(place, first, inputs.model_and_indexes))
        assert_fails_in_one_line(place, after, lambda retried=retried: stage(retried, tmp_path), monkeypatch)
        place.lead_over()
        remaining = read_target(retried.target, scratch)
        assert (
            before.versions <= remaining.versions <= expected.versions and remaining.step == remaining.weights <= expected.step
        )
        assert remaining.images in (before.images, expected.images)
        stage(retried, tmp_path)
        assert read_target(retried.target, scratch) == expected


def assert_fails_in_one_line(place: Place, after: int, stage: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that the error states the time waited and how to wait longer, and that cleaning up does not wait again."""
    with fault_proxy.outage(place.port, after=after) as line, monkeypatch.context() as patch:
        patch.setenv(base.WAIT_VARIABLE, str(WAIT_SECONDS))
        place.lead_over(line.address)
        with pytest.raises(InputError, match=r"^error: (the server must answer|a transfer must complete); got ") as raised:
            stage()
    message = str(raised.value)
    assert "\n" not in message
    assert re.search(r", waited for [\d.]+ s", message) and "or set store_wait_seconds of advanced to wait longer" in message


def outage_points(requests: int) -> list[int]:
    """Returns the numbers of requests before an outage: none, one, two points in the middle, and all but one."""
    return sorted({0, 1, requests // 3, 2 * requests // 3, requests - 1} & set(range(requests)))


@pytest.mark.parametrize("stage", [*READING, *WRITING], ids=lambda stage: stage.__name__)
def test_every_stage_survives_a_restart_of_the_server_at_any_point(
    stoppable, stoppable_place, model_and_indexes, stage, tmp_path, scratch, capsys
):
    inputs = set_up(stoppable_place, model_and_indexes, tmp_path)
    requests = count_requests(stage, inputs, stoppable_place, tmp_path / "whole")
    first = exported_model.version(tmp_path / "again" / "1", weights=b"first")

    def result(folder: Path, stage_inputs: Inputs) -> object:
        return read_tree(folder) if stage in READING else read_target(stage_inputs.target, scratch)

    expected = result(tmp_path / "whole", inputs)
    for after in outage_points(requests):
        retried = inputs if stage in READING else replace(inputs, target=fill_target(stoppable_place, first, model_and_indexes))
        folder = tmp_path / f"stopped after {after}"
        capsys.readouterr()
        with fault_proxy.outage(stoppable_place.port, after=after, seconds=OUTAGE_SECONDS, server=stoppable) as line:
            stoppable_place.lead_over(line.address)
            stage(retried, folder)
        assert line.fates["gone"], after
        assert retry_lines(capsys.readouterr().out), after
        stoppable_place.lead_over()
        assert result(folder, retried) == expected, after


def test_waits_for_a_web_server(no_credentials, open_rclone, capsys):
    content = b"an archive" * 1000
    bucket = open_rclone.bucket(f"bucket-{next(NUMBERS)}", {"photos.tgz": content})
    for after in (0, 1):
        with fault_proxy.outage(open_rclone.port, after=after, seconds=OUTAGE_SECONDS) as line:
            assert reading.fetch(f"http://{line.address}/{bucket}/photos.tgz").read_bytes() == content
        assert line.fates["gone"]
        tries = retry_lines(capsys.readouterr().out)
        assert tries and all(entry.startswith(f"warning: http://{line.address} ") for entry in tries)


def test_concurrent_readers_log_each_retry_once(place, monkeypatch, capsys):
    """48 waiting threads log as few lines as one: a line for each pause of a tenth of a second, then doubled."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.1)
    uri = place.bucket({f"{number:03}.jpg": b"%d" % number for number in range(200)})
    with fault_proxy.outage(place.port, after=60, seconds=10 * OUTAGE_SECONDS) as line:
        place.lead_over(line.address)
        read = {item.name: encoded for item, encoded in reading.read_all(reading.walk(uri))}
    assert read == {f"{number:03}.jpg": b"%d" % number for number in range(200)}
    assert line.fates["gone"]
    assert 3 < len(retry_lines(capsys.readouterr().out)) < 24


PUBLISH = """
import sys
from pathlib import Path
from kfp_vision.repository import publish
from kfp_vision.repository.version import Version

print(publish.publish(Version(Path(sys.argv[1])), sys.argv[2]))
"""


def test_an_outage_of_a_minute_delays_stages_and_changes_nothing(
    stoppable, stoppable_place, model_and_indexes, tmp_path, scratch, monkeypatch
):
    """Uses the real waiting times: this test waits for a minute, nearly idle.

    One stage is reading when the outage begins, and another one starts to write during it.
    """
    inputs = set_up(stoppable_place, model_and_indexes, tmp_path)
    monkeypatch.delenv(base.WAIT_VARIABLE)
    values = run_component.ingest_arguments(inputs.images) | RATIOS
    expected = run_component.run(components.ingest_images, tmp_path / "whole", **values)
    command = [sys.executable, "-c", PUBLISH, str(inputs.version.folder), f"{inputs.target}/repository"]
    environment = os.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{stoppable_place.port}"}
    published: list[subprocess.CompletedProcess[str]] = []

    def publish_during_outage(line: fault_proxy.Line) -> None:
        line.gone.wait()
        until(lambda: stoppable.process.poll() is not None)
        published.append(subprocess.run(command, check=False, capture_output=True, text=True, env=environment))

    with fault_proxy.outage(stoppable_place.port, after=5, seconds=ONE_MINUTE, server=stoppable) as line:
        stoppable_place.lead_over(line.address)
        writer = threading.Thread(target=publish_during_outage, args=[line])
        writer.start()
        start = time.monotonic()
        interrupted = run_component.run(components.ingest_images, tmp_path / "bridged", **values)
        assert time.monotonic() - start > ONE_MINUTE
        writer.join()
    stoppable_place.lead_over()
    (completed,) = published
    assert interrupted.succeeded, interrupted.printed
    assert interrupted.output == expected.output
    assert (interrupted.folder / "images").read_bytes() == (expected.folder / "images").read_bytes()
    assert (completed.returncode, completed.stderr) == (0, "")
    newest = publish.repository_at(f"{inputs.target}/repository").versions()[-1]
    assert newest.download(scratch).fingerprint == inputs.version.fingerprint
    for printed in ("\n".join(interrupted.printed), completed.stdout):
        tries = retry_lines(printed)
        assert 7 < len(tries) < 20, tries
        assert tries[0].endswith(("for 10m00s more", "for 9m59s more"))
