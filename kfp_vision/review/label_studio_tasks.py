"""Writes tasks that Label Studio imports, with the model's answers as predictions.

Source: https://labelstud.io/guide/predictions, as of Label Studio 1.13.
"""

from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from kfp_vision.dataset.corrections import NOT_SURE
from kfp_vision.dataset.label_cells import CHOICES
from kfp_vision.dataset.label_studio import LOCAL_FILES
from kfp_vision.repository.version import Version
from kfp_vision.storage import uris

FROM, TO = "label", "image"  # names of the tags in `labelling_interface`


def to_task(uri: str, named: Sequence[str], suggested: Sequence[tuple[str, float]], version: Version) -> dict[str, Any]:
    """Returns the task of an image.

    Args:
        uri: of the image. A local file is named as Label Studio's local storage serves it, by its path from the root.
        named: the labels that the model gives it.
        suggested: its most probable labels and their probabilities, the best first.
        version: the model.

    Returns:
        The task, as JSON.
    """
    image = uri if uris.scheme_of(uri) else f"{LOCAL_FILES}?d={quote(uri.removeprefix('/'))}"
    result = {"from_name": FROM, "to_name": TO, "type": CHOICES, "value": {CHOICES: list(named)}}
    prediction = {"model_version": f"{version.name} {version.fingerprint[:8]}", "score": suggested[0][1], "result": [result]}
    return {"data": {TO: image}, "predictions": [prediction]}


def labelling_interface(labels: Sequence[str], *, several: bool) -> str:
    """Returns the labelling interface of a project that imports the tasks, to be pasted into its settings.

    Args:
        labels: of the classes; not sure is added.
        several: whether an image may have several.
    """
    choice = "multiple" if several else "single"
    choices = "\n".join(f'    <Choice value="{escape(label)}"/>' for label in (*labels, NOT_SURE))
    return (
        f'<View>\n  <Image name="{TO}" value="${TO}"/>\n  <Choices name="{FROM}" toName="{TO}" choice="{choice}">\n'
        f"{choices}\n  </Choices>\n</View>"
    )
