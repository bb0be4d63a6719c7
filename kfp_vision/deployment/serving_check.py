"""Starts the server on the exported model and compares its answers with those of the evaluation.

For KServe's stock runtime, which serves the SavedModel without our server, it also compares the SavedModel's own answers.
"""

import io
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from kfp_vision.core import json_text, values
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.deployment.deploy import check_same
from kfp_vision.engines.choice import choose_engine, choose_serving_engine
from kfp_vision.engines.engine import FLOAT32_ENGINES, TENSORFLOW
from kfp_vision.engines.tensorflow_engine import TensorFlowEngine
from kfp_vision.prediction.classifier import Answer, Prediction
from kfp_vision.prediction.client import ServingClient
from kfp_vision.records import records_folder
from kfp_vision.repository.version import Version, exported_version
from kfp_vision.serving import server
from kfp_vision.storage import atomic, unwritable

MAX_DIFFERENCE = 1e-3  # between the probabilities of the server and those of the evaluation, both in float32
MAX_BFLOAT16_DIFFERENCE = 0.1  # of a server that computes in bfloat16; 0.02 is usual where two classes are equally likely
TURNED, TURN_BACK = 6, Image.Transpose.ROTATE_90  # an EXIF orientation, and how the pixels are stored that it sets upright
JPEG_BLOCK = 8  # pixels; at the best quality, a block of one colour is decoded to the same pixels however it is turned


class ServingCheck(NamedTuple):
    """What `check_serving` found.

    Attributes:
        figures: pictures (number of images sent), largest_difference to the evaluation, and median_seconds of a request;
            empty if nothing was checked.
        to_be_deployed: whether the model is accepted, checked and new, and has a target.
    """

    figures: dict[str, Any]
    to_be_deployed: bool


