"""Import files, as Vertex AI, MXNet, competitions and spreadsheets write them; invalid lines are named."""

import http.server
import json
import threading
from functools import partial

import pytest
from support import data_page

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import import_files, scan
from kfp_vision.dataset.import_files import ImportEntry


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read_entries(tmp_path, name, content):
    """Returns name, label, split and line of every entry."""
    return [
        (entry.name, entry.label, entry.split, entry.line)
        for entry in import_files.read_import_file(written(tmp_path, name, content)).entries
    ]


VERTEX_CSV = "training,gs://bucket/1.jpg,daisy\nvalidation,gs://bucket/2.jpg,tulip\nTEST,gs://bucket/3.jpg,daisy\n"
VERTEX_JSONL = (
    '{"imageGcsUri": "gs://bucket/1.jpg", "classificationAnnotation": {"displayName": "daisy"}, '
    '"dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "training"}}\n'
    '{"imageGcsUri": "gs://bucket/2.jpg", "classificationAnnotation": {"displayName": "tulip"}}\n'
)


@pytest.mark.parametrize(
    ("name", "content", "entries"),
    [
        ("a.csv", "1.jpg,daisy\n2.jpg,tulip", [("1.jpg", "daisy", "", 1), ("2.jpg", "tulip", "", 2)]),
        ("a.csv", "uri,label\r\n1.jpg,daisy\r\n", [("1.jpg", "daisy", "", 2)]),
        ("a.CSV", "Label,ML_use,URI\ndaisy,Test,1.jpg\n", [("1.jpg", "daisy", "test", 2)]),
        ("a.csv", b"\xef\xbb\xbfuri,label\n\n1.jpg,daisy\n", [("1.jpg", "daisy", "", 3)]),
        ("a.csv", '"a, b.jpg","c, ""d""",unassigned\n', [("a, b.jpg", 'c, "d"', "", 1)]),
        ("a.csv", "1.jpg, daisy , training\n", [("1.jpg", "daisy", "train", 1)]),
        (
            "a.csv",
            VERTEX_CSV,
            [
                ("gs://bucket/1.jpg", "daisy", "train", 1),
                ("gs://bucket/2.jpg", "tulip", "validation", 2),
                ("gs://bucket/3.jpg", "daisy", "test", 3),
            ],
        ),
        ("a.jsonl", '{"uri": "1.jpg", "label": "花 é", "ml_use": "val"}\n\n', [("1.jpg", "花 é", "validation", 1)]),
        ("a.jsonl", VERTEX_JSONL, [("gs://bucket/1.jpg", "daisy", "train", 1), ("gs://bucket/2.jpg", "tulip", "", 2)]),
        ("a.lst", "0\t3\tdaisy/1 a.jpg\n7\t0.000000\t2.jpg\n", [("daisy/1 a.jpg", "3", "", 1), ("2.jpg", "0", "", 2)]),
        ("a.lst", "0\t10\t1.jpg\r\n1\t9\t2.jpg\r\n", [("1.jpg", "10", "", 1), ("2.jpg", "09", "", 2)]),
    ],
)
def test_the_lines_are_read(tmp_path, name, content, entries):
    assert read_entries(tmp_path, name, content) == entries


@pytest.mark.parametrize(
    ("name", "content", "line", "found"),
    [
        ("a.csv", "1.jpg,daisy\n2.jpg;tulip\n", 2, "only one field, 2.jpg;tulip"),
        ("a.csv", "1.jpg,daisy,training,more\n", 1, "4 fields"),
        ("a.csv", "uri,label\n1.jpg,daisy,training\n", 2, "3 fields under a header of 2"),
        ("a.csv", "1.jpg,daisy,tulip\n", 1, "the ml_use tulip (not training, validation or test)"),
        ("a.csv", ",daisy\n", 1, "no URI"),
        ("a.csv", '1.jpg,daisy\n"2.jpg,tulip\n', 2, "unexpected end of data"),
        ("a.csv", b"1.jpg,daisy\n2.jpg,L\xf6wenzahn\n", 2, "bytes that are not UTF-8"),
        ("a.csv", "uri,label\n1.jpg,图片\n".encode("gbk"), 2, "text in GBK (图片) instead of UTF-8"),
        ("a.jsonl", '{"uri": "1.jpg", "label": "图片"}\n'.encode("gbk"), 1, "text in GBK (图片) instead of UTF-8"),
        ("a.jsonl", '{"uri": "1.jpg", "label": "daisy"}\n{"uri": "2.jpg", \n', 2, "invalid JSON"),
        ("a.jsonl", "[1, 2]\n", 1, "JSON that is not an object"),
        ("a.jsonl", '{"imageGcsUri": "1.jpg", "classificationAnnotation": []}\n', 1, "fields that are not objects"),
        ("a.jsonl", "[" * 100_000 + "\n", 1, "invalid JSON"),
        ("a.lst", "0 3 1.jpg\n", 1, "1 fields between tabs"),
        ("a.lst", "0\t3\t4\t1.jpg\n", 1, "4 fields between tabs"),
        ("a.lst", "0\t0\t1.jpg\n1\tdaisy\t2.jpg\n", 2, "the label daisy, which is not a whole number from 0"),
        ("a.lst", "0\t0.5\t1.jpg\n", 1, "the label 0.5, which is not a whole number from 0"),
        ("a.lst", "0\t-1\t1.jpg\n", 1, "the label -1, which is not a whole number from 0"),
        ("a.lst", "0\tnan\t1.jpg\n", 1, "the label nan, which is not a whole number from 0"),
        ("a.lst", "0\t0\t\n", 1, "no URI"),
    ],
)
def test_an_invalid_line_is_named(tmp_path, name, content, line, found):
    uri = written(tmp_path, name, content)
    with pytest.raises(InputError) as refusal:
        import_files.read_import_file(uri)
    rule = "error: every line of an import file must give an image and its label; got "
    assert str(refusal.value).startswith(f"{rule}{found} in {uri}, line {line}. Write lines such as ")


