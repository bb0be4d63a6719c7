"""The charts of the pages: matplotlib's, as SVG to stand within a page, in its colours and fonts, hence also its dark ones."""

import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from kfp_vision import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = list[dict[str, float]]

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


class Chart(NamedTuple):
    title: str
    svg: Markup
    width: int
    key: tuple[tuple[str, str], ...]  # of each curve: its class in the page's style, its name
    caption: str


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


@dataclass(frozen=True)
class Curve:
    title: str
    keys: dict[str, str]  # key in the history: name in the chart
    number: Callable[[float], str]
    share: bool = False  # 0 to 1, drawn in percent and not necessarily from 0 on


CURVES = (
    Curve("Loss", {"loss": "training", "validation_loss": "validation"}, lambda value: f"{value:.3g}"),
    Curve("Accuracy", {"accuracy": "training", "validation_accuracy": "validation"}, wording.percent, share=True),
    Curve("Learning rate", {"learning_rate": "learning rate"}, lambda value: f"{value:.3g}"),
    Curve("Images a second", {"images_per_second": "images a second"}, lambda value: f"{value:,.4g}"),
)
WAIT = Curve("Waiting for pictures", {"input_wait": "share of the time"}, wording.percent, share=True)


def curves(history: History, of: Iterable[Curve]) -> list[Chart]:
    return [_curve(history, curve) for curve in of] if history else []


def _curve(history: History, curve: Curve) -> Chart:
    figure, axes = _canvas(width=360, height=220, left=50, bottom=36)
    drawn, ends, gaps = [], [], 0
    looks = (("first", FIRST, ""), ("second", SECOND, "o"))
    for (key, name), (style, colour, marker) in zip(curve.keys.items(), looks, strict=False):
        points = values(history, key)
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
        caption += f" {wording.plural(gaps, 'value is', 'values are')} not a finite number and left out."
        if "loss" in curve.keys:
            caption += " The training has diverged: try a lower learning rate."
    described = f"Line chart, {curve.title.lower()} by step. {caption}"
    return _chart(figure, curve.title, described, key=drawn if len(curve.keys) > 1 else (), caption=caption)


def _scale(axes: "Axes", curve: Curve) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    if curve.share:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0), min(top, 1.005))  # the margin is for the line's own width at 100 %
    elif axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)
    only_step = axes.dataLim.width == 0
    axes.xaxis.set_major_locator(FixedLocator([axes.dataLim.xmin]) if only_step else MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.count(value)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if curve.share else f"{value:.4g}"))
    axes.set_xlabel("step")


def values(history: History, key: str) -> list[tuple[float, float]]:
    """Step and value of the rows that have the key; NaN stands for all that is not finite."""
    rows = [(row["step"], row[key]) for row in history if row.get(key) is not None and math.isfinite(row["step"])]
    return [(float(step), float(value) if math.isfinite(value) else math.nan) for step, value in rows]


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most about MOST_POINTS of them, evenly taken, the last always among them."""
    stride = math.ceil(len(points) / MOST_POINTS)
    return points[::-stride][::-1] if stride > 1 else points


def histogram(of: Histogram) -> Chart:
    """A chart of the bins from the first to the last that holds anything, and the mark."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    at = [math.log2(edge) for edge in of.edges]
    filled = [number for number, count in enumerate(of.counts) if count]
    ends = [at[filled[0]], at[filled[-1] + 1], *([math.log2(of.mark)] if of.mark else [])]
    left, right = min(ends) - LEAST_ROOM, max(ends) + LEAST_ROOM
    figure, axes = _canvas(width=360, height=200, left=50, bottom=24)
    widths = [after - before for before, after in pairwise(at)]
    axes.bar(at[:-1], of.counts, width=[0.9 * width for width in widths], align="edge", color=FIRST)
    if of.mark:
        axes.axvline(math.log2(of.mark), color=SECOND, linewidth=1.4, dashes=(4, 3))
    axes.set(xlim=(left, right))
    axes.grid(False, axis="x")
    ticks = {math.log2(value): text for value, text in of.ticks.items() if left <= math.log2(value) <= right}
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: ticks[value]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.count(value)))
    described = f"Histogram, {of.title.lower()}. {of.caption}"
    return _chart(figure, of.title, described, caption=of.caption)


