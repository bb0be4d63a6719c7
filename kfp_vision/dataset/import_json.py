"""Reads the items of JSON and JSON Lines files as Vertex AI, SageMaker Ground Truth and Hugging Face write them."""

import json
from typing import Any

from kfp_vision.dataset.import_lines import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    InvalidColumns,
    InvalidLine,
    ParsedLines,
    plain_name,
    read_table,
)

VERTEX_ML_USE = "aiplatform.googleapis.com/ml_use"
METADATA = "-metadata"  # ends the key beside that of an annotation, in SageMaker's augmented manifests
IMAGE_KEYS = {name for row in IMAGE_COLUMNS for name in row}
LABEL_KEYS = {name for row in LABEL_COLUMNS for name in row}
LINES_REMEDY = 'Write a line for each image, such as {"uri": "daisy/1.jpg", "label": "daisy"}.'


def parse_json_lines(text: str) -> ParsedLines:
    """Reads an object from each line.

    Args:
        text: of the file.

    Raises:
        InvalidColumns: the keys do not tell the image, or the label.
    """
    items, wrong = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append((number, json.loads(line)))
        except (ValueError, RecursionError):
            wrong.append((number, "invalid JSON"))
    parsed = _parse_items(items)
    parsed.wrong += wrong
    return parsed


def parse_json(text: str) -> ParsedLines:
    """Reads a JSON array of objects, an object of images and labels, the annotations of COCO, or JSON Lines.

    The number of an item counts as that of its line.

    Args:
        text: of the file.

    Raises:
        InvalidColumns: as `parse_json_lines`, or the annotations of COCO are incomplete.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return parse_json_lines(text)
    if isinstance(content, list):
        return _parse_items(list(enumerate(content, start=1)))
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return _parse_coco(content)
    if isinstance(content, dict) and content and all(isinstance(label, str | int) for label in content.values()):
        pairs = [{"uri": name, "label": label} for name, label in content.items()]
        return parse_json_lines(text) if _is_item(content) else _parse_items(list(enumerate(pairs, start=1)))
    return parse_json_lines(text)


def _is_item(content: dict[str, Any]) -> bool:
    return any(plain_name(key) in IMAGE_KEYS for key in content)


def _parse_coco(content: dict[str, Any]) -> ParsedLines:
    """Reads the format of COCO, in which iNaturalist and others give one category to each image."""
    labels: dict[Any, dict[str, None]] = {}
    try:
        categories = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
        for annotation in content["annotations"]:
            labels.setdefault(annotation["image_id"], {})[categories[annotation["category_id"]]] = None
        images = [(str(image["file_name"]), list(labels.get(image["id"], []))) for image in content["images"]]
    except (TypeError, KeyError) as fault:
        raise InvalidColumns(f"annotations of COCO that lack {fault}", LINES_REMEDY) from None
    return _parse_items([(number, {"uri": name, "label": found}) for number, (name, found) in enumerate(images, start=1)])


def _parse_items(items: list[tuple[int, Any]]) -> ParsedLines:
    """Reads items as the rows of a table with a column for each key."""
    flat: list[tuple[int, dict[str, str]]] = []
    wrong = []
    for number, item in items:
        try:
            flat.append((number, _flatten(item)))
        except InvalidLine as fault:
            wrong.append((number, str(fault)))
    names = list(dict.fromkeys(key for _, fields in flat for key in fields))
    rows = [(number, [fields.get(name, "") for name in names]) for number, fields in flat]
    parsed = read_table(names, rows) if flat else ParsedLines()
    parsed.wrong += wrong
    return parsed


def _flatten(item: Any) -> dict[str, str]:
    """Returns the fields of an item that may be its image, label or split, as text."""
    if not isinstance(item, dict):
        raise InvalidLine("JSON that is not an object")
    if "imageGcsUri" in item:
        return _flatten_vertex(item)
    fields = {}
    about = {key.removesuffix(METADATA): value for key, value in item.items() if key.endswith(METADATA)}
    annotations = {key: metadata for key, metadata in about.items() if key in item and isinstance(metadata, dict)}
    for key, value in item.items():
        name = plain_name(key)
        if key in annotations:
            fields["label"] = _annotated_label(value, annotations[key])
        elif name in LABEL_KEYS:
            fields[key] = _label_text(value)
        elif name in IMAGE_KEYS and isinstance(value, dict):
            fields[key] = str(value.get("path") or "")  # Hugging Face's feature Image
        elif isinstance(value, str | int | float):
            fields[key] = str(value).strip()
        elif name in IMAGE_KEYS:
            raise InvalidLine(f"{key}, which is not a string")
    if len(annotations) > 1:
        raise InvalidLine(f"several annotations ({', '.join(annotations)})")
    return fields


def _flatten_vertex(item: dict[str, Any]) -> dict[str, str]:
    annotation, resource_labels = item.get("classificationAnnotation", {}), item.get("dataItemResourceLabels", {})
    several = item.get("classificationAnnotations", [])
    if not (isinstance(annotation, dict) and isinstance(resource_labels, dict) and isinstance(several, list)):
        raise InvalidLine("fields that are not objects")
    labels = [one.get("displayName") for one in [annotation, *several] if isinstance(one, dict) and one]
    name, ml_use = item["imageGcsUri"], resource_labels.get(VERTEX_ML_USE, "")
    if not isinstance(name, str) or not isinstance(ml_use, str):
        raise InvalidLine("a field that is not a string")
    return {"uri": name, "label": _label_text(labels), "ml_use": ml_use}


def _annotated_label(value: Any, metadata: dict[str, Any]) -> str:
    """Returns the label of an annotation of SageMaker Ground Truth, whose value may be only a number."""
    kind = metadata.get("type", "")
    if isinstance(value, dict) or ("class-map" in metadata and "class-name" not in metadata):
        raise InvalidLine(f"an annotation of another kind ({str(kind).rpartition('/')[2] or 'boxes'})")
    return _label_text(metadata.get("class-name", value))


def _label_text(value: Any) -> str:
    if isinstance(value, list) and len(value) <= 1:
        return _label_text(value[0] if value else None)
    if isinstance(value, list):
        raise InvalidLine("several labels")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and not isinstance(value, str | int):
        raise InvalidLine("a label that is neither a string nor a whole number")
    return "" if value is None else str(value).strip()
