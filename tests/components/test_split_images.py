import csv
import shutil
from itertools import chain
from pathlib import Path

from support import run_component

from kfp_vision import components


def names(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def test_cuts_each_class_at_the_ratios(ingested, split):
    parts = {name: names(split.folder / "tables" / f"{name}.csv") for name in ("train", "validation", "test")}
    for label in ("bellcup", "globelet"):
        of_label = {part: sum(name.startswith(label) for name in listed) for part, listed in parts.items()}
        assert of_label == {"train": 7, "validation": 2, "test": 1}
    assert sorted(chain(*parts.values())) == names(ingested.folder / "images")


def test_says_what_went_where(split):
    assert split.metadata["tables"] == {"train": 14, "validation": 4, "test": 2, "left_out": 0}
    assert (split.folder / "label_map" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"


def test_keeps_a_picture_under_two_labels_if_asked(pictures, ratios, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    shutil.copy(folder / "bellcup" / "0001.jpg", folder / "globelet" / "again.jpg")
    values = run_component.to_ingest(folder) | ratios
    table = {"images": run_component.run(components.ingest_images, tmp_path / "ingest", **values).folder / "images"}
    ended = {}
    for choice in ("leave_out", "keep"):
        given = {"advanced": {"conflicting_labels": choice}, **ratios}
        ended[choice] = run_component.run(components.split_images, tmp_path / choice, table, **given)
    assert [made.metadata["tables"]["left_out"] for made in ended.values()] == [2, 0]
    listed = (ended["leave_out"].folder / "tables" / "left_out.csv").read_text().splitlines()
    assert listed[1:] == [
        f"{folder}/{name},{name.split('/')[0]},same image with labels bellcup and globelet"
        for name in ("bellcup/0001.jpg", "globelet/again.jpg")
    ]
    assert (ended["keep"].folder / "tables" / "left_out.csv").read_text() == "uri,label,reason\n"


def test_refuses_to_hold_everything_out(ingested, tmp_path):
    table = {"images": ingested.folder / "images"}
    ended = run_component.run(components.split_images, tmp_path, table, validation_ratio=0.6, test_ratio=0.4, advanced={})
    assert run_component.refusal(ended) == (
        "error: every class must keep an image to train on; got none of bellcup. Add images to it, remove it, or hold out less."
    )
