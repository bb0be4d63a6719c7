"""The stages of a search: check_search, fetch_embedder, list_images, index_images, join_index and search_images."""

import contextlib
import csv
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local
from support import embedding_model, run_component, several_labels, zip_names

from kfp_vision import components
from kfp_vision.cli.run import make_sequential
from kfp_vision.core.advanced import SEARCH_ADVANCED
from kfp_vision.dataset.table import count_rows, read_table, read_unused, write_table
from kfp_vision.search import index
from kfp_vision.search.parts import PART_FILE

pytestmark = pytest.mark.slow

Joined = tuple[Path, dict[str, Any]]  # the folder of the stage's outputs, and the metrics
FIELDS = {
    "labels": "one",
    "network": "inception_v1",
    "checkpoint_uri": "",
    "index_uri": "",
    "queries_uri": "",
    "nearest": 3,
    "label": "",
    "audit": True,
    "validation_ratio": 0.2,
    "test_ratio": 0.0,
    "deploy_to": "none",
    "partitions": 2,
    "advanced": {},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return embedding_model.write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def listed(image_folder, tmp_path_factory) -> run_component.Result:
    values = {"fingerprint": "any", "images_uri": str(image_folder), "partitions": 2, "labels": "one", "advanced": {}}
    return run_component.run(components.list_images, tmp_path_factory.mktemp("list"), **values)


@pytest.fixture(scope="module")
def indexed(model, listed, tmp_path_factory) -> run_component.Result:
    """Indexes the second of two partitions."""
    inputs = {"model": model, "images": listed.folder / "images"}
    values = {"index_uri": "", "partition": 1, "partitions": 2, "advanced": {}}
    return run_component.run(components.index_images, tmp_path_factory.mktemp("part"), inputs, **values)


@pytest.fixture(scope="module")
def joined(model, listed, tmp_path_factory) -> Joined:
    return build_and_join(model, listed.folder / "images", tmp_path_factory.mktemp("index"))


def test_valid_values_pass_without_output(model, image_folder, tmp_path):
    ended = run_component.run(
        components.check_search, tmp_path, **FIELDS | {"images_uri": str(image_folder), "model_uri": str(model)}
    )
    assert ended.succeeded
    assert ended.printed == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"advanced": {"momentum": 0.5}},
            f"advanced of image_search must hold known names only ({', '.join(SEARCH_ADVANCED)}); got momentum. Take one of "
            "these, or leave it out.",
        ),
        # Not what else it would need, since that is not taken either.
        (
            {"advanced": {"rare_classes": "train"}},
            f"advanced of image_search must hold known names only ({', '.join(SEARCH_ADVANCED)}); got rare_classes.",
        ),
        (
            {"advanced": {"label_separator": ";"}},
            "label_separator of advanced must be left out unless labels=several; got ;. Leave it out, or set labels to "
            "several.",
        ),
        ({"partitions": 0}, "partitions must be a whole number from 1 to 100; got 0. Set it to 4, say."),
        ({"nearest": 0}, "nearest must be a whole number from 1 to 1000; got 0. Set it to 10, say."),
        ({"labels": "many"}, "labels must be one of one, several; got many. Choose one, say one."),
        ({"model_uri": ""}, "fine_tune=true must have a checkpoint to start from"),
        ({"index_uri": "{pictures}"}, "index_uri must name an index; got none at "),
        ({"queries_uri": "/no/such/pictures"}, "queries_uri must name something that exists; got /no/such/pictures."),
        ({"deploy_to": ""}, "deploy_to must be none, or the place of the model whose images are searched; got "),
        ({"deploy_to": "https://host/models"}, "deploy_to must be none, or the place of the model"),
        ({"deploy_to": "{pictures}"}, "deploy_to must hold a model for the index to be deployed beside; got none in "),
    ],
)
def test_rejects_invalid_values(model, image_folder, tmp_path, changes, line):
    fields = FIELDS | {"images_uri": str(image_folder), "model_uri": str(model)}
    fields |= {name: str(image_folder) if value == "{pictures}" else value for name, value in changes.items()}
    assert run_component.error_line(run_component.run(components.check_search, tmp_path, **fields)).startswith(f"error: {line}")


