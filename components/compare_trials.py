from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def compare_trials(
    models: dsl.Input[list[dsl.Model]],
    model: dsl.Output[dsl.Model],
    trials: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Finds the trial that did best on the pictures of the validation.

    Args:
        models: the models of train_trial.

    Returns:
        model: The model folder of the best trial.
        trials: A table of all trials: number, what was tried, accuracy, loss, seconds, and why one failed.
        page: The same as a page, with a line for each trial across what was tried.
        metrics: How many trials, how many failed, the best one's number and accuracy.
    """
    from pathlib import Path

    from kfp_vision import storage, sweep

    folders = [Path(one.path) for one in models]
    found = sweep.compare_trials(folders, model=Path(model.path), table=Path(trials.path), page=Path(page.path))
    metrics.metadata.update(found)
    storage.write_json(Path(metrics.path), found)
    model.metadata.update({"best_trial": found["best_trial"], "framework": "tensorflow"})
