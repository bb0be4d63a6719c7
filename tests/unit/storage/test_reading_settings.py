"""The fields of `advanced` that hold for everything a process reads."""

import pytest
from support import zip_names

from kfp_vision.core.errors import InputError
from kfp_vision.storage import archives, reading, reading_settings, retry

ROSES = [f"玫瑰/{number}.jpg" for number in range(2)]


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(retry, "_process", retry.RetryPolicy())
    yield
    archives.set_name_encoding("")


@pytest.fixture
def zipped(tmp_path):
    """A zip whose names are valid in many code pages."""
    return zip_names.write_zip(tmp_path / "photos.zip", {name.encode("gbk"): b"a" for name in ROSES})


def test_the_encoding_of_names_holds_for_listing_and_for_reading(zipped):
    reading_settings.apply({"name_encoding": "cp949", "momentum": 0.8})
    listed = [item.uri for item in reading.walk(str(zipped))]
    assert listed == [f"{zipped}#{name.encode('gbk').decode('cp949')}" for name in ROSES]
    with reading.Reader() as reader:
        assert [reader.read(uri) for uri in listed] == [b"a", b"a"]


def test_without_the_field_the_encoding_is_found_again(zipped):
    reading_settings.apply({"name_encoding": "cp949"})
    reading_settings.apply({})
    assert [item.name for item in reading.walk(str(zipped))] == ROSES


def test_the_wait_for_stores_is_set_too():
    reading_settings.apply({"store_wait_seconds": 7})
    assert retry._process.seconds == 7


@pytest.mark.parametrize("name", ["klingon", "utf-16", "rot13", "hex", "utf-7\0"])
def test_a_name_that_is_no_encoding_of_file_names_is_rejected(name):
    with pytest.raises(InputError, match="name_encoding of advanced must be empty or an encoding that Python knows"):
        reading_settings.apply({"name_encoding": name})
