"""Kills a server that collects, under load, and looks for what is lost: `python -m benchmarks.collect_kills [MINUTES]`.

Two thousand requests a minute, a photograph each, no two alike, of which every answer is collected with its image. In every
minute but the last the server is killed and started again; at the end it is told to stop. There is no peer: a server may lose
what it has answered since it took its last batch, and nothing else, and no batch and no image may be torn.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import requests

from benchmarks import load, photographs, scale, serve
from benchmarks.collect import started_server
from kfp_vision.collection import collected

NETWORK = "mobilenet_v3_large"
MINUTES, REQUESTS_A_MINUTE, CLIENTS = 5, 2000, 32
KILLED_AFTER = (25, 41, 33, 54)  # seconds of a minute, by turns
SECONDS_TO_ANSWER = 60.0


@dataclass(frozen=True)
class Answered:
    """A request that was answered.

    Attributes:
        image: SHA-256 of the image that was sent.
        life: of the server that answered, from 0.
        time: when the answer had arrived, in seconds since 1970.
    """

    image: str
    life: int
    time: float


@dataclass(frozen=True)
class Life:
    """A server from its start to its end.

    Attributes:
        ended: when it was killed or told to stop, in seconds since 1970.
        drained: whether it was told to stop, rather than killed.
    """

    ended: float
    drained: bool


@dataclass(frozen=True)
class Found:
    """What a collection holds of the requests that were answered.

    Attributes:
        answered: requests that were answered.
        collected: of these, whose answer is in the collection.
        after_last_batch: whose answer is not, and which a server answered after the last that it collected.
        lost: whose answer is not, although a later one is, or the server was told to stop.
        surplus: answers that are there twice.
        torn: answers whose image is missing, or is none that was sent.
    """

    answered: int
    collected: int
    after_last_batch: int
    lost: int
    surplus: int
    torn: int


def main(minutes: str = str(MINUTES)) -> int:
    """Runs the server, the clients and the kills, and prints what was found as JSON.

    Args:
        minutes: duration.

    Returns:
        The exit code: 1 if anything was lost or torn.
    """
    photos, count = [encoded for _, encoded in photographs.read_images()], round(float(minutes) * REQUESTS_A_MINUTE)

    def image(number: int) -> bytes:
        return scale.make_unique(photos[number % len(photos)], number)

    with tempfile.TemporaryDirectory() as scratch:
        place, model = Path(scratch) / "collected", serve.write_model_apart(Path(scratch) / "model", NETWORK)
        answered, lives = run_clients(image, count, model, place)
        found = compare(answered, lives, place, {digest(image(number)) for number in range(count)})
    times = [one.time for one in answered]
    about = {"sent": count, "kills": len(lives) - 1, "seconds": round(max(times) - min(times)), "load": os.getloadavg()[0]}
    print(json.dumps(about | dataclasses.asdict(found)))
    return int(found.lost + found.surplus + found.torn > 0)


def run_clients(image: Callable[[int], bytes], count: int, model: Path, place: Path) -> tuple[list[Answered], list[Life]]:
    """Sends requests to a server that is killed in between; those that it does not answer are not sent again.

    Args:
        image: makes the image of a request, by its number.
        count: number of requests.
        model: repository to serve.
        place: folder to collect in.

    Returns:
        The requests that were answered, and the lives of the server.
    """
    options = ("--collect", str(place), "--collect-share", "1", "--collect-images", "--collect-max-mb", "10000")
    lives: list[Life] = []
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as clients:
        servers = [stack.enter_context(started_server(model, *options))]
        start = time.time()

        def send(number: int) -> Answered | None:
            time.sleep(max(0.0, start + 60 * number / REQUESTS_A_MINUTE - time.time()))
            life, encoded = len(servers) - 1, image(number)
            with contextlib.suppress(requests.RequestException):  # the server is being killed, or started again
                url = f"{servers[life].url}/v1/models/{load.MODEL}:predict"
                if requests.post(url, encoded, timeout=SECONDS_TO_ANSWER).ok:
                    return Answered(digest(encoded), life, time.time())
            return None

        asked = [clients.submit(send, number) for number in range(count)]
        for minute in range(count // REQUESTS_A_MINUTE - 1):
            time.sleep(max(0.0, start + 60 * minute + KILLED_AFTER[minute % len(KILLED_AFTER)] - time.time()))
            servers[-1].process.kill()
            servers[-1].process.wait()
            lives.append(Life(time.time(), drained=False))
            servers.append(stack.enter_context(started_server(model, *options)))
        answered = [answer for request in asked if (answer := request.result())]
        servers[-1].process.send_signal(signal.SIGTERM)
        servers[-1].process.wait()
        return answered, [*lives, Life(time.time(), drained=True)]


def compare(answered: Sequence[Answered], lives: Sequence[Life], place: Path, sent: Collection[str]) -> Found:
    """Compares what was answered with what is in the collection.

    Args:
        answered: the requests.
        lives: of the server, one after another.
        place: the collection.
        sent: SHA-256 of all images that were sent.

    Returns:
        What is there, and what is missing.

    Raises:
        DamagedError: a batch is torn.
    """
    images: Counter[str] = Counter()
    newest = [0.0] * len(lives)
    torn = 0
    for one in collected.read_collected(str(place)):
        time_of_answer = datetime.fromisoformat(one.time).timestamp()
        life = next(number for number, life in enumerate(lives) if time_of_answer <= life.ended)
        newest[life] = max(newest[life], time_of_answer)
        image = digest(Path(one.image_uri).read_bytes()) if Path(one.image_uri).exists() else ""
        torn += image not in sent
        images[image] += 1
    missing = [one for one in answered if one.image not in images]
    lost = [one for one in missing if one.time <= newest[one.life] or lives[one.life].drained]
    return Found(
        answered=len(answered),
        collected=len(answered) - len(missing),
        after_last_batch=len(missing) - len(lost),
        lost=len(lost),
        surplus=sum(count - 1 for count in images.values()),
        torn=torn,
    )


def digest(image: bytes) -> str:
    """Returns the SHA-256 of an image."""
    return hashlib.sha256(image).hexdigest()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
