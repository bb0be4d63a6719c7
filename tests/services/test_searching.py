"""The server with an index next to its model, tested over HTTP: a query image in, the nearest images of the index out."""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image
from support import colour_index, colour_model, model_servers

from kfp_vision.search import deploy_index
from kfp_vision.search.index import Index
from kfp_vision.serving import server
from kfp_vision.serving.inference import MAX_WAITING_IMAGES

pytestmark = pytest.mark.slow

SEARCH, PREDICT = "/v1/models/colours:search", "/v1/models/colours:predict"
INDEX = "/v1/models/colours/index"
SECONDS = 300  # enough on a busy machine
ALL = colour_index.COUNT


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    """Returns a folder with a model, images, their index, and a repository with model and index."""
    root = tmp_path_factory.mktemp("made")
    colour_index.write(colour_index.write_model(root / "model"), colour_index.write_pictures(root / "photos"), root / "index")
    shutil.copytree(root / "model" / "serving", root / "repository")
    shutil.copytree(root / "index", root / "repository" / "index")
    return root


@pytest.fixture(scope="module")
def url(artifacts) -> Iterator[str]:
    with server.run_server(artifacts / "repository") as address:
        yield address


def b64(number: int) -> dict[str, str]:
    return {"b64": base64.b64encode(colour_index.picture(number)).decode()}


def post(address: str, body: object, **options) -> requests.Response:
    return requests.post(address, data=json.dumps(body), timeout=SECONDS, **options)


def hits(response: requests.Response) -> list[list[dict]]:
    assert response.status_code == 200, response.text
    return [one.get("hits", []) for one in response.json()["predictions"]]


def names(response: requests.Response) -> list[list[str]]:
    return [[Path(hit["path"]).name for hit in prediction_hits] for prediction_hits in hits(response)]


def test_finds_the_nearest_images_for_every_request_format(url):
    encoded, expected = colour_index.picture(5), [colour_index.nearest(5, 4)]
    answers = [
        post(url + SEARCH, {"instances": [b64(5)], "top_k": 4}),
        post(f"{url}{SEARCH}?top_k=4", {"instances": [b64(5)["b64"]]}),
        requests.post(url + SEARCH, data={"top_k": 4}, files={"file": encoded}, timeout=SECONDS),
        requests.post(f"{url}{SEARCH}?top_k=4", data=encoded, headers={"content-type": "image/png"}, timeout=SECONDS),
    ]
    assert [names(answer) for answer in answers] == [expected] * 4
    (first, *others) = hits(answers[0])[0]
    assert first.keys() == {"id", "path", "label", "similarity"} and first["label"] == "reddish"
    assert first["similarity"] == pytest.approx(1, abs=2e-3)
    assert all(one["similarity"] < first["similarity"] for one in others)


def test_returns_ten_hits_by_default_and_at_most_the_whole_index(url):
    assert len(hits(post(url + SEARCH, {"instances": [b64(0)]}))[0]) == 10
    assert len(hits(post(url + SEARCH, {"instances": [b64(0)], "top_k": 1000}))[0]) == ALL


def test_a_label_limits_the_search(url):
    candidates = range(colour_index.HUES, 2 * colour_index.HUES)
    body = {"instances": [b64(3), b64(20)], "top_k": 3, "label": "greenish"}
    assert names(post(url + SEARCH, body)) == [colour_index.nearest(number, 3, candidates) for number in (3, 20)]
    form = requests.post(f"{url}{SEARCH}?label=greenish", files={"file": colour_index.picture(3)}, timeout=SECONDS)
    assert {hit["label"] for hit in hits(form)[0]} == {"greenish"}


def test_searches_by_the_id_of_a_hit(url):
    first = hits(post(url + SEARCH, {"instances": [b64(5)], "top_k": 2}))[0][1]
    number = int(Path(first["path"]).stem)
    answer = post(url + SEARCH, {"instances": [{"id": first["id"]}, b64(20)], "top_k": 3})
    assert names(answer) == [colour_index.nearest(number, 3), colour_index.nearest(20, 3)]


