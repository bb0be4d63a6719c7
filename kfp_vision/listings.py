"""Lists of pictures: import files, which name them with their labels, and those of pictures to leave out.

An import file is CSV, JSON Lines, or MXNet's .lst. CSV is `uri,label` or `uri,label,ml_use`, with or without a header, or
`ml_use,uri,label` as Vertex AI takes it. JSON Lines hold objects of these names, or of Vertex AI's (its documentation, "Prepare
image training data for classification"). A .lst is `index TAB label TAB path`, the label a number from 0, as MXNet's im2rec
writes and SageMaker's image classification takes it.

A list of pictures to leave out is CSV with a header. Its column `path` holds a picture's URI, or its path below the root of the
data; where there is a column `leave_out`, only the lines with yes count. Other columns are for who reads it.
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

from kfp_vision import storage, stores
from kfp_vision.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".lst")
# What people call a split, to our name of it.
SPLIT_NAMES = dict.fromkeys(("train", "training"), "train")
SPLIT_NAMES |= dict.fromkeys(("val", "valid", "validation"), "validation")
SPLIT_NAMES |= dict.fromkeys(("test", "testing"), "test")
UNASSIGNED = ("", "unassigned")
VERTEX_ML_USE = "aiplatform.googleapis.com/ml_use"
LAYOUT = {
    ".csv": "Write lines such as daisy/1.jpg,daisy or daisy/1.jpg,daisy,training, in UTF-8.",
    ".jsonl": 'Write lines such as {"uri": "daisy/1.jpg", "label": "daisy"}, in UTF-8.',
    ".lst": "Write lines such as 0 TAB 3 TAB daisy/1.jpg: an index, the class as a number, the path.",
}
COUNTS = dict.fromkeys(("yes", "true", "1", "x"), True) | dict.fromkeys(("no", "false", "0", ""), False)  # of leave_out
TO_LEAVE_OUT = "Write path,leave_out in the first line and lines such as daisy/1.jpg,yes below it, in UTF-8."


@dataclass(frozen=True)
class Entry:
    """A line of an import file.

    Attributes:
        name: the picture's URI as it is written there.
        uri: where its bytes are.
        label: its class.
        split: train, validation or test; empty where the file does not say.
        line: the number of the line, from 1.
    """

    name: str
    uri: str
    label: str
    split: str
    line: int


class Broken(Exception):
    """A line that cannot be read; the message says what was found there."""


def is_listing(uri: str) -> bool:
    """Whether a URI names an import file, by its ending."""
    return suffix(uri) in SUFFIXES and "#" not in uri and not Path(uri).is_dir()


def suffix(uri: str) -> str:
    """The ending of what a URI names, in small letters."""
    path = urlsplit(uri).path if storage.scheme(uri) else uri
    return PurePosixPath(path).suffix.lower()


def read(uri: str) -> list[Entry]:
    """The pictures that an import file names, in its order. A relative URI is relative to the file.

    Raises:
        InputError: naming the file and the line that cannot be read.
    """
    uri = storage.absolute(uri)
    kind = suffix(uri)
    text = _text(uri, partial(broken, uri))
    entries = []
    parsed = {".csv": _csv, ".jsonl": _json, ".lst": _lst}[kind](text, uri)
    for line, (name, label, ml_use) in parsed:
        try:
            entries.append(Entry(name, _resolved(name, uri), _label(label), _split(ml_use), line))
        except Broken as reason:
            raise broken(uri, line, str(reason)) from None
    return _padded(entries) if kind == ".lst" else entries


def broken(uri: str, line: int, found: str) -> InputError:
    """What to say of a line that cannot be read."""
    rule = "an import file must name a picture and its label in every line"
    return InputError(rule, f"{found} in {uri}, line {line}", LAYOUT[suffix(uri)])


def to_leave_out(uri: str) -> list[str]:
    """What a list of pictures to leave out names, each once, in its order: URIs, and paths below the root of the data.

    Raises:
        InputError: it is no file, has no column `path`, or naming the line that cannot be read.
    """
    uri = storage.absolute(uri)
    refused = partial(_broken_list, uri)
    try:
        text = _text(uri, refused)
    except OSError as reason:
        rule = "a list of pictures to leave out must be a file that can be read"
        raise InputError(rule, f"{stores.shown(uri)} ({reason.strerror})", "Give a CSV with a column path.") from None
    lines = _lines(text, refused, _delimiter(text))
    _, first = next(lines, (1, []))
    header = [cell.lower() for cell in first]
    if "path" not in header:
        rule = "a list of pictures to leave out must have a column path"
        raise InputError(rule, f"{', '.join(first) or 'nothing'} in {stores.shown(uri)}, line 1", TO_LEAVE_OUT)
    named: dict[str, None] = {}
    for line, cells in lines:
        if len(cells) != len(header):
            raise refused(line, f"{len(cells)} fields under a header of {len(header)}")
        fields = dict(zip(header, cells, strict=True))
        counts = COUNTS.get(fields.get("leave_out", "yes").lower())
        if counts is None:
            rule = "leave_out must be yes or no in every line of a list of pictures to leave out"
            found = f"{fields['leave_out']} in {stores.shown(uri)}, line {line}"
            raise InputError(rule, found, "Write yes to leave the picture out, no or nothing to keep it.")
        if counts and not fields["path"]:
            raise refused(line, "no path")
        if counts:
            named[fields["path"]] = None
    return list(named)


def _broken_list(uri: str, line: int, found: str) -> InputError:
    rule = "a list of pictures to leave out must name one in every line"
    return InputError(rule, f"{found} in {stores.shown(uri)}, line {line}", TO_LEAVE_OUT)


def _delimiter(text: str) -> str:
    """A spreadsheet writes semicolons where the comma is in its numbers."""
    first = text.lstrip().partition("\n")[0]
    return ";" if first.count(";") > first.count(",") else ","


def _text(uri: str, refused: Callable[[int, str], InputError]) -> str:
    """What a file holds, without the byte order mark with which spreadsheets begin a CSV."""
    try:
        return storage.fetch(uri).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise refused(line, "bytes that are no UTF-8") from None


def _lines(text: str, refused: Callable[[int, str], InputError], delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV that hold anything: their numbers and cells."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise refused(reader.line_num, str(error)) from None


Fields = tuple[str, str, str]


def _csv(text: str, uri: str) -> Iterator[tuple[int, Fields]]:
    header: list[str] | None = None
    for line, cells in _lines(text, partial(broken, uri)):
        names = ["ml_use" if cell.lower() == "split" else cell.lower() for cell in cells]
        if header is None and {"uri", "label"} <= set(names):
            header = names
            continue
        header = header or []
        try:
            yield line, _in_order(cells, header)
        except Broken as reason:
            raise broken(uri, line, str(reason)) from None


def _in_order(cells: list[str], header: list[str]) -> Fields:
    """URI, label and use of a line: by the header's names; else Vertex AI's use comes first, ours last."""
    if header:
        if len(cells) != len(header):
            raise Broken(f"{len(cells)} fields under a header of {len(header)}")
        named = dict(zip(header, cells, strict=True))
        return named["uri"], named["label"], named.get("ml_use", "")
    if len(cells) == 3 and cells[0].lower() in (*SPLIT_NAMES, *UNASSIGNED):
        return cells[1], cells[2], cells[0]
    if len(cells) not in (2, 3):
        raise Broken(f"{len(cells)} fields")
    return cells[0], cells[1], "".join(cells[2:])


def _json(text: str, uri: str) -> Iterator[tuple[int, Fields]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, _from_json(json.loads(line))
        except (ValueError, RecursionError):
            raise broken(uri, number, "what is no JSON") from None
        except Broken as reason:
            raise broken(uri, number, str(reason)) from None


def _from_json(item: Any) -> Fields:
    """URI, label and use: under our names, or under Vertex AI's."""
    if not isinstance(item, dict):
        raise Broken("JSON that is no object")
    annotation, about = item.get("classificationAnnotation", {}), item.get("dataItemResourceLabels", {})
    if not isinstance(annotation, dict) or not isinstance(about, dict):
        raise Broken("fields that are no objects")
    label = item.get("label", annotation.get("displayName", ""))
    name, use = item.get("uri", item.get("imageGcsUri", "")), item.get("ml_use", about.get(VERTEX_ML_USE, ""))
    if not (isinstance(name, str) and isinstance(label, str) and isinstance(use, str)):
        raise Broken("a field that is no text")
    return name, label, use


