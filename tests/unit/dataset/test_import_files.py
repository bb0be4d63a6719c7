"""Import files and exclusion lists, as Vertex AI, MXNet and spreadsheets write them; invalid lines are named."""

import http.server
import threading
from functools import partial

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import exclusions, import_files, scan
from kfp_vision.dataset.import_files import ImportEntry


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read_entries(tmp_path, name, content):
    """Returns name, label, split and line of every entry."""
    return [
        (entry.name, entry.label, entry.split, entry.line)
        for entry in import_files.read_import_file(written(tmp_path, name, content))
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
        ("a.csv", "1.jpg,daisy\n2.jpg\n", 2, "1 fields"),
        ("a.csv", "1.jpg,daisy\n2.jpg;tulip\n", 2, "1 fields"),
        ("a.csv", "1.jpg,daisy,training,more\n", 1, "4 fields"),
        ("a.csv", "uri,label\n1.jpg,daisy,training\n", 2, "3 fields under a header of 2"),
        ("a.csv", "1.jpg,daisy,tulip\n", 1, "the ml_use tulip (not training, validation or test)"),
        ("a.csv", "1.jpg,\n", 1, "no label"),
        ("a.csv", ",daisy\n", 1, "no URI"),
        ("a.csv", '1.jpg,daisy\n"2.jpg,tulip\n', 2, "unexpected end of data"),
        ("a.csv", b"1.jpg,daisy\n2.jpg,L\xf6wenzahn\n", 2, "bytes that are not UTF-8"),
        ("a.jsonl", '{"uri": "1.jpg", "label": "daisy"}\n{"uri": "2.jpg", \n', 2, "invalid JSON"),
        ("a.jsonl", "[1, 2]\n", 1, "JSON that is not an object"),
        ("a.jsonl", '{"uri": "1.jpg", "label": 3}\n', 1, "a field that is not a string"),
        ("a.jsonl", '{"uri": "1.jpg"}\n', 1, "no label"),
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
    (entry,) = import_files.read_import_file(written(tmp_path, "a.csv", f"{name},daisy\n"))
    assert entry == ImportEntry(name, uri.format(folder=tmp_path, above=tmp_path.parent), "daisy", "", 1)


def test_settings_of_a_bucket_apply_to_the_images_of_its_import_file():
    listing = "s3://bucket/lists/a.csv?endpoint=https://minio.example.org&region=eu-west-1"
    settings = listing.removeprefix("s3://bucket/lists/a.csv")
    assert import_files._resolve("daisy/1.jpg", listing) == f"s3://bucket/lists/daisy/1.jpg{settings}"
    assert import_files._resolve("s3://other/1.jpg", listing) == f"s3://other/1.jpg{settings}"
    assert import_files._resolve("s3://other/1.jpg?region=us-east-1", listing) == "s3://other/1.jpg?region=us-east-1"
    assert import_files._resolve("gs://other/1.jpg", listing) == "gs://other/1.jpg"


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


AUDIT = "path,leave_out,finding,label,instead,other,score\n"


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        ("path\ndaisy/2.jpg\ndaisy/1.jpg\ndaisy/2.jpg\n", ["daisy/2.jpg", "daisy/1.jpg"]),
        (AUDIT + 'daisy/1.jpg,yes,label,daisy,tulip,"",0.9\ntulip/2.jpg,,copy,tulip,,tulip/1.jpg,1\n', ["daisy/1.jpg"]),
        ("path,leave_out\na,yes\nb,TRUE\nc,1\nd, X \ne,no\nf,False\ng,0\nh,\n,no\n", ["a", "b", "c", "d"]),
        ("Leave_Out,PATH\nyes,daisy/1.jpg\n", ["daisy/1.jpg"]),
        (b"\xef\xbb\xbfpath;leave_out\r\n\r\n\xc3\xa9t\xc3\xa9/1, 2.jpg;yes\r\n;\r\n", ["été/1, 2.jpg"]),
        ('path\n"a, ""b"".jpg"\ns3://bucket/photos.tgz#daisy/1.jpg', ['a, "b".jpg', "s3://bucket/photos.tgz#daisy/1.jpg"]),
        ("path,leave_out\ndaisy/1.jpg,no\n", []),
        ("path\n", []),
    ],
)
def test_exclusions_are_read(tmp_path, content, paths):
    assert exclusions.read_exclusions(written(tmp_path, "list", content)) == paths


NAMED = "every line of leave_out_uri must name an image"
COLUMN = "leave_out_uri must have a column path"
WRITE = "Write path,leave_out in the first line and lines such as daisy/1.jpg,yes below it, in UTF-8."


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", f"{COLUMN}; got nothing in {{uri}}, line 1. {WRITE}"),
        ("daisy/1.jpg\ndaisy/2.jpg\n", f"{COLUMN}; got daisy/1.jpg in {{uri}}, line 1. {WRITE}"),
        ("uri,label\n1.jpg,daisy\n", f"{COLUMN}; got uri, label in {{uri}}, line 1. {WRITE}"),
        ("path\ndaisy/1,2.jpg\n", f"{NAMED}; got 2 fields under a header of 1 in {{uri}}, line 2. {WRITE}"),
        ("path,leave_out\n\ndaisy/1.jpg\n", f"{NAMED}; got 1 fields under a header of 2 in {{uri}}, line 3. {WRITE}"),
        ("path,leave_out\n,yes\n", f"{NAMED}; got no path in {{uri}}, line 2. {WRITE}"),
        ('path\n1.jpg\n"2.jpg\n', f"{NAMED}; got unexpected end of data in {{uri}}, line 3. {WRITE}"),
        (b"path\nL\xf6wenzahn/1.jpg\n", f"{NAMED}; got bytes that are not UTF-8 in {{uri}}, line 2. {WRITE}"),
        (
            "path,leave_out\n1.jpg,yes\n2.jpg,maybe\n",
            "column leave_out of leave_out_uri must be yes or no; got maybe in {uri}, line 3. "
            "Write yes to exclude the image, no or nothing to keep it.",
        ),
    ],
)
def test_an_invalid_exclusion_list_is_rejected(tmp_path, content, line):
    uri = written(tmp_path, "list.csv", content)
    with pytest.raises(InputError) as refusal:
        exclusions.read_exclusions(uri)
    assert str(refusal.value) == f"error: {line.format(uri=uri)}"


def test_a_folder_is_rejected_as_exclusion_list(tmp_path):
    with pytest.raises(InputError) as refusal:
        exclusions.read_exclusions(str(tmp_path))
    rule = "leave_out_uri must be a readable file"
    assert str(refusal.value) == f"error: {rule}; got {tmp_path} (Is a directory). Give a CSV with a column path."
