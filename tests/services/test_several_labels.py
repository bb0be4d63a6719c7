"""Answers of the server where images have several labels, in all protocols and to clients that know one label only."""

import base64
import json
import shutil
from collections.abc import Iterator

import pytest
import requests
from support import colour_model, colour_sets, grpc_client, mixed_colours

from kfp_vision.cli import main
from kfp_vision.prediction.client import ServingClient
from kfp_vision.search.query import RemoteSearcher
from kfp_vision.serving import server

SECONDS = 300  # enough on a busy machine
PREDICT, INFER, EXPLAIN = "/v1/models/colours:predict", "/v2/models/colours/infer", "/v1/models/colours:explain"
NAMES = list(mixed_colours.IMAGES)
LABELS = [mixed_colours.IMAGES[name][1] for name in NAMES]
ENCODED = [base64.b64encode(mixed_colours.picture(name)).decode() for name in NAMES]
BROKEN = base64.b64encode(b"no image").decode()
BFLOAT16 = 0.02  # of a probability, where the processor computes in it


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> mixed_colours.Version:
    return mixed_colours.write_version(tmp_path_factory.mktemp("repository") / "1")


@pytest.fixture(scope="module")
def url(version) -> Iterator[str]:
    with server.run_server(version.folder.parent) as address:
        yield address


def post(address: str, body: dict) -> dict:
    response = requests.post(address, json=body, timeout=SECONDS)
    assert response.status_code == 200, response.text
    return response.json()


def close(values: list[float]) -> object:
    return pytest.approx(values, abs=BFLOAT16)


def test_a_prediction_has_the_labels_over_their_thresholds_and_still_the_most_probable_class(url):
    *predictions, broken = post(url + PREDICT, {"instances": [*ENCODED, BROKEN]})["predictions"]
    assert [one["labels"] for one in predictions] == LABELS
    for name, one in zip(NAMES, predictions, strict=True):
        probabilities = mixed_colours.probabilities(name)
        assert one["scores"] == close(mixed_colours.scores(name))
        assert one["probabilities"] == close(probabilities)
        assert name == "black" or one["classes"] == list(colour_model.RGB)[probabilities.index(max(probabilities))]
    assert broken.keys() == {"error"}


def test_the_most_probable_classes_have_their_thresholds(url):
    for prediction in post(url + PREDICT, {"instances": ENCODED, "top_k": 2})["predictions"]:
        assert len(prediction["top_k"]) == 2
        for entry in prediction["top_k"]:
            assert entry.keys() == {"label", "class_idx", "score", "threshold"}
            assert entry["threshold"] == mixed_colours.THRESHOLDS[entry["class_idx"]]
            assert (entry["label"] in prediction["labels"]) == (entry["score"] >= entry["threshold"])


def test_columns_have_a_list_for_each_image(url):
    columns = post(url + PREDICT, {"inputs": [*ENCODED, BROKEN]})["outputs"]
    assert columns["labels"] == [*LABELS, []]
    assert [len(scores) for scores in columns["scores"]] == [*map(len, LABELS), 0]


def test_the_open_inference_protocol_has_tensors_filled_up_with_empty_strings(url):
    tensor = {"name": "image_bytes", "shape": [6], "datatype": "BYTES", "data": [*ENCODED, BROKEN]}
    body = {"inputs": [tensor], "parameters": {"top_k": 3}}
    answer = {one["name"]: one for one in post(url + INFER, body)["outputs"]}
    assert (answer["labels"]["datatype"], answer["labels"]["shape"]) == ("BYTES", [6, 3])
    rows = [answer["labels"]["data"][start : start + 3] for start in range(0, 18, 3)]
    assert rows == [[*labels, "", "", ""][:3] for labels in [*LABELS, []]]
    scores = [answer["scores"]["data"][start : start + 3] for start in range(0, 18, 3)]
    for row, name in zip(scores, NAMES, strict=False):
        assert row == close([*mixed_colours.scores(name), 0, 0, 0][:3])
    assert scores[-1] == [0, 0, 0]
    thresholds = dict(zip(colour_model.RGB, mixed_colours.THRESHOLDS, strict=True))
    assert answer["top_k_thresholds"]["data"][:3] == close([thresholds[one] for one in answer["top_k_classes"]["data"][:3]])
    assert answer["top_k_thresholds"]["data"][-3:] == [0, 0, 0]


def test_the_metadata_have_labels_and_thresholds(url):
    about = requests.get(f"{url}/v2/models/colours", timeout=SECONDS).json()
    assert (about["labels_per_image"], about["labels"]) == ("several", list(colour_model.RGB))
    assert about["thresholds"] == list(mixed_colours.THRESHOLDS)
    outputs = {one["name"]: one["shape"] for one in about["outputs"]}
    assert outputs == {"classes": [-1], "class_idx": [-1], "probabilities": [-1, 3], "labels": [-1, 3], "scores": [-1, 3]}


