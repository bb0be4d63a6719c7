import json

import pytest
from support import run_component

from kfp_vision import components

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def endpoint(deployed, held_out):
    """Returns the input artifacts of call_endpoint."""
    return held_out | {"endpoint": deployed.folder / "endpoint"}


def read_answer(ended: run_component.Result) -> dict:
    return json.loads((ended.folder / "answer").read_text())


def test_classifies_a_held_out_image(endpoint, evaluated, tmp_path):
    ended = run_component.run(components.call_endpoint, tmp_path, endpoint, test_image_uri="", advanced={})
    answer = read_answer(ended)
    scores = {
        sample["name"]: max(sample["probabilities"])
        for sample in json.loads((evaluated.folder / "verdict").read_text())["answers"]
    }
    assert answer["score"] == pytest.approx(scores[answer["picture"]], abs=1e-3)
    assert answer["label"] == answer["picture"].split("/")[0]
    assert answer["url"].endswith("/v1/models/flowers:predict")
    assert ended.output == ended.metadata["answer"]["prediction"] == answer["prediction"]
    assert ended.printed[0] == f"POST {answer['url']}"


def test_classifies_the_test_image(endpoint, image_folder, tmp_path):
    image = str(image_folder / "globelet" / "0003.jpg")
    answer = read_answer(run_component.run(components.call_endpoint, tmp_path, endpoint, test_image_uri=image, advanced={}))
    assert answer["picture"] == image
    assert answer["prediction"] in ("bellcup", "globelet")


def test_rejects_an_invalid_test_image(endpoint, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    ended = run_component.run(
        components.call_endpoint, tmp_path / "root", endpoint, test_image_uri=str(tmp_path / "notes.jpg"), advanced={}
    )
    assert "error: test_image_uri must name an image that can be read" in run_component.error_line(ended)
