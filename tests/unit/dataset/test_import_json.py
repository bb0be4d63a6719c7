"""Items of JSON, of whose labels there are many forms."""

import json

import pytest

from kfp_vision.dataset import import_json
from kfp_vision.dataset.import_lines import InvalidColumns, Line

CLASSIFICATION = "groundtruth/image-classification"


def read_item(item):
    """Returns the line of an item, or its fault."""
    parsed = import_json.parse_json_lines(json.dumps(item))
    assert len(parsed.lines) + len(parsed.wrong) == 1
    return parsed.lines[0] if parsed.lines else parsed.wrong[0][1]


@pytest.mark.parametrize(
    ("item", "label"),
    [
        ({"uri": "a", "label": 3}, "3"),
        ({"uri": "a", "label": 3.0}, "3"),
        ({"uri": "a", "label": ["cat"]}, "cat"),
        ({"uri": "a", "label": None}, ""),
        ({"uri": "a", "label": " "}, ""),
        ({"uri": "a"}, ""),
        ({"image": {"path": "a", "bytes": None}, "class": "cat"}, "cat"),
        ({"id": "a", "breed": "corgi", "boxes": [[1, 2]]}, "corgi"),
        ({"source-ref": "a", "pets": 0, "pets-metadata": {"class-name": "cat", "type": CLASSIFICATION}}, "cat"),
        ({"source-ref": "a", "pets": 0, "pets-metadata": {"type": CLASSIFICATION}}, "0"),
        ({"source-ref": "a", "pets": "cat", "pets-metadata": {"type": CLASSIFICATION}}, "cat"),
        ({"source-ref": "a", "pets-metadata": {"failure-reason": "timeout"}}, ""),
        ({"imageGcsUri": "a", "classificationAnnotations": [{"displayName": "cat"}]}, "cat"),
        ({"imageGcsUri": "a", "dataItemResourceLabels": {"team": "zoo"}}, ""),
    ],
)
def test_the_label_of_an_item_is_read(item, label):
    assert read_item(item) == Line(1, "a", label)


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"uri": "a", "label": ["cat", "dog"]}, "several labels"),
        ({"uri": "a", "label": 0.5}, "a label that is neither a string nor a whole number"),
        ({"uri": ["a"], "label": "cat"}, "uri, which is not a string"),
        (
            {"source-ref": "a", "b": {"annotations": []}, "b-metadata": {"type": "groundtruth/object-detection"}},
            "an annotation of another kind (object-detection)",
        ),
        (
            {"source-ref": "a", "b": 1, "b-metadata": {"class-name": "x"}, "c": 1, "c-metadata": {"class-name": "y"}},
            "several annotations (b, c)",
        ),
        ({"imageGcsUri": "a", "classificationAnnotations": [{"displayName": "x"}, {"displayName": "y"}]}, "several labels"),
        ({"imageGcsUri": 3}, "a field that is not a string"),
        ("a", "JSON that is not an object"),
    ],
)
def test_an_item_without_a_single_label_is_wrong(item, fault):
    assert read_item(item) == fault


def test_all_wrong_items_are_found():
    parsed = import_json.parse_json_lines('{"uri": "a", "label": "x"}\n{\n\n[]\n')
    assert parsed.lines == [Line(1, "a", "x")]
    assert sorted(parsed.wrong) == [(2, "invalid JSON"), (4, "JSON that is not an object")]


def test_a_json_file_holds_items_or_labels_by_image():
    array = [{"filename": "a.jpg", "class": "cat"}, {"filename": "b.jpg"}]
    for text in (json.dumps(array, indent=2), json.dumps({"a.jpg": "cat", "b.jpg": ""}), "\n".join(map(json.dumps, array))):
        assert import_json.parse_json(text).lines == [Line(1, "a.jpg", "cat"), Line(2, "b.jpg")]
    assert import_json.parse_json(json.dumps(array[0])).lines == [Line(1, "a.jpg", "cat")]


def test_an_image_with_one_category_of_coco_has_a_label():
    content = {
        "images": [{"id": "x", "file_name": "a.jpg"}, {"id": "y", "file_name": "b.jpg"}, {"id": "z", "file_name": "c.jpg"}],
        "annotations": [
            {"image_id": "x", "category_id": 4, "bbox": [1, 2, 3, 4]},
            {"image_id": "x", "category_id": 4, "bbox": [5, 6, 7, 8]},
            {"image_id": "z", "category_id": 4},
            {"image_id": "z", "category_id": 5},
        ],
        "categories": [{"id": 4, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    parsed = import_json.parse_json(json.dumps(content))
    assert parsed.lines == [Line(1, "a.jpg", "cat"), Line(2, "b.jpg")]
    assert parsed.wrong == [(3, "several labels")]
    with pytest.raises(InvalidColumns, match="annotations of COCO that lack 'category_id'"):
        import_json.parse_json(json.dumps(content | {"annotations": [{"image_id": "x"}]}))


def test_keys_that_do_not_tell_the_label_are_refused():
    with pytest.raises(InvalidColumns, match="no label among the columns file_name, width, height"):
        import_json.parse_json_lines('{"file_name": "a.jpg", "width": 5, "height": 7}\n')
