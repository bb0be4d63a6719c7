"""Images in an archive on a web server: the stages read them over HTTP, and download the archive once."""

import contextlib
import csv
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import run_component, sample_images

from kfp_vision import components

RATIOS = {"validation_ratio": 0.2, "test_ratio": 0.0}


@dataclass
class Site:
    """A folder on a web server, and the request lines it received."""

    folder: Path
    address: str
    requests: list[str] = field(default_factory=list)

    def downloads(self) -> int:
        """Returns the number of GET requests; HEAD requests send no file."""
        return sum(line.startswith("GET ") for line in self.requests)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Site]:
    """Serves the folder on a local port."""
    requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            requests.append(self.requestline)

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Site(folder, f"http://127.0.0.1:{server.server_address[1]}", requests)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """Serves photos.tgz, which holds ten images each of two classes in a folder."""
    root = tmp_path_factory.mktemp("site")
    images = sample_images.pictures(root / "pictures")
    (root / "public").mkdir()
    with tarfile.open(root / "public" / "photos.tgz", "w:gz") as archive:
        archive.add(images, arcname="photos")
    with serve(root / "public") as site:
        yield site


@pytest.fixture(scope="module")
def stages(site, tmp_path_factory) -> dict[str, run_component.Result]:
    """Runs the stages from the address to the records, with a separate folder for downloads."""
    root, address = tmp_path_factory.mktemp("stages"), f"{site.address}/photos.tgz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        values = run_component.ingest_arguments(address) | RATIOS
        ingested = run_component.run(components.ingest_images, root / "ingest", **values)
        split = run_component.run(
            components.split_images, root / "split", {"images": ingested.folder / "images"}, labels="one", advanced={}, **RATIOS
        )
        tables = {name: split.folder / name for name in ("tables", "label_map")}
        whole = {"images_per_shard": 100, "advanced": {}}
        written = run_component.run(components.write_tfrecords, root / "write", tables, **whole)
    return {"ingest_images": ingested, "split_images": split, "write_tfrecords": written}


def test_a_row_points_into_the_archive(site, stages):
    with (stages["ingest_images"].folder / "images").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert all(row["uri"] == f"{site.address}/photos.tgz#{row['name']}" for row in rows)
    assert rows[0]["name"] == "photos/bellcup/0001.jpg"
    assert {row["label"] for row in rows} == {"bellcup", "globelet"}


def test_every_image_reaches_the_records(stages):
    written = stages["write_tfrecords"]
    assert written.succeeded
    assert written.metadata["train_records"]["pictures"] == 16
    assert written.metadata["validation_records"]["pictures"] == 4
    assert (written.folder / "refused").read_text() == "uri,label,reason\n"


def test_the_archive_is_downloaded_once(site, stages):
    assert stages["write_tfrecords"].succeeded
    assert site.downloads() == 1


def test_a_changed_archive_has_another_fingerprint(tmp_path):
    archive = tmp_path / "photos.tgz"
    with serve(tmp_path) as site:

        def fingerprint(root: str) -> str:
            data = {
                "images_uri": f"{site.address}/photos.tgz",
                "leave_out_uri": "",
                "labels_uri": "",
                "labels": "one",
                "advanced": {},
            }
            return run_component.run(components.fingerprint_images, tmp_path / root, **data).output

        archive.write_bytes(b"one")
        first, again = fingerprint("first"), fingerprint("again")
        archive.write_bytes(b"another")
        assert first == again != fingerprint("changed")
        assert site.downloads() == 0


def test_rejects_an_address_without_a_file(site, tmp_path):
    ended = run_component.run(
        components.fingerprint_images,
        tmp_path,
        images_uri=f"{site.address}/other.tgz",
        leave_out_uri="",
        labels_uri="",
        labels="one",
        advanced={},
    )
    assert run_component.error_line(ended) == (
        f"error: an address must name something that exists; got HTTP 404 at {site.address}/other.tgz. Check the spelling."
    )
