"""Files that map label numbers to class names."""

import re
from pathlib import Path

from kfp_vision.core.errors import InputError

LABEL_MAP_FILE = "label_map.pbtxt"


def write_label_map(folder: Path, labels: list[str]) -> None:
    """Writes `label_map.pbtxt`, as the Object Detection API reads it.

    Args:
        folder: an existing folder.
        labels: in the order of their numbers, from 1.
    """
    items = (f"item {{\n  id: {number}\n  name: '{_escaped(label)}'\n}}\n" for number, label in enumerate(labels, start=1))
    (folder / LABEL_MAP_FILE).write_text("\n".join(items), encoding="utf-8")


def read_label_map(folder: Path) -> dict[str, int]:
    """Reads `label_map.pbtxt`.

    Args:
        folder: the label map, as `write_label_map` writes it.

    Returns:
        The number of each label, from 1.
    """
    text = (folder / LABEL_MAP_FILE).read_text(encoding="utf-8")
    items = re.findall(r"^  id: (\d+)\n  name: '(.*)'$", text, re.MULTILINE)
    return {re.sub(r"\\(.)", r"\1", name): int(number) for number, name in items}


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("'", "\\'")


LABELS_FILE = "labels.txt"
SEVERAL_FILE = "several_labels"  # an empty file beside it if an image has any number of labels


def write_labels(folder: Path, labels: list[str], *, several: bool = False) -> None:
    """Writes `labels.txt`, with lines such as `0:daisy`.

    Args:
        folder: an existing folder.
        labels: in the order of their numbers, from 0.
        several: whether an image has any number of labels, rather than one.
    """
    if several:
        (folder / SEVERAL_FILE).touch()
    lines = "".join(f"{number}:{label}\n" for number, label in enumerate(labels))
    (folder / LABELS_FILE).write_text(lines, encoding="utf-8")


def read_labels(folder: Path) -> list[str]:
    """Reads `labels.txt`.

    Args:
        folder: the label map, as `write_labels` writes it.

    Returns:
        The labels in the order of their numbers, from 0.

    Raises:
        InputError: the label map is for detection.
    """
    if (folder / LABEL_MAP_FILE).exists():
        remedy = "Take records that were written with task=classification."
        raise InputError("the label map must be for classification", LABEL_MAP_FILE, remedy)
    lines = (folder / LABELS_FILE).read_text(encoding="utf-8").splitlines()
    return [line.partition(":")[2] for line in lines]


def has_several_labels(folder: Path) -> bool:
    """Returns whether an image has any number of labels.

    Args:
        folder: the label map, as `write_labels` writes it.
    """
    return (folder / SEVERAL_FILE).exists()
