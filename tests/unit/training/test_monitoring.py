"""A training that is watched: what TensorBoard's own reader finds, what is brought elsewhere, and what is said."""

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


def read(folder: Path) -> EventAccumulator:
    """What TensorBoard reads there."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def scalars(folder: Path, name: str) -> dict[int, float]:
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in read(folder).Tensors(name)}


def watch(events: Path, log_uri: object = "", train_steps: int = 3, **options):
    return monitoring.monitor_training(events, str(log_uri), train_steps, name="flowers-1", **options)


def test_tensorboard_reads_every_value_and_the_pictures(tmp_path):
    pictures = np.stack([np.full((5, 6, 3), shade, "float32") for shade in range(0, 250, 25)])
    with watch(tmp_path) as seen:
        seen.log_images(tf.constant(pictures))
        for step in (1, 2):
            seen.log_row(row(step))
        seen.log_row(row(3, validation_loss=0.25, validation_accuracy=0.75, input_wait=0.5))
    assert scalars(tmp_path, "loss") == pytest.approx({1: 2.0, 2: 1.0, 3: 2 / 3})
    assert scalars(tmp_path, "images_per_second") == {1: 40.0, 2: 40.0, 3: 40.0}
    assert scalars(tmp_path, "validation_accuracy") == {3: 0.75}
    assert scalars(tmp_path, "input_wait") == {3: 0.5}
    (shown,) = read(tmp_path).Tensors("pictures as the network gets them")
    width, height, *encoded = tf.make_ndarray(shown.tensor_proto)
    assert (width, height) == (b"6", b"5")
    assert [int(tf.io.decode_png(one).numpy().mean()) for one in encoded] == list(range(0, 200, 25))


def test_events_can_be_followed_elsewhere_while_the_training_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_UPLOADS", 0.05)
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_LINES", 0.0)
    logs, target = tmp_path / "logs", tmp_path / "logs" / "flowers-1"
    target.mkdir(parents=True)
    (target / "events.out.tfevents.1.before").write_bytes(b"")
    (logs / "flowers-0").mkdir()
    with watch(tmp_path / "events", logs, 2) as seen:
        seen.log_row(row(1))
        until(lambda: "loss" in read(target).Tags()["tensors"])
        assert scalars(target, "loss") == {1: 2.0}
        seen.log_row(row(2))
    (events,) = (tmp_path / "events").iterdir()
    assert (target / events.name).read_bytes() == events.read_bytes()
    assert {path.name for path in target.iterdir()} == {events.name, "events.out.tfevents.1.before"}
    assert scalars(target, "loss") == {1: 2.0, 2: 1.0}


def test_events_of_a_training_that_fails_are_brought_all_the_same(tmp_path):
    with pytest.raises(ZeroDivisionError), watch(tmp_path / "events", tmp_path / "logs") as seen:
        seen.log_row(row(1))
        raise ZeroDivisionError
    assert scalars(tmp_path / "logs" / "flowers-1", "loss") == {1: 2.0}


def test_a_store_that_does_not_answer_is_said_once_and_stops_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "SECONDS_BETWEEN_UPLOADS", 0.01)
    monkeypatch.setattr(retry, "SOON", 0.05)
    for name in base.ENVIRONMENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with watch(tmp_path / "events", "s3://bucket/logs?endpoint=http://127.0.0.1:9") as seen:
        for step in (1, 2, 3):
            seen.log_row(row(step))
            time.sleep(0.2)
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: cannot upload events to s3://bucket/logs/flowers-1?endpoint=http://127.0.0.1:9; ")
    assert scalars(tmp_path / "events", "loss").keys() == {1, 2, 3}


def test_a_store_that_hangs_holds_up_the_end_for_a_while_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "SECONDS_FOR_LAST_UPLOAD", 0.2)
    monkeypatch.setattr(retry, "SOON", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        with watch(tmp_path / "events", f"s3://bucket/logs?endpoint=http://127.0.0.1:{silent.getsockname()[1]}") as seen:
            seen.log_row(row(1))
        assert "warning: the last events were not uploaded to s3://bucket/logs/flowers-1" in capsys.readouterr().out
    until(lambda: "events" not in [thread.name for thread in threading.enumerate()])  # it was waiting for the server all along


@tf.function
def step_of_training(weights: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matmul(weights, weights)


def stepped(events: Path, steps: int, **options) -> list[Path]:
    """Takes steps, and gives the traces that this leaves."""
    weights = tf.random.normal((64, 64))
    with watch(events, train_steps=steps, **options) as seen:
        for step in range(options.get("first_step", 0), steps):
            seen.before_step(step)
            weights = step_of_training(weights / 64)
            seen.after_step(step)
    return sorted(events.rglob("*.xplane.pb"))


def test_a_few_steps_are_profiled_in_a_small_trace(tmp_path):
    (trace,) = stepped(tmp_path, 20, profile_steps=3)
    assert trace.relative_to(tmp_path).parts[:2] == ("plugins", "profile")
    content = trace.read_bytes()
    assert len(content) < TRACE_BYTES
    assert b"MatMul" in content


def test_no_step_is_profiled_where_none_is_asked_for_or_too_few_are_left(tmp_path):
    assert stepped(tmp_path / "none", 20) == []
    assert stepped(tmp_path / "short", 12, profile_steps=3) == []
    assert stepped(tmp_path / "resumed", 20, first_step=9, profile_steps=3) == []


def test_a_profile_that_another_takes_is_a_warning(tmp_path, capsys):
    tf.profiler.experimental.start(str(tmp_path / "another"))
    try:
        assert stepped(tmp_path / "events", 20, profile_steps=3) == []
    finally:
        tf.profiler.experimental.stop()
    assert "warning: no profile is taken (" in capsys.readouterr().out


def test_the_time_left_is_that_of_the_steps_taken_here(tmp_path, capsys):
    before = time.monotonic()
    with watch(tmp_path, train_steps=1000, first_step=900) as seen:
        begun = time.monotonic()
        time.sleep(0.5)
        after = time.monotonic()
        seen.log_row(row(910))
    ended = time.monotonic()
    (minutes, seconds) = re.search(r"eta (\d+)m(\d+)s", capsys.readouterr().out).groups()
    # Ten steps have been taken; ninety are left, each of which takes as long.
    assert 9 * (after - begun) - 1 <= 60 * int(minutes) + int(seconds) <= 9 * (ended - before) + 1


def test_a_training_that_waits_for_its_pictures_says_so_once(tmp_path, capsys):
    steps = count(1)
    with watch(tmp_path, train_steps=1000) as seen:
        for wait in (0.0, 0.05, 0.1, 0.02):
            seen.log_row(row(next(steps), input_wait=wait))
        assert "waits for its images" not in capsys.readouterr().out
        for _ in range(10):
            seen.log_row(row(next(steps), input_wait=0.4))
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "waits for its images" in line]
    assert re.fullmatch(r"the training waits for its images (\d+)% of the time\. Give its pod more CPU, .*", said)


def test_runs_of_one_model_have_folders_of_their_own():
    assert re.fullmatch(r"flowers-\d{8}-\d{6}", monitoring.run_name("flowers"))
