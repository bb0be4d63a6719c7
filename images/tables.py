"""The tables of README.md beside this file, of the images as they are built: `python images/tables.py podman`.

Sizes are of the files, unpacked, as the engine and `du` count them. A start is timed from the engine's command to where
a stage's own work begins: its container runs, KFP's executor is imported, and so is what the stage's body imports.
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

from kfp_vision.components.images import CPU_IMAGE, GPU_IMAGE

COMPONENTS = Path(__file__).resolve().parent.parent / "components"
PACKAGES = 10  # the largest ones
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
# What KFP's command does in a container before it calls the stage, with the clock read in between.
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
    """Prints the tables."""
    there = [image for image in (CPU_IMAGE, GPU_IMAGE) if _has(program, image)]
    for image in there:
        (about,) = json.loads(_tell(program, "inspect", image))
        print(f"\n{image}: {about['Size'] / MB:,.0f} MB, of which\n\n| package | MB |\n| --- | ---: |")
        weights = json.loads(_tell(program, *SEALED, image, "python3", "-c", WEIGH))
        for name in sorted(weights, key=weights.__getitem__, reverse=True)[:PACKAGES]:
            print(f"| {name} | {weights[name] / MB:,.0f} |")
    print(f"\n{os.cpu_count()} cores, median of {TIMES}")
    print("\n| stage | container | KFP | imports | in all |\n| --- | ---: | ---: | ---: | ---: |")
    for file in sorted(COMPONENTS.glob("*.py")):
        if imports := "\n".join(_imports(file)):
            parts = [statistics.median(times) for times in zip(*(_start(program, imports) for _ in range(TIMES)), strict=True)]
            print(f"| `{file.stem}` | " + " | ".join(f"{seconds:.1f}" for seconds in parts) + " |", flush=True)


def _imports(file: Path) -> Iterator[str]:
    """What the body of a stage imports before anything else."""
    for function in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(function, ast.FunctionDef):
            yield from (ast.unparse(line) for line in function.body if isinstance(line, ast.Import | ast.ImportFrom))


def _start(program: str, imports: str) -> tuple[float, float, float, float]:
    """Seconds until Python runs, for KFP, for the imports, and in all."""
    asked = time.time()
    command = ("--env=_KFP_RUNTIME=true", CPU_IMAGE, "python3", "-c", START.format(imports=imports))
    begun, with_kfp, ready = map(float, _tell(program, *SEALED, *command).split())
    return begun - asked, with_kfp - begun, ready - with_kfp, ready - asked


def _has(program: str, image: str) -> bool:
    return subprocess.run([program, "inspect", image], capture_output=True, check=False).returncode == 0


def _tell(program: str, *arguments: str) -> str:
    return subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
