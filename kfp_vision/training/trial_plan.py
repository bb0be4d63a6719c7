"""The trials of a hyperparameter sweep: which combinations of values are trained."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

# Each list of hyperparameter_sweep, the field of a training that it gives values for, and an example.
SWEPT_FIELDS = {
    "networks": "network",
    "optimizers": "optimizer",
    "batch_sizes": "batch_size",
    "learning_rates": "learning_rate",
}
FINGERPRINT_DIGITS = 16


def plan_trials(fields: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """Plans the trials of a sweep.

    Example:
        lists = {"networks": ["resnet50"], "optimizers": ["sgd", "adam"], "batch_sizes": [16], "learning_rates": [0.01]}
        assert [trial["optimizer"] for trial in plan_trials({**lists, "trials": 0}, seed=0)] == ["sgd", "adam"]

    Args:
        fields: the lists of `SWEPT_FIELDS`, and `trials`: the number of trials to draw at random; 0 for every combination.
        seed: seed of the random draws.

    Returns:
        For each trial, `number` from 1, `network`, `optimizer`, `batch_size` and `learning_rate`.
    """
    lists = [fields[name] for name in SWEPT_FIELDS]
    chosen = _draw(lists, int(fields["trials"]), seed) if fields["trials"] else list(itertools.product(*lists))
    return [
        {"number": number, "network": network, "optimizer": optimizer, "batch_size": int(batch), "learning_rate": float(rate)}
        for number, (network, optimizer, batch, rate) in enumerate(chosen, start=1)
    ]


def fingerprint_trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """Returns a hash of the trials of a sweep.

    Args:
        trials: from `plan_trials`.
    """
    return hashlib.sha256(json.dumps(trials, sort_keys=True).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def _draw(lists: Sequence[Sequence[Any]], count: int, seed: int) -> list[tuple[Any, ...]]:
    *others, rates = lists
    rng, low, high = random.Random(seed), math.log(min(rates)), math.log(max(rates))
    combinations = list(itertools.product(*others))
    if low == high:
        return [(*combination, rates[0]) for combination in rng.sample(combinations, min(count, len(combinations)))]
    shuffled = (one for _ in itertools.count() for one in rng.sample(combinations, len(combinations)))
    return [(*one, float(f"{math.exp(rng.uniform(low, high)):.3g}")) for one in itertools.islice(shuffled, count)]
