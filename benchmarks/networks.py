"""Describes what each network costs and is worth here: `python -m benchmarks.networks [NETWORK ...]`.

Prints a line of JSON per network. Without names, measures all of them and rewrites the table of docs/reference/networks.md. The
accuracy is that of held-out photographs after 300 steps from the published weights, the recipe of `learn`, in the mean of
BENCH_ROUNDS splits; a network has none where its weights cannot be had. Let nothing else run on the machine meanwhile.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import learn, peers, photographs, serve
from benchmarks.__main__ import TABLE, is_unknown, measured_on
from benchmarks.measure import rounds
from kfp_vision.networks import IMAGENET, NETWORKS

SECONDS = 6.0  # of each measurement of a speed, after one call that does not count
PAGE = peers.ROOT / "docs" / "reference" / "networks.md"
COLUMNS = (
    "`network`",
    "pixels",
    "million parameters",
    "GFLOPs",
    "training, img/s",
    "MiB",
    "answers, img/s",
    "in batches",
    "MiB",
    "accuracy, %",
)


def main(names: list[str]) -> int:
    """Measures networks by name.

    Args:
        names: networks; empty for all.

    Returns:
        The exit code.
    """
    if is_unknown("network", names, NETWORKS):
        return 2
    lines = [measure(name) for name in names or NETWORKS]
    if not names:
        PAGE.write_text(TABLE.sub(lambda _: table(lines), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def measure(name: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Measures a network, and prints a line of JSON.

    Args:
        name: of the network.
        seconds: of each measurement of a speed.

    Returns:
        What `network_costs` measures, and the accuracy: None without published weights at hand.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = serve.write_model_apart(Path(scratch) / "model", name)
        costs = _costs("training", name, seconds) | _costs("answers", place, seconds)
    line = {"network": name, **{field: round(value, 2) for field, value in costs.items()}, "accuracy": accuracy(name)}
    print(json.dumps(line), flush=True)
    return line


def accuracy(name: str) -> float | None:
    """Fine-tunes a network on photographs.

    Args:
        name: of the network.

    Returns:
        Accuracy on held-out photographs in percent; None if the weights cannot be had.
    """
    weights = find_weights(name)
    if not weights:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        split = learn.split_folds(photographs.write_copies(Path(scratch, "all"), 1), rounds())
        try:
            return round(100 * statistics.mean(learn.run_ours(fold, weights, name).accuracy for fold in split), 1)
        except subprocess.CalledProcessError:
            return None  # such as a download without a network; the process has said why


def find_weights(name: str) -> str:
    """Returns where a network's published weights are: `imagenet`, or Caffe's file; empty if nowhere at hand.

    They are downloaded only where BENCH_DOWNLOADS is set: without a network, each download is tried for minutes.
    """
    network = NETWORKS[name]
    if network.weights_package:
        return IMAGENET if network.has_installed_weights else ""
    if network.imagenet:
        return IMAGENET if os.environ.get("BENCH_DOWNLOADS") else ""
    return str(photographs.find_googlenet_weights("networks") or "") if name == "googlenet" else ""


def table(lines: list[dict[str, Any]]) -> str:
    """Formats the lines of all networks as Markdown, with the machine and the versions used.

    Args:
        lines: of `measure`.

    Returns:
        The table, without the accuracies if there are none, and the line below it.
    """
    rows = [COLUMNS, *map(_row, lines)]
    if all(line["accuracy"] is None for line in lines):
        rows = [row[:-1] for row in rows]
    head, *body = (f"| {' | '.join(row)} |\n" for row in rows)
    return f"{head}| --- |{' ---: |' * (len(rows[0]) - 1)}\n{''.join(body)}\n{measured_on()}"


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"`{line['network']}`",
        f"{line['image_size']:g}",
        f"{line['parameters']:.1f}",
        f"{line['operations']:.2f}",
        f"{line['training']:.0f}",
        f"{line['training_memory']:.0f}",
        f"{line['alone']:.0f}",
        f"{line['together']:.0f}",
        f"{line['answers_memory']:.0f}",
        "" if line["accuracy"] is None else f"{line['accuracy']:.1f}",
    )


def _costs(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.network_costs", *map(str, arguments)]
    done = subprocess.run(command, cwd=peers.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return costs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