def roc_curve(roc: dict) -> Chart | None:
    points = list(zip(roc["false_positive_rate"], roc["true_positive_rate"], strict=True))
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return None
    figure, axes = _canvas(width=360, height=330, left=50, bottom=40)
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, dashes=(4, 4))
    axes.plot(*zip(*_thinned(points), strict=True), color=FIRST, linewidth=1.6, marker="o" * (len(points) == 1), clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate")
    said = f"ROC curve, area under it {wording.decimal(roc['area'])}; the dashed diagonal is chance, 0.5."
    return _chart(figure, "ROC curve", said)


def reliability(calibration: dict) -> Chart | None:
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
    error = wording.percent(calibration["expected_calibration_error"])
    said = f"Reliability, how often the model is right by how sure it is; the two lie {error} apart in the mean."
    return _chart(figure, "Reliability", said)


AXIS_WIDTH = 150  # pixels between two of the axes of parallel coordinates
LEAST_DISTANCE = 0.06  # of an axis' length, between two of its labels


def parallel_coordinates(trials: Sequence[Mapping[str, Any]], fields: Sequence[str], best: int) -> Chart:
    """A line a trial, across an axis for each field of several values, to its accuracy; one that failed ends before that.

    Args:
        trials: each with number, the fields, and accuracy, None where it failed.
        fields: names; numbers stand on a logarithmic axis, names one above the other.
        best: the number of the one to be seen first.
    """
    axes_of = [name for name in fields if len({trial[name] for trial in trials}) > 1]
    places = {name: _places([trial[name] for trial in trials]) for name in axes_of}
    reached = [trial["accuracy"] for trial in trials if trial["accuracy"] is not None]
    low, high = min(reached), max(reached)
    heights = {value: (value - low) / (high - low) if high > low else 0.5 for value in reached}
    width = AXIS_WIDTH * len(axes_of) + 190
    figure, axes = _canvas(width=width, height=310, left=120, bottom=40, right=80, top=14)
    for trial in sorted(trials, key=lambda one: one["number"] == best):
        line = [places[name][trial[name]] for name in axes_of]
        failed = trial["accuracy"] is None
        line += [] if failed else [heights[trial["accuracy"]]]
        look: dict[str, Any] = {"color": SECOND, "linewidth": 2.4} if trial["number"] == best else {"color": FIRST}
        look = {"color": MUTED, "dashes": (3, 3)} if failed else look
        look = {"linewidth": 1.1, "marker": "o", "markersize": 3, "clip_on": False, **look}
        axes.plot(range(len(line)), line, **look)
    axes.set(xlim=(0, len(axes_of)), ylim=(0, 1), yticks=[])
    axes.set_xticks(range(len(axes_of) + 1), [*(name.replace("_", " ") for name in axes_of), "accuracy"], color=INK)
    axes.tick_params(axis="x", pad=12)
    for number, name in enumerate(axes_of):
        _label(axes, number, {_said(value): at for value, at in places[name].items()})
    _label(axes, len(axes_of), {wording.percent(value): at for value, at in heights.items()}, to_the_right=True)
    failures = len(trials) - len(reached)
    lines = f"{wording.plural(len(trials), 'trial', 'trials')}, a line each; the thick one is number {best}, the best."
    caption = lines + (f" {wording.plural(failures, 'broken line', 'broken lines')}: failed." if failures else "")
    return _chart(figure, "All trials", f"Parallel coordinates. {caption}", caption=caption)


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """Value to its place on an axis from 0 to 1: of numbers by their logarithm, of names one above the other."""
    ordered = sorted(set(values))
    at = [math.log(value) if _is_number(value) else number for number, value in enumerate(ordered)]
    return {value: (place - at[0]) / (at[-1] - at[0]) for value, place in zip(ordered, at, strict=True)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _label(axes: "Axes", number: int, labels: Mapping[str, float], *, to_the_right: bool = False) -> None:
    """Writes what stands where beside an axis, from its ends inward, and leaves out what would lie on another."""
    axes.axvline(number, color=RULE, linewidth=1)
    written: list[float] = []
    style: dict[str, Any] = {"color": MUTED, "fontsize": TEXT_SIZE, "textcoords": "offset points", "va": "center_baseline"}
    style |= {"xytext": (8, 0), "ha": "left"} if to_the_right else {"xytext": (-8, 0), "ha": "right"}
    for text, place in sorted(labels.items(), key=lambda one: -abs(one[1] - 0.5)):
        if all(abs(place - other) >= LEAST_DISTANCE for other in written):
            written.append(place)
            axes.annotate(text, (number, place), bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}, zorder=3, **style)


SMALLEST_POINT, LARGEST_POINT = 10, 140  # square points
MOST_COUNTED = 30  # classes, beyond which a cell of the confusion matrix has no room for its count
MOST_NAMED = 60  # classes, beyond which a row has no room for its label
LABEL_COLUMNS = 18  # of a label, where a Chinese character takes two
DEEP = 0.65  # share from which on a cell is so dark that its count is white
FAINTEST = 0.14  # the least share a cell is shaded for, or a single mistake among many images would not be seen
RIGHT_SHADE, WRONG_SHADE = (0.12, 0.31, 0.55), (0.66, 0.25, 0.08)  # red, green, blue; the page brightens them on dark


def confusion_matrix(labels: list[str], matrix: list[list[int]]) -> Chart:
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

    shares = [[wording.ratio(count, sum(row)) for count in row] for row in matrix]
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
    described = f"Confusion matrix of {wording.plural(classes, 'class', 'classes')}. {caption}"
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
        (count, f"{labels[i]} called {labels[j]} ({wording.count(count)})")
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
) -> Chart:
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
    return Chart(title, Markup(ElementTree.tostring(svg, encoding="unicode")), width, tuple(key), caption)


def _restyled(style: str) -> str:
    """The style of an SVG element with the page's colours, and without a font: the browser has the right one."""
    style = re.sub(r"font-family: [^;]*; ?", "", style)
    return re.sub("|".join(STYLE), lambda colour: STYLE[colour.group()], style)
