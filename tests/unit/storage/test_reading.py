"""Reading URIs: folders, archives and web servers give the same names and bytes, and nothing is written elsewhere."""

import base64
import gzip
import io
import os
import random
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google_crc32c
import pytest
from support import zip_names

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import exclusions, import_files
from kfp_vision.storage import atomic, base, reading, retry
from kfp_vision.storage.uris import absolute_uri, check_uri

BOMB = gzip.compress(bytes(70 << 20), mtime=0)
FILES = {"LICENSE.txt": b"free", "daisy/1.jpg": b"one", "daisy/long name, ü 花.jpg": b"two", "more/tulip/3.png": b"three"}
PACKS = ("folder", "photos.tar", "photos.tgz", "photos.tar.gz", "photos.tar.bz2", "photos.zip")
TAR_MODES = {".tar": "w", ".tgz": "w:gz", ".gz": "w:gz", ".bz2": "w:bz2"}


class Site(ThreadingHTTPServer):
    """A web server with the same file at every address, which records its requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.body = b""
        self.headers = {"ETag": '"first"'}
        self.missing, self.cut_short, self.busy_times = False, False, 0
        self.ranges, self.for_get_alone = False, False
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Visit(BaseHTTPRequestHandler):
    server: Site

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if self.answer() in (200, 206):
            body = self.body()
            self.wfile.write(body[: (len(body) + 1) // 2] if self.server.cut_short else body)

    def body(self) -> bytes:
        header = self.headers.get("Range", "") if self.headers.get("If-Range", self.tag()) == self.tag() else ""
        first, _, last = header.removeprefix("bytes=").partition("-") if self.server.ranges else ("", "", "")
        return self.server.body[int(first or 0) : int(last) + 1 if last else None]

    def tag(self) -> str:
        return self.server.headers.get("ETag", "")

    def answer(self) -> int:
        self.server.requests.append(f"{self.command} {self.path}")
        status = 404 if self.server.missing else 200
        if self.server.for_get_alone and self.command == "HEAD":
            status = 403
        if self.server.busy_times:
            status, self.server.busy_times = 503, self.server.busy_times - 1
        self.send_response(status)
        body, total = self.body(), len(self.server.body)
        self.send_header("Content-Length", str(len(body) if status == 200 else 0))
        if len(body) < total:
            begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{total}")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        return status

    def log_message(self, format, *arguments) -> None:
        pass


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    """Creates an empty folder for temporary files and downloads."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setenv(base.WAIT_VARIABLE, "0.5")
    retry.forget_servers()
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def write_files(folder: Path, name: str, files: dict[str, bytes] = FILES) -> Path:
    """Writes the files as a folder or an archive, whose member names begin with `./` as in `tar -C photos .`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(f"./{member}", content)
    elif path.suffix in TAR_MODES:
        with tarfile.open(path, TAR_MODES[path.suffix]) as archive:
            for member, content in files.items():
                archive.addfile(tar_member(f"./{member}", size=len(content)), io.BytesIO(content))
    else:
        for member, content in files.items():
            (path / member).parent.mkdir(parents=True, exist_ok=True)
            (path / member).write_bytes(content)
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in values.items():
        setattr(member, field, value)
    return member


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def error_line(refusal: pytest.ExceptionInfo[InputError]) -> str:
    """Returns the error message, which must be a single line."""
    line = str(refusal.value)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("ranges", [False, True], ids=["all sent", "a range sent"])
def test_the_first_bytes_of_a_web_address_are_read_again_if_the_answer_breaks_off(site, ranges):
    site.body, site.ranges = bytes(range(256)) * 100, ranges
    assert reading.read_head(f"{site.address}/1", 300) == site.body[:300]
    site.cut_short = True
    cut = 300 if ranges else len(site.body) * 2
    with pytest.raises(InputError, match="a transfer must complete; got truncated"):
        reading.read_head(f"{site.address}/1", cut)
    site.missing = True
    with pytest.raises(FileNotFoundError):
        reading.read_head(f"{site.address}/1", 300)


@pytest.mark.parametrize("name", ["", "a-very-long-name-" * 12])
def test_the_first_bytes_of_an_object_stored_compressed_are_unpacked(site, name):
    image = b"\xff\xd8\xff\xe0" + random.Random(1).randbytes(50_000) + bytes(5000)
    packed = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=packed) as file:
        file.write(image)
    site.body, site.ranges = packed.getvalue(), True
    assert reading.read_head(f"{site.address}/1", 1024) == site.body[:1024]
    site.headers["Content-Encoding"] = "gzip"
    head = reading.read_head(f"{site.address}/1", 1024)
    assert len(head) > 32 and image.startswith(head)
    site.body = image  # which the header denies
    assert reading.read_head(f"{site.address}/1", 1024) == image[:1024]


@pytest.mark.parametrize("name", PACKS)
def test_walk_finds_the_same_files_in_a_folder_and_all_archives(tmp_path, name):
    path = write_files(tmp_path, name)
    found = {item.name: (item.read(), item.size) for item in reading.walk(str(path))}
    assert found == {name: (content, len(content)) for name, content in FILES.items()}


@pytest.mark.parametrize("name", PACKS)
def test_a_reader_reads_the_uris_of_items(tmp_path, name):
    path = write_files(tmp_path, name)
    with reading.Reader() as reader:
        read = {item.name: reader.read(item.uri) for item in reading.walk(str(path))}
    assert read == FILES


def test_uris_are_paths_in_a_folder_and_point_into_an_archive(tmp_path):
    folder, archive = write_files(tmp_path, "folder"), write_files(tmp_path, "photos.tgz")
    assert f"{folder}/daisy/1.jpg" in {item.uri for item in reading.walk(str(folder))}
    assert f"{archive}#daisy/1.jpg" in {item.uri for item in reading.walk(str(archive))}


def test_file_uris_and_relative_paths_are_local_paths(tmp_path, monkeypatch):
    path = write_files(tmp_path, "photos.zip")
    monkeypatch.chdir(tmp_path)
    for uri in (f"file://{path}", "photos.zip", "./photos.zip"):
        assert [item.uri for item in reading.walk(uri)] == [f"{path}#{name}" for name in FILES]


def test_a_hash_sign_in_a_path_does_not_start_a_member(tmp_path):
    archive = write_files(tmp_path / "c#", "photos #2.tgz")
    folder = write_files(tmp_path / "c#", "photos.tgz#")
    with reading.Reader() as reader:
        assert {item.name: reader.read(item.uri) for item in reading.walk(str(archive))} == FILES
        assert {item.name: reader.read(item.uri) for item in reading.walk(str(folder))} == FILES


def test_the_sample_is_walked_and_read_like_a_folder():
    item = next(reading.walk("sample"))
    assert (item.uri, item.name) == ("sample://bellcup/0001.jpg", "bellcup/0001.jpg")
    with reading.Reader() as reader:
        assert reader.read(item.uri) == item.read()
    assert item.read().startswith(b"\xff\xd8\xff")


def test_a_missing_file_or_member_raises_file_not_found(tmp_path):
    archive = write_files(tmp_path, "photos.tgz")
    with reading.Reader() as reader:
        with pytest.raises(FileNotFoundError, match=r"photos\.tgz has no member daisy/9\.jpg"):
            reader.read(f"{archive}#daisy/9.jpg")
        with pytest.raises(FileNotFoundError):
            reader.read(str(tmp_path / "gone.jpg"))


def test_a_reader_is_thread_safe_and_leaves_no_files(tmp_path, scratch):
    files = {f"daisy/{number}.jpg": b"%d" % number * 100 for number in range(100)}
    archives = [write_files(tmp_path, name, files) for name in ("photos.tgz", "photos.zip")]
    uris = [f"{archive}#{name}" for name in files for archive in archives]
    with reading.Reader() as reader, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(reader.read, uris))
        assert any(scratch.iterdir())
    assert read == [content for content in files.values() for _ in archives]
    assert list(scratch.iterdir()) == []


def hostile_tar(folder: Path) -> Path:
    path = folder / "hostile.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../evil", "../../evil2", f"{folder}/evil3", "daisy/../../../evil4", "daisy/1.jpg"):
            archive.addfile(tar_member(name, size=5), io.BytesIO(b"bytes"))
        archive.addfile(tar_member("link.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"))
        archive.addfile(tar_member("hard.jpg", tarfile.LNKTYPE, linkname="/etc/passwd"))
        archive.addfile(tar_member("null.jpg", tarfile.CHRTYPE, devmajor=1, devminor=3))
        archive.addfile(tar_member("pipe.jpg", tarfile.FIFOTYPE))
        archive.addfile(tar_member("folder.jpg", tarfile.DIRTYPE))
    return path


def hostile_zip(folder: Path) -> Path:
    path = folder / "hostile.zip"
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../evil", "../../evil2", f"{folder}/evil3", "daisy/../../../evil4", "daisy/1.jpg"):
            archive.writestr(name, b"bytes")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder.jpg/", b"")
    return path


@pytest.mark.parametrize("pack", [hostile_tar, hostile_zip])
def test_no_member_of_an_archive_reaches_outside_the_scratch_folder(tmp_path, scratch, pack):
    archive = pack(tmp_path)
    before = snapshot(tmp_path)
    with reading.Reader() as reader:
        assert reader.read(f"{archive}#daisy/1.jpg") == b"bytes"
        while_open = snapshot(tmp_path)
    new = while_open.keys() - before.keys()
    assert new
    assert all(path.startswith(f"{scratch}/") for path in new)
    assert snapshot(tmp_path) == before
    assert not any(Path(path).name.startswith("evil") for path in new)


@pytest.mark.parametrize("pack", [hostile_tar, hostile_zip])
def test_links_devices_and_folders_are_not_files(tmp_path, pack):
    names = {item.name for item in reading.walk(str(pack(tmp_path)))}
    assert not names & {"link.jpg", "hard.jpg", "null.jpg", "pipe.jpg", "folder.jpg", "folder.jpg/"}
    assert "daisy/1.jpg" in names


@pytest.mark.parametrize("name", ["photos.tar", "photos.tgz", "photos.tar.bz2", "photos.zip"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_truncated_archive_is_rejected_in_one_line(tmp_path, name, share):
    noise = random.Random(0)
    path = write_files(tmp_path, name, {f"daisy/{number}.jpg": noise.randbytes(20_000) for number in range(10)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"must be (intact|an archive); got .*photos") as refusal:
        for item in reading.walk(str(path)):
            item.read()
    error_line(refusal)


def test_a_damaged_zip_member_is_rejected_in_one_line(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("daisy/1.jpg", b"the bytes of a picture")
    path.write_bytes(path.read_bytes().replace(b"the bytes", b"xxx bytes", 1))
    with pytest.raises(
        InputError, match=r"an archive must be intact; got .*photos\.zip \(Bad CRC-32 .*Pack or download"
    ) as refusal:
        [item.read() for item in reading.walk(str(path))]
    error_line(refusal)


def test_an_encrypted_zip_is_rejected_in_one_line(tmp_path):
    path = write_files(tmp_path, "photos.zip", {"daisy/1.jpg": b"bytes"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1  # the encryption flag, in both headers of the member
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted") as refusal, reading.Reader() as reader:
        reader.read(f"{path}#daisy/1.jpg")
    error_line(refusal)


def test_a_file_that_is_not_an_archive_is_rejected_with_the_supported_formats(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not an archive\n" * 100)
    with pytest.raises(InputError) as refusal:
        list(reading.walk(str(path)))
    assert error_line(refusal) == (
        f"error: a data source that is a file must be an archive; got {path}. "
        "Give a folder of class folders, or pack it as .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz."
    )


def test_an_archive_over_http_is_downloaded_once(tmp_path, site):
    site.body = write_files(tmp_path, "photos.tgz").read_bytes()
    uri = f"{site.address}/photos.tgz"
    items = [(item.uri, item.read()) for item in reading.walk(uri)]
    assert items == [(f"{uri}#{name}", content) for name, content in FILES.items()]
    with reading.Reader() as reader:
        assert [reader.read(item) for item, _ in items] == list(FILES.values())
    assert site.requests.count("GET /photos.tgz") == 1


def test_reads_an_archive_at_an_address_without_a_suffix(tmp_path, site):
    site.body = write_files(tmp_path, "photos.zip").read_bytes()
    with reading.Reader() as reader:
        read = {item.name: reader.read(item.uri) for item in reading.walk(f"{site.address}/get?file=photos&token=a")}
    assert read == FILES


def test_reads_an_image_over_http(site):
    site.body = b"the bytes of a picture"
    with reading.Reader() as reader:
        assert reader.read(f"{site.address}/1.jpg") == b"the bytes of a picture"


SIGNATURE = "a-signature"


@pytest.mark.parametrize(
    ("ask", "name", "body"),
    [
        (lambda uri: list(reading.walk(uri)), "photos.tgz", None),
        (lambda uri: list(reading.walk(uri)), "photos.tgz", b"neither a tar nor a zip"),
        (lambda uri: list(reading.walk(uri)), "photos.zip", b"PK\3\4 cut off"),
        (lambda uri: reading.read_image(uri, "test_image_uri"), "1.jpg", None),
        (lambda uri: reading.read_image(f"{uri}#roses/1.jpg", "test_image_uri"), "photos.tgz", b"neither a tar nor a zip"),
        (lambda uri: reading.read_image(f"{uri}#roses/1.jpg", "test_image_uri"), "photos.tgz", "a tar"),
        (import_files.read_import_file, "list.csv", b"\xff\n"),
        (import_files.read_import_file, "list.csv", b",daisy\n"),
        (exclusions.read_exclusions, "list.csv", None),
        (exclusions.read_exclusions, "list.csv", b"no such column\n"),
    ],
)
def test_no_error_contains_the_signature_of_an_address(tmp_path, site, ask, name, body):
    site.missing = body is None
    site.body = write_files(tmp_path, name).read_bytes() if body == "a tar" else body or b""
    with pytest.raises(InputError) as refusal:
        ask(f"{site.address}/{name}?X-Amz-Credential=me&X-Amz-Signature=a-signature")
    assert f"{site.address}/{name}?..." in error_line(refusal)
    assert "a-signature" not in error_line(refusal) and "X-Amz" not in error_line(refusal)


@pytest.mark.parametrize(
    ("first", "second", "downloads"),
    [
        ({"ETag": '"a"'}, {"ETag": '"a"'}, 1),
        ({"ETag": '"a"'}, {"ETag": '"b"'}, 2),
        ({"Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"}, {"Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"}, 1),
        ({"Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"}, {"Last-Modified": "Tue, 06 Jan 2026 10:00:00 GMT"}, 2),
    ],
)
def test_a_file_is_downloaded_again_only_if_its_validators_changed(site, first, second, downloads):
    uri = f"{site.address}/photos.tgz"
    site.body, site.headers = b"old", first
    assert reading.fetch(uri).read_bytes() == b"old"
    site.body, site.headers = b"new", second
    assert reading.fetch(uri).read_bytes() == (b"old" if downloads == 1 else b"new")
    assert site.requests.count("GET /photos.tgz") == downloads


def test_a_missing_file_is_rejected_with_the_http_status(site, scratch):
    site.missing = True
    uri = f"{site.address}/photos.tgz"
    with pytest.raises(InputError) as refusal:
        list(reading.walk(uri))
    assert error_line(refusal) == (
        f"error: an address must name something that exists; got HTTP 404 at {uri}. Check the spelling."
    )
    assert site.requests == ["HEAD /photos.tgz"]
    assert not [path for path in scratch.rglob("*") if path.is_file()]


def test_a_busy_server_is_retried(site):
    site.body, site.busy_times = b"at last", 2
    assert reading.fetch(f"{site.address}/photos.tgz").read_bytes() == b"at last"
    assert site.requests == ["HEAD /photos.tgz"] * 3 + ["GET /photos.tgz"]


def test_a_server_that_stays_busy_fails_in_one_line(site):
    site.busy_times = 1000
    with pytest.raises(InputError, match=r"the server must answer; got HTTP 503 at http://") as refusal:
        reading.fetch(f"{site.address}/photos.tgz")
    error_line(refusal)
    assert len(site.requests) > 10


def test_a_closed_port_fails_in_one_line(monkeypatch):
    monkeypatch.setenv(base.WAIT_VARIABLE, "0")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(
        InputError, match=rf"the server must answer; got Connection refused at http://127\.0\.0\.1:{port}/x\.tgz"
    ) as refusal:
        reading.fetch(f"http://127.0.0.1:{port}/x.tgz")
    error_line(refusal)


def test_an_incomplete_download_fails_and_leaves_no_file(site, scratch):
    site.body, site.cut_short = b"x" * 100_000, True
    uri = f"{site.address}/photos.tgz"
    with pytest.raises(InputError, match=r"a transfer must complete; got [\w ]+ at http://.*store_wait_") as refusal:
        reading.fetch(uri)
    error_line(refusal)
    assert not [path for path in scratch.rglob("*") if path.is_file()]
    site.cut_short = False
    assert reading.fetch(uri).read_bytes() == site.body


def test_a_download_resumes_where_it_was_interrupted(site):
    site.body, site.cut_short, site.ranges = random.Random(0).randbytes(1_000_000), True, True
    assert reading.fetch(f"{site.address}/photos.tgz").read_bytes() == site.body
    assert 10 < site.requests.count("GET /photos.tgz") < 30  # each attempt transfers half of the remaining bytes


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "identity, gzip", "gzip,aws-chunked", "GZIP"])
def test_a_compressed_response_is_unpacked(tmp_path, site, encoding):
    site.body = gzip.compress(write_files(tmp_path, "photos.zip").read_bytes())
    site.headers = {"ETag": '"first"', "Content-Encoding": encoding}
    with reading.Reader() as reader:
        assert {item.name: reader.read(item.uri) for item in reading.walk(f"{site.address}/photos.zip")} == FILES


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz"])
def test_an_archive_whose_own_compression_is_called_a_content_encoding_is_read(tmp_path, site, name):
    site.body = write_files(tmp_path, name).read_bytes()
    site.headers = {"ETag": '"first"', "Content-Type": "application/x-tar", "Content-Encoding": "x-gzip"}
    assert {item.name: item.read() for item in reading.walk(f"{site.address}/{name}")} == FILES


def test_an_archive_that_is_packed_twice_is_unpacked_twice(tmp_path, site):
    site.body = gzip.compress(write_files(tmp_path, "photos.tar.gz").read_bytes())
    site.headers = {"ETag": '"first"', "Content-Encoding": "gzip"}
    assert {item.name: item.read() for item in reading.walk(f"{site.address}/photos.tar.gz")} == FILES


def test_a_response_that_is_not_compressed_though_it_says_so_is_read(tmp_path, site):
    site.body = write_files(tmp_path, "photos.zip").read_bytes()
    site.headers = {"ETag": '"first"', "Content-Encoding": "gzip"}
    assert {item.name: item.read() for item in reading.walk(f"{site.address}/photos.zip")} == FILES


def test_a_compressed_download_resumes_where_it_was_interrupted(site):
    content = random.Random(0).randbytes(1_000_000)
    site.body, site.cut_short, site.ranges = gzip.compress(content), True, True
    site.headers = {"ETag": '"first"', "Content-Encoding": "gzip"}
    assert reading.fetch(f"{site.address}/photos").read_bytes() == content
    assert 10 < site.requests.count("GET /photos") < 30


def test_what_cloud_storage_unpacked_on_the_way_is_not_compared_with_the_checksums_of_what_it_stores(site):
    packed = base64.b64encode(google_crc32c.Checksum(gzip.compress(b"photo")).digest()).decode()
    site.body, site.headers = b"photo", {"x-goog-hash": f"crc32c={packed}", "x-goog-stored-content-encoding": "gzip"}
    assert reading.fetch(f"{site.address}/1.jpg").read_bytes() == b"photo"
    site.headers = {"x-goog-hash": f"crc32c={packed}", "x-goog-stored-content-encoding": "identity"}
    with pytest.raises(InputError, match="a download must match the size and checksum of its object"):
        reading.fetch(f"{site.address}/2.jpg")


@pytest.mark.parametrize(
    ("body", "encoding", "line"),
    [
        (b"photo", "br", "an object must be stored as it is, or compressed by gzip; got Content-Encoding: br at "),
        (gzip.compress(b"photo" * 100, mtime=0)[:-9], "gzip", "a file compressed by gzip must be intact; got "),
        (BOMB, "gzip", "an archive of this size must unpack to at most 64 MiB; got more in "),
    ],
)
def test_a_response_that_cannot_be_unpacked_is_told(site, body, encoding, line):
    site.body, site.headers = body, {"ETag": '"first"', "Content-Encoding": encoding}
    with reading.Reader() as reader, pytest.raises(InputError) as refusal:
        reader.read(f"{site.address}/1.jpg?token=secret")
    assert line in error_line(refusal) and "secret" not in error_line(refusal)


def test_a_page_instead_of_the_file_is_told(site):
    site.body = b"<!DOCTYPE html><html><title>Download - Drive</title></html>"
    with pytest.raises(InputError) as refusal:
        list(reading.walk(f"{site.address}/file/d/1a2b/view"))
    assert error_line(refusal) == (
        f"error: a data source that is a file must be an archive; got {site.address}/file/d/1a2b/view (a web page). "
        "Give the address that downloads the file itself, not the page about it."
    )


def test_the_note_on_names_is_only_of_archives(tmp_path, site):
    raw = {f"玫瑰/{number}.jpg".encode("gbk"): b"a" for number in range(3)}
    path = zip_names.write_zip(tmp_path / "photos.zip", raw)
    assert note_on_names(str(path)).startswith(f"The names in {path} are not UTF-8, and are read as GBK (玫瑰)")
    site.body = path.read_bytes()
    note = note_on_names(f"{site.address}/photos?token=secret")
    assert "GBK" in note and "secret" not in note
    for other in (tmp_path, "sample", zip_names.write_zip(tmp_path / "ascii.zip", {b"daisy/1.jpg": b"a"})):
        assert not note_on_names(str(other))


def note_on_names(uri):
    list(reading.walk(uri))
    return "".join(reading.notes_on_names(uri))


def test_no_archive_is_fetched_again_for_the_note_on_names(tmp_path, site):
    site.body = zip_names.write_zip(tmp_path / "photos.zip", {"玫瑰/1.jpg".encode("gbk"): b"a"}).read_bytes()
    list(reading.walk(f"{site.address}/photos.zip"))
    site.body = b"gone"
    assert "GBK" in "".join(reading.notes_on_names(f"{site.address}/photos.zip"))


def test_what_follows_a_hash_sign_is_rejected_where_all_of_an_archive_is_read(tmp_path, site):
    archive = write_files(tmp_path, "photos.zip")
    site.body = archive.read_bytes()
    for place in (f"{site.address}/photos.zip", str(archive), f"file://{archive}"):
        with pytest.raises(InputError) as refusal:
            reading.check_exists(f" {place}#daisy\n", "images_uri")
        rule = "images_uri must name a whole file, archive or folder"
        assert rule in error_line(refusal) and error_line(refusal).endswith(f"got {place}#daisy. Leave #daisy out.")
        reading.check_exists(place, "images_uri")
        reading.check_image_uri(f"{place}#daisy/1.jpg", "test_image_uri")
    with pytest.raises(InputError) as refusal:
        reading.check_exists(f"{site.address}/photos.zip?signature=abc#daisy", "images_uri")
    assert "abc" not in error_line(refusal)
    reading.check_exists(str(write_files(tmp_path, "photos.zip#daisy")), "images_uri")


def test_reads_an_address_signed_for_get_only(tmp_path, site):
    site.body, site.for_get_alone, site.ranges = write_files(tmp_path, "photos.zip").read_bytes(), True, True
    uri = f"{site.address}/photos.zip?signature=abc"
    reading.check_exists(uri, "images_uri")
    assert {item.name: item.read() for item in reading.walk(uri)} == FILES
    site.missing = True
    with pytest.raises(InputError, match="HTTP 404") as refusal:
        reading.check_exists(uri, "images_uri")
    assert "abc" not in error_line(refusal)


def test_a_download_folder_writable_by_others_is_rejected(site, scratch):
    site.body = b"x"
    reading.fetch(f"{site.address}/photos.tgz")
    (downloads,) = scratch.iterdir()
    assert downloads.stat().st_mode & 0o777 == 0o700
    downloads.chmod(0o777)
    with pytest.raises(InputError, match="must belong to you and not be writable by others") as refusal:
        reading.fetch(f"{site.address}/photos.tgz")
    error_line(refusal)


@pytest.mark.parametrize("name", ["folder", "photos.tgz"])
def test_the_fingerprint_of_unchanged_data_is_constant(tmp_path, name):
    path = write_files(tmp_path, name)
    assert reading.fingerprint(str(path)) == reading.fingerprint(f"file://{path}")
    assert len(reading.fingerprint(str(path))) == 64


def test_the_fingerprint_changes_with_every_change_of_a_folder(tmp_path):
    folder = write_files(tmp_path, "folder")
    image = folder / "daisy" / "1.jpg"
    fingerprints = [reading.fingerprint(str(folder))]
    (folder / "daisy" / "new.jpg").write_bytes(b"new")
    fingerprints.append(reading.fingerprint(str(folder)))
    before = image.stat()
    image.write_bytes(b"eno")  # same length
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    fingerprints.append(reading.fingerprint(str(folder)))
    image.rename(folder / "daisy" / "other.jpg")
    fingerprints.append(reading.fingerprint(str(folder)))
    (folder / "daisy" / "new.jpg").unlink()
    fingerprints.append(reading.fingerprint(str(folder)))
    assert len(set(fingerprints)) == 5


def test_the_fingerprint_of_an_address_uses_the_validators_without_a_download(site):
    uri = f"{site.address}/photos.tgz"
    first, repeated = reading.fingerprint(uri), reading.fingerprint(uri)
    site.headers = {"ETag": '"second"'}
    assert first == repeated != reading.fingerprint(uri)
    assert set(site.requests) == {"HEAD /photos.tgz"}


def test_fingerprints_a_file_name_that_is_not_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"L\xf6wenzahn.jpg")).write_bytes(b"bytes")
    assert len(reading.fingerprint(str(tmp_path))) == 64


def test_a_replaced_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "not there yet" / "table.csv"
    with atomic.replacing(path) as beside:
        beside.write_text("new")
        assert not path.exists()
    assert snapshot(path.parent) == {str(path): b"new"}


@pytest.mark.parametrize("old", [True, False])
def test_a_failure_while_replacing_keeps_the_old_file(tmp_path, old):
    path = tmp_path / "table.csv"
    if old:
        path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert snapshot(tmp_path) == ({str(path): b"old"} if old else {}) | {str(tmp_path / "scratch"): b""}


def test_a_folder_is_replaced_completely(tmp_path):
    path = tmp_path / "records"
    path.mkdir()
    (path / "old.tfrecord").write_text("old")
    with atomic.replacing(path) as beside:
        beside.mkdir()
        (beside / "new.tfrecord").write_text("new")
        assert (path / "old.tfrecord").exists()
    assert [file.name for file in path.iterdir()] == ["new.tfrecord"]


def test_a_failure_while_replacing_keeps_the_old_folder(tmp_path):
    path = tmp_path / "records"
    path.mkdir()
    (path / "old.tfrecord").write_text("old")
    before = snapshot(tmp_path)
    with pytest.raises(InputError), atomic.replacing(path) as beside:
        beside.mkdir()
        (beside / "half.tfrecord").write_text("half")
        raise InputError("a rule must hold", "something else", "Mend it.")
    assert snapshot(tmp_path) == before


def test_partial_outputs_of_killed_processes_are_removed_by_the_next_writer(tmp_path):
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    host = socket.gethostname()
    stale = [f".table.csv.{host}.{finished.pid}.partial", f".table.csv.{host}.{finished.pid}.before"]
    unrelated = [
        f".table.csv.{host}.{os.getppid()}.partial",
        f".table.csv.elsewhere.{finished.pid}.partial",
        f".other.{host}.1.partial",
    ]
    for name in (*stale, *unrelated):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    with atomic.replacing(tmp_path / "table.csv") as beside:
        beside.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "scratch", *unrelated}


def test_scratch_folders_of_killed_processes_are_removed_by_the_next_one(scratch):
    program = (
        "from kfp_vision.storage import atomic\nwith atomic.temporary_folder() as folder: print(folder, flush=True); input()"
    )
    command = [sys.executable, "-c", program]
    folders = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        folders.append(Path(killed.stdout.readline().strip()))
        (folders[0] / "unpacked").write_bytes(b"much")
        killed.kill()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as alive:
        folders.append(Path(alive.stdout.readline().strip()))
        with atomic.temporary_folder() as own, atomic.temporary_folder() as second:
            assert own != second and {folder.parent for folder in (own, second, *folders)} == {scratch}
            assert set(scratch.iterdir()) == {own, second, folders[1]}
        alive.communicate("\n")
    assert not list(scratch.iterdir())


def test_absolute_uri_changes_only_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert absolute_uri("photos") == f"{tmp_path}/photos"
    assert absolute_uri("~/photos") == "/home/ada/photos"
    assert absolute_uri("/data/photos") == absolute_uri("file:///data/photos") == "/data/photos"
    for uri in ("http://host/a/../b.tgz?x=1", "https://host/", "s3://bucket/photos", "sample", "sample://bellcup/0001.jpg", ""):
        assert absolute_uri(uri) == uri


def test_check_uri_accepts_readable_uris(tmp_path):
    for uri in (
        str(tmp_path),
        f"file://{tmp_path}",
        "http://nowhere.invalid/a.tgz",
        "https://nowhere.invalid/",
        "sample",
        "s3://bucket",
        "s3://bucket/photos?endpoint=https://minio.example.org",
        "cos://bucket-1/photos",
        "gs://bucket/a#b",
    ):
        check_uri(uri, "images_uri")


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("", 'images_uri must name the location of the data; got "". Set it to a folder, an archive or an address.'),
        (
            "ftp://example.org/photos",
            "images_uri must be a local path, `sample`, or begin with one of s3://, minio://, cos://, gs://, http://, "
            "https://; "
            "got ftp://example.org/photos. Copy the data to a folder, an archive or a bucket.",
        ),
        ("s3:///photos", "a URI with s3:// must name a bucket; got s3:///photos. Write it as s3://bucket/folder."),
        (
            "https://ada:password@example.org/photos.tgz",
            "images_uri must not contain a user name or password; got https://.... "
            "Remove them, and set them in the environment.",
        ),
        (
            "/no/such/photos",
            "images_uri must name something that exists; got /no/such/photos. Check the path and its permissions.",
        ),
    ],
)
def test_check_uri_rejects_other_uris_with_a_remedy(uri, line):
    with pytest.raises(InputError) as refusal:
        check_uri(uri, "images_uri")
    assert error_line(refusal) == f"error: {line}"


def test_linked_folders_are_walked_except_cycles(tmp_path):
    for name in ("apart/daisy/1.jpg", "apart/daisy/more/2.jpg", "photos/tulip/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "photos" / "daisy").symlink_to(tmp_path / "apart" / "daisy")
    (tmp_path / "photos" / "tulip" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "itself").symlink_to(".")
    names = [item.name for item in reading.walk(str(tmp_path / "photos"))]
    assert names == ["daisy/1.jpg", "daisy/more/2.jpg", "tulip/3.jpg"]
    before = reading.fingerprint(str(tmp_path / "photos"))
    (tmp_path / "apart" / "daisy" / "4.jpg").write_bytes(b"one more")
    assert reading.fingerprint(str(tmp_path / "photos")) != before


def test_lists_a_folder_in_which_another_process_deletes_files(tmp_path):
    (tmp_path / "stays").write_text("1")
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            (tmp_path / "goes").write_text("2")
            (tmp_path / "goes").unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        listed = [{file.name for file in reading.list_files(str(tmp_path))} for _ in range(2000)]
    finally:
        ended.set()
        other.join()
    assert {"stays"} in listed and all({"stays"} <= names <= {"stays", "goes"} for names in listed)