def _lst(text: str, uri: str) -> Iterator[tuple[int, Fields]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != 3:
            raise broken(uri, number, f"{len(cells)} fields between tabs")
        try:
            label = float(cells[1])  # im2rec writes 3.000000
        except ValueError:
            label = -1.0
        if not 0 <= label < 1 << 31 or label != int(label):
            raise broken(uri, number, f"the label {cells[1]}, which is no whole number from 0")
        yield number, (cells[2].strip(), str(int(label)), "")


def _padded(entries: list[Entry]) -> list[Entry]:
    """Numbers of one width, so that classes sorted by name stand in the order of their numbers."""
    width = max((len(entry.label) for entry in entries), default=0)
    return [replace(entry, label=entry.label.zfill(width)) for entry in entries]


def _resolved(name: str, listing: str) -> str:
    if not name:
        raise Broken("no URI")
    place = stores.parted(listing)[0]
    settings = listing[len(place) :]  # which server it is, where the address says so: its pictures lie there too
    if storage.scheme(name) == storage.scheme(place) and settings:
        return name if stores.parted(name)[1] else f"{name}{settings}"
    if storage.scheme(name) or PurePosixPath(name).is_absolute():
        return storage.absolute(name)
    if storage.scheme(place) in ("http", "https"):
        return urljoin(place, name)
    beside = f"{place.rpartition('/')[0]}/{name}"
    return f"{beside}{settings}" if storage.scheme(place) else os.path.normpath(beside)


def _label(label: str) -> str:
    if not label:
        raise Broken("no label")
    return label


def _split(ml_use: str) -> str:
    use = ml_use.lower()
    if use in UNASSIGNED:
        return ""
    if use not in SPLIT_NAMES:
        raise Broken(f"the use {ml_use}, which is none of training, validation, test,")
    return SPLIT_NAMES[use]
