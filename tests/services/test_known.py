"""Answers of the server that say whether an image is known, in all protocols and to clients that do not ask for it."""

import base64
import json
from collections.abc import Iterator

import pytest
import requests
from support import colour_model, grpc_client, known_colours

from kfp_vision.cli import main
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.prediction.client import ServingClient
from kfp_vision.serving import server

SECONDS = 300  # enough on a busy machine
PREDICT, INFER = "/v1/models/colours:predict", "/v2/models/colours/infer"


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> known_colours.Version:
    return known_colours.write_version(tmp_path_factory.mktemp("repository") / "1")


@pytest.fixture(scope="module")
def url(version) -> Iterator[str]:
    with server.run_server(version.folder.parent) as address:
        yield address


IMAGES = [colour_model.picture("red", "PNG"), known_colours.yellow(), b"no image"]
ENCODED = [base64.b64encode(image).decode() for image in IMAGES]


def post(address: str, body: dict) -> dict:
    response = requests.post(address, json=body, timeout=SECONDS)
    assert response.status_code == 200, response.text
    return response.json()


def test_each_prediction_says_whether_its_image_is_known(url, version):
    red, yellow, broken = post(url + PREDICT, {"instances": [{"b64": one} for one in ENCODED]})["predictions"]
    assert (red["known"], yellow["known"]) == (True, False) and broken.keys() == {"error"}
    assert yellow["known_score"] < red["known_score"]
    expected = Classifier(version).classify(IMAGES[:2])
    assert [red["known_score"], yellow["known_score"]] == pytest.approx([one.known_score for one in expected], abs=0.01)
    answers = ServingClient(url).classify(IMAGES[:2])
    assert [(one.known, one.known_score) for one in answers] == [(one["known"], one["known_score"]) for one in (red, yellow)]


def test_columns_have_a_list_for_it(url):
    columns = post(url + PREDICT, {"inputs": [{"b64": one} for one in ENCODED]})["outputs"]
    assert columns["known"] == [True, False, False]
    assert columns["known_score"][0] > columns["known_score"][1] and columns["known_score"][2] == 0


def test_the_open_inference_protocol_has_tensors_for_it(url):
    tensor = {"name": "image_bytes", "shape": [3], "datatype": "BYTES", "data": ENCODED}
    answer = {one["name"]: one for one in post(url + INFER, {"inputs": [tensor]})["outputs"]}
    assert (answer["known"]["datatype"], answer["known"]["data"]) == ("BOOL", [True, False, False])
    assert answer["known_score"]["datatype"] == "FP32" and answer["known_score"]["data"][2] == 0
    described = requests.get(f"{url}/v2/models/colours", timeout=SECONDS).json()["outputs"]
    assert [one["name"] for one in described] == ["classes", "class_idx", "probabilities", "known", "known_score"]
    asked = {"inputs": [tensor], "outputs": [{"name": "classes"}]}
    assert [one["name"] for one in post(url + INFER, asked)["outputs"]] == ["classes"]


def test_the_command_line_says_it(url, tmp_path, capsys):
    (tmp_path / "red.png").write_bytes(IMAGES[0])
    (tmp_path / "yellow.png").write_bytes(IMAGES[1])
    assert main(["predict", "--url", url, "--json", str(tmp_path)]) == 0
    assert [json.loads(line)["known"] for line in capsys.readouterr().out.splitlines()] == [True, False]
    assert main(["predict", "--url", url, str(tmp_path)]) == 0
    red, yellow = capsys.readouterr().out.splitlines()
    assert yellow.endswith("  (unlike the images of the training)") and red.endswith("red.png")


@pytest.mark.slow
def test_kserves_client_gets_it_over_grpc(version):
    answer = grpc_client.serve_and_ask(version.folder.parent, IMAGES[:2])
    assert answer["classes"]["data"][0] == "red"
    assert (answer["known"]["data"], answer["known_score"]["dtype"]) == ([True, False], "float32")
