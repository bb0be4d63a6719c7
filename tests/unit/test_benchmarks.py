"""How a benchmark's figure is made."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import measure

ROOT = Path(__file__).resolve().parents[2]


def test_a_figure_is_the_ratio_of_medians_after_a_round_unmeasured(capsys, monkeypatch):
    monkeypatch.setenv("BENCH_ROUNDS", "3")
    ours, peer = iter([1000.0, 30.0, 10.0, 20.0]), iter([1000.0, 5.0, 40.0, 10.0])
    measure.compare("doing", "another", "img/s", lambda: next(ours), lambda: next(peer))
    figure = {"benchmark": "doing", "ours": 20.0, "peer": 10.0, "peer_name": "another", "ratio": 2.0, "unit": "img/s"}
    assert json.loads(capsys.readouterr().out) == figure


def test_an_unknown_benchmark_is_refused_in_one_line():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "sing"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: a benchmark must be one of convert, train; got sing. Take one of these.\n"
