"""What the formats of import files share: lines, wrong lines, and which column is the image, its label and its split."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from kfp_vision.core.values import ONE, SEVERAL, check_choices
from kfp_vision.dataset.invalid_lines import InvalidColumns, InvalidLine
from kfp_vision.dataset.label_cells import MISSING_VALUES, NAMED_SEPARATORS, choose_separator, joined, read_cell
from kfp_vision.dataset.table import LABEL_SEPARATOR

# Names of columns and keys, as `plain_name` gives them. A name in an earlier line wins over one in a later line; two names of
# one line are ambiguous.
IMAGE_COLUMNS = tuple(
    names.split()
    for names in (
        "uri imageuri imagegcsuri gcsuri s3uri sourceref",
        "path paths filepath filepaths imagepath imagepaths imgpath imagefilepath relativepath fullpath",
        "filename filenames file files fname imagefile imagefilename imagename imagenames imgname imgfile url urls imageurl",
        "image images img imgs picture pictures photo photos",
        "imageid imageids imgid photoid pictureid idcode id ids",
    )
)
LABEL_COLUMNS = tuple(
    names.split()
    for names in (
        "classname classnames labelname labelnames labeltext categoryname displayname",
        "label labels",
        "class classes category categories species breed target targets tag tags y dx diagnosis disease groundtruth classlabel",
        "choice choices type kind variety cultivar genus emotion level grade",
        "classid classids classindex classidx classnumber labelid labelids labelindex labelidx categoryid categoryids",
    )
)
SPLIT_COLUMNS = (("mluse",), ("split",), ("subset",), ("set",), ("dataset",), ("partition",), ("usage",), ("phase",))
OUR_SPLIT_COLUMNS = ("mluse", "split")  # any other is a split only if it holds one
ROW_NUMBERS = re.compile(r"|unnamed\d*|index|rownumber|rowid")  # columns that spreadsheets and pandas add
# Columns of every table that Label Studio exports, and others there that are no label; see exports/csv2.py and converter.py of
# label_studio_sdk 2.1.3. Without an annotation of the image, `annotation_id` is empty.
ANNOTATION_COLUMNS = {"annotator", "annotationid", "leadtime"}
TASK_COLUMNS = ANNOTATION_COLUMNS | {"id", "createdat", "updatedat", "agreement", "history"}
# Cells of a table with a column for each class, in lower case.
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "": False}
IMAGE_ENDING = re.compile(r"\.(jpe?g|jfif|png|gif|bmp|webp|tiff?|hei[cf]|avif|p[pgbn]m)$", re.IGNORECASE)
ENDING = re.compile(r"\.[A-Za-z]\w{1,4}$")
WHOLE_NUMBER_AS_FLOAT = re.compile(r"-?\d+\.0")  # how pandas writes whole numbers in a column that lacks some
DECIMALS = re.compile(r"\.0(?=\t|$)")
CACHED_NAMES = 1 << 10
ROWS_LOOKED_AT = 1000  # to find out what a column holds


@dataclass(frozen=True)
class Line:
    """What a line gives; all as written, and empty if not given.

    Attributes:
        number: of the line, from 1.
        name: of the image: a URI, a path or an id.
        label: class of the image; where images have several, all of them as the table holds them.
        ml_use: word for its split.
        is_negative: whether the line says that the image has none of the labels, rather than nothing.
    """

    number: int
    name: str
    label: str = ""
    ml_use: str = ""
    is_negative: bool = False


@dataclass(frozen=True)
class LabelRule:
    """How the labels of an import file are read.

    Attributes:
        several: whether an image has any number of labels, rather than one.
        separator: between the labels in a cell, as a person gives it; empty to find it.
    """

    several: bool = False
    separator: str = ""

    @classmethod
    def of_fields(cls, labels: str, separator: str = "") -> "LabelRule":
        """Returns the rule that a form gives.

        Args:
            labels: the field `labels`.
            separator: the setting `label_separator` of `advanced`; `space` and `tab` stand for these.

        Raises:
            InputError: labels is neither.
        """
        check_choices({"labels": labels}, {"labels": (ONE, SEVERAL)})
        separator = separator.strip()  # as `Advanced.parse` does
        return cls(labels == SEVERAL, NAMED_SEPARATORS.get(separator, separator))

    def choose(self, cells: Iterable[str], notes: list[str]) -> str:
        """Returns what separates the labels in the cells of a column, and notes it.

        Args:
            cells: of the column.
            notes: of the import file; changed in place.
        """
        separator = self.separator or choose_separator(cells)
        if separator:
            shown = next((name for name, character in NAMED_SEPARATORS.items() if character == separator), separator)
            notes.append(f"The labels of an image are separated by {shown}.")
        return separator


ONE_LABEL = LabelRule()


@dataclass
class ParsedLines:
    """The lines of an import file.

    Attributes:
        lines: that could be read.
        wrong: number and fault of each other line.
        split_column: name of the column with the splits; empty if there is no header.
        notes: how the file was read, one sentence each.
    """

    lines: list[Line] = field(default_factory=list)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    split_column: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """The columns of a table, by their positions.

    Attributes:
        names: as in the header.
        image: position of the image.
        label: position of the label; None if there is none.
        split: position of the split; None if there is none.
        flags: positions of the classes, if the table has a column of 0 and 1 for each.
        more_labels: positions of further labels, if images have several and each is in a column.
        annotation: position of what is empty if nobody has looked at the image, in a table of Label Studio; else None.
    """

    names: tuple[str, ...]
    image: int
    label: int | None
    split: int | None
    flags: tuple[int, ...] = ()
    more_labels: tuple[int, ...] = ()
    annotation: int | None = None

    def read_several(self, number: int, cells: Sequence[str], separator: str) -> Line:
        """Returns what a row gives, with any number of labels.

        Args:
            number: of its line.
            cells: one for each column.
            separator: between the labels of a cell.

        Raises:
            InvalidLine: a column of a class holds neither 0 nor 1, or a list of labels cannot be read.
        """
        found: list[str] | None = None
        if any(cells[position] for position in self.flags):
            found = self._marked(cells)
        for position in self.label_columns:
            held = read_cell(cells[position], separator)
            found = found if held is None else [*(found or []), *held]
        if found is None and self.annotation is not None and cells[self.annotation]:
            found = []  # submitted without a choice
        ml_use = "" if self.split is None else cells[self.split]
        return Line(number, cells[self.image], joined(found or []), ml_use, is_negative=found == [])

    @property
    def label_columns(self) -> tuple[int, ...]:
        """Positions of the columns that hold labels."""
        return () if self.label is None else (self.label, *self.more_labels)

    def _marked(self, cells: Sequence[str]) -> list[str]:
        """Returns the classes whose columns hold 1."""
        if not all(cells[position].lower() in FLAGS for position in self.flags):
            raise InvalidLine("a class with neither 0 nor 1")
        return [self.names[position] for position in self.flags if FLAGS[cells[position].lower()]]

    def read(self, number: int, cells: Sequence[str]) -> Line:
        """Returns what a row gives.

        Args:
            number: of its line.
            cells: one for each column.

        Raises:
            InvalidLine: of the columns of classes several hold 1, or none, or one holds neither 0 nor 1.
        """
        label = "" if self.label is None else cells[self.label]
        if self.flags:
            marked = self._marked(cells)
            if len(marked) != 1 and any(cells[position] for position in self.flags):
                raise InvalidLine(f"several classes with a 1 ({', '.join(marked)})" if marked else "no class with a 1")
            label = "".join(marked)
        elif label.lower() in MISSING_VALUES:
            label = ""
        return Line(number, cells[self.image], label, "" if self.split is None else cells[self.split])

    @property
    def note(self) -> str:
        """A sentence on which columns are read; empty if the names are ours and all are used."""
        used = {self.image, self.label, self.split, *self.flags, *self.more_labels}
        ignored = ", ".join(name for position, name in enumerate(self.names) if position not in used and name)
        if not ignored and self.names[self.image].lower() == "uri" and self.label is not None:
            return ""
        parts = [f"the image from {self.names[self.image]}"]
        if self.label is not None:
            names = ", ".join(self.names[position] for position in self.label_columns)
            parts.append(f"the {'labels' if self.more_labels else 'label'} from {names}")
        if self.flags:
            parts.append(f"the label from the one that holds 1 of {', '.join(self.names[position] for position in self.flags)}")
        if self.split is not None:
            parts.append(f"the split from {self.names[self.split]}")
        return f"Columns of the import file: {', '.join(parts)}{f'; ignored: {ignored}' if ignored else ''}."


@lru_cache(CACHED_NAMES)
def plain_name(name: str) -> str:
    """Returns the name of a column in lower case, without spaces and punctuation."""
    return re.sub(r"[\W_]", "", name.lower())


def has_ending(cell: str) -> bool:
    """Returns whether a cell ends like a file, such as `daisy/1.jpg`."""
    return ENDING.search(cell) is not None


def has_image_ending(cell: str) -> bool:
    """Returns whether a cell ends like an image file, whatever else may be in it."""
    return IMAGE_ENDING.search(cell) is not None


def is_column_name(name: str) -> bool:
    """Returns whether a cell is a known name of a column of images or labels."""
    return any(plain_name(name) in row for row in (*IMAGE_COLUMNS, *LABEL_COLUMNS))


def choose_columns(names: Sequence[str], rows: Sequence[Sequence[str]], *, several: bool = False) -> Columns:
    """Finds out what the columns of a table are, by their names, and where these do not tell by what they hold.

    Args:
        names: of the columns, in any order and case.
        rows: the rows below, one cell for each column.
        several: whether an image has any number of labels, which may be in columns such as label1 and label2.

    Raises:
        InvalidColumns: there is no column of images, or several may be that of the image or the label.

    Example:
        >>> choose_columns(["id", "breed"], [["000bec180e", "corgi"]])
        Columns(names=('id', 'breed'), image=0, label=1, split=None, flags=())
    """
    keys = [plain_name(name) for name in names]
    if set(keys) >= ANNOTATION_COLUMNS:
        others = ["" if key in TASK_COLUMNS else name for name, key in zip(names, keys, strict=True)]
        found = choose_columns(others, rows, several=several)
        return replace(found, names=tuple(names), annotation=keys.index("annotationid"))
    if several and (columns := _numbered_labels(names, keys, rows)):
        return columns
    if "uri" in keys and "label" in keys:
        return Columns(tuple(names), keys.index("uri"), keys.index("label"), _first_of(SPLIT_COLUMNS, keys, []))
    rows = rows[:ROWS_LOOKED_AT]
    usable = [position for position, key in enumerate(keys) if not ROW_NUMBERS.fullmatch(key)]
    usable = usable if len(usable) > 1 else [position for position, key in enumerate(keys) if key]
    files = [position for position in usable if rows and has_ending(rows[0][position])]
    image = _image_column(names, keys, usable, files)
    split = _first_of(SPLIT_COLUMNS, keys, [image])
    candidates = [position for position in usable if position != image]
    label = _one_of(LABEL_COLUMNS, names, keys, candidates, "label")
    rest = [position for position in candidates if position != split]
    if label is not None or not rest:
        return Columns(tuple(names), image, label, split)
    if len(rest) == 1:
        return Columns(tuple(names), image, rest[0], split)
    if all(row[position].lower() in FLAGS for row in rows for position in rest):
        return Columns(tuple(names), image, None, split, tuple(rest))
    raise InvalidColumns(f"no label among {_listed(names)}", "Rename the column of the class to label.")


def _numbered_labels(names: Sequence[str], keys: list[str], rows: Sequence[Sequence[str]]) -> Columns | None:
    """Returns the columns of a table in which several have the same name of a label, but for a number at the end."""
    stems = [key.rstrip("0123456789") for key in keys]
    for known in (name for row in LABEL_COLUMNS for name in row if len(name) > 1):  # y1 and y2 are edges of a box
        alike = [position for position, stem in enumerate(stems) if stem == known]
        if len(alike) > 1:
            others = [name if position not in alike else "" for position, name in enumerate(names)]
            found = choose_columns([*others, "label"], [[*cells, ""] for cells in rows])
            return replace(found, names=tuple(names), label=alike[0], more_labels=tuple(alike[1:]))
    return None


def _image_column(names: Sequence[str], keys: list[str], usable: list[int], files: list[int]) -> int:
    named = [position for position in usable if any(keys[position] in row for row in IMAGE_COLUMNS)]
    among = [position for position in named if position in files] or named
    image = _one_of(IMAGE_COLUMNS, names, keys, among, "uri")
    if image is None and len(files) == 1:
        return files[0]
    others = [position for position in usable if not any(keys[position] in row for row in LABEL_COLUMNS)]
    if image is None and len(usable) == 2 and len(others) == 1:
        return others[0]
    if image is None:
        raise InvalidColumns(f"no image among {_listed(names)}", "Rename the column of the image to uri.")
    return image


def _listed(names: Sequence[str]) -> str:
    return f"the columns {', '.join(names)}" if any(names) else "keys that hold one text or number"


def _one_of(rows: Sequence[Sequence[str]], names: Sequence[str], keys: list[str], among: list[int], ours: str) -> int | None:
    """Returns the position of the column with the best name; None if no name is known."""
    for row in rows:
        if found := [position for position in among if keys[position] in row]:
            if len(found) > 1:
                several = " and ".join(names[position] for position in found)
                raise InvalidColumns(f"the columns {several}", f"Rename the one to read to {ours}, and delete the others.")
            return found[0]
    return None


def _first_of(rows: Sequence[Sequence[str]], keys: list[str], taken: list[int]) -> int | None:
    return next((keys.index(key) for row in rows for key in row if key in keys and keys.index(key) not in taken), None)


def read_table(names: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]], labels: LabelRule = ONE_LABEL) -> ParsedLines:
    """Reads a table whose columns have names.

    Args:
        names: of the columns.
        rows: number of the line, and a cell for each column.
        labels: how labels are read.

    Raises:
        InvalidColumns: as `choose_columns`.
    """
    rows = _newest_annotations(names, rows)
    columns = choose_columns(names, [cells for _, cells in rows[:ROWS_LOOKED_AT]], several=labels.several)
    parsed = ParsedLines(notes=[columns.note] if columns.note else [])
    separator = ""
    is_one_each = bool(columns.more_labels) or columns.annotation is not None  # Label Studio writes several as JSON
    if labels.several and columns.label is not None and (labels.separator or not is_one_each):
        separator = labels.choose((cells[columns.label] for _, cells in rows), parsed.notes)
    if columns.split is not None:
        parsed.split_column = columns.names[columns.split]
    for number, cells in rows:
        try:
            line = columns.read_several(number, cells, separator) if labels.several else columns.read(number, cells)
            parsed.lines.append(line)
        except InvalidLine as fault:
            parsed.wrong.append((number, str(fault)))
    parsed.lines = _without_decimals(parsed.lines)
    return parsed


def _newest_annotations(names: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> Sequence[tuple[int, Sequence[str]]]:
    """Returns a row for each task of Label Studio, which writes one for each annotation: the one changed last counts."""
    keys = [plain_name(name) for name in names]
    if not ANNOTATION_COLUMNS | {"id", "updatedat"} <= set(keys):
        return rows
    task, changed = keys.index("id"), keys.index("updatedat")
    newest = dict[str, int]()  # place among the rows, by task
    for place, (_, cells) in enumerate(rows):
        if cells[task] not in newest or cells[changed] > rows[newest[cells[task]]][1][changed]:
            newest[cells[task]] = place
    return [row for place, row in enumerate(rows) if not row[1][task] or newest[row[1][task]] == place]


def _without_decimals(lines: Iterable[Line]) -> list[Line]:
    """Writes whole numbers as such where pandas wrote them all as 3.0, since some lines have none."""
    lines = list(lines)
    labels = (label for line in lines if line.label for label in line.label.split(LABEL_SEPARATOR))
    if all(map(WHOLE_NUMBER_AS_FLOAT.fullmatch, labels)):
        return [replace(line, label=DECIMALS.sub("", line.label)) for line in lines]
    return lines
