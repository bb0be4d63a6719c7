"""Measures what a pod of our server needs: seconds until it answers, and memory, for several networks with random weights.

`python -m benchmarks.server_needs [NETWORK ...]` prints a line of JSON per network. Memory is the most that its process held
at once, files that it maps included: once it answered, and after 32 clients kept sending photographs.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import photographs, serve
from kfp_vision.serving import server

NETWORKS = ("googlenet", "inception_v1", "mobilenet_v2")
CLIENTS, SECONDS = 32, 10.0


def main(names: list[str]) -> None:
    """Measures networks by name, each in a server of its own.

    Args:
        names: networks; empty for the three of the table.
    """
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as scratch:
            place = serve.write_model_apart(Path(scratch) / "model", name)
            pictures = photographs.write_copies(Path(scratch) / "pictures", 1)
            print(json.dumps({"network": name, **measure(place, pictures)}), flush=True)


def measure(place: Path, pictures: Path) -> dict[str, float]:
    """Measures a server from its start to its end.

    Args:
        place: model repository.
        pictures: folder of class folders.

    Returns:
        Seconds until it answers, on the clock and of processors; MiB once it answered and after it was busy; requests a second.
    """
    start = time.perf_counter()
    with server.run_server(place) as url:
        seconds, (process,) = time.perf_counter() - start, _children()
        idle, computing = _peak(process), _processor_seconds(process)
        rate = serve.measure_load(url, pictures, CLIENTS, SECONDS).rate
        busy = _peak(process)
    start_seconds = {"seconds_to_start": round(seconds, 1), "of_processors": round(computing, 1)}
    return {**start_seconds, "idle_mib": idle, "busy_mib": busy, "requests_per_second": round(rate, 1)}


def _children() -> list[int]:
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system


def _peak(process: int) -> int:
    """Returns the peak of the resident memory in MiB, from Linux."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return round(int(peak.split()[1]) / 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
