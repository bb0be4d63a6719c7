"""Starts the server on the exported model and compares its answers with those of the evaluation."""

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from kfp_vision.core import values
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.deployment.deploy import check_same, read_json
from kfp_vision.prediction.classifier import Answer
from kfp_vision.prediction.client import ServingClient
from kfp_vision.records import folder
from kfp_vision.repository.version import exported_version
from kfp_vision.serving import server
from kfp_vision.storage import atomic

MAX_DIFFERENCE = 1e-3  # between the probabilities of the server and of the evaluation


class ServingCheck(NamedTuple):
    """What `check_serving` found.

    Attributes:
        figures: pictures (number of images sent), largest_difference to the evaluation, and median_seconds of a request;
            empty if nothing was checked.
        to_be_deployed: whether the model is accepted, checked and new, and has a target.
    """

    figures: dict[str, Any]
    to_be_deployed: bool


def check_serving(
    model: Path,
    verdict: Path,
    validation_records: Path,
    test_records: Path,
    proof: Path,
    *,
    deploy_to: str = values.NOWHERE,
    accepted: bool = True,
) -> ServingCheck:
    """Serves the model with the real server, sends it images over HTTP, and compares its answers with the evaluation's.

    A model that is not accepted, or not new, is not checked; its proof then fits no model.

    Args:
        model: the model folder.
        verdict: the evaluation's verdict on this model.
        validation_records: the validation images that it was evaluated on.
        test_records: the test images that it was evaluated on.
        proof: the file to write (JSON).
        deploy_to: the deployment target.
        accepted: whether the model is accepted and new.

    Returns:
        The figures, and whether to deploy.

    Raises:
        InputError: the records are damaged, the server does not start, or its answers differ from the evaluation's.
    """
    version, evaluation = exported_version(model), read_json(verdict)
    check_same(version, evaluation, "verdict")
    if not accepted:
        reason = "the deployed model is the same" if evaluation["verdict"]["accepted"] else "the model is not accepted"
        print(f"serving is not checked: {reason}")
        atomic.write_json(proof, {"model_fingerprint": "", "not_proven": reason})
        return ServingCheck({}, False)
    expected = {answer["name"]: answer["probabilities"] for answer in evaluation["answers"]}
    held_out = folder.read_examples(folder.choose_evaluation_records(validation_records, test_records))
    images = {name: encoded for name, encoded, _ in held_out if name in expected}
    with server.run_server(model) as url:
        service = ServingClient(url)
        answers, seconds = {}, []
        for name, encoded in images.items():
            start = time.perf_counter()
            (answers[name],) = service.classify([encoded])
            seconds.append(time.perf_counter() - start)
    difference = max(_difference(answers[name], expected[name]) for name in images)
    if not difference <= MAX_DIFFERENCE:
        rule = f"a server must answer as the evaluation did, to {MAX_DIFFERENCE:g}"
        raise InputError(rule, f"a difference of {difference:.3g}", "Train or export the model again.")
    median = round(statistics.median(seconds), 4)
    figures = {"pictures": len(images), "largest_difference": difference, "median_seconds": median}
    atomic.write_json(proof, {"model_fingerprint": version.fingerprint, **figures})
    agreement = f"as the evaluation did, to {difference:.1g}"
    print(f"the server classified {len(images)} images {agreement}, in {1000 * median:.0f} ms each")
    return ServingCheck(figures, deploy_to != values.NOWHERE)


def _difference(answer: Answer, expected: list[float]) -> float:
    if isinstance(answer, Rejected) or len(answer.probabilities) != len(expected):
        return float("inf")
    return max(abs(one - other) for one, other in zip(answer.probabilities, expected, strict=True))
