"""Statistics of the records, and the findings they lead to."""

import io
from itertools import pairwise

import pytest
from PIL import Image

from kfp_vision.dataset.images import ValidImage, validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.records import statistics
from kfp_vision.records.convert import convert_image
from kfp_vision.records.statistics import RecordStatistics, list_findings, reencoding_reason


def row(label: str, number: int, content: str = "") -> ImageRow:
    return ImageRow(f"/{label}/{number}.jpg", label, 3, content or f"{label} {number}", f"{label}/{number}.jpg")


def collect(*groups: tuple[str, int, int, int], reencoding: str = "", split: str = "train") -> RecordStatistics:
    """Makes statistics of groups of images: label, number, width, height."""
    collected = RecordStatistics(sorted({label for label, *_ in groups}))
    for label, most, width, height in groups:
        for number in range(most):
            collected.add(split, row(label, number), ValidImage(b"abc", "jpeg", height, width), reencoding)
    return collected


def findings(collected: RecordStatistics, refused: int = 0, left_out: int = 0, max_side: int = 0) -> list[str]:
    """Lists the findings without non-breaking spaces and directional isolates."""
    plain = str.maketrans({"\N{NO-BREAK SPACE}": " ", "\N{FIRST STRONG ISOLATE}": "", "\N{POP DIRECTIONAL ISOLATE}": ""})
    return [" ".join(finding).translate(plain) for finding in list_findings(collected, refused, left_out, max_side)]


ORDINARY = (("daisy", 60, 500, 375), ("tulip", 50, 240, 320))


def test_images_are_counted_by_class_split_and_size():
    collected = RecordStatistics(["daisy", "tulip"])
    for split, label, width, height in (
        ("train", "daisy", 640, 480),
        ("train", "daisy", 480, 640),
        ("train", "tulip", 100, 100),
        ("validation", "daisy", 3000, 700),
        ("test", "tulip", 10, 90),
    ):
        collected.add(split, row(label, width), ValidImage(b"12345", "jpeg", height, width), "")
    assert collected.classes == {
        "daisy": {"train": 2, "validation": 1, "test": 0},
        "tulip": {"train": 1, "validation": 0, "test": 1},
    }
    assert (collected.images, collected.bytes) == (5, 25)
    assert (collected.smallest, collected.largest) == (90, 3000)
    assert (collected.small, collected.large, collected.long) == (2, 1, 2)


@pytest.mark.parametrize(
    ("side", "lowest", "below"), [(256, 256, 305), (300, 256, 305), (255, 215, 256), (1, 8, 10), (99_999, 0, 1e9)]
)
def test_an_image_is_in_the_bin_of_its_longer_side(side, lowest, below):
    collected = collect(("daisy", 1, side, 1))
    (number,) = [number for number, count in enumerate(collected.sides) if count]
    assert lowest <= statistics.SIDE_EDGES[number] < statistics.SIDE_EDGES[number + 1] < below + 1


@pytest.mark.parametrize(
    ("width", "height", "share"), [(100, 100, 1), (104, 100, 1), (4, 3, 4 / 3), (3, 4, 3 / 4), (900, 300, 3)]
)
def test_an_image_is_in_the_bin_of_its_aspect_ratio(width, height, share):
    collected = collect(("daisy", 1, width, height))
    (number,) = [number for number, count in enumerate(collected.ratios) if count]
    assert statistics.ASPECT_RATIO_EDGES[number] <= share < statistics.ASPECT_RATIO_EDGES[number + 1]


def test_extreme_aspect_ratios_are_in_the_outermost_bins():
    collected = collect(("daisy", 3, 90_000, 1), ("tulip", 2, 1, 90_000))
    assert (collected.ratios[0], collected.ratios[-1]) == (2, 3)


def test_ordinary_data_has_no_findings():
    assert findings(collect(*ORDINARY)) == []


