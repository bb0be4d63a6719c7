"""Asynchronous successive halving: which trials go on, and how trials that know nothing of each other are compared."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_vision.training.successive_halving import Ended, Rungs, goes_on, rung_steps


@pytest.mark.parametrize(
    ("train_steps", "validate_every", "factor", "steps"),
    [
        (100, 20, 3, [20, 40]),  # a ninth and a third of the steps
        (100, 20, 2, [20, 40, 60]),  # an eighth, a quarter and a half
        (100, 20, 4, [40]),  # a sixteenth would be less than a tenth
        (100, 20, 20, [20]),  # the first rung is there in any case
        (6000, 100, 3, [700, 2000]),
        (6000, 1, 3, [667, 2000]),
        (100, 50, 3, [50]),
        (100, 100, 3, []),
        (4, 1, 3, [1, 2]),
        (1, 1, 3, []),
    ],
)
def test_rungs_are_validations_at_powers_of_the_factor(train_steps, validate_every, factor, steps):
    assert rung_steps(train_steps, validate_every, factor) == steps


NAN = math.nan


@pytest.mark.parametrize(
    ("figure", "others", "factor", "stays"),
    [
        (0.1, [], 3, True),  # alone
        (0.1, [0.9], 3, True),  # too few to say who is behind
        (0.1, [0.9, 0.8], 3, False),  # the best of three goes on
        (0.9, [0.1, 0.8], 3, True),
        (0.8, [0.9, 0.1, 0.1], 3, True),  # two of four, rounded up
        (0.7, [0.9, 0.8, 0.1], 3, False),
        (0.8, [0.9, 0.1, 0.1, 0.1, 0.1], 3, True),  # two of six
        (0.7, [0.9, 0.8, 0.1, 0.1, 0.1], 3, False),
        (0.5, [0.5, 0.5, 0.5], 3, True),  # as good as the best
        (0.8, [0.9, 0.8, 0.8], 3, True),  # as good as the second of four
        (0.1, [0.9], 2, False),
        (NAN, [0.1, 0.2], 3, False),
        (0.1, [NAN, NAN], 3, True),
        (NAN, [NAN, NAN], 3, True),
    ],
)
def test_the_best_part_goes_on(figure, others, factor, stays):
    assert goes_on(figure, others, factor) is stays


def test_some_trial_always_goes_on_in_whatever_order_they_come(tmp_path):
    figures = [0.3, 0.9, 0.5, 0.7, 0.1, 0.8]
    for turn in range(6):
        order = [*range(turn, 6), *range(turn)]
        ended = [
            number for number in order if Rungs(str(tmp_path / str(turn)), number, 3, [20]).compare(20, {20: figures[number]})
        ]
        assert 1 not in ended  # the best of all
        assert 2 <= 6 - len(ended) <= 4  # the first two have too few to be compared with


def rungs(folder: Path, trial: int, steps: tuple[int, ...] = (20, 40)) -> Rungs:
    return Rungs(str(folder / "rungs"), trial, 3, list(steps))


@pytest.fixture
def two_others(tmp_path) -> Path:
    """Returns a folder in which trials 1 and 2 have reached both rungs."""
    for number, figures in ((1, {20: 0.5, 40: 0.88}), (2, {20: 0.4, 40: 0.6})):
        for step in figures:
            assert rungs(tmp_path, number).compare(step, {s: f for s, f in figures.items() if s <= step}) is None
    return tmp_path


def test_a_trial_that_is_behind_ends_and_what_was_compared_is_kept(two_others):
    third = rungs(two_others, 3)
    assert third.compare(20, {20: 0.55}) is None
    assert third.compare(30, {20: 0.55, 30: 0.1}) is None  # between two rungs
    ended = third.compare(40, {20: 0.55, 30: 0.1, 40: 0.612})
    assert ended == Ended(step=40, figure=0.612, best=0.88, compared=3)
    assert ended.describe(100) == "at step 40 of 100: 61.2 %, the best of 3 trials then 88.0 %"
    assert third.read_record() == [
        {"step": 20, "figure": 0.55, "others": {"1": 0.5, "2": 0.4}, "goes_on": True},
        {"step": 40, "figure": 0.612, "others": {"1": 0.88, "2": 0.6}, "goes_on": False},
    ]


def test_the_metrics_of_a_training_say_why_it_ended():
    ended = Ended(40, 0.612, 0.88, 3)
    assert Ended.from_metrics({"loss": 1.0} | json.loads(json.dumps(ended.metrics()))) == ended
    assert Ended.from_metrics({"loss": 1.0}) is None


def test_a_trial_that_comes_again_counts_once(two_others):
    for _ in range(3):
        assert rungs(two_others, 3).compare(20, {20: 0.45}) == Ended(20, 0.45, 0.5, 3)
    assert rungs(two_others, 4).compare(20, {20: 0.45}) is None  # two of four go on
    assert rungs(two_others, 4).read_record()[0]["others"] == {"1": 0.5, "2": 0.4, "3": 0.45}


# The process ends as by SIGKILL once it has written its figure, before it reads those of the others.
KILLED = """
import os, sys
from kfp_vision.training.successive_halving import Rungs
Rungs._others = lambda self, step: os.kill(os.getpid(), 9)
Rungs(sys.argv[1], 3, 3, [20, 40]).compare(20, {20: 0.45})
"""


def test_a_trial_killed_between_writing_and_comparing_is_a_figure_without_a_decision(two_others):
    done = subprocess.run([sys.executable, "-c", KILLED, str(two_others / "rungs")], check=False)
    assert done.returncode == -9
    assert rungs(two_others, 3).read_record() == [{"step": 20, "figure": 0.45}]
    assert rungs(two_others, 4).compare(20, {20: 0.45}) is None  # with the killed one as good
    again = rungs(two_others, 3)
    again.begin(step=0)  # without a checkpoint it starts anew, and has nothing to be compared by
    assert again.read_record() == []
    assert rungs(two_others, 5).compare(20, {20: 0.39}) == Ended(20, 0.39, 0.5, 4)


def test_a_trial_that_resumes_shows_the_rungs_that_it_has_passed_elsewhere(two_others):
    third = rungs(two_others, 3)
    third.begin(step=50)
    assert third.compare(50, {20: 0.1, 40: 0.1}) is None  # it has passed them
    assert third.read_record() == [{"step": 20, "figure": 0.1}, {"step": 40, "figure": 0.1}]
    assert rungs(two_others, 4).compare(40, {40: 0.61}) is None
    assert rungs(two_others, 4).read_record()[0]["others"] == {"1": 0.88, "2": 0.6, "3": 0.1}


def test_what_a_trial_has_decided_stays_when_it_resumes(two_others):
    rungs(two_others, 3).compare(20, {20: 0.55})
    before = rungs(two_others, 3).read_record()
    later = rungs(two_others, 3)
    later.begin(step=30)
    later.compare(30, {20: 0.55})
    assert later.read_record() == before


def test_figures_that_are_not_numbers_are_the_worst_and_valid_json(two_others):
    assert rungs(two_others, 3).compare(20, {20: NAN}) is not None
    file = two_others / "rungs" / "trial-3" / "step-00000020.json"
    assert json.loads(file.read_text(), parse_constant=pytest.fail)["figure"] is None
    assert rungs(two_others, 4).compare(20, {20: 0.45}) is None
    assert rungs(two_others, 4).read_record()[0]["others"] == {"1": 0.5, "2": 0.4, "3": None}


# No trial has written these: an infinite figure would end all others, and the rest must not hide the files that are whole.
FOREIGN = ('{"figure": 1e999}', '{"figure": true}', f'{{"figure": {10**400}}}', "[" * 100_000)


@pytest.mark.parametrize("content", ["", '{"fig', "[]", "{}", '{"figure": "high"}', "null", "\udc80", *FOREIGN])
def test_a_damaged_file_is_not_compared(two_others, content, capsys):
    file = two_others / "rungs" / "trial-2" / "step-00000020.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert rungs(two_others, 3).compare(20, {20: 0.1}) is None  # only one is left to compare with
    assert "does not compare with trial-2/step-00000020.json, which cannot be read" in capsys.readouterr().out


def test_other_files_in_the_folder_are_no_trials(two_others):
    for name in ("trial-9/step-20.txt", "trial-x/step-00000020.json", "trial-9/a/step-00000020.json", "about.json"):
        (two_others / "rungs" / name).parent.mkdir(parents=True, exist_ok=True)
        (two_others / "rungs" / name).write_text('{"figure": 1.0}')
    third = rungs(two_others, 3)
    third.compare(20, {20: 0.55})
    assert third.read_record()[0]["others"] == {"1": 0.5, "2": 0.4}


def test_a_trial_that_failed_is_no_measure_for_others(two_others):
    rungs(two_others, 1).withdraw()
    assert rungs(two_others, 3).compare(40, {40: 0.1}) is None
    assert rungs(two_others, 3).read_record()[0]["others"] == {"2": 0.6}


def test_a_folder_that_cannot_be_written_ends_no_trial(tmp_path, capsys):
    (tmp_path / "rungs").write_text("a file")
    first = rungs(tmp_path, 1)
    first.begin(step=0)
    assert first.compare(20, {20: 0.1}) is None
    assert first.read_record() == []
    assert "warning: cannot compare with the other trials; this one goes on (" in capsys.readouterr().out
