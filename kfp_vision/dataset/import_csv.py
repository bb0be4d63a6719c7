"""Reads the lines of CSV files as spreadsheets, notebooks, competitions and Vertex AI write them."""

import csv
import io
import re
from collections.abc import Callable, Iterator

from kfp_vision.dataset.import_lines import (
    ONE_LABEL,
    LabelRule,
    Line,
    ParsedLines,
    has_ending,
    has_image_ending,
    is_column_name,
    read_table,
)
from kfp_vision.dataset.invalid_lines import InvalidLine
from kfp_vision.dataset.label_cells import joined, read_cell
from kfp_vision.dataset.table import allow_long_cells

DELIMITERS = (",", ";", "\t", "|")
SPACE = " "  # only where no other parts the lines
DELIMITER_LINE = re.compile(r"sep=(.)\r?\n")  # a first line that Excel reads and writes
COMMENT = "# "  # a name may begin with #
SPACE_AFTER_QUOTE = re.compile(r'" +(?=[,;\t|\r\n])')  # which `csv` does not skip as it does one before
LINES_LOOKED_AT = 20  # to find the delimiter


class BrokenCsv(Exception):
    """Text is not CSV.

    Attributes:
        line: number of the line where it breaks, from 1.
    """

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line = line


def read_rows(text: str, delimiter: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells of each line that is neither empty nor a comment.

    Args:
        text: of the file.
        delimiter: of the cells; empty to find it by what the first lines hold.

    Raises:
        BrokenCsv: a quote is not closed, or text follows it.
    """
    given = DELIMITER_LINE.match(text)
    delimiter = given[1] if given else delimiter or find_delimiter(text)
    text = SPACE_AFTER_QUOTE.sub('"', text)
    allow_long_cells()
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and f"{cells[0]} "[:2] != COMMENT and not (given and reader.line_num == 1):
                yield reader.line_num, cells
    except csv.Error as error:
        raise BrokenCsv(reader.line_num, str(error)) from None


def find_delimiter(text: str) -> str:
    """Returns the delimiter that parts the most lines such that a cell is a name of a column or of a file.

    Python's `csv.Sniffer` takes letters of the file names for delimiters.

    Args:
        text: of the file.
    """
    lines = [line for line in text[: 1 << 16].splitlines() if line.strip()][:LINES_LOOKED_AT]

    def parted(delimiter: str) -> tuple[int, int]:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        rows = [row for row in rows if len(row) > 1]
        return sum(any(has_ending(cell) or is_column_name(cell) for cell in row) for row in rows), len(rows)

    best = max(DELIMITERS, key=parted)
    return SPACE if parted(best) == (0, 0) and parted(SPACE)[0] else best


def parse_csv(text: str, is_split: Callable[[str], bool], labels: LabelRule = ONE_LABEL) -> ParsedLines:
    """Reads the lines of a CSV file, with or without a header.

    Args:
        text: of the file.
        is_split: whether a word names a split.
        labels: how labels are read.

    Raises:
        InvalidColumns: it has a header that does not tell which column is the image, or the label.
    """
    rows: list[tuple[int, list[str]]] = []
    broken = []
    try:
        rows.extend(read_rows(text))
    except BrokenCsv as fault:
        broken = [(fault.line, str(fault))]
    if rows and is_header(*[cells for _, cells in rows[:2]]):
        parsed = _parse_below_header(rows[0][1], rows[1:], labels)
    else:
        is_spaced = not DELIMITER_LINE.match(text) and find_delimiter(text) == SPACE
        named = [(number, _join_name(cells)) for number, cells in rows] if is_spaced else rows
        parsed = _parse_without_header(named, is_split, labels)
    parsed.wrong += broken
    return parsed


def is_header(first: list[str], second: list[str] | None = None) -> bool:
    """Returns whether the first line of a file names columns.

    It does if two cells are names that we know; or if it names no file, and one is, or the second line names a file.

    Args:
        first: cells of the first line.
        second: cells of the second line; None if there is none.
    """
    known = [is_column_name(cell) for cell in first]
    if sum(known) > 1:
        return True
    if any(not is_known and (has_ending(cell) or "/" in cell) for is_known, cell in zip(known, first, strict=True)):
        return False
    return any(known) or any(cell and has_ending(below) for cell, below in zip(first, second or [], strict=False))


def _parse_below_header(header: list[str], rows: list[tuple[int, list[str]]], labels: LabelRule) -> ParsedLines:
    whole, wrong = [], []
    for number, row in rows:
        cells = row[: len(header)]
        if any(row[len(header) :]):
            wrong.append((number, f"{len(row)} fields under a header of {len(header)}"))
        else:
            whole.append((number, cells + [""] * (len(header) - len(cells))))
    parsed = read_table(header, whole, labels)
    parsed.wrong += wrong
    return parsed


def _parse_without_header(rows: list[tuple[int, list[str]]], is_split: Callable[[str], bool], labels: LabelRule) -> ParsedLines:
    parsed = ParsedLines()
    is_label_first = bool(rows) and all(_is_label_first(cells, is_split) for _, cells in rows)
    if is_label_first and len(rows) > 2 and len({cells[0] for _, cells in rows if cells[0].isdecimal()}) == len(rows):
        rows, is_label_first = [(number, cells[1:]) for number, cells in rows], False
        parsed.notes.append("The first column of the import file numbers its lines, and is ignored.")
    elif is_label_first:
        parsed.notes.append("Columns of the import file: the label from the first, the image from the second.")
    if is_label_first:
        rows = [(number, [*cells[1::-1], *cells[2:]]) for number, cells in rows]
    if labels.several:
        _read_several(parsed, rows, is_split, labels)
        return parsed
    for number, cells in rows:
        try:
            parsed.lines.append(_order_cells(number, cells, is_split))
        except InvalidLine as fault:
            parsed.wrong.append((number, str(fault)))
    return parsed


def _read_several(
    parsed: ParsedLines, rows: list[tuple[int, list[str]]], is_split: Callable[[str], bool], labels: LabelRule
) -> None:
    """Reads lines without a header whose image has any number of labels, each in a cell (Vertex AI) or all in one."""
    rows = [(number, _without_empty_end(cells)) for number, cells in rows]
    has_split_last = all(cells[-1] and is_split(cells[-1]) for _, cells in rows if len(cells) > 2)
    ordered = []
    for number, cells in rows:
        ml_use = ""
        if len(cells) > 1 and is_split(cells[0]) and (cells[0] or has_ending(cells[1])):
            ml_use, *cells = cells
        elif len(cells) > 2 and has_split_last:
            *cells, ml_use = cells
        ordered.append((number, cells[0], cells[1:], ml_use))
    separator = labels.separator
    if separator or all(len(held) < 2 for _, _, held, _ in ordered):
        separator = labels.choose((cell for _, _, held, _ in ordered for cell in held), parsed.notes)
    for number, name, held, ml_use in ordered:
        try:
            if not held and not has_ending(name):
                raise InvalidLine(f"only one field, {name}")
            read = [one for cell in held if (one := read_cell(cell, separator)) is not None]
            found = [label for one in read for label in one]
            parsed.lines.append(Line(number, name, joined(found), ml_use, is_negative=bool(read) and not found))
        except InvalidLine as fault:
            parsed.wrong.append((number, str(fault)))


def _without_empty_end(cells: list[str]) -> list[str]:
    """Returns the cells without the empty ones at the end; the first is kept."""
    end = max((end for end, cell in enumerate(cells, start=1) if cell), default=1)
    return cells[: max(1, end)]


def _join_name(cells: list[str]) -> list[str]:
    """Joins the cells of a name with spaces, in a line whose delimiter is a space: `my cats/1.jpg 0`."""
    end = next((end for end, cell in enumerate(cells, start=1) if has_image_ending(cell)), 0)
    return [" ".join(cells[:end]), *cells[end:]] if end and len(cells) > end else cells


def _is_label_first(cells: list[str], is_split: Callable[[str], bool]) -> bool:
    return len(cells) > 1 and has_image_ending(cells[1]) and not has_image_ending(cells[0]) and not is_split(cells[0])


def _order_cells(number: int, row: list[str], is_split: Callable[[str], bool]) -> Line:
    """Orders cells without a header: the split is the first cell (Vertex AI) or the last (ours); a label may lack."""
    cells = list(row)
    while cells and not cells[-1]:
        cells.pop()
    if len(cells) in (2, 3) and is_split(cells[0]) and (len(cells) == 3 or cells[0] or has_ending(cells[1])):
        return Line(number, cells[1], "".join(cells[2:]), cells[0])
    if len(cells) not in (2, 3) and not (len(cells) == 1 and (has_ending(cells[0]) or len(row) > 1)):
        raise InvalidLine(f"{len(cells)} fields" if len(cells) > 1 else f"only one field, {cells[0]}")
    return Line(number, cells[0], "".join(cells[1:2]), "".join(cells[2:]))
