"""Learning rates equal those of Keras; warm-up rates equal numbers computed by hand."""

import keras
import pytest

from kfp_vision.training.schedules import SCHEDULE_FIELDS, SCHEDULES, learning_rate_at

RATE = 0.08
FLOAT32 = 1e-8  # Keras computes in 32 bits, few of which are significant near the end of a cosine
DEFAULTS = {
    "learning_rate": RATE,
    "train_steps": 100,
    "steps_per_epoch": 10.0,
    "learning_rate_decay_factor": 0.5,
    "num_epochs_per_decay": 2.0,
    "end_learning_rate": 0.001,
    "warmup_steps": 0,
}
STEPS = [0, 1, 19, 20, 21, 39, 40, 57, 99]
schedules = keras.optimizers.schedules


def rates(schedule, steps=STEPS, **options):
    return [learning_rate_at(step, schedule=schedule, **DEFAULTS | options) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "keras_schedule"),
    [
        ("exponential", schedules.ExponentialDecay(RATE, decay_steps=20, decay_rate=0.5, staircase=True)),
        ("polynomial", schedules.PolynomialDecay(RATE, decay_steps=100, end_learning_rate=0.001, power=1.0)),
        ("cosine", schedules.CosineDecay(RATE, decay_steps=100)),
    ],
)
def test_rates_are_those_of_keras(schedule, keras_schedule):
    assert rates(schedule) == pytest.approx([float(keras_schedule(step)) for step in STEPS], rel=1e-5, abs=FLOAT32)


def test_a_fixed_rate_is_constant():
    assert rates("fixed") == [RATE] * len(STEPS)


def test_exponential_decays_once_per_period_of_whole_epochs():
    assert rates("exponential", [0, 19, 20, 39, 40, 60, 80]) == [0.08, 0.08, 0.04, 0.04, 0.02, 0.01, 0.005]


def test_exponential_decays_at_the_first_step_after_a_fractional_period():
    # two epochs of 754 images, 16 per step, have 94.25 steps
    assert rates("exponential", [94, 95, 188, 189], steps_per_epoch=754 / 16) == [0.08, 0.04, 0.04, 0.02]


def test_exponential_decays_at_every_step_if_an_epoch_is_less_than_a_batch():
    assert rates("exponential", [0, 1, 2], steps_per_epoch=0.25) == [0.08, 0.04, 0.02]


def test_warm_up_rises_linearly_to_the_full_rate():
    for schedule in SCHEDULES:
        warm = rates(schedule, range(5), warmup_steps=4)
        assert warm[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
        assert warm[4] == pytest.approx(0.08)


def test_the_schedule_spans_the_steps_after_the_warm_up():
    # step 60 is half-way from step 20 to step 100
    assert rates("cosine", [20, 60], warmup_steps=20) == pytest.approx([0.08, 0.04])
    assert rates("polynomial", [20, 60], warmup_steps=20) == pytest.approx([0.08, (0.08 + 0.001) / 2])
    after = schedules.CosineDecay(RATE, decay_steps=80)
    assert rates("cosine", [33, 99], warmup_steps=20) == pytest.approx(
        [float(after(13)), float(after(79))], rel=1e-5, abs=FLOAT32
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_may_last_the_whole_training(schedule):
    assert rates(schedule, [0, 49, 99], warmup_steps=100) == pytest.approx([0.0008, 0.04, 0.08])


def test_a_training_may_have_one_step():
    assert [rates(schedule, [0], train_steps=1) for schedule in SCHEDULES] == [[RATE]] * 4


def test_the_schedule_fields_of_advanced_are_parameters_of_the_function():
    assert set(SCHEDULE_FIELDS) == {"learning_rate_decay_factor", "num_epochs_per_decay", "end_learning_rate", "warmup_steps"}
