"""What docs/data.md says of archives: each line with an archive of its own."""

import bz2
import gzip
import io
import lzma
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support import data_page, zip_names

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import import_files, scan, table_checks
from kfp_vision.storage import archives, reading

FILES = {"daisy/1.jpg": b"one", "tulip/2.jpg": b"two"}
ROSES = ["玫瑰/1.jpg", "郁金香/2.jpg"]


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files, encoding="utf-8"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding=encoding) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def contents(path):
    return {item.name: item.read() for item in reading.walk(str(path))}


def written(path, content):
    path.write_bytes(content)
    return path


def refusal(ask):
    with pytest.raises(InputError) as refused:
        ask()
    return str(refused.value)


def serve_and_fetch(content, headers):
    """Answers one address over HTTP, and returns the bytes that a reader gets from it."""

    class Visit(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Visit) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with reading.Reader() as reader:
                return reader.read(f"http://127.0.0.1:{server.server_port}/1.jpg")
        finally:
            server.shutdown()
            thread.join()


def check_no_images(path):
    return refusal(lambda: table_checks.check_classification(scan.scan_images(str(path)), str(path), 1))


def plain_zip(folder):
    wrapped = {f"photos/{name}": content for name, content in FILES.items()}
    assert contents(written(folder / "a.zip", zip_of(FILES))) == FILES
    assert scan.scan_images(str(written(folder / "b.zip", zip_of(wrapped)))).classes == {"daisy": 1, "tulip": 1}


def plain_tar(folder):
    assert contents(written(folder / "a.tar", tar_of(FILES))) == FILES


def compressed_tar(folder):
    alone = lzma.compress(tar_of(FILES), format=lzma.FORMAT_ALONE)
    packed = {"gz": gzip.compress(tar_of(FILES)), "bz2": bz2.compress(tar_of(FILES)), "xz": lzma.compress(tar_of(FILES))}
    for ending, content in (packed | {"lzma": alone}).items():
        assert contents(written(folder / f"a.tar.{ending}", content)) == FILES


def other_name(folder):
    assert contents(written(folder / "photos", gzip.compress(tar_of(FILES)))) == FILES
    assert contents(written(folder / "photos.download", zip_of(FILES))) == FILES


def self_extracting(folder):
    assert contents(written(folder / "photos.exe", b"MZ" + bytes(5000) + zip_of(FILES))) == FILES


def utf8_names(folder):
    forms = ["e\u0301t\u00e9/1.jpg", "\u00e9t\u00e9/1.jpg"]
    unflagged = zip_names.write_zip(folder / "a.zip", {name.encode(): b"a" for name in forms})
    assert list(contents(unflagged)) == forms
    notes = table_checks.classification_notes(scan.scan_images(str(unflagged)))
    assert any("Unicode form: are they the same class?" in note for note in notes)


def valid_in_both(folder):
    assert list(contents(zip_names.write_zip(folder / "a.zip", {"猫/1.jpg".encode("gbk"): b"a"}))) == ["猫/1.jpg"]
    assert "read as GBK (猫), or UTF-8 (è)" in reading.notes_on_names(str(folder / "a.zip"))[0]


def unicode_path(folder):
    raw = {name.encode("gbk"): name for name in ROSES}
    extras = {stored: zip_names.unicode_path(stored, name) for stored, name in raw.items()}
    assert list(contents(zip_names.write_zip(folder / "a.zip", dict.fromkeys(raw, b"a"), extras))) == ROSES


def code_page(folder):
    assert list(contents(zip_names.write_zip(folder / "a.zip", {name.encode("gbk"): b"a" for name in ROSES}))) == ROSES
    assert list(contents(written(folder / "a.tar", tar_of(dict.fromkeys(ROSES, b"a"), "gbk")))) == ROSES
    assert "are read as GBK" in reading.notes_on_names(str(folder / "a.zip"))[0]


def given_encoding(folder):
    path = zip_names.write_zip(folder / "a.zip", {name.encode("gbk"): b"a" for name in ROSES})
    archives.set_name_encoding("latin-1")
    try:
        assert list(contents(path)) == [name.encode("gbk").decode("latin-1") for name in ROSES]
    finally:
        archives.set_name_encoding("")


def unknown_encoding(folder):
    path = zip_names.write_zip(folder / "a.zip", {"玫瑰/1.jpg".encode("gbk"): b"a", b"\x80\xff\xfe/2.jpg": b"a"})
    assert "\\x80\\xff\\xfe" in refusal(lambda: contents(path))


def backslashes(folder):
    raw = {name.replace("/", "\\").encode(): content for name, content in FILES.items()}
    assert contents(zip_names.write_zip(folder / "a.zip", raw)) == FILES


