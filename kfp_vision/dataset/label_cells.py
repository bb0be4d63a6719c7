"""Reads the labels that a cell of an import file holds, where an image may have several: daisy|rose, or a list in JSON."""

import ast
from collections.abc import Iterable
from typing import Any

from kfp_vision.core import json_text
from kfp_vision.dataset.invalid_lines import InvalidLine
from kfp_vision.dataset.table import LABEL_SEPARATOR, join_labels

SEPARATORS = ("|", ";", ",")  # in the order in which they are looked for: a comma may be part of a name
SEPARATORS_BESIDE_LISTS = ("|", ";")
NAMED_SEPARATORS = {"space": " ", "tab": "\t"}  # which a form would drop
MISSING_VALUES = ("nan", "<na>", "#n/a")  # how pandas and spreadsheets write an empty cell, in lower case
LIST_BEGINNINGS = ("[", "{")
CHOICES = "choices"  # key of Label Studio


def choose_separator(cells: Iterable[str]) -> str:
    """Chooses what separates the labels in the cells of a column: the first of `SEPARATORS` that any of them holds.

    A comma does not, where other cells are lists in JSON.

    Args:
        cells: of the column.

    Returns:
        The separator; empty if every cell holds one label or a list in JSON.
    """
    cells = list(cells)
    plain = [cell for cell in cells if not cell.startswith(LIST_BEGINNINGS)]
    candidates = SEPARATORS if len(plain) == len(cells) else SEPARATORS_BESIDE_LISTS
    return next((separator for separator in candidates if any(separator in cell for cell in plain)), "")


def read_cell(cell: str, separator: str) -> list[str] | None:
    """Reads the labels in a cell.

    Args:
        cell: labels with a separator between, a list in JSON or as Python writes it, or Label Studio's `{"choices": [...]}`.
        separator: between labels; empty if a cell that is no list holds one.

    Returns:
        The labels; an empty list where an empty list says that the image has none, and None if the cell says nothing.

    Raises:
        InvalidLine: a list cannot be read, or holds something else than labels.
    """
    cell = cell.strip()
    if not cell or cell.lower() in MISSING_VALUES:
        return None
    if cell.startswith(LIST_BEGINNINGS):
        return list_labels(_parse_list(cell))
    labels = [part.strip() for part in cell.split(separator)] if separator else [cell]
    return [label for label in labels if label] or None


def list_labels(value: Any) -> list[str]:
    """Returns the labels in a value of JSON: a list, one label, or Label Studio's dictionary of choices, also in a list.

    Args:
        value: as parsed.

    Raises:
        InvalidLine: a label is neither a text nor a whole number.
    """
    if isinstance(value, dict) and CHOICES in value:
        value = value[CHOICES]
    found: list[str] = []
    for label in value if isinstance(value, list) else [value]:
        if isinstance(label, dict) and CHOICES in label:
            found += list_labels(label[CHOICES])
            continue
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise InvalidLine("a label that is neither a string nor a whole number")
        found.append(str(label).strip())
    return [label for label in found if label]


def joined(labels: Iterable[str]) -> str:
    """Joins the labels of an image as the table holds them.

    Args:
        labels: in any order.

    Raises:
        InvalidLine: a label holds a tab, which separates them there.
    """
    labels = list(labels)
    if any(LABEL_SEPARATOR in label for label in labels):
        raise InvalidLine("a control character")
    return join_labels(labels)


def _parse_list(cell: str) -> Any:
    try:
        return json_text.parse(cell)
    except ValueError:
        pass
    try:
        return ast.literal_eval(cell)  # pandas writes lists as Python does
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise InvalidLine(f"a list of labels that is not JSON, {cell}") from None
