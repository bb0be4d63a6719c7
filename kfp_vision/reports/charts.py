"""Draws the charts of the pages: inline SVG by matplotlib, in the colours and fonts of the page, so that dark mode works."""

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

from kfp_vision.reports import formatting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = list[dict[str, float]]

# Placeholder colours for drawing, replaced in the SVG by variables of the page's style, which differ in dark mode.
INK, MUTED, RULE, WASH, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
FIRST, SECOND, ON_DARK = "#060606", "#070707", "#080808"
STYLE = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    WASH: "var(--wash)",
    PAPER: "var(--paper)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    ON_DARK: "#ffffff",
}
TEXT_SIZE = 11  # pixels, like all sizes of charts
MAX_POINTS = 500  # per curve; more cannot be distinguished
HISTOGRAM_MARGIN = 0.3  # octaves left and right of a histogram


class Chart(NamedTuple):
    """A chart to embed in a page.

    Attributes:
        title: heading.
        svg: the drawing.
        width: in pixels.
        key: style class and name of each curve; empty without a legend.
        caption: a sentence below the chart; may be empty.
    """

    title: str
    svg: Markup
    width: int
    key: tuple[tuple[str, str], ...]
    caption: str


@dataclass(frozen=True)
class Histogram:
    """The data of a histogram with a logarithmic axis.

    Attributes:
        title: heading of the chart.
        edges: bin edges, ascending and positive; one more than counts.
        counts: count of each bin.
        ticks: labels of the axis by their value.
        caption: a sentence below the chart.
        mark: value of a dashed line; 0 for none.
    """

    title: str
    edges: Sequence[float]
    counts: Sequence[int]
    ticks: dict[float, str]
    caption: str
    mark: float = 0


@dataclass(frozen=True)
class Curve:
    """The definition of a learning curve.

    Attributes:
        title: heading of the chart.
        keys: names in the chart by key in the history; at most two.
        number: formats a value for the caption.
        share: whether the values are 0 to 1, drawn in percent on an axis that need not start at 0.
    """

    title: str
    keys: dict[str, str]
    number: Callable[[float], str]
    share: bool = False


LEARNING_CURVES = (
    Curve("Loss", {"loss": "training", "validation_loss": "validation"}, lambda value: f"{value:.3g}"),
    Curve("Accuracy", {"accuracy": "training", "validation_accuracy": "validation"}, formatting.percent, share=True),
    Curve("Learning rate", {"learning_rate": "learning rate"}, lambda value: f"{value:.3g}"),
    Curve("Images per second", {"images_per_second": "images per second"}, formatting.short),
)
SEVERAL_LABELS_CURVES = (
    LEARNING_CURVES[0],
    Curve("Mean average precision", {"validation_mean_average_precision": "validation"}, formatting.percent, share=True),
    Curve("Micro F1", {"micro_f1": "training"}, formatting.percent, share=True),
    *LEARNING_CURVES[2:],
)
INPUT_WAIT = Curve("Waiting for input", {"input_wait": "share of the time"}, formatting.percent, share=True)


def choose_curves(history: History) -> tuple[Curve, ...]:
    """Returns the learning curves of a training, those of its loss and figures first.

    Args:
        history: its rows.
    """
    return SEVERAL_LABELS_CURVES if any("micro_f1" in row for row in history) else LEARNING_CURVES


def learning_curves(history: History, wanted: Iterable[Curve]) -> list[Chart]:
    """Draws learning curves.

    Args:
        history: rows by ascending `step`.
        wanted: the curves to draw.

    Returns:
        A chart per curve; none if the history is empty.
    """
    return [_curve(history, curve) for curve in wanted] if history else []


