"""The server's `:explain` over HTTP: class activation maps as numbers and laid over the image, and errors without them."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image
from support import colour_model, known_colours, odd_images, place_model

from kfp_vision.serving import protocols, server

pytestmark = pytest.mark.slow

EXPLAIN, PREDICT = "/v1/models/colours:explain", "/v1/models/colours:predict"
SECONDS = 300  # enough on a busy machine
HALVES = odd_images.encode(colour_model.halves("red", "blue", (96, 64)), "PNG")
HALVES_B64 = base64.b64encode(HALVES).decode()
NAMES = list(colour_model.RGB)
BFLOAT16 = 0.1  # logits, of ten, where the processor computes in it


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    version = colour_model.write_version(tmp_path_factory.mktemp("version") / "1")
    with server.run_server(version.parent) as address:
        yield address


def post(address: str, body: object, **options) -> requests.Response:
    return requests.post(address, data=json.dumps(body), timeout=SECONDS, **options)


def explanations(response: requests.Response) -> list[dict]:
    assert response.status_code == 200, response.text
    return response.json()["explanations"]


def expected_map(name: str) -> list[list[float]]:
    """Returns the map of a colour for `HALVES`: its channel, in logits."""
    channel = NAMES.index(name)
    left, right = (colour_model.SCALE * colour_model.RGB[half][channel] for half in ("red", "blue"))
    return [[left, left, right, right]] * colour_model.CELLS


def test_every_request_format_of_a_prediction_is_explained(url):
    prediction = post(url + PREDICT, {"instances": [{"b64": HALVES_B64}]}).json()["predictions"]
    answers = [
        post(url + EXPLAIN, {"instances": [{"b64": HALVES_B64}]}),
        post(url + EXPLAIN, {"inputs": {"image_bytes": {"b64": HALVES_B64}}}),
        post(url + EXPLAIN.replace(":", "/versions/1:"), {"instances": [HALVES_B64]}),
        requests.post(url + EXPLAIN, files={"file": HALVES}, timeout=SECONDS),
        requests.post(url + EXPLAIN, data=HALVES, headers={"content-type": "image/png"}, timeout=SECONDS),
    ]
    for answer in answers:
        (explanation,) = explanations(answer)
        assert answer.json()["predictions"] == prediction
        assert explanation.keys() == {"image", "box", "maps"}
        assert explanation["image"] == {"width": 96, "height": 64}
        assert explanation["box"] == {"left": 6, "top": 4, "width": 84, "height": 56}
        (one,) = explanation["maps"]
        assert one.keys() == {"label", "class_idx", "score", "map"}
        assert (one["label"], one["class_idx"]) == (prediction[0]["classes"], prediction[0]["class_idx"])
        assert one["score"] == max(prediction[0]["probabilities"])
        assert np.abs(np.subtract(one["map"], expected_map(one["label"]))).max() < BFLOAT16
    assert "outputs" in answers[1].json()  # TF-Serving's columns, as of :predict


def test_a_label_or_the_most_probable_classes_are_explained(url):
    for label in NAMES:
        for answer in (
            post(url + EXPLAIN, {"instances": [HALVES_B64], "label": label}),
            requests.post(f"{url}{EXPLAIN}?label={label}", files={"file": HALVES}, timeout=SECONDS),
            requests.post(url + EXPLAIN, data={"label": label}, files={"file": HALVES}, timeout=SECONDS),
        ):
            (one,) = explanations(answer)[0]["maps"]
            assert one["label"] == label
            assert np.abs(np.subtract(one["map"], expected_map(label))).max() < BFLOAT16
    answer = post(url + EXPLAIN, {"instances": [HALVES_B64], "top_k": 3})
    maps = explanations(answer)[0]["maps"]
    assert [one["label"] for one in maps] == [one["label"] for one in answer.json()["predictions"][0]["top_k"]]
    assert [one["score"] for one in maps] == sorted((one["score"] for one in maps), reverse=True)
    assert {one["label"] for one in maps} == set(NAMES)


def test_a_map_is_laid_over_the_image_if_asked_for(url):
    for answer in (
        post(url + EXPLAIN, {"instances": [{"b64": HALVES_B64}], "label": "red", "overlay": True}),
        requests.post(f"{url}{EXPLAIN}?label=red&overlay=true", files={"file": HALVES}, timeout=SECONDS),
    ):
        (one,) = explanations(answer)[0]["maps"]
        with Image.open(io.BytesIO(base64.b64decode(one["overlay"]["b64"]))) as image:
            assert (image.format, image.size) == ("JPEG", (96, 64))
            colours = np.asarray(image).astype(int)
        assert np.ptp(colours[32, 20]) > 3 * np.ptp(colours[32, 80])
    without = post(url + EXPLAIN, {"instances": [HALVES_B64], "overlay": False})
    assert "overlay" not in explanations(without)[0]["maps"][0]


def test_requests_that_share_a_batch_get_the_classes_that_they_ask_for(url):
    def ask(number: int) -> tuple[str, float]:
        label = NAMES[number % len(NAMES)]
        (one,) = explanations(post(url + EXPLAIN, {"instances": [HALVES_B64], "label": label}))[0]["maps"]
        return one["label"], float(np.abs(np.subtract(one["map"], expected_map(label))).max())

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, range(60)))
    assert [label for label, _ in answers] == NAMES * 20
    assert max(difference for _, difference in answers) < BFLOAT16


def test_one_bad_instance_does_not_fail_the_others(url):
    answer = post(url + EXPLAIN, {"instances": [HALVES_B64, {"b64": "bm8gcGljdHVyZQ=="}, {"b64": "%%%"}], "overlay": True})
    first, *others = explanations(answer)
    assert len(first["maps"]) == 1
    assert others == answer.json()["predictions"][1:]
    assert others[0] == {"error": "not an image in a known format"} and "base64" in others[1]["error"]


def test_overlays_are_counted_by_the_classes_that_there_are(url):
    answer = post(url + EXPLAIN, {"instances": [HALVES_B64] * 21, "top_k": 10, "overlay": True})
    assert [len(one["maps"]) for one in explanations(answer)] == [3] * 21


def test_explains_with_the_whole_prediction_of_a_model_that_tells_known_images(tmp_path):
    version = known_colours.write_version(tmp_path / "repository" / "1")
    instances = [base64.b64encode(image).decode() for image in (known_colours.yellow(), colour_model.picture("red"))]
    with server.run_server(version.folder.parent) as address:
        expected, explained = (
            post(address + verb, {"instances": instances}).json()["predictions"] for verb in (PREDICT, EXPLAIN)
        )
    assert explained == expected
    assert [one["known"] for one in explained] == [False, True]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"top_k": 0}, "top_k must be a positive integer; got 0"),
        ({"top_k": 11}, "top_k of an explanation must be at most 10; got 11. Ask for fewer, or for one class by its label."),
        ({"label": "roses"}, "label must be that of a class of the model; got roses. Leave it out to explain the best class."),
        ({"label": ["red"]}, "label must be that of a class of the model; got a list of 1 elements."),
        ({"label": 0}, "label must be that of a class of the model; got a number."),
        ({"label": "red", "top_k": 2}, "an explanation must be of one label or of the top_k; got both. Leave out one of them."),
        ({"overlay": "yes"}, "overlay must be true or false; got yes. Set overlay=true, or leave it out."),
        ({"overlay": 1}, "overlay must be true or false; got 1"),
        (
            {"instances": [HALVES_B64] * 129, "top_k": 2, "overlay": True},
            "at most 64 overlays; got 258. Send several requests",
        ),
        ({"instances": []}, "instances"),
        ({"instances": ["bm8gcGljdHVyZQ=="]}, "not an image in a known format"),
        ({"instances": ["x"] * 257}, "at most 256 images; got 257"),
    ],
    ids=range(12),
)
def test_rejects_an_invalid_request_with_a_reason(url, changes, reason):
    answer = post(url + EXPLAIN, {"instances": [HALVES_B64]} | changes)
    assert answer.status_code == 400
    assert reason in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_another_method_version_or_model_is_rejected(url):
    assert requests.get(url + EXPLAIN, timeout=SECONDS).status_code == 405
    assert post(url + EXPLAIN.replace(":", "/versions/2:"), {"instances": [HALVES_B64]}).status_code == 404
    assert post(f"{url}/v1/models/other:explain", {"instances": [HALVES_B64]}).status_code == 404


def test_the_headers_of_a_request_are_not_sent_back(url):
    answer = post(url + EXPLAIN, {"instances": [HALVES_B64]}, headers={"x-secret": "the-token"})
    assert answer.status_code == 200 and "the-token" not in str(answer.headers)


def test_explanations_are_counted(url):
    def read_metrics() -> dict[str, float]:
        lines = requests.get(f"{url}/metrics", timeout=SECONDS).text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    before = read_metrics()
    explanations(post(url + EXPLAIN, {"instances": [HALVES_B64] * 3}))
    growth = {name: value - before.get(name, 0) for name, value in read_metrics().items()}
    assert growth['kfp_vision_pictures_total{model="colours",outcome="explained"}'] == 3
    assert growth['kfp_vision_requests_total{route="explain",status="200"}'] == 1
    assert growth['request_explain_seconds_count{model_name="colours"}'] == 1  # KServe's own


def test_the_numbers_are_logits_to_four_digits(url):
    (one,) = explanations(post(url + EXPLAIN, {"instances": [HALVES_B64]}))[0]["maps"]
    values = np.ravel(one["map"])
    assert np.abs(values - np.round(values, protocols.MAP_DIGITS)).max() == 0


def test_a_model_without_maps_classifies_and_says_so(tmp_path):
    place_model.write_version(tmp_path / "1")
    with server.run_server(tmp_path) as url:
        body = {"instances": [HALVES_B64]}
        assert post(f"{url}/v1/models/places:predict", body).status_code == 200
        answer = post(f"{url}/v1/models/places:explain", body)
        assert (answer.status_code, answer.json()["error"]) == (
            501,
            "version 1 of places must have class activation maps to explain its answers; got none. "
            "Train it again with this release, and any network but convnext_tiny.",
        )
        page = requests.get(url, headers={"accept": "text/html"}, timeout=SECONDS).text
        assert "data-explains" not in page and ":explain</code>" not in page
