from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def compare_trials(
    models: dsl.Input[list[dsl.Model]],
    model: dsl.Output[dsl.Model],
    trials: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Finds the trial with the best validation accuracy, or where images have several labels, mean average precision.

    A trial that ended early is chosen only if no other one succeeded.

    Args:
        models: models from train_trial.

    Returns:
        model: Model folder of the best trial.
        trials: Table of all trials: number, hyperparameters, accuracy or mean average precision, loss, seconds, and the reason
            if one ended early or failed.
        page: The same as a report, with a parallel-coordinates chart of the trials.
        metrics: Number of trials, of those that ended early and of failed ones, and the best trial's number and accuracy or
            mean average precision.
    """
    from pathlib import Path

    from kfp_vision.storage import atomic
    from kfp_vision.training import sweep

    folders = [Path(one.path) for one in models]
    found = sweep.compare_trials(folders, model=Path(model.path), table=Path(trials.path), page=Path(page.path))
    metrics.metadata.update(found)
    atomic.write_json(Path(metrics.path), found)
    model.metadata.update({"best_trial": found["best_trial"], "framework": "tensorflow"})