@pytest.mark.parametrize(
    ("collected", "given", "sentence"),
    [
        (
            collect(("daisy", 300, 500, 375), ("rose", 30, 500, 375)),
            {},
            "daisy has 10 times the images of rose: 300 and 30. Add images of rose; "
            "a model rarely predicts what it has rarely seen.",
        ),
        (
            collect(("daisy", 40, 500, 375), ("rose", 19, 500, 375)),
            {},
            "Fewer than 20 images to train on: rose (19). "
            "Add images; a model memorises so few instead of learning the class.",
        ),
        (
            collect(("daisy", 88, 500, 375), ("rose", 12, 800, 1200), ("tulip", 20, 300, 300)),
            {},
            "12 of 120 images (10.0 %) are larger than 1,024 pixels. Set max_side to 512 in advanced: "
            "reading gets faster, and most networks see 224 pixels a side anyway.",
        ),
        (
            collect(("daisy", 80, 500, 375), ("rose", 20, 300, 223)),
            {},
            "20 of 100 images (20.0 %) are smaller than 224 pixels on a side, and enlarged for the network. "
            "Use larger originals if you have them.",
        ),
        (
            collect(("daisy", 30, 100, 100), ("rose", 20, 300, 300)),
            {},
            "30 of 50 images (60.0 %) are smaller than 224 pixels on a side, and enlarged for the network. "
            "Use larger originals, or set image_size to 128, for example: training gets faster and loses little accuracy.",
        ),
        (
            collect(("daisy", 30, 128, 96)),
            {"max_side": 128},
            "30 of 30 images (100.0 %) are smaller than 224 pixels on a side, and enlarged for the network. "
            "Set max_side to 512, or do not set it.",
        ),
        (
            collect(("daisy", 99, 500, 375), ("daisy", 1, 300, 901)),
            {},
            "1 of 100 images (1.0 %) is more than 3 times as long as wide, and squeezed to a square. "
            "Crop them to their subject, or exclude them.",
        ),
        (
            collect(("daisy", 40, 500, 375), reencoding="GIF rather than JPEG or PNG"),
            {},
            "40 of 40 images (100.0 %) are not stored as TensorFlow needs them, and were re-encoded. "
            "Save them as upright RGB JPEG once, and every later run is faster.",
        ),
        (
            collect(*ORDINARY),
            {"refused": 1},
            "1 of 111 images (0.9 %) is rejected. Fix or remove them; they are listed below, with the reasons.",
        ),
        (
            collect(*ORDINARY),
            {"left_out": 2},
            "2 images are excluded, because copies of the same image contradict each other (label, boxes or split). "
            "They are listed below: delete the wrong copy of each, and the right one is used.",
        ),
    ],
    ids=["uneven", "few", "large", "small", "mostly small", "shrunk too far", "long", "anew", "refused", "left out"],
)  # fmt: skip
def test_each_finding_has_a_remedy(collected, given, sentence):
    assert sentence in findings(collected, **given)


def test_a_right_to_left_label_is_isolated_in_its_sentence():
    ((fact, _),) = list_findings(collect(("البابونج", 3, 500, 375)), 0, 0, 0)
    assert fact == "Fewer than 20 images to train on: \N{FIRST STRONG ISOLATE}البابونج\N{POP DIRECTIONAL ISOLATE} (3)."


def test_images_resized_on_request_are_no_finding():
    assert findings(collect(("daisy", 40, 512, 384), reencoding=statistics.SHRUNK_REASON), max_side=512) == []


def test_a_class_without_images_is_reported_without_a_division_by_zero():
    collected = RecordStatistics(["daisy", "tulip"])
    assert findings(collected) == [
        "Fewer than 20 images to train on: daisy (0), tulip (0). "
        "Add images; a model memorises so few instead of learning the class."
    ]
    assert statistics.size_histogram(collected).caption == "No images."


