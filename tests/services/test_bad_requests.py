"""Thousands of wrong requests, while others hold their connections open: a reason for each, and the server as it was before."""

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

PREDICT, INFER = "/v1/models/colours:predict", "/v2/models/colours/infer"
SEARCH = "/v1/models/colours:search"
SECONDS = 300  # in which a machine answers that has much else to do
MIB = 1 << 20
REQUESTS = 5_000
HELD_OPEN = 40  # connections of each kind
ENOUGH = 100 * MIB  # of memory that a server may keep for itself after all that

RED = colour_model.picture("red")
GOOD = json.dumps({"instances": [{"b64": base64.b64encode(RED).decode()}]}).encode()
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + RED + b"\r\n--b--\r\n"
A_FORM = {"content-type": "multipart/form-data; boundary=b"}
TENSOR = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(RED).decode()]}

GOOD_SEARCH = GOOD[:-1] + b', "top_k": 3, "label": "reddish"}'

Sent = tuple[str, str, bytes, dict[str, str]]  # method, path, body, headers


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """What was right, with some of it lost, doubled, or become something else."""
    place = st.integers(0, len(whole))
    cut = st.tuples(place, st.binary(max_size=4), place).map(lambda drawn: whole[: drawn[0]] + drawn[1] + whole[drawn[2] :])
    return cut.filter(lambda body: body != whole)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just("bm8="),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["instances", "b64", "image_bytes", "inputs", "shape", "data", "name", "datatype", "top_k", "id", "label"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "inference-header-content-length", "ce-id", "ce-specversion", "accept", "x-request-id"]),
    st.sampled_from(["application/json", A_FORM["content-type"], "application/cloudevents+json", "image/png", "1.0", "-1"]),
    max_size=3,
)
NAMES = st.text("abcABC019.-_~%:/ ", min_size=1, max_size=20).filter(lambda name: "colours" not in name)
NEVER_RIGHT = st.one_of(
    st.tuples(
        st.just("POST"),
        st.sampled_from([PREDICT, INFER, SEARCH]),
        JSON.map(json.dumps).map(str.encode) | st.binary(max_size=60),
        HEADERS,
    ),
    st.tuples(st.just("POST"), NAMES.map("/v1/models/{}:predict".format), st.just(GOOD), st.just({})),
    st.tuples(st.just("POST"), NAMES.map("/v1/models/{}:search".format), st.just(GOOD), st.just({})),
    st.tuples(st.just("POST"), NAMES.map("/v2/models/{}/infer".format), st.just(GOOD), st.just({})),
    st.tuples(st.sampled_from(["PUT", "DELETE", "PATCH", "POST"]), st.just("/v1/models/colours"), st.just(GOOD), st.just({})),
    st.tuples(
        st.just("POST"),
        st.just(PREDICT),
        st.integers(257, 10_000).map(lambda count: b'{"instances": [' + b'"x",' * count + b'"x"]}'),
        st.just({}),
    ),
)
ASKED = st.sampled_from([PREDICT, SEARCH])
SELDOM_RIGHT = st.one_of(
    st.tuples(st.just("POST"), ASKED, changed(GOOD), st.just({})),
    st.tuples(st.just("POST"), ASKED, changed(FORM), st.just(A_FORM)),
    st.tuples(st.just("POST"), ASKED, changed(RED), st.just({"content-type": "image/jpeg"})),
    st.tuples(st.just("POST"), st.just(SEARCH), changed(GOOD_SEARCH), st.just({})),
    st.tuples(st.just("POST"), st.just(INFER), changed(json.dumps({"inputs": [TENSOR]}).encode()), st.just({})),
)
HEAVY: list[Sent] = [
    ("POST", PREDICT, bytes(50 * MIB), {}),
    ("POST", SEARCH, bytes(50 * MIB), {}),
    ("POST", PREDICT, b'{"instances": [' + b'"' + b"A" * (30 * MIB) + b'"]}', {}),
    ("POST", PREDICT, b"[" * (30 * MIB), {}),
    ("POST", PREDICT, json.dumps({"instances": ["x"] * 10_000}).encode(), {}),
    ("POST", SEARCH, json.dumps({"instances": ["x"] * 10_000}).encode(), {}),
    ("POST", SEARCH, GOOD[:-1] + b', "top_k": 1' + b"0" * MIB + b"}", {}),
    ("POST", PREDICT, colour_model.picture("red", "PNG", (10_000, 6_000)), {"content-type": "image/png"}),
    ("POST", SEARCH, colour_model.picture("red", "PNG", (10_000, 6_000)), {"content-type": "image/png"}),
    ("POST", INFER, json.dumps({"inputs": [TENSOR | {"shape": [10_000], "data": ["bm8="] * 10_000}]}).encode(), {}),
]


