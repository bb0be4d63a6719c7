"""Prints the tables of README.md for the container images as built: `python images/tables.py podman`.

Sizes are of unpacked files, as reported by the engine and `du`. A start is measured from the engine's command to the start of a
stage's own work: container start, import of KFP's executor, imports of the stage's body.
"""

import ast
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kfp_vision.components.container_images import CPU_NAME, GPU_NAME, SERVE_NAME

COMPONENTS = Path(__file__).resolve().parent.parent / "components"
PACKAGES = 10  # number of the largest ones to list
TIMES = 5
MB = 10**6
SEALED = ("run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp")
WEIGH = """
import json, sys
from importlib import metadata
from pathlib import Path
def size(file):
    path = Path(file.locate())
    return path.stat().st_blocks * 512 if path.is_file() else 0
one = {of.metadata["Name"]: sum(map(size, of.files or ())) for of in metadata.distributions()}
print(json.dumps(one))
"""
# What KFP's command does in a container before it calls the stage, with times in between.
START = """
import time
clock = [time.time()]
import kfp.dsl.executor_main
from kfp import dsl
clock.append(time.time())
{imports}
clock.append(time.time())
print(*clock)
"""


def main(program: str) -> None:
    """Prints the tables.

    Args:
        program: the container engine's command, such as podman.
    """
    available = [image for image in (CPU_NAME, GPU_NAME, SERVE_NAME) if _exists(program, image)]
    for image in available:
        (details,) = json.loads(_output(program, "inspect", image))
        print(f"\n{image}: {details['Size'] / MB:,.0f} MB, of which\n\n| package | MB |\n| --- | ---: |")
        weights = json.loads(_output(program, *SEALED, image, "python3", "-c", WEIGH))
        for name in sorted(weights, key=weights.__getitem__, reverse=True)[:PACKAGES]:
            print(f"| {name} | {weights[name] / MB:,.0f} |")
    print(f"\n{os.cpu_count()} cores, median of {TIMES}")
    print("\n| stage | container | KFP | imports | in all |\n| --- | ---: | ---: | ---: | ---: |")
    for file in sorted(COMPONENTS.glob("*.py")):
        if imports := "\n".join(_imports(file)):
            parts = [statistics.median(times) for times in zip(*(_start(program, imports) for _ in range(TIMES)), strict=True)]
            print(f"| `{file.stem}` | " + " | ".join(f"{seconds:.1f}" for seconds in parts) + " |", flush=True)


def _imports(file: Path) -> Iterator[str]:
    """Lists the import statements of a stage's body."""
    for function in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(function, ast.FunctionDef):
            yield from (ast.unparse(line) for line in function.body if isinstance(line, ast.Import | ast.ImportFrom))


def _start(program: str, imports: str) -> tuple[float, float, float, float]:
    """Measures the seconds until Python starts, of KFP's import, of the stage's imports, and in total."""
    start = time.time()
    command = ("--env=_KFP_RUNTIME=true", CPU_NAME, "python3", "-c", START.format(imports=imports))
    python, with_kfp, ready = map(float, _output(program, *SEALED, *command).split())
    return python - start, with_kfp - python, ready - with_kfp, ready - start


def _exists(program: str, image: str) -> bool:
    return subprocess.run([program, "inspect", image], capture_output=True, check=False).returncode == 0


def _output(program: str, *arguments: str) -> str:
    return subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
