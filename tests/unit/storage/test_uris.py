"""The parts of a URI: of local paths, archives, buckets, web addresses and the sample."""

from pathlib import Path

import pytest

from kfp_vision.core.errors import FieldError
from kfp_vision.storage import uris
from kfp_vision.storage.uris import Location

SETTINGS = "?endpoint=https://minio:9000&region=eu"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("", ("", "", "", "", "")),
        ("sample", ("", "", "sample", "", "")),
        ("photos/1.jpg", ("", "", "photos/1.jpg", "", "")),
        ("/photos/a://b.jpg", ("", "", "/photos/a://b.jpg", "", "")),
        ("file:///photos/1.jpg", ("file", "", "/photos/1.jpg", "", "")),
        ("sample://bellcup/0001.jpg", ("sample", "", "bellcup/0001.jpg", "", "")),
        ("s3://bucket", ("s3", "bucket", "", "", "")),
        (f"s3://bucket/a/b.jpg{SETTINGS}", ("s3", "bucket", "a/b.jpg", SETTINGS, "")),
        ("s3://bucket/what?.jpg", ("s3", "bucket", "what?.jpg", "", "")),
        (f"s3://bucket/a.tgz{SETTINGS}#b/1.jpg", ("s3", "bucket", "a.tgz", SETTINGS, "b/1.jpg")),
        ("gs://bucket/a.ZIP#b#1.jpg", ("gs", "bucket", "a.ZIP", "", "b#1.jpg")),
        ("gs://bucket/a#1.jpg", ("gs", "bucket", "a#1.jpg", "", "")),
        ("gs://bucket/a.jpg?region=eu", ("gs", "bucket", "a.jpg?region=eu", "", "")),
        ("https://host:1/get?file=a&b=c#d/1.jpg", ("https", "host:1", "get?file=a&b=c", "", "d/1.jpg")),
    ],
)
def test_a_uri_has_its_parts(uri, parts):
    location = Location.parse(uri)
    assert (location.scheme, location.bucket, location.key, location.settings, location.member) == parts
    assert location.uri == (uri.removesuffix(f"#{location.member}") if location.member else uri)


def test_a_hash_sign_in_a_local_path_starts_a_member_only_after_a_file(tmp_path):
    archive = tmp_path / "c#" / "photos #2.tgz"
    archive.parent.mkdir()
    archive.touch()
    location = Location.parse(f"{archive}#daisy/#1.jpg")
    assert (location.path, location.member) == (archive, "daisy/#1.jpg")
    assert Location.parse(str(archive)).member == ""
    assert Location.parse(f"{tmp_path}/none.tgz#1.jpg").member == ""


def test_an_object_name_may_contain_a_hash_sign():
    assert Location.of_file("s3://bucket/a.tgz#old").key == Location.of_object("s3://bucket/a.tgz#old").key == "a.tgz#old"


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("photos", f"{Path.cwd()}/photos"),
        ("~/photos", f"{Path.home()}/photos"),
        ("file:///photos", "/photos"),
        ("file://", "file://"),
        ("", ""),
        ("sample", "sample"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)
def test_only_local_paths_become_absolute(uri, absolute):
    assert Location.of_file(uri).absolute == absolute


def test_a_sibling_uri_keeps_the_settings():
    location = Location.of_object(f"s3://bucket/folder{SETTINGS}")
    assert location.with_key("folder/1.jpg") == f"s3://bucket/folder/1.jpg{SETTINGS}"
    assert (location.setting("endpoint"), location.setting("region")) == ("https://minio:9000", "eu")
    assert Location.of_object("s3://bucket").setting("region") == ""


@pytest.mark.parametrize("uri", ["s3://", "gs:///key", f"s3://{SETTINGS}"])
def test_an_object_uri_must_have_a_bucket(uri):
    with pytest.raises(FieldError, match=r"a URI with \w+:// must name a bucket; got "):
        Location.of_object(uri)


@pytest.mark.parametrize(
    ("archive", "uri"),
    [
        ("s3://bucket/photos.zip", "s3://bucket/photos.zip#daisy/1 #2.jpg"),
        ("s3://bucket/C#/photos.tar.xz", "s3://bucket/C#/photos.tar.xz#daisy/1 #2.jpg"),
        ("s3://bucket/photos", "s3://bucket/photos#//daisy/1 #2.jpg"),
        ("gs://bucket/a/photos.download", "gs://bucket/a/photos.download#//daisy/1 #2.jpg"),
        (f"s3://bucket/photos{SETTINGS}", f"s3://bucket/photos{SETTINGS}#//daisy/1 #2.jpg"),
        ("https://host/get?file=photos", "https://host/get?file=photos#daisy/1 #2.jpg"),
    ],
)
def test_the_uri_of_a_member_is_split_again_whatever_the_archive_is_called(archive, uri):
    assert uris.join_member(archive, "daisy/1 #2.jpg") == uri
    assert uris.split_member(uri) == (archive, "daisy/1 #2.jpg")


def test_a_key_with_a_number_sign_is_no_member():
    assert uris.split_member("s3://bucket/C#/1.jpg") == ("s3://bucket/C#/1.jpg", "")
