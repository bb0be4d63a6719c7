"""Reads object annotations in Pascal VOC XML, and encodes them as features of TensorFlow's Object Detection API.

The annotation of an image is the XML file of the same name in its folder, or in `Annotations` next to `JPEGImages` (or
`images`). The table of images holds it as JSON: a list of boxes, or a string with the reason why it cannot be used.

Sources: the VOC2012 development kit, section 3, and create_pascal_tf_record.py of the TensorFlow Object Detection API.
"""

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from PIL import Image, ImageDraw

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.dataset import image_files, import_files, packed, table, table_checks
from kfp_vision.dataset.class_folders import splits_by_folder
from kfp_vision.dataset.image_files import skip_reason, with_skip_reasons
from kfp_vision.dataset.images import PILLOW_FORMATS, UPRIGHT, Rejected, ValidImage, read_orientation, validate_image
from kfp_vision.dataset.table import Catalog, ImageRow, is_unwritable
from kfp_vision.reports import thumbnails
from kfp_vision.storage import reading, uris

MAX_XML_BYTES = 1 << 20  # bytes; 1,000 boxes take a quarter of it
MAX_SHOWN_CHARACTERS = 60  # characters of a name in a reason
IMAGE_FOLDERS, ANNOTATION_FOLDERS = ("jpegimages", "images"), ("annotations",)
SPLIT_LISTS = {"train": "train", "val": "validation", "test": "test", "trainval": ""}  # files of ImageSets/Main, and our splits
ANNOTATION_MISSING, IMAGE_MISSING, NOT_IN_SPLIT_LISTS = (
    "no annotation",
    "annotation without an image",
    "not listed in ImageSets/Main",
)
VOC_LAYOUT = "Put x.xml in Pascal VOC format next to each x.jpg, or into Annotations next to JPEGImages."
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
SAMPLE_SIDE, BOX_LINE_WIDTH = 400, 3  # pixels: size of a sample on the page, and width of the box lines


