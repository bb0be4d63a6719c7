"""Collecting answers: what is offered can be read again, is bounded in memory and on disk, and survives a kill."""

import gzip
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from support import colour_model, exported_model

from kfp_vision.collection import collect, retention
from kfp_vision.collection.collect import Collector
from kfp_vision.collection.collected import CollectedAnswer, pack_batch, read_collected, unpack_batch
from kfp_vision.collection.drift import Drift
from kfp_vision.collection.settings import CollectSettings
from kfp_vision.core.errors import DamagedError, NotFoundError
from kfp_vision.prediction.classifier import Prediction
from kfp_vision.repository.version import Version
from kfp_vision.storage import reading

DAISY = Prediction("daisy", 0, [0.75, 0.25], True, -0.5, embedding=np.array([0.5, -2, 1 / 3], np.float32))
UNSURE = Prediction("tulip", 1, [0.25, 0.5], named=[])


@pytest.fixture
def version(tmp_path) -> Version:
    return exported_model.version(tmp_path / "repository" / "7")


class Counts(Counter):
    """What became of the answers of each model."""

    def __call__(self, model: str, outcome: str, number: int) -> None:
        self[model, outcome] += number


def collect_answers(place: Path, version: Version, predictions: list[Prediction], image: bytes = b"", **settings) -> Counts:
    """Collects the predictions in one go, and returns what became of them."""
    counts = Counts()
    collector = Collector(CollectSettings(str(place), **{"share": 1.0, **settings}), counts)
    for prediction in predictions:
        collector.offer("flowers", version, prediction, image)
    collector.close()
    return counts


def answer(number: int, time: str, image: str = "") -> CollectedAnswer:
    return CollectedAnswer(f"{number:032x}", time, "flowers", 7, "abc", ["daisy"], {"daisy": 1.0}, image=image)


def write_day(place: Path, day: date, numbers: range, image: bytes = b"") -> Path:
    """Writes a batch of answers of one day, with an image for each if one is given; returns the folder of the day."""
    folder = place / "flowers" / day.isoformat()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    answers = [answer(number, f"{day}T10:00:00.000+00:00", f"images/{number:032x}.jpg" if image else "") for number in numbers]
    for one in answers:
        if one.image:
            (folder / one.image).write_bytes(image)
    (folder / f"{day:%Y%m%d}T100010.000000-{numbers[0]:08x}.jsonl.gz").write_bytes(pack_batch(answers))
    return folder


def test_reads_what_was_collected(tmp_path, version):
    before, image = datetime.now(UTC), colour_model.picture("red")
    counts = collect_answers(tmp_path / "collected", version, [DAISY, UNSURE], image, images=True)
    assert counts == {("flowers", "collected"): 2}
    first, second = read_collected(str(tmp_path / "collected"))
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(first.time) <= datetime.now(UTC)
    assert (first.model, first.version, first.fingerprint) == ("flowers", 7, version.fingerprint)
    assert (first.labels, first.scores, first.several) == (["daisy"], {"daisy": 0.75, "tulip": 0.25}, False)
    assert (first.known, first.known_score) == (True, -0.5)
    np.testing.assert_array_equal(first.embedding, np.array([0.5, -2, 1 / 3], np.float16).astype(np.float32))
    assert (second.labels, second.several, second.known, second.embedding) == ([], True, None, None)
    assert len({first.id, second.id}) == 2 and all(re.fullmatch("[0-9a-f]{32}", one.id) for one in (first, second))
    assert Path(first.image_uri) == tmp_path / "collected/flowers" / first.day / f"images/{first.id}.jpg"
    assert Path(first.image_uri).read_bytes() == image


def test_images_are_kept_only_where_asked(tmp_path, version):
    collect_answers(tmp_path, version, [DAISY], colour_model.picture("red"))
    (only,) = read_collected(str(tmp_path))
    assert only.image == only.image_uri == "" and not list(tmp_path.rglob("images"))
    assert list(read_collected(str(tmp_path), only_with_image=True)) == []


def test_selects_by_model_version_and_time(tmp_path):
    write_day(tmp_path, date(2026, 5, 4), range(3))
    folder = write_day(tmp_path, date(2026, 5, 5), range(3, 5))
    assert [int(one.id, 16) for one in read_collected(str(tmp_path))] == [0, 1, 2, 3, 4]
    assert [int(one.id, 16) for one in read_collected(str(tmp_path), since="2026-05-05")] == [3, 4]
    assert [int(one.id, 16) for one in read_collected(str(folder))] == [3, 4]
    assert list(read_collected(str(tmp_path), model="other")) == list(read_collected(str(tmp_path), fingerprint="x")) == []


def test_what_a_server_deletes_while_it_is_read_is_left_out(tmp_path):
    gone = write_day(tmp_path, date(2026, 5, 4), range(3))
    write_day(tmp_path, date(2026, 5, 3), range(3, 4))
    write_day(tmp_path, date(2026, 5, 5), range(4, 5))
    answers = read_collected(str(tmp_path))
    assert int(next(answers).id, 16) == 3
    shutil.rmtree(gone)
    assert [int(one.id, 16) for one in answers] == [4]


