"""Pictures in object stores, and what is written there: real servers, over lines that hold and over lines that do not."""

import csv
import hashlib
import io
import random
import tarfile
from pathlib import Path

import pytest
from support import boxed_images, fault_proxy, run_component, sample_images
from support.model_servers import KEY, NUMBERS, SECRET, Place

from kfp_vision import components
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import annotations, ingest, scan, table
from kfp_vision.dataset.split import split_images
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


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def line_of(refusal: pytest.ExceptionInfo[InputError]) -> str:
    line = str(refusal.value)
    assert line.startswith("error: ") and "\n" not in line
    assert SECRET not in line
    return line


def test_a_folder_of_a_bucket_is_walked_with_sizes_and_md5s_and_nothing_is_read(place):
    uri = place.bucket(FILES)
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        found = {item.name: (item.uri, item.size, item.md5) for item in reading.walk(f"{uri}/photos/")}
        assert line.requests <= 2  # Google's client also asks for the bucket itself
    names = [name for name in FILES if name.startswith("photos/")]
    assert found == {name.removeprefix("photos/"): (f"{uri}/{name}", len(FILES[name]), md5(FILES[name])) for name in names}


def test_every_key_leads_back_to_its_bytes(place):
    uri = place.bucket(FILES)
    with reading.Reader() as reader:
        assert {item.name: reader.read(item.uri) for item in reading.walk(uri)} == FILES
    assert {item.name: encoded for item, encoded in reading.read_all(reading.walk(uri))} == FILES


def test_a_bucket_of_more_than_a_page_is_listed_whole(s3):
    files = {f"daisy/{number:05d}.jpg": b"%d" % number for number in range(2345)}
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", files)
    assert [item.name for item in reading.walk(f"s3://{bucket}")] == sorted(files)


def test_the_table_is_the_one_of_a_folder_but_for_where_the_pictures_lie(place, tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=4)
    uri = place.bucket(below(folder))
    stored, local = scan.scan_images(uri), scan.scan_images(str(folder))
    assert stored.fingerprint == local.fingerprint
    assert [(row.name, row.label, row.bytes, row.content_id) for row in stored.rows] == [
        (row.name, row.label, row.bytes, row.content_id) for row in local.rows
    ]
    assert stored.rows[0].uri == f"{uri}/bellcup/0001.jpg"


def test_boxes_in_a_bucket_are_those_of_a_folder(place, tmp_path):
    boxed_images.data(tmp_path / "data", pictures=20)
    stored, local = (
        annotations.scan_annotated_images(place.bucket(below(tmp_path / "data"))),
        annotations.scan_annotated_images(str(tmp_path / "data")),
    )
    assert [(row.name, row.label, row.content_id, row.objects) for row in stored.rows] == [
        (row.name, row.label, row.content_id, row.objects) for row in local.rows
    ]
    assert len(stored.rows) == 20


def converted(uri: str, folder: Path) -> dict[str, bytes]:
    """Everything that the stages from a URI to the records write but the tables, in which the URI stands."""
    folder.mkdir()
    ingest.ingest_images(uri, check_images=True, splits=2, table=folder / "images", page=folder / "page.html")
    tables = {split: folder / f"{split}.csv" for split in table.SPLITS}
    ratios = {"validation_ratio": 0.2, "test_ratio": 0.0}
    split_images(folder / "images", **ratios, **tables, label_map=folder / "labels", left_out=folder / "left_out.csv")
    outputs = {split: folder / "records" / split for split in table.SPLITS}
    limits = {"images_per_shard": 200, "max_refused_ratio": 0.0}
    convert.write_tfrecords(tables, folder / "labels", outputs, folder / "refused.csv", **limits)
    return below(folder / "records") | below(folder / "labels")


def test_with_a_fifth_of_all_requests_failing_every_photograph_arrives(place, flower_photos, tmp_path):
    uri = place.bucket(below(flower_photos))
    whole = converted(str(flower_photos), tmp_path / "local")
    with fault_proxy.line(place.port, share=0.2, seed=4) as line:
        place.lead_over(line.address)
        assert converted(uri, tmp_path / "stored") == whole
    assert line.requests > 750
    assert line.most > 2  # several on their way at a time; how many depends on what else the machine does
    assert all(line.fates[fate] > 20 for fate in fault_proxy.FATES), line.fates