def _curve(history: History, curve: Curve) -> Chart:
    figure, axes = _canvas(width=360, height=220, left=50, bottom=36)
    key: list[tuple[str, str]] = []
    ends, gaps = [], 0
    looks = (("first", FIRST, ""), ("second", SECOND, "o"))
    for (field, name), (style, colour, marker) in zip(curve.keys.items(), looks, strict=False):
        points = history_values(history, field)
        finite = [value for _, value in points if math.isfinite(value)]
        gaps += len(points) - len(finite)
        if finite:
            marker = marker if len(finite) > 1 else "o"  # a line needs two points
            axes.plot(*zip(*_thinned(points), strict=True), color=colour, linewidth=1.6, marker=marker, markersize=3.5)
            key.append((style, name))
            ends.append(curve.number(finite[-1]) if len(curve.keys) == 1 else f"{name} {curve.number(finite[-1])}")
    _scale(axes, curve)
    caption = f"At the end: {', '.join(ends)}." if ends else "No values to draw."
    if gaps:
        caption += f" {formatting.plural(gaps, 'value is', 'values are')} not finite and omitted."
        if "loss" in curve.keys:
            caption += " The training diverged: lower the learning rate."
    description = f"Line chart, {curve.title.lower()} by step. {caption}"
    return _chart(figure, curve.title, description, key=key if len(curve.keys) > 1 else (), caption=caption)


def _scale(axes: "Axes", curve: Curve) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    if curve.share:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0), min(top, 1.005))  # a line at 100 % needs its width
    elif axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)
    only_step = axes.dataLim.width == 0
    axes.xaxis.set_major_locator(FixedLocator([axes.dataLim.xmin]) if only_step else MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.count(value)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if curve.share else formatting.short(value))
    )
    axes.set_xlabel("step")


def history_values(history: History, key: str) -> list[tuple[float, float]]:
    """Extracts a curve from the history.

    Args:
        history: rows by ascending `step`.
        key: name of the value.

    Returns:
        Pairs of step and value, from the rows that have both; values that are not finite, which JSON has as null, become NaN.
    """
    rows = [(row["step"], row[key]) for row in history if key in row and _is_finite(row["step"])]
    return [(float(step), float(value) if _is_finite(value) else math.nan) for step, value in rows]


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Returns about MOST_POINTS of the points at even distances, always with the last one."""
    stride = math.ceil(len(points) / MAX_POINTS)
    return points[::-stride][::-1] if stride > 1 else points


def histogram(data: Histogram) -> Chart:
    """Draws a histogram, from its first to its last bin that is not empty, with the mark.

    Args:
        data: the data; at least one count must not be 0.

    Returns:
        The chart.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    octaves = [math.log2(edge) for edge in data.edges]
    filled = [number for number, count in enumerate(data.counts) if count]
    ends = [octaves[filled[0]], octaves[filled[-1] + 1], *([math.log2(data.mark)] if data.mark else [])]
    left, right = min(ends) - HISTOGRAM_MARGIN, max(ends) + HISTOGRAM_MARGIN
    figure, axes = _canvas(width=360, height=200, left=50, bottom=24)
    widths = [after - before for before, after in pairwise(octaves)]
    axes.bar(octaves[:-1], data.counts, width=[0.9 * width for width in widths], align="edge", color=FIRST)
    if data.mark:
        axes.axvline(math.log2(data.mark), color=SECOND, linewidth=1.4, dashes=(4, 3))
    axes.set(xlim=(left, right))
    axes.grid(False, axis="x")
    ticks = {math.log2(value): text for value, text in data.ticks.items() if left <= math.log2(value) <= right}
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: ticks[value]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.count(value)))
    description = f"Histogram, {data.title.lower()}. {data.caption}"
    return _chart(figure, data.title, description, caption=data.caption)


