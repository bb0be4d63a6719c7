"""The stages of a search: check_search, fetch_embedder, index_images and search_images."""

import csv

import embedding
import one_step
import pytest

from kfp_vision import components

FIELDS = {"network": "inception_v1", "checkpoint_uri": "", "index_uri": "", "queries_uri": "", "nearest": 3, "label": ""}
FIELDS |= {"audit": True, "validation_ratio": 0.2, "test_ratio": 0.0}
FIELDS |= {"deploy_to": "none"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return embedding.write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def indexed(model, pictures, tmp_path_factory) -> one_step.Ended:
    values = {"fingerprint": "any", "images_uri": str(pictures), "index_uri": ""}
    return one_step.run(components.index_images, tmp_path_factory.mktemp("index"), {"model": model}, **values)


def test_right_values_pass_without_a_word(model, pictures, tmp_path):
    ended = one_step.run(components.check_search, tmp_path, **FIELDS | {"images_uri": str(pictures), "model_uri": str(model)})
    assert ended.succeeded
    assert ended.printed == []


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"nearest": 0}, "nearest must be a whole number from 1 to 1000; got 0. Set it to 10, say."),
        ({"model_uri": ""}, "fine_tune=true must have a checkpoint to start from"),
        ({"index_uri": "{pictures}"}, "index_uri must name an index; got none at "),
        ({"queries_uri": "/no/such/pictures"}, "queries_uri must name something that exists; got /no/such/pictures."),
        ({"deploy_to": ""}, "deploy_to must be none, or where the model lies whose pictures are to be searched in; got "),
        ({"deploy_to": "https://host/models"}, "deploy_to must be none, or where the model lies"),
        ({"deploy_to": "{pictures}"}, "deploy_to must hold a model for an index to lie with; got none in "),
    ],
)
def test_wrong_values_are_refused(model, pictures, tmp_path, given, line):
    fields = FIELDS | {"images_uri": str(pictures), "model_uri": str(model)}
    fields |= {name: str(pictures) if value == "{pictures}" else value for name, value in given.items()}
    assert one_step.refusal(one_step.run(components.check_search, tmp_path, **fields)).startswith(f"error: {line}")


def test_takes_a_model_that_was_trained_before(model, tmp_path):
    values = {"model_uri": str(model), "network": "inception_v1", "checkpoint_uri": ""}
    ended = one_step.run(components.fetch_embedder, tmp_path, **values)
    assert ended.metadata["model"]["model_name"] == "flowers"
    assert (ended.folder / "model" / "serving" / "1" / "saved_model.pb").is_file()


def test_indexes_every_picture(indexed):
    assert indexed.metadata["metrics"] == {"pictures": 20, "computed": 20, "refused": 0, "recall": 1}
    assert (indexed.folder / "index" / "index.json").is_file()


def test_takes_what_an_index_from_before_has(indexed, model, pictures, tmp_path):
    values = {"fingerprint": "any", "images_uri": str(pictures / "bellcup"), "index_uri": str(indexed.folder / "index")}
    ended = one_step.run(components.index_images, tmp_path, {"model": model}, **values)
    assert ended.metadata["metrics"] == {"pictures": 10, "computed": 0, "refused": 0, "recall": 1}


def test_refuses_a_place_without_pictures(model, tmp_path):
    (tmp_path / "empty").mkdir()
    values = {"fingerprint": "any", "images_uri": str(tmp_path / "empty"), "index_uri": ""}
    ended = one_step.run(components.index_images, tmp_path / "root", {"model": model}, **values)
    assert one_step.refusal(ended, kept={"index"}).startswith("error: there must be pictures to index; got no pictures.")


def test_finds_the_nearest_of_each_picture(indexed, pictures, tmp_path):
    values = {"queries_uri": str(pictures / "globelet"), "nearest": 3, "label": ""}
    ended = one_step.run(components.search_images, tmp_path, {"index": indexed.folder / "index"}, **values)
    with (ended.folder / "found").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["query", "rank", "path", "label", "similarity"]
    assert len(rows) == 30
    assert all(row["query"] == row["path"] and float(row["similarity"]) > 0.99 for row in rows if row["rank"] == "1")
    assert ended.metadata["found"]["queries"] == 10
    page = (ended.folder / "page").read_text()
    assert page.count("data:image/jpeg") == 10 + 30


def test_refuses_an_empty_query_folder(indexed, tmp_path):
    (tmp_path / "empty").mkdir()
    values = {"queries_uri": str(tmp_path / "empty"), "nearest": 3, "label": ""}
    ended = one_step.run(components.search_images, tmp_path / "root", {"index": indexed.folder / "index"}, **values)
    assert one_step.refusal(ended).startswith("error: there must be pictures to search for; got none at ")


def test_audits_the_pictures_of_an_index(indexed, tmp_path):
    values = {"validation_ratio": 0.2, "test_ratio": 0.0}
    ended = one_step.run(components.audit_images, tmp_path, {"index": indexed.folder / "index"}, **values)
    assert ended.metadata["metrics"]["pictures"] == 20
    assert set(ended.metadata["metrics"]) >= {"copies", "copies_across_splits", "copies_across_labels", "suspicious_labels"}
    assert (ended.folder / "findings").read_text().startswith("path,leave_out,finding,label,instead,other,score\n")
    assert "<h2>The map</h2>" in (ended.folder / "page").read_text()


def test_refuses_to_audit_a_torn_index(tmp_path):
    (tmp_path / "empty").mkdir()
    values = {"validation_ratio": 0.2, "test_ratio": 0.0}
    ended = one_step.run(components.audit_images, tmp_path / "root", {"index": tmp_path / "empty"}, **values)
    assert one_step.refusal(ended).startswith("error: there must be an index; got none in ")
