"""What a person sees of a training while it runs: lines of progress, and TensorBoard's events, there and elsewhere."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tensorflow as tf

from kfp_vision import storage, stores
from kfp_vision.errors import InputError
from kfp_vision.reports import WAIT_WORTH_SAYING
from kfp_vision.stores import patience

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_UPLOADS = 60.0
SECONDS_FOR_LAST_UPLOAD = 120.0  # a store that does not answer must not hold up what was trained
PICTURES = 8
STEPS_BEFORE_PROFILE = 10  # the first ones compile, and fill what is read ahead
ROWS_OF_WAIT, SECONDS_BETWEEN_ADVICE = 3, 300.0


def run_name(model_name: str) -> str:
    """A name for the folder of a training's events below `log_uri`: TensorBoard shows each folder as a run of its own."""
    return f"{model_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


class Watch:
    """A training that is watched; made by `watch`."""

    def __init__(self, events: Path, train_steps: int, first_step: int, profile_steps: int):
        self._events, self._train_steps, self._first_step = events, train_steps, first_step
        begin = first_step + STEPS_BEFORE_PROFILE
        self._profiled = range(begin, begin + profile_steps if begin + profile_steps <= train_steps else begin)
        self._profiling = False
        self._writer = tf.summary.create_file_writer(str(events))
        self._start = time.monotonic()
        self._printed = self._advised = -float("inf")
        self._waits: deque[float] = deque(maxlen=ROWS_OF_WAIT)

    def row(self, row: Mapping[str, float]) -> None:
        """Takes a row of history: its scalars become events, and a line is printed every few seconds.

        Args:
            row: `step`, counted from 1; `loss`, `accuracy`, `learning_rate`, `images_per_second`; maybe `input_wait`, the share
                of the time (0 to 1) in which the network waited for pictures, `validation_loss` and `validation_accuracy`.
        """
        step, now = int(row["step"]), time.monotonic()
        with self._writer.as_default(step):
            for name, value in row.items():
                if name != "step":
                    tf.summary.scalar(name, value)
        if now - self._printed >= SECONDS_BETWEEN_LINES or "validation_accuracy" in row or step == self._train_steps:
            seconds_a_step = (now - self._start) / max(step - self._first_step, 1)
            print(progress_line(row, self._train_steps, seconds_a_step * (self._train_steps - step)), flush=True)
            self._printed = now
            self._writer.flush()
        if "input_wait" in row:
            self._advise(row["input_wait"], now)

    def pictures(self, batch: Any) -> None:
        """Shows the first few pictures of a batch, as the network gets them.

        Args:
            batch: float32 (batch, height, width, 3), from 0 to 255.
        """
        shown = tf.cast(tf.clip_by_value(batch[:PICTURES], 0, 255), tf.uint8)
        with self._writer.as_default(self._first_step):
            tf.summary.image("pictures as the network gets them", shown, max_outputs=PICTURES)
        self._writer.flush()

    def before_step(self, step: int) -> None:
        """To be called before each step, counted from 0: begins the profile where it is due."""
        if self._profiled and step == self._profiled.start:
            with _not_in_the_way("no profile is taken"):
                # Python's own calls would make a trace of hundreds of megabytes.
                tf.profiler.experimental.start(
                    str(self._events), tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
                )
                self._profiling = True

    def after_step(self, step: int) -> None:
        """To be called after each step, counted from 0: ends the profile after the last step that it is of."""
        if self._profiling and step + 1 >= self._profiled.stop:
            with _not_in_the_way("no profile is kept"):
                tf.test.experimental.sync_devices()
                self._end_profile()

    def close(self) -> None:
        """Writes what is still to be written."""
        if self._profiling:  # the training has failed in the middle of it
            with _not_in_the_way("no profile is kept"):
                self._end_profile()
        self._writer.close()

    def _end_profile(self) -> None:
        self._profiling = False
        tf.profiler.experimental.stop()

    def _advise(self, wait: float, now: float) -> None:
        self._waits.append(wait)
        share = sum(self._waits) / ROWS_OF_WAIT
        if len(self._waits) == ROWS_OF_WAIT and share > WAIT_WORTH_SAYING and now - self._advised >= SECONDS_BETWEEN_ADVICE:
            remedy = "Give its pod more CPU, or set max_side in advanced, so that the records hold smaller pictures."
            print(f"the training waits for its pictures {share:.0%} of the time. {remedy}", flush=True)
            self._advised = now


@contextlib.contextmanager
def watch(
    events: Path, log_uri: str, train_steps: int, *, name: str, first_step: int = 0, profile_steps: int = 0
) -> Iterator[Watch]:
    """Watches a training: gives what its rows, its first pictures and its steps are to be told.

    Args:
        events: the folder to write for TensorBoard.
        log_uri: a folder or bucket folder to which the same is brought every minute, and in the end, whatever it is; empty for
            none. A store that does not answer is said in one line and stops nothing.
        train_steps: of the whole training.
        name: of the folder below log_uri, as `run_name` gives it; a training that goes on takes the one it began with, and the
            events that lie there stay.
        first_step: how many steps were taken before, by another process.
        profile_steps: how many steps to profile, a few after the first; 0 for none.
    """
    seen = Watch(events, train_steps, first_step, profile_steps)
    with _brought(events, storage.inside(log_uri, name)) if log_uri else contextlib.nullcontext():
        try:
            yield seen
        finally:
            seen.close()


@contextlib.contextmanager
def _brought(events: Path, target: str) -> Iterator[None]:
    """While the body runs, a thread brings what is new in a folder to another; once more when the body has ended."""
    mirror, ended = storage.Mirror(events, target), threading.Event()

    def bring_again_and_again() -> None:
        said = False
        while True:
            last = ended.wait(SECONDS_BETWEEN_UPLOADS)
            said = _bring(mirror.sync, target, said)
            if last:
                return

    print(f"TensorBoard's events are brought to {stores.shown(target)}", flush=True)
    thread = threading.Thread(target=bring_again_and_again, name="events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(SECONDS_FOR_LAST_UPLOAD)
        if thread.is_alive():
            print(f"warning: the last events have not come to {stores.shown(target)}; the artifact has them all", flush=True)


def _bring(bring: Callable[[], None], target: str, said: bool) -> bool:
    """Brings, and says what keeps it from it, unless that was said already; gives whether it is said now."""
    try:
        with patience.in_the_background():
            bring()
    except (Exception, InputError) as reason:  # whatever a store's client raises, the training goes on
        if not said:
            why = str(reason).removeprefix(InputError.PREFIX) or type(reason).__name__
            print(f"warning: events cannot be brought to {stores.shown(target)} now; the training goes on ({why})", flush=True)
        return True
    return False


@contextlib.contextmanager
def _not_in_the_way(consequence: str) -> Iterator[None]:
    """A profile is a help, and its failure none of the training's."""
    try:
        yield
    except Exception as reason:
        print(f"warning: {consequence} ({' '.join(str(reason).split())[:200]})", flush=True)


def progress_line(row: Mapping[str, float], train_steps: int, seconds_left: float) -> str:
    """Such as `step 120/6000  loss 0.41  acc 0.88  43 img/s  eta 2m16s`."""
    line = f"step {row['step']:.0f}/{train_steps}  loss {row['loss']:.3f}  acc {row['accuracy']:.3f}"
    if "validation_accuracy" in row:
        line += f"  val_acc {row['validation_accuracy']:.3f}"
    line += f"  {row['images_per_second']:.0f} img/s"
    minutes, seconds = divmod(round(seconds_left), 60)
    return f"{line}  eta {minutes}m{seconds:02}s" if seconds_left >= 1 else line
