"""What goes into the records, counted while it passes, and what to do about it: the substance of the summary page.

A tally holds counts, and a few small pictures of each class; it does not grow with the data.
"""

import io
import json
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image

from kfp_vision import charts, reports, storage, wording
from kfp_vision.catalog import MOST_SAMPLES, NAMED, SAMPLES_A_CLASS, SPLITS, Row
from kfp_vision.pictures import PILLOW_OPENS, TENSORFLOW_READS, Checked

# Edges of the bins: of the longer side quarters of an octave, of width by height eighths, a square in the middle of one.
SIDES = [2 ** (quarter / 4) for quarter in range(4 * 3, 4 * 15 + 1)]  # pixels
RATIOS = [2 ** ((eighth - 0.5) / 8) for eighth in range(-8 * 3, 8 * 3 + 2)]
SEEN = 224  # pixels a side: what the networks see unless image_size says otherwise
LARGE = 1024  # pixels of the longer side, beyond which most of the time goes into pixels that no network sees
ENOUGH = 512  # of the longer side: of a crop of 0.3 of that, the networks still see every pixel
LONG = 3.0  # longer by shorter side, beyond which little is to be recognised in a square
UNEVEN = 5  # times the pictures of the smallest class
FEW = 20  # pictures to train a class on
NOTEWORTHY = 0.05  # share of the pictures
SHRUNK = "larger than max_side"
# Of a tally: what adds up, what adds up bin by bin, and all that is written.
COUNTS, BINS = ("bytes", "small", "large", "long", "copies", "conflicting"), ("sides", "ratios")
KEPT = (*COUNTS, *BINS, "splits", "classes", "boxes", "smallest", "largest", "anew", "copied", "samples", "_first", "_before")

Finding = tuple[str, str]  # what was found, what to do about it


