"""Import files whose images have several labels, in every format that tools write."""

import csv
import io
import json
from functools import partial
from pathlib import Path

import pytest
from support import data_page

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest, scan
from kfp_vision.dataset.import_files import read_import_file
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.storage import reading, several_sample

SEVERAL = LabelRule.of_fields("several")
VERTEX = {"imageGcsUri": "gs://b/1.jpg", "classificationAnnotations": [{"displayName": "rose"}, {"displayName": "daisy"}]}
SAGEMAKER = {
    "source-ref": "s3://b/1.jpg",
    "flowers": [1, 0],
    "flowers-metadata": {"class-map": {"0": "daisy", "1": "rose"}, "type": "groundtruth/image-classification-multilabel"},
}
COCO = {
    "images": [{"id": 7, "file_name": "1.jpg"}, {"id": 8, "file_name": "2.jpg"}],
    "annotations": [
        {"image_id": 7, "category_id": 2, "iscrowd": 1, "bbox": [0, 0, 1, 1]},
        {"image_id": 7, "category_id": 5, "iscrowd": 0},
        {"image_id": 7, "category_id": 2, "iscrowd": 0},
    ],
    "categories": [{"id": 2, "name": "daisy"}, {"id": 5, "name": "rose"}],
}


def choices(*names, **about):
    """Makes an annotation of Label Studio."""
    results = (
        [{"type": "choices", "from_name": "flowers", "to_name": "image", "value": {"choices": list(names)}}] if names else []
    )
    return {"result": results, "was_cancelled": False, "ground_truth": False, "updated_at": "2026-01-01T00:00:00Z"} | about


def task(name, *annotations):
    return {"id": 1, "data": {"image": name, "note": "a text"}, "annotations": list(annotations), "predictions": []}


def read(folder: Path, name: str, text: str, rule: LabelRule = SEVERAL) -> list[tuple[str, list[str], bool]]:
    """Returns name, labels, and whether it is said to have none, of each entry."""
    (folder / name).write_text(text, encoding="utf-8")
    entries = read_import_file(str(folder / name), rule).entries
    return [(entry.name, entry.label.split("\t") if entry.label else [], entry.is_negative) for entry in entries]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "uri,label\n1.jpg,rose|daisy\n2.jpg,daisy\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", "1.jpg,rose|daisy\n2.jpg,daisy\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", 'uri,label\n1.jpg,"rose, daisy"\n2.jpg,daisy\n', [["daisy", "rose"], ["daisy"]]),
        ("a.csv", 'uri,label\n1.jpg,"[""rose"", ""daisy""]"\n2.jpg,daisy\n', [["daisy", "rose"], ["daisy"]]),
        ("a.csv", "uri,label1,label2\n1.jpg,rose,daisy\n2.jpg,daisy,\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", "uri,label,label\n1.jpg,rose,daisy\n2.jpg,daisy,\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", "training,1.jpg,rose,daisy\ntest,2.jpg,daisy\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", "1.jpg,rose,daisy,training\n2.jpg,daisy,test\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", "1.jpg,rose|daisy,training\n2.jpg,daisy,test\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", "image,daisy,rose\n1.jpg,1,1\n2.jpg,1,0\n", [["daisy", "rose"], ["daisy"]]),
        ("a.tsv", "uri\tlabel\n1.jpg\trose;daisy\n2.jpg\tdaisy\n", [["daisy", "rose"], ["daisy"]]),
        ("a.csv", 'image,choice\n1.jpg,"{""choices"": [""rose"", ""daisy""]}"\n2.jpg,daisy\n', [["daisy", "rose"], ["daisy"]]),
        ("a.lst", "0\t0\t1\t1\t1.jpg\n1\t1\t0\t0\t2.jpg\n", [["1", "2"], ["0"]]),
        ("a.lst", "0\t3\t1.jpg\n1\t12.000000\t2.jpg\n", [["03"], ["12"]]),
        ("a.json", json.dumps({"1.jpg": ["rose", "daisy"], "2.jpg": "daisy"}), [["daisy", "rose"], ["daisy"]]),
        ("a.json", json.dumps([{"file": "1.jpg", "tags": ["rose", "daisy"]}]), [["daisy", "rose"]]),
        ("a.jsonl", json.dumps({"uri": "1.jpg", "label": "rose|daisy"}), [["daisy", "rose"]]),
        ("a.jsonl", json.dumps(VERTEX), [["daisy", "rose"]]),
        ("a.manifest", json.dumps(SAGEMAKER), [["daisy", "rose"]]),
        ("a.json", json.dumps([{"image": "1.jpg", "choice": {"choices": ["rose", "daisy"]}, "id": 3}]), [["daisy", "rose"]]),
        ("a.json", json.dumps([{"image": "1.jpg", "choice": "daisy", "id": 3}]), [["daisy"]]),
        (
            "a.json",
            json.dumps(
                [
                    {"image": "1.jpg", "flower": {"choices": ["rose", "daisy"]}, "light": "sun", "lead_time": 3.5},
                    {"image": "2.jpg", "flower": "daisy", "annotator": 1},
                    {"image": "3.jpg", "flower": "daisy", "light": {"choices": ["sun", "rain"]}},
                ]
            ),
            [["daisy", "rose", "sun"], ["daisy"], ["daisy", "rain", "sun"]],
        ),
        ("a.csv", "uri,label\n1.jpg,2.0|10.0\n2.jpg,2.0\n", [["2", "10"], ["2"]]),
    ],
)
def test_several_labels_are_read(tmp_path, name, text, expected):
    assert [labels for _, labels, _ in read(tmp_path, name, text)] == expected