@pytest.fixture
def url(tmp_path) -> Iterator[str]:
    """The address of a server of its own, with an index, whose memory is looked at."""
    model = colour_index.write_model(tmp_path / "model")
    repository = model / "serving"
    colour_index.write(model, colour_index.write_pictures(tmp_path / "photos"), repository / "index")
    with server.run_server(repository) as address:
        yield address


def sent(session: requests.Session, url: str, request: Sent) -> requests.Response:
    method, path, body, headers = request
    return session.request(method, url + path, data=body, headers=headers, timeout=SECONDS)


def resident(url: str) -> float:
    """Bytes of memory that the server holds."""
    lines = requests.get(f"{url}/metrics", timeout=SECONDS).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes "))


BEGUN = {
    "nothing": b"",
    "half a request": b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: x\r\n",
    "a slow body": b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
}


class HeldOpen:
    """Connections that ask for nothing, for half a request, or for one whose body comes a byte at a time.

    Args:
        url: of the server.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        self.said: dict[str, list[bytes]] = {kind: [] for kind in BEGUN}
        self._ended = threading.Event()
        self._open = selectors.DefaultSelector()
        for kind, begun in BEGUN.items():
            for _ in range(HELD_OPEN):
                connection = socket.create_connection((parts.hostname, parts.port), SECONDS)
                connection.sendall(begun)
                self._open.register(connection, selectors.EVENT_READ, kind)
        self._thread = threading.Thread(target=self._drip)

    def __enter__(self) -> "HeldOpen":
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
        """How many are open still."""
        return len(self._open.get_map())

    def _drip(self) -> None:
        while self.count and not self._ended.wait(0.5):
            for key in list(self._open.get_map().values()):
                if key.data == "a slow body":
                    with contextlib.suppress(OSError):  # ended by the server just now
                        key.fileobj.send(b"x")
            for key, _ in self._open.select(0):
                self._open.unregister(key.fileobj)
                with key.fileobj as connection:
                    self.said[key.data].append(connection.recv(4096))


def test_whatever_is_sent_is_refused_with_its_reason_and_leaves_no_trace(url):
    good: Sent = ("POST", PREDICT, GOOD, {})
    good_search: Sent = ("POST", SEARCH, GOOD_SEARCH, {})
    with requests.Session() as session:

        def asked(request: Sent) -> requests.Response:
            answer = sent(session, url, request)
            assert answer.status_code == 200 or 400 <= answer.status_code < 500, (request, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"], request
            return answer

        @settings(max_examples=500, deadline=None, database=None)
        @given(SELDOM_RIGHT)
        def get_used_to_it(request: Sent) -> None:
            asked(request)

        @settings(max_examples=REQUESTS // 2, deadline=None, suppress_health_check=list(HealthCheck))
        @given(NEVER_RIGHT)
        def never_right(request: Sent) -> None:
            assert asked(request).status_code != 200, request

        @settings(max_examples=REQUESTS // 2, deadline=None, suppress_health_check=list(HealthCheck))
        @given(SELDOM_RIGHT)
        def seldom_right(request: Sent) -> None:
            asked(request)

        get_used_to_it()
        for request in HEAVY:
            assert asked(request).status_code in (400, 413)
        before = resident(url)
        with HeldOpen(url) as held_open:
            never_right()
            seldom_right()
            for request in HEAVY * 3:
                assert asked(request).status_code in (400, 413)
                assert asked(good).json()["predictions"][0]["classes"] == "red"
                assert len(asked(good_search).json()["predictions"][0]["hits"]) == 3
            until(lambda: not held_open.count)
        assert set(held_open.said["nothing"]) == {b""}
        assert {words.split(b"\r\n")[0] for words in held_open.said["half a request"]} == {b"HTTP/1.1 408 Request Timeout"}
        for words in held_open.said["a slow body"]:
            assert words.startswith(b"HTTP/1.1 408 ") and b"must arrive within 20 seconds" in words
        assert {len(said) for said in held_open.said.values()} == {HELD_OPEN}
        assert asked(good).json()["predictions"][0]["classes"] == "red"
        assert resident(url) < before + ENOUGH


def test_a_body_that_comes_in_pieces_is_taken(url):
    def pieces() -> Iterator[bytes]:
        for at in range(0, len(GOOD), len(GOOD) // 5):
            yield GOOD[at : at + len(GOOD) // 5]
            time.sleep(0.1)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: requests.post(url + PREDICT, data=pieces(), timeout=SECONDS), range(8)))
    assert [answer.json()["predictions"][0]["classes"] for answer in answers] == ["red"] * 8
