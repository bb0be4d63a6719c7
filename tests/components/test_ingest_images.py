import csv
import hashlib

import boxed
import drawn
import one_step

from kfp_vision import components


def test_writes_a_table_of_the_pictures_and_leaves_them_where_they_are(pictures, ingested):
    with (ingested.folder / "images").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    first = pictures / "bellcup" / "0001.jpg"
    assert rows[0] == {
        "uri": str(first),
        "label": "bellcup",
        "bytes": str(first.stat().st_size),
        "content_id": hashlib.md5(first.read_bytes()).hexdigest(),
        "name": "bellcup/0001.jpg",
        "split": "",
        "objects": "",
    }
    assert sorted(path.name for path in ingested.folder.iterdir()) == ["executor_output.json", "images", "summary"]


def test_says_how_many_pictures_and_classes_there_are(pictures, ingested):
    assert ingested.metadata["images"] == {"pictures": 20, "classes": 2, "source": str(pictures)}
    assert ingested.printed == ["20 pictures in 2 classes, 0 files passed over"]
    assert "bellcup" in (ingested.folder / "summary").read_text()
    assert len(ingested.output) == 64


def test_refuses_a_single_class(ratios, tmp_path):
    folder = drawn.pictures(tmp_path / "pictures", classes=1, each=3)
    values = {"fingerprint": "any", "images_uri": str(folder), "task": "classification", "check_images": True, **ratios}
    line = one_step.refusal(one_step.run(components.ingest_images, tmp_path, **values))
    assert line.startswith(f"error: images_uri must hold at least two classes; got one at {folder} (bellcup). Put ")


def test_finds_pictures_with_boxes(tmp_path, ratios):
    boxed.data(tmp_path / "data", pictures=20)
    values = {"fingerprint": "any", "images_uri": str(tmp_path / "data"), "task": "detection", "check_images": True, **ratios}
    ended = one_step.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ended.metadata["images"] == {"pictures": 20, "classes": 3, "source": str(tmp_path / "data")}
    assert "20 pictures in 3 classes, 0 files passed over" in ended.printed


def test_refuses_pictures_without_boxes_for_detection(pictures, tmp_path, ratios):
    values = {"fingerprint": "any", "images_uri": str(pictures), "task": "detection", "check_images": True, **ratios}
    ended = one_step.run(components.ingest_images, tmp_path, **values)
    assert one_step.refusal(ended) == (
        f"error: images_uri of detection must hold pictures with annotations; got none at {pictures} "
        "(20 files passed over: no annotation beside it). "
        "Put x.xml in the format of Pascal VOC beside each x.jpg, or into Annotations beside JPEGImages."
    )
