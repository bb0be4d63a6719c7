"""Images chosen for review from a folder and from a collection; what is written is labelled, and read again by a training."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import colour_model, known_colours, zip_names

from kfp_vision.collection.collected import CollectedAnswer, pack_batch
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest
from kfp_vision.repository.version import Version
from kfp_vision.review import review

pytestmark = pytest.mark.slow

COLOURS = {  # that the model knows, is unsure of, or has never seen; two are the same in another size
    "sure.png": (205, 28, 32),
    "between.png": (120, 118, 20),
    "between-again.png": (120, 118, 20),
    "grey.png": (100, 101, 99),
}


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    return known_colours.write_version(tmp_path_factory.mktemp("repository") / "1")


@pytest.fixture
def new(tmp_path) -> Path:
    """A folder of images without labels, one of them damaged."""
    (tmp_path / "new").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (40 + len(name), 30), colour).save(tmp_path / "new" / name)
    (tmp_path / "new" / "damaged.jpg").write_bytes(b"\xff\xd8\xff not an image")
    return tmp_path / "new"


def reviewed(version, tmp_path, **options):
    """Reviews, and returns the rows of the table, the tasks and the counts."""
    outputs = {name: tmp_path / name for name in ("table", "tasks", "page")}
    counts = review.review_images(version, **{"most": 10, **outputs, **options})
    with outputs["table"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads(outputs["tasks"].read_text()), counts


def test_files_that_are_no_images_and_how_names_are_read_are_told(version, tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    files = {"花朵.png".encode("gbk"): (tmp_path / "a.png").read_bytes(), b"notes": b"no image"}
    zip_names.write_zip(tmp_path / "new.zip", files)
    reviewed(version, tmp_path, images_uri=str(tmp_path / "new.zip"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"The names in {tmp_path}/new.zip are not UTF-8, and are read as GBK (花朵)")
    assert lines[1] == "1 file skipped: not an image (notes)"


def names(rows):
    return [Path(row["path"]).name for row in rows]


def test_the_unsure_and_unknown_are_chosen_and_no_near_copies(version, new, tmp_path):
    rows, _, counts = reviewed(version, tmp_path, images_uri=str(new))
    assert counts == {"pictures": 5, "chosen": len(rows), "unreadable": 1}
    assert sorted(names(rows)) in (["between-again.png", "grey.png"], ["between.png", "grey.png"])
    assert {row["label"] for row in rows} == {""}
    worth = [float(row["unsure"]) * float(row["distance"]) for row in rows]
    assert worth == sorted(worth, reverse=True) and worth[-1] > 0
    assert {frozenset(row["suggested"].split("|")) for row in rows} == {frozenset(colour_model.RGB)}
    page = (tmp_path / "page").read_text(encoding="utf-8")
    assert page.count("<img") == 2 and "&lt;Choice value=&#34;red&#34;/&gt;" in page
    assert len(reviewed(version, tmp_path, images_uri=str(new), most=1)[0]) == 1


def test_the_table_with_labels_is_a_list_of_labels(version, new, tmp_path):
    rows, _, _ = reviewed(version, tmp_path, images_uri=str(new))
    photos = tmp_path / "photos"
    for colour in ("red", "green"):
        (photos / colour).mkdir(parents=True)
        for number in range(3):
            (photos / colour / f"{number}.png").write_bytes(colour_model.picture(colour, "PNG", (30 + number, 30)))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, review.REVIEW_COLUMNS)
        writer.writeheader()
        writer.writerows(row | {"label": "?" if "grey" in row["path"] else "green"} for row in rows)
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "page.html", "labels_uri": str(tmp_path / "labels.csv")}
    found = ingest.ingest_images(str(photos), check_images=True, splits=2, **outputs)
    assert found.classes == {"green": 4, "red": 3}
    rest, _, _ = reviewed(version, tmp_path, images_uri=str(new), labels_uri=str(tmp_path / "labels.csv"))
    assert not set(names(rest)) & set(names(rows))


def test_the_tasks_of_label_studio_come_back_as_labels(version, new, tmp_path):
    rows, tasks, _ = reviewed(version, tmp_path, images_uri=str(new))
    best = [row["suggested"].split("|")[0] for row in rows]
    for task, label in zip(tasks, best, strict=True):
        (prediction,) = task["predictions"]
        assert prediction["result"][0]["value"] == {"choices": [label]}
        annotation = {"result": prediction["result"], "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z"}
        task["annotations"] = [annotation]
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "project.json").write_text(json.dumps(tasks))
    photos = tmp_path / "photos"
    for colour in ("red", "green", "blue"):
        (photos / colour).mkdir(parents=True)
        (photos / colour / "1.png").write_bytes(colour_model.picture(colour, "PNG"))
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "page.html"}
    labels_uri = str(tmp_path / "export" / "project.json")
    found = ingest.ingest_images(str(photos), check_images=True, splits=1, labels_uri=labels_uri, **outputs)
    added = {row.uri: row.label for row in found.rows if row.uri.startswith(str(new))}
    assert added == dict(zip((row["path"] for row in rows), best, strict=True))


def test_collected_images_of_this_version_are_chosen(version, new, tmp_path):
    day = tmp_path / "collected" / "colours" / "2026-05-04"
    (day / "images").mkdir(parents=True)
    answers = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        (new / name).rename(day / "images" / name)
        scores = np.exp(np.array(colour) / 20 - 10)
        scores = dict(zip(version.labels, (scores / scores.sum()).tolist(), strict=True))
        known = {"embedding": np.array(colour, np.float32), "image": f"images/{name}"}
        best = [max(scores, key=scores.get)]
        time = "2026-05-04T10:00:00.000+00:00"
        answers.append(CollectedAnswer(f"{number:032x}", time, "colours", 1, version.fingerprint, best, scores, **known))
    answers.append(replace(answers[-1], fingerprint="other"))
    answers.append(replace(answers[-1], fingerprint=version.fingerprint, image=""))
    (day / "20260504T100010.000000-00000000.jsonl.gz").write_bytes(pack_batch(answers))
    rows, _, counts = reviewed(version, tmp_path, collected_uri=str(tmp_path / "collected"))
    assert counts["pictures"] == 4
    assert names(rows)[0] == "grey.png" and names(rows)[1].startswith("between") and len(rows) == 2
    assert all(Path(row["path"]).is_file() for row in rows)


def test_images_that_all_have_labels_leave_nothing_to_review(version, new, tmp_path):
    lines = "".join(f"new/{name},red\n" for name in (*COLOURS, "damaged.jpg"))
    (tmp_path / "labels.csv").write_text(f"path,label\n{lines}")
    with pytest.raises(InputError) as refusal:
        reviewed(version, tmp_path, images_uri=str(new), labels_uri=str(tmp_path / "labels.csv"))
    expected = f"error: there must be images to review that have no label yet; got none at {new}. Give other images."
    assert str(refusal.value) == expected


def test_several_labels_are_unsure_at_their_thresholds(tmp_path):
    version = Version(colour_model.write_version(tmp_path / "1", thresholds=(0.5, 0.5, 0.5)))
    (tmp_path / "new").mkdir()
    for name, colour in {"sure.png": (255, 0, 0), "limit.png": (101, 0, 255)}.items():
        Image.new("RGB", (40, 30), colour).save(tmp_path / "new" / name)
    rows, tasks, _ = reviewed(version, tmp_path, images_uri=str(tmp_path / "new"))
    assert names(rows)[0] == "limit.png"
    assert tasks[0]["predictions"][0]["result"][0]["value"]["choices"] == ["blue", "red"]
