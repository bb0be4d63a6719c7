"""The way on for a training that was stopped: all its state in one file, of which a folder or a bucket keeps the newest.

A file is `step-00000120.npz`: arrays by name, and under `about` a JSON text. It holds checksums of its own: a torn one is
known and passed over.
"""

import concurrent.futures
import io
import json
import re
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kfp_vision import storage
from kfp_vision.errors import InputError

FILE = re.compile(r"step-(\d{8})\.npz")
KEPT = 2
ABOUT = "about"
TORN = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile)


@dataclass(frozen=True)
class State:
    """A training between two steps.

    Attributes:
        step: steps taken.
        arrays: weights, the optimizer's and all else that is numbers, by name.
        about: what else there is to know, as JSON can hold it.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any]


class Folder:
    """Where the states of one training lie.

    Args:
        uri: a path or a folder of a bucket.
        identity: what a state must agree in with the training that goes on from it; name to value.
    """

    def __init__(self, uri: str, identity: Mapping[str, Any]):
        self.uri, self.identity = uri, json.loads(json.dumps(identity))
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._written: concurrent.futures.Future[None] | None = None

    def newest(self) -> State | None:
        """The newest whole state, or nothing.

        Raises:
            InputError: it is of a training of something else, or cannot be read.
        """
        for name in reversed(self._names()):
            try:
                state = _unpacked(self._read(name))
            except TORN as error:
                print(f"passes over {storage.inside(self.uri, name)}, which is torn ({type(error).__name__})", flush=True)
                continue
            self._compare(state.about["identity"], name)
            return state
        return None

    def save(self, state: State) -> None:
        """Begins to write a state; waits first until the one before is written.

        Raises:
            InputError: the one before could not be written.
        """
        self.wait()
        self._written = self._writer.submit(self._write, state)

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
            InputError: it could not be.
        """
        if self._written:
            self._written.result()
            self._written = None

    def _write(self, state: State) -> None:
        packed = _packed(State(state.step, state.arrays, {**state.about, "identity": self.identity}))
        storage.put(packed, storage.inside(self.uri, f"step-{state.step:08}.npz"))
        for name in self._names()[:-KEPT]:
            storage.remove(storage.inside(self.uri, name))

    def _names(self) -> list[str]:
        return [found.name for found in storage.children(self.uri) if FILE.fullmatch(found.name)]

    def _read(self, name: str) -> bytes:
        with storage.Reader() as reader:
            return reader.read(storage.inside(self.uri, name))

    def _compare(self, found: Mapping[str, Any], name: str) -> None:
        for fact, value in self.identity.items():
            if found.get(fact) != value:
                rule = f"a training goes on in its own checkpoint_dir only: {name} must be of {fact} {_brief(value)}"
                remedy = "Choose another checkpoint_dir, an empty one, or train what this one was for."
                raise InputError(rule, f"{_brief(found.get(fact))} in {self.uri}", remedy)


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """An event that is set when the process is asked to end (SIGTERM), as a node that is taken away asks its pods."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may a process say how it takes signals
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _packed(state: State) -> bytes:
    file = io.BytesIO()
    about = json.dumps({"step": state.step, **state.about})
    np.savez(file, allow_pickle=False, **{ABOUT: np.array(about), **state.arrays})
    return file.getvalue()


def _unpacked(packed: bytes) -> State:
    with np.load(io.BytesIO(packed)) as archive:
        arrays = dict(archive)
    about = json.loads(str(arrays.pop(ABOUT)))
    return State(about["step"], arrays, about)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
