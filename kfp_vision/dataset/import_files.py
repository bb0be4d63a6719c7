"""Reads import files (images with their labels) and exclusion lists (images to leave out).

An import file is CSV, JSON Lines or an MXNet .lst file:

- CSV: `uri,label` or `uri,label,ml_use`, with or without a header, or Vertex AI's `ml_use,uri,label`.
- JSON Lines: objects with these keys, or with Vertex AI's (see "Prepare image training data for classification" in its
  documentation).
- .lst: `index TAB label TAB path`, where the label is a number from 0, as MXNet's im2rec writes it and SageMaker's image
  classification reads it.

An exclusion list is CSV with a header. Column `path` holds the URI of an image or its path below the root of the data. If there
is a column `leave_out`, only lines with yes are applied. Other columns are ignored.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from kfp_vision.core.errors import InputError
from kfp_vision.storage import reading, uris
from kfp_vision.storage.base import split_settings

IMPORT_SUFFIXES = (".csv", ".jsonl", ".lst")
# Split names in use, mapped to ours.
SPLIT_NAMES = dict.fromkeys(("train", "training"), "train")
SPLIT_NAMES |= dict.fromkeys(("val", "valid", "validation"), "validation")
SPLIT_NAMES |= dict.fromkeys(("test", "testing"), "test")
UNASSIGNED = ("", "unassigned")
VERTEX_ML_USE = "aiplatform.googleapis.com/ml_use"
LINE_FORMATS = {
    ".csv": "Write lines such as daisy/1.jpg,daisy or daisy/1.jpg,daisy,training, in UTF-8.",
    ".jsonl": 'Write lines such as {"uri": "daisy/1.jpg", "label": "daisy"}, in UTF-8.',
    ".lst": "Write lines such as 0 TAB 3 TAB daisy/1.jpg: an index, the class as a number, the path.",
}


@dataclass(frozen=True)
class ImportEntry:
    """A line of an import file.

    Attributes:
        name: URI of the image as written in the file.
        uri: absolute URI of the image.
        label: class of the image.
        split: train, validation or test; empty if not given.
        line: line number, from 1.
    """

    name: str
    uri: str
    label: str
    split: str
    line: int


class InvalidLine(Exception):
    """A line is invalid; the message describes the fault."""


def is_import_file(uri: str) -> bool:
    """Returns whether a URI has the suffix of an import file and is not a folder."""
    return uri_suffix(uri) in IMPORT_SUFFIXES and "#" not in uri and not Path(uri).is_dir()


def uri_suffix(uri: str) -> str:
    """Returns the file suffix of a URI in lower case, such as `.csv`, also of `.csv.gz`; empty if it has none."""
    path = urlsplit(uri).path if uris.scheme_of(uri) else uri
    return PurePosixPath(path.lower().removesuffix(".gz")).suffix


def read_import_file(uri: str) -> list[ImportEntry]:
    """Reads an import file.

    Args:
        uri: of the file; its suffix, one of `IMPORT_SUFFIXES`, selects the format.

    Returns:
        The entries in the order of the file. Relative URIs are resolved against the location of the file; numeric labels of
        a .lst file are padded with zeros to the same width.

    Raises:
        InputError: a line is invalid; the message names the file and the line.

    Example:
        for entry in read_import_file("s3://bucket/flowers.csv"):
            print(entry.uri, entry.label, entry.split)
    """
    uri = uris.absolute_uri(uri)
    kind = uri_suffix(uri)
    text = decode_text(uri, partial(invalid_line_error, uri))
    entries = []
    parse = {".csv": _parse_csv, ".jsonl": _parse_json_lines, ".lst": _parse_lst}[kind]
    for line, (name, label, ml_use) in parse(text, uri):
        try:
            entries.append(ImportEntry(name, _resolve(name, uri), _require_label(label), _parse_split(ml_use), line))
        except InvalidLine as reason:
            raise invalid_line_error(uri, line, str(reason)) from None
    return _pad_labels(entries) if kind == ".lst" else entries


def invalid_line_error(uri: str, line: int, found: str) -> InputError:
    """Returns the error for an invalid line of an import file.

    Args:
        uri: of the import file.
        line: line number, from 1.
        found: what is wrong with the line.
    """
    rule = "every line of an import file must give an image and its label"
    return InputError(rule, f"{found} in {uri}, line {line}", LINE_FORMATS[uri_suffix(uri)])


def decode_text(uri: str, line_error: Callable[[int, str], InputError]) -> str:
    """Downloads a UTF-8 file, and drops the byte order mark that spreadsheets write."""
    try:
        return reading.fetch_unpacked(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise line_error(line, "bytes that are not UTF-8") from None


def text_lines(
    text: str, line_error: Callable[[int, str], InputError], delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells of each CSV line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise line_error(reader.line_num, str(error)) from None


LineFields = tuple[str, str, str]  # URI, label, ml_use


def _parse_csv(text: str, uri: str) -> Iterator[tuple[int, LineFields]]:
    header: list[str] | None = None
    for line, cells in text_lines(text, partial(invalid_line_error, uri)):
        names = ["ml_use" if cell.lower() == "split" else cell.lower() for cell in cells]
        if header is None and {"uri", "label"} <= set(names):
            header = names
            continue
        header = header or []
        try:
            yield line, _order_cells(cells, header)
        except InvalidLine as reason:
            raise invalid_line_error(uri, line, str(reason)) from None


def _order_cells(cells: list[str], header: list[str]) -> LineFields:
    """Orders cells by the header; without one, ml_use is the first cell (Vertex AI) or the last (ours)."""
    if header:
        if len(cells) != len(header):
            raise InvalidLine(f"{len(cells)} fields under a header of {len(header)}")
        named = dict(zip(header, cells, strict=True))
        return named["uri"], named["label"], named.get("ml_use", "")
    if len(cells) == 3 and cells[0].lower() in (*SPLIT_NAMES, *UNASSIGNED):
        return cells[1], cells[2], cells[0]
    if len(cells) not in (2, 3):
        raise InvalidLine(f"{len(cells)} fields")
    return cells[0], cells[1], "".join(cells[2:])


def _parse_json_lines(text: str, uri: str) -> Iterator[tuple[int, LineFields]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, _from_json(json.loads(line))
        except (ValueError, RecursionError):
            raise invalid_line_error(uri, number, "invalid JSON") from None
        except InvalidLine as reason:
            raise invalid_line_error(uri, number, str(reason)) from None


def _from_json(item: Any) -> LineFields:
    """Reads our keys, or Vertex AI's."""
    if not isinstance(item, dict):
        raise InvalidLine("JSON that is not an object")
    annotation, resource_labels = item.get("classificationAnnotation", {}), item.get("dataItemResourceLabels", {})
    if not isinstance(annotation, dict) or not isinstance(resource_labels, dict):
        raise InvalidLine("fields that are not objects")
    label = item.get("label", annotation.get("displayName", ""))
    name, ml_use = item.get("uri", item.get("imageGcsUri", "")), item.get("ml_use", resource_labels.get(VERTEX_ML_USE, ""))
    if not (isinstance(name, str) and isinstance(label, str) and isinstance(ml_use, str)):
        raise InvalidLine("a field that is not a string")
    return name, label, ml_use


