"""Explains data in which there is no image because it is packed in a way that is not read."""

import re

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.table import MAX_NAMED, Catalog, some
from kfp_vision.storage import base, packing, reading, uris

# Of WebDataset: an image, and beside it, under the same name, its class or what else is known of it.
IMAGE_SUFFIXES, CLASS_SUFFIX, OTHER_SUFFIXES = ("jpg", "jpeg", "png", "webp"), "cls", ("json", "txt")
SHARD = re.compile(r"\d{3,}\.(tar|tgz|tar\.gz)$", re.IGNORECASE)
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".manifest", ".lst")  # of files that are likely to be import files
SUBMISSION = "submission"  # in the name of a competition's empty answer
WEBDATASET_REMEDY = "Unpack the shards into one folder per class, or list the images and their classes in an import file."


def require_unpacked(found: Catalog, images_uri: str) -> None:
    """Rejects data that holds packed files instead of images.

    Args:
        found: the catalog of the data, without images or with those of one class.
        images_uri: of the data.

    Raises:
        InputError: it is a WebDataset shard, a folder of archives, or an archive of archives.
    """
    what, remedy = _explain(found, images_uri)
    if what:
        raise InputError("images_uri must contain images", f"{what} at {base.redact_uri(images_uri)}", remedy)


def tables_remedy(found: Catalog, images_uri: str) -> str:
    """Returns what to do if a table among the skipped files gives the labels, as a sentence that begins with a space.

    Args:
        found: the catalog of the data.
        images_uri: of the data.

    Returns:
        The sentence; empty if there is no such table.
    """
    names = [name for examples in found.skipped.names.values() for name in examples]
    tables = [name for name in names if name.lower().endswith(TABLE_SUFFIXES) and SUBMISSION not in name.lower()]
    if not tables or images_uri in uris.SAMPLES:
        return ""
    which, one = (tables[0], "it") if len(tables) == 1 else (f"one of {some(tables)}", "that file")
    unpacked = "" if reading.is_folder(images_uri) else "unpack the archive and "
    return f" If {which} gives the labels, {unpacked}set images_uri to {one}."


def _explain(found: Catalog, images_uri: str) -> tuple[str, str]:
    """Returns what is there instead of images, and the remedy; empty strings if it is nothing that we know."""
    names = list(dict.fromkeys(name for examples in found.skipped.names.values() for name in examples))
    names += [row.name for row in found.rows[:MAX_NAMED]]
    in_archive = images_uri not in uris.SAMPLES and not reading.is_folder(images_uri)
    if pair := _find_pair(names, (CLASS_SUFFIX, *OTHER_SUFFIXES) if in_archive and not found.rows else (CLASS_SUFFIX,)):
        return f"a WebDataset shard ({' beside '.join(pair)})", WEBDATASET_REMEDY
    files = [name for name in names if not packing.is_beside_data(name)]
    packed = [name for name in files if packing.has_archive_suffix(name)]
    if not packed or packed != files:
        return "", ""
    if in_archive:
        remedy = "Unpack the inner ones into one folder per class, and give that folder, or pack it as one archive."
        return f"an archive of archives ({some(packed)})", remedy
    if all(SHARD.search(name) for name in packed):
        return f"a folder of shards as WebDataset writes them ({some(packed)})", WEBDATASET_REMEDY
    if len(packed) == 1:
        return f"a folder that holds an archive ({packed[0]})", f"Give the archive: {uris.join_uri(images_uri, packed[0])}."
    return f"a folder of archives ({some(packed)})", "Give one of them, or unpack all into one folder per class."


def _find_pair(names: list[str], suffixes: tuple[str, ...]) -> tuple[str, str] | None:
    """Finds an image and a file of the same name with one of some suffixes; WebDataset's names end at their first dot."""
    beside: dict[str, dict[str, str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        stem, _, suffix = file.partition(".")
        beside.setdefault(f"{folder}/{stem}", {})[suffix.lower()] = name
    for files in beside.values():
        image = next((files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files), "")
        other = next((files[suffix] for suffix in suffixes if suffix in files), "")
        if image and other:
            return image, other
    return None
