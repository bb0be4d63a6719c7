"""Learning rate schedules, with TF-Slim's names and formulas."""

import math

SCHEDULES = ("exponential", "fixed", "polynomial", "cosine")
# The fields of `advanced` that schedules use.
SCHEDULE_FIELDS = ("learning_rate_decay_factor", "num_epochs_per_decay", "end_learning_rate", "warmup_steps")


def learning_rate_at(
    step: int,
    *,
    schedule: str,
    learning_rate: float,
    train_steps: int,
    steps_per_epoch: float,
    learning_rate_decay_factor: float,
    num_epochs_per_decay: float,
    end_learning_rate: float,
    warmup_steps: int,
) -> float:
    """Computes the learning rate of a step.

    Args:
        step: from 0 to train_steps - 1.
        schedule: one of `SCHEDULES`.
        learning_rate: the rate after the warm-up.
        train_steps: steps of the whole training.
        steps_per_epoch: steps in which every image is seen once.
        learning_rate_decay_factor: for `exponential`: factor by which the rate is multiplied at each decay.
        num_epochs_per_decay: for `exponential`: epochs between two decays; a staircase, as in TF-Slim.
        end_learning_rate: for `polynomial`: the rate at the end of the linear decay.
        warmup_steps: steps of the linear rise from near 0.

    Returns:
        The learning rate.
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, train_steps - warmup_steps)
    if schedule == "fixed":
        return learning_rate
    if schedule == "exponential":
        return learning_rate * learning_rate_decay_factor ** math.floor(step / max(1, steps_per_epoch * num_epochs_per_decay))
    if schedule == "polynomial":
        return end_learning_rate + (learning_rate - end_learning_rate) * (1 - progress)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
