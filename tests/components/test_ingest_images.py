import csv
import hashlib

from support import boxed_images, run_component, sample_images

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
    assert ingested.printed == ["20 images in 2 classes, 0 files skipped"]
    assert "bellcup" in (ingested.folder / "summary").read_text()
    assert len(ingested.output) == 64


def test_refuses_a_single_class(ratios, tmp_path):
    folder = sample_images.pictures(tmp_path / "pictures", classes=1, each=3)
    values = run_component.to_ingest(folder) | ratios
    line = run_component.refusal(run_component.run(components.ingest_images, tmp_path, **values))
    assert line.startswith(f"error: images_uri must contain at least two classes; got one at {folder} (bellcup). Put ")


def test_finds_pictures_with_boxes(tmp_path, ratios):
    boxed_images.data(tmp_path / "data", pictures=20)
    values = run_component.to_ingest(tmp_path / "data", task="detection") | ratios
    ended = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ended.metadata["images"] == {"pictures": 20, "classes": 3, "source": str(tmp_path / "data")}
    assert "20 images in 3 classes, 0 files skipped" in ended.printed


def test_refuses_pictures_without_boxes_for_detection(pictures, tmp_path, ratios):
    values = run_component.to_ingest(pictures, task="detection") | ratios
    ended = run_component.run(components.ingest_images, tmp_path, **values)
    assert run_component.refusal(ended) == (
        f"error: images_uri of detection must contain images with annotations; got none at {pictures} "
        "(20 files skipped: no annotation). "
        "Put x.xml in Pascal VOC format next to each x.jpg, or into Annotations next to JPEGImages."
    )


def test_leaves_out_what_a_list_names(pictures, ratios, tmp_path):
    (tmp_path / "list.csv").write_text(
        f"path,leave_out\nbellcup/0001.jpg,yes\n{pictures}/globelet/0002.jpg,yes\nrose/1.jpg,yes\n"
    )
    values = run_component.to_ingest(pictures, leave_out_uri=str(tmp_path / "list.csv")) | ratios
    ended = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ended.metadata["images"]["pictures"] == 18
    assert ended.printed == [
        f"images excluded by {tmp_path}/list.csv: 2",
        "Entries of the exclusion list that match no image: 1 (rose/1.jpg).",
        "18 images in 2 classes, 2 files skipped",
    ]
    assert "excluded by leave_out_uri" in (ended.folder / "summary").read_text()


def test_refuses_a_list_of_other_pictures(pictures, ratios, tmp_path):
    (tmp_path / "list.csv").write_text("path\nrose/1.jpg\n")
    values = run_component.to_ingest(pictures, leave_out_uri=str(tmp_path / "list.csv")) | ratios
    line = run_component.refusal(run_component.run(components.ingest_images, tmp_path / "ingest", **values))
    assert line.startswith("error: leave_out_uri must name images of images_uri; got none of them in ")