@dataclass(frozen=True)
class Box:
    """The bounding box of an object.

    Coordinates start at the upper left corner, in pixels (in an `Annotation`) or normalised to 0..1 (in the table).

    Attributes:
        label: class of the object.
        xmin: left edge.
        ymin: upper edge.
        xmax: right edge.
        ymax: lower edge.
        difficult: 1 if the object is hard to recognise.
        truncated: 1 if part of the object is outside the image or occluded.
        view: pose, such as Left; Unspecified if not given.
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
    """The content of an annotation file.

    Attributes:
        width: of the image in pixels; 0 if not given.
        height: of the image in pixels; 0 if not given.
        boxes: in pixels.
    """

    width: int
    height: int
    boxes: list[Box]


def scan_annotated_images(images_uri: str) -> Catalog:
    """Finds the annotated images in a folder or an archive.

    The label of an image is its rarest class; without objects it is empty. The split comes from a folder named after one, or
    from the lists in ImageSets/Main.

    Args:
        images_uri: of the folder or archive.

    Returns:
        A catalog sorted by name.

    Raises:
        InputError: there is nothing at the URI, or it cannot hold annotations.
    """
    check_detection_uri(images_uri)
    found = Catalog([])
    annotations: dict[tuple[str, str], Annotation | str] = {}
    sizes: dict[str, tuple[int, int, int] | str] = {}
    lists: dict[str, dict[str, str]] = {}
    for item, encoded in reading.read_all(_select_files(images_uri, annotations, found)):
        path = PurePosixPath(item.name)
        if isinstance(encoded, OSError):
            raise encoded
        if path.suffix.lower() == ".xml":
            annotations[_key(path)] = _parse_or_reason(encoded)
        elif path.suffix == ".txt":
            names = lists.setdefault(str(path.parents[2]), {})
            names |= {name: SPLIT_LISTS[path.stem] or names.get(name, "") for name in _parse_split_list(encoded)}
        else:
            found.rows.append(ImageRow(item.uri, "", len(encoded), table.md5_hex(encoded), item.name))
            sizes[item.name] = _size_or_reason(encoded)
    found.rows.sort(key=lambda row: row.name)
    found.notes += image_files.ending_notes(found)
    _attach_annotations(found, annotations, sizes)
    _assign_splits(found, lists)
    label_by_rarest(found)
    return found


def label_by_rarest(found: Catalog) -> None:
    """Sets the label of each image to its rarest class, so that the split keeps the ratios of rare classes.

    Args:
        found: the catalog; changed in place.
    """
    images = found.classes
    found.rows = [
        replace(row, label=min(row.labels, key=lambda label: (images[label], label), default="")) for row in found.rows
    ]


def check_detection_uri(images_uri: str) -> None:
    """Checks that a URI can hold annotations, which the sample data and import files cannot.

    Args:
        images_uri: of the data.

    Raises:
        InputError: it cannot.
    """
    if images_uri in uris.SAMPLES or import_files.is_import_file(images_uri):
        raise InputError("images_uri of detection must be a folder or an archive", images_uri, VOC_LAYOUT)


def parse_annotation(encoded: bytes) -> Annotation:
    """Parses a Pascal VOC annotation.

    A DOCTYPE is rejected, so no entity is expanded and nothing outside the file is read.

    Args:
        encoded: the bytes of the XML file.

    Returns:
        The annotation as written, with boxes in pixels.

    Raises:
        Rejected: the file is not a valid annotation; the message is the reason.
    """
    from defusedxml import DefusedXmlException, ElementTree

    if not encoded.strip():
        raise Rejected("an empty annotation")
    try:
        root = ElementTree.fromstring(encoded, forbid_dtd=True)
    except DefusedXmlException:
        raise Rejected("an annotation with a DOCTYPE, which is not allowed") from None
    except (ParseError, ValueError, LookupError) as error:  # the last two for an unknown encoding
        raise Rejected(f"an annotation that is not XML ({' '.join(str(error).split())})") from None
    if root.tag != "annotation":
        raise Rejected(
            f"an annotation that is not Pascal VOC: its root element is {format_value(root.tag, MAX_SHOWN_CHARACTERS)}"
        )
    width, height = (_parse_length(root, f"size/{side}") for side in ("width", "height"))
    return Annotation(width, height, [_parse_box(element) for element in root.findall("object")])


def normalize_boxes(annotation: Annotation, width: int, height: int, orientation: int = UPRIGHT) -> list[Box]:
    """Normalises the boxes of an annotation to the size of the upright image, and clips them at its edges.

    Args:
        annotation: as `parse_annotation` returns it.
        width: of the upright image in pixels.
        height: of the upright image in pixels.
        orientation: EXIF orientation, 1 to 8. The boxes of a rotated image are used only if the size in the annotation shows
            that they refer to the upright image.

    Returns:
        The boxes with coordinates from 0 to 1.

    Raises:
        Rejected: the annotation contradicts the image, or a box is empty or outside it.
    """
    annotated = (annotation.width, annotation.height)
    if orientation != UPRIGHT and (orientation not in SIDEWAYS or annotated != (width, height) or width == height):
        raise Rejected(
            f"EXIF orientation {orientation}: the boxes may refer to the image before or after rotation; save it upright"
        )
    if all(annotated) and annotated != (width, height):
        raise Rejected(f"an annotation for {annotated[0]} x {annotated[1]} pixels, but the image has {width} x {height}")
    return [_normalize(box, width, height) for box in annotation.boxes]


def read_boxes(row: ImageRow) -> list[Box]:
    """Returns the boxes of an image, with coordinates from 0 to 1.

    Args:
        row: of the image in the table.

    Raises:
        Rejected: the annotation cannot be used; the message is the reason.
    """
    content = json.loads(row.objects)
    if isinstance(content, str):
        raise Rejected(content)
    return [Box(*box) for box in content]


def check_detection(found: Catalog, images_uri: str, splits: int) -> None:
    """Checks that a detector can be trained on the data.

    Args:
        found: the catalog of the data.
        images_uri: of the data, for the message.
        splits: number of splits that will be cut; every class must appear in as many images.

    Raises:
        InputError: there are no annotated images, no objects, a class in fewer images than splits, or predefined splits that
            hold nothing out.
    """
    if not found.rows:
        packed.require_unpacked(found, images_uri)
        skipped = "; ".join(found.skipped.lines())
        rule = "images_uri of detection must contain images with annotations"
        raise InputError(rule, f"none at {images_uri} ({skipped or 'nothing there'})", VOC_LAYOUT)
    if not found.classes:
        reasons = Counter(content for row in found.rows if isinstance(content := json.loads(row.objects), str))
        worst = "".join(f", {count} with {reason}" for reason, count in reasons.most_common(1))
        rule = "images_uri of detection must contain annotated objects"
        raise InputError(rule, f"none in {len(found.rows)} images at {images_uri}{worst}", VOC_LAYOUT)
    if found.splits:
        table_checks.check_held_out(found, images_uri)
        return
    fewer = {label: count for label, count in found.classes.items() if count < splits}
    if fewer:
        rule, them = f"every class must appear in at least {splits} images, one per split", "them" if len(fewer) > 1 else "it"
        rare = table_checks.count_rare(fewer, len(found.classes))
        raise InputError(rule, rare, f"Add images of {them}, or remove {them} from the annotations.")


def detection_notes(found: Catalog) -> list[str]:
    """Describes what a user should know about the data: objects per class, unusable annotations, copies.

    Args:
        found: the catalog of the data.

    Returns:
        One sentence per finding.
    """
    sentences = []
    annotations = [json.loads(row.objects) for row in found.rows]
    objects = Counter(box[0] for content in annotations if not isinstance(content, str) for box in content)
    first = ", ".join(f"{label} {count:,}" for label, count in sorted(objects.items())[: table.MAX_NAMED])
    more = f" and {len(objects) - table.MAX_NAMED} more classes" if len(objects) > table.MAX_NAMED else ""
    sentences.append(f"{objects.total():,} annotated objects: {first}{more}.")
    if empty := annotations.count([]):
        sentences.append(f"{empty:,} images have an annotation without objects; they are kept as negative examples.")
    unusable = [(row.name, content) for row, content in zip(found.rows, annotations, strict=True) if isinstance(content, str)]
    if unusable:
        first = "; ".join(f"{name}: {reason}" for name, reason in unusable[: table.MAX_NAMED])
        sentences.append(f"{len(unusable):,} annotations cannot be used; their images will be rejected. First: {first}.")
    copies = len(found.rows) - len({row.content_id for row in found.rows})
    if copies:
        sentences.append(f"{copies:,} images are byte-for-byte copies of others; copies with different boxes are excluded.")
    return sentences


def draw_boxes(encoded: bytes, row: ImageRow) -> thumbnails.EncodedImage:
    """Draws the boxes of an image into a reduced copy for the page.

    Args:
        encoded: the bytes of the image.
        row: of the image in the table.

    Returns:
        A JPEG of at most 400 pixels a side; the original bytes if the image or its annotation cannot be used.
    """
    try:
        with Image.open(io.BytesIO(validate_image(encoded).encoded)) as image:
            image.draft("RGB", (SAMPLE_SIDE, SAMPLE_SIDE))
            small = image.convert("RGB")
        small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
        pen = ImageDraw.Draw(small)
        for box in read_boxes(row):
            left, top, right, bottom = (
                box.xmin * small.width,
                box.ymin * small.height,
                box.xmax * small.width,
                box.ymax * small.height,
            )
            pen.rectangle((left, top, right, bottom), outline="red", width=BOX_LINE_WIDTH)
    except (Rejected, OSError, ValueError):
        return thumbnails.EncodedImage(row.name, encoded)
    file = io.BytesIO()
    small.save(file, "JPEG")
    return thumbnails.EncodedImage(row.name, file.getvalue())


def detection_features(
    row: ImageRow, image: ValidImage, number_of: Mapping[str, int]
) -> dict[str, list[bytes] | list[int] | list[float]]:
    """Builds the features of a `tf.train.Example`, as the Object Detection API writes Pascal VOC.

    Args:
        row: of the image in the table.
        image: as it goes into the record.
        number_of: number of each label, from 1.

    Returns:
        The values of each feature, by the feature's name.

    Raises:
        Rejected: the annotation cannot be used; the message is the reason.
    """
    found = read_boxes(row)
    return {
        "image/height": [image.height],
        "image/width": [image.width],
        "image/filename": [row.name.encode()],
        "image/source_id": [row.name.encode()],
        "image/key/sha256": [hashlib.sha256(image.encoded).hexdigest().encode()],
        "image/encoded": [image.encoded],
        "image/format": [image.format.encode()],
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


class DetectionTask:
    """Object detection, as a `ingest.Task`."""

    def find_images(self, images_uri: str, advanced: Advanced, labels: str) -> Catalog:
        """See `Task`."""
        return scan_annotated_images(images_uri)

    update_labels = staticmethod(label_by_rarest)
    check_data = staticmethod(check_detection)
    describe = staticmethod(detection_notes)
    make_sample = staticmethod(draw_boxes)


def _select_files(
    images_uri: str, annotations: dict[tuple[str, str], Annotation | str], found: Catalog
) -> Iterator[reading.Item]:
    """Yields images, annotations and split lists; counts other files as skipped, and does not read oversized annotations."""
    for item, reason in with_skip_reasons(reading.walk(images_uri)):
        path = PurePosixPath(item.name)
        if path.suffix.lower() == ".xml" and not skip_reason(str(path.with_suffix(".jpg"))):
            if item.size > MAX_XML_BYTES:
                annotations[_key(path)] = "an annotation over 1 MB"
            else:
                yield item
        elif path.parts[-3:-1] == ("ImageSets", "Main") and path.suffix == ".txt" and path.stem in SPLIT_LISTS:
            yield item
        elif reason:
            found.skipped.add(reason, item.name)
        else:
            yield item


def _key(path: PurePosixPath) -> tuple[str, str]:
    """Returns the folder and stem that an image shares with its annotation."""
    folder = path.parent
    if folder.name.lower() in (*IMAGE_FOLDERS, *ANNOTATION_FOLDERS):
        folder = folder.parent
    return str(folder), path.stem


def _parse_or_reason(encoded: bytes) -> Annotation | str:
    try:
        return parse_annotation(encoded)
    except Rejected as reason:
        return str(reason)


def _parse_split_list(encoded: bytes) -> list[str]:
    """Returns the image names, without suffix, in a list of ImageSets/Main."""
    return [line.split()[0] for line in encoded.decode("utf-8", errors="replace").split("\n") if line.strip()]


def _size_or_reason(encoded: bytes) -> tuple[int, int, int] | str:
    """Returns width and height of the upright image and its EXIF orientation, or why it cannot be read."""
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS) as image:
            orientation = read_orientation(image)
            width, height = image.size if orientation not in SIDEWAYS else image.size[::-1]
            return width, height, orientation
    except Exception:  # Pillow raises anything on untrusted bytes
        pass
    try:
        valid = validate_image(encoded)
    except Rejected as reason:
        return str(reason)
    return valid.width, valid.height, UPRIGHT


def _attach_annotations(
    found: Catalog, annotations: dict[tuple[str, str], Annotation | str], sizes: dict[str, tuple[int, int, int] | str]
) -> None:
    """Sets the objects of each image; images and annotations without counterpart are skipped."""
    images = Counter(_key(PurePosixPath(row.name)) for row in found.rows)
    annotated = []
    for row in found.rows:
        key = _key(PurePosixPath(row.name))
        if key not in annotations:
            found.skipped.add(ANNOTATION_MISSING, row.name)
        elif images[key] > 1:
            annotated.append(replace(row, objects=json.dumps(f"one of {images[key]} images with the same annotation")))
        else:
            annotated.append(replace(row, objects=_encode_objects(annotations[key], sizes[row.name])))
    found.rows = annotated
    for folder, stem in sorted(annotations.keys() - images.keys()):
        found.skipped.add(IMAGE_MISSING, str(PurePosixPath(folder, f"{stem}.xml")))


def _encode_objects(annotation: Annotation | str, size: tuple[int, int, int] | str) -> str:
    """Encodes boxes, or the reason why there are none, for the table."""
    if isinstance(size, str):
        return json.dumps(size, ensure_ascii=False)
    if isinstance(annotation, str):
        return json.dumps(annotation, ensure_ascii=False)
    try:
        return json.dumps([astuple(box) for box in normalize_boxes(annotation, *size)], ensure_ascii=False)
    except Rejected as reason:
        return json.dumps(str(reason), ensure_ascii=False)


def _assign_splits(found: Catalog, lists: dict[str, dict[str, str]]) -> None:
    """Sets the split of each image by its folder, or by the lists of ImageSets/Main, which skip the images not listed."""
    split_of = splits_by_folder(table.folder_of(row.name) for row in found.rows)
    rows = []
    for row, split in zip(found.rows, split_of, strict=True):
        folder, stem = _key(PurePosixPath(row.name))
        if folder in lists and stem not in lists[folder]:
            found.skipped.add(NOT_IN_SPLIT_LISTS, row.name)
        else:
            rows.append(replace(row, split=lists[folder][stem] if folder in lists else split))
    found.rows = rows


def _parse_length(root: Element, path: str) -> int:
    """Returns a length in pixels, or 0 if it is missing or invalid."""
    text = (root.findtext(path) or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _parse_box(element: Element) -> Box:
    name = " ".join((element.findtext("name") or "").split())
    if not name:
        raise Rejected("an object without a name")
    if is_unwritable(name):
        raise Rejected(f"a control character in the name {format_value(ascii(name), MAX_SHOWN_CHARACTERS)}")
    bounds = element.find("bndbox")
    if bounds is None:
        raise Rejected(f"{format_value(name, MAX_SHOWN_CHARACTERS)} without a bndbox")
    xmin, ymin, xmax, ymax = (_parse_edge(bounds, side, name) for side in ("xmin", "ymin", "xmax", "ymax"))
    view = " ".join((element.findtext("pose") or "").split()) or "Unspecified"
    difficult, truncated = (int((element.findtext(flag) or "").strip() == "1") for flag in ("difficult", "truncated"))
    return Box(name, xmin, ymin, xmax, ymax, difficult, truncated, view)


def _parse_edge(bounds: Element, side: str, name: str) -> float:
    text = (bounds.findtext(side) or "").strip()
    try:
        edge = float(text)
    except ValueError:
        edge = math.nan
    if not math.isfinite(edge):
        raise Rejected(
            f"a box of {format_value(name, MAX_SHOWN_CHARACTERS)} with {side} {format_value(text, MAX_SHOWN_CHARACTERS)}"
        )
    return edge


def _normalize(box: Box, width: int, height: int) -> Box:
    edges = ", ".join(f"{edge:g}" for edge in (box.xmin, box.ymin, box.xmax, box.ymax))
    if box.xmin >= box.xmax or box.ymin >= box.ymax:
        raise Rejected(f"an empty box of {format_value(box.label, MAX_SHOWN_CHARACTERS)}: {edges}")
    xmin, xmax = (min(max(edge / width, 0.0), 1.0) for edge in (box.xmin, box.xmax))
    ymin, ymax = (min(max(edge / height, 0.0), 1.0) for edge in (box.ymin, box.ymax))
    if xmin >= xmax or ymin >= ymax:
        raise Rejected(f"a box of {format_value(box.label, MAX_SHOWN_CHARACTERS)} outside the image: {edges}")
    return replace(box, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
