"""Object stores that are gone for a while, in the middle of every stage that reads or writes one; see CONTRIBUTING.md.

A stage waits for a store that is back within minutes, and says each try. One that fails leaves nothing that looks whole, and
gives the same when it is started again. Time is scaled down but in the one test with the real figures.
"""

import hashlib
import io
import os
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
from kfp_vision.records.folder import copy_records
from kfp_vision.repository import bucket as repository_bucket
from kfp_vision.repository import publish
from kfp_vision.repository import version as repository_version
from kfp_vision.repository.bucket import local_copy
from kfp_vision.repository.version import Version, exported_version, fetch_version
from kfp_vision.search import build
from kfp_vision.search import deploy_index as search_deploy_index
from kfp_vision.search.deploy_index import sync_index
from kfp_vision.search.index import read_index_info
from kfp_vision.storage import atomic, base, reading, retry, writing
from kfp_vision.training import checkpointing

SHORT = 0.3  # seconds for which a store is gone
ENOUGH = 0.5  # seconds that one is waited for that does not come back
THREE_MINUTES = 180
LABELS = ["bellcup", "globelet"]
RATIOS = {"validation_ratio": 0.2, "test_ratio": 0.1}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(repository_bucket, "MAX_BACKOFF_SECONDS", 0.05)
    return tmp_path / "scratch"


class Guesses:
    """Names pictures by their bytes: a model that is loaded at once, and whose answers are always the same."""

    def classify(self, pictures: Sequence[bytes]) -> list[classifier.Answer]:
        numbers = [hashlib.md5(picture).digest()[0] % len(LABELS) for picture in pictures]
        return [classifier.Prediction(LABELS[number], number, [1.0 - number, float(number)]) for number in numbers]


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Made:
    """What is made once: a model, and an index of the pictures of one class and one of all."""

    model: Path
    before: Path
    newer: Path


@dataclass(frozen=True)
class Given:
    """What the stages work on.

    Attributes:
        pictures: the URI of a bucket folder of them.
        archive: the URI of an archive of them.
        models: the URI of a model repository.
        tables: the folder of the split tables of the pictures.
        version: an export that lies in no repository yet.
        records: the URI of records of all splits.
        index: the URI of an index of some of the pictures.
        made: the model that it is of, and an index of more of them.
        target: the URI of a folder to write to, in which one whole version, one state, and the model with its index lie.
    """

    pictures: str
    archive: str
    models: str
    tables: Path
    version: Version
    records: str
    index: str
    made: Made
    target: str


def check(given: Given, folder: Path) -> None:
    fields = {"images_uri": given.pictures, "leave_out_uri": "", "task": "classification", "check_images": True, **RATIOS}
    checked = checks.check_preparation(fields | {"images_per_shard": 7, "partitions": 1, "advanced": {}})
    atomic.write_json(folder / "checked", checked)


def fingerprint(given: Given, folder: Path) -> None:
    writing.write_file(scan.fingerprint_images(given.pictures).encode(), str(folder / "fingerprint"))


def ingest(given: Given, folder: Path) -> None:
    ingest_images(given.pictures, check_images=True, splits=3, table=folder / "images", page=folder / "page.html")


def ingest_archive(given: Given, folder: Path) -> None:
    shutil.rmtree(reading._downloads())  # a new pod has none
    ingest_images(given.archive, check_images=True, splits=3, table=folder / "images", page=folder / "page.html")


def write(given: Given, folder: Path) -> None:
    write_records(given.tables, folder, folder)


def write_records(tables: Path, folder: Path, beside_it: Path) -> None:
    splits = {split: tables / f"{split}.csv" for split in table.SPLITS}
    outputs = {split: folder / split for split in table.SPLITS}
    how = {"images_per_shard": 7, "max_refused_ratio": 0.0, "summary": beside_it / "summary.html"}
    convert.write_tfrecords(splits, tables / "labels", outputs, beside_it / "refused.csv", **how)


def predict(given: Given, folder: Path) -> None:
    batch.predict_images(Guesses(), LABELS, given.pictures, folder / "predictions.csv")


def fetch(given: Given, folder: Path) -> None:
    fetch_version(given.models, folder / "model")


def compare(given: Given, folder: Path) -> None:
    """What evaluate_classifier does with the model that is deployed, and call_endpoint with the endpoint."""
    with local_copy(given.models) as path:
        for version in repository_version.versions(path):
            writing.write_file(version.fingerprint.encode(), str(folder / "fingerprint"))