def test_an_explanation_has_the_same_prediction_and_any_label_can_be_explained(url):
    predictions = post(url + PREDICT, {"instances": ENCODED[:2]})["predictions"]
    answer = post(url + EXPLAIN, {"instances": ENCODED[:2], "label": "red"})
    for explained, prediction in zip(answer["predictions"], predictions, strict=True):
        assert (explained["labels"], explained["scores"]) == (prediction["labels"], close(prediction["scores"]))
    for explanation, name in zip(answer["explanations"], NAMES, strict=False):
        (one,) = explanation["maps"]
        level = mixed_colours.IMAGES[name][0][0]
        assert (one["label"], one["score"]) == ("red", pytest.approx(mixed_colours.probabilities(name)[0], abs=BFLOAT16))
        assert sum(map(sum, one["map"])) / 16 == pytest.approx(colour_model.SCALE * level, abs=0.1)


def test_the_client_gets_the_labels(url):
    answers = ServingClient(url).classify([mixed_colours.picture(name) for name in NAMES])
    assert [(one.several, one.labels) for one in answers] == [(True, labels) for labels in LABELS]
    assert [one.scores for one in answers] == [close(mixed_colours.scores(name)) for name in NAMES]


def test_images_without_any_label_are_counted(url):
    def count(outcome: str) -> float:
        sample = f'kfp_vision_pictures_total{{model="colours",outcome="{outcome}"}} '
        lines = requests.get(f"{url}/metrics", timeout=SECONDS).text.splitlines()
        return sum(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))

    before = count("named"), count("none"), count("refused")
    post(url + PREDICT, {"instances": [*ENCODED, BROKEN]})
    after = count("named"), count("none"), count("refused")
    assert [now - then for now, then in zip(after, before, strict=True)] == [4, 1, 1]


def test_the_command_line_names_all_labels_or_none_of_them(url, version, tmp_path, capsys):
    for name in NAMES:
        (tmp_path / f"{name}.png").write_bytes(mixed_colours.picture(name))
    for source in (["--url", url], ["--model", str(version.folder.parent)]):
        assert main(["predict", *source, *(str(tmp_path / f"{name}.png") for name in NAMES)]) == 0
        lines = dict(zip(NAMES, capsys.readouterr().out.splitlines(), strict=True))
        assert lines["violet"].startswith("blue 0.99") and ", red 0.9" in lines["violet"]
        assert lines["violet"].endswith(f"  {tmp_path}/violet.png")
        assert lines["black"].startswith("none of the labels (most probable: ")
        assert main(["predict", *source, "--json", str(tmp_path / "purple.png"), str(tmp_path / "black.png")]) == 0
        purple, black = map(json.loads, capsys.readouterr().out.splitlines())
        assert (purple["prediction"], purple["labels"], len(purple["scores"])) == ("blue", ["red"], 1)
        assert (black["labels"], black["scores"]) == ([], [])


@pytest.mark.slow
def test_hits_of_a_search_have_all_labels(tmp_path, capsys):
    index = colour_sets.write_index(tmp_path, {45: ()})
    shutil.copytree(index, tmp_path / "model" / "serving" / "index")
    with server.run_server(tmp_path / "model") as address:
        body = {"instances": [base64.b64encode(colour_sets.picture(number)).decode() for number in (65, 45)], "top_k": 1}
        two, none = (one["hits"][0] for one in post(f"{address}/v1/models/colours:search", body)["predictions"])
        assert (two["label"], two["labels"]) == ("green|red", ["green", "red"])
        assert (none["label"], none["labels"]) == ("", [])
        hits = post(f"{address}/v1/models/colours:search", body | {"label": "blue", "top_k": 100})["predictions"][0]["hits"]
        assert len(hits) == 59 and all("blue" in hit["labels"] for hit in hits)
        about = requests.get(f"{address}/v1/models/colours/index", timeout=SECONDS).json()
        assert about["labels"] == ["blue", "green", "red"]
        searched = RemoteSearcher(address, 2).nearest([colour_sets.picture(65)])[0].hits
        assert [(hit.label, hit.labels) for hit in searched] == [("green|red", ["green", "red"])] * 2
        (tmp_path / "query.png").write_bytes(colour_sets.picture(65))
        for source in (["--url", address], ["--index", str(index)]):
            assert main(["search", *source, "--nearest", "1", "--json", str(tmp_path / "query.png")]) == 0
            (hit,) = json.loads(capsys.readouterr().out.splitlines()[-1])["nearest"]
            assert (hit["label"], hit["labels"]) == ("green|red", ["green", "red"])


@pytest.mark.slow
def test_kserves_client_gets_them_over_grpc(version):
    answer = grpc_client.serve_and_ask(version.folder.parent, [mixed_colours.picture(name) for name in NAMES])
    rows = [answer["labels"]["data"][start : start + 3] for start in range(0, 15, 3)]
    assert [[label for label in row if label] for row in rows] == LABELS
    assert answer["scores"]["shape"] == [5, 3]
