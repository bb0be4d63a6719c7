"""Checkpoints: a training that is killed or stopped resumes, and ends with the model of an uninterrupted one."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from support import shade_records
from support.model_servers import ended

from kfp_vision.core.errors import InputError
from kfp_vision.training.checkpointing import CheckpointFolder, TrainingState

pytestmark = pytest.mark.slow

KILLS = 5
STEPS = 120
# Trains in its own process, and records the step and the hash of the pixels of every batch consumed.
PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from support import shade_records
from kfp_vision.training import trainer

records, out, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
run = trainer.Trainer.run

def noted(self, batches, validation):
    def noting():
        for step, batch in enumerate(batches, self.step):
            with (out / "batches").open("a") as file:
                print(step, hashlib.md5(batch[0].numpy().tobytes()).hexdigest(), file=file)
            yield batch
    return run(self, noting(), validation)

trainer.Trainer.run = noted
shade_records.train(records, out, **changes)
"""
CHANGES = {
    "train_steps": STEPS,
    "learning_rate_schedule": "cosine",
    "advanced": {
        **shade_records.NARROW,
        "deterministic": True,
        "precision": "float32",
        "moving_average_decay": 0.9,
        "save_interval_secs": 0,
        "warmup_steps": 10,
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return shade_records.write(tmp_path_factory.mktemp("records"))


def start_training(folders: Path, out: Path, **changes) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    fields = {**CHANGES, "checkpoint_dir": str(out / "kept"), **changes}
    command = [sys.executable, "-c", PROGRAM, str(folders), str(out), json.dumps(fields)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(shade_records.__file__).parents[1]
    )


def consumed_batches(out: Path) -> list[tuple[int, str]]:
    """Returns the step and the hash of each batch, in the order of consumption."""
    file = out / "batches"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(step), pixels) for step, pixels in (line.split() for line in lines)]


def wait_for_step(out: Path, process: subprocess.Popen, more_than: int) -> None:
    while process.poll() is None and len(consumed_batches(out)) <= more_than:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    process = start_training(folders, out)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return out


def newest_checkpoint(out: Path) -> TrainingState:
    return CheckpointFolder(str(out / "kept"), {}).newest()


