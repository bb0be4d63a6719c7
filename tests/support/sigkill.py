"""Kills a stage of a run on this machine at a chosen moment, as a kernel does that has no memory left, or a node that ends."""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

OUTPUT_FILE = re.compile(r'"outputFile": ?"([^"]+)"')
Moment = Callable[[int, Path], bool]  # of the stage's process and the folder of its outputs


def at_once(process: int, folder: Path) -> bool:
    """As soon as the process is there."""
    return True


def with_server(process: int, folder: Path) -> bool:
    """When it has started a server."""
    return bool(children(process))


def begun(name: str) -> Moment:
    """When an output is being written, or is there."""

    def so(process: int, folder: Path) -> bool:
        return folder.is_dir() and any(path.name == name or path.name.startswith(f".{name}.") for path in folder.iterdir())

    return so


def there(*names: str) -> Moment:
    """When outputs are there."""
    return lambda process, folder: all((folder / name).exists() for name in names)


@dataclass
class Kill:
    """A stage that is to be killed.

    Attributes:
        processes: the one that was killed, and those that it had started; none where it was faster.
        folder: of its outputs.
    """

    processes: list[int] = field(default_factory=list)
    folder: Path = Path()


@contextlib.contextmanager
def killing(root: Path, stage: str, moment: Moment, turn: int = 1) -> Iterator[Kill]:
    """As long as the body lasts a stage of a run below a folder is killed at a moment, the first time or a later one."""
    kill = Kill()
    over = threading.Event()

    def watch() -> None:
        seen: list[Path] = []  # what a process starts has its command line for a moment, and the same folder
        while not over.wait(0.03):
            for process, folder in processes(root, stage):
                if folder not in seen:
                    seen.append(folder)
                if seen.index(folder) == turn - 1:
                    kill.folder = folder
                    kill.processes += _killed(process, folder, moment)
                    if kill.processes:
                        return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield kill
    finally:
        over.set()
        watching.join()


def processes(root: Path, stage: str) -> Iterator[tuple[int, Path]]:
    """The processes of a stage among those that this one has started, with the folders of their outputs."""
    for process in children(os.getpid()):
        words = command(process)
        if "kfp.dsl.executor_main" in words and words[-1] == stage:
            file = OUTPUT_FILE.search(" ".join(words))
            if file and Path(file[1]).is_relative_to(root):
                yield process, Path(file[1]).parent


def children(process: int) -> list[int]:
    """What a process has started, and what that has."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            own = [int(child) for child in (thread / "children").read_text().split()]
            found += [*own, *(below for child in own for below in children(child))]
    return found


def lives(process: int) -> bool:
    """Whether a process is there, and has not ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def command(process: int) -> list[str]:
    """The words that a process was started with; none where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    return []


def name(process: int) -> str:
    """What a process is called; empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def environment(process: int) -> list[bytes]:
    """The lines of the environment that a process was started with; none where it has ended, or belongs to somebody else."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return []


def parent(process: int) -> int:
    """The process that has started a process, or that has taken it over since; 0 where there is none."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _killed(process: int, folder: Path, moment: Moment) -> list[int]:
    """Kills a process at a moment, and says which ones that is the end of; none where it has ended before."""
    while lives(process):
        if moment(process, folder):
            started = children(process)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                return [process, *started]
        time.sleep(0.001)
    return []