def test_an_image_has_the_categories_of_its_annotations_in_coco_and_none_without_any(tmp_path):
    assert read(tmp_path, "a.json", json.dumps(COCO)) == [("1.jpg", ["daisy", "rose"], False), ("2.jpg", [], True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image,daisy,rose\n1.jpg,0,0\n"),
        ("a.csv", "uri,label\n1.jpg,[]\n2.jpg,daisy\n"),
        ("a.lst", "0\t0\t0\t1.jpg\n"),
        ("a.jsonl", '{"uri": "1.jpg", "label": []}'),
        ("a.jsonl", '{"imageGcsUri": "1.jpg", "classificationAnnotations": []}'),
        ("a.json", json.dumps([task("1.jpg", choices())])),
    ],
)
def test_an_image_may_be_said_to_have_none_of_the_labels(tmp_path, name, text):
    assert read(tmp_path, name, text)[0] == ("1.jpg", [], True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image,daisy,rose\n1.jpg,,\n2.jpg,0,1\n"),
        ("a.csv", "uri,label\n1.jpg,\n2.jpg,daisy\n"),
        ("a.jsonl", '{"imageGcsUri": "1.jpg"}'),
        ("a.json", json.dumps([task("1.jpg")])),
        ("a.json", json.dumps([task("1.jpg", choices("rose", was_cancelled=True))])),
    ],
)
def test_an_image_of_which_nothing_is_said_has_no_label_and_is_no_negative(tmp_path, name, text):
    assert read(tmp_path, name, text)[0] == ("1.jpg", [], False)


