"""Sees to it that no test leaves a process or a thread behind, by which the next one would be judged.

A plugin of pytest. What a fixture of a module or of the session starts may stay as long as the fixture does; anything else is
gone when its test is over, and each process has been waited for. Whatever is left is named, with the test that left it, and
ended, so that it fails that test alone.
"""

import contextlib
import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures.thread import _worker
from pathlib import Path
from typing import Any

import pytest
from support import sigkill

SECONDS_TO_END = 60.0  # for what has been told to end; a test that leaves nothing does not wait
MARK = "KFP_VISION_TESTS"  # in the environment of all that tests start: an orphan is no child of this process any more
TEST = "PYTEST_CURRENT_TEST"  # where pytest says which one runs
# Python's own processes, and the one that podman keeps for all that a person who is not root does with it.
STAYING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "podman pause")

Left = int | threading.Thread  # a process by its number
_known: set[Left] = set()  # was there before the first test, or has been told already
_held: dict[Left, str] = {}  # to the scope at whose end it must be gone
_pooled: dict[threading.Thread, str] = {}  # a thread of a pool, which goes with its owner, to the test that made it begin


def pytest_sessionstart() -> None:
    os.environ[MARK] = str(os.getpid())
    _known.update(_here(orphans=True))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    """Takes down what a fixture starts that outlives a test."""
    if fixturedef.scope == "function":
        return (yield)
    before = _here(orphans=True)
    try:
        return (yield)
    finally:
        for started in _here(orphans=True) - before:
            _held.setdefault(started, fixturedef.scope)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_by_the_session() -> Iterator[None]:
    yield
    _check("the session", {"session", "package", "module", "class"}, orphans=True)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_by_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """The first fixture of a module, so that it ends after all others."""
    yield
    gc.collect()  # a warning about what nobody closed is this module's, and not that of whichever comes next
    _check(request.node.nodeid, {"module", "class"}, orphans=True)


@pytest.fixture(autouse=True)
def _nothing_left_by_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The first fixture of a test, so that it ends after all others."""
    yield
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) is _worker and thread not in _held:
            _held[thread], _pooled[thread] = "module", request.node.nodeid
    _check(request.node.nodeid, set())


def _check(who: str, ended_scopes: set[str], orphans: bool = False) -> None:
    """Fails where something is left.

    Args:
        who: has come to its end.
        ended_scopes: of the fixtures that have come to theirs.
        orphans: look for processes as well that lost the one which had started them.
    """
    for one in [one for one, scope in _held.items() if scope in ended_scopes]:
        del _held[one]
    until = time.monotonic() + SECONDS_TO_END
    while (left := _left(orphans)) and time.monotonic() < until:
        gc.collect()  # a pool of threads that nobody holds any more ends them
        time.sleep(0.02)
    if left:
        _known.update(left)
        said = "; ".join(map(_about, left))
        for one in left:
            if isinstance(one, int):
                _end(one)
        pytest.fail(f"{who} has left behind: {said}", pytrace=False)


def _left(orphans: bool) -> list[Left]:
    return [one for one in _here(orphans) - _known if not _is_held(one)]


def _here(orphans: bool = False) -> set[Left]:
    """The processes that come from this one, and its threads."""
    processes = set(sigkill.children(os.getpid())) | (set(_orphans()) if orphans else set())
    threads = set(threading.enumerate()) - {threading.current_thread()}
    found = {one for one in processes if not any(name in _called(one) for name in STAYING)}
    return found | {one for one in threads if not _is_of_others(one)}


def _is_of_others(thread: threading.Thread) -> bool:
    """Whether Python has not started it, or an installed package has, for itself, which ends with the program."""
    if isinstance(thread, threading._DummyThread):
        return True
    runs = getattr(thread, "_target", None) or type(thread).run
    code = getattr(getattr(runs, "__func__", runs), "__code__", None)
    return thread.daemon and code is not None and "site-packages" in Path(code.co_filename).parts


def _orphans() -> Iterator[int]:
    """The processes with this one's mark, which their ancestors need not have outlived."""
    mark = f"{MARK}={os.getpid()}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        process = int(place.name)
        if process != os.getpid() and mark in sigkill.environment(process):
            yield process


def _called(process: int) -> str:
    """The words that a process was started with, and its name of now."""
    return " ".join([*sigkill.command(process), sigkill.name(process)])


def _is_held(one: Left) -> bool:
    """Whether a fixture that has not ended has started it, or started what has."""
    while one not in _held:
        if isinstance(one, threading.Thread) or one in (0, 1, os.getpid()):
            return False
        one = sigkill.parent(one)
    return True


def _about(one: Left) -> str:
    if isinstance(one, threading.Thread):
        return f"the thread {one.name}{f', of {_pooled[one]}' if one in _pooled else ''}"
    words = " ".join(sigkill.command(one))[:200] or "ended, and not waited for"
    tests = [line for line in sigkill.environment(one) if line.startswith(TEST.encode())]
    return f"process {one} ({words}{''.join(f', of {line.decode()}' for line in tests)})"


def _end(process: int) -> None:
    """Ends a process and waits for it, and spares who comes next the warning of what had started it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    for one in gc.get_objects():
        if issubclass(type(one), subprocess.Popen) and one.pid == process:
            with one:  # which waits, and closes its pipes
                pass
    with contextlib.suppress(ChildProcessError):  # an orphan, or waited for just now
        os.waitpid(process, 0)