def test_files_are_listed_while_others_delete_them(tmp_path):
    """As many processes as servers may share a collection."""
    delete = "import sys, pathlib\nfor file in sorted(pathlib.Path(sys.argv[1]).rglob('*.jpg')): file.unlink()"
    folder = write_day(tmp_path, date(2026, 5, 4), range(500), b"jpeg")
    with subprocess.Popen([sys.executable, "-c", delete, str(folder)]) as process:
        counts = [len(reading.list_files(str(tmp_path)))]
        while process.poll() is None or counts[-1] != 1:
            counts.append(len(reading.list_files(str(tmp_path))))
    assert counts == sorted(counts, reverse=True) and counts[-1] == 1


def test_a_sample_is_a_share_of_the_answers(tmp_path, version):
    counts = collect_answers(tmp_path, version, [UNSURE] * 4000, share=0.25)
    # Binomial, 4000 draws of 0.25: 1000 with a deviation of 27; six of them happen once in a billion.
    assert 1000 - 6 * 27 < counts["flowers", "collected"] < 1000 + 6 * 27


def test_what_has_no_room_in_memory_is_dropped_and_counted(tmp_path, version, monkeypatch):
    monkeypatch.setattr(collect, "MAX_WAITING_ANSWERS", 0)
    assert collect_answers(tmp_path, version, [DAISY] * 3) == {("flowers", "dropped"): 3}
    monkeypatch.setattr(collect, "MAX_WAITING_ANSWERS", 10)
    monkeypatch.setattr(collect, "MAX_WAITING_BYTES", 5)
    assert collect_answers(tmp_path, version, [DAISY], b"123456", images=True) == {("flowers", "dropped"): 1}
    assert collect_answers(tmp_path, version, [DAISY], b"123456") == {("flowers", "collected"): 1}  # no image, no room needed


def test_goes_on_after_a_batch_that_cannot_be_written(tmp_path, version, capfd):
    (tmp_path / "flowers").write_text("a file where the folder must be")
    assert collect_answers(tmp_path, version, [DAISY] * 2) == {("flowers", "lost"): 2}
    assert capfd.readouterr().out.startswith("warning: cannot collect answers (")


def test_days_that_are_too_old_are_deleted_at_the_start(tmp_path, version):
    today = datetime.now(UTC).date()
    old, kept = (write_day(tmp_path, today - timedelta(days=days), range(2), b"jpeg") for days in (7, 6))
    foreign = tmp_path / "flowers" / "notes.txt"
    foreign.write_text("not of the collection")
    collect_answers(tmp_path, version, [], days=7)
    assert not old.exists() and len(list(kept.rglob("*.jpg"))) == 2 and foreign.exists()


def test_photographs_in_folders_of_days_are_nobodys_collection(tmp_path, version):
    """Somebody who names the folder of his photographs as the place to collect in must not lose them."""
    photographs = [tmp_path / "holiday" / "2019-05-03" / name for name in ("images/IMG_0001.jpg", "log.jsonl.gz")]
    for file in photographs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(3000))
    collect_answers(tmp_path, version, [DAISY], days=1, max_mb=0.002)
    assert all(file.exists() for file in photographs)


def test_a_batch_beyond_the_limit_does_not_empty_the_collection(tmp_path, version):
    counts = collect_answers(tmp_path, version, [UNSURE] * 100, bytes(1000), images=True, max_mb=0.05)
    assert counts == {("flowers", "collected"): 100}
    sizes = [file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()]
    assert 30_000 < sum(sizes) <= 50_000
    assert len(list(read_collected(str(tmp_path), only_with_image=True))) == len(list(tmp_path.rglob("images/*"))) > 25


def test_a_clock_that_is_set_back_does_not_stop_the_deletion(tmp_path, version, monkeypatch):
    class Clock(datetime):
        shift = timedelta(days=3650)

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + cls.shift

    monkeypatch.setattr(collect, "datetime", Clock)
    monkeypatch.setattr(collect, "RETENTION_SECONDS", 0.0)
    collector = Collector(CollectSettings(str(tmp_path), 1.0, days=7), Counts())
    Clock.shift = timedelta(0)
    old = write_day(tmp_path, datetime.now(UTC).date() - timedelta(days=7), range(2))
    collector.close()
    assert not old.exists()


def test_an_answer_that_cannot_be_written_costs_no_other(tmp_path, version, capfd):
    short = Prediction("daisy", 0, [1.0])  # one score for two classes
    collector = Collector(CollectSettings(str(tmp_path), 1.0), counts := Counts())
    collector.offer("a", version, short, b"")
    collector.offer("b", version, DAISY, b"")
    collector.close()
    assert counts == {("a", "lost"): 1, ("b", "collected"): 1}
    assert "warning: cannot collect answers (ValueError: " in capfd.readouterr().out