def test_copies_are_counted_and_the_first_named():
    collected = RecordStatistics(["daisy"])
    for number in range(60):
        collected.add("train", row("daisy", number, content=str(number // 3)), ValidImage(b"abc", "jpeg", 375, 500), "")
    assert collected.copies == 40
    assert collected.copied[:2] == [("daisy/0.jpg", "daisy/1.jpg"), ("daisy/1.jpg", "daisy/2.jpg")]
    assert len(collected.copied) == 10
    assert findings(collected) == [
        "40 of 60 images (66.7 %) are an exact copy of another. "
        "Copies are in the same split, but each counts: delete one of each pair, listed below."
    ]


def test_copies_with_another_label_are_a_separate_finding():
    collected = collect(("daisy", 30, 500, 375), ("tulip", 30, 500, 375))
    for label in ("daisy", "tulip"):
        collected.add("train", row(label, 100, content="both"), ValidImage(b"abc", "jpeg", 375, 500), "")
    assert (collected.copies, collected.conflicting) == (1, 1)
    assert findings(collected)[1] == (
        "1 of 62 images (1.6 %) is an exact copy with another label. "
        "No model can be right about both: delete the wrong one, or set conflicting_labels to leave_out."
    )


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: EXIF 2.3, section 4.6.4


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        (encoded("JPEG"), ""),
        (encoded("PNG"), ""),
        (encoded("GIF"), "GIF rather than JPEG or PNG"),
        (encoded("WEBP"), "WEBP rather than JPEG or PNG"),
        (encoded("JPEG", "CMYK"), "colour mode CMYK"),
        (encoded("JPEG", exif=TURNED), "not upright (EXIF orientation)"),
        (encoded("PNG", "RGBA"), "transparent, laid on white"),
    ],
)
def test_a_re_encoded_image_has_the_reason(original, reason):
    assert reencoding_reason(original, validate_image(original)) == reason


def test_a_resized_image_has_the_reason():
    original = encoded("JPEG")
    listed = ImageRow("", "daisy", len(original), "", "")
    assert (
        reencoding_reason(original, convert_image(original, listed, check_pixels=False, max_side=20)) == "larger than max_side"
    )


@pytest.mark.parametrize(("classes", "shown", "each"), [(5, 5, 6), (100, 100, 3), (1000, 300, 1)])
def test_the_number_of_samples_is_limited_for_any_number_of_classes_and_images(classes, shown, each):
    labels = [f"{number:04}" for number in range(classes)]
    collected = RecordStatistics(labels, shown=True)
    small = encoded("JPEG", size=(4, 3))
    for number in range(10):
        for label in labels:
            collected.add("train", row(label, number), ValidImage(small, "jpeg", 3, 4), "")
    assert [len(collected.samples[label]) for label in labels[:shown]] == [each] * shown
    assert len(collected.samples) == shown


@pytest.mark.parametrize("cuts", [(4, 9), (0, 1), (6, 6), (12, 12)])
def test_merged_statistics_of_parts_equal_those_of_all_images(tmp_path, cuts):
    encoded = io.BytesIO()
    Image.new("RGB", (300, 200), "green").save(encoded, "JPEG")
    entries = [(row(label, number, content=str(number // 2)), 100 + 90 * number) for label in "ab" for number in range(6)]
    bounds = (0, *cuts, len(entries))
    tallies = []
    for start, stop in ((0, len(entries)), *pairwise(bounds)):
        tallies.append(RecordStatistics(["a", "b"], shown=True))
        for number, (image_row, width) in enumerate(entries[start:stop], start=start):
            split = "train" if number < 8 else "test"
            shown = ValidImage(encoded.getvalue(), "jpeg", 200, width)
            tallies[-1].add(split, image_row, shown, "shrunk" if number % 3 else "")
        statistics.write_statistics(tmp_path / str(len(tallies)), tallies[-1])
    total, *parts = [tmp_path / str(number) for number in range(1, 5)]
    assert vars(statistics.join_statistics(parts)) == vars(statistics.join_statistics([total]))
    assert statistics.join_statistics(parts).copies == 6
    assert vars(statistics.join_statistics([total])) == vars(tallies[0])
