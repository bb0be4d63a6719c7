"""Runs benchmarks: `python -m benchmarks [NAME ...]`.

Prints one line of JSON per figure. Without names, runs all of them and rewrites the table in README.md.
"""

import platform
import re
import sys
from collections.abc import Collection, Iterable
from datetime import date
from importlib import import_module, metadata
from pathlib import Path

from benchmarks.measure import Figure

NAMES = (
    "convert",
    "scale",
    "stratification",
    "train",
    "slow_disk",
    "workers",
    "sweep",
    "learn",
    "quick",
    "serve",
    "engines",
    "retrieval",
    "search",
    "explain",
    "unknown",
    "collect",
    "drift",
    "review",
    "gpu",
)
README = Path(__file__).with_name("README.md")
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- /table -->)", re.DOTALL)


def main(names: list[str]) -> int:
    """Runs benchmarks by name.

    Args:
        names: names of benchmarks; empty for all.

    Returns:
        The exit code.
    """
    if is_unknown("benchmark", names, NAMES):
        return 2
    figures = [figure for name in names or NAMES for figure in import_module(f"benchmarks.{name}").run()]
    if not names:
        README.write_text(TABLE.sub(lambda _: table(figures), README.read_text()))
    return 0


def is_unknown(kind: str, names: Iterable[str], known: Collection[str]) -> bool:
    """Reports the first name that is not known on stderr.

    Args:
        kind: of what is named, in the singular.
        names: names to check.
        known: all there are.

    Returns:
        Whether there is such a name.
    """
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        print(f"error: a {kind} must be one of {', '.join(known)}; got {unknown}. Take one of these.", file=sys.stderr)
    return unknown is not None


def table(figures: list[Figure]) -> str:
    """Formats figures as Markdown, with the machine and the versions used.

    Args:
        figures: figures to format.

    Returns:
        The Markdown table and the line below it.
    """
    rows = "".join(f"| `{f.benchmark}` | {f.ours:g} | {f.peer:g} | {f.ratio:g} | {f.unit} | {f.peer_name} |\n" for f in figures)
    head = "| benchmark | ours | peer | ratio | unit | peer |\n| --- | ---: | ---: | ---: | --- | --- |\n"
    return f"{head}{rows}\n{measured_on()}"


def measured_on() -> str:
    """Returns the line below a table: the day, the machine and the versions."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow-cpu", "keras", "pillow"))
    return f"Measured on {date.today():%Y-%m-%d}: {processor_name()}, {versions}, Python {platform.python_version()}.\n"


def processor_name() -> str:
    """Returns the processor's name and number of cores, from Linux."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}" if models else platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