def test_labels_that_are_as_probable_in_a_code_page_are_noted(tmp_path):
    uri = written(tmp_path, "a.csv", "1.jpg,猫\n2.jpg,牛\n".encode("gbk"))
    note = f"{uri} is read as UTF-8 (è, ţ). If it is in GBK (猫, 牛), save it in UTF-8."
    assert import_files.read_import_file(uri).notes[0] == note
    for certain in (
        "1.jpg,猫\n2.jpg,牛\n".encode(),
        "1.jpg,è\n".encode("utf-8-sig"),
        "1.jpg,è\n".encode("utf-16"),
        "1.jpg,Löwe\n".encode(),
    ):
        assert not import_files.read_import_file(written(tmp_path, "a.csv", certain)).notes


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("daisy/1.jpg", "{folder}/daisy/1.jpg"),
        ("../1.jpg", "{above}/1.jpg"),
        ("/data/1.jpg", "/data/1.jpg"),
        ("file:///data/1.jpg", "/data/1.jpg"),
        ("s3://bucket/a b/1.jpg", "s3://bucket/a b/1.jpg"),
        ("https://host/1.jpg?x=1", "https://host/1.jpg?x=1"),
        ("photos.tgz#daisy/1.jpg", "{folder}/photos.tgz#daisy/1.jpg"),
    ],
)
def test_a_relative_uri_is_relative_to_the_file(tmp_path, name, uri):
    (entry,) = import_files.read_import_file(written(tmp_path, "a.csv", f"{name},daisy\n")).entries
    assert entry == ImportEntry(name, uri.format(folder=tmp_path, above=tmp_path.parent), "daisy", "", 1)


def test_settings_of_a_bucket_apply_to_the_images_of_its_import_file():
    listing = "s3://bucket/lists/a.csv?endpoint=https://minio.example.org&region=eu-west-1"
    settings = listing.removeprefix("s3://bucket/lists/a.csv")
    assert import_files.resolve("daisy/1.jpg", listing) == f"s3://bucket/lists/daisy/1.jpg{settings}"
    assert import_files.resolve("s3://other/1.jpg", listing) == f"s3://other/1.jpg{settings}"
    assert import_files.resolve("s3://other/1.jpg?region=us-east-1", listing) == "s3://other/1.jpg?region=us-east-1"
    assert import_files.resolve("gs://other/1.jpg", listing) == "gs://other/1.jpg"


def test_an_import_file_and_its_images_are_read_over_http(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "lists").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1 a.jpg").write_bytes(b"abc")
    (tmp_path / "lists" / "all.csv").write_text("../photos/1 a.jpg,daisy\n")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            (row,) = scan.scan_images(f"http://127.0.0.1:{server.server_port}/lists/all.csv").rows
        finally:
            server.shutdown()
            thread.join()
    assert row.uri == f"http://127.0.0.1:{server.server_port}/photos/1 a.jpg"
    assert (row.label, row.content_id) == ("daisy", "900150983cd24fb0d6963f7d28e17f72")  # MD5 of abc: RFC 1321, section A.5


