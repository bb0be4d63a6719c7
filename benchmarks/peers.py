"""Peers with other packages than ours: each has an environment of its own, and is a process that ends when it has measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".bench"
# PyTorch's build for processors where pip is told of an index that has it; the one for GPUs computes the same on them.
TORCH = ("torch==2.13.0",)
SLIM = ("tensorflow-cpu==2.12.1", "tf_slim==1.1.0")
PYTHON = "3.11"  # the last that TensorFlow 2.12 runs on


def python(*requirements: str) -> Path:
    """The interpreter of an environment that holds `requirements`; made when it is first asked for."""
    environment = ENVIRONMENTS / "-".join(requirements).replace("==", "-")
    interpreter = environment / "bin" / "python"
    if not (environment / "whole").exists():
        shutil.rmtree(environment, ignore_errors=True)
        ours = sys.executable if sys.version.startswith(f"{PYTHON}.") else f"python{PYTHON}"
        subprocess.run([ours, "-m", "venv", environment], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([interpreter, *install, *requirements], check=True)
        (environment / "whole").touch()
    return interpreter


def measured(interpreter: Path, program: str, **arguments: Any) -> float:
    """The figure that a program of this folder prints, which takes its arguments as JSON."""
    return float(printed(interpreter, program, **arguments))


def printed(interpreter: Path, program: str, **arguments: Any) -> str:
    """What a program of this folder prints, which takes its arguments as JSON."""
    command = [interpreter, Path(__file__).with_name(program), json.dumps(arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
