"""The sample whose images have several labels: two to four of the sample's flowers on each, the same bytes for a name."""

import csv
import io
from collections import Counter

import pytest
from PIL import Image

from kfp_vision.core.errors import InputError
from kfp_vision.storage import reading, sample, several_sample, uris


def test_there_are_600_images_of_two_to_four_classes_of_the_sample():
    names = several_sample.image_names()
    assert len(names) == len(set(names)) == 600 and names == sorted(names)
    labels = [several_sample.labels_of(name) for name in names]
    assert Counter(map(len, labels)) == {2: 200, 3: 200, 4: 200}
    assert all(len(set(held)) == len(held) and set(held) <= set(sample.CLASSES) for held in labels)
    counts = Counter(label for held in labels for label in held)
    assert all(330 < counts[label] < 390 for label in sample.CLASSES)


def test_a_name_gives_the_same_bytes_and_others_different_ones():
    drawn = [several_sample.draw(name) for name in ("0001.jpg", "0002.jpg", "0003.jpg")]
    assert [several_sample.draw(name) for name in ("0001.jpg", "0002.jpg", "0003.jpg")] == drawn
    assert len(set(drawn)) == 3
    for encoded in drawn:
        with Image.open(io.BytesIO(encoded)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB") and 240 <= min(image.size) <= max(image.size) <= 500


def test_it_is_read_by_its_uri_as_its_images_are():
    items = [next(iter(reading.walk("sample?labels=several")))]
    assert [(item.uri, item.name) for item in items] == [("sample://several/0001.jpg", "0001.jpg")]
    with reading.Reader() as reader:
        assert reader.read("sample://several/0001.jpg") == items[0].read() == several_sample.draw("0001.jpg")
    reading.check_exists("sample?labels=several", "images_uri")
    reading.check_image_uri("sample://several/0600.jpg", "test_image_uri")
    assert reading.fingerprint("sample?labels=several") == several_sample.fingerprint() != sample.fingerprint()
    assert reading.notes_on_names("sample?labels=several") == []


@pytest.mark.parametrize("uri", ["sample?labels=two", "sample?several"])
def test_another_query_is_rejected(uri):
    with pytest.raises(
        InputError, match=r"images_uri must be sample or sample\?labels=several .* Write it as sample\?labels=several"
    ):
        uris.check_uri(uri, "images_uri")


def test_unknown_names_are_rejected():
    with pytest.raises(ValueError, match=r"got '0601.jpg': take 0001.jpg to 0600.jpg"):
        several_sample.draw("0601.jpg")
    with pytest.raises(InputError, match="test_image_uri must name an image of the sample"):
        reading.check_image_uri("sample://several/0601.jpg", "test_image_uri")


def test_it_can_be_written_with_a_table_of_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(several_sample, "IMAGES", 3)
    assert several_sample.write_images(tmp_path / "new") == 3
    with (tmp_path / "new" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"].split("|") for row in rows] == [several_sample.labels_of(row["uri"]) for row in rows]
    assert (tmp_path / "new" / "0002.jpg").read_bytes() == several_sample.draw("0002.jpg")
