"""Thousands of invalid requests beside idle connections: each is rejected with a reason, and the server stays healthy."""

import base64
import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import colour_index, colour_model
from support.model_servers import until

from kfp_vision.serving import server

pytestmark = pytest.mark.slow

PREDICT, INFER = "/v1/models/colours:predict", "/v2/models/colours/infer"
SEARCH, EXPLAIN = "/v1/models/colours:search", "/v1/models/colours:explain"
SECONDS = 300  # enough on a busy machine
MIB = 1 << 20
REQUESTS = 3_000
HELD_OPEN = 40  # connections of each kind
MEMORY_GROWTH = 100 * MIB  # the most by which the server's memory may have grown afterwards

RED = colour_model.picture("red")
VALID = json.dumps({"instances": [{"b64": base64.b64encode(RED).decode()}]}).encode()
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + RED + b"\r\n--b--\r\n"
FORM_HEADERS = {"content-type": "multipart/form-data; boundary=b"}
TENSOR = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(RED).decode()]}

VALID_SEARCH = VALID[:-1] + b', "top_k": 3, "label": "reddish"}'
VALID_EXPLAIN = VALID[:-1] + b', "label": "red", "overlay": true}'

Request = tuple[str, str, bytes, dict[str, str]]  # method, path, body, headers


def corrupt(valid: bytes) -> st.SearchStrategy[bytes]:
    """Returns a strategy for a valid body with a part of it removed, duplicated or replaced."""
    position = st.integers(0, len(valid))
    cut = st.tuples(position, st.binary(max_size=4), position).map(
        lambda parts: valid[: parts[0]] + parts[1] + valid[parts[2] :]
    )
    return cut.filter(lambda body: body != valid)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just("bm8="),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "instances",
                    "b64",
                    "image_bytes",
                    "inputs",
                    "shape",
                    "data",
                    "name",
                    "datatype",
                    "top_k",
                    "id",
                    "label",
                    "overlay",
                    "image",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "inference-header-content-length", "ce-id", "ce-specversion", "accept", "x-request-id"]),
    st.sampled_from(
        ["application/json", FORM_HEADERS["content-type"], "application/cloudevents+json", "image/png", "1.0", "-1"]
    ),
    max_size=3,
)
NAMES = st.text("abcABC019.-_~%:/ ", min_size=1, max_size=20).filter(lambda name: "colours" not in name)
INVALID = st.one_of(
    st.tuples(
        st.just("POST"),
        st.sampled_from([PREDICT, INFER, SEARCH, EXPLAIN]),
        JSON.map(json.dumps).map(str.encode) | st.binary(max_size=60),
        HEADERS,
    ),
    st.tuples(st.just("POST"), NAMES.map("/v1/models/{}:predict".format), st.just(VALID), st.just({})),
    st.tuples(st.just("POST"), NAMES.map("/v1/models/{}:search".format), st.just(VALID), st.just({})),
    st.tuples(st.just("POST"), NAMES.map("/v2/models/{}/infer".format), st.just(VALID), st.just({})),
    st.tuples(st.sampled_from(["PUT", "DELETE", "PATCH", "POST"]), st.just("/v1/models/colours"), st.just(VALID), st.just({})),
    st.tuples(
        st.just("POST"),
        st.just(PREDICT),
        st.integers(257, 10_000).map(lambda count: b'{"instances": [' + b'"x",' * count + b'"x"]}'),
        st.just({}),
    ),
)
PATHS = st.sampled_from([PREDICT, SEARCH, EXPLAIN])
MOSTLY_INVALID = st.one_of(
    st.tuples(st.just("POST"), PATHS, corrupt(VALID), st.just({})),
    st.tuples(st.just("POST"), PATHS, corrupt(FORM), st.just(FORM_HEADERS)),
    st.tuples(st.just("POST"), PATHS, corrupt(RED), st.just({"content-type": "image/jpeg"})),
    st.tuples(st.just("POST"), st.just(SEARCH), corrupt(VALID_SEARCH), st.just({})),
    st.tuples(st.just("POST"), st.just(EXPLAIN), corrupt(VALID_EXPLAIN), st.just({})),
    st.tuples(st.just("POST"), st.just(INFER), corrupt(json.dumps({"inputs": [TENSOR]}).encode()), st.just({})),
)
HEAVY: list[Request] = [
    ("POST", PREDICT, bytes(50 * MIB), {}),
    ("POST", SEARCH, bytes(50 * MIB), {}),
    ("POST", EXPLAIN, bytes(50 * MIB), {}),
    ("POST", PREDICT, b'{"instances": [' + b'"' + b"A" * (30 * MIB) + b'"]}', {}),
    ("POST", PREDICT, b'{"instances": [' + b'"' + b"%2B" * (10 * MIB) + b'"]}', {}),
    ("POST", PREDICT, b'{"inputs": ' + b'"' + b"A \\n" * (7 * MIB) + b'"}', {}),
    ("POST", PREDICT, b"[" * (30 * MIB), {}),
    ("POST", PREDICT, json.dumps({"instances": ["x"] * 10_000}).encode(), {}),
    ("POST", SEARCH, json.dumps({"instances": ["x"] * 10_000}).encode(), {}),
    ("POST", SEARCH, VALID[:-1] + b', "top_k": 1' + b"0" * MIB + b"}", {}),
    ("POST", PREDICT, colour_model.picture("red", "PNG", (10_000, 6_000)), {"content-type": "image/png"}),
    ("POST", SEARCH, colour_model.picture("red", "PNG", (10_000, 6_000)), {"content-type": "image/png"}),
    ("POST", EXPLAIN, colour_model.picture("red", "PNG", (10_000, 6_000)), {"content-type": "image/png"}),
    ("POST", EXPLAIN, json.dumps({"instances": ["x"] * 256, "top_k": 10, "overlay": True}).encode(), {}),
    ("POST", INFER, json.dumps({"inputs": [TENSOR | {"shape": [10_000], "data": ["bm8="] * 10_000}]}).encode(), {}),
]


