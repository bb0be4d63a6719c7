"""Pictures with boxes around what is on them: read from Pascal VOC's XML, written as TensorFlow's object detection reads them.

A picture's annotation is the XML of its name beside it, or in `Annotations` beside `JPEGImages` (or `images`). It lies in the
table of pictures as JSON: a list of boxes, or a text that says why it cannot be used. Sources: the VOC2012 development kit,
section 3, and create_pascal_tf_record.py of the TensorFlow Object Detection API.
"""

import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from PIL import ExifTags, Image, ImageDraw

from kfp_vision import catalog, listings, reports, storage
from kfp_vision.catalog import Catalog, Row
from kfp_vision.errors import InputError, shown
from kfp_vision.pictures import PILLOW_OPENS, Checked, Refused, checked

LABEL_MAP_FILE = "label_map.pbtxt"
MOST_XML = 1 << 20  # bytes; an annotation of a thousand boxes has a quarter of it
MOST_SHOWN = 60  # characters of a name in a reason
PICTURE_FOLDERS, ANNOTATION_FOLDERS = ("jpegimages", "images"), ("annotations",)
LISTS = {"train": "train", "val": "validation", "test": "test", "trainval": ""}  # of ImageSets/Main, to our splits
ALONE, WITHOUT, UNLISTED = "no annotation beside it", "annotation without a picture", "in no list of ImageSets/Main"
LAYOUT = "Put x.xml in the format of Pascal VOC beside each x.jpg, or into Annotations beside JPEGImages."
UPRIGHT, SIDEWAYS = 1, (5, 6, 7, 8)  # of EXIF's orientations; the sideways ones swap width and height
SAMPLE_SIDE, LINE = 400, 3  # pixels of a picture on the page, and of the lines around what is on it


@dataclass(frozen=True)
class Box:
    """An object of a picture.

    Attributes:
        label: its class.
        xmin, ymin, xmax, ymax: its edges from the upper left corner, in pixels or as shares of width and height.
        difficult: 1 if it is hard to tell.
        truncated: 1 if a part of it is not in the picture or behind something.
        view: the side it is seen from, such as Left; Unspecified where nobody said.
    """

    label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    difficult: int = 0
    truncated: int = 0
    view: str = "Unspecified"


@dataclass(frozen=True)
class Annotation:
    """What an XML says of its picture: width and height in pixels, 0 where it does not say, and boxes in pixels."""

    width: int
    height: int
    boxes: list[Box]


def scan(images_uri: str) -> Catalog:
    """The annotated pictures at a URI, in the order of their names.

    A picture counts as of its rarest class, which is its label in the table; without any object it has none. Its split is the
    folder named as one that it lies in, or the list of ImageSets/Main that names it.

    Raises:
        InputError: nothing lies there, or it cannot hold annotations.
    """
    check_uri(images_uri)
    found = Catalog([])
    annotations: dict[tuple[str, str], Annotation | str] = {}
    sizes: dict[str, tuple[int, int, int] | str] = {}
    lists: dict[str, dict[str, str]] = {}
    for item, encoded in storage.read_all(_wanted(images_uri, annotations, found)):
        path = PurePosixPath(item.name)
        if isinstance(encoded, OSError):
            raise encoded
        if path.suffix.lower() == ".xml":
            annotations[_key(path)] = _read(encoded)
        elif path.suffix == ".txt":
            names = lists.setdefault(str(path.parents[2]), {})
            names |= {name: LISTS[path.stem] or names.get(name, "") for name in _listed(encoded)}
        else:
            found.rows.append(Row(item.uri, "", item.size, catalog.md5(encoded), item.name))
            sizes[item.name] = _size(encoded)
    found.rows.sort(key=lambda row: row.name)
    _pair(found, annotations, sizes)
    _assign(found, lists)
    label_by_rarest(found)
    return found


def label_by_rarest(found: Catalog) -> None:
    """Gives each picture its rarest class for a label, by which the split keeps the ratios."""
    pictures = found.classes
    found.rows = [replace(row, label=min(row.labels, key=lambda one: (pictures[one], one), default="")) for row in found.rows]


def check_uri(images_uri: str) -> None:
    """Refuses what holds pictures without boxes.

    Raises:
        InputError: naming the field.
    """
    if images_uri == storage.SAMPLE or listings.is_listing(images_uri):
        raise InputError("images_uri of detection must be a folder or an archive", images_uri, LAYOUT)