def test_a_label_may_hold_what_ends_a_line_elsewhere():
    label = "a\u2028b\x85c"
    one = CollectedAnswer("0" * 32, "2026-05-04T10:00:00Z", "flowers", 7, "abc", [label], {label: 1.0})
    assert unpack_batch(pack_batch([one, one]), "/x/1.jsonl.gz") == [one, one]


def test_a_new_check_for_drift_is_noted_once(tmp_path, version, monkeypatch):
    monkeypatch.setattr(collect, "DRIFT_SECONDS", 0.0)
    noted = []
    checks = [
        Drift("flowers", 7, fingerprint, "2026-05-04T10:00:00+00:00", 60, 100, True, 0.9, 0.001, 0.5, 0.0)
        for fingerprint in ("of another version", version.fingerprint)
    ]
    for check in checks:
        (tmp_path / "flowers").mkdir(exist_ok=True)
        (tmp_path / "flowers" / "drift.json").write_text(json.dumps(asdict(check)))
        collector = Collector(CollectSettings(str(tmp_path), share=1.0), Counts(), lambda *found: noted.append(found))
        collector.offer("flowers", version, DAISY, b"")
        collector.close()
        collector._look_for_drift()
    assert noted == [("flowers", checks[1])]


def test_the_oldest_batches_go_when_there_is_too_much(tmp_path):
    today = date(2026, 5, 10)
    folders = [write_day(tmp_path, today - timedelta(days=days), range(2), bytes(1000)) for days in (2, 1, 0)]
    (folders[0] / "images" / f"{9:032x}.jpg").write_bytes(bytes(500))  # of a server killed before it wrote the batch
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
    remaining = retention.delete_old(str(tmp_path), 30, 2.5 * sizes[2], today)
    assert not folders[0].exists() and folders[1].exists() and remaining == sizes[1] + sizes[2]
    assert retention.delete_old(str(tmp_path), 30, 1, today) == 0 and not list(tmp_path.rglob("*.*"))


def test_a_day_is_deleted_in_part_if_that_is_enough(tmp_path):
    day = date(2026, 5, 10)
    folder = write_day(tmp_path, day, range(2), bytes(1000))
    write_day(tmp_path, day, range(2, 4), bytes(1000))
    retention.delete_old(str(tmp_path), 30, 3000, day)
    assert sorted(int(one.id, 16) for one in read_collected(str(tmp_path))) == [2, 3]
    assert sorted(file.name for file in (folder / "images").iterdir()) == [f"{number:032x}.jpg" for number in (2, 3)]


def test_incomplete_files_of_killed_servers_are_removed_at_the_start(tmp_path, version):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = write_day(tmp_path, datetime.now(UTC).date(), range(1))
    host = socket.gethostname()
    of_dead, of_same_number, of_living, of_other_host = (
        folder / f".batch.jsonl.gz.{owner}.partial"
        for owner in (f"{host}.{dead.pid}", f"{host}.{os.getpid()}", f"{host}.{os.getppid()}", f"elsewhere.{dead.pid}")
    )
    for file in (of_dead, of_same_number, of_living, of_other_host):
        file.write_bytes(b"half")
    collect_answers(tmp_path, version, [])
    assert [file.exists() for file in (of_dead, of_same_number, of_living, of_other_host)] == [False, False, True, True]
    assert len(list(read_collected(str(tmp_path)))) == 1  # and readers never see them


@pytest.mark.parametrize(
    "broken",
    [
        pack_batch([answer(1, "2026-05-04T10:00:00Z")])[:-9],
        b"plain",
        pack_batch([])[:4],
        pack_batch([answer(1, "2026-05-04T10:00:00Z", "images/../../../../private.jpg")]),
        gzip.compress(b"[" * 200_000),
        gzip.compress(json.dumps(answer(1, "").to_json() | {"version": math.inf}).encode()),
    ],
)
def test_a_damaged_batch_is_named(broken):
    with pytest.raises(DamagedError, match=r"^error: a batch of collected answers must be whole; got /x/flowers/1.jsonl.gz \("):
        unpack_batch(broken, "/x/flowers/1.jsonl.gz")


def test_an_empty_collection_says_how_to_fill_it(tmp_path):
    with pytest.raises(NotFoundError, match=r"must hold batches of answers; got none below .* kfp-vision serve --collect"):
        list(read_collected(str(tmp_path)))


def test_the_folder_of_an_image_keeps_the_settings_of_its_store():
    uri = "s3://bucket/collected/flowers/2026-05-04/1.jsonl.gz?endpoint=http://minio:9000"
    (one,) = unpack_batch(pack_batch([answer(1, "2026-05-04T10:00:00Z", "images/1.jpg")]), uri)
    assert one.image_uri == "s3://bucket/collected/flowers/2026-05-04/images/1.jpg?endpoint=http://minio:9000"
