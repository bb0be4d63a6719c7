"""The HTML pages that the stages show: one self-contained file each, for the Kubeflow UI and for reading from disk.

A page runs no script and asks nothing of the network. Whatever comes from a data set (classes, file names, URIs) is escaped.
Charts are matplotlib's, as SVG within the page, and take colours and fonts from the page's style, hence also its dark one.
"""

import base64
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import jinja2
from markupsafe import Markup

from kfp_vision import measures
from kfp_vision.storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = list[dict[str, float]]
WAIT_WORTH_SAYING = 0.1  # of the time a training waits for its pictures; below, what can be gained is within the rate's noise
MOST_NAMED_PICTURES, MOST_REASONS = 1000, 50  # on a page


@dataclass(frozen=True)
class Picture:
    """A picture to be shown: its file name, and its JPEG or PNG bytes as they are in the data set."""

    name: str
    encoded: bytes


@dataclass(frozen=True)
class Mistake:
    """A picture called by a wrong name. `score`, 0 to 1, is the probability that the model gave to the wrong prediction."""

    picture: Picture
    label: str
    prediction: str
    score: float


class Thumbnail(NamedTuple):
    """A small picture to stand in a page: its file name, its bytes as a data URI, and its size in pixels."""

    name: str
    uri: str | None  # None where the picture cannot be read
    width: int
    height: int


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, on a logarithmic axis.

    Attributes:
        title: what is counted.
        edges: of the bins, ascending and above 0; one more than counts.
        counts: of each bin.
        ticks: where the axis is labelled, with the label.
        caption: a sentence to stand below.
        mark: where a dashed line stands; 0 for none.
    """

    title: str
    edges: Sequence[float]
    counts: Sequence[int]
    ticks: dict[float, str]
    caption: str
    mark: float = 0


def write_summary_page(
    path: Path,
    *,
    source: str,
    classes: dict[str, int],
    total_bytes: int,
    passed_over: dict[str, int],
    notes: list[str],
    samples: dict[str, list[Picture]],
    splits: dict[str, int] | None = None,
    images: int | None = None,
) -> None:
    """Writes the page of the ingest stage: what the data set holds, what was passed over, and what it looks like.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        source: where the pictures came from, a folder or a URI.
        classes: number of images of each class, in the order of the page.
        total_bytes: size of all images together.
        passed_over: number of files left out, by reason.
        notes: what a person should know of this data set, one plain sentence each.
        samples: a few pictures of each class.
        splits: number of images in each split that the data brings; none where it is yet to be cut.
        images: how many there are, where an image can be of several classes or none.
    """
    images = sum(classes.values()) if images is None else images
    largest = max(classes.values(), default=0)
    rows = [
        {"label": label, "images": count, "share": _ratio(count, images), "width": f"{100 * _ratio(count, largest):.1f}%"}
        for label, count in classes.items()
    ]
    page = rendered(
        "summary",
        source=source,
        images=images,
        rows=rows,
        total_bytes=total_bytes,
        passed_over=passed_over,
        notes=notes,
        samples={label: [_as_converted(picture) for picture in pictures] for label, pictures in samples.items()},
        splits=splits or {},
    )
    _publish(path, page)


def write_records_page(
    path: Path,
    *,
    classes: dict[str, dict[str, int]],
    total_bytes: int,
    findings: list[tuple[str, str]],
    sizes: Histogram,
    shapes: Histogram,
    samples: dict[str, list[Thumbnail]],
    anew: dict[str, int],
    copies: int,
    copied: list[tuple[str, str]],
    left_out: Sequence[tuple[str, str, str]],
    refused: Sequence[tuple[str, str, str]],
    splits: dict[str, int] | None = None,
) -> None:
    """Writes the page of the conversion: what is in the records, what is not and why, and what to do about it.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        classes: label to split to number of pictures, all labels with the same splits in the same order.
        total_bytes: size of all records together.
        findings: what is worth knowing, each with what to do about it.
        sizes, shapes: pictures by size and by width over height.
        samples: a few pictures of each class, as they are in the records.
        anew: number of pictures that do not have their original bytes, by reason.
        copies: number of pictures that are a copy of another.
        copied: names of a picture and of its copy, of the first few.
        left_out: URI, label and reason of the pictures that the split left out; the page names the first thousand.
        refused: the same of those that could not be used.
        splits: split to number of pictures, where a picture can be of several classes or none.
    """
    totals = {label: sum(splits.values()) for label, splits in classes.items()}
    largest = max(totals.values(), default=0)
    if splits is None:
        splits = {split: sum(of_class[split] for of_class in classes.values()) for split in next(iter(classes.values()), {})}
    page = rendered(
        "records",
        pictures=sum(splits.values()),
        splits=splits,
        rows=[
            {"label": label, "splits": classes[label], "pictures": count, "width": f"{100 * _ratio(count, largest):.1f}%"}
            for label, count in totals.items()
        ],
        total_bytes=total_bytes,
        findings=findings,
        charts=[_histogram(sizes), _histogram(shapes)] if largest else [],
        samples=samples,
        anew=anew,
        copies=copies,
        copied=copied,
        unused=[_unused("Refused", refused), _unused("Left out by the split", left_out)],
        refused=len(refused),
        left_out=len(left_out),
    )
    _publish(path, page)


def _unused(heading: str, pictures: Sequence[tuple[str, str, str]]) -> dict[str, object]:
    reasons = Counter(reason for _, _, reason in pictures)
    return {
        "heading": heading,
        "pictures": len(pictures),
        "reasons": dict(reasons.most_common(MOST_REASONS)),
        "named": pictures[:MOST_NAMED_PICTURES],
    }


def write_training_page(path: Path, *, network: str, settings: dict[str, object], history: History) -> None:
    """Writes the page of the training stage: the learning curves and the settings they came from.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        network: name of the network.
        settings: what the training was started with, by name.
        history: rows in the order of training with `step`, `loss`, `accuracy`, `learning_rate` and `images_per_second`; some
            rows also with `validation_loss` and `validation_accuracy`, or with `input_wait`, the share of the time in which the
            network waited for pictures. A value that is not finite leaves a gap in its curve.
    """
    waits = [(value, step) for step, value in _values(history, "input_wait") if value > WAIT_WORTH_SAYING]
    accuracies = [(value, step) for step, value in _values(history, "validation_accuracy") if math.isfinite(value)]
    page = rendered(
        "training",
        network=network,
        settings=settings,
        charts=_curves(history, (*CURVES, WAIT) if waits else CURVES),
        waited=len(waits),
        longest_wait=max(waits, default=None, key=lambda pair: pair[0]),
        rows=len(history),
        last_step=history[-1]["step"] if history else None,
        best=max(accuracies, default=None, key=lambda pair: pair[0]),
        last=accuracies[-1] if accuracies else None,
    )
    _publish(path, page)


def write_evaluation_page(
    path: Path,
    *,
    title: str,
    evaluation: dict,
    history: History,
    mistakes: list[Mistake],
    pairs: list[tuple[dict, list[Mistake]]],
) -> None:
    """Writes the page of the evaluation: how well the model does, where it errs, and whether it is accepted.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        title: heading of the page.
        evaluation: the record of the evaluation: `measures.measured`, with `model_name`, `network`, `split`, `verdict`, and
            `deployed` and `test_picture`, which may be None. All shares are 0 to 1.
        history: rows of the training, see `write_training_page`; without any the page has no learning curve.
        mistakes: pictures called by a wrong name; the page shows the most confident first.
        pairs: the most confused pairs of classes, rows of `confused_pairs`, each with a few of its pictures.
    """
    labels, matrix = evaluation["labels"], evaluation["confusion_matrix"]
    rank = {label: index for index, label in enumerate(labels)}
    gallery = [(mistake, thumbnail(mistake.picture)) for mistake in sorted(mistakes, key=_confidence, reverse=True)]
    page = rendered(
        "evaluation",
        title=title,
        evaluation=evaluation,
        charts=_curves(history, CURVES[:2]),
        confusion=_confusion_matrix(labels, matrix) if labels else None,
        named=len(labels) <= MOST_NAMED,
        per_class=sorted(evaluation["per_class"], key=lambda row: rank.get(row["label"], len(rank))),
        roc=_roc(evaluation["roc"]),
        reliability=_reliability(evaluation["calibration"]),
        surer=_surer(evaluation["calibration"]),
        top=measures.TOP,
        pairs=[(pair, [thumbnail(mistake.picture) for mistake in shown]) for pair, shown in pairs],
        gallery=gallery,
        wrong=sum(map(sum, matrix)) - sum(row[index] for index, row in enumerate(matrix)),
    )
    _publish(path, page)


# The page

TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, /, **content: object) -> str:
    """A page from its template, with everything that goes in escaped."""
    return _environment().get_template(f"{template}.html.j2").render(content)


def _publish(path: Path, page: str) -> None:
    """Moves the finished page into place, so that no reader ever meets half a page."""
    with replacing(path) as beside:
        # A file name that is not UTF-8 comes from Linux with lone surrogates, which no page can hold.
        beside.write_bytes(page.encode("utf-8", errors="replace"))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": _count,
        "decimal": _decimal,
        "megabytes": _megabytes,
        "percent": percent,
        "plural": _plural,
        "setting": _setting,
    }
    return environment


def _count(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else NOT_A_NUMBER


def _decimal(number: float) -> str:
    return f"{number:.3f}" if math.isfinite(number) else NOT_A_NUMBER


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else "less than 0.1 MB"


def percent(share: float, digits: int = 1) -> str:
    """Such as `91.4 %`."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else NOT_A_NUMBER