def test_an_archive_in_a_bucket_is_fetched_once_and_resumed_where_it_broke_off(place, tmp_path):
    noise = random.Random(0)
    files = {f"photos/daisy/{number}.jpg": noise.randbytes(100_000) for number in range(50)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    uri = f"{place.bucket({'data/photos.tgz': packed.getvalue()})}/data/photos.tgz"
    with fault_proxy.line(place.port, share=1, fates=("cut",), spared=5000) as line:
        place.lead_over(line.address)
        assert {item.name: item.read() for item in reading.walk(uri)} == files
        with reading.Reader() as reader:
            assert reader.read(f"{uri}#photos/daisy/7.jpg") == files["photos/daisy/7.jpg"]
    # Every answer stops half way; begun anew each time, it would never have come to its end.
    assert line.fates["cut"] > 10
    assert line.sent < 1.1 * len(packed.getvalue())


def test_the_fingerprint_changes_with_a_picture_and_not_with_time(place):
    uri = place.bucket(FILES)
    first = reading.fingerprint(uri)
    assert reading.fingerprint(uri) == first
    place._server.bucket(uri.rpartition("/")[2] + "-changed", FILES | {"photos/daisy/1.jpg": b"eno"})
    other = reading.fingerprint(f"{uri}-changed")
    assert other != first


def test_what_is_not_there_is_said_at_once(place):
    uri = place.bucket(FILES)
    with fault_proxy.line(place.port, share=0) as line:
        place.lead_over(line.address)
        for wrong in (f"{uri}/pohtos", f"{uri}/photos.tgz", f"{place.scheme}://nobodys-bucket/photos"):
            with pytest.raises(InputError, match="images_uri must name something that exists; got no such object or bucket: "):
                reading.check_exists(wrong, "images_uri")
        assert line.requests <= 6
        with reading.Reader() as reader, pytest.raises(FileNotFoundError, match="no such object"):
            reader.read(f"{uri}/photos/daisy/2.jpg")


def test_who_may_not_read_is_told_at_once_what_to_set(s3, monkeypatch):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", FILES)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-no-more")
    with fault_proxy.line(s3.port, share=0) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        with pytest.raises(InputError) as refusal:
            reading.check_exists(f"s3://{bucket}", "images_uri")
        assert line.requests == 1
    assert line_of(refusal) == (
        f"error: the address must be readable with the given credentials; got HTTP 403 at s3://{bucket}. Set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may list and read it (for a public bucket, neither), "
        "and AWS_REGION to its region."
    )


def test_a_public_bucket_needs_no_key(nobody, open_rclone, monkeypatch):
    bucket = open_rclone.bucket(f"bucket-{next(NUMBERS)}", FILES)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{open_rclone.port}")
    assert {item.name for item in reading.walk(f"s3://{bucket}")} == FILES.keys()


def test_an_address_may_name_its_endpoint_and_region(s3, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", FILES)
    settings = f"?endpoint=http://127.0.0.1:{s3.port}&region=eu-west-1"
    items = {item.name: item.uri for item in reading.walk(f"s3://{bucket}/photos{settings}")}
    assert items["daisy/1.jpg"] == f"s3://{bucket}/photos/daisy/1.jpg{settings}"
    with reading.Reader() as reader:
        assert reader.read(items["daisy/1.jpg"]) == b"one"


def test_cos_is_asked_with_its_own_key_where_its_region_lies(s3, monkeypatch):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}-1250000000", FILES)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match="a cos:// address must have a region; got no COS_REGION"):
        next(reading.walk(f"cos://{bucket}/photos"))
    monkeypatch.setenv("COS_REGION", "ap-guangzhou")
    monkeypatch.setenv("COS_SECRET_ID", KEY)
    monkeypatch.setenv("COS_SECRET_KEY", SECRET)
    signed = stores.store(f"cos://{bucket}")._client.get_presigned_url("GET", bucket, "daisy/1.jpg")
    assert signed.startswith(f"https://{bucket}.cos.ap-guangzhou.myqcloud.com/daisy/1.jpg?")
    monkeypatch.setenv("COS_ENDPOINT", f"http://127.0.0.1:{s3.port}")
    assert next(reading.walk(f"cos://{bucket}/photos")).uri == f"cos://{bucket}/photos/daisy/1.jpg"


