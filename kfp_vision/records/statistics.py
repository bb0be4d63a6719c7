"""Statistics of the images in records, and what to do about them, for the summary page.

The statistics hold counts and a few thumbnails per class; their size does not grow with the data.
"""

import io
import json
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from kfp_vision.core import json_text
from kfp_vision.dataset.images import PILLOW_FORMATS, TENSORFLOW_MODES, UPRIGHT, ValidImage, is_deep, read_orientation
from kfp_vision.dataset.table import MAX_NAMED, MAX_SAMPLES, SAMPLES_PER_CLASS, SPLITS, ImageRow
from kfp_vision.records.odd_images import ELONGATED_RATIO, ODD_SHAPE
from kfp_vision.reports import charts, formatting
from kfp_vision.reports.thumbnails import EncodedImage, Thumbnail, thumbnail
from kfp_vision.storage import atomic

# Edges of the bins: quarter octaves of the longer side, eighths of an octave of the aspect ratio (1:1 is the middle of a bin).
SIDE_EDGES = [2 ** (quarter / 4) for quarter in range(4 * 3, 4 * 15 + 1)]  # pixels
ASPECT_RATIO_EDGES = [2 ** ((eighth - 0.5) / 8) for eighth in range(-8 * 3, 8 * 3 + 2)]
INPUT_SIDE = 224  # pixels a side: the input of most networks unless image_size is set
LARGE_SIDE = 1024  # pixels of the longer side, above which most of the reading time goes into pixels that no network sees
RECOMMENDED_MAX_SIDE = (
    512  # pixels of the longer side: a crop of 0.3 of the area still has an input pixel for every pixel of the network
)
IMBALANCED_RATIO = 5  # times the images of the smallest class
FEW_TRAINING_IMAGES = 20  # training images of a class
NOTEWORTHY_SHARE = 0.05  # share of the images
ODD_SHOWN = 5  # thumbnails of each kind of odd images
SHRUNK_REASON = "larger than max_side"
DEEP_REASON = "more than 8 bits, scaled to 8"
# Attributes of the statistics: numbers to add, lists to add bin by bin, and all that is stored.
COUNT_FIELDS, BIN_FIELDS = ("bytes", "small", "large", "long", "copies", "conflicting"), ("sides", "ratios")
STORED_FIELDS = (
    *COUNT_FIELDS,
    *BIN_FIELDS,
    "splits",
    "classes",
    "boxes",
    "smallest",
    "largest",
    "anew",
    "copied",
    "samples",
    "odd",
    "odd_samples",
    "labels_on_images",
    "_first",
    "_before",
)

Finding = tuple[str, str]  # a fact, and what to do about it


