"""Kills a stage of a local run at a chosen moment, as the kernel does when memory runs out, or as a lost node does."""

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
Moment = Callable[[int, Path], bool]  # takes the process of the stage and the folder of its outputs


def at_once(process: int, folder: Path) -> bool:
    """Holds as soon as the process exists."""
    return True


def with_server(process: int, folder: Path) -> bool:
    """Holds once the process has started a server."""
    return bool(children(process))


def begun(name: str) -> Moment:
    """Holds once an output is being written, or exists."""

    def is_begun(process: int, folder: Path) -> bool:
        return folder.is_dir() and any(path.name == name or path.name.startswith(f".{name}.") for path in folder.iterdir())

    return is_begun


def there(*names: str) -> Moment:
    """Holds once the outputs exist."""
    return lambda process, folder: all((folder / name).exists() for name in names)


@dataclass
class Kill:
    """The processes of a killed stage.

    Attributes:
        processes: the killed process and its descendants; empty if the stage ended first.
        folder: the folder of its outputs.
    """

    processes: list[int] = field(default_factory=list)
    folder: Path = Path()


@contextlib.contextmanager
def killing(root: Path, stage: str, moment: Moment, turn: int = 1) -> Iterator[Kill]:
    """Kills a stage of a run below a folder at a moment of its first or a later execution, during the context."""
    kill = Kill()
    over = threading.Event()

    def watch() -> None:
        folders: list[Path] = []  # a new child briefly has the command line of its parent, and thus the same folder
        while not over.wait(0.03):
            for process, folder in processes(root, stage):
                if folder not in folders:
                    folders.append(folder)
                if folders.index(folder) == turn - 1:
                    kill.folder = folder
                    kill.processes += _kill_at(process, folder, moment)
                    if kill.processes:
                        return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield kill
    finally:
        over.set()
        watcher.join()


def processes(root: Path, stage: str) -> Iterator[tuple[int, Path]]:
    """Yields the descendants of this process that run a stage, with the folders of their outputs."""
    for process in children(os.getpid()):
        words = command(process)
        if "kfp.dsl.executor_main" in words and words[-1] == stage:
            file = OUTPUT_FILE.search(" ".join(words))
            if file and Path(file[1]).is_relative_to(root):
                yield process, Path(file[1]).parent


def children(process: int) -> list[int]:
    """Lists the descendants of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            direct = [int(child) for child in (thread / "children").read_text().split()]
            found += [*direct, *(below for child in direct for below in children(child))]
    return found


def lives(process: int) -> bool:
    """Returns whether a process exists and has not ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def command(process: int) -> list[str]:
    """Returns the command line of a process; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    return []


def name(process: int) -> str:
    """Returns the name of a process; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def environment(process: int) -> list[bytes]:
    """Returns the lines of a process's initial environment; empty if it has ended or belongs to another user."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return []


def parent(process: int) -> int:
    """Returns the current parent of a process; 0 if there is none."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _kill_at(process: int, folder: Path, moment: Moment) -> list[int]:
    """Kills a process at a moment; returns it and its descendants, or an empty list if it ended first."""
    while lives(process):
        if moment(process, folder):
            started = children(process)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                return [process, *started]
        time.sleep(0.001)
    return []
