"""Names in a code page: the field name_encoding reaches every stage that reads the archive."""

import csv

import pytest
from support import run_component, sample_images, zip_names

from kfp_vision import components

RATIOS = {"validation_ratio": 0.2, "test_ratio": 0.0}
LABELS = {"bellcup": "花", "globelet": "草"}  # in Big5 one character, which has readings in other code pages


def write_records(images_uri, folder, advanced):
    """Runs the stages from a URI to records, each in a process of its own; returns the labels and what ingest printed."""
    values = run_component.ingest_arguments(str(images_uri)) | RATIOS | {"advanced": advanced}
    ingested = run_component.run(components.ingest_images, folder / "ingest", **values)
    split = run_component.run(
        components.split_images,
        folder / "split",
        {"images": ingested.folder / "images"},
        labels="one",
        advanced=advanced,
        **RATIOS,
    )
    tables = {name: split.folder / name for name in ("tables", "label_map")}
    whole = {"images_per_shard": 100, "advanced": advanced}
    written = run_component.run(components.write_tfrecords, folder / "write", tables, **whole)
    assert written.succeeded and written.metadata["train_records"]["pictures"] == 16
    with (ingested.folder / "images").open(newline="", encoding="utf-8") as file:
        return {row["label"] for row in csv.DictReader(file)}, ingested


@pytest.mark.slow
def test_all_stages_read_names_in_the_given_encoding(tmp_path):
    pictures = sample_images.pictures(tmp_path / "pictures")
    files = {
        f"{LABELS[path.parent.name]}/{path.name}".encode("big5"): path.read_bytes()
        for path in pictures.rglob("*")
        if path.is_file()
    }
    path = zip_names.write_zip(tmp_path / "photos.zip", files)
    labels, _ = write_records(path, tmp_path / "given", {"name_encoding": "big5"})
    assert labels == set(LABELS.values())


@pytest.mark.slow
def test_all_stages_find_the_same_encoding(tmp_path):
    pictures = sample_images.pictures(tmp_path / "pictures")
    named = {"bellcup": "玫瑰", "globelet": "郁金香"}
    files = {
        f"{named[path.parent.name]}/{path.name}".encode("gbk"): path.read_bytes()
        for path in pictures.rglob("*")
        if path.is_file()
    }
    path = zip_names.write_zip(tmp_path / "photos.zip", files)
    labels, ingested = write_records(path, tmp_path / "found", {})
    assert labels == set(named.values())
    note = next(line for line in ingested.printed if line.startswith("The names in "))
    assert "are not UTF-8, and are read as GBK (" in note and "玫瑰" in note
    assert "are read as GBK" in (ingested.folder / "summary").read_text(encoding="utf-8")