def test_etags_of_an_encrypted_bucket_are_seen_to_be_no_md5s(s3, monkeypatch, tmp_path, capsys):
    folder = sample_images.pictures(tmp_path / "photos", each=4)
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", below(folder))
    with fault_proxy.line(s3.port, share=0, encrypted=True) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        first = next(reading.walk(f"s3://{bucket}"))
        assert first.md5 not in ("", md5(first.read()))
        assert scan.scan_images(f"s3://{bucket}").fingerprint == scan.scan_images(str(folder)).fingerprint
    assert "the store's ETags are not MD5s of the objects" in capsys.readouterr().out


def test_an_object_that_changes_while_it_is_read_arrives_as_one_of_the_two(s3, monkeypatch):
    old, new = random.Random(0).randbytes(3_000_000), random.Random(1).randbytes(3_000_000)
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", {"daisy/1.jpg": old})
    sink = Overtaken(lambda: s3.bucket(bucket, {"daisy/1.jpg": new}))
    with fault_proxy.line(s3.port, share=1, fates=("cut",)) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        transfer.download_to(f"s3://{bucket}/daisy/1.jpg", sink)
    assert sink.getvalue() == new


class Overtaken(io.BytesIO):
    """A sink that has something happen once the first bytes have arrived."""

    def __init__(self, happens):
        super().__init__()
        self._happens = happens

    def write(self, content) -> int:
        if self._happens:
            self._happens()
            self._happens = None
        return super().write(content)


def test_a_key_reaches_no_log_no_artifact_and_no_message(s3, tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=10)
    uri = f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', below(folder))}"
    ratios = {"validation_ratio": 0.2, "test_ratio": 0.0}
    values = run_component.ingest_arguments(uri) | ratios
    ingested = run_component.run(components.ingest_images, tmp_path / "ingest", **values)
    assert ingested.succeeded
    with (ingested.folder / "images").open(newline="") as file:
        assert all(row["uri"].startswith(f"{uri}/") for row in csv.DictReader(file))
    nowhere = {"images_uri": f"{uri}-nowhere/photos", "leave_out_uri": "", "advanced": {}}
    refused = run_component.run(components.fingerprint_images, tmp_path / "refused", **nowhere)
    assert "must name something that exists" in run_component.error_line(refused)
    written = [*(tmp_path / "ingest").rglob("*"), *(tmp_path / "refused").rglob("*")]
    contents = [path.read_bytes() for path in written if path.is_file()]
    contents += ["\n".join([*ingested.printed, *refused.printed]).encode()]
    assert not [content for content in contents if SECRET.encode() in content or KEY.encode() in content]


def test_an_address_with_a_password_in_it_is_refused_without_repeating_it():
    with pytest.raises(InputError, match="images_uri must not contain a user name or password") as refusal:
        uris.check_uri(f"https://me:{SECRET}@example.org/photos.tgz", "images_uri")
    assert SECRET not in line_of(refusal)


def test_a_service_accounts_key_that_is_none_is_refused_without_repeating_it(nobody, monkeypatch):
    monkeypatch.setenv("GOOGLE_CREDENTIALS", f'{{"private_key": "{SECRET}"}}')
    with pytest.raises(InputError, match="GOOGLE_CREDENTIALS must hold a service account's key") as refusal:
        reading.check_exists("gs://bucket/photos", "images_uri")
    line_of(refusal)


def test_an_import_file_in_a_bucket_names_pictures_beside_it_and_elsewhere(place, tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=2)
    elsewhere = place.bucket(below(folder))
    lines = [f"{elsewhere}/bellcup/0001.jpg,bell", "pictures/2.jpg,bell,test", f"{elsewhere}/globelet/0001.jpg,globe"]
    beside = {"list/images.csv": "\n".join(lines).encode(), "list/pictures/2.jpg": (folder / "bellcup/0002.jpg").read_bytes()}
    uri = place.bucket(beside)
    found = scan.scan_images(f"{uri}/list/images.csv")
    assert {(row.uri, row.label, row.split) for row in found.rows} == {
        (f"{elsewhere}/bellcup/0001.jpg", "bell", ""),
        (f"{uri}/list/pictures/2.jpg", "bell", "test"),
        (f"{elsewhere}/globelet/0001.jpg", "globe", ""),
    }
    assert {row.content_id for row in found.rows} >= {md5(beside["list/pictures/2.jpg"])}
    assert scan.fingerprint_images(f"{uri}/list/images.csv") == scan.fingerprint_images(f"{uri}/list/images.csv")


