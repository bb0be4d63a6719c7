"""Reads Label Studio's exports as JSON and JSON-MIN, whose images were given choices by people.

Source: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks, as of Label Studio 1.13.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote_plus

from kfp_vision.dataset.import_lines import IMAGE_COLUMNS, has_image_ending, plain_name
from kfp_vision.dataset.invalid_lines import InvalidColumns, InvalidLine
from kfp_vision.dataset.label_cells import CHOICES, list_labels

IMAGE_KEYS = {name for row in IMAGE_COLUMNS for name in row}
UPLOADS, LOCAL_FILES = "/data/upload/", "/data/local-files/"  # paths on its server
# Paths of the same server, or of a store behind it, which no other server has: with or without a host, and a path before them.
HOST = r"(?:https?://[^/?#]+)?(?:/[^/?#]+)*"
SERVED_UPLOAD = re.compile(rf"(?:{HOST}/data/|/?)upload/\d+/(?=[0-9a-f]{{8}}-[^/]+$)")
SERVED_FILE = re.compile(rf"{HOST}/(?:data/local-files|storage-data/uploaded)/?\?(?:d|filepath)=")
UPLOAD_PREFIX = re.compile(r"(?<![^/])[0-9a-f]{8}-(?=[^/]+$)")  # which it puts before the name of a file that is uploaded


def questions(items: Iterable[Any]) -> list[str]:
    """Returns the keys of an export in the format JSON-MIN, named by its questions, that hold choices in any of the items.

    Args:
        items: of the file.
    """
    held = (key for item in items if isinstance(item, dict) for key, value in item.items() if _holds_choices(value))
    return list(dict.fromkeys(held))


def check_choices(items: Iterable[Any]) -> None:
    """Checks that an export of tasks holds choices, if its annotations hold anything: without any, boxes tell no label.

    Args:
        items: of the file.

    Raises:
        InvalidColumns: all results are of other kinds.
    """
    annotations = (one for item in items if isinstance(item, dict) and is_task(item) for one in _submitted(item))
    listed = (one["result"] for one in annotations if isinstance(one.get("result"), list))
    results = (result for of_annotation in listed for result in of_annotation if isinstance(result, dict))
    kinds = {str(result.get("type")) for result in results}
    if kinds and CHOICES not in kinds:
        remedy = "Ask for choices in the project; of boxes and masks, export COCO, whose categories are read."
        raise InvalidColumns(f"an export of Label Studio that holds no choices, only {', '.join(sorted(kinds))}", remedy)


def join_answers(item: Any, keys: Sequence[str]) -> Any:
    """Returns an item of JSON-MIN with the choices of all questions as its label.

    Args:
        item: of the file; anything else than a dictionary is returned as it is.
        keys: what `questions` returns; a single choice is a text there.
    """
    if not keys or not isinstance(item, dict) or is_task(item):
        return item
    answers = [item[key] for key in keys if item.get(key)]
    labels = [label for answer in answers for label in list_labels(answer)]
    return {key: value for key, value in item.items() if key not in keys} | ({"label": labels} if answers else {})


def _holds_choices(value: Any) -> bool:
    """Returns whether an answer holds choices: those of a task, or of each region of its image."""
    return any(isinstance(one, dict) and CHOICES in one for one in (value if isinstance(value, list) else [value]))


def is_task(item: dict[str, Any]) -> bool:
    """Returns whether an item is a task of an export in the format JSON.

    Args:
        item: of the file.
    """
    return isinstance(item.get("data"), dict) and isinstance(_annotations(item), list)


def _annotations(item: dict[str, Any]) -> Any:
    return item.get("annotations", item.get("completions"))  # the latter before Label Studio 1.0


def read_task(item: dict[str, Any]) -> tuple[str, list[str] | None]:
    """Reads the image of a task, and the choices of one annotation.

    That is the one marked as ground truth, else the one that was changed last; those that were cancelled or skipped do not
    count.

    Args:
        item: of the file.

    Returns:
        Name of the image, and its choices, over all questions; None if nobody has annotated it.

    Raises:
        InvalidLine: the task has no image, or its annotation cannot be read.
    """
    submitted = _submitted(item)
    if not submitted:
        return _image(item["data"]), None
    chosen = max(submitted, key=_rank)
    try:
        results = [one for one in chosen.get("result") or [] if one["type"] == CHOICES]
        return _image(item["data"]), [choice for one in results for choice in list_labels(one["value"][CHOICES])]
    except KeyError as fault:
        raise InvalidLine(f"an annotation of Label Studio that lacks {fault}") from None
    except TypeError:
        raise InvalidLine("an annotation of Label Studio whose result is not a list of objects") from None


def _submitted(task: dict[str, Any]) -> list[dict[str, Any]]:
    annotations = (one for one in _annotations(task) if isinstance(one, dict))
    return [one for one in annotations if not one.get("was_cancelled") and not one.get("skipped")]


def _rank(annotation: dict[str, Any]) -> tuple[bool, str]:
    return bool(annotation.get("ground_truth")), str(annotation.get("updated_at") or annotation.get("created_at") or "")


def plain_path(name: str) -> str:
    """Returns the path of an image without what Label Studio's server adds to it.

    Args:
        name: such as `/data/upload/1/0f9e8d7c-rose.jpg` or `/data/local-files/?d=photos/rose.jpg`, with or without the address
            of the server before it.

    Returns:
        Such as `0f9e8d7c-rose.jpg` or `photos/rose.jpg`, the latter from the root if the file is there; any other name, and
        that of a file that is there, as it is.
    """
    if found := SERVED_FILE.match(name):
        path = unquote_plus(name[found.end() :].partition("&")[0])
        if SERVED_UPLOAD.match(path):
            return path.rpartition("/")[2]
        return f"/{path}" if path and not path.startswith("/") and os.path.lexists(f"/{path}") else path
    is_upload = name.startswith(UPLOADS) or SERVED_UPLOAD.match(name)
    return name.rpartition("/")[2] if is_upload and not os.path.lexists(name) else name


def _image(data: dict[str, Any]) -> str:
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    named = [value for key, value in texts.items() if plain_name(key) in IMAGE_KEYS]
    found = [value for value in named or texts.values() if has_image_ending(value)] or named
    if len(set(found)) != 1:
        raise InvalidLine(f"{len(set(found)) or 'no'} images in the data of a task")
    return plain_path(found[0])
