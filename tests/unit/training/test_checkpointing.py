"""A training that is killed, stopped or started again: nothing is lost, and what comes out is what would have come out."""

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

KILLS = 10
STEPS = 120
# Trains in a process of its own, and writes down of every batch that is taken: the number of its step, and its pixels' hash.
PROGRAM = """
import hashlib, json, sys
from pathlib import Path
import shade_records
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


def started(folders: Path, out: Path, **changes) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    fields = {**CHANGES, "checkpoint_dir": str(out / "kept"), **changes}
    command = [sys.executable, "-c", PROGRAM, str(folders), str(out), json.dumps(fields)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(shade_records.__file__).parent
    )


def steps_of(out: Path) -> list[tuple[int, str]]:
    """(step, hash of its batch) in the order in which they were taken."""
    file = out / "batches"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(step), pixels) for step, pixels in (line.split() for line in lines)]


def wait_for_a_step(out: Path, process: subprocess.Popen, more_than: int) -> None:
    while process.poll() is None and len(steps_of(out)) <= more_than:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    process = started(folders, out)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return out


def newest(out: Path) -> TrainingState:
    return CheckpointFolder(str(out / "kept"), {}).newest()


def test_killed_at_ten_random_moments_it_ends_with_the_same_weights_to_the_bit(folders, undisturbed, tmp_path):
    chance = random.Random(11)
    taken_by_each = []
    for _ in range(KILLS):
        before = len(steps_of(tmp_path))
        with ended(started(folders, tmp_path)) as process:
            # Before the second batch lies the tracing of the first step.
            wait_for_a_step(tmp_path, process, before + chance.randint(1, STEPS // KILLS // 2))
            time.sleep(chance.uniform(0, 0.1))  # wherever in a step, however long one takes
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        taken_by_each.append(steps_of(tmp_path)[before:])
    process = started(folders, tmp_path)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "resumes after step" in said

    whole = dict(steps_of(undisturbed))
    assert sorted(whole) == list(range(STEPS))
    for step, pixels in steps_of(tmp_path):
        assert pixels == whole[step]
    # Two batches at the most are taken twice: that of the step that was being written, and the one after it.
    starts = [taken[0][0] for taken in taken_by_each[1:]]
    for taken, start in zip(taken_by_each, starts, strict=False):
        assert 0 <= taken[-1][0] + 1 - start <= 2
    assert steps_of(tmp_path)[-1][0] == STEPS - 1

    ours, theirs = newest(tmp_path), newest(undisturbed)
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in theirs.arrays.items():
        assert np.array_equal(ours.arrays[name], array), name
    assert [row["step"] for row in ours.about["history"]] == [row["step"] for row in theirs.about["history"]]
    exported = [keras.saving.load_model(out / "model" / "classifier.keras") for out in (tmp_path, undisturbed)]
    for weight, other in zip(exported[0].get_weights(), exported[1].get_weights(), strict=True):
        assert np.array_equal(weight, other)


def test_told_to_end_it_saves_first(folders, undisturbed, tmp_path):
    seldom = CHANGES["advanced"] | {"save_interval_secs": 3600}
    with ended(started(folders, tmp_path, advanced=seldom, train_steps=100 * STEPS)) as process:
        wait_for_a_step(tmp_path, process, 3)
        process.terminate()
        said, _ = process.communicate()
    assert process.returncode == 143
    taken = len(steps_of(tmp_path))
    assert f"stopped by SIGTERM: saved step {taken} to {tmp_path / 'kept'}" in said
    assert newest(tmp_path).step == taken
    assert not (tmp_path / "model").exists() and not (tmp_path / "events").exists()


def test_what_is_finished_is_not_trained_again(folders, undisturbed, tmp_path):
    process = started(folders, tmp_path, checkpoint_dir=str(undisturbed / "kept"))
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert f"resumes after step {STEPS}" in said
    assert not steps_of(tmp_path)
    assert (tmp_path / "model" / "serving" / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("changes", "fact"),
    [({"batch_size": 4}, "batch_size 4"), ({"network": "googlenet"}, "network"), ({"optimizer": "sgd"}, "optimizer")],
)
def test_a_training_of_something_else_is_refused(folders, undisturbed, tmp_path, changes, fact):
    fields = {**CHANGES, "checkpoint_dir": str(undisturbed / "kept"), **changes}
    with pytest.raises(InputError, match=f"must be of the training that resumes from it: step-.* must have {fact}"):
        shade_records.train(folders, tmp_path, **fields | {"advanced": fields["advanced"] | {"deterministic": False}})
    assert not list(tmp_path.rglob("*"))


def test_other_pictures_are_refused(undisturbed, tmp_path):
    (tmp_path / "others").mkdir()
    others = shade_records.write(tmp_path / "others", images=34)
    fields = {**CHANGES, "checkpoint_dir": str(undisturbed / "kept")}
    fields["advanced"] = fields["advanced"] | {"deterministic": False}
    with pytest.raises(InputError, match='must have pictures "'):
        shade_records.train(others, tmp_path / "out", **fields)


# The folder itself


def state(step: int) -> TrainingState:
    return TrainingState(step, {"model/0": np.full((3, 2), step, "float32")}, {"history": [], "best": {}, "ended_early": False})


def test_the_newest_few_are_kept(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "kept"), {"network": "inception_v1"})
    assert folder.newest() is None
    for step in (5, 10, 15, 20):
        folder.save(state(step))
    folder.wait()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["step-00000015.npz", "step-00000020.npz"]
    found = folder.newest()
    assert found.step == 20
    np.testing.assert_array_equal(found.arrays["model/0"], np.full((3, 2), 20, "float32"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "something else"])
def test_a_torn_one_is_passed_over(tmp_path, capsys, damage):
    folder = CheckpointFolder(str(tmp_path), {})
    for step in (5, 10):
        folder.save(state(step))
    folder.wait()
    newest = tmp_path / "step-00000010.npz"
    whole = newest.read_bytes()
    at = whole.index(np.full(6, 10, "float32").tobytes())
    damaged = {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:at] + b"\x07" + whole[at + 1 :],
        "empty": b"",
        "something else": b"not found, sorry",
    }
    newest.write_bytes(damaged[damage])
    assert folder.newest().step == 5
    assert f"skips the damaged checkpoint {newest} (" in capsys.readouterr().out


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = CheckpointFolder(str(tmp_path / "file"), {})
    folder.save(state(5))
    with pytest.raises(OSError):
        folder.wait()