def test_a_list_in_a_bucket_leaves_pictures_of_a_bucket_out(place, tmp_path):
    uri = place.bucket(below(sample_images.pictures(tmp_path / "photos", each=2)))
    listed = f"path,leave_out\n{uri}/bellcup/0001.jpg,yes\nglobelet/0002.jpg,yes\nglobelet/0001.jpg,no\n"
    listing = f"{place.bucket({'audit': listed.encode()})}/audit"  # as an artifact lies there, without an ending
    reading.check_exists(listing, "leave_out_uri")
    found = scan.scan_images(uri)
    assert ingest.exclude_images(found, listing) == []
    assert [row.name for row in found.rows] == ["bellcup/0002.jpg", "globelet/0001.jpg"]
    assert scan.fingerprint_images(uri, listing) != scan.fingerprint_images(uri)


def test_a_picture_of_an_import_file_that_changes_in_place_changes_the_fingerprint(tmp_path):
    folder = sample_images.pictures(tmp_path / "photos", each=2)
    (tmp_path / "images.csv").write_text("photos/bellcup/0001.jpg,bell\nphotos/globelet/0001.jpg,globe\n")
    first = scan.fingerprint_images(str(tmp_path / "images.csv"))
    (folder / "bellcup" / "0001.jpg").write_bytes((folder / "bellcup" / "0002.jpg").read_bytes())
    assert scan.fingerprint_images(str(tmp_path / "images.csv")) != first


NOISE = random.Random(7).randbytes(300_000)


def contents(uri: str) -> dict[str, bytes]:
    with reading.Reader() as reader:
        return {found.name: reader.read(found.uri) for found in reading.list_files(uri)}


def test_what_is_put_lies_there_replaces_what_lay_there_and_can_be_removed(place, tmp_path):
    uri = place.bucket({"logs/other/events": b"stays"})
    assert reading.list_files(f"{uri}/logs/mine") == []
    (tmp_path / "noise").write_bytes(NOISE)
    writing.write_file(b"old", f"{uri}/logs/mine/deep/ü #1")
    writing.write_file(tmp_path / "noise", f"{uri}/logs/mine/deep/ü #1")
    writing.write_file(b"", f"{uri}/logs/mine/empty")
    assert contents(f"{uri}/logs/mine") == {"deep/ü #1": NOISE, "empty": b""}
    writing.delete_file(f"{uri}/logs/mine/empty")
    writing.delete_file(f"{uri}/logs/mine/empty")
    assert contents(f"{uri}/logs") == {"mine/deep/ü #1": NOISE, "other/events": b"stays"}


def test_a_folder_takes_what_a_bucket_takes(tmp_path):
    uri = f"file://{tmp_path}/made"
    assert reading.list_files(uri) == []
    writing.write_file(b"old", uris.join_uri(uri, "deep/a"))
    writing.write_file(b"new", uris.join_uri(uri, "deep/a"))
    writing.write_file(tmp_path / "made/deep/a", uris.join_uri(uri, "b"))
    assert contents(uri) == {"deep/a": b"new", "b": b"new"}
    writing.delete_file(uris.join_uri(uri, "b"))
    writing.delete_file(uris.join_uri(uri, "b"))
    assert below(tmp_path / "made") == {"deep/a": b"new"}


def test_with_many_requests_failing_everything_that_is_put_arrives(place):
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
    assert contents(f"{uri}/kept") == {str(number): NOISE[number:] for number in range(8)}