@pytest.mark.parametrize(
    ("annotations", "labels"),
    [
        ([choices("daisy", "rose")], ["daisy", "rose"]),
        ([choices("daisy"), choices("rose", updated_at="2026-02-01T00:00:00Z")], ["rose"]),
        ([choices("daisy", ground_truth=True), choices("rose", updated_at="2026-02-01T00:00:00Z")], ["daisy"]),
        ([choices("daisy"), choices("rose", updated_at="2026-02-01T00:00:00Z", was_cancelled=True)], ["daisy"]),
        ([choices("daisy"), choices("rose", updated_at="2026-02-01T00:00:00Z", skipped=True)], ["daisy"]),
        ([choices("daisy"), {"result": choices("rose")["result"]}], ["daisy"]),  # without a date: the oldest
    ],
)
def test_the_annotation_of_label_studio_that_counts_is_the_ground_truth_or_the_newest(tmp_path, annotations, labels):
    assert read(tmp_path, "a.json", json.dumps([task("1.jpg", *annotations)])) == [("1.jpg", labels, False)]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/data/upload/3/0f9e8d7c-rose.jpg", "0f9e8d7c-rose.jpg"),
        ("http://localhost:8080/data/upload/3/0f9e8d7c-rose.jpg", "0f9e8d7c-rose.jpg"),
        ("https://labels.example.org/studio/data/upload/3/0f9e8d7c-rose.jpg", "0f9e8d7c-rose.jpg"),
        ("upload/3/0f9e8d7c-rose.jpg", "0f9e8d7c-rose.jpg"),
        ("/storage-data/uploaded/?filepath=upload/3/0f9e8d7c-rose.jpg", "0f9e8d7c-rose.jpg"),
        ("/data/local-files/?d=photos/rose.jpg", "photos/rose.jpg"),
        ("/data/local-files?d=photos/red%20rose.jpg", "photos/red rose.jpg"),
        ("http://localhost:8080/data/local-files/?d=photos/rose.jpg", "photos/rose.jpg"),
        ("s3://bucket/rose.jpg", "s3://bucket/rose.jpg"),
        ("https://example.org/data/upload/2013/rose.jpg", "https://example.org/data/upload/2013/rose.jpg"),  # another server
        (f"/data/upload/{'rose' * 99}.jpg", f"{'rose' * 99}.jpg"),  # a name too long to ask for
    ],
)
def test_the_paths_of_label_studios_server_become_names_below_the_folder(tmp_path, name, path):
    assert read(tmp_path, "a.json", json.dumps([task(name, choices("rose"))])) == [(path, ["rose"], False)]


def result(value, **about):
    return choices(result=[{"type": "choices", "from_name": "flowers", "to_name": "image", "value": value} | about])


@pytest.mark.parametrize(
    ("annotation", "labels"),
    [
        (result({"choices": "rose"}), ["rose"]),  # a text is one choice, not one for each letter
        (result({"choices": [1, 2]}), ["1", "2"]),
        (result({"choices": ["rose"]}, id="a", original_width=640), ["rose"]),
        (choices(result=None), []),
        (choices(result=[*choices("rose")["result"], *choices("daisy", "rose")["result"]]), ["daisy", "rose"]),  # two regions
        (choices(result=[{"type": "taxonomy", "value": {"taxonomy": [["a", "b"]]}}, *choices("rose")["result"]]), ["rose"]),
    ],
)
def test_what_an_annotation_of_label_studio_may_hold(tmp_path, annotation, labels):
    assert read(tmp_path, "a.json", json.dumps([task("1.jpg", annotation)])) == [("1.jpg", labels, not labels)]


@pytest.mark.parametrize(
    ("annotation", "fault"),
    [
        (result({"choices": None}), "a label that is neither a string nor a whole number"),
        (result({"choices": [["rose", "tea rose"]]}), "a label that is neither a string nor a whole number"),
        (choices(result=[{"type": "choices"}]), "an annotation of Label Studio that lacks 'value'"),
        (choices(result=5), "an annotation of Label Studio whose result is not a list of objects"),
        (choices(result="rose"), "an annotation of Label Studio whose result is not a list of objects"),
        (choices(result=[None]), "an annotation of Label Studio whose result is not a list of objects"),
    ],
)
def test_an_annotation_of_label_studio_that_cannot_be_read_is_rejected(tmp_path, annotation, fault):
    with pytest.raises(InputError, match=f"got {fault} in .*a.json, line 1. Write items such as"):
        read(tmp_path, "a.json", json.dumps([task("1.jpg", annotation)]))


def test_tasks_of_label_studio_before_annotations_were_called_so_and_a_single_task_are_read(tmp_path):
    old = {"id": 1, "data": {"image": "1.jpg"}, "completions": [choices("rose") | {"created_at": 1600000000}]}
    assert read(tmp_path, "a.json", json.dumps([old])) == [("1.jpg", ["rose"], False)]
    assert read(tmp_path, "a.json", json.dumps(task("1.jpg", choices("rose")), indent=1)) == [("1.jpg", ["rose"], False)]