class RecordStatistics:
    """Statistics of the images in records.

    Attributes:
        splits: split to number of images.
        classes: label to split to number of images; an image with boxes of several classes counts for each.
        boxes: whether the images have boxes, for an object detector.
        bytes: total size of the encoded images.
        sides: number of images by longer side, in the bins of `SIDE_EDGES`.
        ratios: number of images by width over height, in the bins of `ASPECT_RATIO_EDGES`; the outermost bins are open.
        smallest: smallest longer side in pixels; 0 without images.
        largest: largest longer side in pixels; 0 without images.
        small: number of images with a side below `INPUT_SIDE`.
        large: number of images with a side above `LARGE_SIDE`.
        long: number of images with an aspect ratio beyond `ELONGATED_RATIO`.
        anew: reason to number of images that were re-encoded for it.
        copies: number of images with the same bytes as the one before.
        conflicting: number of those copies that have another label.
        copied: names of the first few pairs of copies.
        samples: label to a few thumbnails.
        odd: kind to number of images that nobody would train on; those that are left out count as well.
        odd_samples: kind to a few thumbnails of them.
        labels_on_images: number of labels to number of images that have so many.
    """

    def __init__(self, labels: Sequence[str], *, shown: bool = False):
        """Creates statistics without images.

        Args:
            labels: all class names.
            shown: whether to keep a few thumbnails per class.
        """
        self.classes = {label: dict.fromkeys(SPLITS, 0) for label in labels}
        self.bytes = self.smallest = self.largest = self.small = self.large = self.long = 0
        self.copies = self.conflicting = 0
        self.boxes = False
        self.sides, self.ratios = [0] * (len(SIDE_EDGES) - 1), [0] * (len(ASPECT_RATIO_EDGES) - 1)
        self.anew: Counter[str] = Counter()
        self.copied: list[tuple[str, str]] = []
        self.samples: dict[str, list[Thumbnail]] = {label: [] for label in labels[:MAX_SAMPLES] if shown}
        self._samples_per_class = max(1, min(SAMPLES_PER_CLASS, MAX_SAMPLES // max(1, len(labels))))
        self.odd: Counter[str] = Counter()
        self.odd_samples: dict[str, list[Thumbnail]] = {}
        self.splits = dict.fromkeys(SPLITS, 0)
        self.labels_on_images: Counter[int] = Counter()
        self._first = self._before = ("", "", "")  # content id, label and name

    @property
    def images(self) -> int:
        """Number of images in all splits."""
        return sum(self.splits.values())

    def add(self, split: str, row: ImageRow, image: ValidImage, reencoded_because: str) -> None:
        """Counts an image. Tables are sorted by content, so copies follow each other.

        Args:
            split: train, validation or test.
            row: of the table.
            image: as it is in its record.
            reencoded_because: why it was re-encoded; empty if it has its original bytes.
        """
        self.splits[split] += 1
        self.boxes = self.boxes or bool(row.objects)
        self.labels_on_images[len(row.labels)] += 1
        for label in row.labels:
            self.classes[label][split] += 1
        self.bytes += len(image.encoded)
        height, width = image.height, image.width
        longer, shorter = (width, height) if width > height else (height, width)
        self.sides[min(max(bisect(SIDE_EDGES, longer) - 1, 0), len(SIDE_EDGES) - 2)] += 1
        self.ratios[min(max(bisect(ASPECT_RATIO_EDGES, width / height) - 1, 0), len(ASPECT_RATIO_EDGES) - 2)] += 1
        self.largest = max(self.largest, longer)
        self.smallest = min(self.smallest or longer, longer)
        self.small += shorter < INPUT_SIDE
        self.large += longer > LARGE_SIDE
        self.long += longer > ELONGATED_RATIO * shorter
        if reencoded_because:
            self.anew[reencoded_because] += 1
        current = (row.content_id, row.label, row.name)
        self._count_copy(current)
        self._first = self._first if self._first[0] else current
        self._before = current
        for label in row.labels:
            thumbnails = self.samples.get(label)
            if thumbnails is not None and len(thumbnails) < self._samples_per_class:
                thumbnails.append(thumbnail(EncodedImage(row.name, image.encoded)))

    def add_odd(self, row: ImageRow, image: ValidImage, kind: str) -> None:
        """Counts an image that nobody would train on.

        Args:
            row: of the table.
            image: as it would be in its record.
            kind: what is odd about it, of `odd_images.odd_reason`.
        """
        self.odd[kind] += 1
        shown = self.odd_samples.setdefault(kind, [])
        if self.samples and len(shown) < ODD_SHOWN:
            shown.append(thumbnail(EncodedImage(row.name, image.encoded)))

    def _count_copy(self, current: tuple[str, str, str]) -> None:
        """Counts an image as a copy if it has the content of the one before."""
        content, label, name = self._before
        if current[0] == content:
            self.copies += 1
            self.conflicting += current[1] != label
            if len(self.copied) < MAX_NAMED:
                self.copied.append((name, current[2]))

    def extend(self, following: "RecordStatistics") -> None:
        """Adds the statistics of the images that follow these.

        Args:
            following: statistics of the next images, in the order of the tables.
        """
        self.boxes = self.boxes or following.boxes
        for split, images in following.splits.items():
            self.splits[split] += images
        for label, by_split in following.classes.items():
            for split, images in by_split.items():
                self.classes[label][split] += images
        if following._first[0]:
            self._count_copy(following._first)
            self._first = self._first if self._first[0] else following._first
            self._before = following._before
        for name in COUNT_FIELDS:
            setattr(self, name, getattr(self, name) + getattr(following, name))
        for name in BIN_FIELDS:
            setattr(self, name, [sum(pair) for pair in zip(getattr(self, name), getattr(following, name), strict=True)])
        self.largest = max(self.largest, following.largest)
        self.smallest = min(filter(None, (self.smallest, following.smallest)), default=0)
        self.anew += following.anew
        self.odd += following.odd
        self.labels_on_images += following.labels_on_images
        for kind, thumbnails in following.odd_samples.items():
            self.odd_samples[kind] = [*self.odd_samples.get(kind, []), *thumbnails][:ODD_SHOWN]
        self.copied = [*self.copied, *following.copied][:MAX_NAMED]
        for label, thumbnails in following.samples.items():
            self.samples[label] = [*self.samples[label], *thumbnails][: self._samples_per_class]


def write_statistics(file: Path, statistics: RecordStatistics) -> None:
    """Writes statistics to a JSON file.

    Args:
        file: to create or replace.
        statistics: to write.
    """
    with atomic.replacing(file) as staging:
        staging.write_text(json.dumps({name: getattr(statistics, name) for name in STORED_FIELDS}), encoding="utf-8")


def join_statistics(files: Sequence[Path]) -> RecordStatistics:
    """Reads the statistics of consecutive partitions, and adds them up.

    Args:
        files: at least one, in the order of the partitions.

    Returns:
        The statistics that a single partition would have.
    """
    total, *following = [_read(file) for file in files]
    for statistics in following:
        total.extend(statistics)
    return total


def _read(file: Path) -> RecordStatistics:
    stored = json_text.read_object(file)
    statistics = RecordStatistics(list(stored["classes"]))
    for name in STORED_FIELDS:
        setattr(statistics, name, stored[name])
    statistics.anew, statistics.odd = Counter(stored["anew"]), Counter(stored["odd"])
    statistics.labels_on_images = Counter({int(count): images for count, images in stored["labels_on_images"].items()})
    statistics.copied = [(name, copy) for name, copy in stored["copied"]]
    statistics.samples = {label: [Thumbnail(*one) for one in shown] for label, shown in stored["samples"].items()}
    statistics.odd_samples = {kind: [Thumbnail(*one) for one in shown] for kind, shown in stored["odd_samples"].items()}
    statistics._first, statistics._before = tuple(stored["_first"]), tuple(stored["_before"])
    return statistics


def reencoding_reason(original: bytes, image: ValidImage) -> str:
    """Says why an image was re-encoded.

    Args:
        original: the encoded image before conversion.
        image: the image after conversion.

    Returns:
        The reason; empty if the image has its original bytes.
    """
    if image.encoded == original:
        return ""
    with Image.open(io.BytesIO(original), formats=PILLOW_FORMATS) as opened:
        if is_deep(opened, original):
            return DEEP_REASON
        if opened.format not in TENSORFLOW_MODES:
            return f"{opened.format} rather than JPEG or PNG"
        if max(opened.size) > max(image.height, image.width):
            return SHRUNK_REASON
        if read_orientation(opened) != UPRIGHT:
            return "not upright (EXIF orientation)"
        if opened.has_transparency_data:
            return "transparent, laid on white"
        return f"colour mode {opened.mode}"


def list_findings(
    statistics: RecordStatistics, refused: int, left_out: int, max_side: int, *, odd_left_out: int = 0
) -> list[Finding]:
    """Lists what a person should know about the records and can act on, the most serious first.

    Args:
        statistics: of the images in the records.
        refused: number of rejected images.
        left_out: number of images that the split excluded.
        max_side: side in pixels to which larger images were shrunk; 0 for none.
        odd_left_out: number of images that nobody would train on, and that were left out.

    Returns:
        Facts with remedies, as sentences.
    """
    found = [
        *_class_findings(statistics),
        *_label_findings(statistics),
        *_odd_findings(statistics, odd_left_out),
        *([] if statistics.boxes else _size_findings(statistics, max_side)),
        *_copy_findings(statistics),
    ]
    if refused:
        fact = f"{_share_of_images(refused, statistics.images + refused)} rejected."
        found.insert(0, (fact, "Fix or remove them; they are listed below, with the reasons."))
    if left_out:
        found.append((_excluded(left_out), "They are listed below: delete the wrong copy of each, and the right one is used."))
    return found


def _class_findings(statistics: RecordStatistics) -> list[Finding]:
    found = []
    totals = {label: sum(splits.values()) for label, splits in statistics.classes.items()}
    if not totals:
        return []
    (rare, fewest), (common, most) = (extreme(totals.items(), key=lambda pair: pair[1]) for extreme in (min, max))
    if fewest and most > IMBALANCED_RATIO * fewest:
        fact = f"{_isolated(common)} has {most / fewest:.0f} times the images of {_isolated(rare)}: {most:,} and {fewest:,}."
        found.append((fact, f"Add images of {_isolated(rare)}; a model rarely predicts what it has rarely seen."))
    few = [
        f"{_isolated(label)} ({splits['train']:,})"
        for label, splits in statistics.classes.items()
        if splits["train"] < FEW_TRAINING_IMAGES
    ]
    if few:
        rest = f" and {len(few) - MAX_NAMED:,} more" if len(few) > MAX_NAMED else ""
        fact = f"Fewer than {FEW_TRAINING_IMAGES} images to train on: {', '.join(few[:MAX_NAMED])}{rest}."
        found.append((fact, "Add images; a model memorises so few instead of learning the class."))
    return found


def _label_findings(statistics: RecordStatistics) -> list[Finding]:
    """Says how many labels images have, where these are not one each."""
    on = statistics.labels_on_images
    if statistics.boxes or on.keys() <= {1}:
        return []
    counts = ", ".join(f"{count or 'none'} on {formatting.plural(on[count], 'image', 'images')}" for count in sorted(on))
    remedy = "Look at the rarest labels: a model learns each from the images that have it."
    if on[0]:
        remedy = "An image without a label teaches that it has none: leave it out if its labels are only missing."
    return [(f"Labels on an image: {counts}.", remedy)]


def _odd_findings(statistics: RecordStatistics, odd_left_out: int) -> list[Finding]:
    """Lists black, blank, blurred and tiny images; of odd shapes there is a finding among those on sizes."""
    if odd_left_out:
        images = "1 image was" if odd_left_out == 1 else f"{odd_left_out:,} images were"
        return [
            (
                f"{images} left out, since nobody would train on them.",
                "They are shown and listed below; set odd_images to keep.",
            )
        ]
    counts = [f"{count:,} {kind}" for kind, count in statistics.odd.most_common() if kind != ODD_SHAPE]
    if not counts:
        return []
    remedy = "Look at them below; exclude the wrong ones, or set odd_images to leave_out in advanced."
    return [(f"Images that nobody would train on: {', '.join(counts)}.", remedy)]


def _size_findings(statistics: RecordStatistics, max_side: int) -> list[Finding]:
    found = []
    images = max(1, statistics.images)
    if statistics.large >= NOTEWORTHY_SHARE * images:
        remedy = (
            f"Set max_side to {RECOMMENDED_MAX_SIDE} in advanced: reading gets faster, "
            f"and most networks see {INPUT_SIDE} pixels a side anyway."
        )
        found.append((f"{_share_of_images(statistics.large, images)} larger than {LARGE_SIDE:,} pixels.", remedy))
    if statistics.small >= NOTEWORTHY_SHARE * images:
        remedy = "Use larger originals if you have them."
        if 0 < max_side < RECOMMENDED_MAX_SIDE:
            remedy = f"Set max_side to {RECOMMENDED_MAX_SIDE}, or do not set it."
        elif statistics.small > images / 2:
            remedy = (
                "Use larger originals, or set image_size to 128, for example: training gets faster and loses little accuracy."
            )
        smaller = _share_of_images(statistics.small, images)
        fact = f"{smaller} smaller than {INPUT_SIDE} pixels on a side, and enlarged for the network."
        found.append((fact, remedy))
    if statistics.long:
        elongated = _share_of_images(statistics.long, images)
        fact = f"{elongated} more than {ELONGATED_RATIO:.0f} times as long as wide, and squeezed to a square."
        found.append((fact, "Crop them to their subject, or exclude them."))
    if deep := statistics.anew[DEEP_REASON]:
        remedy = (
            "Look at the samples: what matters must be visible, since the network sees no more. Else save them with 8 bits."
        )
        found.append((f"{_share_of_images(deep, images)} of more than 8 bits, and scaled to 8.", remedy))
    unreadable = statistics.anew.total() - statistics.anew[SHRUNK_REASON]
    if unreadable >= NOTEWORTHY_SHARE * images:
        remedy = "Save them as upright RGB JPEG once, and every later run is faster."
        found.append(
            (f"{_share_of_images(unreadable, images)} not stored as TensorFlow needs them, and were re-encoded.", remedy)
        )
    return found


def _copy_findings(statistics: RecordStatistics) -> list[Finding]:
    if not statistics.copies:
        return []
    fact = f"{_share_of_images(statistics.copies, statistics.images)} an exact copy of another."
    found = [(fact, "Copies are in the same split, but each counts: delete one of each pair, listed below.")]
    if statistics.conflicting:
        fact = f"{_share_of_images(statistics.conflicting, statistics.images)} an exact copy with another label."
        remedy = "No model can be right about both: delete the wrong one, or set conflicting_labels to leave_out."
        found.append((fact, remedy))
    return found


def _isolated(label: str) -> str:
    """Isolates a label within a sentence, so that right-to-left text does not reorder what is next to it."""
    return f"\N{FIRST STRONG ISOLATE}{label}\N{POP DIRECTIONAL ISOLATE}"


def _excluded(count: int) -> str:
    images = "1 image is" if count == 1 else f"{count:,} images are"
    return f"{images} excluded, because copies of the same image contradict each other (label, boxes or split)."


def _share_of_images(count: int, images: int) -> str:
    """Such as `12 of 100 images (12.0 %) are`."""
    return f"{count:,} of {images:,} images ({_percent(count / images)}) {'is' if count == 1 else 'are'}"


def _percent(share: float, digits: int = 1) -> str:
    return formatting.percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")


def size_histogram(statistics: RecordStatistics) -> charts.Histogram:
    """Returns a histogram of the images by their longer side.

    Args:
        statistics: of the images in the records.
    """
    ticks = {2.0**octave: f"{2**octave:,}" for octave in range(3, 16)}
    caption = "No images."
    if statistics.largest:
        same = f"All {statistics.largest:,} pixels" if statistics.smallest == statistics.largest else ""
        extent = same or f"From {statistics.smallest:,} to {statistics.largest:,} pixels"
        caption = f"{extent}. The dashed line marks {INPUT_SIDE}, the input size of most networks unless image_size is set."
        if statistics.boxes:
            return charts.Histogram("Longer side in pixels", SIDE_EDGES, statistics.sides, ticks, f"{extent}.")
    return charts.Histogram("Longer side in pixels", SIDE_EDGES, statistics.sides, ticks, caption, mark=INPUT_SIDE)


def shape_histogram(statistics: RecordStatistics) -> charts.Histogram:
    """Returns a histogram of the images by width over height.

    Args:
        statistics: of the images in the records.
    """
    ticks = {1 / 4: "1:4", 1 / 2: "1:2", 3 / 4: "3:4", 1.0: "1:1", 4 / 3: "4:3", 2.0: "2:1", 4.0: "4:1"}
    square = len(statistics.ratios) // 2
    tall, wide = sum(statistics.ratios[:square]), sum(statistics.ratios[square + 1 :])
    images = max(1, statistics.images)
    shares = (_percent(part / images, 0) for part in (tall, statistics.ratios[square], wide))
    caption = "{} are taller than wide, {} about square, {} wider than tall.".format(*shares)
    return charts.Histogram("Width to height", ASPECT_RATIO_EDGES, statistics.ratios, ticks, caption)