def _parse_lst(text: str, uri: str) -> Iterator[tuple[int, LineFields]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != 3:
            raise invalid_line_error(uri, number, f"{len(cells)} fields between tabs")
        try:
            label = float(cells[1])  # im2rec writes 3.000000
        except ValueError:
            label = -1.0
        if not 0 <= label < 1 << 31 or label != int(label):
            raise invalid_line_error(uri, number, f"the label {cells[1]}, which is not a whole number from 0")
        yield number, (cells[2].strip(), str(int(label)), "")


def _pad_labels(entries: list[ImportEntry]) -> list[ImportEntry]:
    """Pads numeric labels with zeros, so that sorting them by name sorts them by number."""
    width = max((len(entry.label) for entry in entries), default=0)
    return [replace(entry, label=entry.label.zfill(width)) for entry in entries]


def _resolve(name: str, listing: str) -> str:
    if not name:
        raise InvalidLine("no URI")
    base = split_settings(listing)[0]
    settings = listing[len(base) :]  # endpoint and region of the bucket, which apply to its images too
    if uris.scheme_of(name) == uris.scheme_of(base) and settings:
        return name if split_settings(name)[1] else f"{name}{settings}"
    if uris.scheme_of(name) or PurePosixPath(name).is_absolute():
        return uris.absolute_uri(name)
    if uris.scheme_of(base) in ("http", "https"):
        return urljoin(base, name)
    path = f"{base.rpartition('/')[0]}/{name}"
    return f"{path}{settings}" if uris.scheme_of(base) else os.path.normpath(path)


def _require_label(label: str) -> str:
    if not label:
        raise InvalidLine("no label")
    return label


def _parse_split(ml_use: str) -> str:
    name = ml_use.lower()
    if name in UNASSIGNED:
        return ""
    if name not in SPLIT_NAMES:
        raise InvalidLine(f"the ml_use {ml_use} (not training, validation or test)")
    return SPLIT_NAMES[name]