ABOUT = {"id": 1, "annotator": 1, "annotation_id": 3, "created_at": "2026", "updated_at": "2026", "lead_time": 2.5}
# Items of JSON-MIN without the keys that all have, and what they say: as exported by converter.py of label_studio_sdk 2.1.3.
MINIMAL = [
    ({"image": "1.jpg", "flowers": {"choices": ["rose", "daisy"]}}, ["daisy", "rose"], False),
    ({"image": "2.jpg", "flowers": "rose, red"}, ["rose, red"], False),
    ({"image": "3.jpg", "flowers": ["rose", {"choices": ["daisy", "aster"]}]}, ["aster", "daisy", "rose"], False),  # of regions
    ({"image": "4.jpg"}, [], True),  # submitted without a choice
    ({"image": "5.jpg", "annotation_id": None}, [], False),  # not annotated
]


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_choices_of_any_question_are_read_from_json_min_and_csv(tmp_path, suffix):
    items = [ABOUT | {"id": number} | item for number, (item, _, _) in enumerate(MINIMAL)]
    text = json.dumps(items)
    if suffix == "csv":
        names = sorted({*ABOUT, "image", "flowers"})
        cells = [[value if isinstance(value, str) else json.dumps(value) for value in map(one.get, names)] for one in items]
        file = io.StringIO()
        csv.writer(file).writerows([names, *([cell.replace("null", "") for cell in row] for row in cells)])
        text = file.getvalue()
    assert read(tmp_path, f"a.{suffix}", text) == [(item["image"], labels, none) for item, labels, none in MINIMAL]


def test_single_choices_of_any_question_are_read_from_json_min(tmp_path):
    other = ABOUT | {"id": 2, "image": "2.jpg", "flowers": "daisy"}
    text = json.dumps([ABOUT | {"image": "1.jpg", "flowers": "rose"}, other])
    for rule in (SEVERAL, LabelRule()):
        assert [labels for _, labels, _ in read(tmp_path, "a.json", text, rule)] == [["rose"], ["daisy"]]


@pytest.mark.parametrize("rule", [SEVERAL, LabelRule()])
@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_the_newest_annotation_of_a_task_counts_in_json_min_and_csv(tmp_path, suffix, rule):
    changes = [(1, "daisy", "2026-02-01T00:00:00Z"), (1, "rose", "2026-01-01T00:00:00Z"), (2, "rose", "2026-01-01T00:00:00Z")]
    items = [ABOUT | {"id": number, "image": f"{number}.jpg", "flowers": one, "updated_at": at} for number, one, at in changes]
    file = io.StringIO()
    csv.writer(file).writerows([items[0], *(one.values() for one in items)])
    text = json.dumps(items) if suffix == "json" else file.getvalue()
    assert [labels for _, labels, _ in read(tmp_path, f"a.{suffix}", text, rule)] == [["daisy"], ["rose"]]


def test_label_studio_is_read_with_one_label_too(tmp_path):
    text = json.dumps([task("1.jpg", choices("rose")), task("2.jpg")])
    assert read(tmp_path, "a.json", text, LabelRule()) == [("1.jpg", ["rose"], False), ("2.jpg", [], False)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"uri": "1.jpg", "label": ["daisy", "rose"]}'),
        ("a.jsonl", json.dumps(VERTEX)),
        ("a.manifest", json.dumps(SAGEMAKER)),
        ("a.json", json.dumps(COCO)),
        ("a.json", json.dumps([task("1.jpg", choices("rose", "daisy"))])),
        ("a.csv", "image,daisy,rose\n1.jpg,1,1\n"),
        ("a.lst", "0\t1\t1\t1.jpg\n"),
    ],
)
def test_with_one_label_the_remedy_is_several(tmp_path, name, text):
    with pytest.raises(
        InputError, match=r"with labels=one, every .* must give one label; got several .* Set labels to several"
    ):
        read(tmp_path, name, text, LabelRule())


