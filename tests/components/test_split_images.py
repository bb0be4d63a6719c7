import csv
import shutil
from itertools import chain
from pathlib import Path

from support import run_component, several_labels

from kfp_vision import components


def image_names(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def test_splits_each_class_by_the_ratios(ingested, split):
    parts = {name: image_names(split.folder / "tables" / f"{name}.csv") for name in ("train", "validation", "test")}
    for label in ("bellcup", "globelet"):
        counts = {part: sum(name.startswith(label) for name in listed) for part, listed in parts.items()}
        assert counts == {"train": 7, "validation": 2, "test": 1}
    assert sorted(chain(*parts.values())) == image_names(ingested.folder / "images")


def test_reports_the_size_of_each_split(split):
    assert split.metadata["tables"] == {"train": 14, "validation": 4, "test": 2, "left_out": 0}
    assert (split.folder / "label_map" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"


def test_keeps_images_with_two_labels_on_request(image_folder, ratios, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "pictures")
    shutil.copy(folder / "bellcup" / "0001.jpg", folder / "globelet" / "again.jpg")
    values = run_component.ingest_arguments(folder) | ratios
    table = {"images": run_component.run(components.ingest_images, tmp_path / "ingest", **values).folder / "images"}
    ended = {}
    for choice in ("leave_out", "keep"):
        arguments = {"labels": "one", "advanced": {"conflicting_labels": choice}, **ratios}
        ended[choice] = run_component.run(components.split_images, tmp_path / choice, table, **arguments)
    assert [result.metadata["tables"]["left_out"] for result in ended.values()] == [2, 0]
    listed = (ended["leave_out"].folder / "tables" / "left_out.csv").read_text().splitlines()
    assert listed[1:] == [
        f"{folder}/{name},{name.split('/')[0]},same image with labels bellcup and globelet"
        for name in ("bellcup/0001.jpg", "globelet/again.jpg")
    ]
    assert (ended["keep"].folder / "tables" / "left_out.csv").read_text() == "uri,label,reason\n"


def test_keeps_an_image_of_each_class_to_train_on(ingested, tmp_path):
    table = {"images": ingested.folder / "images"}
    held_out = {"validation_ratio": 0.6, "test_ratio": 0.4}
    ended = run_component.run(components.split_images, tmp_path, table, labels="one", advanced={}, **held_out)
    assert ended.metadata["tables"] == {"train": 2, "validation": 10, "test": 8, "left_out": 0}


def test_several_labels_from_a_table_to_the_splits(ratios, tmp_path):
    listed = several_labels.write_folder(tmp_path / "photos", 40)
    values = run_component.ingest_arguments(listed, labels="several") | ratios
    ingested = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert "Labels on an image: 1 on 15 images, 2 on 15 images, 3 on 5 images." in ingested.printed
    table = {"images": ingested.folder / "images"}
    ended = run_component.run(components.split_images, tmp_path / "split", table, labels="several", advanced={}, **ratios)
    assert ended.metadata["tables"]["left_out"] == 0 and sum(ended.metadata["tables"].values()) == 40
    assert (ended.folder / "label_map" / "labels.txt").read_text() == "0:blue\n1:green\n2:red\n"
    assert (ended.folder / "label_map" / "several_labels").read_bytes() == b""
