"""Monitoring of a training: events as TensorBoard reads them, their upload, profiles and log lines."""

import re
import socket
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support.model_servers import until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kfp_vision.storage import base, retry
from kfp_vision.training import monitoring

TRACE_BYTES = 8_000_000


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "loss": 2 / step, "accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 40.0, **more}


def read_events(folder: Path) -> EventAccumulator:
    """Reads the events in a folder as TensorBoard does."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def scalars(folder: Path, name: str) -> dict[int, float]:
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in read_events(folder).Tensors(name)}


def watch(events: Path, log_uri: object = "", train_steps: int = 3, **options):
    return monitoring.monitor_training(events, str(log_uri), train_steps, name="flowers-1", **options)


def test_tensorboard_reads_all_scalars_and_images(tmp_path):
    images = np.stack([np.full((5, 6, 3), shade, "float32") for shade in range(0, 250, 25)])
    with watch(tmp_path) as monitor:
        monitor.log_images(tf.constant(images))
        for step in (1, 2):
            monitor.log_row(row(step))
        monitor.log_row(row(3, validation_loss=0.25, validation_accuracy=0.75, input_wait=0.5))
    assert scalars(tmp_path, "loss") == pytest.approx({1: 2.0, 2: 1.0, 3: 2 / 3})
    assert scalars(tmp_path, "images_per_second") == {1: 40.0, 2: 40.0, 3: 40.0}
    assert scalars(tmp_path, "validation_accuracy") == {3: 0.75}
    assert scalars(tmp_path, "input_wait") == {3: 0.5}
    (summary,) = read_events(tmp_path).Tensors("pictures as the network gets them")
    width, height, *encoded = tf.make_ndarray(summary.tensor_proto)
    assert (width, height) == (b"6", b"5")
    assert [int(tf.io.decode_png(png).numpy().mean()) for png in encoded] == list(range(0, 200, 25))


def test_events_are_uploaded_during_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_UPLOADS", 0.05)
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_LINES", 0.0)
    logs, target = tmp_path / "logs", tmp_path / "logs" / "flowers-1"
    target.mkdir(parents=True)
    (target / "events.out.tfevents.1.before").write_bytes(b"")
    (logs / "flowers-0").mkdir()
    with watch(tmp_path / "events", logs, 2) as monitor:
        monitor.log_row(row(1))
        until(lambda: "loss" in read_events(target).Tags()["tensors"])
        assert scalars(target, "loss") == {1: 2.0}
        monitor.log_row(row(2))
    (events,) = (tmp_path / "events").iterdir()
    assert (target / events.name).read_bytes() == events.read_bytes()
    assert {path.name for path in target.iterdir()} == {events.name, "events.out.tfevents.1.before"}
    assert scalars(target, "loss") == {1: 2.0, 2: 1.0}


def test_events_of_a_failed_training_are_uploaded(tmp_path):
    with pytest.raises(ZeroDivisionError), watch(tmp_path / "events", tmp_path / "logs") as monitor:
        monitor.log_row(row(1))
        raise ZeroDivisionError
    assert scalars(tmp_path / "logs" / "flowers-1", "loss") == {1: 2.0}


def test_an_unreachable_store_causes_one_warning_and_does_not_stop_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_UPLOADS", 0.01)
    monkeypatch.setattr(retry, "SOON", 0.05)
    for name in base.ENVIRONMENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with watch(tmp_path / "events", "s3://bucket/logs?endpoint=http://127.0.0.1:9") as monitor:
        for step in (1, 2, 3):
            monitor.log_row(row(step))
            time.sleep(0.2)
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: cannot upload events to s3://bucket/logs/flowers-1?endpoint=http://127.0.0.1:9; ")
    assert scalars(tmp_path / "events", "loss").keys() == {1, 2, 3}


def test_a_store_that_hangs_delays_the_end_only_until_a_timeout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "SECONDS_FOR_LAST_UPLOAD", 0.2)
    monkeypatch.setattr(retry, "SOON", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        with watch(tmp_path / "events", f"s3://bucket/logs?endpoint=http://127.0.0.1:{silent.getsockname()[1]}") as monitor:
            monitor.log_row(row(1))
        assert "warning: the last events were not uploaded to s3://bucket/logs/flowers-1" in capsys.readouterr().out
    until(lambda: "events" not in [thread.name for thread in threading.enumerate()])  # unblocked by closing the socket


@tf.function
def training_step(weights: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matmul(weights, weights)


def profile_steps(events: Path, steps: int, *, per_call: int = 1, **options) -> list[Path]:
    """Runs training steps, so many a call, and returns the files of the traces."""
    weights = tf.random.normal((64, 64))
    with watch(events, train_steps=steps, **options) as monitor:
        for step in range(options.get("first_step", 0), steps, per_call):
            monitor.before_step(step)
            weights = training_step(weights / 64)
            monitor.after_step(step + per_call - 1)
    return sorted(events.rglob("*.xplane.pb"))


def test_profiles_a_few_steps_in_a_small_trace(tmp_path):
    (trace,) = profile_steps(tmp_path, 20, profile_steps=3)
    assert trace.relative_to(tmp_path).parts[:2] == ("plugins", "profile")
    content = trace.read_bytes()
    assert len(content) < TRACE_BYTES
    assert b"MatMul" in content


def test_profiles_one_call_of_more_steps_than_asked_for(tmp_path):
    assert len(profile_steps(tmp_path, 32, per_call=8, profile_steps=3)) == 1


def test_profiles_nothing_unless_requested_and_enough_steps_remain(tmp_path):
    assert profile_steps(tmp_path / "none", 20) == []
    assert profile_steps(tmp_path / "short", 12, profile_steps=3) == []
    assert profile_steps(tmp_path / "resumed", 20, first_step=9, profile_steps=3) == []


def test_a_profiler_already_in_use_causes_a_warning(tmp_path, capsys):
    tf.profiler.experimental.start(str(tmp_path / "another"))
    try:
        assert profile_steps(tmp_path / "events", 20, profile_steps=3) == []
    finally:
        tf.profiler.experimental.stop()
    assert "warning: no profile is taken (" in capsys.readouterr().out


def test_the_remaining_time_is_estimated_from_the_steps_of_this_run(tmp_path, capsys):
    before = time.monotonic()
    with watch(tmp_path, train_steps=1000, first_step=900) as monitor:
        started = time.monotonic()
        time.sleep(0.5)
        after = time.monotonic()
        monitor.log_row(row(910))
    ended = time.monotonic()
    (minutes, seconds) = re.search(r"eta (\d+)m(\d+)s", capsys.readouterr().out).groups()
    # Ten steps are done and ninety remain, so the estimate is nine times the elapsed time.
    assert 9 * (after - started) - 1 <= 60 * int(minutes) + int(seconds) <= 9 * (ended - before) + 1


def test_long_waits_for_input_cause_one_warning(tmp_path, capsys):
    steps = count(1)
    with watch(tmp_path, train_steps=1000) as monitor:
        for wait in (0.0, 0.05, 0.1, 0.02):
            monitor.log_row(row(next(steps), input_wait=wait))
        assert "waits for its images" not in capsys.readouterr().out
        for _ in range(10):
            monitor.log_row(row(next(steps), input_wait=0.4))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "waits for its images" in line]
    assert re.fullmatch(r"the training waits for its images (\d+)% of the time\. Give its pod more CPU, .*", line)


def test_run_names_have_model_and_time():
    assert re.fullmatch(r"flowers-\d{8}-\d{6}", monitoring.run_name("flowers"))
