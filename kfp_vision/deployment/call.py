"""Asks the deployed model about one image."""

from pathlib import Path
from typing import Any

from kfp_vision.core import json_text, values
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.table import show_labels
from kfp_vision.deployment.deploy import target_of
from kfp_vision.records import records_folder
from kfp_vision.storage import atomic, reading, unwritable, uris


@unwritable.in_one_line("answer")
def call_endpoint(
    endpoint: Path, validation_records: Path, test_records: Path, test_image_uri: str, answer: Path
) -> dict[str, Any]:
    """Sends an image to the deployed model over HTTP; for a repository, starts the real server here.

    Args:
        endpoint: the file that `deploy_model` wrote.
        validation_records: validation images.
        test_records: test images.
        test_image_uri: the image to send; empty for the first test image, or validation image if there are none.
        answer: the file to write (JSON).

    Returns:
        What is written: picture, label, prediction, score, url; where images have several labels, label holds them with `|`
        between, prediction is the most probable one, and labels and scores are those of the answer.

    Raises:
        InputError: the image cannot be read, no server answers, or only those of another model.
    """
    image, encoded, label = _test_image(validation_records, test_records, test_image_uri)
    deployed = json_text.read_object(endpoint)
    target = target_of(values.KSERVE if deployed["kind"] == values.KSERVE else deployed["repository"])
    prediction, url = target.call(deployed, encoded)
    if isinstance(prediction, Rejected):
        rule = "test_image_uri must name an image that can be read"
        raise InputError(rule, f"{image} ({prediction})", "Give a JPEG or a PNG.")
    label = show_labels(label)
    written = {"picture": image, "label": label, "prediction": prediction.label, "score": prediction.score, "url": url}
    if prediction.several:
        written |= {"labels": prediction.labels, "scores": prediction.scores}
    atomic.write_json(answer, written)
    print(f"POST {url}")
    named = prediction.in_words(".0%") if prediction.several else f"{prediction.label} ({prediction.score:.0%})"
    known = f"; its {'labels are' if prediction.several else 'label is'} {label}" if label else ""
    print(f"{image} is classified as {named}{known}")
    return written


def _test_image(validation_records: Path, test_records: Path, test_image_uri: str) -> tuple[str, bytes, str]:
    """Returns name, content and label of the image to send; the label is empty if unknown."""
    test_image_uri = uris.from_field(test_image_uri)
    if test_image_uri:
        return test_image_uri, reading.read_image(test_image_uri, "test_image_uri"), ""
    return next(records_folder.read_examples(records_folder.choose_evaluation_records(validation_records, test_records)))