def fetch_records(given: Given, folder: Path) -> None:
    copy_records(given.records, {split: folder / split for split in table.SPLITS}, folder / "labels")


def index(given: Given, folder: Path) -> None:
    """What list_images and index_images do."""
    folder.mkdir(exist_ok=True)
    build.list_images(given.pictures, 1, folder / "listed")
    build.index_images(folder / "listed", given.made.model, given.index, part=folder / "part")


def deploy(given: Given, folder: Path) -> None:
    publish.publish(given.version, f"{given.target}/repository")


def save(given: Given, folder: Path) -> None:
    """What train_classifier does with its checkpoint_dir."""
    kept = checkpointing.CheckpointFolder(f"{given.target}/states", {})
    for step in range(kept.newest().step + 1, 5):
        kept.save(state(step))
    kept.wait()


def deploy_index(given: Given, folder: Path) -> None:
    search_deploy_index.deploy_index(given.made.newer, f"{given.target}/indexed", folder / "deployed")


def state(step: int) -> checkpointing.TrainingState:
    return checkpointing.TrainingState(step, {"weights": np.full((200, 100), step, "float32")}, {})


Work = Callable[[Given, Path], None]
READING: tuple[Work, ...] = (
    check,
    fingerprint,
    ingest,
    ingest_archive,
    write,
    predict,
    fetch,
    compare,
    fetch_records,
    index,
)
WRITING: tuple[Work, ...] = (deploy, save, deploy_index)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    root = tmp_path_factory.mktemp("made")
    model, photos = colour_index.write_model(root / "model"), sample_images.pictures(root / "photos")
    before, newer = root / "before", root / "newer"
    return Made(model, colour_index.write(model, photos / LABELS[0], before), colour_index.write(model, photos, newer))


@pytest.fixture
def given(place: Place, made, tmp_path) -> Given:
    return laid_out(place, made, tmp_path)


@pytest.fixture
def stopped(stoppable, monkeypatch) -> Place:
    """The S3 server that is really stopped."""
    return Place("s3", stoppable, monkeypatch)


def laid_out(place: Place, made: Made, tmp_path: Path) -> Given:
    folder = sample_images.pictures(tmp_path / "photos")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, "photos")
    whole = exported_model.version(tmp_path / "first" / "1", weights=b"first")
    files = {f"photos/{name}": content for name, content in below(folder).items()} | {"photos.tgz": packed.getvalue()}
    uri = place.bucket(files | {f"models/3/{name}": content for name, content in below(whole.folder).items()})
    tables = tmp_path / "tables"
    ingest_images(f"{uri}/photos", check_images=True, splits=3, table=tables / "images", page=tables / "page.html")
    parts = {split: tables / f"{split}.csv" for split in table.SPLITS}
    left = tables / "left_out.csv"
    split_images(tables / "images", **RATIOS, **parts, label_map=tables / "labels", left_out=left)
    write_records(tables, tmp_path / "records", tmp_path)
    return Given(
        pictures=f"{uri}/photos",
        archive=f"{uri}/photos.tgz",
        models=f"{uri}/models",
        tables=tables,
        version=exported_model.version(tmp_path / "new" / "1", weights=b"the new weights"),
        records=place.bucket(below(tmp_path / "records")),
        index=place.bucket(below(made.before)),
        made=made,
        target=filled(place, whole, made),
    )


def filled(place: Place, whole: Version, made: Made) -> str:
    """A new folder to write to, with what was written there before."""
    target = f"{place.bucket({'other': b'stays'})}/target"
    publish.publish(whole, f"{target}/repository")
    publish.publish(exported_version(made.model), f"{target}/indexed")
    search_deploy_index.deploy_index(made.before, f"{target}/indexed", made.before.with_name("deployed"))
    kept = checkpointing.CheckpointFolder(f"{target}/states", {})
    kept.save(state(1))
    kept.wait()
    return target


@dataclass(frozen=True)
class Arrived:
    """What others find in a folder that was written to.

    Attributes:
        versions: by their fingerprints.
        step: of the newest state.
        weights: what all of its weights are.
        pictures: how many the index has.
    """

    versions: frozenset[str]
    step: int
    weights: float
    pictures: int


def arrived(target: str, scratch: Path) -> Arrived:
    versions = publish.repository_at(f"{target}/repository").versions()
    newest = checkpointing.CheckpointFolder(f"{target}/states", {}).newest()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        assert sync_index(f"{target}/indexed", Path(folder) / "index")
        pictures = read_index_info(Path(folder) / "index").pictures
        fingerprints = frozenset(one.download(Path(folder)).fingerprint for one in versions)
    return Arrived(fingerprints, newest.step, float(newest.arrays["weights"][0, 0]), pictures)


