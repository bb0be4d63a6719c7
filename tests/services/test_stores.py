"""Reading from and writing to object stores: real servers, over reliable and unreliable connections."""

import csv
import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import boxed_images, fault_proxy, run_component, sample_images
from support.model_servers import KEY, NUMBERS, SECRET, Place

from kfp_vision import components
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import annotations, image_files, ingest, scan, table
from kfp_vision.dataset.split import split_images
from kfp_vision.prediction import batch
from kfp_vision.records import convert
from kfp_vision.storage import reading, stores, transfer, uris, writing

FILES = {
    "LICENSE.txt": b"free",
    "photos/daisy/1.jpg": b"one",
    "photos/daisy/long name, ü 花 + 100%25 #2 ?x=1.jpg": b"two",
    "photos/tulip/3.png": b"three" * 1000,
}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_line(raised: pytest.ExceptionInfo[InputError]) -> str:
    line = str(raised.value)
    assert line.startswith("error: ") and "\n" not in line
    assert SECRET not in line
    return line


def test_walking_a_bucket_gives_sizes_and_md5s_without_reading_objects(place):
    uri = place.bucket(FILES)
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        found = {item.name: (item.uri, item.size, item.md5) for item in reading.walk(f"{uri}/photos/")}
        assert line.requests == 1
    names = [name for name in FILES if name.startswith("photos/")]
    assert found == {name.removeprefix("photos/"): (f"{uri}/{name}", len(FILES[name]), md5(FILES[name])) for name in names}


def test_reads_every_object_by_its_uri(place):
    uri = place.bucket(FILES)
    with reading.Reader() as reader:
        assert {item.name: reader.read(item.uri) for item in reading.walk(uri)} == FILES
    assert {item.name: encoded for item, encoded in reading.read_all(reading.walk(uri))} == FILES


ODD_NAMES = {
    "cat/1.jpg?width=640": b"\xff\xd8\xff one",
    "cat/2.jpg?width=640&region=eu#a": b"\xff\xd8\xff two",
    "cat/50%25 + ü": b"\x89PNG\r\n\x1a\n three",
    "dog/f81a9c": b"GIF89a four" + bytes(100_000),
    "dog/notes": b"no image" * 50_000,
    "dog/empty": b"",
    "dog/5.jpg": b"not read",
}


def test_an_object_of_any_name_is_told_by_its_first_bytes_in_one_small_request(place):
    uri = place.bucket(ODD_NAMES)
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        items = list(reading.walk(uri))
        listing = line.requests, line.sent
        told = {item.name: reason for item, reason in image_files.with_skip_reasons(items)}
        assert line.requests - listing[0] == 5
        assert line.sent - listing[1] <= 5 * image_files.HEAD_BYTES
    place.lead_over()
    assert told == dict.fromkeys(ODD_NAMES, "") | {"dog/notes": "not an image", "dog/empty": "an empty file"}
    found = scan.scan_images(uri)
    with reading.Reader() as reader:
        assert {row.name: reader.read(row.uri) for row in found.rows} == {
            name: content for name, content in ODD_NAMES.items() if not told[name]
        }
    assert {row.name: row.content_id for row in found.rows} == {
        name: md5(content) for name, content in ODD_NAMES.items() if not told[name]
    }


def test_an_object_stored_compressed_is_told_by_what_it_unpacks_to(gcs):
    from google.cloud import storage

    client = storage.Client.create_anonymous_client()
    client._connection.API_BASE_URL = f"http://127.0.0.1:{gcs.port}"
    bucket = client.create_bucket(f"bucket-{next(NUMBERS)}", project="tests")
    for name, encoding in {"cat/sent with -z": "gzip", "cat/a file of gzip": None}.items():
        blob = bucket.blob(name)
        blob.content_encoding = encoding
        blob.upload_from_string(gzip.compress(ODD_NAMES["dog/f81a9c"]))
    found = {item.name: reason for item, reason in image_files.with_skip_reasons(reading.walk(f"gs://{bucket.name}"))}
    assert found == {"cat/sent with -z": "", "cat/a file of gzip": "not an image"}