def test_import_files_are_recognized(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for uri in ("a.csv", "/x/A.CSV", "http://host/a.jsonl?token=1", "s3://bucket/train.lst"):
        assert import_files.is_import_file(uri)
    for uri in (str(tmp_path / "folder.csv"), "photos", "photos.tgz", "sample", "photos.tgz#a.csv"):
        assert not import_files.is_import_file(uri)


IMAGES = ("cat/0.jpg", "cat/1.jpg", "dog/2.jpg", "dog/3.jpg")
ANIMALS = {name: name[:3] for name in IMAGES}
WILD = {name: f"{label}, wild" for name, label in ANIMALS.items()}
SPLITS = {"cat/0.jpg": "train", "cat/1.jpg": "validation", "dog/2.jpg": "train", "dog/3.jpg": "test"}
NUMBERED = {name: "1" if label == "dog" else "0" for name, label in ANIMALS.items()}


def table(line, *header):
    """Returns a line for each image, made from its name and its label, below other lines."""
    return "".join(f"{text}\n" for text in [*header, *(line(name, label) for name, label in ANIMALS.items())])


def json_lines(item):
    return table(lambda name, label: json.dumps(item(name, label)))


def vertex_item(name, label):
    uses = {"aiplatform.googleapis.com/ml_use": SPLITS[name]}
    return {"imageGcsUri": name, "classificationAnnotation": {"displayName": label}, "dataItemResourceLabels": uses}


def sagemaker_item(name, label):
    metadata = {"class-name": label, "confidence": 0.9, "type": "groundtruth/image-classification", "human-annotated": "yes"}
    return {"source-ref": name, "animals": 7, "animals-metadata": metadata}


COCO = {
    "images": [{"id": 10 + number, "file_name": name, "width": 4} for number, name in enumerate(IMAGES)],
    "annotations": [{"image_id": 10 + number, "category_id": number // 2} for number in range(len(IMAGES))],
    "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
}


def label_studio_task(name, label):
    choices = {"type": "choices", "from_name": "animal", "to_name": "image", "value": {"choices": [label]}}
    return {"id": 1, "data": {"image": name}, "annotations": [{"result": [choices], "was_cancelled": False}], "predictions": []}


def uploaded(name):
    """Returns the place that Label Studio's server gives an image, one way or the other."""
    return f"/data/upload/1/0f9e8d7c-{name[4:]}" if name.startswith("cat") else f"/data/local-files/?d={name}"


# First cell of the page's table: name and content of the import file, and labels and splits of `IMAGES`, or words of the error.
CASES = {
    "`uri,label` and `uri,label,ml_use`": (
        "a.csv",
        table(lambda name, label: f"{name},{label},{SPLITS[name]}"),
        ANIMALS,
        SPLITS,
    ),
    "`ml_use,uri,label`": ("a.csv", table(lambda name, label: f"{SPLITS[name].upper()},{name},{label}"), ANIMALS, SPLITS),
    "header `filename,label`, `image,class`, `id,breed`": (
        "a.csv",
        table(lambda name, label: f"{label},{name}", "Breed,File Name"),
        ANIMALS,
    ),
    "header `class id,filepaths,labels,data set`": (
        "a.csv",
        table(lambda name, label: f"7,{name},{label},{SPLITS[name]}", "class id,filepaths,labels,data set"),
        ANIMALS,
        SPLITS,
    ),
    "header `image,class,species`": (
        "a.csv",
        table(lambda name, label: f"{name},mammal,{label}", "image,class,species"),
        "got the columns class and species in ",
    ),
    "header `image,cat,dog` above 0 and 1": (
        "a.csv",
        table(lambda name, label: f"{name},{float(label == 'cat')},{float(label == 'dog')}", "image,cat,dog"),
        ANIMALS,
    ),
    "`;`, tab or bar between cells": ("a.tsv", table(lambda name, label: f"{name}\t{label}, wild"), WILD),
    "`path label` in a `.txt`": ("a.txt", table(lambda name, label: f"{name} {NUMBERED[name]}"), NUMBERED),
    "`cat,1.jpg` in every line, without a header": ("a.csv", table(lambda name, label: f"{label},{name}"), ANIMALS),
    "`1 cat/1.jpg`, `2 cat/2.jpg` and so on": (
        "images.txt",
        "".join(f"{number} {name}\n" for number, name in enumerate(IMAGES, start=1)),
        "an import file must give the labels of its images; got 4 lines without a label in {uri}.",
    ),
    "`# a comment`, empty lines, `a.jpg,cat,,`": (
        "a.csv",
        table(lambda name, label: f"{name},{label},,\r\n\r", "# from the zoo, 2024"),
        ANIMALS,
    ),
    'UTF-16, as Excel\'s "Unicode text"': (
        "a.txt",
        table(lambda name, label: f"{name}\t{label}", "image\tlabel").encode("utf-16"),
        ANIMALS,
    ),
    "another code page": (
        "a.csv",
        table(lambda name, label: f"{name},{label}", "image,label", "dog/2.jpg,L\xf6we").encode("cp1252"),
        "got bytes that are not UTF-8 in {uri}, line 2. Write lines such as daisy/1.jpg,daisy or daisy/1.jpg,daisy,training, "
        "in UTF-8 (in Excel, save it as CSV UTF-8).",
    ),
    "`cat\\1.jpg`": ("a.csv", table(lambda name, label: f"{name},{label}".replace("/", "\\"), "uri,label"), ANIMALS),
    "`C:\\data\\cat\\1.jpg`": (
        "a.csv",
        "C:\\data\\cat\\1.jpg,cat\n",
        "got C:\\data\\cat\\1.jpg, a path on a Windows machine (write it relative to this file) in {uri}, line 1.",
    ),
    "ids such as `000bec180e`": ("a.csv", table(lambda name, label: f"{name[4]},{label}", "id,breed"), ANIMALS),
    "names without their folder": ("a.csv", table(lambda name, label: f"{name[4:].upper()},{label}"), ANIMALS),
    "a line without a label, or with the label `nan`": (
        "a.csv",
        table(lambda name, label: f"{name},{label}", "uri,label", "dog/3.jpg,nan", "dog/2.jpg,"),
        ANIMALS,
    ),
    "a line whose image is missing": (
        "a.csv",
        table(lambda name, label: f"{name},{label}", *["cat/0.jpg,cat"] * 15, "cat/9.jpg,cat"),
        ANIMALS,
    ),
    "`.jsonl` with `uri`, `label`, `ml_use`": (
        "a.jsonl",
        json_lines(lambda name, label: {"uri": name, "label": int(NUMBERED[name]), "ml_use": SPLITS[name]}),
        NUMBERED,
        SPLITS,
    ),
    "`.jsonl` of Vertex AI": ("a.jsonl", json_lines(vertex_item), ANIMALS, SPLITS),
    "`.manifest` of SageMaker Ground Truth": ("a.manifest", json_lines(sagemaker_item), ANIMALS),
    "`metadata.jsonl`, `metadata.csv` of Hugging Face": (
        "metadata.jsonl",
        json_lines(lambda name, label: {"file_name": name, "label": label, "text": "a pet", "boxes": [[1, 2]]}),
        ANIMALS,
    ),
    "`.json`": ("a.json", json.dumps([{"image": name, "class": label} for name, label in ANIMALS.items()], indent=1), ANIMALS),
    "`.json` of COCO": ("a.json", json.dumps(COCO), ANIMALS),
    "`.json` of Label Studio": ("a.json", json.dumps([label_studio_task(*pair) for pair in ANIMALS.items()]), ANIMALS),
    "`/data/upload/1/0f9e8d7c-1.jpg`, `/data/local-files/?d=a/1.jpg` in it": (
        "a.json",
        json.dumps([label_studio_task(uploaded(name), label) for name, label in ANIMALS.items()]),
        ANIMALS,
    ),
    "`.lst` of MXNet": ("a.lst", table(lambda name, label: f"5\t{NUMBERED[name]}.000000\t{name}"), NUMBERED),
    "`.xlsx`, `.ods`, `.parquet`": ("a.xlsx", "PK\x03\x04", "got an Excel workbook ({uri}). Save it as CSV, in UTF-8."),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_the_encodings_of_spreadsheets_are_read(tmp_path, encoding):
    content = "image\tlabel\r\n1.jpg\tL\xf6we\r\n".encode(encoding)
    assert read_entries(tmp_path, "a.csv", content) == [("1.jpg", "L\xf6we", "", 2)]


@pytest.mark.parametrize("name", ["C:\\data\\1.jpg", "d:/data/1.jpg", "\\\\server\\photos\\1.jpg"])
def test_a_path_on_a_windows_machine_is_told_as_such(tmp_path, name):
    uri = written(tmp_path, "a.csv", f"{name},cat\n")
    with pytest.raises(InputError) as refusal:
        import_files.read_import_file(uri)
    assert f"got {name}, a path on a Windows machine (write it relative to this file) in {uri}, line 1. " in str(refusal.value)


def lay_animals(folder):
    for name in IMAGES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())


@pytest.mark.parametrize("case", CASES)
def test_import_files_of_others_are_read_as_the_page_says(tmp_path, case):
    lay_animals(tmp_path)
    name, content, labels, *splits = CASES[case]
    uri = written(tmp_path, name, content)
    if isinstance(labels, str):
        with pytest.raises(InputError) as refusal:
            scan.scan_images(uri)
        assert labels.format(uri=uri) in str(refusal.value)
        return
    rows = scan.scan_images(uri).rows
    place = f"{tmp_path}/"
    assert {row.uri.removeprefix(place): row.label for row in rows} == labels
    assert {row.uri.removeprefix(place): row.split for row in rows} == (splits[0] if splits else dict.fromkeys(IMAGES, ""))


def test_the_page_lists_the_import_files_that_are_tested():
    assert list(CASES) == data_page.first_cells("Import files")
