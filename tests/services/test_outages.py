"""Object stores that are gone for a while, in the middle of every stage that reads or writes one; see CONTRIBUTING.md.

A stage at work waits for a store that is back soon. One that fails leaves nothing that looks whole, and gives the same when it
is tried again.
"""

import hashlib
import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawn
import exported
import faulty
import numpy as np
import one_step
import pytest
from servers import NUMBERS, Place

from kfp_vision import catalog, components, prediction, publishing, records, repository, splitting, storage, stored
from kfp_vision.errors import InputError
from kfp_vision.stores import transfer
from kfp_vision.training import saving

SHORT = 0.5  # seconds
PATIENCE = 0.02  # the first pause of clients that are to see it through, in seconds: twenty in all, and 0.7 for a new address
MINUTE = 60
LABELS = ["bellcup", "globelet"]
RATIOS = {"validation_ratio": 0.2, "test_ratio": 0.1}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(stored, "LONGEST_PAUSE", 0.05)
    return tmp_path / "scratch"


class Guesses:
    """Names pictures by their bytes: a model that is loaded at once, and whose answers are always the same."""

    def name(self, pictures: Sequence[bytes]) -> list[prediction.Answer]:
        numbers = [hashlib.md5(picture).digest()[0] % len(LABELS) for picture in pictures]
        return [prediction.Prediction(LABELS[number], number, [1.0 - number, float(number)]) for number in numbers]


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Given:
    """What the stages work on.

    Attributes:
        pictures: the URI of a bucket folder of them.
        archive: the URI of an archive of them.
        models: the URI of a model repository.
        tables: the folder of the split tables of the pictures.
        version: an export that lies in no repository yet.
        target: the URI of a folder to write to, in which one whole version and one state lie.
    """

    pictures: str
    archive: str
    models: str
    tables: Path
    version: repository.Version
    target: str


def fingerprint(given: Given, folder: Path) -> None:
    storage.put(catalog.fingerprint(given.pictures).encode(), str(folder / "fingerprint"))


def ingest(given: Given, folder: Path) -> None:
    catalog.ingest(given.pictures, check_images=True, splits=3, table=folder / "images", page=folder / "page.html")


def ingest_archive(given: Given, folder: Path) -> None:
    shutil.rmtree(storage._downloads())  # a new pod has none
    catalog.ingest(given.archive, check_images=True, splits=3, table=folder / "images", page=folder / "page.html")


def write(given: Given, folder: Path) -> None:
    tables = {split: given.tables / f"{split}.csv" for split in splitting.SPLITS}
    outputs = {split: folder / split for split in splitting.SPLITS}
    how = {"images_per_shard": 7, "max_refused_ratio": 0.0, "summary": folder / "summary.html"}
    records.write_tfrecords(tables, given.tables / "labels", outputs, folder / "refused.csv", **how)


def predict(given: Given, folder: Path) -> None:
    prediction.predict_images(Guesses(), LABELS, given.pictures, folder / "predictions.csv")


def fetch(given: Given, folder: Path) -> None:
    repository.fetch(given.models, folder / "model")


def compare(given: Given, folder: Path) -> None:
    """What evaluate_classifier does with the model that is deployed, and call_endpoint with the endpoint."""
    with stored.brought(given.models) as path:
        for version in repository.versions(path):
            storage.put(version.fingerprint.encode(), str(folder / "fingerprint"))


def deploy(given: Given, folder: Path) -> None:
    publishing.publish(given.version, f"{given.target}/repository")


def save(given: Given, folder: Path) -> None:
    """What train_classifier does with its checkpoint_dir."""
    kept = saving.Folder(f"{given.target}/states", {})
    for step in range(kept.newest().step + 1, 5):
        kept.save(state(step))
    kept.wait()


def state(step: int) -> saving.State:
    return saving.State(step, {"weights": np.full((200, 100), step, "float32")}, {})


Work = Callable[[Given, Path], None]
READING: tuple[Work, ...] = (fingerprint, ingest, ingest_archive, write, predict, fetch, compare)
WRITING: tuple[Work, ...] = (deploy, save)


@pytest.fixture
def given(place: Place, tmp_path) -> Given:
    folder = drawn.pictures(tmp_path / "photos")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, "photos")
    whole = exported.version(tmp_path / "first" / "1", weights=b"first")
    files = {f"photos/{name}": content for name, content in below(folder).items()} | {"photos.tgz": packed.getvalue()}
    uri = place.bucket(files | {f"models/3/{name}": content for name, content in below(whole.folder).items()})
    tables = tmp_path / "tables"
    catalog.ingest(f"{uri}/photos", check_images=True, splits=3, table=tables / "images", page=tables / "page.html")
    parts = {split: tables / f"{split}.csv" for split in splitting.SPLITS}
    left = tables / "left_out.csv"
    splitting.split_images(tables / "images", **RATIOS, **parts, label_map=tables / "labels", left_out=left)
    new = exported.version(tmp_path / "new" / "1", weights=b"the new weights")
    return Given(f"{uri}/photos", f"{uri}/photos.tgz", f"{uri}/models", tables, new, filled(place, whole))


def filled(place: Place, whole: repository.Version) -> str:
    """A new folder to write to, with what was written there before."""
    target = f"{place.bucket({'other': b'stays'})}/target"
    publishing.publish(whole, f"{target}/repository")
    kept = saving.Folder(f"{target}/states", {})
    kept.save(state(1))
    kept.wait()
    return target