def test_the_separator_is_told_and_can_be_given(tmp_path):
    text = "uri,label\n1.jpg,clear primary\n2.jpg,primary\n"
    assert [labels for _, labels, _ in read(tmp_path, "b.csv", text)] == [["clear primary"], ["primary"]]
    spaced = LabelRule.of_fields("several", "space")
    assert [labels for _, labels, _ in read(tmp_path, "b.csv", text, spaced)] == [["clear", "primary"], ["primary"]]
    assert read_import_file(str(tmp_path / "b.csv"), spaced).notes == ["The labels of an image are separated by space."]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_the_fingerprint_reads_labels_by_the_separator_that_is_given(tmp_path, name):
    jpeg = next(item.read() for item in reading.walk("sample"))
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg)
    listing = tmp_path / name
    texts = {
        "a.csv": "uri,label\n1.jpg,clear\tprimary\n2.jpg,primary\n",
        "a.jsonl": '{"uri": "1.jpg", "label": "clear\\tprimary"}\n{"uri": "2.jpg", "label": "primary"}\n',
    }
    listing.write_text(texts[name])
    with pytest.raises(InputError, match="a control character"):
        scan.fingerprint_images(str(listing), labels="several")
    given = {"labels": "several", "label_separator": "tab"}
    assert scan.fingerprint_images(str(listing), **given)
    assert scan.fingerprint_images("sample", labels_uri=str(listing), **given) != scan.fingerprint_images("sample", **given)


def test_lines_of_different_numbers_of_classes_are_rejected(tmp_path):
    with pytest.raises(InputError, match="got lines of 2 and 3 numbers before the path in"):
        read(tmp_path, "a.lst", "0\t0\t1\t1.jpg\n1\t1\t0\t0\t2.jpg\n")
    with pytest.raises(InputError, match="got lines of 1 and 3 numbers before the path in"):
        read(tmp_path, "a.lst", "0\t0\t1\t1\t1.jpg\n1\t2\t2.jpg\n")


@pytest.mark.parametrize("rule", [SEVERAL, LabelRule()])
def test_tasks_with_boxes_alone_are_rejected_and_not_taken_for_images_without_a_label(tmp_path, rule):
    box = {"type": "rectanglelabels", "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["rose"]}}
    boxed, empty = task("1.jpg", choices(result=[box])), task("2.jpg", choices())
    with pytest.raises(InputError, match="got an export of Label Studio that holds no choices, only rectanglelabels in"):
        read(tmp_path, "a.json", json.dumps([boxed, empty]), rule)
    beside = task("2.jpg", choices("rose"))  # a question of the same project
    assert read(tmp_path, "a.json", json.dumps([boxed, beside]), SEVERAL) == [("1.jpg", [], True), ("2.jpg", ["rose"], False)]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"categories": COCO["categories"][1:]}, "whose category 2 has no name"),
        ({"categories": [{"id": 2, "name": None}, *COCO["categories"][1:]]}, "whose category 2 has no name"),
        ({"images": [{"id": "7", "file_name": "1.jpg"}]}, "none of whose image_id, such as 7, is the id of an image"),
        (
            {"annotations": [*COCO["annotations"], {"image_id": "8", "category_id": 2}]},
            "whose image_id, such as '8', is the id of an image only as a text",
        ),
        ({"categories": [{"id": 2, "name": ["daisy"]}, *COCO["categories"][1:]]}, "whose category 2 has no name"),
        ({"annotations": [{"image_id": 7, "caption": "a daisy"}]}, "that lack 'category_id'"),
    ],
)
def test_annotations_of_coco_that_fit_no_category_or_no_image_are_rejected(tmp_path, changed, found):
    with pytest.raises(InputError, match=f"got annotations of COCO {found} in"):
        read(tmp_path, "a.json", json.dumps(COCO | changed))


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"categories": [*COCO["categories"], {"id": 2, "name": "tulip"}]}, "categories of COCO of which two have the id 2, d"),
        (
            {"images": [*COCO["images"], {"id": 7, "file_name": "3.jpg"}]},
            "images of COCO of which two have the id 7, 1.jpg and 3",
        ),
        ({"images": [{"id": 7, "file_name": None}]}, r"images of COCO of which one has no file_name \(7\)"),
        ({"annotations": None}, "images, annotations or categories of COCO that are not lists of objects with ids"),
        ({"annotations": {"7": [2, 5]}}, "images, annotations or categories of COCO that are not lists of objects with ids"),
        ({"images": [{"id": [7], "file_name": "1.jpg"}]}, "images, annotations or categories of COCO that are not lists of"),
    ],
)
def test_parts_of_coco_that_do_not_tell_apart_images_or_categories_are_rejected(tmp_path, changed, found):
    with pytest.raises(InputError, match=f"got {found}"):
        read(tmp_path, "a.json", json.dumps(COCO | changed))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"categories": [*COCO["categories"], {"id": 90, "name": "unused"}]}, [["daisy", "rose"], []]),
        ({"categories": [{"id": 2, "name": "flower"}, {"id": 5, "name": "flower"}]}, [["flower"], []]),
        ({"categories": [{"id": 2, "name": "a, b"}, {"id": 5, "name": "玫瑰"}]}, [["a, b", "玫瑰"], []]),
        ({"images": [*COCO["images"], COCO["images"][0]]}, [["daisy", "rose"], []]),  # twice in exports of Label Studio
        ({"annotations": [*COCO["annotations"], {"image_id": 99, "category_id": 2}]}, [["daisy", "rose"], []]),
        ({"annotations": []}, [[], []]),
    ],
)
def test_oddities_of_coco_that_change_nothing(tmp_path, changed, expected):
    assert [labels for _, labels, _ in read(tmp_path, "a.json", json.dumps(COCO | changed))] == expected


