"""Fails tests that leave a process or a thread behind, so that none affects a later test.

A plugin of pytest. Whatever a fixture of a module or of the session starts may exist as long as the fixture; everything else
must end with its test, and each process must be waited for. Leftovers are reported with their test and killed, so that only
that test fails.
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

SECONDS_TO_END = 60.0  # for processes that are terminating; without leftovers there is no wait
MARK = "KFP_VISION_TESTS"  # in the environment of all processes of tests, to recognize orphans
TEST = "PYTEST_CURRENT_TEST"  # set by pytest to the current test
# Processes of Python itself, and the one that podman keeps for an unprivileged user.
STAYING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "podman pause")

Leftover = int | threading.Thread  # a process by its ID
_known: set[Leftover] = set()  # existed before the first test, or was reported already
_held: dict[Leftover, str] = {}  # the scope at whose end each must have ended
_pooled: dict[threading.Thread, str] = {}  # the test that started each thread of a pool, which ends with its owner


def pytest_sessionstart() -> None:
    os.environ[MARK] = str(os.getpid())
    _known.update(_current(orphans=True))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    """Records what a fixture starts that outlives a test."""
    if fixturedef.scope == "function":
        return (yield)
    before = _current(orphans=True)
    try:
        return (yield)
    finally:
        for started in _current(orphans=True) - before:
            _held.setdefault(started, fixturedef.scope)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_by_the_session() -> Iterator[None]:
    yield
    _check("the session", {"session", "package", "module", "class"}, orphans=True)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_by_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs as the first fixture of a module, so that it ends after all others."""
    yield
    gc.collect()  # raises warnings about unclosed resources in this module rather than in the next
    _check(request.node.nodeid, {"module", "class"}, orphans=True)


@pytest.fixture(autouse=True)
def _nothing_left_by_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs as the first fixture of a test, so that it ends after all others."""
    yield
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) is _worker and thread not in _held:
            _held[thread], _pooled[thread] = "module", request.node.nodeid
    _check(request.node.nodeid, set())
    request.node.funcargs.clear()  # else pytest keeps what owns a pool until after the module


def _check(name: str, ended_scopes: set[str], orphans: bool = False) -> None:
    """Fails if processes or threads are left.

    Args:
        who: the test, module or session that has ended.
        ended_scopes: scopes whose fixtures have ended.
        orphans: whether to include processes whose parents have ended.
    """
    for item in [item for item, scope in _held.items() if scope in ended_scopes]:
        del _held[item]
    until = time.monotonic() + SECONDS_TO_END
    while (leftovers := _leftovers(orphans)) and time.monotonic() < until:
        gc.collect()  # an unreferenced thread pool ends its threads
        time.sleep(0.02)
    if leftovers:
        _known.update(leftovers)
        description = "; ".join(map(_describe, leftovers))
        for item in leftovers:
            if isinstance(item, int):
                _end(item)
        pytest.fail(f"{name} has left behind: {description}", pytrace=False)


def _leftovers(orphans: bool) -> list[Leftover]:
    return [item for item in _current(orphans) - _known if not _is_held(item)]


def _current(orphans: bool = False) -> set[Leftover]:
    """Returns the descendants of this process, and its threads."""
    processes = set(sigkill.children(os.getpid())) | (set(_orphans()) if orphans else set())
    threads = set(threading.enumerate()) - {threading.current_thread()}
    found = {item for item in processes if not any(name in _process_label(item) for name in STAYING)}
    return found | {item for item in threads if not _is_foreign(item)}


def _is_foreign(thread: threading.Thread) -> bool:
    """Returns whether a thread was not started by Python, or is a daemon of an installed package."""
    if isinstance(thread, threading._DummyThread):
        return True
    runs = getattr(thread, "_target", None) or type(thread).run
    code = getattr(getattr(runs, "__func__", runs), "__code__", None)
    return thread.daemon and code is not None and "site-packages" in Path(code.co_filename).parts


def _orphans() -> Iterator[int]:
    """Yields the processes marked by this one, even if their parents have ended."""
    mark = f"{MARK}={os.getpid()}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        process = int(entry.name)
        if process != os.getpid() and mark in sigkill.environment(process):
            yield process


def _process_label(process: int) -> str:
    """Returns the command line of a process, and its current name."""
    return " ".join([*sigkill.command(process), sigkill.name(process)])


def _is_held(item: Leftover) -> bool:
    """Returns whether an active fixture has started a process or thread, directly or indirectly."""
    while item not in _held:
        if isinstance(item, threading.Thread) or item in (0, 1, os.getpid()):
            return False
        item = sigkill.parent(item)
    return True


def _describe(item: Leftover) -> str:
    if isinstance(item, threading.Thread):
        return f"the thread {item.name}{f', of {_pooled[item]}' if item in _pooled else ''}"
    words = " ".join(sigkill.command(item))[:200] or "ended, and not waited for"
    tests = [line for line in sigkill.environment(item) if line.startswith(TEST.encode())]
    return f"process {item} ({words}{''.join(f', of {line.decode()}' for line in tests)})"


def _end(process: int) -> None:
    """Kills a process and waits for it, and closes its Popen object, which would warn later."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    for item in gc.get_objects():
        if issubclass(type(item), subprocess.Popen) and item.pid == process:
            with item:  # waits, and closes its pipes
                pass
    with contextlib.suppress(ChildProcessError):  # an orphan, or already waited for
        os.waitpid(process, 0)