def test_fetches_a_trained_model(model, tmp_path):
    values = {"model_uri": str(model), "network": "inception_v1", "checkpoint_uri": "", "advanced": {}}
    ended = run_component.run(components.fetch_embedder, tmp_path, **values)
    assert ended.metadata["model"]["model_name"] == "flowers"
    assert (ended.folder / "model" / "serving" / "1" / "saved_model.pb").is_file()


def test_lists_images_and_partition_numbers(listed):
    assert listed.output == [0, 1]
    assert listed.printed == ["20 images to index"]
    assert count_rows(listed.folder / "images") == 20


def test_lists_images_of_any_name_and_names_the_other_files(tmp_path, image_folder):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg?width=640").write_bytes((image_folder / "bellcup" / "0001.jpg").read_bytes())
    (tmp_path / "photos" / "notes").write_text("no image")
    values = {"fingerprint": "any", "images_uri": str(tmp_path / "photos"), "partitions": 1, "labels": "one", "advanced": {}}
    ended = run_component.run(components.list_images, tmp_path / "root", **values)
    assert ended.printed == [
        "1 files without a usual ending are images by their first bytes: 1.jpg?width=640.",
        "1 file skipped: not an image (notes)",
        "1 image to index",
    ]


def test_lists_all_labels_of_images_that_have_several(tmp_path):
    table = several_labels.write_folder(tmp_path / "photos", images=8)
    values = {"fingerprint": "any", "images_uri": str(table), "partitions": 1, "labels": "several", "advanced": {}}
    ended = run_component.run(components.list_images, tmp_path / "root", **values)
    assert [tuple(row.labels) for row in read_table(ended.folder / "images")] == several_labels.SETS


def test_settings_of_the_data_say_how_it_is_read(tmp_path, image_folder):
    table = several_labels.write_folder(tmp_path / "photos", images=3)
    table.write_text("uri,label\n0000.jpg,blue;red\n0001.jpg,red\n0002.jpg,blue\n")
    values = {"fingerprint": "any", "images_uri": str(table), "partitions": 1, "labels": "several"}
    separated = run_component.run(components.list_images, tmp_path / "a", **values, advanced={"label_separator": ";"})
    assert [row.labels for row in read_table(separated.folder / "images")] == [["blue", "red"], ["red"], ["blue"]]
    for label in ("globelet", "bellcup"):
        (tmp_path / "tree" / label / "near").mkdir(parents=True)
        (tmp_path / "tree" / label / "near" / "1.jpg").write_bytes((image_folder / label / "0001.jpg").read_bytes())
    values |= {"images_uri": str(tmp_path / "tree"), "labels": "one"}
    for level, labels in (("highest", ["bellcup", "globelet"]), ("lowest", ["near", "near"])):
        ended = run_component.run(components.list_images, tmp_path / level, **values, advanced={"class_folder": level})
        assert [row.label for row in read_table(ended.folder / "images")] == labels
        assert f"The classes are the {level} folders, as class_folder of advanced says." in ended.printed
    ended = run_component.run(components.list_images, tmp_path / "level", **values, advanced={"class_folder": "7"})
    rule = "error: class_folder of advanced must be a level that has folders; got 7."
    assert run_component.error_line(ended).startswith(rule)
    doubtful = run_component.run(components.list_images, tmp_path / "doubtful", **values, advanced={})  # a training stops
    assert any(line.startswith("The classes are the lowest folders (near), not those") for line in doubtful.printed)