def test_one_bad_instance_does_not_fail_the_others(url):
    instances = [b64(1), {"b64": "%%%"}, {"b64": "bm8gcGljdHVyZQ=="}, {"id": "0" * 32}, {"id": 7}, {}, b64(22)]
    answer = post(url + SEARCH, {"instances": instances, "top_k": 1})
    assert names(answer) == [["01.png"], [], [], [], [], [], ["22.png"]]
    reasons = [one.get("error", "") for one in answer.json()["predictions"]]
    assert "base64" in reasons[1] and "known format" in reasons[2] and "got an empty object" in reasons[5]
    assert reasons[3].startswith(f"id must be that of an image in the index; got {'0' * 32}. Search again")
    assert reasons[4].startswith("id of instances[4] must be a string; got ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"top_k": 0}, "top_k must be a positive integer; got 0"),
        ({"top_k": "x"}, "top_k must be a positive integer; got x"),
        ({"top_k": 1001}, "top_k of a search must be at most 1000; got 1001"),
        ({"label": "roses"}, "label must be one of bluish, greenish, reddish; got roses. Leave it out to search all images."),
        ({"label": ["reddish"]}, "label must be a string"),
        ({"instances": []}, "instances"),
        (
            {"instances": [{"id": "gone"}]},
            "id must be that of an image in the index; got gone. Search again, since the index may have changed.",
        ),
        ({"instances": ["bm8gcGljdHVyZQ=="]}, "not an image in a known format"),
        ({"instances": ["x"] * 257}, "at most 256 images; got 257"),
    ],
    ids=range(9),
)
def test_rejects_an_invalid_search_with_a_reason(url, changes, reason):
    answer = post(url + SEARCH, {"instances": [b64(0)]} | changes)
    assert answer.status_code == 400
    assert reason in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert "id must" not in reason or answer.json()["error"] == reason  # nothing of image formats


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"instances": {"id": "x"}}', '{"instances": 7}'])
def test_rejects_an_invalid_body(url, body):
    answer = requests.post(url + SEARCH, data=body, timeout=SECONDS)
    assert answer.status_code == 400 and answer.json()["error"]


def test_another_models_name_is_not_found(url):
    assert post(f"{url}/v1/models/other:search", {"instances": [b64(0)]}).status_code == 404
    assert requests.get(f"{url}/v1/models/other/index", timeout=SECONDS).status_code == 404


def test_a_thumbnail_can_be_cached_by_clients(url):
    first = hits(post(url + SEARCH, {"instances": [b64(9)], "top_k": 1}))[0][0]
    address = f"{url}{INDEX}/thumbnails/{first['id']}"
    answer = requests.get(address, timeout=SECONDS)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(answer.content)) as thumbnail, Image.open(io.BytesIO(colour_index.picture(9))) as original:
        assert thumbnail.size == original.size
        assert all(
            abs(one - other) < 8 for one, other in zip(thumbnail.getpixel((9, 9)), original.getpixel((9, 9)), strict=True)
        )
    assert answer.headers["cache-control"] == "private, max-age=86400, immutable"
    tag = answer.headers["etag"]
    for named in (tag, f"W/{tag}", f'"other", W/{tag},"more"', "*"):
        again = requests.get(address, headers={"If-None-Match": named}, timeout=SECONDS)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), named
    for other in ('"other"', f'"{first["id"]},"', first["id"], '"*"'):
        assert requests.get(address, headers={"If-None-Match": other}, timeout=SECONDS).status_code == 200, other
    gone = requests.get(f"{url}{INDEX}/thumbnails/gone", timeout=SECONDS)
    line = "id must be that of an image in the index; got gone. Search again, since the index may have changed."
    assert (gone.status_code, gone.json()) == (404, {"error": line})


def test_a_model_describes_its_index(url):
    answer = requests.get(url + INDEX, timeout=SECONDS).json()
    assert (answer["pictures"], answer["labels"], answer["recall"]) == (ALL, sorted(colour_index.LABELS), 1.0)
    assert requests.get(f"{url}/v2/models/colours", timeout=SECONDS).json()["index"] == answer
    assert "With <code>:search</code>" in requests.get(url, headers={"accept": "text/html"}, timeout=SECONDS).text


def read_metrics(url: str) -> dict[str, float]:
    lines = requests.get(f"{url}/metrics", timeout=SECONDS).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def test_concurrent_searches_are_correct_and_counted(url):
    """Classification requests at the same time are answered correctly, too."""
    before = read_metrics(url)

    def ask(number: int) -> tuple[list[str], str]:
        one = number % ALL
        found = names(post(url + SEARCH, {"instances": [b64(one)], "top_k": 1 + number % 7}))[0]
        predicted = requests.post(url + PREDICT, files={"file": colour_model.picture("blue")}, timeout=SECONDS).json()
        return found, predicted["predictions"][0]["classes"]

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, range(120)))
    assert [found for found, _ in answers] == [colour_index.nearest(number % ALL, 1 + number % 7) for number in range(120)]
    assert {predicted for _, predicted in answers} == {"blue"}
    growth = {name: value - before.get(name, 0) for name, value in read_metrics(url).items()}
    assert growth['kfp_vision_pictures_total{model="colours",outcome="searched"}'] == 120
    assert growth['kfp_vision_requests_total{route="search",status="200"}'] == 120
    assert growth['kfp_vision_request_seconds_count{route="search"}'] == 120
    after = read_metrics(url)
    assert after['kfp_vision_waiting_pictures{model="colours"}'] == 0
    assert after['kfp_vision_index_pictures{model="colours"}'] == ALL


