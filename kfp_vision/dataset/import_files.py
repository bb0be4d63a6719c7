"""Reads import files: lists of images with their labels.

An import file is CSV, JSON Lines, JSON or an MXNet .lst file:

- CSV: `uri,label` or `uri,label,ml_use`, with or without a header, or Vertex AI's `ml_use,uri,label`. With a header the columns
  may have other names in use, see `import_lines`. The delimiter may be a comma, a semicolon, a tab or a bar.
- JSON Lines: objects with these keys, with Vertex AI's (see "Prepare image training data for classification" in its
  documentation), or with those of SageMaker's augmented manifests. JSON: an array of such objects, or an object of images and
  labels.
- .lst: `index TAB label TAB path`, where the label is a number from 0, as MXNet's im2rec writes it and SageMaker's image
  classification reads it.
"""

import codecs
import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from kfp_vision.core.errors import InputError, format_value
from kfp_vision.dataset.import_csv import parse_csv
from kfp_vision.dataset.import_json import parse_json, parse_json_lines
from kfp_vision.dataset.import_lines import (
    FLAGS,
    ONE_LABEL,
    OUR_SPLIT_COLUMNS,
    LabelRule,
    Line,
    ParsedLines,
    plain_name,
)
from kfp_vision.dataset.invalid_lines import InvalidColumns, InvalidLine
from kfp_vision.dataset.label_cells import joined
from kfp_vision.dataset.label_studio import plain_path
from kfp_vision.dataset.table import LABEL_SEPARATOR
from kfp_vision.storage import name_encodings, reading, uris
from kfp_vision.storage.base import redact_uri, split_settings

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
IMPORT_SUFFIXES = (*CSV_SUFFIXES, ".jsonl", ".ndjson", ".manifest", ".json", ".lst")
# Tables that are told for what they are, and how to save them.
OTHER_TABLES = {".xlsx": "an Excel workbook", ".xls": "an Excel workbook", ".ods": "a spreadsheet of OpenDocument"}
OTHER_TABLES |= {".parquet": "a Parquet file", ".arrow": "an Arrow file", ".feather": "an Arrow file"}
# Split names in use, mapped to ours.
SPLIT_NAMES = dict.fromkeys(("train", "training"), "train")
SPLIT_NAMES |= dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), "validation")
SPLIT_NAMES |= dict.fromkeys(("test", "testing"), "test")
UNASSIGNED = ("", "unassigned")
CSV_FORMAT = "Write lines such as daisy/1.jpg,daisy or daisy/1.jpg,daisy,training, in UTF-8 (in Excel, save it as CSV UTF-8)."
JSON_FORMAT = 'Write lines such as {"uri": "daisy/1.jpg", "label": "daisy"}.'
LINE_FORMATS = dict.fromkeys(CSV_SUFFIXES, CSV_FORMAT) | dict.fromkeys((".jsonl", ".ndjson", ".manifest"), JSON_FORMAT)
LINE_FORMATS |= {
    ".json": 'Write items such as {"uri": "daisy/1.jpg", "label": "daisy"}.',
    ".lst": "Write lines such as 0 TAB 3 TAB daisy/1.jpg: an index, the class as a number, the path.",
}
# How faults begin that an image with several labels causes where each is to have one.
SEVERAL_FAULTS = ("several labels", "several classes")
MAX_WRONG_LINES = 10  # named in an error; the rest is only counted
MAX_FAULT_CHARACTERS = 200
STEPS = {".", ".."}
CELL_CHARACTERS = 100  # that are looked at, to tell the encoding
CELL = re.compile(r"""[^\n\r\t,;|"'/\\]+""")  # of a table, or a string in JSON, or a part of a path
WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # a drive, or a share


@dataclass(frozen=True)
class ImportEntry:
    """A line of an import file.

    Attributes:
        name: URI of the image as written in the file.
        uri: absolute URI of the image.
        label: class of the image, or all of them as the table holds them; empty if not given.
        split: train, validation or test; empty if not given.
        line: line number, from 1.
        is_negative: whether the image is said to have none of the labels.
    """

    name: str
    uri: str
    label: str
    split: str
    line: int
    is_negative: bool = False