def test_killed_at_random_moments_the_training_ends_with_identical_weights(folders, undisturbed, tmp_path):
    chance = random.Random(11)
    consumed_by_run = []
    for _ in range(KILLS):
        before = len(consumed_batches(tmp_path))
        with ended(start_training(folders, tmp_path)) as process:
            # The first step is traced before the second batch is read.
            wait_for_step(tmp_path, process, before + chance.randint(1, STEPS // KILLS // 2))
            time.sleep(chance.uniform(0, 0.1))  # at any moment within a step
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        consumed_by_run.append(consumed_batches(tmp_path)[before:])
    process = start_training(folders, tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "resumes after step" in output

    uninterrupted = dict(consumed_batches(undisturbed))
    assert sorted(uninterrupted) == list(range(STEPS))
    for step, pixels in consumed_batches(tmp_path):
        assert pixels == uninterrupted[step]
    # At most two batches are consumed twice: that of the step being saved, and the next one.
    starts = [consumed[0][0] for consumed in consumed_by_run[1:]]
    for consumed, start in zip(consumed_by_run, starts, strict=False):
        assert 0 <= consumed[-1][0] + 1 - start <= 2
    assert consumed_batches(tmp_path)[-1][0] == STEPS - 1

    ours, theirs = newest_checkpoint(tmp_path), newest_checkpoint(undisturbed)
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in theirs.arrays.items():
        assert np.array_equal(ours.arrays[name], array), name
    assert [row["step"] for row in ours.about["history"]] == [row["step"] for row in theirs.about["history"]]
    exported = [keras.saving.load_model(out / "model" / "classifier.keras") for out in (tmp_path, undisturbed)]
    for weight, expected in zip(exported[0].get_weights(), exported[1].get_weights(), strict=True):
        assert np.array_equal(weight, expected)


def test_sigterm_saves_a_checkpoint_before_the_end(folders, undisturbed, tmp_path):
    seldom = CHANGES["advanced"] | {"save_interval_secs": 3600}
    with ended(start_training(folders, tmp_path, advanced=seldom, train_steps=100 * STEPS)) as process:
        wait_for_step(tmp_path, process, 3)
        process.terminate()
        output, _ = process.communicate()
    assert process.returncode == 143
    consumed = len(consumed_batches(tmp_path))
    assert f"stopped by SIGTERM: saved step {consumed} to {tmp_path / 'kept'}" in output
    assert newest_checkpoint(tmp_path).step == consumed
    assert not (tmp_path / "model").exists() and not (tmp_path / "events").exists()


def test_a_finished_training_is_not_repeated(folders, undisturbed, tmp_path):
    process = start_training(folders, tmp_path, checkpoint_dir=str(undisturbed / "kept"))
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"resumes after step {STEPS}" in output
    assert not consumed_batches(tmp_path)
    assert (tmp_path / "model" / "serving" / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("changes", "fact"),
    [({"batch_size": 4}, "batch_size 4"), ({"network": "googlenet"}, "network"), ({"optimizer": "sgd"}, "optimizer")],
)
def test_a_checkpoint_of_a_different_recipe_is_rejected(folders, undisturbed, tmp_path, changes, fact):
    fields = {**CHANGES, "checkpoint_dir": str(undisturbed / "kept"), **changes}
    with pytest.raises(InputError, match=f"must be of the training that resumes from it: step-.* must have {fact}"):
        shade_records.train(folders, tmp_path, **fields | {"advanced": fields["advanced"] | {"deterministic": False}})
    assert not list(tmp_path.rglob("*"))


def test_a_checkpoint_of_different_images_is_rejected(undisturbed, tmp_path):
    (tmp_path / "others").mkdir()
    other_folders = shade_records.write(tmp_path / "others", images=34)
    fields = {**CHANGES, "checkpoint_dir": str(undisturbed / "kept")}
    fields["advanced"] = fields["advanced"] | {"deterministic": False}
    with pytest.raises(InputError, match='must have pictures "'):
        shade_records.train(other_folders, tmp_path / "out", **fields)


# The checkpoint folder


def state(step: int) -> TrainingState:
    return TrainingState(step, {"model/0": np.full((3, 2), step, "float32")}, {"history": [], "best": {}, "ended_early": False})


def test_keeps_the_two_newest_checkpoints(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "kept"), {"network": "inception_v1"})
    assert folder.newest() is None
    for step in (5, 10, 15, 20):
        folder.save(state(step))
    folder.wait()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["step-00000015.npz", "step-00000020.npz"]
    newest = folder.newest()
    assert newest.step == 20
    np.testing.assert_array_equal(newest.arrays["model/0"], np.full((3, 2), 20, "float32"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "something else"])
def test_a_damaged_checkpoint_is_skipped(tmp_path, capsys, damage):
    folder = CheckpointFolder(str(tmp_path), {})
    for step in (5, 10):
        folder.save(state(step))
    folder.wait()
    newest_checkpoint = tmp_path / "step-00000010.npz"
    uninterrupted = newest_checkpoint.read_bytes()
    at = uninterrupted.index(np.full(6, 10, "float32").tobytes())
    damaged = {
        "cut": uninterrupted[: len(uninterrupted) // 2],
        "flipped": uninterrupted[:at] + b"\x07" + uninterrupted[at + 1 :],
        "empty": b"",
        "something else": b"not found, sorry",
    }
    newest_checkpoint.write_bytes(damaged[damage])
    assert folder.newest().step == 5
    assert f"skips the damaged checkpoint {newest_checkpoint} (" in capsys.readouterr().out


def test_damaged_checkpoints_of_later_steps_do_not_count_among_the_two(tmp_path):
    def names() -> list[int]:
        return sorted(int(path.stem.removeprefix("step-")) for path in tmp_path.iterdir())

    for step in (210, 211):
        (tmp_path / f"step-{step:08}.npz").write_bytes(b"cut off")
    folder = CheckpointFolder(str(tmp_path), {})
    assert folder.newest() is None
    kept = {}
    for step in (100, 200, 210, 220, 230):
        folder.save(state(step))
        folder.wait()
        kept[step] = names()
    assert kept == {
        100: [100, 210, 211],
        200: [100, 200, 210, 211],
        210: [200, 210, 211],
        220: [210, 211, 220],
        230: [220, 230],
    }
    assert CheckpointFolder(str(tmp_path), {}).newest().step == 230


def test_after_a_damaged_checkpoint_the_one_before_it_stays_as_the_second(tmp_path):
    folder = CheckpointFolder(str(tmp_path), {})
    for step in (5, 10):
        folder.save(state(step))
    folder.wait()
    (tmp_path / "step-00000010.npz").write_bytes(b"cut off")
    resumed = CheckpointFolder(str(tmp_path), {})
    assert resumed.newest().step == 5
    resumed.save(state(15))
    resumed.wait()
    (tmp_path / "step-00000015.npz").write_bytes(b"cut off")
    assert resumed.newest().step == 5


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["одуванчик", "роза"], '["одуванчик", "роза"]'),
        (
            ["одуванчик", "подсолнух", "ромашка", "тюльпан", "колокольчик", "роза"],
            '["одуванчик", "подсолнух", "ромашка", "тюльпан", ...',
        ),
        (["花" * 80, "роза"], f'["{"花" * 55}...'),
    ],
)
def test_a_checkpoint_of_other_classes_is_rejected_with_the_names_as_people_write_them(tmp_path, labels, shown):
    folder = CheckpointFolder(str(tmp_path), {"labels": labels})
    folder.save(state(5))
    folder.wait()
    with pytest.raises(InputError) as refusal:
        CheckpointFolder(str(tmp_path), {"labels": ["астра"]}).newest()
    rule = "error: a checkpoint must be of the training that resumes from it: step-00000005.npz must have labels"
    assert str(refusal.value).startswith(f'{rule} ["астра"]; got {shown} in {tmp_path}. ')


def test_a_checkpoint_that_cannot_be_written_raises_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = CheckpointFolder(str(tmp_path / "file"), {})
    folder.save(state(5))
    with pytest.raises(InputError, match=r"checkpoint_dir must stay writable to the end of the training; got File exists in /"):
        folder.wait()
