"""What is particular to data whose images have any number of labels: one row an image, and what to tell about the sets."""

from collections import Counter
from collections.abc import Set
from dataclasses import replace
from itertools import combinations

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import import_files
from kfp_vision.dataset.label_cells import SEPARATORS
from kfp_vision.dataset.table import (
    MAX_NAMED,
    SHOWN_SEPARATOR,
    Catalog,
    ImageRow,
    join_labels,
    last_split,
    some,
)
from kfp_vision.reports.formatting import plural

SHOWN_PAIRS = 5


def merge_copies(found: Catalog) -> None:
    """Gives each image one row, with the labels of all its copies.

    So an image that lies in the folders of several classes has the labels of all. Of the splits of copies, the last is kept.

    Args:
        found: the catalog; changed in place.
    """
    copies_of: dict[str, list[ImageRow]] = {}
    for row in found.rows:
        copies_of.setdefault(row.content_id, []).append(row)
    copies = len(found.rows) - len(copies_of)
    if not copies:
        return
    different = sum(len({row.label for row in rows}) > 1 for rows in copies_of.values())
    found.rows = [_merge(rows) for rows in copies_of.values()]
    told = f"; {plural(different, 'image has', 'images have')} the labels of several copies" if different else ""
    found.notes.append(
        f"{plural(copies, 'image is a byte-for-byte copy', 'images are byte-for-byte copies')} of others, "
        f"and not used a second time{told}."
    )


def folder_labels(found: Catalog, images_uri: str) -> Set[str]:
    """Returns the labels that are names of folders: all, unless an import file gives them.

    Args:
        found: the catalog of the data, before labels are changed.
        images_uri: of the data.
    """
    return frozenset[str]() if import_files.is_import_file(images_uri) else found.classes.keys()


def check_names(found: Catalog, folders: Set[str] = frozenset(), separator: str = "") -> None:
    """Checks that tables can hold the names of the labels.

    Args:
        found: the catalog of the data.
        folders: the labels that are names of folders.
        separator: the setting `label_separator` of `advanced`.

    Raises:
        InputError: a label holds `|`, which separates labels wherever people read them.
    """
    wrong = [label for label in found.classes if SHOWN_SEPARATOR in label]
    if wrong:
        rule = f"with labels=several, a label must not hold {SHOWN_SEPARATOR}, which separates labels in tables"
        raise InputError(rule, some(wrong), _separate(in_folders=not folders.isdisjoint(wrong), separator=separator))


def _separate(*, in_folders: bool, separator: str) -> str:
    """Returns the remedy for a label that holds `|`. Without a setting, that separates labels in the cells of tables anyway."""
    if in_folders:
        each = "put a copy of each image in the folder of each of its labels, or list the images in a table with their labels"
        return f"Rename the folder; if it is a list of labels, {each}."
    if separator in ("", SHOWN_SEPARATOR):
        return "Rename it; if it is a list of labels, give each of them by itself."
    return f'Rename it; if it is a list of labels, set advanced to {{"label_separator": "{SHOWN_SEPARATOR}"}}.'


def _merge(rows: list[ImageRow]) -> ImageRow:
    if len(rows) == 1:
        return rows[0]
    label = join_labels(label for row in rows for label in row.labels)
    return replace(rows[0], label=label, split=last_split(row.split for row in rows))


def set_notes(found: Catalog) -> list[str]:
    """Describes the sets of labels: how many labels images have, and which are most often together.

    Args:
        found: the catalog of the data.

    Returns:
        One sentence per finding.
    """
    sizes = Counter(len(row.labels) for row in found.rows)
    counts = [f"{count} on {plural(sizes[count], 'image', 'images')}" for count in sorted(sizes) if count]
    sentences = [f"Labels on an image: {', '.join(counts[:MAX_NAMED])}." if counts else "No image has a label."]
    if sizes[0]:
        sentences.append(f"{plural(sizes[0], 'image has', 'images have')} none of the labels: a negative example for all.")
    pairs = Counter(pair for row in found.rows for pair in combinations(row.labels, 2))
    if pairs:
        most = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:SHOWN_PAIRS]
        named = ", ".join(f"{' and '.join(pair)} ({pairs[pair]})" for pair in most)
        sentences.append(f"Labels most often together: {named}.")
    sentences += hidden_notes(found, "separate all labels by one character, and set label_separator of advanced to it")
    if sizes.keys() == {1}:
        sentences.append("Every image has exactly one label: is labels=several what you want?")
    return sentences


def hidden_notes(found: Catalog, remedy: str = "set labels to several if they are") -> list[str]:
    """Tells of labels that seem to be several, such as daisy|rose, where each image is to have one, or of another separator.

    Args:
        found: the catalog of the data.
        remedy: what to do about them.

    Returns:
        One sentence, or none.
    """
    for separator in SEPARATORS:
        parts_of = {label: [part.strip() for part in label.split(separator)] for label in found.classes}
        counts = Counter(part for parts in parts_of.values() for part in parts)
        joined = [label for label, parts in parts_of.items() if len(parts) > 1 and all(counts[part] > 1 for part in parts)]
        if joined:
            return [f"Labels such as {joined[0]} seem to be several: {remedy}."]
    return []
