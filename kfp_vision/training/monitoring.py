"""Monitoring of a running training: progress lines, and TensorBoard events, which can be uploaded meanwhile."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import tf
from kfp_vision.reports.pages import MIN_REPORTED_WAIT
from kfp_vision.storage import base, retry, uris, writing

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_UPLOADS = 60.0
SECONDS_FOR_LAST_UPLOAD = 120.0  # an unreachable store must not delay the trained model
IMAGES_LOGGED = 8
STEPS_BEFORE_PROFILE = 10  # the first steps compile, and fill the prefetch buffer
SHORT_NAMES = {  # of figures, in progress lines
    "accuracy": "acc",
    "micro_f1": "f1",
    "validation_accuracy": "val_acc",
    "validation_mean_average_precision": "val_map",
}
INPUT_WAIT_ROWS, SECONDS_BETWEEN_ADVICE = 3, 300.0


def run_name(model_name: str) -> str:
    """Returns a new name for the events folder of a training; TensorBoard shows each folder as a run.

    Args:
        model_name: name of the model, the first part of the result.
    """
    return f"{model_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


class TrainingMonitor:
    """Records the progress of a training; created by `monitor_training`."""

    def __init__(self, events: Path, train_steps: int, first_step: int, profile_steps: int):
        self._events, self._train_steps, self._first_step = events, train_steps, first_step
        begin = first_step + STEPS_BEFORE_PROFILE
        self._profiled = range(begin, begin + profile_steps if begin + profile_steps <= train_steps else begin)
        self._profiling = False
        self._writer = tf.summary.create_file_writer(str(events))
        self._start = time.monotonic()
        self._last_line = self._last_advice = -float("inf")
        self._waits: deque[float] = deque(maxlen=INPUT_WAIT_ROWS)

    def log_row(self, row: Mapping[str, float]) -> None:
        """Writes a row of history as events, and prints a progress line every few seconds.

        Args:
            row: `step`, from 1; `loss`, `accuracy`, `learning_rate`, `images_per_second`; optional: `input_wait`, the share of
                the time (0 to 1) in which the network waited for images, `validation_loss` and `validation_accuracy`. Where
                images have several labels, `micro_f1` and `validation_mean_average_precision` stand for the accuracies.
        """
        step, now = int(row["step"]), time.monotonic()
        with self._writer.as_default(step):
            for name, value in row.items():
                if name != "step":
                    tf.summary.scalar(name, value)
        if now - self._last_line >= SECONDS_BETWEEN_LINES or "validation_loss" in row or step == self._train_steps:
            seconds_per_step = (now - self._start) / max(step - self._first_step, 1)
            print(progress_line(row, self._train_steps, seconds_per_step * (self._train_steps - step)), flush=True)
            self._last_line = now
            self._writer.flush()
        if "input_wait" in row:
            self._advise(row["input_wait"], now)

    def log_images(self, batch: tf.Tensor) -> None:
        """Writes the first few images of a batch as events, as the network receives them.

        Args:
            batch: float32 (batch, height, width, 3) in 0 to 255.
        """
        images = tf.cast(tf.clip_by_value(batch[:IMAGES_LOGGED], 0, 255), tf.uint8)
        with self._writer.as_default(self._first_step):
            tf.summary.image("pictures as the network gets them", images, max_outputs=IMAGES_LOGGED)
        self._writer.flush()

    def before_step(self, step: int) -> None:
        """Starts the profiler if this is the first step to profile. Must be called before each step.

        Args:
            step: from 0.
        """
        if self._profiled and not self._profiling and step >= self._profiled.start:
            self._profiled = range(step, step + len(self._profiled))
            with _warn_on_failure("no profile is taken"):
                # Tracing Python calls as well would make a trace of hundreds of megabytes.
                tf.profiler.experimental.start(
                    str(self._events), tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
                )
                self._profiling = True
            if not self._profiling:
                self._profiled = range(0)

    def after_step(self, step: int) -> None:
        """Stops the profiler if this was the last step to profile. Must be called after each step.

        Args:
            step: from 0.
        """
        if self._profiling and step + 1 >= self._profiled.stop:
            with _warn_on_failure("no profile is kept"):
                with contextlib.suppress(tf.errors.OpError):  # not among several workers, which wait at each step
                    tf.test.experimental.sync_devices()
                self._stop_profiler()

    def close(self) -> None:
        """Writes pending events, and stops the profiler."""
        if self._profiling:  # the training failed while it was profiled
            with _warn_on_failure("no profile is kept"):
                self._stop_profiler()
        self._writer.close()

    def _stop_profiler(self) -> None:
        self._profiling, self._profiled = False, range(0)
        tf.profiler.experimental.stop()

    def _advise(self, wait: float, now: float) -> None:
        """Prints what to do if the network waits for its input."""
        self._waits.append(wait)
        share = sum(self._waits) / INPUT_WAIT_ROWS
        if (
            len(self._waits) == INPUT_WAIT_ROWS
            and share > MIN_REPORTED_WAIT
            and now - self._last_advice >= SECONDS_BETWEEN_ADVICE
        ):
            remedy = "Give its pod more CPU, or set max_side in advanced, so that the records hold smaller images."
            print(f"the training waits for its images {share:.0%} of the time. {remedy}", flush=True)
            self._last_advice = now


@contextlib.contextmanager
def monitor_training(
    events: Path, log_uri: str, train_steps: int, *, name: str, first_step: int = 0, profile_steps: int = 0
) -> Iterator[TrainingMonitor]:
    """Monitors a training while the body runs.

    Args:
        events: folder to write for TensorBoard.
        log_uri: folder or bucket folder to which the events are uploaded every minute, and at the end, even after a failure;
            empty for none. An unreachable store is logged once, and does not stop the training.
        train_steps: steps of the whole training.
        name: folder below `log_uri`, from `run_name`. A training that resumes reuses its name; the events already there stay.
        first_step: steps taken before, by another process.
        profile_steps: number of steps to profile, soon after the first; 0 for none.

    Yields:
        The object to report rows, images and steps to.
    """
    monitor = TrainingMonitor(events, train_steps, first_step, profile_steps)
    with _uploading(events, uris.join_uri(log_uri, name)) if log_uri else contextlib.nullcontext():
        try:
            yield monitor
        finally:
            monitor.close()


@contextlib.contextmanager
def _uploading(events: Path, target: str) -> Iterator[None]:
    """Uploads new events in a thread while the body runs, and once more afterwards."""
    mirror, ended = writing.Mirror(events, target), threading.Event()

    def upload_periodically() -> None:
        warned = False
        while True:
            last = ended.wait(SECONDS_BETWEEN_UPLOADS)
            warned = _upload(mirror.sync, target, warned)
            if last:
                return

    print(f"uploads TensorBoard events to {base.redact_uri(target)}", flush=True)
    thread = threading.Thread(target=upload_periodically, name="events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(SECONDS_FOR_LAST_UPLOAD)
        if thread.is_alive():
            print(
                f"warning: the last events were not uploaded to {base.redact_uri(target)}; the artifact has all of them",
                flush=True,
            )


def _upload(upload: Callable[[], None], target: str, warned: bool) -> bool:
    """Uploads once; warns of a failure unless the previous call did. Returns whether it failed."""
    try:
        with retry.in_background():
            upload()
    except (Exception, InputError) as error:  # whatever a store's client raises must not stop the training
        if not warned:
            reason = str(error).removeprefix(InputError.PREFIX) or type(error).__name__
            print(f"warning: cannot upload events to {base.redact_uri(target)}; the training goes on ({reason})", flush=True)
        return True
    return False


@contextlib.contextmanager
def _warn_on_failure(consequence: str) -> Iterator[None]:
    """Prints a warning if the body fails: profiling is best effort, and must not stop the training."""
    try:
        yield
    except Exception as error:
        print(f"warning: {consequence} ({' '.join(str(error).split())[:200]})", flush=True)


def progress_line(row: Mapping[str, float], train_steps: int, seconds_left: float) -> str:
    """Formats a row of history, such as `step 120/6000  loss 0.41  acc 0.88  43 img/s  eta 2m16s`.

    Args:
        row: see `Watch.log_row`.
        train_steps: steps of the whole training.
        seconds_left: estimated seconds until its end.
    """
    line = f"step {row['step']:.0f}/{train_steps}  loss {row['loss']:.3f}"
    for name, short in SHORT_NAMES.items():
        if name in row:
            line += f"  {short} {row[name]:.3f}"
    return line + _rate(row["images_per_second"], seconds_left)


def features_line(done: int, count: int, seconds: float) -> str:
    """Formats how many images have features, such as `features of 1600/7200 images  150 img/s  eta 0m37s`.

    Args:
        done: images that have features, at least one.
        count: images in all.
        seconds: since the first.
    """
    return f"features of {done}/{count} images" + _rate(done / seconds, (count - done) * seconds / done)


def _rate(images_per_second: float, seconds_left: float) -> str:
    minutes, seconds = divmod(round(seconds_left), 60)
    eta = f"  eta {minutes}m{seconds:02}s" if seconds_left >= 1 else ""
    return f"  {images_per_second:.0f} img/s{eta}"
