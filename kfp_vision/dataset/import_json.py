"""Reads the items of JSON and JSON Lines files as Vertex AI, SageMaker Ground Truth and Hugging Face write them."""

import json
from typing import Any

from kfp_vision.core import json_text
from kfp_vision.dataset import label_studio
from kfp_vision.dataset.import_lines import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    ONE_LABEL,
    LabelRule,
    ParsedLines,
    plain_name,
    read_table,
)
from kfp_vision.dataset.invalid_lines import InvalidColumns, InvalidLine
from kfp_vision.dataset.label_cells import CHOICES, list_labels

VERTEX_ML_USE = "aiplatform.googleapis.com/ml_use"
METADATA = "-metadata"  # ends the key beside that of an annotation, in SageMaker's augmented manifests
IMAGE_KEYS = {name for row in IMAGE_COLUMNS for name in row}
LABEL_KEYS = {name for row in LABEL_COLUMNS for name in row}
LINES_REMEDY = 'Write a line for each image, such as {"uri": "daisy/1.jpg", "label": "daisy"}.'
COCO_CATEGORIES_REMEDY = "Give each category its id and name in categories."
COCO_IDS_REMEDY = "Give image_id as id is: a number or a text."


def parse_json_lines(text: str, labels: LabelRule = ONE_LABEL) -> ParsedLines:
    """Reads an object from each line.

    Args:
        text: of the file.
        labels: how labels are read.

    Raises:
        InvalidColumns: the keys do not tell the image, or the label.
    """
    items, wrong = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append((number, json_text.parse(line)))
        except ValueError:
            wrong.append((number, "invalid JSON"))
    parsed = _parse_items(items, labels)
    parsed.wrong += wrong
    return parsed


def parse_json(text: str, labels: LabelRule = ONE_LABEL) -> ParsedLines:
    """Reads a JSON array of objects, an object of images and labels, the annotations of COCO, or JSON Lines.

    The number of an item counts as that of its line. An array may be an export of Label Studio.

    Args:
        text: of the file.
        labels: how labels are read.

    Raises:
        InvalidColumns: as `parse_json_lines`, or the annotations of COCO are incomplete.
    """
    try:
        content = json_text.parse(text)
    except ValueError:
        return parse_json_lines(text, labels)
    if isinstance(content, list):
        return _parse_items(list(enumerate(content, start=1)), labels)
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return _parse_coco(content, labels)
    if isinstance(content, dict) and label_studio.is_task(content):
        return _parse_items([(1, content)], labels)  # one task, as Label Studio writes them to a bucket
    kinds = str | int | list if labels.several else str | int
    if isinstance(content, dict) and content and all(isinstance(label, kinds) for label in content.values()):
        pairs = [{"uri": name, "label": label} for name, label in content.items()]
        return parse_json_lines(text, labels) if _is_item(content) else _parse_items(list(enumerate(pairs, start=1)), labels)
    return parse_json_lines(text, labels)


def _is_item(content: dict[str, Any]) -> bool:
    return any(plain_name(key) in IMAGE_KEYS for key in content)


def _parse_coco(content: dict[str, Any], rule: LabelRule) -> ParsedLines:
    """Reads the format of COCO; an image has the categories of its annotations, whose boxes do not matter.

    iNaturalist and others give one category to each image.
    """
    labels: dict[Any, dict[str, None]] = {}
    try:
        categories = _named_ids("categories", content.get("categories") or [], "name")
        images = _named_ids("images", content["images"], "file_name")
        for annotation in content["annotations"]:
            category = annotation["category_id"]
            if category not in categories:
                raise InvalidColumns(f"annotations of COCO whose category {category!r} has no name", COCO_CATEGORIES_REMEDY)
            labels.setdefault(annotation["image_id"], {})[categories[category]] = None
    except KeyError as fault:
        raise InvalidColumns(f"annotations of COCO that lack {fault}", LINES_REMEDY) from None
    except (TypeError, AttributeError):
        found = "images, annotations or categories of COCO that are not lists of objects with ids"
        raise InvalidColumns(found, LINES_REMEDY) from None
    _check_image_ids(labels, images)
    named = ((name, list(labels.get(image_id, []))) for image_id, name in images.items())
    items = [(number, {"uri": name, "label": found}) for number, (name, found) in enumerate(named, start=1)]
    return _parse_items(items, rule)


def _named_ids(part: str, items: list[dict[str, Any]], key: str) -> dict[Any, str]:
    """Returns the names of images or categories by their ids; those without a name are left out of categories.

    Raises:
        InvalidColumns: two have the same id, and different names; or an image has no name.
    """
    names: dict[Any, str] = {}
    for item in items:
        number, given = item["id"], item[key]
        name = str(given).strip() if isinstance(given, str | int) else ""
        if names.get(number, name) != name:
            found = f"{part} of COCO of which two have the id {number!r}, {names[number]} and {name}"
            raise InvalidColumns(found, "Give each an id of its own.")
        if name:
            names[number] = name
        elif key == "file_name":
            raise InvalidColumns(f"images of COCO of which one has no file_name ({number!r})", "Give each its file_name.")
    return names