def test_an_object_in_parts_arrives_over_a_line_that_fails(s3, monkeypatch):
    from kfp_vision.storage import s3 as storage_s3

    monkeypatch.setattr(storage_s3, "PART", 5 << 20)  # the least that S3 takes
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
def test_bytes_that_a_line_spoils_are_refused_by_the_store_and_sent_again(nobody, request, monkeypatch, scheme, server):
    # With a key and over plain HTTP the S3 client sends a SHA-256 alone, which rclone, unlike Amazon, does not look at.
    place = Place(scheme, request.getfixturevalue(server), monkeypatch)
    uri = place.bucket({"first": b"1"})
    with fault_proxy.line(place.port, share=0.6, seed=1, fates=("spoil",)) as line:
        place.lead_over(line.address)
        for number in range(5):
            writing.write_file(NOISE, f"{uri}/{number}")
    assert line.fates["spoil"] >= 3
    place.lead_over()
    assert contents(uri) == {"first": b"1"} | {str(number): NOISE for number in range(5)}


def test_a_folder_that_is_mirrored_holds_what_has_grown_and_what_lay_there(place, tmp_path):
    for target in (f"{place.bucket({'logs/earlier/events': b'stays'})}/logs", str(tmp_path / "logs")):
        writing.write_file(b"stays", f"{target}/earlier/events")
        source = tmp_path / f"source of {uris.scheme_of(target)}"
        source.mkdir()
        (source / "events").write_bytes(b"one")
        mirror = writing.Mirror(source, target)
        mirror.sync()
        assert contents(target) == {"earlier/events": b"stays", "events": b"one"}
        with (source / "events").open("ab") as events:
            events.write(b", two")
        (source / "plugins").mkdir()
        (source / "plugins" / "trace").write_bytes(NOISE)
        mirror.sync()
        assert contents(target) == {"earlier/events": b"stays", "events": b"one, two", "plugins/trace": NOISE}


def test_only_what_has_grown_is_sent_again(place, tmp_path):
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
        assert line.requests <= 2  # Google's client asks for the bucket itself


def test_who_follows_a_mirrored_file_sees_it_grow(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "events").write_bytes(b"one")
    mirror = writing.Mirror(tmp_path / "source", str(tmp_path / "target"))
    mirror.sync()
    with (tmp_path / "target" / "events").open("rb") as follower:
        assert follower.read() == b"one"
        (tmp_path / "source" / "events").write_bytes(b"one, two")
        mirror.sync()
        assert follower.read() == b", two"


def test_a_folder_to_write_to_is_tried_and_nothing_is_left_there(place, tmp_path):
    uri = place.bucket({"first": b"1"})
    writing.check_writable(f"{uri}/logs", "log_uri")
    assert contents(uri) == {"first": b"1"}
    writing.check_writable(str(tmp_path / "not" / "yet"), "log_uri")
    assert below(tmp_path) == {} and not (tmp_path / "not").exists()


def test_where_nothing_can_be_written_is_said_at_once(place, tmp_path):
    with pytest.raises(InputError, match="log_uri must name something that exists; got no such object or bucket: ") as refusal:
        writing.check_writable(f"{place.scheme}://nobodys-bucket/logs", "log_uri")
    line_of(refusal)
    (tmp_path / "file").write_bytes(b"")
    for wrong in ("", "sample", "https://example.org/logs", f"{place.scheme}://bucket/logs.tgz", "ftp://host/logs"):
        with pytest.raises(InputError, match="log_uri must name a folder or a bucket folder to write to"):
            writing.check_writable(wrong, "log_uri")
    with pytest.raises(InputError, match="log_uri must name a folder; got"):
        writing.check_writable(str(tmp_path / "file" / "logs"), "log_uri")
    with pytest.raises(InputError, match="a web address is read-only"):
        writing.write_file(b"", "https://example.org/logs")


def test_who_may_not_write_is_told_at_once_what_to_set(s3, monkeypatch):
    bucket = s3.bucket(f"bucket-{next(NUMBERS)}", FILES)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-no-more")
    with fault_proxy.line(s3.port, share=0) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.address}")
        with pytest.raises(InputError) as refusal:
            writing.check_writable(f"s3://{bucket}/logs", "log_uri")
        assert line.requests == 1
    said = line_of(refusal)
    assert said.startswith("error: the address must be writable with the given credentials; got HTTP 403 at s3://")
    assert said.endswith("to a key that may write and delete there, and AWS_REGION to its region.")
