"""Trials: one training with other values for some of its fields, and which of them did best.

Drawn at random, a learning rate lies between the smallest and the largest that are given, evenly on a logarithmic scale, and
every combination of the other fields comes equally often (Bergstra and Bengio, Random search for hyper-parameter optimization,
2012).
"""

import csv
import itertools
import json
import math
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_vision import reports, results, storage
from kfp_vision.errors import InputError
from kfp_vision.parameters import SWEPT

if TYPE_CHECKING:
    from kfp_vision.training.recipe import Recipe

TRIAL_FILE = "trial.json"  # in a trial's model folder: what was tried, and what came of it
COLUMNS = ("number", *SWEPT.values(), "accuracy", "loss", "seconds", "failed")
SURE = 1e-7  # the least probability that a loss is computed of


def trials(fields: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """What is to be tried.

    Args:
        fields: the lists of `SWEPT`, and trials: how many are drawn at random; 0 for every combination.
        seed: of the draw.

    Returns:
        Of each trial its number, from 1, network, optimizer, batch_size and learning_rate.
    """
    lists = [fields[name] for name in SWEPT]
    chosen = _drawn(lists, int(fields["trials"]), seed) if fields["trials"] else list(itertools.product(*lists))
    return [
        {"number": number, "network": network, "optimizer": optimizer, "batch_size": int(batch), "learning_rate": float(rate)}
        for number, (network, optimizer, batch, rate) in enumerate(chosen, start=1)
    ]


def choose_trials(fields: Mapping[str, Any], seed: int) -> list[str]:
    """`trials`, each as JSON for `read_trial`, and said on a line."""
    chosen = trials(fields, seed)
    for trial in chosen:
        print(f"trial {trial['number']}: {described(trial)}")
    return [json.dumps(trial) for trial in chosen]


def read_trial(text: str) -> dict[str, Any]:
    """One of `trials`, from its JSON. A program that knows one kind of number alone may have written 1.0 as 1, or 1 as 1.0.

    Raises:
        InputError: it is no trial.
    """
    try:
        given = json.loads(text)
        whole = {"number": int(given["number"]), "batch_size": int(given["batch_size"])}
        return (
            {name: given[name] for name in ("network", "optimizer")} | whole | {"learning_rate": float(given["learning_rate"])}
        )
    except (ValueError, TypeError, KeyError):
        rule = f"trial must be JSON with number, {', '.join(SWEPT.values())}"
        raise InputError(rule, text, "Take it from the list of choose_trials.") from None


def described(trial: Mapping[str, Any]) -> str:
    """A trial in a few words."""
    return f"{trial['network']}, {trial['optimizer']} at {trial['learning_rate']:g}, batches of {trial['batch_size']:g}"


def train_trial(
    trial: Mapping[str, Any],
    recipe: "Recipe",
    train_records: Path,
    validation_records: Path,
    label_map: Path,
    *,
    model: Path,
    page: Path,
) -> dict[str, Any]:
    """Trains with the values of one trial, and asks the export about all pictures of the validation.

    A loss that is no longer a number is an outcome of a trial as well: it is written down, and nothing fails.

    Args:
        trial: one of `trials`.
        recipe: all other fields; its checkpoint_dir, where there is one, is that of all trials.
        train_records, validation_records: folders of records.
        label_map: the folder with `labels.txt`.
        model: the model folder to write, with `trial.json` in it; of a trial that failed with that alone.
        page: the page of learning curves to write (HTML).

    Returns:
        What is in `trial.json`: the trial; seconds; accuracy and loss, the mean cross-entropy, on the validation; failed, the
        reason, empty where it did not.

    Raises:
        InputError: as `training.train_classifier` does, but for a loss that is no longer a number.
    """
    from kfp_vision import training

    print(f"trial {trial['number']}: {described(trial)}", flush=True)
    wanted = replace(recipe, **{name: trial[name] for name in SWEPT.values()})
    if recipe.checkpoint_dir:
        wanted = replace(wanted, checkpoint_dir=storage.inside(recipe.checkpoint_dir, f"trial-{trial['number']}"))
    start = time.monotonic()
    with storage.replacing(model) as beside, storage.temporary() as scratch:
        outputs = {"model": beside, "events": scratch / "events", "page": page}
        try:
            training.train_classifier(wanted, train_records, validation_records, label_map, **outputs)
            outcome = {**_validated(beside, validation_records), "failed": ""}
        except training.Diverged as reason:
            print(f"the trial failed: {reason}", flush=True)
            outcome = {"accuracy": None, "loss": None, "failed": str(reason).removeprefix(InputError.PREFIX)}
            beside.mkdir()
            settings = {name: trial[name] for name in SWEPT.values()} | {"failed": outcome["failed"]}
            reports.write_training_page(page, network=trial["network"], settings=settings, history=[])
        told = {**trial, "seconds": round(time.monotonic() - start, 1), **outcome}
        storage.write_json(beside / TRIAL_FILE, told)
    return told


def compare_trials(models: Sequence[Path], *, model: Path, table: Path, page: Path) -> dict[str, Any]:
    """Finds the trial with the best accuracy on the validation; of several, the one with the least loss.

    Args:
        models: the model folders of `train_trial`, in any order.
        model: where the best one is copied to.
        table: where a table of all trials is written (CSV).
        page: where the same is shown (HTML).

    Returns:
        trials and failed, how many; best_trial, its number; and its accuracy.

    Raises:
        InputError: all have failed.
    """
    folders = {told["number"]: (folder, told) for folder in models for told in [_read(folder)]}
    told = [told for _, (_, told) in sorted(folders.items())]
    done = [trial for trial in told if not trial["failed"]]
    if not done:
        reasons = "; ".join(f"trial {trial['number']}: {trial['failed']}" for trial in told)
        raise InputError("some trial must come to its end", reasons, "Try smaller learning_rates, or other optimizers.")
    best = max(done, key=lambda trial: (trial["accuracy"], -trial["loss"], -trial["number"]))
    with storage.replacing(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(told)
    reports.write_trials_page(page, trials=told, best=best["number"], fields=tuple(SWEPT.values()))
    with storage.replacing(model) as beside:
        shutil.copytree(folders[best["number"]][0], beside)
    failed = len(told) - len(done)
    of_all = f"best of {len(told)} trials{f', of which {failed} failed' if failed else ''}"
    results.announce(f"{of_all}: trial {best['number']} ({described(best)}), accuracy {best['accuracy']:.4f}")
    return {"trials": len(told), "failed": failed, "best_trial": best["number"], "accuracy": best["accuracy"]}


def _drawn(lists: Sequence[Sequence[Any]], count: int, seed: int) -> list[tuple[Any, ...]]:
    *others, rates = lists
    draw, low, high = random.Random(seed), math.log(min(rates)), math.log(max(rates))
    combinations = list(itertools.product(*others))
    if low == high:
        return [(*combination, rates[0]) for combination in draw.sample(combinations, min(count, len(combinations)))]
    shuffled = (one for _ in itertools.count() for one in draw.sample(combinations, len(combinations)))
    return [(*one, float(f"{math.exp(draw.uniform(low, high)):.3g}")) for one in itertools.islice(shuffled, count)]


def _validated(model: Path, validation_records: Path) -> dict[str, float]:
    import numpy as np

    from kfp_vision import evaluation, repository
    from kfp_vision.prediction import Classifier

    answers = evaluation.collect(Classifier(repository.exported(model)).probabilities, validation_records)
    own = np.take_along_axis(answers.probabilities, answers.labels[:, None], 1)
    accuracy, loss = float(np.mean(answers.correct)), float(-np.log(np.maximum(own, SURE)).mean())
    print(f"accuracy {accuracy:.4f} on {len(answers.labels)} validation pictures", flush=True)
    return {"accuracy": accuracy, "loss": loss}


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / TRIAL_FILE).read_text(encoding="utf-8"))