@dataclass(frozen=True)
class ImportFile:
    """The contents of an import file.

    Attributes:
        entries: in the order of the file.
        notes: how the file was read, one sentence each.
    """

    entries: list[ImportEntry]
    notes: list[str] = field(default_factory=list)


def is_import_file(uri: str) -> bool:
    """Returns whether a URI has the suffix of an import file and is not a folder."""
    return uri_suffix(uri) in (*IMPORT_SUFFIXES, *OTHER_TABLES) and "#" not in uri and not Path(uri).is_dir()


def uri_suffix(uri: str) -> str:
    """Returns the file suffix of a URI in lower case, such as `.csv`, also of `.csv.gz`; empty if it has none."""
    path = urlsplit(uri).path if uris.scheme_of(uri) else uri
    return PurePosixPath(path.lower().removesuffix(".gz")).suffix


def read_import_file(uri: str, labels: LabelRule = ONE_LABEL) -> ImportFile:
    """Reads an import file.

    Args:
        uri: of the file; its suffix, one of `IMPORT_SUFFIXES`, selects the format.
        labels: how labels are read.

    Returns:
        Its entries and notes. Relative URIs are resolved against the location of the file; numeric labels of a .lst file are
        padded with zeros to the same width.

    Raises:
        InputError: lines are invalid; the message names the file and the first lines.

    Example:
        for entry in read_import_file("s3://bucket/flowers.csv").entries:
            print(entry.uri, entry.label, entry.split)
    """
    uri = uris.absolute_uri(uri)
    kind = uri_suffix(uri)
    if kind in OTHER_TABLES:
        rule = f"an import file must be one of {', '.join(IMPORT_SUFFIXES)}"
        raise InputError(rule, f"{OTHER_TABLES[kind]} ({uri})", "Save it as CSV, in UTF-8.")
    notes: list[str] = []
    text = decode_text(uri, partial(invalid_line_error, uri), notes)
    try:
        parsed = _parse(text, kind, labels)
    except InvalidColumns as fault:
        rule = "an import file must tell which column or key is the image and which the label"
        raise InputError(rule, f"{fault.found} in {uri}", fault.remedy) from None
    _drop_foreign_splits(parsed)
    entries, wrong = [], parsed.wrong
    for line in parsed.lines:
        try:
            place, split = resolve(plain_path(line.name), uri), _parse_split(line.ml_use)
            entries.append(ImportEntry(plain_path(line.name), place, line.label, split, line.number, line.is_negative))
        except InvalidLine as fault:
            wrong.append((line.number, str(fault)))
    if wrong:
        raise _several_labels_error(uri, wrong, labels) or invalid_lines_error(uri, sorted(wrong))
    return ImportFile(_pad_labels(entries) if kind == ".lst" else entries, [*notes, *parsed.notes])


def invalid_line_error(uri: str, line: int, found: str) -> InputError:
    """Returns the error for an invalid line of an import file.

    Args:
        uri: of the import file.
        line: line number, from 1.
        found: what is wrong with the line.
    """
    return invalid_lines_error(uri, [(line, found)])


def invalid_lines_error(uri: str, wrong: list[tuple[int, str]]) -> InputError:
    """Returns the error for the invalid lines of an import file, which names the first `MAX_WRONG_LINES`.

    Args:
        uri: of the import file.
        wrong: number and fault of each, at least one.
    """
    rule, remedy = "every line of an import file must give an image and its label", LINE_FORMATS[uri_suffix(uri)]
    if len(wrong) == 1:
        return InputError(rule, f"{wrong[0][1]} in {uri}, line {wrong[0][0]}", remedy)
    first = [f"line {line}: {format_value(found, MAX_FAULT_CHARACTERS)}" for line, found in wrong[:MAX_WRONG_LINES]]
    return InputError(rule, f"{len(wrong)} wrong lines in {uri}", f"{remedy} {name_first(first, len(wrong))}")


