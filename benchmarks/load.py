"""Simulates clients with one request at a time each: `python -m benchmarks.load URL IMAGES CLIENTS SECONDS VERB`.

Prints requests per second, and the median and 99th percentile of the latency in milliseconds, as JSON.
"""

import base64
import http.client
import json
import statistics
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

MODEL = "benchmark"
IMAGES = 64  # distinct bodies


def main(url: str, images: str, clients: str, seconds: str, verb: str) -> None:
    """Sends requests for a number of seconds and prints the rate and latencies.

    Args:
        url: address of the server.
        images: folder of class folders with JPEGs.
        clients: number of concurrent clients.
        seconds: duration.
        verb: `predict` or `search`.
    """
    endpoint = f"{url}/v1/models/{MODEL}:{verb}"
    files = sorted(Path(images).glob("*/*.jpg"))
    bodies = [_body(file.read_bytes()) for file in files[:: max(1, len(files) // IMAGES)]]
    _warm_up(endpoint, bodies[0])
    end = time.perf_counter() + float(seconds)
    with ThreadPoolExecutor(int(clients)) as pool:
        latencies = list(pool.map(lambda number: _send(endpoint, bodies, number, end), range(int(clients))))
    milliseconds = [1000 * seconds_taken for times in latencies for seconds_taken in times]
    p50, p99 = (statistics.quantiles(milliseconds, n=100, method="inclusive")[position] for position in (49, 98))
    print(json.dumps({"rate": len(milliseconds) / float(seconds), "p50": p50, "p99": p99}))


def _body(image: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()


def _warm_up(url: str, body: bytes) -> None:
    """Sends one request, since the first answer may take a server a second or more."""
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as response:
        response.read()


def _send(url: str, bodies: list[bytes], number: int, end: float) -> list[float]:
    """Sends requests until the end time and returns the latency of each in seconds; each client starts with another body."""
    address, latencies = urlsplit(url), []
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    while (start := time.perf_counter()) < end:
        connection.request("POST", address.path, bodies[number % len(bodies)])
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}: {body[:200]!r}")
        if (now := time.perf_counter()) < end:
            latencies.append(now - start)
        number += 1
    return latencies


if __name__ == "__main__":
    main(*sys.argv[1:])
