"""Hyperparameter sweep: which trials to run, how to run one, and which one is best.

Random trials draw the learning rate log-uniformly between the smallest and the largest one given, and use every combination of
the other fields equally often (Bergstra and Bengio, Random search for hyper-parameter optimization, 2012).
"""

import csv
import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_vision import __version__
from kfp_vision.core import json_text
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.records.records_folder import fingerprint_records, read_records_info
from kfp_vision.reports import pages, results
from kfp_vision.reports.formatting import plural
from kfp_vision.storage import atomic, unwritable, uris
from kfp_vision.training import workers
from kfp_vision.training.divergence import Diverged
from kfp_vision.training.successive_halving import Ended, Rungs
from kfp_vision.training.trial_plan import FINGERPRINT_DIGITS, SWEPT_FIELDS, fingerprint_trials, plan_trials

if TYPE_CHECKING:
    from kfp_vision.training.recipe import Recipe

TRIAL_FILE = "trial.json"  # in a trial's model folder: its values and its outcome
ACCURACY, MEAN_AVERAGE_PRECISION = FIGURES = ("accuracy", "mean_average_precision")  # of images with one label, with several
TURN_OF_LOOP = re.compile(r"-iteration-\d+$")  # how kfp.local names the folder of one
SWEEP = "sweep"  # of a trial: fingerprint of the trials that it is compared with
MIN_PROBABILITY = 1e-7  # lower bound of probabilities in the cross-entropy


def choose_trials(fields: Mapping[str, Any], advanced: Advanced) -> list[str]:
    """Plans the trials of a sweep, and prints a line for each.

    Args:
        fields: see `plan_trials`.
        advanced: says the seed of the random draws, and whether trials are compared while they train.

    Returns:
        Each trial as JSON, for `read_trial`. What becomes of trials that are compared depends on the others, so they have a
        fingerprint of all, `sweep`: KFP's cache then returns a trial only to the sweep that it was part of.
    """
    chosen = plan_trials(fields, advanced.seed)
    for trial in chosen:
        print(f"trial {trial['number']}: {describe_trial(trial)}")
    others = {SWEEP: fingerprint_trials(chosen)} if advanced.trial_reduction_factor else {}
    return [json.dumps(trial | others) for trial in chosen]


def read_trial(text: str) -> dict[str, Any]:
    """Parses a trial. Programs that have one type of number may have written 1.0 as 1, or 1 as 1.0.

    Args:
        text: an item of `choose_trials`.

    Returns:
        The trial, see `plan_trials`; with `sweep` if it has that.

    Raises:
        InputError: the text is not a trial.
    """
    try:
        given = json_text.parse(text)
        whole = {"number": int(given["number"]), "batch_size": int(given["batch_size"])}
        texts = {name: given[name] for name in ("network", "optimizer", SWEEP) if name != SWEEP or SWEEP in given}
        return texts | whole | {"learning_rate": float(given["learning_rate"])}
    except (ValueError, TypeError, KeyError):
        rule = f"trial must be JSON with number, {', '.join(SWEPT_FIELDS.values())}"
        raise InputError(rule, text, "Take it from the list of choose_trials.") from None


def describe_trial(trial: Mapping[str, Any]) -> str:
    """Describes a trial in a few words.

    Args:
        trial: see `plan_trials`.
    """
    return f"{trial['network']}, {trial['optimizer']} at {trial['learning_rate']:g}, batches of {trial['batch_size']:g}"