@unwritable.in_one_line("proof")
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

    With `service_runtime=tensorflow` in the training's settings, the SavedModel is also called without the server.
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
        InputError: the records are damaged, the server does not start, answers differ from the evaluation's (also in the
            labels of an image, where it has several), or the SavedModel that the stock runtime serves ignores the EXIF
            orientation.
    """
    version, evaluation = exported_version(model), json_text.read_object(verdict)
    check_same(version, evaluation, "verdict")
    if not accepted:
        reason = "the deployed model is the same" if evaluation["verdict"]["accepted"] else "the model is not accepted"
        print(f"serving is not checked: {reason}")
        atomic.write_json(proof, {"model_fingerprint": "", "not_proven": reason})
        return ServingCheck({}, False)
    expected = {answer["name"]: answer["probabilities"] for answer in evaluation["answers"]}
    held_out = records_folder.read_examples(records_folder.choose_evaluation_records(validation_records, test_records))
    images = {name: encoded for name, encoded, _ in held_out if name in expected}
    engine = choose_engine(version, choose_serving_engine(version))
    limit = MAX_BFLOAT16_DIFFERENCE if engine in FLOAT32_ENGINES else MAX_DIFFERENCE
    with server.run_server(model, engine=engine) as url:
        service = ServingClient(url)
        answers, seconds = {}, []
        for name, encoded in images.items():
            start = time.perf_counter()
            (answers[name],) = service.classify([encoded])
            seconds.append(time.perf_counter() - start)
    difference = max(_difference(answers[name], expected[name]) for name in images)
    if not difference <= limit:
        rule = f"a server must answer as the evaluation did in float32, to {limit:g}"
        # The same training ends in the same weights, and rounds as much.
        in_float32 = f'Set advanced to {{"engine": "{FLOAT32_ENGINES[engine]}"}}, or ' if engine in FLOAT32_ENGINES else ""
        remedy = f"{in_float32}train or export the model again."
        raise InputError(rule, f"a difference of {difference:.3g}", remedy[0].upper() + remedy[1:])
    if version.several:
        for name, answer in answers.items():
            assert isinstance(answer, Prediction)  # a rejected one differs without limit
            _check_labels("a server", version, answer.labels, expected[name], limit)
    if choose_serving_engine(version) == TENSORFLOW:
        difference = max(difference, _check_export(version, images, expected))
    median = round(statistics.median(seconds), 4)
    figures = {"pictures": len(images), "largest_difference": difference, "median_seconds": median}
    atomic.write_json(proof, {"model_fingerprint": version.fingerprint, **figures})
    labels = ", with the same labels for each" if version.several else ""
    agreement = f"as the evaluation did, to {difference:.1g}{labels}"
    print(f"the server classified {len(images)} images {agreement}, in {1000 * median:.0f} ms each")
    return ServingCheck(figures, deploy_to != values.NOWHERE)


def _check_export(version: Version, images: dict[str, bytes], expected: dict[str, list[float]]) -> float:
    """Calls the SavedModel as the stock runtime does, also with turned images; returns the difference to the evaluation."""
    model = TensorFlowEngine(version)
    answers = dict(zip(images, model.scores_of_encoded(list(images.values())).tolist(), strict=True))
    difference = max(_largest(answers[name], expected[name]) for name in images)
    if not difference <= MAX_DIFFERENCE:
        rule = f"the SavedModel must answer as the evaluation did, to {MAX_DIFFERENCE:g}"
        raise InputError(rule, f"a difference of {difference:.3g}", "Train or export the model again.")
    if version.several:
        for name, labels in zip(images, model.labels_of_encoded(list(images.values())), strict=True):
            _check_labels("the SavedModel", version, labels, expected[name], MAX_DIFFERENCE)
    pairs = [_upright_and_turned(encoded, version.about["image_size"]) for encoded in images.values()]
    upright, turned = (model.scores_of_encoded(list(encoded)).tolist() for encoded in zip(*pairs, strict=True))
    turning = max(_largest(one, other) for one, other in zip(upright, turned, strict=True))
    if not turning <= MAX_DIFFERENCE:
        rule = f"the SavedModel must answer for a turned photograph as for an upright one, to {MAX_DIFFERENCE:g}"
        remedy = "Export the model again with this release, or set service_runtime=kfp-vision."
        raise InputError(rule, f"a difference of {turning:.3g} for EXIF orientation {TURNED}", remedy)
    print(f"the SavedModel alone classified them to {difference:.1g}, and turned by EXIF to {turning:.1g}")
    return difference


def _check_labels(who: str, version: Version, labels: Sequence[str], expected: list[float], limit: float) -> None:
    """Refuses labels of an image other than those of the evaluation; where a score is at its threshold, either is right."""
    for label, score, threshold in zip(version.labels, expected, version.thresholds, strict=True):
        if abs(score - threshold) > limit and (label in labels) != (score > threshold):
            rule = f"{who} must give an image the labels whose score is at least their threshold"
            found = f"{', '.join(labels) or 'none'}, with {score:.4f} for {label} and the threshold {threshold:.4f}"
            raise InputError(rule, found, "Train or export the model again.")


def _upright_and_turned(encoded: bytes, image_size: int) -> tuple[bytes, bytes]:
    """Encodes an image as a JPEG twice: as it is, and with the pixels turned and the EXIF orientation that turns them back.

    It becomes a mosaic, or rounding would make the answers of a network differ by some hundredths. The sides are below twice
    `image_size`, at which JPEGs are decoded at full size, and not alike.
    """
    blocks = -(-image_size // JPEG_BLOCK)
    with Image.open(io.BytesIO(encoded)) as image:
        mosaic = image.convert("RGB").resize((blocks + 2, blocks + 1), Image.Resampling.BOX)
    upright = mosaic.resize((mosaic.width * JPEG_BLOCK, mosaic.height * JPEG_BLOCK), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURNED
    return _jpeg(upright, Image.Exif()), _jpeg(upright.transpose(TURN_BACK), exif)


def _jpeg(image: Image.Image, exif: Image.Exif) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=100, subsampling=0, exif=exif)
    return file.getvalue()


def _largest(one: list[float], other: list[float]) -> float:
    return max(abs(mine - its) for mine, its in zip(one, other, strict=True)) if len(one) == len(other) else float("inf")


def _difference(answer: Answer, expected: list[float]) -> float:
    return float("inf") if isinstance(answer, Rejected) else _largest(answer.probabilities, expected)