def test_images_are_found_again_in_an_archive_whose_encoding_of_names_is_given(model, tmp_path, image_folder):
    name = "bellcup/ばら.jpg".encode("euc-jp")  # too short to tell the encoding by itself
    zip_names.write_zip(tmp_path / "photos.zip", {name: (image_folder / "bellcup" / "0001.jpg").read_bytes()})
    advanced = {"name_encoding": "euc-jp"}
    values = {"fingerprint": "any", "images_uri": str(tmp_path / "photos.zip"), "partitions": 1, "labels": "one"}
    listed = run_component.run(components.list_images, tmp_path / "list", **values, advanced=advanced)
    assert [row.name for row in read_table(listed.folder / "images")] == ["bellcup/ばら.jpg"]
    assert f"The names in {tmp_path}/photos.zip are read as euc-jp, as name_encoding says." in listed.printed
    inputs = {"model": model, "images": listed.folder / "images"}
    part = {"index_uri": "", "partition": 0, "partitions": 1, "advanced": advanced}
    indexed = run_component.run(components.index_images, tmp_path / "part", inputs, **part)
    info = json.loads((indexed.folder / "part" / PART_FILE).read_text())
    assert (info["pictures"], info["computed"]) == (1, 1)


def test_rejects_a_label_that_holds_what_separates_labels_where_images_have_several(tmp_path):
    table = several_labels.write_folder(tmp_path / "photos", images=2)
    table.write_text("uri,label\n0000.jpg,blue|pale;red\n0001.jpg,red\n")
    values = {"fingerprint": "any", "images_uri": str(table), "partitions": 1, "advanced": {}}
    of_one = run_component.run(components.list_images, tmp_path / "one", **values, labels="one")
    assert of_one.printed[-1] == "2 images to index"
    table.write_text('uri,label\n0000.jpg,"[""blue|pale"", ""red""]"\n0001.jpg,red\n')
    of_several = run_component.run(components.list_images, tmp_path / "several", **values, labels="several")
    rule = "error: with labels=several, a label must not hold |, which separates labels in tables; got blue|pale."
    assert run_component.error_line(of_several).startswith(rule)
    (tmp_path / "photos" / "blue|pale").mkdir()
    (tmp_path / "photos" / "0000.jpg").rename(tmp_path / "photos" / "blue|pale" / "0000.jpg")
    table.unlink()
    folder = values | {"images_uri": str(tmp_path / "photos")}
    of_folders = run_component.run(components.list_images, tmp_path / "folders", **folder, labels="several")
    assert run_component.error_line(of_folders).startswith(f"{rule} Rename the folder; ")


def test_rejects_a_folder_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    values = {"fingerprint": "any", "images_uri": str(tmp_path / "empty"), "partitions": 1, "labels": "one", "advanced": {}}
    ended = run_component.run(components.list_images, tmp_path / "root", **values)
    assert run_component.error_line(ended).startswith("error: there must be images to index; got no images.")


def test_indexes_only_its_partition(indexed):
    assert indexed.metadata["part"] == {}  # KFP passes the metadata of all partitions in a single argument
    assert "partition 2 of 2: 10 of 20 images" in indexed.printed


def test_rejects_a_missing_earlier_index(model, listed, tmp_path):
    (tmp_path / "before").mkdir()
    values = {"index_uri": str(tmp_path / "before"), "partition": 0, "partitions": 1, "advanced": {}}
    inputs = {"model": model, "images": listed.folder / "images"}
    ended = run_component.run(components.index_images, tmp_path / "root", inputs, **values)
    assert run_component.error_line(ended).startswith("error: there must be an index; got none in ")