def test_telling_objects_waits_out_a_store_that_fails(place):
    uri = place.bucket({f"cat/{number:02d}": ODD_NAMES["cat/50%25 + ü"] for number in range(40)})
    with fault_proxy.line(place.port, share=0.3, seed=2) as line:
        place.lead_over(line.address)
        found = [reason for _, reason in image_files.with_skip_reasons(reading.walk(uri))]
    assert found == [""] * 40
    assert sum(line.fates.values()) > 3, line.fates


def test_a_single_object_of_any_name_is_an_image_and_a_folder_is_not(place):
    uri = place.bucket(ODD_NAMES)
    for name in ("cat/1.jpg?width=640", "cat/50%25 + ü", "dog/f81a9c", "dog/5.jpg"):
        assert batch.is_single_image(f"{uri}/{name}")
        assert list(batch.read_images(f"{uri}/{name}")) == [(f"{uri}/{name}", "", ODD_NAMES[name])]
    for other in (uri, f"{uri}/dog", f"{uri}/dog/", f"{uri}/dog/notes", f"{uri}/nothing", f"{uri}-nowhere/1"):
        assert not batch.is_single_image(other)


def test_a_single_object_may_have_settings(s3, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", ODD_NAMES)
    for name in ("dog/5.jpg", "cat/1.jpg?width=640"):
        uri = f"s3://{bucket}/{name}?endpoint=http://127.0.0.1:{s3.port}"
        assert [encoded for _, _, encoded in batch.read_images(uri)] == [ODD_NAMES[name]]


def test_lists_a_bucket_of_several_pages(s3):
    files = {f"daisy/{number:05d}.jpg": b"%d" % number for number in range(2345)}
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", files)
    assert [item.name for item in reading.walk(f"s3://{bucket}")] == sorted(files)


def test_a_bucket_gives_the_same_table_as_a_folder_except_for_uris(place, tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=4)
    uri = place.bucket(read_tree(folder))
    stored, local = scan.scan_images(uri), scan.scan_images(str(folder))
    assert stored.fingerprint == local.fingerprint
    assert [(row.name, row.label, row.bytes, row.content_id) for row in stored.rows] == [
        (row.name, row.label, row.bytes, row.content_id) for row in local.rows
    ]
    assert stored.rows[0].uri == f"{uri}/bellcup/0001.jpg"


def test_a_folder_that_has_an_object_of_its_own_in_a_bucket_is_an_empty_class(gcs):
    bucket = gcs.bucket(f"bucket-{next(NUMBERS)}", FILES | {"photos/": b"", "photos/rose/": b""})
    found = scan.scan_images(f"gs://{bucket}/photos")
    assert found.classes == {"daisy": 2, "tulip": 1}
    assert found.empty_classes == ["rose"]


def test_a_bucket_gives_the_same_boxes_as_a_folder(place, tmp_path):
    boxed_images.data(tmp_path / "data", pictures=20)
    stored, local = (
        annotations.scan_annotated_images(place.bucket(read_tree(tmp_path / "data"))),
        annotations.scan_annotated_images(str(tmp_path / "data")),
    )
    assert [(row.name, row.label, row.content_id, row.objects) for row in stored.rows] == [
        (row.name, row.label, row.content_id, row.objects) for row in local.rows
    ]
    assert len(stored.rows) == 20


def convert_images(uri: str, folder: Path) -> dict[str, bytes]:
    """Runs the stages from a URI to records, and returns their files except for the tables, which contain the URI."""
    folder.mkdir()
    ingest.ingest_images(uri, check_images=True, splits=2, table=folder / "images", page=folder / "page.html")
    tables = {split: folder / f"{split}.csv" for split in table.SPLITS}
    ratios = {"validation_ratio": 0.2, "test_ratio": 0.0}
    split_images(folder / "images", **ratios, **tables, label_map=folder / "labels", left_out=folder / "left_out.csv")
    outputs = {split: folder / "records" / split for split in table.SPLITS}
    limits = {"images_per_shard": 200, "max_refused_ratio": 0.0}
    convert.write_tfrecords(tables, folder / "labels", outputs, folder / "refused.csv", **limits)
    return read_tree(folder / "records") | read_tree(folder / "labels")


@pytest.mark.slow
def test_converts_every_photograph_with_a_fifth_of_requests_failing(place, flower_photos, tmp_path):
    uri = place.bucket(read_tree(flower_photos))
    expected = convert_images(str(flower_photos), tmp_path / "local")
    with fault_proxy.line(place.port, share=0.2, seed=4) as line:
        place.lead_over(line.address)
        assert convert_images(uri, tmp_path / "stored") == expected
    assert line.requests > 750
    assert line.most > 2  # concurrent requests; how many depends on the load of the machine
    assert all(line.fates[fate] > 20 for fate in fault_proxy.FATES), line.fates


def test_downloads_an_archive_once_and_resumes_interrupted_transfers(place, tmp_path):
    generator = random.Random(0)
    files = {f"photos/daisy/{number}.jpg": generator.randbytes(100_000) for number in range(50)}
    archive_bytes = io.BytesIO()
    with tarfile.open(fileobj=archive_bytes, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    uri = f"{place.bucket({'data/photos.tgz': archive_bytes.getvalue()})}/data/photos.tgz"
    with fault_proxy.line(place.port, share=1, fates=("cut",), spared=5000) as line:
        place.lead_over(line.address)
        assert {item.name: item.read() for item in reading.walk(uri)} == files
        with reading.Reader() as reader:
            assert reader.read(f"{uri}#photos/daisy/7.jpg") == files["photos/daisy/7.jpg"]
    # Every answer breaks off halfway: without resuming, the transfer would never end.
    assert line.fates["cut"] > 10
    assert line.sent < 1.1 * len(archive_bytes.getvalue())


def test_the_fingerprint_depends_on_the_images_only(place):
    uri = place.bucket(FILES)
    first = reading.fingerprint(uri)
    assert reading.fingerprint(uri) == first
    place._server.bucket(uri.rpartition("/")[2] + "-changed", FILES | {"photos/daisy/1.jpg": b"eno"})
    other = reading.fingerprint(f"{uri}-changed")
    assert other != first


def test_reports_a_missing_object_or_bucket_at_once(place):
    uri = place.bucket(FILES)
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        for wrong in (f"{uri}/pohtos", f"{uri}/photos.tgz", f"{place.scheme}://nobodys-bucket/photos"):
            with pytest.raises(InputError, match="images_uri must name something that exists; got no such object or bucket: "):
                reading.check_exists(wrong, "images_uri")
        assert line.requests <= 6
        with reading.Reader() as reader, pytest.raises(FileNotFoundError, match="no such object"):
            reader.read(f"{uri}/photos/daisy/2.jpg")


def test_without_read_permission_the_error_names_the_variables_at_once(s3, monkeypatch):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", FILES)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-no-more")
    with fault_proxy.line(s3.port, share=0) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        with pytest.raises(InputError) as raised:
            reading.check_exists(f"s3://{bucket}", "images_uri")
        assert line.requests == 1
    assert error_line(raised) == (
        f"error: the address must be readable with the given credentials; got HTTP 403 at s3://{bucket}. Set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may list and read it (for a public bucket, neither), "
        "and AWS_REGION to its region."
    )


def test_a_public_bucket_needs_no_key(no_credentials, open_rclone, monkeypatch):
    bucket = open_rclone.bucket(f"bucket-{next(NUMBERS)}", FILES)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{open_rclone.port}")
    assert {item.name for item in reading.walk(f"s3://{bucket}")} == FILES.keys()


def test_a_uri_may_set_endpoint_and_region(s3, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", FILES)
    settings = f"?endpoint=http://127.0.0.1:{s3.port}&region=eu-west-1"
    items = {item.name: item.uri for item in reading.walk(f"s3://{bucket}/photos{settings}")}
    assert items["daisy/1.jpg"] == f"s3://{bucket}/photos/daisy/1.jpg{settings}"
    with reading.Reader() as reader:
        assert reader.read(items["daisy/1.jpg"]) == b"one"


def test_an_artifact_is_found_by_the_address_that_kubeflow_shows(s3, monkeypatch):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", FILES)
    items = {item.name: item.uri for item in reading.walk(f"minio://{bucket}/photos")}
    assert items["daisy/1.jpg"] == f"minio://{bucket}/photos/daisy/1.jpg"
    with reading.Reader() as reader:
        assert reader.read(items["daisy/1.jpg"]) == b"one"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    rule = "a minio:// address, as Kubeflow shows it, must have the endpoint of its store"
    remedy = "Write it as s3://bucket/key?endpoint=http://seaweedfs.kubeflow:9000, or set AWS_ENDPOINT_URL."
    with pytest.raises(InputError) as raised:
        next(reading.walk(f"minio://{bucket}/photos"))
    assert error_line(raised) == f"error: {rule}; got minio://{bucket}/photos. {remedy}"
    settings = f"?endpoint=http://127.0.0.1:{s3.port}"
    assert {item.name for item in reading.walk(f"minio://{bucket}/photos{settings}")} == items.keys()


def test_cos_uses_its_own_key_and_regional_endpoint(s3, monkeypatch):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}-1250000000", FILES)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match="a cos:// address must have a region; got no COS_REGION"):
        next(reading.walk(f"cos://{bucket}/photos"))
    monkeypatch.setenv("COS_REGION", "ap-guangzhou")
    monkeypatch.setenv("COS_SECRET_ID", KEY)
    monkeypatch.setenv("COS_SECRET_KEY", SECRET)
    signed_url = stores.store(f"cos://{bucket}")._client.get_presigned_url("GET", bucket, "daisy/1.jpg")
    assert signed_url.startswith(f"https://{bucket}.cos.ap-guangzhou.myqcloud.com/daisy/1.jpg?")
    monkeypatch.setenv("COS_ENDPOINT", f"http://127.0.0.1:{s3.port}")
    assert next(reading.walk(f"cos://{bucket}/photos")).uri == f"cos://{bucket}/photos/daisy/1.jpg"


def test_detects_etags_that_are_not_md5s(s3, monkeypatch, tmp_path, capsys):
    folder = sample_images.pictures(tmp_path / "photos", each=4)
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", read_tree(folder))
    with fault_proxy.line(s3.port, share=0, encrypted=True) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        first = next(reading.walk(f"s3://{bucket}"))
        assert first.md5 not in ("", md5(first.read()))
        assert scan.scan_images(f"s3://{bucket}").fingerprint == scan.scan_images(str(folder)).fingerprint
    assert "the store's ETags are not MD5s of the images" in capsys.readouterr().out


def test_an_object_replaced_during_a_download_arrives_in_one_version(s3, monkeypatch):
    old, new = random.Random(0).randbytes(3_000_000), random.Random(1).randbytes(3_000_000)
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", {"daisy/1.jpg": old})
    sink = ChangingSink(lambda: s3.bucket(bucket, {"daisy/1.jpg": new}))
    with fault_proxy.line(s3.port, share=1, fates=("cut",)) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        transfer.download_to(f"s3://{bucket}/daisy/1.jpg", sink)
    assert sink.getvalue() == new


@pytest.mark.slow
def test_objects_with_a_content_encoding_give_the_same_table_and_records(place, tmp_path, capsys):
    folder = sample_images.pictures(tmp_path / "photos", each=12)
    plain = place.bucket(read_tree(folder))
    packed = place.bucket({"LICENSE.txt": b"free"})
    for name, content in read_tree(folder).items():
        place.put_packed(f"{packed}/{name}", content)
    stored = scan.scan_images(packed)
    assert [(row.name, row.label, row.bytes, row.content_id) for row in stored.rows] == [
        (row.name, row.label, row.bytes, row.content_id) for row in scan.scan_images(plain).rows
    ]
    # Listings of S3 do not say it, so that the sample of ETags finds it.
    assert ("reading every image to hash it" in capsys.readouterr().out) == (place.scheme == "s3")
    assert convert_images(packed, tmp_path / "packed") == convert_images(str(folder), tmp_path / "local")


def test_packed_and_plain_objects_may_be_mixed_where_the_listing_tells_them_apart(gcs, monkeypatch):
    place = Place("gs", gcs, monkeypatch)
    uri = place.bucket({"daisy/1.jpg": b"one", "daisy/2.jpg": b"two"})
    place.put_packed(f"{uri}/daisy/3.jpg", b"one")
    assert {row.name: (row.bytes, row.content_id) for row in scan.scan_images(uri).rows} == {
        "daisy/1.jpg": (3, md5(b"one")),
        "daisy/2.jpg": (3, md5(b"two")),
        "daisy/3.jpg": (3, md5(b"one")),
    }


def test_interrupted_downloads_of_packed_objects_are_resumed_and_verified(place, tmp_path):
    content = random.Random(0).randbytes(3_000_000)
    uri = place.bucket({"LICENSE.txt": b"free"})
    place.put_packed(f"{uri}/photos.bin", content)
    with fault_proxy.line(place.port, share=1, fates=("cut",), spared=10_000) as line:
        place.lead_over(line.address)
        assert transfer.download_bytes(f"{uri}/photos.bin") == content
        assert line.fates["cut"]
        place.lead_over()


def test_import_files_and_archives_may_be_packed(place, tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=4)
    uri = place.bucket(read_tree(folder))
    lines = "".join(f"{name},{name.partition('/')[0]}\n" for name in read_tree(folder))
    place.put_packed(f"{uri}/list.csv", lines.encode())
    listed = scan.scan_images(f"{uri}/list.csv")
    with tarfile.open(tmp_path / "photos.tgz", "w:gz") as archive:
        archive.add(folder, arcname="photos")
    place.put_packed(f"{uri}/photos.tgz", (tmp_path / "photos.tgz").read_bytes())
    archived = scan.scan_images(f"{uri}/photos.tgz")
    assert listed.fingerprint == archived.fingerprint == scan.scan_images(str(folder)).fingerprint


@pytest.mark.parametrize("name", ["photos.tar.xz", "photos.tbz2", "photos.zip", "photos.download", "photos"])
def test_an_archive_in_a_bucket_may_have_any_ending(place, tmp_path, name):
    folder = sample_images.pictures(tmp_path / "images", each=3)
    buffer = io.BytesIO()
    if name.endswith(("zip", "download")):
        with zipfile.ZipFile(buffer, "w") as zipped:
            for member, content in read_tree(folder).items():
                zipped.writestr(member, content)
    else:
        with tarfile.open(
            fileobj=buffer, mode={".tar.xz": "w:xz", ".tbz2": "w:bz2"}.get(name.removeprefix("photos"), "w")
        ) as tar:
            tar.add(folder, arcname=".")
    uri = place.bucket({name: buffer.getvalue()})
    found = scan.scan_images(f"{uri}/{name}")
    assert found.fingerprint == scan.scan_images(str(folder)).fingerprint
    with reading.Reader() as reader:
        assert [table.md5_hex(reader.read(row.uri)) for row in found.rows] == [row.content_id for row in found.rows]


class ChangingSink(io.BytesIO):
    """A sink that makes a change once the first bytes have arrived."""

    def __init__(self, change):
        super().__init__()
        self._change = change

    def write(self, content) -> int:
        if self._change:
            self._change()
            self._change = None
        return super().write(content)


@pytest.mark.slow
def test_keys_appear_in_no_log_artifact_or_message(s3, tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=10)
    uri = f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', read_tree(folder))}"
    ratios = {"validation_ratio": 0.2, "test_ratio": 0.0}
    values = run_component.ingest_arguments(uri) | ratios
    ingested = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ingested.succeeded
    with (ingested.folder / "images").open(newline="") as file:
        assert all(row["uri"].startswith(f"{uri}/") for row in csv.DictReader(file))
    nowhere = {"images_uri": f"{uri}-nowhere/photos", "leave_out_uri": "", "labels_uri": "", "labels": "one", "advanced": {}}
    rejected = run_component.run(components.fingerprint_images, tmp_path / "refused", **nowhere)
    assert "must name something that exists" in run_component.error_line(rejected)
    files = [*(tmp_path / "ingest").rglob("*"), *(tmp_path / "refused").rglob("*")]
    contents = [path.read_bytes() for path in files if path.is_file()]
    contents += ["\n".join([*ingested.printed, *rejected.printed]).encode()]
    assert not [content for content in contents if SECRET.encode() in content or KEY.encode() in content]


def test_rejects_a_uri_with_a_password_without_repeating_it():
    with pytest.raises(InputError, match="images_uri must not contain a user name or password") as raised:
        uris.check_uri(f"https://me:{SECRET}@example.org/photos.tgz", "images_uri")
    assert SECRET not in error_line(raised)


def test_rejects_an_invalid_service_account_key_without_repeating_it(no_credentials, monkeypatch):
    monkeypatch.setenv("GOOGLE_CREDENTIALS", f'{{"private_key": "{SECRET}"}}')
    with pytest.raises(InputError, match="GOOGLE_CREDENTIALS must hold a service account's key") as raised:
        reading.check_exists("gs://bucket/photos", "images_uri")
    error_line(raised)


def test_an_import_file_in_a_bucket_may_list_relative_and_absolute_uris(place, tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=2)
    elsewhere = place.bucket(read_tree(folder))
    lines = [f"{elsewhere}/bellcup/0001.jpg,bell", "pictures/2.jpg,bell,test", f"{elsewhere}/globelet/0001.jpg,globe"]
    files = {"list/images.csv": "\n".join(lines).encode(), "list/pictures/2.jpg": (folder / "bellcup/0002.jpg").read_bytes()}
    uri = place.bucket(files)
    found = scan.scan_images(f"{uri}/list/images.csv")
    assert {(row.uri, row.label, row.split) for row in found.rows} == {
        (f"{elsewhere}/bellcup/0001.jpg", "bell", ""),
        (f"{uri}/list/pictures/2.jpg", "bell", "test"),
        (f"{elsewhere}/globelet/0001.jpg", "globe", ""),
    }
    assert {row.content_id for row in found.rows} >= {md5(files["list/pictures/2.jpg"])}
    assert scan.fingerprint_images(f"{uri}/list/images.csv") == scan.fingerprint_images(f"{uri}/list/images.csv")


def test_an_import_file_in_a_bucket_names_images_by_ids_backslashes_and_steps(place):
    files = {
        "list/train/000bec.jpg": b"1",
        "list/train/000bec.xml": b"2",
        "list/cat/1.jpg": b"3",
        "other/3.jpg": b"6",
    }
    names = ["000bec", "cat\\1.jpg", "../other/3.jpg", "./cat/1.jpg", "gone"]
    lines = "".join(f"{name};pug\r\n" for name in names)
    uri = place.bucket(files | {"list/images.csv": f"id;breed\r\n{lines}".encode()})
    found = scan.scan_images(f"{uri}/list/images.csv", Advanced(max_refused_ratio=0.5))
    assert {row.name: row.uri.removeprefix(f"{uri}/") for row in found.rows} == {
        "000bec": "list/train/000bec.jpg",
        "cat\\1.jpg": "list/cat/1.jpg",
        "../other/3.jpg": "other/3.jpg",
        "./cat/1.jpg": "list/cat/1.jpg",
    }
    assert found.skipped.names == {"missing": ["gone (line 6)"]}
    assert scan.fingerprint_images(f"{uri}/list/images.csv") == scan.fingerprint_images(f"{uri}/list/images.csv")


def test_a_backslash_in_a_key_is_kept(s3):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", {"cat\\1.jpg": b"1", "cat/1.jpg": b"2", "images.csv": b"cat\\1.jpg,cat\n"})
    (row,) = scan.scan_images(f"s3://{bucket}/images.csv").rows
    assert (row.uri, row.content_id) == (f"s3://{bucket}/cat\\1.jpg", md5(b"1"))


def test_names_of_an_import_file_at_the_root_of_a_bucket_are_found_in_its_folders(place):
    uri = place.bucket({"train/1.jpg": b"1", "train/2.jpg": b"2", "images.csv": b"1.jpg,cat\n2.jpg,dog\n"})
    assert [row.uri for row in scan.scan_images(f"{uri}/images.csv").rows] == [f"{uri}/train/1.jpg", f"{uri}/train/2.jpg"]


def test_a_list_in_a_bucket_excludes_images_of_a_bucket(place, tmp_path):
    uri = place.bucket(read_tree(sample_images.pictures(tmp_path / "photos", each=2)))
    exclusions = f"path,leave_out\n{uri}/bellcup/0001.jpg,yes\nglobelet/0002.jpg,yes\nglobelet/0001.jpg,no\n"
    exclusions_uri = f"{place.bucket({'audit': exclusions.encode()})}/audit"  # like an artifact, without a file extension
    reading.check_exists(exclusions_uri, "leave_out_uri")
    found = scan.scan_images(uri)
    assert ingest.exclude_images(found, exclusions_uri) == []
    assert [row.name for row in found.rows] == ["bellcup/0002.jpg", "globelet/0001.jpg"]
    assert scan.fingerprint_images(uri, exclusions_uri) != scan.fingerprint_images(uri)


def test_the_fingerprint_of_an_import_file_changes_with_its_images(tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=2)
    (tmp_path / "images.csv").write_text("photos/bellcup/0001.jpg,bell\nphotos/globelet/0001.jpg,globe\n")
    first = scan.fingerprint_images(str(tmp_path / "images.csv"))
    (folder / "bellcup" / "0001.jpg").write_bytes((folder / "bellcup" / "0002.jpg").read_bytes())
    assert scan.fingerprint_images(str(tmp_path / "images.csv")) != first


NOISE = random.Random(7).randbytes(300_000)


def read_contents(uri: str) -> dict[str, bytes]:
    with reading.Reader() as reader:
        return {found.name: reader.read(found.uri) for found in reading.list_files(uri)}


def test_writes_replaces_and_deletes_objects(place, tmp_path):
    uri = place.bucket({"logs/other/events": b"stays"})
    assert reading.list_files(f"{uri}/logs/mine") == []
    (tmp_path / "noise").write_bytes(NOISE)
    writing.write_file(b"old", f"{uri}/logs/mine/deep/ü #1")
    writing.write_file(tmp_path / "noise", f"{uri}/logs/mine/deep/ü #1")
    writing.write_file(b"", f"{uri}/logs/mine/empty")
    assert read_contents(f"{uri}/logs/mine") == {"deep/ü #1": NOISE, "empty": b""}
    writing.delete_file(f"{uri}/logs/mine/empty")
    writing.delete_file(f"{uri}/logs/mine/empty")
    assert read_contents(f"{uri}/logs") == {"mine/deep/ü #1": NOISE, "other/events": b"stays"}


def test_writes_replaces_and_deletes_files(tmp_path):
    uri = f"file://{tmp_path}/made"
    assert reading.list_files(uri) == []
    writing.write_file(b"old", uris.join_uri(uri, "deep/a"))
    writing.write_file(b"new", uris.join_uri(uri, "deep/a"))
    writing.write_file(tmp_path / "made/deep/a", uris.join_uri(uri, "b"))
    assert read_contents(uri) == {"deep/a": b"new", "b": b"new"}
    writing.delete_file(uris.join_uri(uri, "b"))
    writing.delete_file(uris.join_uri(uri, "b"))
    assert read_tree(tmp_path / "made") == {"deep/a": b"new"}


def test_writes_and_deletes_succeed_with_many_requests_failing(place):
    uri = place.bucket({"first": b"1"})
    with fault_proxy.line(place.port, share=0.6, seed=2, fates=("drop", "busy", "delay")) as line:
        place.lead_over(line.address)
        for number in range(8):
            writing.write_file(NOISE[number:], f"{uri}/kept/{number}")
            writing.write_file(b"soon gone", f"{uri}/removed/{number}")
            writing.delete_file(f"{uri}/removed/{number}")
        assert all(line.fates[fate] > 3 for fate in ("drop", "busy", "delay")), line.fates
    place.lead_over()
    assert reading.list_files(f"{uri}/removed") == []
    assert read_contents(f"{uri}/kept") == {str(number): NOISE[number:] for number in range(8)}


def test_a_multipart_upload_succeeds_with_requests_failing(s3, monkeypatch):
    from kfp_vision.storage import s3 as storage_s3

    monkeypatch.setattr(storage_s3, "PART", 5 << 20)  # the minimum of S3
    content = random.Random(3).randbytes((11 << 20) + 1)
    uri = f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', {'first': b'1'})}/large"
    with fault_proxy.line(s3.port, share=0.5, seed=4, fates=("drop", "busy")) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        writing.write_file(content, uri)
    assert line.fates["drop"] and line.fates["busy"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    with reading.Reader() as reader:
        assert reader.read(uri) == content


@pytest.mark.parametrize("scheme, server", [("s3", "open_rclone"), ("gs", "gcs")])
def test_corrupted_uploads_are_rejected_by_the_store_and_retried(no_credentials, request, monkeypatch, scheme, server):
    # With a key and over plain HTTP the S3 client sends only a SHA-256, which rclone, unlike Amazon, ignores.
    place = Place(scheme, request.getfixturevalue(server), monkeypatch)
    uri = place.bucket({"first": b"1"})
    with fault_proxy.line(place.port, share=0.6, seed=1, fates=("spoil",)) as line:
        place.lead_over(line.address)
        for number in range(5):
            writing.write_file(NOISE, f"{uri}/{number}")
    assert line.fates["spoil"] >= 3
    place.lead_over()
    assert read_contents(uri) == {"first": b"1"} | {str(number): NOISE for number in range(5)}


def test_a_mirror_adds_new_and_grown_files_and_keeps_others(place, tmp_path):
    for target in (f"{place.bucket({'logs/earlier/events': b'stays'})}/logs", str(tmp_path / "logs")):
        writing.write_file(b"stays", f"{target}/earlier/events")
        source = tmp_path / f"source of {uris.scheme_of(target)}"
        source.mkdir()
        (source / "events").write_bytes(b"one")
        mirror = writing.Mirror(source, target)
        mirror.sync()
        assert read_contents(target) == {"earlier/events": b"stays", "events": b"one"}
        with (source / "events").open("ab") as events:
            events.write(b", two")
        (source / "plugins").mkdir()
        (source / "plugins" / "trace").write_bytes(NOISE)
        mirror.sync()
        assert read_contents(target) == {"earlier/events": b"stays", "events": b"one, two", "plugins/trace": NOISE}


def test_a_mirror_uploads_only_changed_files(place, tmp_path):
    (tmp_path / "same").write_bytes(b"same")
    (tmp_path / "grows").write_bytes(b"one")
    uri = place.bucket({"first": b"1"})
    mirror = writing.Mirror(tmp_path, uri)
    mirror.sync()
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        mirror.sync()
        assert line.requests == 0
        (tmp_path / "grows").write_bytes(b"one, two")
        mirror.sync()
        assert line.requests == 1


def test_a_reader_sees_a_mirrored_file_grow(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "events").write_bytes(b"one")
    mirror = writing.Mirror(tmp_path / "source", str(tmp_path / "target"))
    mirror.sync()
    with (tmp_path / "target" / "events").open("rb") as follower:
        assert follower.read() == b"one"
        (tmp_path / "source" / "events").write_bytes(b"one, two")
        mirror.sync()
        assert follower.read() == b", two"


def test_check_writable_leaves_nothing_behind(place, tmp_path):
    uri = place.bucket({"first": b"1"})
    writing.check_writable(f"{uri}/logs", "log_uri")
    assert read_contents(uri) == {"first": b"1"}
    writing.check_writable(str(tmp_path / "not" / "yet"), "log_uri")
    assert read_tree(tmp_path) == {} and not (tmp_path / "not").exists()


def test_check_writable_rejects_unwritable_targets_at_once(place, tmp_path):
    with pytest.raises(InputError, match="log_uri must name something that exists; got no such object or bucket: ") as raised:
        writing.check_writable(f"{place.scheme}://nobodys-bucket/logs", "log_uri")
    error_line(raised)
    (tmp_path / "file").write_bytes(b"")
    for wrong in ("", "sample", "https://example.org/logs", f"{place.scheme}://bucket/logs.tgz", "ftp://host/logs"):
        with pytest.raises(InputError, match="log_uri must name a folder or a bucket folder to write to"):
            writing.check_writable(wrong, "log_uri")
    with pytest.raises(InputError, match="log_uri must name a folder; got"):
        writing.check_writable(str(tmp_path / "file" / "logs"), "log_uri")
    with pytest.raises(InputError, match="a web address is read-only"):
        writing.write_file(b"", "https://example.org/logs")


def test_without_write_permission_the_error_names_the_variables_at_once(s3, monkeypatch):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", FILES)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-no-more")
    with fault_proxy.line(s3.port, share=0) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        with pytest.raises(InputError) as raised:
            writing.check_writable(f"s3://{bucket}/logs", "log_uri")
        assert line.requests == 1
    error = error_line(raised)
    assert error.startswith("error: the address must be writable with the given credentials; got HTTP 403 at s3://")
    assert error.endswith("to a key that may write and delete there, and AWS_REGION to its region.")
