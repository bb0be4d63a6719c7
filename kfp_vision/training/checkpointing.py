"""Checkpoints of a training: its whole state in one file, saved to a folder or bucket that keeps the newest ones.

A file `step-00000120.npz` holds arrays by name, and a JSON text under `about`. The format has checksums: damaged files are
detected and skipped.
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
import numpy.typing as npt

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError, NotFoundError
from kfp_vision.storage import reading, uris, writing

CHECKPOINT_FILE = re.compile(r"step-(\d{8})\.npz")
FILE_NAME = "step-{:08}.npz"
CHECKPOINTS_KEPT = 2
METADATA_KEY = "about"
MAX_SHOWN = 60  # characters of a value in a message
DAMAGED_FILE_ERRORS = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile)


@dataclass(frozen=True)
class TrainingState:
    """The state of a training between two steps.

    Attributes:
        step: steps taken.
        arrays: weights, optimizer variables and other arrays, by name.
        about: everything else, as JSON values.
    """

    step: int
    arrays: Mapping[str, npt.NDArray[Any]]
    about: Mapping[str, Any]


class CheckpointFolder:
    """The checkpoints of one training.

    Example:
        folder = CheckpointFolder("s3://bucket/checkpoints", {"network": "resnet50", "seed": 0})
        state = folder.newest()
        folder.save(TrainingState(step=120, arrays=arrays, about={}))
        folder.wait()

    Args:
        uri: path or bucket folder.
        identity: facts, by name, that must be the same when a training resumes.
    """

    def __init__(self, uri: str, identity: Mapping[str, Any]):
        self.uri, self.identity = uri, json.loads(json.dumps(identity))
        self._damaged: set[str] = set()
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: concurrent.futures.Future[None] | None = None

    def newest(self) -> TrainingState | None:
        """Reads the newest intact checkpoint; returns None if there is none.

        Raises:
            InputError: it belongs to another training, or cannot be read.
        """
        for name in reversed(self._names()):
            try:
                state = _unpack(self._read(name))
            except DAMAGED_FILE_ERRORS as error:
                print(f"skips the damaged checkpoint {uris.join_uri(self.uri, name)} ({type(error).__name__})", flush=True)
                self._damaged.add(name)
                continue
            self._check_identity(state.about["identity"], name)
            return state
        return None

    def at(self, step: int) -> TrainingState:
        """Reads the checkpoint of a step, from which another worker of the training resumes.

        Args:
            step: of the checkpoint.

        Raises:
            InputError: it is missing or damaged, or belongs to another training.
        """
        name = FILE_NAME.format(step)
        try:
            state = _unpack(self._read(name))
        except (NotFoundError, *DAMAGED_FILE_ERRORS) as error:
            rule = f"checkpoint_dir must be one folder that all workers reach, with the {name} from which worker 0 resumes"
            found = (
                f"none in {self.uri}"
                if isinstance(error, NotFoundError | FileNotFoundError)
                else f"a damaged one in {self.uri}"
            )
            raise InputError(rule, found, "Set it to a folder of a bucket, or of a shared file system.") from None
        self._check_identity(state.about["identity"], name)
        return state

    def save(self, state: TrainingState) -> None:
        """Starts to write a checkpoint in the background, once the previous one is written.

        Args:
            state: what to write.

        Raises:
            InputError: the previous one could not be written.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, state)

    def wait(self) -> None:
        """Waits until the checkpoint is written.

        Raises:
            InputError: it could not be written.
        """
        if self._pending:
            self._pending.result()
            self._pending = None

    def _write(self, state: TrainingState) -> None:
        packed = _pack(TrainingState(state.step, state.arrays, {**state.about, "identity": self.identity}))
        written = FILE_NAME.format(state.step)
        try:
            writing.write_file(packed, uris.join_uri(self.uri, written))
            self._damaged.discard(written)
            for name in self._superseded(written):
                writing.delete_file(uris.join_uri(self.uri, name))
        except OSError as error:  # of the file system: a full disk, a folder that others have made read-only
            found = f"{error.strerror or type(error).__name__} in {self.uri}"
            remedy = "Make room there, or choose another checkpoint_dir, and start the run again."
            raise InputError("checkpoint_dir must stay writable to the end of the training", found, remedy) from None

    def _superseded(self, written: str) -> list[str]:
        """Returns the files before the newest intact ones, the last of which is that just written; later ones stay."""
        names = self._names()
        intact = sorted({written, *(name for name in names if name < written and name not in self._damaged)})
        return [name for name in names if name < intact[-CHECKPOINTS_KEPT:][0]]

    def _names(self) -> list[str]:
        return [found.name for found in reading.list_files(self.uri) if CHECKPOINT_FILE.fullmatch(found.name)]

    def _read(self, name: str) -> bytes:
        with reading.Reader() as reader:
            return reader.read(uris.join_uri(self.uri, name))

    def _check_identity(self, found: Mapping[str, Any], name: str) -> None:
        for fact, value in self.identity.items():
            if found.get(fact) != value:
                rule = f"a checkpoint must be of the training that resumes from it: {name} must have {fact} {_shorten(value)}"
                remedy = "Choose another, empty checkpoint_dir, or train with the settings of the checkpoint."
                raise InputError(rule, f"{_shorten(found.get(fact))} in {self.uri}", remedy)


@contextmanager
def sigterm_event() -> Iterator[threading.Event]:
    """Yields an event that is set on SIGTERM, which pods receive when their node is drained."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may install signal handlers
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _pack(state: TrainingState) -> bytes:
    file = io.BytesIO()
    about = json.dumps({"step": state.step, **state.about})
    np.savez(file, allow_pickle=False, **{METADATA_KEY: np.array(about), **state.arrays})
    return file.getvalue()


def _unpack(packed: bytes) -> TrainingState:
    with np.load(io.BytesIO(packed)) as archive:
        arrays = dict(archive)
    about = json_text.parse(str(arrays.pop(METADATA_KEY)))
    return TrainingState(about["step"], arrays, about)


def _shorten(value: Any) -> str:
    """Returns a value as JSON, truncated; of a list of names, between two of them."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= MAX_SHOWN:
        return text
    start = text[: MAX_SHOWN - len("...")]
    whole, end, _ = start.rpartition('", ')
    return f"{whole}{end}..." if whole else f"{start}..."