def read_xml(encoded: bytes) -> Annotation:
    """The annotation in an XML file, as it is written there.

    Nothing outside the file is read and no entity is expanded: a file that declares a document type is refused.

    Raises:
        Refused: it is no annotation of Pascal VOC; the message is the reason.
    """
    from defusedxml import DefusedXmlException, ElementTree

    if not encoded.strip():
        raise Refused("an empty annotation")
    try:
        root = ElementTree.fromstring(encoded, forbid_dtd=True)
    except DefusedXmlException:
        raise Refused("an annotation that declares a document type, which is not read") from None
    except (ParseError, ValueError, LookupError) as error:  # the last two for an encoding that nobody knows
        raise Refused(f"an annotation that is no XML ({' '.join(str(error).split())})") from None
    if root.tag != "annotation":
        raise Refused(f"an annotation that is not of Pascal VOC, but begins with {shown(root.tag, MOST_SHOWN)}")
    width, height = (_whole(root, f"size/{side}") for side in ("width", "height"))
    return Annotation(width, height, [_box(one) for one in root.findall("object")])


def fitted(annotation: Annotation, width: int, height: int, orientation: int = UPRIGHT) -> list[Box]:
    """An annotation's boxes as shares of the upright picture, cut off at its edges.

    Args:
        annotation: as `read_xml` gives it.
        width, height: of the picture in pixels, as it stands upright.
        orientation: EXIF's, 1 to 8. A picture that is turned keeps its boxes only where the annotation's size says that they
            were drawn on the upright one: nothing else tells the two apart.

    Raises:
        Refused: the annotation contradicts the picture, or a box is none.
    """
    said = (annotation.width, annotation.height)
    if orientation != UPRIGHT and (orientation not in SIDEWAYS or said != (width, height) or width == height):
        raise Refused(f"turned by EXIF orientation {orientation}, and its boxes may be of before or after; save it upright")
    if all(said) and said != (width, height):
        raise Refused(f"an annotation of {said[0]} x {said[1]} pixels, while the picture has {width} x {height}")
    return [_fitted(box, width, height) for box in annotation.boxes]


def boxes(row: Row) -> list[Box]:
    """The boxes of a picture, as shares of its width and height.

    Raises:
        Refused: its annotation cannot be used.
    """
    said = json.loads(row.objects)
    if isinstance(said, str):
        raise Refused(said)
    return [Box(*one) for one in said]


def check(found: Catalog, images_uri: str, splits: int) -> None:
    """Refuses data that no detector can be trained on.

    Raises:
        InputError: no annotated pictures, no object on any, a class on fewer pictures than splits, or data that brings its
            splits and holds nothing out.
    """
    if not found.rows:
        passed = ", ".join(f"{count} files passed over: {reason}" for reason, count in found.passed_over.most_common(2))
        rule = "images_uri of detection must hold pictures with annotations"
        raise InputError(rule, f"none at {images_uri} ({passed or 'nothing there'})", LAYOUT)
    if not found.classes:
        reasons = Counter(said for row in found.rows if isinstance(said := json.loads(row.objects), str))
        worst = "".join(f", {count} with {reason}" for reason, count in reasons.most_common(1))
        rule = "images_uri of detection must hold an object on some picture"
        raise InputError(rule, f"none on {len(found.rows)} pictures at {images_uri}{worst}", LAYOUT)
    if found.splits:
        catalog.check_held_out(found, images_uri)
        return
    label, fewest = min(found.classes.items(), key=lambda pair: pair[1])
    if fewest < splits:
        rule = f"every class must be on at least {splits} pictures, one a split"
        raise InputError(rule, f"{fewest} of {label}", "Add pictures of it, or take it out of the annotations.")


def notes(found: Catalog) -> list[str]:
    """What a person should know of the data, a sentence each."""
    said = []
    annotations = [json.loads(row.objects) for row in found.rows]
    drawn = Counter(box[0] for one in annotations if not isinstance(one, str) for box in one)
    named = ", ".join(f"{label} {count:,}" for label, count in sorted(drawn.items())[: catalog.NAMED])
    more = f" and {len(drawn) - catalog.NAMED} more classes" if len(drawn) > catalog.NAMED else ""
    said.append(f"{drawn.total():,} objects are drawn in: {named}{more}.")
    if empty := annotations.count([]):
        said.append(f"{empty:,} pictures have an annotation without any object. They are kept, as examples of nothing.")
    wrong = [(row.name, one) for row, one in zip(found.rows, annotations, strict=True) if isinstance(one, str)]
    if wrong:
        first = "; ".join(f"{name}: {reason}" for name, reason in wrong[: catalog.NAMED])
        said.append(f"{len(wrong):,} annotations cannot be used, and their pictures will be refused. First: {first}.")
    copies = len(found.rows) - len({row.content_id for row in found.rows})
    if copies:
        said.append(f"{copies:,} pictures are copies of another, byte for byte; copies with different boxes are left out.")
    return said