def _plural(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


NOT_A_NUMBER = "not a number"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _confidence(mistake: Mistake) -> float:
    return mistake.score if math.isfinite(mistake.score) else -math.inf


# Thumbnails

THUMBNAIL_SIDE = 200  # pixels
THUMBNAIL_QUALITIES = (80, 60, 40)  # JPEG; the first that fits
THUMBNAIL_BYTES = 16_000  # four dozen of them, in base64, leave a page below 1.2 MB


def thumbnail(picture: Picture) -> Thumbnail:
    """The picture as a JPEG no larger than 200 pixels a side, on white where it is transparent."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture.encoded), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))  # JPEG decodes at an eighth, a quarter or half its size
            small = image.convert("RGBA" if image.has_transparency_data else "RGB")
            small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            if small.mode == "RGBA":
                small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
            encoded = _jpeg(small)
    except Exception:  # whatever Pillow says of a stranger's bytes, the page is to be written
        return Thumbnail(picture.name, None, 0, 0)
    uri = f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
    return Thumbnail(picture.name, uri, *small.size)


def _as_converted(picture: Picture) -> Thumbnail:
    """A picture as the conversion will have it: upright, whatever its format was; or refused before it takes any memory."""
    from kfp_vision import pictures

    try:
        return thumbnail(Picture(picture.name, pictures.checked(picture.encoded).encoded))
    except pictures.Refused:
        return Thumbnail(picture.name, None, 0, 0)


def _jpeg(image) -> bytes:
    for quality in THUMBNAIL_QUALITIES:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= THUMBNAIL_BYTES:
            break
    return out.getvalue()


# Charts

# What a chart is drawn in, and what of the page's style stands in its place: so a chart reads on light and on dark.
INK, MUTED, RULE, WASH, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
FIRST, SECOND, ON_DEEP = "#060606", "#070707", "#080808"
STYLE = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    WASH: "var(--wash)",
    PAPER: "var(--paper)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    ON_DEEP: "#ffffff",
}
TEXT_SIZE = 11  # pixels, as are all sizes of charts
MOST_POINTS = 500  # of one curve; more are not to be told apart
LEAST_ROOM = 0.3  # octaves beside a histogram


class _Chart(NamedTuple):
    title: str
    svg: Markup
    width: int
    key: tuple[tuple[str, str], ...]  # of each curve: its class in the page's style, its name
    caption: str


@dataclass(frozen=True)
class _Curve:
    title: str
    keys: dict[str, str]  # key in the history: name in the chart
    number: Callable[[float], str]
    share: bool = False  # 0 to 1, drawn in percent and not necessarily from 0 on


CURVES = (
    _Curve("Loss", {"loss": "training", "validation_loss": "validation"}, lambda value: f"{value:.3g}"),
    _Curve("Accuracy", {"accuracy": "training", "validation_accuracy": "validation"}, percent, share=True),
    _Curve("Learning rate", {"learning_rate": "learning rate"}, lambda value: f"{value:.3g}"),
    _Curve("Images a second", {"images_per_second": "images a second"}, lambda value: f"{value:,.4g}"),
)
WAIT = _Curve("Waiting for pictures", {"input_wait": "share of the time"}, percent, share=True)


def _curves(history: History, curves: Iterable[_Curve]) -> list[_Chart]:
    return [_curve(history, curve) for curve in curves] if history else []


def _curve(history: History, curve: _Curve) -> _Chart:
    figure, axes = _canvas(width=360, height=220, left=50, bottom=36)
    drawn, ends, gaps = [], [], 0
    looks = (("first", FIRST, ""), ("second", SECOND, "o"))
    for (key, name), (style, colour, marker) in zip(curve.keys.items(), looks, strict=False):
        points = _values(history, key)
        finite = [value for _, value in points if math.isfinite(value)]
        gaps += len(points) - len(finite)
        if finite:
            marker = marker if len(finite) > 1 else "o"  # one point makes no line
            axes.plot(*zip(*_thinned(points), strict=True), color=colour, linewidth=1.6, marker=marker, markersize=3.5)
            drawn.append((style, name))
            ends.append(curve.number(finite[-1]) if len(curve.keys) == 1 else f"{name} {curve.number(finite[-1])}")
    _scale(axes, curve)
    caption = f"At the end: {', '.join(ends)}." if ends else "No value to be drawn."
    if gaps:
        caption += f" {_plural(gaps, 'value is', 'values are')} not a finite number and left out."
        if "loss" in curve.keys:
            caption += " The training has diverged: try a lower learning rate."
    described = f"Line chart, {curve.title.lower()} by step. {caption}"
    return _chart(figure, curve.title, described, key=drawn if len(curve.keys) > 1 else (), caption=caption)


def _scale(axes: "Axes", curve: _Curve) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    if curve.share:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0), min(top, 1.005))  # the margin is for the line's own width at 100 %
    elif axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)
    only_step = axes.dataLim.width == 0
    axes.xaxis.set_major_locator(FixedLocator([axes.dataLim.xmin]) if only_step else MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if curve.share else f"{value:.4g}"))
    axes.set_xlabel("step")


def _values(history: History, key: str) -> list[tuple[float, float]]:
    """Step and value of the rows that have the key; NaN stands for all that is not finite."""
    rows = [(row["step"], row[key]) for row in history if row.get(key) is not None and math.isfinite(row["step"])]
    return [(float(step), float(value) if math.isfinite(value) else math.nan) for step, value in rows]


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most about MOST_POINTS of them, evenly taken, the last always among them."""
    stride = math.ceil(len(points) / MOST_POINTS)
    return points[::-stride][::-1] if stride > 1 else points


def _histogram(histogram: Histogram) -> _Chart:
    """A chart of the bins from the first to the last that holds anything, and the mark."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    at = [math.log2(edge) for edge in histogram.edges]
    filled = [number for number, count in enumerate(histogram.counts) if count]
    ends = [at[filled[0]], at[filled[-1] + 1], *([math.log2(histogram.mark)] if histogram.mark else [])]
    left, right = min(ends) - LEAST_ROOM, max(ends) + LEAST_ROOM
    figure, axes = _canvas(width=360, height=200, left=50, bottom=24)
    widths = [after - before for before, after in pairwise(at)]
    axes.bar(at[:-1], histogram.counts, width=[0.9 * width for width in widths], align="edge", color=FIRST)
    if histogram.mark:
        axes.axvline(math.log2(histogram.mark), color=SECOND, linewidth=1.4, dashes=(4, 3))
    axes.set(xlim=(left, right))
    axes.grid(False, axis="x")
    ticks = {math.log2(value): text for value, text in histogram.ticks.items() if left <= math.log2(value) <= right}
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: ticks[value]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    described = f"Histogram, {histogram.title.lower()}. {histogram.caption}"
    return _chart(figure, histogram.title, described, caption=histogram.caption)


def _roc(roc: dict) -> _Chart | None:
    points = list(zip(roc["false_positive_rate"], roc["true_positive_rate"], strict=True))
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return None
    figure, axes = _canvas(width=360, height=330, left=50, bottom=40)
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, dashes=(4, 4))
    axes.plot(*zip(*_thinned(points), strict=True), color=FIRST, linewidth=1.6, marker="o" * (len(points) == 1), clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate")
    return _chart(figure, "ROC curve", f"ROC curve, area under it {_decimal(roc['area'])}; the dashed diagonal is chance, 0.5.")


def _reliability(calibration: dict) -> _Chart | None:
    """How often the model is right against how sure it is; the area of a point grows with the pictures it stands for."""
    from matplotlib.ticker import FuncFormatter

    bins = [one for one in calibration["bins"] if math.isfinite(one["score"])]
    if not bins:
        return None
    figure, axes = _canvas(width=360, height=330, left=58, bottom=40)
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, dashes=(4, 4))
    scores, accuracies = ([one[name] for one in bins] for name in ("score", "accuracy"))
    largest = max(one["images"] for one in bins)
    axes.plot(scores, accuracies, color=FIRST, linewidth=1)
    sizes = [max(SMALLEST_POINT, LARGEST_POINT * one["images"] / largest) for one in bins]
    axes.scatter(scores, accuracies, sizes, color=FIRST, clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure the model is", ylabel="how often it is right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    error = percent(calibration["expected_calibration_error"])
    said = f"Reliability, how often the model is right by how sure it is; the two lie {error} apart in the mean."
    return _chart(figure, "Reliability", said)


def _surer(calibration: dict) -> bool | None:
    """Whether the model is surer than it is right, over all pictures; None where there are none."""
    bins = calibration["bins"]
    gap = sum(one["images"] * (one["score"] - one["accuracy"]) for one in bins)
    return gap > 0 if bins else None


SMALLEST_POINT, LARGEST_POINT = 10, 140  # square points
MOST_COUNTED = 30  # classes, beyond which a cell of the confusion matrix has no room for its count
MOST_NAMED = 60  # classes, beyond which a row has no room for its label
LABEL_COLUMNS = 18  # of a label, where a Chinese character takes two
DEEP = 0.65  # share from which on a cell is so dark that its count is white
FAINTEST = 0.14  # the least share a cell is shaded for, or a single mistake among many images would not be seen
RIGHT_SHADE, WRONG_SHADE = (0.12, 0.31, 0.55), (0.66, 0.25, 0.08)  # red, green, blue; the page brightens them on dark


def _confusion_matrix(labels: list[str], matrix: list[list[int]]) -> _Chart:
    classes = len(labels)
    named, counted = classes <= MOST_NAMED, classes <= MOST_COUNTED
    shown = [_shortened(label) for label in labels] if named else []
    cell = min(72, max(22, 560 / classes)) if counted else 620 / classes
    text_size = TEXT_SIZE + 1 if cell >= 16 else 0.72 * cell
    longest = max(map(_columns, shown), default=0) * 0.56 * text_size
    leaning = longest > cell - 4  # labels below the columns lean where they would touch each other
    left, bottom = 34 + longest, 32 + (0.75 * longest + 4 if leaning else 10)
    side = cell * classes
    figure, axes = _canvas(width=left + side + 14, height=bottom + side + 8, left=left, bottom=bottom, right=14)

    shares = [[_ratio(count, sum(row)) for count in row] for row in matrix]
    _shade(axes, shares)
    axes.set(xlabel="prediction", ylabel="true label")
    tokens = [f"@{index}" for index in range(len(shown))]
    lean: dict[str, Any] = {"rotation": 45, "ha": "right", "va": "center", "rotation_mode": "anchor"} if leaning else {}
    axes.set_xticks(range(len(shown)), tokens, fontsize=text_size, color=INK, **lean)
    axes.set_yticks(range(len(shown)), tokens, fontsize=text_size, color=INK)
    # Where matplotlib puts an axis' title depends on its own idea of the labels' width.
    axes.xaxis.set_label_coords(0.5, (10 - bottom) / side)
    axes.yaxis.set_label_coords((16 - left) / side, 0.5)
    if counted:
        _count_cells(axes, matrix, shares, cell)
    caption = _confusions(labels, matrix)
    described = f"Confusion matrix of {_plural(classes, 'class', 'classes')}. {caption}"
    words = {token: (short, label) for token, short, label in zip(tokens, shown, labels, strict=False)}
    return _chart(figure, "Confusion matrix", described, words=words, caption=caption)


def _shade(axes: "Axes", shares: list[list[float]]) -> None:
    axes.imshow(
        [
            [(*(RIGHT_SHADE if i == j else WRONG_SHADE), max(share, FAINTEST) if share else 0) for j, share in enumerate(row)]
            for i, row in enumerate(shares)
        ],
        interpolation="none",
        aspect="auto",
    )
    axes.grid(False)
    axes.set_facecolor(WASH)


def _count_cells(axes: "Axes", matrix: list[list[int]], shares: list[list[float]], cell: float) -> None:
    """Writes each count into its cell, `cell` pixels wide, and parts the cells; a 0 is left out."""
    for edge in range(1, len(matrix)):
        axes.axhline(edge - 0.5, color=PAPER, linewidth=1.5)
        axes.axvline(edge - 0.5, color=PAPER, linewidth=1.5)
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if count:
                size = min(1.2 * TEXT_SIZE, (cell - 3) / (0.6 * len(str(count))))
                colour = ON_DEEP if shares[i][j] >= DEEP else INK
                axes.text(j, i, str(count), color=colour, fontsize=size, ha="center", va="center_baseline")


def _confusions(labels: list[str], matrix: list[list[int]], most: int = 3) -> str:
    cells = [
        (count, f"{labels[i]} called {labels[j]} ({_count(count)})")
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    largest = sorted(cells, key=lambda cell: -cell[0])[:most]
    return f"Most often confused: {', '.join(said for _, said in largest)}." if largest else "No class is taken for another."


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _shortened(label: str) -> str:
    if _columns(label) <= LABEL_COLUMNS:
        return label
    while _columns(label) >= LABEL_COLUMNS:
        label = label[:-1]
    return f"{label}…"


def _canvas(
    *, width: float, height: float, left: float, bottom: float, right: float = 12, top: float = 8
) -> tuple["Figure", "Axes"]:
    """A figure with one pair of axes whose margins are given, so that curves one above the other stand in line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # at 72 a point of matplotlib's is a pixel of the page's
    figure.patch.set_visible(False)
    axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height))
    axes.patch.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelsize=TEXT_SIZE, labelcolor=MUTED)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=MUTED, fontsize=TEXT_SIZE)
    return figure, axes