def arrived(target: str, scratch: Path) -> tuple[set[str], int, np.ndarray]:
    """What others find in a folder that was written to: versions by their fingerprints, and the newest state."""
    versions = publishing.repository_at(f"{target}/repository").versions()
    newest = saving.Folder(f"{target}/states", {}).newest()
    return {one.brought(scratch).fingerprint for one in versions}, newest.step, newest.arrays["weights"][0, 0]


def requests_of(work: Work, given: Given, place: Place, folder: Path) -> int:
    """How many requests a stage takes that nobody disturbs."""
    with faulty.line(place.port, share=0) as line:
        place.lead_over(line.address)
        work(given, folder)
    place.lead_over()
    return line.requests


@pytest.mark.parametrize("work", READING, ids=lambda work: work.__name__)
def test_a_stage_that_reads_waits_for_a_store_that_is_back_soon_and_fails_whole_for_one_that_is_not(
    place, given, work, tmp_path, monkeypatch
):
    requests = requests_of(work, given, place, tmp_path / "whole")
    whole = below(tmp_path / "whole")
    for after in sorted({1, requests // 2, 3 * requests // 4} & set(range(1, requests))):
        with faulty.outage(place.port, after=after, seconds=SHORT) as line, monkeypatch.context() as patch:
            patch.setattr(transfer, "FIRST_PAUSE", PATIENCE)
            place.lead_over(line.address)
            work(given, tmp_path / f"back soon {after}")
        assert line.fates["gone"]
        assert below(tmp_path / f"back soon {after}") == whole
    for after in sorted({0, requests // 2 if requests > 2 else 0}):  # without the bucket itself, Google's client does
        folder = tmp_path / f"gone {after}"
        assert_fails_in_one_line(place, after, lambda folder=folder: work(given, folder))
        assert below(folder).items() <= whole.items() and below(folder) != whole
        place.lead_over()
        work(given, folder)
        assert below(folder) == whole


@pytest.mark.parametrize("work", WRITING, ids=lambda work: work.__name__)
def test_a_stage_that_writes_does_as_well(place, given, work, tmp_path, scratch, monkeypatch):
    before = arrived(given.target, scratch)
    requests = requests_of(work, given, place, tmp_path)
    whole = arrived(given.target, scratch)
    assert whole != before
    first = exported.version(tmp_path / "again" / "1", weights=b"first")
    for after in (1, requests // 2, 3 * requests // 4):
        again = Given(**{**given.__dict__, "target": filled(place, first)})
        with faulty.outage(place.port, after=after, seconds=SHORT) as line, monkeypatch.context() as patch:
            patch.setattr(transfer, "FIRST_PAUSE", PATIENCE)
            place.lead_over(line.address)
            work(again, tmp_path)
        assert line.fates["gone"]
        place.lead_over()
        assert arrived(again.target, scratch) == whole
    for after in (0, requests // 2):
        again = Given(**{**given.__dict__, "target": filled(place, first)})
        assert_fails_in_one_line(place, after, lambda again=again: work(again, tmp_path))
        place.lead_over()
        versions, step, weights = arrived(again.target, scratch)
        assert before[0] <= versions <= whole[0] and step == weights <= whole[1]
        work(again, tmp_path)
        assert arrived(again.target, scratch) == whole


def assert_fails_in_one_line(place: Place, after: int, work: Callable[[], Any]) -> None:
    with faulty.outage(place.port, after=after) as line:
        place.lead_over(line.address)
        with pytest.raises(
            InputError, match=r"^error: (an address must answer|what an address gives must arrive whole); got "
        ) as said:
            work()
    assert "\n" not in str(said.value)


def test_a_web_server_that_has_answered_is_waited_for(nobody, open_rclone, monkeypatch):
    content = b"an archive" * 1000
    bucket = open_rclone.bucket(f"bucket-{next(NUMBERS)}", {"photos.tgz": content})
    monkeypatch.setattr(transfer, "FIRST_PAUSE", PATIENCE)
    with faulty.outage(open_rclone.port, after=1, seconds=SHORT) as line:
        assert storage.fetch(f"http://{line.address}/{bucket}/photos.tgz").read_bytes() == content
    assert line.fates["gone"]


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_stage_goes_on_where_a_store_was_gone_for_a_minute_and_fails_soon_where_it_begins_meanwhile(place, given, tmp_path):
    """With the patience that people's stages have: this one test waits a minute."""
    values = one_step.to_ingest(given.pictures) | RATIOS
    whole = one_step.run(components.ingest_images, tmp_path / "whole", **values)
    with faulty.outage(place.port, after=5, seconds=MINUTE) as line:
        place.lead_over(line.address)
        start = time.monotonic()
        bridged = one_step.run(components.ingest_images, tmp_path / "bridged", **values)
        assert time.monotonic() - start > MINUTE
    with faulty.outage(place.port, after=0) as line:
        place.lead_over(line.address)
        start = time.monotonic()
        refused = one_step.run(components.ingest_images, tmp_path / "refused", **values)
        assert time.monotonic() - start < MINUTE / 2
    place.lead_over()
    assert one_step.refusal(refused).startswith("error: an address must answer; got ")
    again = one_step.run(components.ingest_images, tmp_path / "again", **values)
    for ended in (bridged, again):
        assert ended.succeeded, ended.printed
        assert ended.output == whole.output
        assert (ended.folder / "images").read_bytes() == (whole.folder / "images").read_bytes()