def test_an_overloaded_server_answers_503_with_retry_after(url):
    body, count = {"instances": [b64(0)] * 256, "top_k": 1}, 3 * MAX_WAITING_IMAGES // 256
    with ThreadPoolExecutor(count) as clients:
        answers = list(clients.map(lambda _: post(url + SEARCH, body), range(count)))
    assert {answer.status_code for answer in answers} == {200, 503}
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"1"}


@pytest.fixture
def running(artifacts, tmp_path) -> Iterator[tuple[Path, Path, str]]:
    """Yields a repository without an index, the log of a server on it, and the server's address."""
    repository = shutil.copytree(artifacts / "model" / "serving", tmp_path / "repository")
    with start_server(tmp_path / "log", repository) as address:
        yield repository, tmp_path / "log", address


@contextlib.contextmanager
def start_server(log: Path, *arguments: object) -> Iterator[str]:
    command = [sys.executable, "-u", "-m", "kfp_vision.cli", "serve", *map(str, arguments), "--port", "0"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            model_servers.until(lambda: "\ncurl" in log.read_text() or process.poll() is not None, SECONDS)
            yield log.read_text().split("open ")[1].split("/ in")[0]
        finally:
            process.terminate()


def indexed_images(address: str) -> int:
    answer = requests.get(address + INDEX, timeout=SECONDS)
    return answer.json()["pictures"] if answer.ok else 0


def test_loads_new_indexes_without_failing_a_search(running, artifacts, tmp_path):
    repository, _, address = running
    response = post(address + SEARCH, {"instances": [b64(0)]})
    assert response.status_code == 404
    assert response.json()["error"] == (
        "version 1 of colours must have an index to search; got none. "
        "Build one with image_search, with the model's repository as deploy_to."
    )
    assert "index" not in requests.get(f"{address}/v2/models/colours", timeout=SECONDS).json()
    assert "data-indexed" not in requests.get(address, headers={"accept": "text/html"}, timeout=SECONDS).text
    deploy_index.deploy_index(artifacts / "index", str(repository), tmp_path / "deployed")
    model_servers.until(lambda: indexed_images(address) == ALL)

    fewer = shutil.copytree(artifacts / "photos", tmp_path / "photos")
    shutil.rmtree(fewer / "bluish")
    colour_index.write(artifacts / "model", fewer, tmp_path / "fewer")
    stop, found = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            found.append(names(post(address + SEARCH, {"instances": [b64(4)], "top_k": 2})))

    with ThreadPoolExecutor(1) as client:
        client_run = client.submit(ask)
        try:
            for index, images in ((tmp_path / "fewer", 16), (artifacts / "index", ALL), (tmp_path / "fewer", 16)):
                deploy_index.deploy_index(index, str(repository), tmp_path / "deployed")
                model_servers.until(lambda: indexed_images(address) == images)  # noqa: B023
            model_servers.until(lambda: len(found) > 20 or client_run.done())
        finally:
            stop.set()
        client_run.result()
    assert {tuple(one[0]) for one in found} == {tuple(colour_index.nearest(4, 2))}
    # The current index and the previous one, which a server may still be reading.
    assert len([folder for folder in (repository / "index").iterdir() if folder.name.isdecimal()]) == 2


def test_keeps_the_previous_index_if_the_new_one_is_incomplete(running, artifacts):
    repository, log, address = running
    shutil.copytree(artifacts / "index", repository / "index")
    model_servers.until(lambda: indexed_images(address) == ALL)
    (repository / "index" / "1" / "vectors").write_bytes(b"short")  # overwrites the index in use
    model_servers.until(lambda: "an index must be whole; got " in log.read_text())
    assert "The previous index goes on answering." in log.read_text()
    assert names(post(address + SEARCH, {"instances": [b64(8)], "top_k": 5})) == [colour_index.nearest(8, 5)]
    (repository / "index" / "index.json").write_text("{")
    model_servers.until(lambda: "index.json must hold the metadata of an index" in log.read_text())
    shutil.rmtree(repository / "index")
    model_servers.until(lambda: "there must be an index; got none in" in log.read_text())
    first = hits(post(address + SEARCH, {"instances": [b64(8)], "top_k": 1}))[0][0]
    assert names(post(address + SEARCH, {"instances": [{"id": first["id"]}], "top_k": 5})) == [colour_index.nearest(8, 5)]
    assert requests.get(f"{address}{INDEX}/thumbnails/{first['id']}", timeout=SECONDS).content[:2] == b"\xff\xd8"
    shutil.copytree(artifacts / "index", repository / "index")
    model_servers.until(lambda: log.read_text().count("colours: 24 images to search") == 2)


def test_does_not_search_an_index_of_another_model(running, artifacts, tmp_path):
    repository, log, address = running
    shutil.copytree(artifacts / "index", repository / "index")
    model_servers.until(lambda: indexed_images(address) == ALL)
    colour_index.write_model(tmp_path / "newer", scale=1 / 10)
    (tmp_path / "newer" / "serving" / "1").rename(repository / "2")
    model_servers.until(lambda: "colours, version 2" in log.read_text() and not indexed_images(address))
    assert "an index must be of the version that answers, 2 of colours; got one of colours " in log.read_text()
    remedy = "Run image_search with that model as model_uri, and its repository as deploy_to. Search is not available."
    assert remedy in log.read_text()
    assert post(address + SEARCH, {"instances": [b64(0)]}).status_code == 404
    assert requests.post(address + PREDICT, files={"file": colour_index.picture(1)}, timeout=SECONDS).status_code == 200


def serve(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", *map(str, arguments), "--port", "0"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)


def test_searches_an_index_from_another_folder(artifacts, tmp_path):
    with start_server(tmp_path / "log", artifacts / "model", "--index", artifacts / "index") as address:
        assert names(post(address + SEARCH, {"instances": [b64(2)], "top_k": 3})) == [colour_index.nearest(2, 3)]


def test_reports_an_unusable_index_from_another_folder_in_one_line(artifacts, tmp_path):
    done = serve(artifacts / "model", "--index", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: there must be an index; got none in {tmp_path}. Give the folder of an index.\n"
    other = colour_index.write_model(tmp_path / "other", scale=1 / 10)
    done = serve(other, "--index", artifacts / "index")
    assert done.returncode == 1
    assert done.stderr.startswith("error: an index must be of the version that answers, 1 of colours; got one of colours ")
    for name in ("one", "two"):
        shutil.copytree(other, tmp_path / "several" / name)
    done = serve(tmp_path / "several", "--index", artifacts / "index")
    found = f"{artifacts / 'index'} for one, two in {tmp_path / 'several'}"
    assert done.stderr == (
        f"error: --index must be for a single model; got {found}. Put it next to the versions of its model, as index.\n"
    )


def test_the_command_line_gives_the_same_answers_with_and_without_a_server(url, artifacts, monkeypatch):
    def run(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "kfp_vision.cli", "search", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)

    images = [artifacts / "photos" / "reddish" / "03.png", artifacts / "photos" / "greenish"]
    sources = (["--url", url], ["--index", artifacts / "index"])
    remote, local = (run(*source, "--nearest", 3, *images) for source in sources)
    assert (remote.returncode, remote.stderr, len(remote.stdout.splitlines())) == (0, "", 9 * 4)
    assert remote.stdout == local.stdout
    remote, local = (run(*source, "--label", "bluish", "--json", *images).stdout.splitlines() for source in sources)
    for one, other in zip(map(json.loads, remote), map(json.loads, local), strict=True):
        assert one.keys() == other.keys() and one["path"] == other["path"]
        assert [hit["path"] for hit in one["nearest"]] == [hit["path"] for hit in other["nearest"]]
        assert len(one["nearest"]) == 8 and {hit["label"] for hit in one["nearest"]} == {"bluish"}
    rejections = [run(*source, "--label", "roses", *images) for source in sources]
    assert {(done.returncode, done.stdout) for done in rejections} == {(1, "")}
    assert {done.stderr for done in rejections} == {
        "error: label must be one of bluish, greenish, reddish; got roses. Leave it out to search all images.\n"
    }


TOKEN = "the-token-of-the-tests"


def test_without_the_token_a_server_returns_no_images(artifacts, monkeypatch):
    monkeypatch.setenv("KFP_VISION_TOKEN", TOKEN)
    content_id = Index(artifacts / "index").images[0].content_id
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with server.run_server(artifacts / "repository") as address:
        thumbnail = f"{address}{INDEX}/thumbnails/{content_id}"
        assert post(address + SEARCH, {"instances": [{"id": content_id}]}).status_code == 401
        assert {requests.get(one, timeout=SECONDS).status_code for one in (thumbnail, address + INDEX)} == {401}
        assert post(address + SEARCH, {"instances": [{"id": content_id}]}, headers=bearer).status_code == 200
        assert requests.get(thumbnail, headers=bearer, timeout=SECONDS).status_code == 200
        command = [
            sys.executable,
            "-m",
            "kfp_vision.cli",
            "search",
            "--url",
            address,
            str(artifacts / "photos" / "bluish" / "20.png"),
        ]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("\n") == 11
