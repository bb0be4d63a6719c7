"""Runs peers that need other packages than ours, each in its own environment and its own process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".bench"
# PyTorch's CPU build if pip is configured with an index that has it; the GPU build computes the same on a CPU.
TORCH = ("torch==2.13.0",)
SLIM = ("tensorflow-cpu==2.12.1", "tf_slim==1.1.0")
PYTHON = "3.11"  # the last one that TensorFlow 2.12 supports


def interpreter_with(*requirements: str) -> Path:
    """Returns the interpreter of a virtual environment, which is created on first use.

    Args:
        *requirements: packages of the environment, with versions.

    Returns:
        Path of the interpreter.
    """
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


def interpreter_with_torch_on_a_gpu() -> Path | None:
    """Returns an interpreter whose PyTorch sees a GPU: that of BENCH_TORCH or this one; None if neither does."""
    program = "import torch; assert torch.cuda.is_available()"
    for interpreter in filter(None, (os.environ.get("BENCH_TORCH"), sys.executable)):
        if not subprocess.run([interpreter, "-c", program], capture_output=True, check=False).returncode:
            return Path(interpreter)
    return None


def run_for_number(interpreter: Path, program: str, **arguments: Any) -> float:
    """Runs a program of this folder that prints a number.

    Args:
        interpreter: interpreter of the peer's environment.
        program: file name of the program.
        **arguments: passed to the program as JSON.

    Returns:
        The number.
    """
    return float(run_program(interpreter, program, **arguments))


def run_program(interpreter: Path, program: str, **arguments: Any) -> str:
    """Runs a program of this folder.

    Args:
        interpreter: interpreter of the peer's environment.
        program: file name of the program.
        **arguments: passed to the program as JSON.

    Returns:
        What the program prints.
    """
    command = [str(interpreter), str(Path(__file__).with_name(program)), json.dumps(arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