class Tally:
    """Counts of the pictures that went into the records.

    Attributes:
        splits: split to pictures.
        classes: label to split to pictures; one with boxes around several classes counts for each.
        boxes: whether the pictures have boxes, and are for a detector.
        bytes: of all encoded pictures together.
        sides: pictures by longer side, in the bins of `SIDES`.
        ratios: pictures by width over height, in the bins of `RATIOS`; the outermost take what lies beyond.
        smallest, largest: longer side in pixels; 0 without pictures.
        small, large, long: pictures with a side below `SEEN`, a side above `LARGE`, and sides further apart than `LONG`.
        anew: why pictures were encoded anew, to how many.
        conflicting: pictures that stand under several labels, so often as they do but the first.
        copies: pictures with the same bytes as the one before them, and `copied` the names of the first few pairs.
        samples: label to a few small pictures.
    """

    def __init__(self, labels: Sequence[str], *, shown: bool = False):
        """An empty tally.

        Args:
            labels: of all classes.
            shown: whether to keep a few small pictures of each class.
        """
        self.classes = {label: dict.fromkeys(SPLITS, 0) for label in labels}
        self.bytes = self.smallest = self.largest = self.small = self.large = self.long = 0
        self.copies = self.conflicting = 0
        self.boxes = False
        self.sides, self.ratios = [0] * (len(SIDES) - 1), [0] * (len(RATIOS) - 1)
        self.anew: Counter[str] = Counter()
        self.copied: list[tuple[str, str]] = []
        self.samples: dict[str, list[reports.Thumbnail]] = {label: [] for label in labels[:MOST_SAMPLES] if shown}
        self._each = max(1, min(SAMPLES_A_CLASS, MOST_SAMPLES // max(1, len(labels))))
        self.splits = dict.fromkeys(SPLITS, 0)
        self._first = self._before = ("", "", "")  # content, label and name

    @property
    def pictures(self) -> int:
        """How many there are in all."""
        return sum(self.splits.values())

    def add(self, split: str, row: Row, picture: Checked, anew: str) -> None:
        """Counts a picture. Tables are in the order of contents, so that copies follow each other.

        Args:
            split: train, validation or test.
            row: what the table says of it.
            picture: it as it is in its record.
            anew: why it was encoded anew; empty where its bytes are the original ones.
        """
        self.splits[split] += 1
        self.boxes = self.boxes or bool(row.objects)
        for label in row.labels:
            self.classes[label][split] += 1
        self.bytes += len(picture.encoded)
        height, width = picture.height, picture.width
        longer, shorter = (width, height) if width > height else (height, width)
        self.sides[min(max(bisect(SIDES, longer) - 1, 0), len(SIDES) - 2)] += 1
        self.ratios[min(max(bisect(RATIOS, width / height) - 1, 0), len(RATIOS) - 2)] += 1
        self.largest = max(self.largest, longer)
        self.smallest = min(self.smallest or longer, longer)
        self.small += shorter < SEEN
        self.large += longer > LARGE
        self.long += longer > LONG * shorter
        if anew:
            self.anew[anew] += 1
        here = (row.content_id, row.label, row.name)
        self._follow(here)
        self._first = self._first if self._first[0] else here
        self._before = here
        for label in row.labels:
            shown = self.samples.get(label)
            if shown is not None and len(shown) < self._each:
                shown.append(reports.thumbnail(reports.Picture(row.name, picture.encoded)))

    def _follow(self, here: tuple[str, str, str]) -> None:
        """Counts a picture that may be a copy of the one before it."""
        content, label, name = self._before
        if here[0] == content:
            self.copies += 1
            self.conflicting += here[1] != label
            if len(self.copied) < NAMED:
                self.copied.append((name, here[2]))

    def extend(self, following: "Tally") -> None:
        """Counts what another tally counted behind this one, as if it had passed here."""
        self.boxes = self.boxes or following.boxes
        for split, pictures in following.splits.items():
            self.splits[split] += pictures
        for label, of_class in following.classes.items():
            for split, pictures in of_class.items():
                self.classes[label][split] += pictures
        if following._first[0]:
            self._follow(following._first)
            self._first = self._first if self._first[0] else following._first
            self._before = following._before
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(following, name))
        for name in BINS:
            setattr(self, name, [sum(pair) for pair in zip(getattr(self, name), getattr(following, name), strict=True)])
        self.largest = max(self.largest, following.largest)
        self.smallest = min(filter(None, (self.smallest, following.smallest)), default=0)
        self.anew += following.anew
        self.copied = [*self.copied, *following.copied][:NAMED]
        for label, shown in following.samples.items():
            self.samples[label] = [*self.samples[label], *shown][: self._each]


def write(file: Path, tally: Tally) -> None:
    """Writes a tally as JSON."""
    with storage.replacing(file) as beside:
        beside.write_text(json.dumps({name: getattr(tally, name) for name in KEPT}), encoding="utf-8")


def joined(files: Sequence[Path]) -> Tally:
    """The tally of all that was counted in tallies that were written, one behind the other; of one at the least."""
    read = [_read(file) for file in files]
    for tally in read[1:]:
        read[0].extend(tally)
    return read[0]


def _read(file: Path) -> Tally:
    kept = json.loads(file.read_text(encoding="utf-8"))
    tally = Tally(list(kept["classes"]))
    for name in KEPT:
        setattr(tally, name, kept[name])
    tally.anew = Counter(kept["anew"])
    tally.copied = [(name, copy) for name, copy in kept["copied"]]
    tally.samples = {label: [reports.Thumbnail(*one) for one in shown] for label, shown in kept["samples"].items()}
    tally._first, tally._before = tuple(kept["_first"]), tuple(kept["_before"])
    return tally


def why_anew(original: bytes, picture: Checked) -> str:
    """Why a picture does not have its original bytes; empty where it has."""
    if picture.encoded == original:
        return ""
    with Image.open(io.BytesIO(original), formats=PILLOW_OPENS) as image:
        if image.format not in TENSORFLOW_READS:
            return f"{image.format} rather than JPEG or PNG"
        if max(image.size) > max(picture.height, picture.width):
            return SHRUNK
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return "lay on its side"
        return f"colours of mode {image.mode}"


def findings(tally: Tally, refused: int, left_out: int, max_side: int) -> list[Finding]:
    """What a person should know of the records and can do something about, the gravest first.

    Args:
        tally: of what is in the records.
        refused: pictures that could not be used.
        left_out: pictures that the split left out.
        max_side: what larger pictures were shrunk to, in pixels; 0 for none.
    """
    said = [*_of_classes(tally), *([] if tally.boxes else _of_sizes(tally, max_side)), *_of_copies(tally)]
    if refused:
        fact = f"{_are(refused, tally.pictures + refused)} refused."
        said.insert(0, (fact, "Mend or remove them; they are named below, with the reasons."))
    if left_out:
        said.append((_left_out(left_out), "They are named below: delete the wrong one of each, and the right one is used."))
    return said


def _of_classes(tally: Tally) -> list[Finding]:
    said = []
    totals = {label: sum(splits.values()) for label, splits in tally.classes.items()}
    if not totals:
        return []
    (rare, fewest), (common, most) = (f(totals.items(), key=lambda pair: pair[1]) for f in (min, max))
    if fewest and most > UNEVEN * fewest:
        fact = f"{_apart(common)} has {most / fewest:.0f} times the pictures of {_apart(rare)}: {most:,} and {fewest:,}."
        said.append((fact, f"Add pictures of {_apart(rare)}; a model seldom says what it has seldom seen."))
    few = [f"{_apart(label)} ({splits['train']:,})" for label, splits in tally.classes.items() if splits["train"] < FEW]
    if few:
        rest = f" and {len(few) - NAMED:,} more" if len(few) > NAMED else ""
        fact = f"Fewer than {FEW} pictures to train on: {', '.join(few[:NAMED])}{rest}."
        said.append((fact, "Add pictures; from so few a class is learnt by heart rather than understood."))
    return said


def _of_sizes(tally: Tally, max_side: int) -> list[Finding]:
    said = []
    pictures = max(1, tally.pictures)
    if tally.large >= NOTEWORTHY * pictures:
        remedy = f"Set max_side to {ENOUGH} in advanced: reading gets faster, and the networks see {SEEN} pixels a side anyway."
        said.append((f"{_are(tally.large, pictures)} larger than {LARGE:,} pixels.", remedy))
    if tally.small >= NOTEWORTHY * pictures:
        remedy = "Take larger originals of them where you have any."
        if 0 < max_side < ENOUGH:
            remedy = f"Set max_side to {ENOUGH}, or leave it out."
        elif tally.small > pictures / 2:
            remedy = "Take larger originals, or set image_size to 128, say: training gets faster and loses little."
        fact = f"{_are(tally.small, pictures)} smaller than {SEEN} pixels on a side, and blown up for the network."
        said.append((fact, remedy))
    if tally.long:
        fact = f"{_are(tally.long, pictures)} more than {LONG:.0f} times as long as wide, and squeezed into a square."
        said.append((fact, "Crop them to what they are about, or leave them out."))
    foreign = tally.anew.total() - tally.anew[SHRUNK]
    if foreign >= NOTEWORTHY * pictures:
        remedy = "Save them as upright JPEG in RGB once and for all, and every later run saves the time."
        said.append((f"{_are(foreign, pictures)} not as TensorFlow reads them, and had to be encoded anew.", remedy))
    return said


def _of_copies(tally: Tally) -> list[Finding]:
    if not tally.copies:
        return []
    fact = f"{_are(tally.copies, tally.pictures)} a copy of another, byte for byte."
    said = [(fact, "They are on one side of the split, but what is there twice counts twice: delete one of each, named below.")]
    if tally.conflicting:
        fact = f"{_are(tally.conflicting, tally.pictures)} a copy under another label."
        said.append(
            (fact, "No model can call them right each time: delete the wrong one, or set conflicting_labels to leave_out.")
        )
    return said


def _apart(label: str) -> str:
    """A label within a sentence: one that is written from right to left does not turn round what stands beside it."""
    return f"\N{FIRST STRONG ISOLATE}{label}\N{POP DIRECTIONAL ISOLATE}"


def _left_out(count: int) -> str:
    pictures = "1 picture is" if count == 1 else f"{count:,} pictures are"
    return f"{pictures} left out, since the same one stands in two places that contradict each other."


def _are(count: int, pictures: int) -> str:
    """Such as `12 of 100 pictures (12.0 %) are`."""
    return f"{count:,} of {pictures:,} pictures ({_share(count / pictures)}) {'is' if count == 1 else 'are'}"


def _share(share: float, digits: int = 1) -> str:
    """In percent, on one line with its sign."""
    return wording.percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")


def sizes(tally: Tally) -> charts.Histogram:
    """The pictures by their longer side."""
    ticks = {2.0**octave: f"{2**octave:,}" for octave in range(3, 16)}
    caption = "No pictures."
    if tally.largest:
        same = f"All {tally.largest:,} pixels" if tally.smallest == tally.largest else ""
        extent = same or f"From {tally.smallest:,} to {tally.largest:,} pixels"
        caption = f"{extent}. The dashed line is {SEEN}, what the networks see unless image_size says otherwise."
        if tally.boxes:
            return charts.Histogram("Longer side in pixels", SIDES, tally.sides, ticks, f"{extent}.")
    return charts.Histogram("Longer side in pixels", SIDES, tally.sides, ticks, caption, mark=SEEN)


def shapes(tally: Tally) -> charts.Histogram:
    """The pictures by width over height."""
    ticks = {1 / 4: "1:4", 1 / 2: "1:2", 3 / 4: "3:4", 1.0: "1:1", 4 / 3: "4:3", 2.0: "2:1", 4.0: "4:1"}
    square = len(tally.ratios) // 2
    high, wide, all_ = sum(tally.ratios[:square]), sum(tally.ratios[square + 1 :]), max(1, tally.pictures)
    shares = (_share(part / all_, 0) for part in (high, tally.ratios[square], wide))
    caption = "{} are higher than wide, {} about square, {} wider than high.".format(*shares)
    return charts.Histogram("Width to height", RATIOS, tally.ratios, ticks, caption)
