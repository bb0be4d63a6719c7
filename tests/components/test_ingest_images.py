import csv
import hashlib

from support import boxed_images, run_component, sample_images

from kfp_vision import components


def test_writes_a_table_with_the_uris_of_the_images(image_folder, ingested):
    with (ingested.folder / "images").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == sorted(
        path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*.jpg")
    )
    first = image_folder / "bellcup" / "0001.jpg"
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


def test_reports_the_number_of_images_and_classes(image_folder, ingested):
    assert ingested.metadata["images"] == {"pictures": 20, "classes": 2, "source": str(image_folder)}
    assert ingested.printed == ["20 images in 2 classes, 0 files skipped"]
    assert "bellcup" in (ingested.folder / "summary").read_text()
    assert len(ingested.output) == 64


def test_rejects_a_single_class(ratios, tmp_path):
    folder = sample_images.pictures(tmp_path / "pictures", classes=1, each=3)
    values = run_component.ingest_arguments(folder) | ratios
    line = run_component.error_line(run_component.run(components.ingest_images, tmp_path, **values))
    assert line.startswith(f"error: images_uri must contain at least two classes; got one at {folder} (bellcup). Put ")


def test_ingests_images_with_boxes(tmp_path, ratios):
    boxed_images.data(tmp_path / "data", pictures=20)
    values = run_component.ingest_arguments(tmp_path / "data", task="detection") | ratios
    ended = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ended.metadata["images"] == {"pictures": 20, "classes": 3, "source": str(tmp_path / "data")}
    assert "20 images in 3 classes, 0 files skipped" in ended.printed


def test_rejects_images_without_boxes_for_detection(image_folder, tmp_path, ratios):
    values = run_component.ingest_arguments(image_folder, task="detection") | ratios
    ended = run_component.run(components.ingest_images, tmp_path, **values)
    assert run_component.error_line(ended) == (
        f"error: images_uri of detection must contain images with annotations; got none at {image_folder} "
        "(20 files skipped: no annotation (bellcup/0001.jpg, bellcup/0002.jpg, bellcup/0003.jpg and 17 more)). "
        "Put x.xml in Pascal VOC format next to each x.jpg, or into Annotations next to JPEGImages."
    )


def test_excludes_images_of_the_exclusion_list(image_folder, ratios, tmp_path):
    (tmp_path / "list.csv").write_text(
        f"path,leave_out\nbellcup/0001.jpg,yes\n{image_folder}/globelet/0002.jpg,yes\nrose/1.jpg,yes\n"
    )
    values = run_component.ingest_arguments(image_folder, leave_out_uri=str(tmp_path / "list.csv")) | ratios
    ended = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ended.metadata["images"]["pictures"] == 18
    assert ended.printed == [
        f"images excluded by {tmp_path}/list.csv: 2",
        "Entries of the exclusion list that match no image: 1 (rose/1.jpg).",
        "2 files skipped: excluded by leave_out_uri (bellcup/0001.jpg, globelet/0002.jpg)",
        "18 images in 2 classes, 2 files skipped",
    ]
    assert "excluded by leave_out_uri" in (ended.folder / "summary").read_text()


def test_takes_the_labels_of_a_list(image_folder, ratios, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\nbellcup/0001.jpg,globelet\n")
    values = run_component.ingest_arguments(image_folder, labels_uri=str(tmp_path / "labels.csv")) | ratios
    ended = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ended.printed == [
        f"labels of {tmp_path}/labels.csv: 1",
        "Images by labels_uri: 0 added, 1 corrected, 0 confirmed, 0 left out as not sure.",
        "20 images in 2 classes, 0 files skipped",
    ]
    assert ",globelet," in next(
        line for line in (ended.folder / "images").read_text().splitlines() if "bellcup/0001.jpg" in line
    )


def test_rejects_an_exclusion_list_of_other_images(image_folder, ratios, tmp_path):
    (tmp_path / "list.csv").write_text("path\nrose/1.jpg\n")
    values = run_component.ingest_arguments(image_folder, leave_out_uri=str(tmp_path / "list.csv")) | ratios
    line = run_component.error_line(run_component.run(components.ingest_images, tmp_path / "ingest", **values))
    assert line.startswith("error: leave_out_uri must name images of images_uri; got none of them in ")
