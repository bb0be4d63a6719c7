"""How a figure is made: ours and the peer in turn, several times, and the ratio of the medians."""

import json
import os
import statistics
from collections.abc import Callable
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
        unit: of `ours` and `peer`; more is better.
    """

    benchmark: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    unit: str


def compare(benchmark: str, peer_name: str, unit: str, ours: Callable[[], float], peer: Callable[[], float]) -> Figure:
    """Calls both in turn, each giving a rate, once unmeasured and then `ROUNDS` times; prints the figure as a line of JSON."""
    ours(), peer()
    pairs = [(ours(), peer()) for _ in range(int(os.environ.get("BENCH_ROUNDS", ROUNDS)))]
    mine, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    figure = Figure(benchmark, round(mine, 1), round(theirs, 1), peer_name, round(mine / theirs, 2), unit)
    print(json.dumps(asdict(figure)), flush=True)
    return figure