def content_encoding(folder):
    assert serve_and_fetch(gzip.compress(b"photo"), {"Content-Encoding": "gzip"}) == b"photo"


def packed_import_file(folder):
    path = written(folder / "list.csv.gz", gzip.compress(b"1.jpg,daisy\n2.jpg,tulip\n"))
    assert import_files.is_import_file(str(path))
    entries = import_files.read_import_file(str(path)).entries
    assert [(entry.uri, entry.label) for entry in entries] == [(f"{folder}/1.jpg", "daisy"), (f"{folder}/2.jpg", "tulip")]


def other_archives(folder):
    begins = {
        b"7z\xbc\xaf\x27\x1c": "a 7z archive",
        b"Rar!\x1a\x07\0": "a RAR archive",
        b"\x28\xb5\x2f\xfd": "Zstandard",
        b"\x04\x22\x4d\x18": "LZ4",
        b"\x1f\x9d": "(.Z)",
    }
    for begin, what in begins.items():
        assert what in refusal(lambda begin=begin: contents(written(folder / "a.tar.gz", begin + bytes(2000))))


def other_methods(folder):
    path = zip_names.write_zip(folder / "a.zip", {b"daisy/1.jpg": b"a"}, method=9)
    assert "got Deflate64 for daisy/1.jpg" in refusal(lambda: contents(path))


def encrypted(folder):
    path = zip_names.write_zip(folder / "a.zip", {b"daisy/1.jpg": b"a"}, flags=1)
    assert "an archive must not be encrypted" in refusal(lambda: contents(path))


def parts(folder):
    whole = zip_of(FILES)
    for name, content, remedy in (
        ("photos.zip", whole[50:-18] + b"\x01\0" + whole[-16:], "zip -s 0 photos.zip --out whole.zip"),
        ("photos.z01", whole[:50], "zip -s 0 photos.zip --out whole.zip"),
        ("photos.zip.001", whole[:50], "cat photos.zip.* > photos.zip"),
        ("photos.tar.gz.aa", gzip.compress(tar_of(FILES))[:50], "cat photos.zip.* > photos.zip"),
    ):
        path = written(folder / name, content)
        error = refusal(lambda path=path: contents(path))
        assert "Join its parts first" in error
        assert remedy in error


def nested(folder):
    path = written(folder / "a.zip", zip_of({"n01.tar": tar_of(FILES), "n02.tar": tar_of(FILES)}))
    assert "an archive of archives (n01.tar, n02.tar)" in check_no_images(path)


def webdataset(folder):
    path = written(folder / "a.tar", tar_of({"000001.jpg": b"a", "000001.cls": b"0"}))
    assert "a WebDataset shard (000001.jpg beside 000001.cls)" in check_no_images(path)


def folder_of_archives(folder):
    (folder / "data").mkdir()
    written(folder / "data" / "photos.zip", zip_of(FILES))
    assert f"Give the archive: {folder}/data/photos.zip." in check_no_images(folder / "data")


def web_page(folder):
    path = written(folder / "photos.zip", b"<!doctype html><title>Sign in</title>")
    assert "(a web page)" in refusal(lambda: contents(path))


CASES = {
    "zip": plain_zip,
    "tar": plain_tar,
    "tar compressed by gzip, bzip2, xz or lzma": compressed_tar,
    "one of these under another name": other_name,
    "zip that unpacks itself (.exe)": self_extracting,
    "names in UTF-8": utf8_names,
    "a few short names that are valid in both": valid_in_both,
    "names with the Unicode Path field (zip)": unicode_path,
    "names in a code page": code_page,
    "names as `name_encoding` says": given_encoding,
    "names in no known encoding": unknown_encoding,
    "backslashes between folders (zip)": backslashes,
    "object or response with `Content-Encoding: gzip`": content_encoding,
    "import file compressed by gzip, `list.csv.gz`": packed_import_file,
    "7z, RAR, Zstandard, LZ4, compress (.Z) and others": other_archives,
    "zip with Deflate64, Zstandard, PPMd and others": other_methods,
    "encrypted zip": encrypted,
    "parts: `photos.zip` beside `photos.z01`, `photos.zip.001`, `photos.tar.gz.aa`": parts,
    "archive of archives": nested,
    "WebDataset shard": webdataset,
    "folder of archives or shards": folder_of_archives,
    "web page instead of the file": web_page,
}


def test_every_line_of_the_page_has_a_case():
    assert list(CASES) == data_page.first_cells("Archives")


@pytest.mark.parametrize("case", CASES)
def test_archives_are_read_as_the_page_says(tmp_path, case):
    CASES[case](tmp_path)
