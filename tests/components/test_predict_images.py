import csv

import pytest
from support import run_component

from kfp_vision import components

ALL_AT_ONCE = {"all_scores": False, "partition": 0, "partitions": 1, "advanced": {}}


@pytest.fixture
def model(trained):
    return {"model": trained.folder / "model"}


def test_names_every_picture(model, pictures, tmp_path):
    ended = run_component.run(components.predict_images, tmp_path, model, predict_uri=str(pictures), **ALL_AT_ONCE)
    with (ended.folder / "predictions").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "prediction", "score"]
    assert sorted(row["label"] for row in rows) == ["bellcup"] * 10 + ["globelet"] * 10
    right = sum(row["label"] == row["prediction"] for row in rows)
    expected = f"20 images classified, 0 unreadable; accuracy {right / 20:.4f} on the 20 in folders named after a class"
    assert expected in ended.printed
    assert ended.metadata["predictions"] == {}  # KFP hands those of all partitions over in a single argument


def test_refuses_a_place_without_pictures(model, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = run_component.run(
        components.predict_images, tmp_path / "root", model, predict_uri=str(tmp_path / "empty"), **ALL_AT_ONCE
    )
    assert run_component.refusal(ended).startswith("error: there must be images to classify; got none at")