def _check_image_ids(labels: dict[Any, Any], images: dict[Any, str]) -> None:
    """Checks that annotations find their images, which would be trained on as having none of the labels otherwise.

    Annotations of images that are not listed are passed over, as pycocotools does, unless it is all of them.
    """
    strange = [image_id for image_id in labels if image_id not in images]
    if strange and len(strange) == len(labels):
        found = f"annotations of COCO none of whose image_id, such as {strange[0]!r}, is the id of an image"
        raise InvalidColumns(found, COCO_IDS_REMEDY)
    as_texts = set(map(str, images))
    if mixed := [image_id for image_id in strange if str(image_id) in as_texts]:
        found = f"annotations of COCO whose image_id, such as {mixed[0]!r}, is the id of an image only as a text"
        raise InvalidColumns(found, COCO_IDS_REMEDY)


def _parse_items(items: list[tuple[int, Any]], labels: LabelRule) -> ParsedLines:
    """Reads items as the rows of a table with a column for each key."""
    flat: list[tuple[int, dict[str, str]]] = []
    wrong = []
    label_studio.check_choices(item for _, item in items)
    questions = label_studio.questions(item for _, item in items)
    for number, item in items:
        try:
            flat.append((number, _flatten(label_studio.join_answers(item, questions), labels.several)))
        except InvalidLine as fault:
            wrong.append((number, str(fault)))
    names = list(dict.fromkeys(key for _, fields in flat for key in fields))
    rows = [(number, [fields.get(name, "") for name in names]) for number, fields in flat]
    parsed = read_table(names, rows, labels) if flat else ParsedLines()
    parsed.wrong += wrong
    return parsed


def _flatten(item: Any, several: bool) -> dict[str, str]:
    """Returns the fields of an item that may be its image, label or split, as text; several labels as a list in JSON."""
    if not isinstance(item, dict):
        raise InvalidLine("JSON that is not an object")
    if "imageGcsUri" in item:
        return _flatten_vertex(item, several)
    if label_studio.is_task(item):
        name, choices = label_studio.read_task(item)
        return {"uri": name, "label": _label_text(choices, several)}
    fields = {}
    about = {key.removesuffix(METADATA): value for key, value in item.items() if key.endswith(METADATA)}
    annotations = {key: metadata for key, metadata in about.items() if key in item and isinstance(metadata, dict)}
    for key, value in item.items():
        name = plain_name(key)
        if key in annotations:
            fields["label"] = _annotated_label(value, annotations[key], several)
        elif name in LABEL_KEYS:
            fields[key] = _label_text(value, several)
        elif name in IMAGE_KEYS and isinstance(value, dict):
            fields[key] = str(value.get("path") or "")  # Hugging Face's feature Image
        elif isinstance(value, str | int | float):
            fields[key] = str(value).strip()
        elif name in IMAGE_KEYS:
            raise InvalidLine(f"{key}, which is not a string")
    if len(annotations) > 1:
        raise InvalidLine(f"several annotations ({', '.join(annotations)})")
    return fields


def _flatten_vertex(item: dict[str, Any], several: bool) -> dict[str, str]:
    annotation, resource_labels = item.get("classificationAnnotation", {}), item.get("dataItemResourceLabels", {})
    repeated = item.get("classificationAnnotations", [])
    if not (isinstance(annotation, dict) and isinstance(resource_labels, dict) and isinstance(repeated, list)):
        raise InvalidLine("fields that are not objects")
    labels = [one.get("displayName") for one in [annotation, *repeated] if isinstance(one, dict) and one]
    name, ml_use = item["imageGcsUri"], resource_labels.get(VERTEX_ML_USE, "")
    if not isinstance(name, str) or not isinstance(ml_use, str):
        raise InvalidLine("a field that is not a string")
    given = labels if labels or "classificationAnnotations" in item else None
    return {"uri": name, "label": _label_text(given, several), "ml_use": ml_use}


def _annotated_label(value: Any, metadata: dict[str, Any], several: bool) -> str:
    """Returns the label of an annotation of SageMaker Ground Truth, whose value may be only a number, or a list of such."""
    kind = metadata.get("type", "")
    class_map = metadata.get("class-map")
    if several and isinstance(value, list) and isinstance(class_map, dict):
        unknown = [number for number in value if str(number) not in class_map]
        if unknown:
            raise InvalidLine(f"a class that is not in the class-map, {unknown[0]}")
        return _label_text([class_map[str(number)] for number in value], several)
    if isinstance(class_map, dict) and isinstance(value, list):
        raise InvalidLine("several labels")
    if isinstance(value, dict) or ("class-map" in metadata and "class-name" not in metadata):
        raise InvalidLine(f"an annotation of another kind ({str(kind).rpartition('/')[2] or 'boxes'})")
    return _label_text(metadata.get("class-name", value), several)


def _label_text(value: Any, several: bool) -> str:
    """Returns a label as text; with `several`, a list of them as JSON, which `label_cells.read_cell` reads."""
    if isinstance(value, dict) and CHOICES in value:
        value = value[CHOICES]
    if several and isinstance(value, list):
        return json.dumps(list_labels(value), ensure_ascii=False)
    if isinstance(value, list) and len(value) <= 1:
        return _label_text(value[0] if value else None, several)
    if isinstance(value, list):
        raise InvalidLine("several labels")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and not isinstance(value, str | int):
        raise InvalidLine("a label that is neither a string nor a whole number")
    return "" if value is None else str(value).strip()
