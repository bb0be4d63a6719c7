"""Measures whether class activation maps mark what matters, and what they cost.

EfficientNet-Lite0 with its published weights names one of ImageNet's 1,000 classes for each of fifty photographs. Then the
cells of its map are deleted from the crop, the strongest first, in the manner of RISE (Petsiuk et al., 2018, arXiv:1806.07421),
in random order, and from the centre outwards, where photographers put things: the faster the score of the class falls, the
better. Needs the package of the weights.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import requests

from benchmarks import photographs
from benchmarks.measure import Figure, report, rounds
from kfp_vision.engines.engine import OPENVINO_FLOAT32
from kfp_vision.networks import IMAGENET, NETWORKS, pretrained
from kfp_vision.prediction import export
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.prediction.explanation import Explanation, explain_seen
from kfp_vision.repository.version import VERSION_FILE, Version
from kfp_vision.serving import server

NETWORK, CLASSES = "efficientnet_lite0", 1000
PHOTOGRAPHS = 50
SHARES = (0, 10, 20, 30, 50, 75, 100)  # percent of the crop that is deleted
RANDOM_ORDERS = 3  # of each image
RANDOM, CENTRE = "as many cells, deleted in random order", "as many cells, deleted from the centre outwards"
PREDICT = "a prediction by the same server"
REQUESTS = 100  # of a round

Floats = npt.NDArray[np.float32]


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures; none without the weights.
    """
    if not NETWORKS[NETWORK].has_installed_weights:
        print(f"explain is skipped: {NETWORKS[NETWORK].weights_package} is not installed", file=sys.stderr)
        return []
    images = [encoded for _, encoded in photographs.read_images()]
    images = images[:: max(1, len(images) // PHOTOGRAPHS)][:PHOTOGRAPHS]
    with tempfile.TemporaryDirectory() as scratch:
        version = write_version(Path(scratch) / "1")
        figures = measure_deletion(Classifier(version, engine=OPENVINO_FLOAT32), images)
        with server.run_server(version.folder.parent) as url:
            return figures + measure_costs(url, images)


def write_version(folder: Path) -> Version:
    """Writes a version with the published weights.

    Args:
        folder: of the version, in a folder of its own.

    Returns:
        The version.
    """
    network, labels = NETWORKS[NETWORK], [str(number) for number in range(CLASSES)]
    model = network.build(CLASSES, fast=False)
    pretrained.load_pretrained(model, network, IMAGENET)
    export.write_saved_model(folder, model, labels, network.image_size, network.crop)
    about = {"model_name": "benchmark", "labels": labels, "image_size": network.image_size, "crop": network.crop}
    (folder / VERSION_FILE).parent.mkdir()
    (folder / VERSION_FILE).write_text(json.dumps(about))
    return Version(folder)


def measure_deletion(classifier: Classifier, images: Sequence[bytes]) -> list[Figure]:
    """Measures how the score of the predicted class falls as cells of its map are deleted.

    Args:
        classifier: whose engine has maps.
        images: encoded.

    Returns:
        The area under the curve, against random orders and against the centre first, and some points of it against random
        orders; all in the mean over the images.
    """
    draw = np.random.default_rng(0)
    ours, chance, centre = [], [], []
    for image in images:
        sight = classifier.look(image)
        assert not isinstance(sight, Exception)
        crop = np.asarray(sight.crop)
        (explained,) = explain_seen(classifier, [(sight, lambda prediction: [prediction.number])])
        ours.append(deletion_curve(classifier, crop, explained, np.argsort(-explained.maps[0], axis=None)))
        centre.append(deletion_curve(classifier, crop, explained, outwards(*explained.maps[0].shape)))
        orders = [draw.permutation(explained.maps[0].size) for _ in range(RANDOM_ORDERS)]
        chance.append(np.mean([deletion_curve(classifier, crop, explained, order) for order in orders], axis=0))
    figures = []
    for name, others in ((RANDOM, chance), (CENTRE, centre)):
        areas = [(area(one), area(other)) for one, other in zip(ours, others, strict=True)]
        figures.append(report("explain_deletion_area", name, "%", areas, less=True, middle=statistics.mean))
        lower = sum(one < other for one, other in areas)
        print(f"explain: the area is smaller than with {name} on {lower} of {len(images)} photographs", file=sys.stderr)
    for place, share in enumerate(SHARES[1:-1], start=1):  # with nothing and with everything deleted, both are the same
        pairs = [(100 * float(one[place]), 100 * float(other[place])) for one, other in zip(ours, chance, strict=True)]
        figures.append(report(f"explain_score_without_{share}", RANDOM, "%", pairs, less=True, middle=statistics.mean))
    return figures


def outwards(rows: int, columns: int) -> npt.NDArray[np.intp]:
    """Returns the cells of a map from its centre outwards, as positions row by row."""
    row, column = np.mgrid[:rows, :columns]
    return np.argsort(np.hypot(row - (rows - 1) / 2, column - (columns - 1) / 2), axis=None, kind="stable")


def area(curve: npt.NDArray[np.float64]) -> float:
    """Returns the area under a deletion curve in percent: 100 if nothing of the score were ever lost."""
    return float(np.trapezoid(curve, SHARES))


def deletion_curve(
    classifier: Classifier, crop: Floats, explained: Explanation, order: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Computes the score of the predicted class with more and more cells of a crop deleted.

    Args:
        classifier: which made the prediction.
        crop: (size, size, 3).
        explained: its prediction and map.
        order: in which the cells are deleted, as positions in the map, row by row.

    Returns:
        The scores with each of `SHARES` deleted, as shares of the first.
    """
    rows, columns = explained.maps[0].shape
    bounds = [np.linspace(0, side, parts + 1).astype(int) for side, parts in zip(crop.shape, (rows, columns), strict=False)]
    crops = []
    for share in SHARES:
        deleted = crop.copy()
        for place in order[: round(share / 100 * len(order))].tolist():
            row, column = divmod(place, columns)
            deleted[bounds[0][row] : bounds[0][row + 1], bounds[1][column] : bounds[1][column + 1]] = crop.mean((0, 1))
        crops.append(deleted)
    scores = classifier.engine.scores(crops)[:, explained.prediction.number].astype(np.float64)
    return scores / scores[0]


def measure_costs(url: str, images: Sequence[bytes]) -> list[Figure]:
    """Measures the processor time of a server for an explanation, with and without an image laid over, and a prediction.

    Args:
        url: address of the server.
        images: encoded.

    Returns:
        Milliseconds of processors per request of one image.
    """
    figures = []
    for name, query in (("explain_cost", ""), ("explain_overlay_cost", "?overlay=true")):
        pairs = [
            (cost(url, f"explain{query}", images), cost(url, "predict", images)) for _ in range(1 + rounds())
        ]  # the first round warms up
        figures.append(report(name, PREDICT, "ms", pairs[1:], less=True))
    return figures


def cost(url: str, verb: str, images: Sequence[bytes]) -> float:
    """Sends requests one by one.

    Args:
        url: address of the server.
        verb: of the request, with its query.
        images: encoded; each request has one.

    Returns:
        Milliseconds of processors that the server took for each.
    """
    with requests.Session() as session:
        before = processor_seconds(session, url)
        for number in range(REQUESTS):
            image = images[number % len(images)]
            session.post(f"{url}/v1/models/benchmark:{verb}", data=image).raise_for_status()
        time.sleep(0.1)  # until its threads are idle
        return 1000 * (processor_seconds(session, url) - before) / REQUESTS


def processor_seconds(session: requests.Session, url: str) -> float:
    """Returns the processor time that a server has taken since its start, from its metrics."""
    lines = session.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_cpu_seconds_total "))