def sample(encoded: bytes, row: Row) -> reports.Picture:
    """A picture for the page, smaller, with its boxes drawn in."""
    try:
        picture = checked(encoded)
        with Image.open(io.BytesIO(picture.encoded)) as image:
            image.draft("RGB", (SAMPLE_SIDE, SAMPLE_SIDE))
            small = image.convert("RGB")
        small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
        pen = ImageDraw.Draw(small)
        for box in boxes(row):
            left, top, right, bottom = (
                box.xmin * small.width,
                box.ymin * small.height,
                box.xmax * small.width,
                box.ymax * small.height,
            )
            pen.rectangle((left, top, right, bottom), outline="red", width=LINE)
    except (Refused, OSError, ValueError):
        return reports.Picture(row.name, encoded)
    file = io.BytesIO()
    small.save(file, "JPEG")
    return reports.Picture(row.name, file.getvalue())


def write_label_map(folder: Path, labels: list[str]) -> None:
    """Writes `label_map.pbtxt` into a folder: the labels with their numbers from 1, as the Object Detection API reads them."""
    items = (f"item {{\n  id: {number}\n  name: '{_escaped(label)}'\n}}\n" for number, label in enumerate(labels, start=1))
    (folder / LABEL_MAP_FILE).write_text("\n".join(items), encoding="utf-8")


def read_label_map(folder: Path) -> dict[str, int]:
    """The labels that `write_label_map` wrote, with their numbers."""
    text = (folder / LABEL_MAP_FILE).read_text(encoding="utf-8")
    items = re.findall(r"^  id: (\d+)\n  name: '(.*)'$", text, re.MULTILINE)
    return {re.sub(r"\\(.)", r"\1", name): int(number) for number, name in items}


def features(row: Row, picture: Checked, number_of: Mapping[str, int]) -> dict[str, list[bytes] | list[int] | list[float]]:
    """The fields of a `tf.train.Example` as the Object Detection API writes Pascal VOC.

    Args:
        row: what the table says of the picture.
        picture: it, as it goes into the record.
        number_of: label to its number, from 1.

    Raises:
        Refused: its annotation cannot be used.
    """
    found = boxes(row)
    return {
        "image/height": [picture.height],
        "image/width": [picture.width],
        "image/filename": [row.name.encode()],
        "image/source_id": [row.name.encode()],
        "image/key/sha256": [hashlib.sha256(picture.encoded).hexdigest().encode()],
        "image/encoded": [picture.encoded],
        "image/format": [picture.format.encode()],
        "image/object/bbox/xmin": [box.xmin for box in found],
        "image/object/bbox/xmax": [box.xmax for box in found],
        "image/object/bbox/ymin": [box.ymin for box in found],
        "image/object/bbox/ymax": [box.ymax for box in found],
        "image/object/class/text": [box.label.encode() for box in found],
        "image/object/class/label": [number_of[box.label] for box in found],
        "image/object/difficult": [box.difficult for box in found],
        "image/object/truncated": [box.truncated for box in found],
        "image/object/view": [box.view.encode() for box in found],
    }


def _wanted(images_uri: str, annotations: dict[tuple[str, str], Annotation | str], found: Catalog) -> Iterator[storage.Item]:
    """Pictures, annotations and lists; of annotations that are too large to be any, the reason stands there at once."""
    for item in storage.walk(images_uri):
        path = PurePosixPath(item.name)
        if path.suffix.lower() == ".xml" and not catalog.not_a_picture(str(path.with_suffix(".jpg"))):
            if item.size > MOST_XML:
                annotations[_key(path)] = "an annotation of over 1 MB"
            else:
                yield item
        elif path.parts[-3:-1] == ("ImageSets", "Main") and path.suffix == ".txt" and path.stem in LISTS:
            yield item
        elif reason := catalog.not_a_picture(item.name):
            found.passed_over[reason] += 1
        else:
            yield item


def _key(path: PurePosixPath) -> tuple[str, str]:
    """What a picture and its annotation have in common."""
    folder = path.parent
    if folder.name.lower() in (*PICTURE_FOLDERS, *ANNOTATION_FOLDERS):
        folder = folder.parent
    return str(folder), path.stem


def _read(encoded: bytes) -> Annotation | str:
    try:
        return read_xml(encoded)
    except Refused as reason:
        return str(reason)


def _listed(encoded: bytes) -> list[str]:
    """The pictures that a list of ImageSets/Main names, without their endings."""
    return [line.split()[0] for line in encoded.decode("utf-8", errors="replace").split("\n") if line.strip()]