def requests_of(work: Work, given: Given, place: Place, folder: Path) -> int:
    """How many requests a stage takes that nobody disturbs."""
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        work(given, folder)
    place.lead_over()
    return line.requests


def tries_said(printed: str) -> list[str]:
    """The lines about tries that are still to come."""
    return [line for line in printed.splitlines() if line.startswith("warning: ") and "; retrying in " in line]


@pytest.mark.parametrize("work", READING, ids=lambda work: work.__name__)
def test_a_stage_that_reads_waits_for_a_store_that_is_back_soon_and_fails_whole_for_one_that_is_not(
    place, given, work, tmp_path, monkeypatch, capsys
):
    requests = requests_of(work, given, place, tmp_path / "whole")
    whole = below(tmp_path / "whole")
    for after in sorted({1, requests // 2} & set(range(1, requests))):
        capsys.readouterr()
        with fault_proxy.outage(place.port, after=after, seconds=SHORT) as line:
            place.lead_over(line.address)
            work(given, tmp_path / f"back soon {after}")
        assert line.fates["gone"]
        # Google's client asks for the bucket itself besides, and goes on where it is not told.
        assert tries_said(capsys.readouterr().out) or (place.scheme, after) == ("gs", 1)
        assert below(tmp_path / f"back soon {after}") == whole
    for after in sorted({0, requests // 2 if requests > 2 else 0}):  # without the bucket itself, Google's client does
        folder = tmp_path / f"gone {after}"
        assert_fails_in_one_line(place, after, lambda folder=folder: work(given, folder), monkeypatch)
        assert below(folder).items() <= whole.items() and below(folder) != whole
        place.lead_over()
        work(given, folder)
        assert below(folder) == whole


@pytest.mark.parametrize("work", WRITING, ids=lambda work: work.__name__)
def test_a_stage_that_writes_does_as_well(place, given, work, tmp_path, scratch, monkeypatch, capsys):
    before = arrived(given.target, scratch)
    requests = requests_of(work, given, place, tmp_path)
    whole = arrived(given.target, scratch)
    assert whole != before
    first = exported_model.version(tmp_path / "again" / "1", weights=b"first")
    for after in (1, requests // 2):
        again = replace(given, target=filled(place, first, given.made))
        capsys.readouterr()
        with fault_proxy.outage(place.port, after=after, seconds=SHORT) as line:
            place.lead_over(line.address)
            work(again, tmp_path)
        assert line.fates["gone"]
        assert tries_said(capsys.readouterr().out)
        place.lead_over()
        assert arrived(again.target, scratch) == whole
    for after in (0, requests // 2):
        again = replace(given, target=filled(place, first, given.made))
        assert_fails_in_one_line(place, after, lambda again=again: work(again, tmp_path), monkeypatch)
        place.lead_over()
        left = arrived(again.target, scratch)
        assert before.versions <= left.versions <= whole.versions and left.step == left.weights <= whole.step
        assert left.pictures in (before.pictures, whole.pictures)
        work(again, tmp_path)
        assert arrived(again.target, scratch) == whole


def assert_fails_in_one_line(place: Place, after: int, work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how long it has waited, and what would have it wait longer; it waits once, whatever it cleans up then."""
    with fault_proxy.outage(place.port, after=after) as line, monkeypatch.context() as patch:
        patch.setenv(base.WAIT_VARIABLE, str(ENOUGH))
        place.lead_over(line.address)
        with pytest.raises(InputError, match=r"^error: (the server must answer|a transfer must complete); got ") as said:
            work()
    message = str(said.value)
    assert "\n" not in message
    assert ", waited for 0." in message and "or set store_wait_seconds of advanced to wait longer" in message


def points(requests: int) -> list[int]:
    """After how many requests a store goes: before the first, after it, at two points in the middle, and before the last."""
    return sorted({0, 1, requests // 3, 2 * requests // 3, requests - 1} & set(range(requests)))


@pytest.mark.parametrize("work", [*READING, *WRITING], ids=lambda work: work.__name__)
def test_a_server_that_is_stopped_at_any_point_and_started_again_costs_waiting_and_nothing_else(
    stoppable, stopped, made, work, tmp_path, scratch, capsys
):
    given = laid_out(stopped, made, tmp_path)
    requests = requests_of(work, given, stopped, tmp_path / "whole")
    first = exported_model.version(tmp_path / "again" / "1", weights=b"first")

    def result(folder: Path, of: Given) -> object:
        return below(folder) if work in READING else arrived(of.target, scratch)

    whole = result(tmp_path / "whole", given)
    for after in points(requests):
        again = given if work in READING else replace(given, target=filled(stopped, first, made))
        folder = tmp_path / f"stopped after {after}"
        capsys.readouterr()
        with fault_proxy.outage(stopped.port, after=after, seconds=SHORT, server=stoppable) as line:
            stopped.lead_over(line.address)
            work(again, folder)
        assert line.fates["gone"], after
        assert tries_said(capsys.readouterr().out), after
        stopped.lead_over()
        assert result(folder, again) == whole, after


def test_a_web_server_is_waited_for(nobody, open_rclone, capsys):
    content = b"an archive" * 1000
    bucket = open_rclone.bucket(f"bucket-{next(NUMBERS)}", {"photos.tgz": content})
    for after in (0, 1):
        with fault_proxy.outage(open_rclone.port, after=after, seconds=SHORT) as line:
            assert reading.fetch(f"http://{line.address}/{bucket}/photos.tgz").read_bytes() == content
        assert line.fates["gone"]
        tries = tries_said(capsys.readouterr().out)
        assert tries and all(said.startswith(f"warning: http://{line.address} ") for said in tries)


def test_of_many_who_read_at_a_time_one_says_each_try(place, monkeypatch, capsys):
    """Where 48 threads wait, as many lines come as where one does: for each pause of a tenth of a second, doubled once."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.1)
    uri = place.bucket({f"{number:03}.jpg": b"%d" % number for number in range(200)})
    with fault_proxy.outage(place.port, after=60, seconds=4 * SHORT) as line:
        place.lead_over(line.address)
        read = {item.name: encoded for item, encoded in reading.read_all(reading.walk(uri))}
    assert read == {f"{number:03}.jpg": b"%d" % number for number in range(200)}
    assert line.fates["gone"]
    assert 3 < len(tries_said(capsys.readouterr().out)) < 24


PUBLISH = """
import sys
from pathlib import Path
from kfp_vision.repository import publish
from kfp_vision.repository.version import Version

print(publish.publish(Version(Path(sys.argv[1])), sys.argv[2]))
"""


def test_a_store_that_is_away_for_three_minutes_costs_waiting_and_nothing_else(
    stoppable, stopped, made, tmp_path, scratch, monkeypatch
):
    """With the patience that people's stages have: this one test waits for minutes, nearly idle.

    One stage is in the midst of its reading, another one begins to write meanwhile.
    """
    given = laid_out(stopped, made, tmp_path)
    monkeypatch.delenv(base.WAIT_VARIABLE)
    values = run_component.ingest_arguments(given.pictures) | RATIOS
    whole = run_component.run(components.ingest_images, tmp_path / "whole", **values)
    command = [sys.executable, "-c", PUBLISH, str(given.version.folder), f"{given.target}/repository"]
    to_the_server = os.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{stopped.port}"}
    published: list[subprocess.CompletedProcess[str]] = []

    def write_meanwhile(line: fault_proxy.Line) -> None:
        line.gone.wait()
        until(lambda: stoppable.process.poll() is not None)
        published.append(subprocess.run(command, check=False, capture_output=True, text=True, env=to_the_server))

    with fault_proxy.outage(stopped.port, after=5, seconds=THREE_MINUTES, server=stoppable) as line:
        stopped.lead_over(line.address)
        writer = threading.Thread(target=write_meanwhile, args=[line])
        writer.start()
        start = time.monotonic()
        bridged = run_component.run(components.ingest_images, tmp_path / "bridged", **values)
        assert time.monotonic() - start > THREE_MINUTES
        writer.join()
    stopped.lead_over()
    (written,) = published
    assert bridged.succeeded, bridged.printed
    assert bridged.output == whole.output
    assert (bridged.folder / "images").read_bytes() == (whole.folder / "images").read_bytes()
    assert (written.returncode, written.stderr) == (0, "")
    newest = publish.repository_at(f"{given.target}/repository").versions()[-1]
    assert newest.download(scratch).fingerprint == given.version.fingerprint
    for printed in ("\n".join(bridged.printed), written.stdout):
        tries = tries_said(printed)
        assert 10 < len(tries) < 40, tries
        assert tries[0].endswith(("for 10m00s more", "for 9m59s more"))
