"""Clients who ask one request after another: `python -m benchmarks.load URL PICTURES CLIENTS SECONDS VERB`.

Prints requests a second, and the median and the 99th percentile of milliseconds to an answer, as JSON.
"""

import base64
import http.client
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

MODEL = "benchmark"
PICTURES = 64


def main(url: str, pictures: str, clients: str, seconds: str, verb: str) -> None:
    """Asks for so many seconds, to `predict` or to `search`."""
    asked = f"{url}/v1/models/{MODEL}:{verb}"
    files = sorted(Path(pictures).glob("*/*.jpg"))
    bodies = [_body(file.read_bytes()) for file in files[:: max(1, len(files) // PICTURES)]]
    end = time.perf_counter() + float(seconds)
    with ThreadPoolExecutor(int(clients)) as asking:
        taken = list(asking.map(lambda number: _ask(asked, bodies, number, end), range(int(clients))))
    milliseconds = [1000 * one for times in taken for one in times]
    p50, p99 = (statistics.quantiles(milliseconds, n=100, method="inclusive")[at] for at in (49, 98))
    print(json.dumps({"rate": len(milliseconds) / float(seconds), "p50": p50, "p99": p99}))


def _body(picture: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}).encode()


def _ask(url: str, bodies: list[bytes], number: int, end: float) -> list[float]:
    """Asks until the time is over, beginning with a body of its own, and gives the seconds that each answer within it took."""
    place, taken = urlsplit(url), []
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    while (start := time.perf_counter()) < end:
        connection.request("POST", place.path, bodies[number % len(bodies)])
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {said[:200]!r}")
        if (now := time.perf_counter()) < end:
            taken.append(now - start)
        number += 1
    return taken


if __name__ == "__main__":
    main(*sys.argv[1:])
