"""The learning rate at each step, with TF-Slim's names and formulas."""

import math

SCHEDULES = ("exponential", "fixed", "polynomial", "cosine")
# What a schedule reads of `advanced`.
FIELDS = ("learning_rate_decay_factor", "num_epochs_per_decay", "end_learning_rate", "warmup_steps")


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
    """The learning rate of a step, counted from 0.

    Args:
        step: from 0 to train_steps - 1.
        schedule: one of SCHEDULES.
        learning_rate: the rate after the warm-up.
        train_steps: steps of the whole training.
        steps_per_epoch: steps in which every picture is seen once.
        learning_rate_decay_factor: of `exponential`: the rate is multiplied by it...
        num_epochs_per_decay: ...every so many epochs, all at once, as in TF-Slim.
        end_learning_rate: of `polynomial`: where the straight line ends.
        warmup_steps: steps in which the rate rises from near 0 in a straight line.
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, train_steps - warmup_steps)
    if schedule == "fixed":
        return learning_rate
    if schedule == "exponential":
        return learning_rate * learning_rate_decay_factor ** math.floor(step / max(1, steps_per_epoch * num_epochs_per_decay))
    if schedule == "polynomial":
        return end_learning_rate + (learning_rate - end_learning_rate) * (1 - done)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * done))
