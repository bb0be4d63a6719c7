import json

import pytest
from support import run_component

from kfp_vision import components


@pytest.fixture(scope="session")
def endpoint(deployed, held_out):
    """The artifacts that call_endpoint takes."""
    return held_out | {"endpoint": deployed.folder / "endpoint"}


def told(ended: run_component.Ended) -> dict:
    return json.loads((ended.folder / "answer").read_text())


def test_asks_about_a_picture_that_was_held_out(endpoint, evaluated, tmp_path):
    ended = run_component.run(components.call_endpoint, tmp_path, endpoint, test_image_uri="", advanced={})
    answer = told(ended)
    judged = {
        one["name"]: max(one["probabilities"]) for one in json.loads((evaluated.folder / "verdict").read_text())["answers"]
    }
    assert answer["score"] == pytest.approx(judged[answer["picture"]], abs=1e-3)
    assert answer["label"] == answer["picture"].split("/")[0]
    assert answer["url"].endswith("/v1/models/flowers:predict")
    assert ended.output == ended.metadata["answer"]["prediction"] == answer["prediction"]
    assert ended.printed[0] == f"POST {answer['url']}"


def test_asks_about_the_picture_that_is_named(endpoint, pictures, tmp_path):
    picture = str(pictures / "globelet" / "0003.jpg")
    answer = told(run_component.run(components.call_endpoint, tmp_path, endpoint, test_image_uri=picture, advanced={}))
    assert answer["picture"] == picture
    assert answer["prediction"] in ("bellcup", "globelet")


def test_refuses_what_is_no_picture(endpoint, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    ended = run_component.run(
        components.call_endpoint, tmp_path / "root", endpoint, test_image_uri=str(tmp_path / "notes.jpg"), advanced={}
    )
    assert "error: test_image_uri must name an image that can be read" in run_component.refusal(ended)