def _chart(
    figure: "Figure",
    title: str,
    description: str,
    *,
    key: Sequence[tuple[str, str]] = (),
    caption: str = "",
    words: dict[str, tuple[str, str]] | None = None,
) -> _Chart:
    """Draws the figure as SVG to stand within a page.

    Args:
        figure: what is to be drawn.
        title: heading of the chart; matplotlib salts its ids with it, so that they are unique within a page.
        description: what a screen reader says in the chart's stead.
        key: of each curve its class in the page's style, and its name.
        caption: a sentence to stand below.
        words: texts that matplotlib is not to see, by the text that holds their place: short, and in full. It has neither the
            glyphs for all of the world's labels nor the right to read mathematics into a dollar sign.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    drawn = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.usetex": False}):
        FigureCanvasSVG(figure).print_svg(drawn, metadata=nothing)
    svg = ElementTree.fromstring(drawn.getvalue())
    for element in list(svg.iter()):
        # Within HTML neither SVG nor its links need a namespace.
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.tail = None
        if element.tag in ("g", "image"):
            element.attrib.pop("id", None)  # no other chart's figure_1 but the page's own ids are to be unique
        if "style" in element.attrib:
            element.set("style", _restyled(element.attrib["style"]))
        if element.tag == "text" and words and element.text in words:
            element.text, full = words[element.text]
            if element.text != full:
                ElementTree.SubElement(element, "title").text = full
        for rule in element.findall("{*}style"):  # it would hold for the whole page
            element.remove(rule)
    svg.attrib = {"viewBox": svg.attrib["viewBox"], "role": "img", "aria-label": description}
    width = round(figure.get_figwidth() * figure.dpi)
    return _Chart(title, Markup(ElementTree.tostring(svg, encoding="unicode")), width, tuple(key), caption)


def _restyled(style: str) -> str:
    """The style of an SVG element with the page's colours, and without a font: the browser has the right one."""
    style = re.sub(r"font-family: [^;]*; ?", "", style)
    return re.sub("|".join(STYLE), lambda colour: STYLE[colour.group()], style)
