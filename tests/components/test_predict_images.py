import csv

import pytest
from support import run_component

from kfp_vision import components

pytestmark = pytest.mark.slow

ALL_AT_ONCE = {"all_scores": False, "partition": 0, "partitions": 1, "advanced": {}}


@pytest.fixture
def model(trained):
    return {"model": trained.folder / "model"}


def test_classifies_every_image(model, image_folder, tmp_path):
    ended = run_component.run(components.predict_images, tmp_path, model, predict_uri=str(image_folder), **ALL_AT_ONCE)
    with (ended.folder / "predictions").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "prediction", "score", "known", "known_score"]
    assert sorted(row["label"] for row in rows) == ["bellcup"] * 10 + ["globelet"] * 10
    correct = sum(row["label"] == row["prediction"] for row in rows)
    expected = f"20 images classified, 0 unreadable; accuracy {correct / 20:.4f} on the 20 in folders named after a class"
    assert expected in ended.printed
    assert ended.metadata["predictions"] == {}  # KFP passes the metadata of all partitions in a single argument


def test_rejects_a_folder_without_images(model, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = run_component.run(
        components.predict_images, tmp_path / "root", model, predict_uri=str(tmp_path / "empty"), **ALL_AT_ONCE
    )
    assert run_component.error_line(ended).startswith("error: there must be images to classify; got none at")