def roc_curve(roc: Mapping[str, Any]) -> Chart | None:
    """Draws a ROC curve.

    Args:
        roc: false_positive_rate, true_positive_rate and area, as in `metrics.roc_curve`.

    Returns:
        The chart; None without finite points.
    """
    points = list(zip(roc["false_positive_rate"], roc["true_positive_rate"], strict=True))
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return None
    figure, axes = _canvas(width=360, height=330, left=50, bottom=40)
    axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, dashes=(4, 4))
    axes.plot(*zip(*_thinned(points), strict=True), color=FIRST, linewidth=1.6, marker="o" * (len(points) == 1), clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate")
    description = f"ROC curve, area under the curve {formatting.decimal(roc['area'])}; the dashed diagonal is chance, 0.5."
    return _chart(figure, "ROC curve", description)


def precision_recall_curve(row: Mapping[str, Any]) -> Chart | None:
    """Draws the precision-recall curve of a label, small, with a point where its threshold is.

    Args:
        row: of a label, as in `MultilabelMetrics.per_label`.

    Returns:
        The chart, whose title is the label and whose caption its average precision; None for a label that no image has.
    """
    if not (curve := row["curve"]):
        return None
    from matplotlib.ticker import FixedLocator, FuncFormatter

    figure, axes = _canvas(width=200, height=150, left=46, bottom=36, right=22)
    axes.plot(curve["recall"], curve["precision"], color=FIRST, linewidth=1.6, clip_on=False)
    if row["named"]:
        axes.plot(row["recall"], row["precision"], color=SECOND, marker="o", markersize=5, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0, 0.5, 1]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    caption = formatting.percent(row["average_precision"])
    at = f"precision {formatting.percent(row['precision'])} and recall {formatting.percent(row['recall'])}"
    description = f"Precision by recall of {row['label']}. Average precision {caption}; at the threshold, {at}."
    return _chart(figure, row["label"], description, caption=caption)


def reliability_diagram(calibration: Mapping[str, Any], y_label: str = "accuracy") -> Chart | None:
    """Draws a reliability diagram: accuracy against confidence; the area of a point is proportional to its number of images.

    Args:
        calibration: expected_calibration_error and bins, as in `metrics.calibration`.
        y_label: what the accuracy of a bin is called.

    Returns:
        The chart; None without bins.
    """
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
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel=y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    error = formatting.percent(calibration["expected_calibration_error"])
    description = f"Reliability diagram, {y_label} by confidence; expected calibration error {error}."
    return _chart(figure, "Reliability", description)


AXIS_WIDTH = 150  # pixels between neighbouring axes of parallel coordinates
MIN_LABEL_DISTANCE = 0.06  # between two labels, as a share of the axis


def parallel_coordinates(
    trials: Sequence[Mapping[str, Any]], fields: Sequence[str], best: int, figure_name: str = "accuracy"
) -> Chart:
    """Draws trials in parallel coordinates: one line per trial, across an axis per varied field, to its accuracy.

    Args:
        trials: each with number, the fields, accuracy (None if it failed, then its line ends before that axis), and
            ended_early, not empty if it ended early.
        fields: names of the fields. Numbers are on a logarithmic axis, names are evenly spaced.
        best: number of the trial to highlight.
        figure_name: what stands for the accuracy.

    Returns:
        The chart.
    """
    varied = [name for name in fields if len({trial[name] for trial in trials}) > 1]
    positions = {name: _positions([trial[name] for trial in trials]) for name in varied}
    reached = [trial[figure_name] for trial in trials if trial[figure_name] is not None]
    low, high = min(reached), max(reached)
    heights = {value: (value - low) / (high - low) if high > low else 0.5 for value in reached}
    width = AXIS_WIDTH * len(varied) + 190
    figure, axes = _canvas(width=width, height=310, left=120, bottom=40, right=80, top=14)
    for trial in sorted(trials, key=lambda one: one["number"] == best):
        line = [positions[name][trial[name]] for name in varied]
        failed = trial[figure_name] is None
        line += [] if failed else [heights[trial[figure_name]]]
        look: dict[str, Any] = {"color": SECOND, "linewidth": 2.4} if trial["number"] == best else {"color": FIRST}
        look = {"color": FIRST, "dashes": (1, 2)} if trial["ended_early"] and trial["number"] != best else look
        look = {"color": MUTED, "dashes": (3, 3)} if failed else look
        look = {"linewidth": 1.1, "marker": "o", "markersize": 3, "clip_on": False, **look}
        axes.plot(range(len(line)), line, **look)
    axes.set(xlim=(0, len(varied)), ylim=(0, 1), yticks=[])
    axes.set_xticks(
        range(len(varied) + 1), [*(name.replace("_", " ") for name in varied), figure_name.replace("_", " ")], color=INK
    )
    axes.tick_params(axis="x", pad=12)
    for number, name in enumerate(varied):
        _label(axes, number, {_format(value): at for value, at in positions[name].items()})
    _label(axes, len(varied), {formatting.percent(value): at for value, at in heights.items()}, to_the_right=True)
    caption = f"One line per trial, {len(trials):,} in total; the thick one is trial {best}, the best."
    if ended := sum(trial["ended_early"] != "" for trial in trials):
        caption += f" Dotted lines: {formatting.plural(ended, 'trial that ended early', 'trials that ended early')}."
    if failures := len(trials) - len(reached):
        caption += f" Dashed lines: {formatting.plural(failures, 'failed trial', 'failed trials')}."
    return _chart(figure, "All trials", f"Parallel coordinates. {caption}", caption=caption)


def _positions(options: Sequence[Any]) -> dict[Any, float]:
    """Returns the position of each value on an axis from 0 to 1: numbers by their logarithm, names evenly spaced."""
    ordered = sorted(set(options))
    at = [math.log(value) if _is_number(value) else number for number, value in enumerate(ordered)]
    return {value: (position - at[0]) / (at[-1] - at[0]) for value, position in zip(ordered, at, strict=True)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _format(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _label(axes: "Axes", number: int, labels: Mapping[str, float], *, to_the_right: bool = False) -> None:
    """Labels an axis, from its ends inward, and omits labels that would overlap."""
    axes.axvline(number, color=RULE, linewidth=1)
    written: list[float] = []
    style: dict[str, Any] = {"color": MUTED, "fontsize": TEXT_SIZE, "textcoords": "offset points", "va": "center_baseline"}
    style |= {"xytext": (8, 0), "ha": "left"} if to_the_right else {"xytext": (-8, 0), "ha": "right"}
    for text, position in sorted(labels.items(), key=lambda one: -abs(one[1] - 0.5)):
        if all(abs(position - other) >= MIN_LABEL_DISTANCE for other in written):
            written.append(position)
            axes.annotate(
                text, (number, position), bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}, zorder=3, **style
            )


SMALLEST_POINT, LARGEST_POINT = 10, 140  # square points
MAX_COUNTED_CLASSES = 30  # classes; with more, the cells of a confusion matrix are too small for counts
MAX_NAMED_CLASSES = 60  # classes; with more, the rows are too low for labels
MAX_LABEL_COLUMNS = 18  # width of a label; a Chinese character takes two
DARK_SHARE = 0.65  # share from which a cell is so dark that its count must be white
MIN_SHADE = 0.14  # minimum shade, so that a single mistake among many images is visible
RIGHT_SHADE, WRONG_SHADE = (0.12, 0.31, 0.55), (0.66, 0.25, 0.08)  # red, green, blue; the page brightens them on dark


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Chart:
    """Draws a confusion matrix; cells are shaded by their share of the row.

    Args:
        labels: class names; at least one.
        matrix: counts, (classes, classes); rows are true classes, columns are predictions.

    Returns:
        The chart, with labels and counts as far as there is room.
    """
    classes = len(labels)
    named, counted = classes <= MAX_NAMED_CLASSES, classes <= MAX_COUNTED_CLASSES
    shown = [_shortened(label) for label in labels] if named else []
    cell = min(72, max(22, 560 / classes)) if counted else 620 / classes
    text_size = TEXT_SIZE + 1 if cell >= 16 else 0.72 * cell
    longest = max(map(_columns, shown), default=0) * 0.56 * text_size
    leaning = longest > cell - 4  # long labels below the columns would overlap
    left, bottom = 34 + longest, 32 + (0.75 * longest + 4 if leaning else 10)
    side = cell * classes
    figure, axes = _canvas(width=left + side + 14, height=bottom + side + 8, left=left, bottom=bottom, right=14)

    shares = [[formatting.ratio(count, sum(row)) for count in row] for row in matrix]
    _shade(axes, shares)
    axes.set(xlabel="prediction", ylabel="true label")
    tokens = [f"@{index}" for index in range(len(shown))]
    lean: dict[str, Any] = {"rotation": 45, "ha": "right", "va": "center", "rotation_mode": "anchor"} if leaning else {}
    axes.set_xticks(range(len(shown)), tokens, fontsize=text_size, color=INK, **lean)
    axes.set_yticks(range(len(shown)), tokens, fontsize=text_size, color=INK)
    # matplotlib would place the titles by its own estimate of the labels' width, which is wrong for the page's font.
    axes.xaxis.set_label_coords(0.5, (10 - bottom) / side)
    axes.yaxis.set_label_coords((16 - left) / side, 0.5)
    if counted:
        _count_cells(axes, matrix, shares, cell)
    caption = _confusions(labels, matrix)
    description = f"Confusion matrix of {formatting.plural(classes, 'class', 'classes')}. {caption}"
    words = {token: (short, label) for token, short, label in zip(tokens, shown, labels, strict=False)}
    return _chart(figure, "Confusion matrix", description, words=words, caption=caption)


def _shade(axes: "Axes", shares: list[list[float]]) -> None:
    axes.imshow(
        [
            [(*(RIGHT_SHADE if i == j else WRONG_SHADE), max(share, MIN_SHADE) if share else 0) for j, share in enumerate(row)]
            for i, row in enumerate(shares)
        ],
        interpolation="none",
        aspect="auto",
    )
    axes.grid(False)
    axes.set_facecolor(WASH)


def _count_cells(axes: "Axes", matrix: Sequence[Sequence[int]], shares: list[list[float]], cell: float) -> None:
    """Writes each count but 0 into its cell, `cell` pixels wide, and draws lines between the cells."""
    for edge in range(1, len(matrix)):
        axes.axhline(edge - 0.5, color=PAPER, linewidth=1.5)
        axes.axvline(edge - 0.5, color=PAPER, linewidth=1.5)
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if count:
                size = min(1.2 * TEXT_SIZE, (cell - 3) / (0.6 * len(str(count))))
                colour = ON_DARK if shares[i][j] >= DARK_SHARE else INK
                axes.text(j, i, str(count), color=colour, fontsize=size, ha="center", va="center_baseline")


def _confusions(labels: Sequence[str], matrix: Sequence[Sequence[int]], most: int = 3) -> str:
    cells = [
        (count, f"{labels[i]} predicted as {labels[j]} ({formatting.count(count)})")
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    largest = sorted(cells, key=lambda cell: -cell[0])[:most]
    return f"Most often confused: {', '.join(text for _, text in largest)}." if largest else "No classes are confused."


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _shortened(label: str) -> str:
    if _columns(label) <= MAX_LABEL_COLUMNS:
        return label
    while _columns(label) >= MAX_LABEL_COLUMNS:
        label = label[:-1]
    return f"{label}…"


def _canvas(
    *, width: float, height: float, left: float, bottom: float, right: float = 12, top: float = 8
) -> tuple["Figure", "Axes"]:
    """Returns a figure with one pair of axes and the given margins (pixels), so that charts of one page are aligned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # at 72 dpi a point is a pixel
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
    """Renders the figure as SVG for embedding in HTML.

    Args:
        figure: the drawing.
        title: heading of the chart, and salt of its element ids, which must be unique in a page.
        description: text for screen readers.
        key: style class and name of each curve.
        caption: a sentence below the chart.
        words: short and full text by placeholder. Labels are inserted after rendering, since matplotlib lacks glyphs for many
            scripts and reads dollar signs as mathematics.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    rendered = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.usetex": False}):
        FigureCanvasSVG(figure).print_svg(rendered, metadata=nothing)
    svg = ElementTree.fromstring(rendered.getvalue())
    for element in list(svg.iter()):
        # Inline SVG needs no namespaces in HTML.
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.tail = None
        if element.tag in ("g", "image"):
            element.attrib.pop("id", None)  # such as figure_1, which every chart has; ids must be unique in a page
        if "style" in element.attrib:
            element.set("style", _restyle(element.attrib["style"]))
        if element.tag == "text" and words and element.text in words:
            element.text, full = words[element.text]
            if element.text != full:
                ElementTree.SubElement(element, "title").text = full
        for rule in element.findall("{*}style"):  # would apply to the whole page
            element.remove(rule)
    svg.attrib = {"viewBox": svg.attrib["viewBox"], "role": "img", "aria-label": description}
    width = round(figure.get_figwidth() * figure.dpi)
    return Chart(title, Markup(ElementTree.tostring(svg, encoding="unicode")), width, tuple(key), caption)


def _restyle(style: str) -> str:
    """Replaces placeholder colours in the style of an SVG element, and removes the font, which the page sets."""
    style = re.sub(r"font-family: [^;]*; ?", "", style)
    return re.sub("|".join(STYLE), lambda colour: STYLE[colour.group()], style)