@unwritable.in_one_line("model", "page")
def train_trial(
    trial: Mapping[str, Any],
    recipe: "Recipe",
    train_records: Path,
    validation_records: Path,
    label_map: Path,
    *,
    model: Path,
    page: Path,
    nodes: Mapping[str, Any] = workers.ANY_NODES,
) -> dict[str, Any]:
    """Trains with the values of a trial, and measures the exported model on all validation images.

    A trial whose loss diverges is recorded as failed, and raises nothing. With `trial_reduction_factor`, one that is behind
    the others ends early, and is measured as it is.

    Args:
        trial: see `plan_trials`.
        recipe: the other fields. Each trial saves its checkpoints to a folder of its own below `checkpoint_dir`.
        train_records: folder of records.
        validation_records: folder of records.
        label_map: folder with `labels.txt`.
        model: model folder to write, with `trial.json` in it; for a failed trial, with nothing else.
        page: page of learning curves to write (HTML).
        nodes: see `workers.train`.

    Returns:
        The content of `trial.json`: the trial, `seconds`, `accuracy` and `loss` (mean cross-entropy) on the validation images,
        `ended_early`, when and why, or empty; `failed`, the reason, or empty; and if trials are compared, `rungs`, what was
        (see `Rungs.read_record`). Of several labels, `mean_average_precision` stands for the accuracy, and the loss is the
        binary cross-entropy, summed over the labels.

    Raises:
        InputError: see `workers.train`, except that the loss may diverge.
    """
    print(f"trial {trial['number']}: {describe_trial(trial)}", flush=True)
    recipe = replace(recipe, **{name: trial[name] for name in SWEPT_FIELDS.values()})
    rungs = _rungs(trial, recipe, train_records, validation_records, model)
    if rungs:
        recipe = replace(recipe, rungs_uri=rungs.uri, trial_number=trial["number"])
    if recipe.checkpoint_dir:
        recipe = replace(recipe, checkpoint_dir=uris.join_uri(recipe.checkpoint_dir, _checkpoint_folder(trial)))
    start = time.monotonic()
    with atomic.replacing(model) as beside, atomic.temporary_folder() as scratch:
        outputs = {"model": beside, "events": scratch / "events", "page": page}
        try:
            reached = workers.train(recipe, train_records, validation_records, label_map, **outputs, nodes=nodes)
            ended = Ended.from_metrics(reached)
            outcome = {
                **_validate(beside, validation_records),
                "ended_early": ended.describe(recipe.train_steps) if ended else "",
                "failed": "",
            }
        except Diverged as error:
            print(f"the trial failed: {error}", flush=True)
            several = read_records_info(validation_records).several
            figure = MEAN_AVERAGE_PRECISION if several else ACCURACY
            reason = str(error).removeprefix(InputError.PREFIX)
            outcome = {figure: None, "loss": None, "ended_early": "", "failed": reason}
            if rungs:
                rungs.withdraw()
            beside.mkdir()
            settings = {name: trial[name] for name in SWEPT_FIELDS.values()} | {"failed": outcome["failed"]}
            pages.write_training_page(page, network=trial["network"], settings=settings, history=[])
        if rungs:
            outcome["rungs"] = rungs.read_record()
        result = {**trial, "seconds": round(time.monotonic() - start, 1), **outcome}
        atomic.write_json(beside / TRIAL_FILE, result)
    return result


@unwritable.in_one_line("model", "table", "page")
def compare_trials(models: Sequence[Path], *, model: Path, table: Path, page: Path) -> dict[str, Any]:
    """Finds the trial with the highest accuracy on the validation images; ties are broken by the lowest loss.

    Of several labels, that with the highest mean average precision. A trial that ended early is chosen only if no other one
    succeeded.

    Args:
        models: model folders of `train_trial`, in any order.
        model: where to copy the best one.
        table: table of all trials to write (CSV).
        page: page about all trials to write (HTML).

    Returns:
        `trials`, `ended_early` and `failed`, their numbers; `best_trial`, the number of the best one, and its `accuracy` or
        `mean_average_precision`.

    Raises:
        InputError: all trials failed.
    """
    folders = {outcome["number"]: (folder, outcome) for folder in models for outcome in [_read_outcome(folder)]}
    outcomes = [outcome for _, (_, outcome) in sorted(folders.items())]
    finished = [outcome for outcome in outcomes if not outcome["failed"]]
    if not finished:
        reasons = "; ".join(f"trial {outcome['number']}: {outcome['failed'].removesuffix('.')}" for outcome in outcomes)
        raise InputError("at least one trial must succeed", reasons, "Try smaller learning_rates, or other optimizers.")
    figure = next(name for name in FIGURES if name in finished[0])
    to_the_end = [outcome for outcome in finished if not outcome["ended_early"]]
    best = max(to_the_end or finished, key=lambda outcome: (outcome[figure], -outcome["loss"], -outcome["number"]))
    _write_table(table, outcomes, figure)
    pages.write_trials_page(page, trials=outcomes, best=best["number"], fields=tuple(SWEPT_FIELDS.values()), figure=figure)
    with atomic.replacing(model) as beside:
        shutil.copytree(folders[best["number"]][0], beside)
    failed, ended = len(outcomes) - len(finished), len(finished) - len(to_the_end)
    counts = " and ".join(f"{count} {what}" for count, what in ((ended, "ended early"), (failed, "failed")) if count)
    of_all = f"best of {plural(len(outcomes), 'trial', 'trials')}{f', of which {counts}' if counts else ''}"
    results.announce(
        f"{of_all}: trial {best['number']} ({describe_trial(best)}), {figure.replace('_', ' ')} {best[figure]:.4f}"
    )
    summary = {"trials": len(outcomes), "ended_early": ended, "failed": failed}
    return {**summary, "best_trial": best["number"], figure: best[figure]}