def _size(encoded: bytes) -> tuple[int, int, int] | str:
    """Width and height of a picture as it stands upright, and EXIF's orientation; or why there is none."""
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_OPENS) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
            width, height = image.size if orientation not in SIDEWAYS else image.size[::-1]
            return width, height, orientation
    except (OSError, SyntaxError, ValueError):
        pass
    try:
        picture = checked(encoded)
    except Refused as reason:
        return str(reason)
    return picture.width, picture.height, UPRIGHT


def _pair(
    found: Catalog, annotations: dict[tuple[str, str], Annotation | str], sizes: dict[str, tuple[int, int, int] | str]
) -> None:
    """Gives each picture its objects; pictures and annotations without the other are passed over."""
    pictures = Counter(_key(PurePosixPath(row.name)) for row in found.rows)
    paired = []
    for row in found.rows:
        key = _key(PurePosixPath(row.name))
        if key not in annotations:
            found.passed_over[ALONE] += 1
        elif pictures[key] > 1:
            paired.append(replace(row, objects=json.dumps(f"one of {pictures[key]} pictures for one annotation")))
        else:
            paired.append(replace(row, objects=_objects(annotations[key], sizes[row.name])))
    found.rows = paired
    if alone := len(annotations.keys() - pictures.keys()):
        found.passed_over[WITHOUT] += alone


def _objects(annotation: Annotation | str, size: tuple[int, int, int] | str) -> str:
    """What stands in the table: boxes, or a reason; of a picture that is none, its own."""
    if isinstance(size, str) or isinstance(annotation, str):
        return json.dumps(size if isinstance(size, str) else annotation, ensure_ascii=False)
    try:
        return json.dumps([astuple(box) for box in fitted(annotation, *size)], ensure_ascii=False)
    except Refused as reason:
        return json.dumps(str(reason), ensure_ascii=False)


def _assign(found: Catalog, lists: dict[str, dict[str, str]]) -> None:
    """Gives each picture the split that its folder or a list names."""
    split_of, _ = catalog.splits_by_folder([PurePosixPath(row.name).parent for row in found.rows], class_folders=False)
    rows = []
    for row, split in zip(found.rows, split_of, strict=True):
        folder, stem = _key(PurePosixPath(row.name))
        if folder in lists and stem not in lists[folder]:
            found.passed_over[UNLISTED] += 1
        else:
            rows.append(replace(row, split=lists[folder][stem] if folder in lists else split))
    found.rows = rows


def _whole(root: Element, path: str) -> int:
    """A whole number from 0 that an annotation gives; 0 where it does not."""
    text = (root.findtext(path) or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _box(element: Element) -> Box:
    name = " ".join((element.findtext("name") or "").split())
    if not name:
        raise Refused("an object without a name")
    if catalog.unwritable(name):
        raise Refused(f"a control character in the name {shown(ascii(name), MOST_SHOWN)}")
    bounds = element.find("bndbox")
    if bounds is None:
        raise Refused(f"{shown(name, MOST_SHOWN)} without a bndbox")
    xmin, ymin, xmax, ymax = (_edge(bounds, side, name) for side in ("xmin", "ymin", "xmax", "ymax"))
    view = " ".join((element.findtext("pose") or "").split()) or "Unspecified"
    difficult, truncated = (int((element.findtext(flag) or "").strip() == "1") for flag in ("difficult", "truncated"))
    return Box(name, xmin, ymin, xmax, ymax, difficult, truncated, view)


def _edge(bounds: Element, side: str, name: str) -> float:
    text = (bounds.findtext(side) or "").strip()
    try:
        edge = float(text)
    except ValueError:
        edge = math.nan
    if not math.isfinite(edge):
        raise Refused(f"a box of {shown(name, MOST_SHOWN)} whose {side} is {shown(text, MOST_SHOWN)}")
    return edge


def _fitted(box: Box, width: int, height: int) -> Box:
    edges = ", ".join(f"{edge:g}" for edge in (box.xmin, box.ymin, box.xmax, box.ymax))
    if box.xmin >= box.xmax or box.ymin >= box.ymax:
        raise Refused(f"a box of {shown(box.label, MOST_SHOWN)} without an inside: {edges}")
    xmin, xmax = (min(max(edge / width, 0.0), 1.0) for edge in (box.xmin, box.xmax))
    ymin, ymax = (min(max(edge / height, 0.0), 1.0) for edge in (box.ymin, box.ymax))
    if xmin >= xmax or ymin >= ymax:
        raise Refused(f"a box of {shown(box.label, MOST_SHOWN)} outside the picture: {edges}")
    return replace(box, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("'", "\\'")
