"""How a figure is made: ours and the peer in turn, several times, and the ratio of the medians."""

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
        benchmark: what was measured.
        ours, peer: medians.
        peer_name: what it was measured against.
        ratio: above 1 means ours is better.
        unit: of `ours` and `peer`.
    """

    benchmark: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    unit: str


def rounds() -> int:
    """How many times each is measured."""
    return int(os.environ.get("BENCH_ROUNDS", ROUNDS))


def compare(benchmark: str, peer_name: str, unit: str, ours: Callable[[], float], peer: Callable[[], float]) -> Figure:
    """Calls both in turn, each giving a rate, once unmeasured and then `rounds` times; prints the figure as a line of JSON."""
    ours(), peer()
    return report(benchmark, peer_name, unit, [(ours(), peer()) for _ in range(rounds())])


def report(
    benchmark: str,
    peer_name: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    less: bool = False,
    middle: Callable[[Sequence[float]], float] = statistics.median,
) -> Figure:
    """Makes a figure of measurements, ours and the peer's in pairs, and prints it as a line of JSON.

    Args:
        less: whether less is better: of seconds and of memory, not of rates.
        middle: what is made of several: their median, or their mean where each measures something else.
    """
    mine, theirs = (middle(measured) for measured in zip(*pairs, strict=True))
    ratio = theirs / mine if less else mine / theirs
    figure = Figure(benchmark, round(mine, 1), round(theirs, 1), peer_name, round(ratio, 2), unit)
    print(json.dumps(asdict(figure)), flush=True)
    return figure