def _rungs(
    trial: Mapping[str, Any], recipe: "Recipe", train_records: Path, validation_records: Path, model: Path
) -> Rungs | None:
    """Returns where the trial is compared with the others; None if it is not.

    On a cluster that is a folder in `checkpoint_dir`, on one machine maybe in that of the run, which holds the folders of all
    stages. Its name says all that makes figures comparable, so that a later run with the same fields goes on with them.
    """
    factor = recipe.advanced.trial_reduction_factor
    if not factor:
        return None
    same = {name: value for name, value in recipe.to_form().items() if name not in SWEPT_FIELDS.values()}
    records = [fingerprint_records(folder) for folder in (train_records, validation_records)]
    text = json.dumps([__version__, trial.get(SWEEP), same, records], sort_keys=True)
    name = f"rungs-{hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]}"
    return Rungs(uris.join_uri(recipe.checkpoint_dir or str(_run_folder(model)), name), trial["number"], factor)


def _run_folder(model: Path) -> Path:
    """Returns the folder of the run, in which `kfp.local` has one for each turn of a loop, and in these those of the stages."""
    stages = model.absolute().parents[1]
    return stages.parent if TURN_OF_LOOP.search(stages.name) else stages


def _checkpoint_folder(trial: Mapping[str, Any]) -> str:
    """Returns the name of a trial's folder of checkpoints: that of its number and its values.

    A checkpoint does not know the learning rate, so a trial of another sweep with the same number would resume from this one's.
    """
    values = {name: value for name, value in trial.items() if name != SWEEP}
    return f"trial-{trial['number']}-{fingerprint_trials([values])}"


def _validate(model: Path, validation_records: Path) -> dict[str, float]:
    import numpy as np

    from kfp_vision.engines.choice import choose_serving_engine
    from kfp_vision.evaluation import multilabel_metrics, scoring
    from kfp_vision.prediction.classifier import Classifier
    from kfp_vision.repository import version

    exported = version.exported_version(model)
    classifier = Classifier(exported, engine=choose_serving_engine(exported))
    if exported.several:
        named = scoring.predict_several_labels(classifier.probabilities, validation_records, exported.thresholds)
        reached = multilabel_metrics.mean_average_precision(named.truth, named.probabilities)
        print(f"mean average precision {reached:.4f} on {len(named.truth)} validation images", flush=True)
        of_truth = np.where(named.truth, named.probabilities, 1 - named.probabilities)
        loss = float(-np.log(np.maximum(of_truth, MIN_PROBABILITY)).sum(1).mean())
        return {MEAN_AVERAGE_PRECISION: 0.0 if np.isnan(reached) else reached, "loss": loss}
    answers = scoring.predict_records(classifier.probabilities, validation_records)
    of_label = np.take_along_axis(answers.probabilities, answers.labels[:, None], 1)
    accuracy, loss = float(np.mean(answers.correct)), float(-np.log(np.maximum(of_label, MIN_PROBABILITY)).mean())
    print(f"accuracy {accuracy:.4f} on {len(answers.labels)} validation images", flush=True)
    return {ACCURACY: accuracy, "loss": loss}


def _write_table(path: Path, outcomes: Sequence[Mapping[str, Any]], figure: str) -> None:
    columns = ("number", *SWEPT_FIELDS.values(), figure, "loss", "seconds", "ended_early", "failed")
    with atomic.replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(outcomes)


def _read_outcome(folder: Path) -> dict[str, Any]:
    return json_text.read_object(folder / TRIAL_FILE)