def build_and_join(model: Path, images: Path, root: Path, partitions: int = 2, index_uri: str = "") -> Joined:
    """Indexes images in partitions in the loop of a pipeline, and joins them; returns the outputs of join_index."""

    @dsl.pipeline(name="partitions")
    def in_partitions(partitions: int, index_uri: str):
        model_artifact = run_component.import_artifact(components.index_images, "model", model)
        table = run_component.import_artifact(components.index_images, "images", images)
        numbers = components.partition_records(partitions=partitions)
        with dsl.ParallelFor(numbers.output) as partition:
            arguments = {"index_uri": index_uri, "partition": partition, "partitions": partitions, "advanced": {}}
            part = components.index_images(model=model_artifact, images=table, **arguments)
        components.join_index(parts=dsl.Collected(part.outputs["part"]), model=model_artifact)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.suppress(RuntimeError):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        make_sequential(in_partitions)(partitions=partitions, index_uri=index_uri)
    outputs = list(root.glob("partitions-*/join-index/executor_output.json"))
    assert outputs, stdout.getvalue()
    metrics = json.loads(outputs[0].read_text())["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    return outputs[0].parent, metrics


def test_joins_partitions_into_an_index(joined):
    folder, metrics = joined
    assert metrics == {"pictures": 20, "computed": 20, "refused": 0, "recall": 1}
    assert index.Index(folder / "index").about.pictures == 20
    assert (folder / "refused").read_text() == "uri,label,reason\n"


def test_reuses_an_earlier_index(joined, model, listed, tmp_path):
    rows = [row for row in read_table(listed.folder / "images") if row.label == "bellcup"]
    write_table(tmp_path / "fewer", rows)
    _, metrics = build_and_join(model, tmp_path / "fewer", tmp_path / "root", 1, str(joined[0] / "index"))
    assert metrics == {"pictures": 10, "computed": 0, "refused": 0, "recall": 1}


def test_lists_the_rejected_images_of_all_partitions(model, listed, tmp_path):
    first, *others = read_table(listed.folder / "images")
    write_table(tmp_path / "gone", [replace(first, uri=f"{first.uri}.gone", content_id="gone"), *others])
    folder, metrics = build_and_join(model, tmp_path / "gone", tmp_path / "root")
    assert (metrics["pictures"], metrics["refused"]) == (19, 1)
    (rejection,) = read_unused(folder / "refused")
    assert rejection == (f"{first.uri}.gone", first.label, "No such file or directory")


def test_finds_the_nearest_images_of_each_query(joined, image_folder, tmp_path):
    values = {"queries_uri": str(image_folder / "globelet"), "nearest": 3, "label": "", "advanced": {}}
    ended = run_component.run(components.search_images, tmp_path, {"index": joined[0] / "index"}, **values)
    with (ended.folder / "found").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["query", "rank", "path", "label", "similarity"]
    assert len(rows) == 30
    assert all(row["query"] == row["path"] and float(row["similarity"]) > 0.99 for row in rows if row["rank"] == "1")
    assert ended.metadata["found"]["queries"] == 10
    page = (ended.folder / "page").read_text()
    assert page.count("data:image/jpeg") == 10 + 30


def test_rejects_an_empty_query_folder(joined, tmp_path):
    (tmp_path / "empty").mkdir()
    values = {"queries_uri": str(tmp_path / "empty"), "nearest": 3, "label": "", "advanced": {}}
    ended = run_component.run(components.search_images, tmp_path / "root", {"index": joined[0] / "index"}, **values)
    assert run_component.error_line(ended).startswith("error: there must be images to search for; got none at ")


def test_audits_an_index(joined, tmp_path):
    values = {"validation_ratio": 0.2, "test_ratio": 0.0}
    ended = run_component.run(components.audit_images, tmp_path, {"index": joined[0] / "index"}, **values)
    assert ended.metadata["metrics"]["pictures"] == 20
    assert set(ended.metadata["metrics"]) >= {"copies", "copies_across_splits", "copies_across_labels", "suspicious_labels"}
    assert (ended.folder / "findings").read_text().startswith("path,leave_out,finding,label,instead,other,score\n")
    assert "<h2>Map of the embeddings</h2>" in (ended.folder / "page").read_text()
    assert len(ended.printed) == 2, ended.printed  # the number of compared pairs, and the findings


def test_rejects_an_audit_without_an_index(tmp_path):
    (tmp_path / "empty").mkdir()
    values = {"validation_ratio": 0.2, "test_ratio": 0.0}
    ended = run_component.run(components.audit_images, tmp_path / "root", {"index": tmp_path / "empty"}, **values)
    assert run_component.error_line(ended).startswith("error: there must be an index; got none in ")