def _several_labels_error(uri: str, wrong: list[tuple[int, str]], labels: LabelRule) -> InputError | None:
    """Returns the error for a file in which images have several labels, where each is to have one."""
    marked = sorted((line, fault) for line, fault in wrong if fault.startswith(SEVERAL_FAULTS))
    if labels.several or not marked:
        return None
    rule = "with labels=one, every line of an import file must give one label"
    line, fault = marked[0]
    more = f" and in {len(marked) - 1} more" if len(marked) > 1 else ""
    remedy = "Set labels to several if an image may have several of them, or leave one in each line."
    return InputError(rule, f"{fault} in {uri}, line {line}{more}", remedy)


def name_first(named: list[str], count: int) -> str:
    """Returns a sentence that lists the first of many things.

    Args:
        named: the first ones.
        count: of all.
    """
    rest = f" and {count - len(named)} more" if count > len(named) else ""
    return f"{'First' if rest else 'Namely'}: {'; '.join(named)}{rest}."


def decode_text(uri: str, line_error: Callable[[int, str], InputError], notes: list[str] | None = None) -> str:
    """Downloads a text in UTF-8, or in UTF-16 as Excel's "Unicode text", and drops the byte order mark of spreadsheets.

    Args:
        uri: of the text.
        line_error: makes an error of the number of a line, from 1, and what is wrong with it.
        notes: receives a sentence if the text might as well be in a code page.

    Returns:
        The text.

    Raises:
        InputError: as `line_error` makes it, if the text is not UTF-8, or is valid in it by chance alone.
    """
    content = reading.fetch_unpacked(uri)
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in content[:2]:
        encoding = "utf-16-be" if content.startswith(b"\0") else "utf-16-le"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise line_error(line, f"bytes that are not {encoding.removesuffix('-sig').upper()}") from None
    says_it = encoding != "utf-8-sig" or content.startswith(codecs.BOM_UTF8)
    note = "" if says_it else _doubt(text, uri, line_error)
    if note and notes is not None:
        notes.append(note)
    return text


def _doubt(text: str, uri: str, line_error: Callable[[int, str], InputError]) -> str:
    """Returns a sentence if a text in UTF-8 is as probable in a code page; raises the error if it is more probable there."""
    if text.isascii():
        return ""
    foreign = (cell for cell in CELL.finditer(text) if not cell[0].isascii())
    decision = name_encodings.find_encoding(cell[0][:CELL_CHARACTERS].encode() for cell in foreign)
    names = decision.name, decision.second
    if name_encodings.UTF8 not in names:
        line = next(number for number, each in enumerate(text.split("\n"), start=1) if not each.isascii())
        raise line_error(line, f"text in {decision.name} ({decision.sample[0]}) instead of UTF-8")
    if not decision.second:
        return ""
    (_, read), (other, there) = sorted(
        zip(names, decision.sample, strict=True), key=lambda pair: pair[0] != name_encodings.UTF8
    )
    return f"{redact_uri(uri)} is read as UTF-8 ({read}). If it is in {other} ({there}), save it in UTF-8."


def _parse(text: str, kind: str, labels: LabelRule) -> ParsedLines:
    if kind in CSV_SUFFIXES:
        return parse_csv(text, _is_split, labels)
    if kind == ".lst":
        return _parse_lst(text, labels)
    return parse_json(text, labels) if kind == ".json" else parse_json_lines(text, labels)


def _parse_lst(text: str, labels: LabelRule) -> ParsedLines:
    """Reads an index, a class or a 0 or 1 for each class, and a path in each line."""
    parsed = ParsedLines()
    widths = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        try:
            if len(cells) > 3 and all(cell.strip() in FLAGS for cell in cells[1:-1]):
                widths.add(len(cells) - 2)
                parsed.lines.append(_multi_hot_line(number, cells, labels))
                continue
            if len(cells) != 3:
                raise InvalidLine(f"{len(cells)} fields between tabs")
            widths.add(1)
            parsed.lines.append(Line(number, cells[2].strip(), _class_number(cells[1])))
        except InvalidLine as fault:
            parsed.wrong.append((number, str(fault)))
    if labels.several and len(widths) > 1:
        found = f"lines of {' and '.join(map(str, sorted(widths)))} numbers before the path"
        raise InvalidColumns(found, "Write a 0 or 1 for each class in every line.")
    return parsed


