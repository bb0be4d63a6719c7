"""Measures ours and the peer alternately, several times, and reports the ratio of the medians."""

import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """One line of output.

    Attributes:
        benchmark: name of the measurement.
        ours: median of ours.
        peer: median of the peer.
        peer_name: what ours is compared with.
        ratio: above 1 means ours is better.
        unit: unit of `ours` and `peer`.
    """

    benchmark: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    unit: str


def rounds() -> int:
    """Returns the number of measured rounds, from BENCH_ROUNDS."""
    return int(os.environ.get("BENCH_ROUNDS", ROUNDS))


def compare(benchmark: str, peer_name: str, unit: str, ours: Callable[[], float], peer: Callable[[], float]) -> Figure:
    """Measures two rates alternately, after one unmeasured round, and prints the figure as a line of JSON.

    Args:
        benchmark: name of the measurement.
        peer_name: what ours is compared with.
        unit: unit of the rates.
        ours: measures our rate.
        peer: measures the peer's rate.

    Returns:
        The figure.
    """
    ours(), peer()
    return report(benchmark, peer_name, unit, [(ours(), peer()) for _ in range(rounds())])


def report(
    benchmark: str,
    peer_name: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    less: bool = False,
    digits: int = 1,
    middle: Callable[[Sequence[float]], float] = statistics.median,
) -> Figure:
    """Computes a figure from paired measurements and prints it as a line of JSON.

    Args:
        benchmark: name of the measurement.
        peer_name: what ours is compared with.
        unit: unit of the measurements.
        pairs: measurements of ours and of the peer.
        less: whether less is better, as for seconds and memory.
        digits: digits after the point of `ours` and `peer`.
        middle: aggregates the measurements: the median, or the mean if each round measures something else.

    Returns:
        The figure.
    """
    mine, theirs = (middle(values) for values in zip(*pairs, strict=True))
    ratio = theirs / mine if less else mine / theirs
    figure = Figure(benchmark, round(mine, digits), round(theirs, digits), peer_name, round(ratio, 2), unit)
    print(json.dumps(asdict(figure)), flush=True)
    return figure
