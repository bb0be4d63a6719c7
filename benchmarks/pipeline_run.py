"""Runs a pipeline on this machine by the command line, in its own process."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import peers


def run_pipeline(pipeline: str, fields: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Runs a pipeline.

    Args:
        pipeline: its name.
        fields: values of its form by name; the others keep their defaults.
        place: folder for the run.

    Returns:
        The results, as the command prints them.
    """
    options = [part for name, value in fields.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", pipeline, "--json", "--output", str(place), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT)
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results