def _multi_hot_line(number: int, cells: list[str], labels: LabelRule) -> Line:
    """Reads a line with a 0 or 1 for each class, numbered from 0, as MXNet's im2rec takes it with several labels."""
    marked = [str(position) for position, cell in enumerate(cells[1:-1]) if FLAGS[cell.strip()]]
    if not labels.several:
        raise InvalidLine(f"several classes, of which {len(marked)} with a 1")
    return Line(number, cells[-1].strip(), joined(marked), is_negative=not marked)


def _class_number(cell: str) -> str:
    try:
        number = float(cell)  # im2rec writes 3.000000
    except ValueError:
        number = -1.0
    if not 0 <= number < 1 << 31 or number != int(number):
        raise InvalidLine(f"the label {cell}, which is not a whole number from 0")
    return str(int(number))


def _pad_labels(entries: list[ImportEntry]) -> list[ImportEntry]:
    """Pads numeric labels with zeros, so that sorting them by name sorts them by number."""
    labels_of = [entry.label.split(LABEL_SEPARATOR) if entry.label else [] for entry in entries]
    width = max((len(label) for labels in labels_of for label in labels), default=0)
    padded = (LABEL_SEPARATOR.join(label.zfill(width) for label in labels) for labels in labels_of)
    return [replace(entry, label=label) for entry, label in zip(entries, padded, strict=True)]


def resolve(name: str, listing: str) -> str:
    """Returns the absolute URI of an image that a list names.

    Args:
        name: a URI, or a path that counts from the folder of the list.
        listing: absolute URI of the list.

    Raises:
        InvalidLine: the name is empty, or cannot be resolved.
    """
    if not name:
        raise InvalidLine("no URI")
    if WINDOWS_PATH.match(name):
        raise InvalidLine(f"{name}, a path on a Windows machine (write it relative to this file)")
    base = split_settings(listing)[0]
    settings = listing[len(base) :]  # endpoint and region of the bucket, which apply to its images too
    if uris.scheme_of(name) == uris.scheme_of(base) and settings:
        return name if split_settings(name)[1] else f"{name}{settings}"
    if uris.scheme_of(name) or PurePosixPath(name).is_absolute():
        return uris.absolute_uri(name)
    if uris.scheme_of(base) in ("http", "https"):
        return urljoin(base, name.replace("\\", "/"))
    if uris.scheme_of(base):
        return f"{_join_key(base, name)}{settings}"
    path = os.path.normpath(f"{base.rpartition('/')[0]}/{name}")
    if "\\" in name and not os.path.lexists(path):  # written on Windows
        return os.path.normpath(f"{base.rpartition('/')[0]}/{name.replace(chr(92), '/')}")
    return path


def _join_key(listing: str, name: str) -> str:
    """Returns the URI of a key next to that of an import file; `.` and `..` are steps as in a path."""
    scheme, _, key = f"{listing.rpartition('/')[0]}/{name}".partition("://")
    if STEPS.isdisjoint(name.split("/")):
        return f"{scheme}://{key}"
    key = posixpath.normpath(key)
    if key.partition("/")[0] != urlsplit(listing).netloc:
        raise InvalidLine(f"{name}, which is above the bucket")
    return f"{scheme}://{key}"


def _is_split(word: str) -> bool:
    return word.lower() in (*SPLIT_NAMES, *UNASSIGNED)


def _drop_foreign_splits(parsed: ParsedLines) -> None:
    """Ignores a column such as `set` or `dataset` that holds no split, or the same in every line."""
    words = {line.ml_use for line in parsed.lines}
    if plain_name(parsed.split_column) in ("", *OUR_SPLIT_COLUMNS):
        return
    if len(words) == 1 or not any(map(_is_split, words - {""})):
        said = f"says {''.join(words) or 'nothing'} in every line" if len(words) == 1 else "names no split"
        parsed.notes.append(f"Column {parsed.split_column} of the import file {said}; no split is read from it.")
        parsed.lines = [replace(line, ml_use="") for line in parsed.lines]


def _parse_split(ml_use: str) -> str:
    name = ml_use.lower()
    if name in UNASSIGNED:
        return ""
    if name not in SPLIT_NAMES:
        raise InvalidLine(f"the ml_use {ml_use} (not training, validation or test)")
    return SPLIT_NAMES[name]