ODD = [None, 5, 1.5, True, "", [], {}, [None], [[]], {"choices": 3}, {"a": {}}, "/data/local-files/?d=", "a\tb"]


def with_odd_values(content, odd):
    """Yields copies of parsed JSON in each of which one value, at any depth, is replaced by an odd one."""
    yield odd
    for key in content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        for changed in with_odd_values(content[key], odd):
            copy = content.copy()
            copy[key] = changed
            yield copy


@pytest.mark.parametrize(
    "content", [COCO, [task("1.jpg", choices("rose"), choices("daisy", ground_truth=True))], [ABOUT | MINIMAL[0][0]]]
)
def test_any_value_in_any_place_is_read_or_refused_in_one_line(tmp_path, content):
    refused = 0
    for changed in (changed for odd in ODD for changed in with_odd_values(content, odd)):
        try:
            read(tmp_path, "a.json", json.dumps(changed))
        except InputError as error:
            refused += 1
            assert str(error).count("\n") == 0
    assert refused > len(ODD)


def test_a_class_outside_the_class_map_is_rejected(tmp_path):
    with pytest.raises(InputError, match="a class that is not in the class-map, 5"):
        read(tmp_path, "a.manifest", json.dumps(SAGEMAKER | {"flowers": [0, 5]}))


IMAGES = ("1.jpg", "2.jpg", "3.jpg")
BOTH, DAISY = ["daisy", "rose"], ["daisy"]
FOUND = {"1.jpg": BOTH, "2.jpg": DAISY, "3.jpg": []}
LABELLED = {"1.jpg": BOTH, "2.jpg": DAISY}


def csv_of(*lines: str) -> tuple[str, str]:
    return "a.csv", "\n".join([*lines, ""])


def tasks(*pairs) -> tuple[str, str]:
    return "a.json", json.dumps([task(name, *annotations) for name, annotations in pairs])