@pytest.fixture
def url(tmp_path) -> Iterator[str]:
    """Starts a server with an index, and yields its address; no other test shares it, as its memory is measured."""
    model = colour_index.write_model(tmp_path / "model")
    repository = model / "serving"
    colour_index.write(model, colour_index.write_pictures(tmp_path / "photos"), repository / "index")
    with server.run_server(repository) as address:
        yield address


def send(session: requests.Session, url: str, request: Request) -> requests.Response:
    method, path, body, headers = request
    return session.request(method, url + path, data=body, headers=headers, timeout=SECONDS)


def resident_bytes(url: str) -> float:
    """Returns the resident memory of the server in bytes."""
    lines = requests.get(f"{url}/metrics", timeout=SECONDS).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes "))


BEGINNINGS = {
    "nothing": b"",
    "half a request": b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: x\r\n",
    "a slow body": b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
}


class HeldConnections:
    """Connections that send nothing, half a request, or a body one byte at a time.

    Args:
        url: address of the server.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        self.answers: dict[str, list[bytes]] = {kind: [] for kind in BEGINNINGS}
        self._ended = threading.Event()
        self._open = selectors.DefaultSelector()
        for kind, beginning in BEGINNINGS.items():
            for _ in range(HELD_OPEN):
                connection = socket.create_connection((parts.hostname, parts.port), SECONDS)
                connection.sendall(beginning)
                self._open.register(connection, selectors.EVENT_READ, kind)
        self._thread = threading.Thread(target=self._drip)

    def __enter__(self) -> "HeldConnections":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._open.get_map().values()):
            key.fileobj.close()
        self._open.close()

    @property
    def count(self) -> int:
        """Returns the number of connections that are still open."""
        return len(self._open.get_map())

    def _drip(self) -> None:
        while self.count and not self._ended.wait(0.5):
            for key in list(self._open.get_map().values()):
                if key.data == "a slow body":
                    with contextlib.suppress(OSError):  # just closed by the server
                        key.fileobj.send(b"x")
            for key, _ in self._open.select(0):
                self._open.unregister(key.fileobj)
                with key.fileobj as connection:
                    self.answers[key.data].append(connection.recv(4096))


def test_rejects_invalid_requests_with_a_reason_and_keeps_answering_without_leaking_memory(url):
    valid: Request = ("POST", PREDICT, VALID, {})
    valid_search: Request = ("POST", SEARCH, VALID_SEARCH, {})
    valid_explain: Request = ("POST", EXPLAIN, VALID_EXPLAIN, {})
    with requests.Session() as session:

        def send_checked(request: Request) -> requests.Response:
            answer = send(session, url, request)
            assert answer.status_code == 200 or 400 <= answer.status_code < 500, (request, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"], request
            return answer

        @settings(max_examples=500, deadline=None, database=None)
        @given(MOSTLY_INVALID)
        def warm_up(request: Request) -> None:
            send_checked(request)

        @settings(max_examples=REQUESTS // 2, deadline=None, suppress_health_check=list(HealthCheck))
        @given(INVALID)
        def send_invalid(request: Request) -> None:
            assert send_checked(request).status_code != 200, request

        @settings(max_examples=REQUESTS // 2, deadline=None, suppress_health_check=list(HealthCheck))
        @given(MOSTLY_INVALID)
        def send_mostly_invalid(request: Request) -> None:
            send_checked(request)

        warm_up()
        for request in HEAVY:
            assert send_checked(request).status_code in (400, 413)
        before = resident_bytes(url)
        with HeldConnections(url) as held:
            send_invalid()
            send_mostly_invalid()
            for request in HEAVY * 3:
                assert send_checked(request).status_code in (400, 413)
                assert send_checked(valid).json()["predictions"][0]["classes"] == "red"
                assert len(send_checked(valid_search).json()["predictions"][0]["hits"]) == 3
                assert len(send_checked(valid_explain).json()["explanations"][0]["maps"]) == 1
            until(lambda: not held.count)
        assert set(held.answers["nothing"]) == {b""}
        assert {reply.split(b"\r\n")[0] for reply in held.answers["half a request"]} == {b"HTTP/1.1 408 Request Timeout"}
        for reply in held.answers["a slow body"]:
            assert reply.startswith(b"HTTP/1.1 408 ") and b"must arrive within 20 seconds" in reply
        assert {len(answers) for answers in held.answers.values()} == {HELD_OPEN}
        assert send_checked(valid).json()["predictions"][0]["classes"] == "red"
        assert resident_bytes(url) < before + MEMORY_GROWTH


def test_accepts_a_body_that_arrives_in_pieces(url):
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(VALID), len(VALID) // 5):
            yield VALID[start : start + len(VALID) // 5]
            time.sleep(0.1)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: requests.post(url + PREDICT, data=pieces(), timeout=SECONDS), range(8)))
    assert [answer.json()["predictions"][0]["classes"] for answer in answers] == ["red"] * 8