# First cell of the page's table: name and content of the import file, labels by image, and the settings; or words of the error.
CASES = {
    "`1.jpg,daisy;rose`": (*csv_of("1.jpg,daisy;rose", "2.jpg,daisy"), LABELLED),
    "`label_separator` of `advanced`": (
        *csv_of("uri,label", "1.jpg,daisy rose", "2.jpg,daisy"),
        LABELLED,
        {"label_separator": "space"},
    ),
    "a list in a cell, `[\"daisy\", \"rose\"]` or `['daisy', 'rose']`": (
        *csv_of("uri,label", "1.jpg,\"['daisy', 'rose']\"", '2.jpg,"[""daisy""]"', "3.jpg,[]"),
        FOUND,
    ),
    "columns `label1`, `label2`, or `label` twice": (
        *csv_of("uri,label1,label2", "1.jpg,daisy,rose", "2.jpg,,daisy"),
        LABELLED,
    ),
    "`ml_use,uri,label1,label2`, as Vertex AI writes it": (*csv_of("TEST,1.jpg,daisy,rose", "training,2.jpg,daisy"), LABELLED),
    "several lines of an image": (*csv_of("1.jpg,daisy,test", "1.jpg,rose,train", "2.jpg,daisy,train"), LABELLED),
    "header `image,cat,dog` above 0 and 1": (*csv_of("image,daisy,rose", "1.jpg,1,True", "2.jpg,1.0,0", "3.jpg,0,0"), FOUND),
    "`.lst` with several numbers before the path": (
        "a.lst",
        "7\t1\t1\t1.jpg\n8\t1\t0\t2.jpg\n",
        {"1.jpg": ["0", "1"], "2.jpg": ["0"]},
    ),
    '`"label": ["daisy", "rose"]` in `.jsonl` and `.json`': (
        "a.json",
        json.dumps({"1.jpg": BOTH, "2.jpg": DAISY, "3.jpg": []}),
        FOUND,
    ),
    "`.jsonl` of Vertex AI": ("a.jsonl", json.dumps(VERTEX | {"imageGcsUri": "1.jpg"}), {"1.jpg": BOTH}),
    "`.manifest` of SageMaker Ground Truth": ("a.manifest", json.dumps(SAGEMAKER | {"source-ref": "1.jpg"}), {"1.jpg": BOTH}),
    "`.json` of COCO": ("a.json", json.dumps(COCO), {"1.jpg": BOTH, "2.jpg": []}),
    "`.json` of Label Studio": (
        *tasks(("1.jpg", [choices(*BOTH)]), ("2.jpg", [choices("daisy")]), ("3.jpg", [choices()])),
        FOUND,
    ),
    "JSON-MIN and CSV of Label Studio": (
        "a.json",
        json.dumps([{"image": "1.jpg", "c": 1, "choice": {"choices": BOTH}}, {"image": "2.jpg", "choice": "daisy"}]),
        LABELLED,
    ),
    "the same bytes in several class folders, or under several names": (
        *csv_of("1.jpg,daisy", "copy.jpg,rose", "2.jpg,daisy"),
        LABELLED,
    ),
    "zeros for all classes, `[]`, no annotation in COCO, a task submitted without a choice": (
        *csv_of("image,daisy,rose", "1.jpg,1,1", "2.jpg,1,0", "3.jpg,0,0"),
        FOUND,
    ),
    "an empty cell, `nan`, empty cells for all classes, a task that nobody has done": (
        *csv_of("uri,label", "1.jpg,daisy|rose", "2.jpg,daisy", "3.jpg,nan", "3.jpg,"),
        LABELLED,
    ),
    "a label that holds a bar where that is not the separator": (
        *csv_of("uri,label", "1.jpg,daisy|rose;tulip", "2.jpg,daisy"),
        "with labels=several, a label must not hold |",
        {"label_separator": ";"},
    ),
    "class folders, each image in one": ("", "", {"daisy/1.jpg": ["daisy"], "rose/2.jpg": ["rose"]}),
    "`sample`": (
        "sample",
        "",
        {"0001.jpg": several_sample.labels_of("0001.jpg"), "0002.jpg": several_sample.labels_of("0002.jpg")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_data_of_several_labels_is_read_as_the_page_says(tmp_path, monkeypatch, case):
    monkeypatch.setattr(several_sample, "IMAGES", 2)
    name, content, expected, *settings = CASES[case]
    for place in expected if name == "" else IMAGES:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(place.encode())
    (tmp_path / "copy.jpg").write_bytes(b"1.jpg") if "copy.jpg" in content else None
    uri = "sample" if name == "sample" else str(tmp_path / name) if name else str(tmp_path)
    if content:
        (tmp_path / name).write_text(content, encoding="utf-8")
    advanced = Advanced.parse(settings[0] if settings else {})
    outputs = {"table": tmp_path / "table.out", "page": tmp_path / "page.out"}
    ingest_of = partial(ingest.ingest_images, uri, check_images=False, splits=1, labels="several", advanced=advanced, **outputs)
    if isinstance(expected, str):
        with pytest.raises(InputError) as refusal:
            ingest_of()
        assert expected in str(refusal.value)
        return
    assert {row.name: row.labels for row in ingest_of().rows} == expected


def test_the_page_lists_the_data_of_several_labels_that_is_tested():
    assert list(CASES) == data_page.first_cells("Several labels")
