from kfp import dsl

from kfp_vision.components.container_images import GPU_IMAGE


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def train_trial(
    train_records: dsl.Input[dsl.Dataset],
    validation_records: dsl.Input[dsl.Dataset],
    label_map: dsl.Input[dsl.Artifact],
    trial: str,
    fine_tune: bool,
    checkpoint_uri: str,
    train_last_layer_only: bool,
    train_steps: int,
    learning_rate_schedule: str,
    image_size: int,
    model_name: str,
    advanced: dict,
    log_uri: str,
    checkpoint_dir: str,
    gpu_type: str,
    gpu_count: int,
    workers: int,
    gpus: str,
    node_selector: dict,
    tolerations: list,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
) -> None:
    """Trains a network with the hyperparameters of one trial and evaluates it on the validation images.

    With trial_reduction_factor of advanced, a trial that is behind the others ends early.

    Args:
        train_records: training images.
        validation_records: validation images, by which the best trial is chosen.
        label_map: folder with labels.txt.
        trial: number, network, optimizer, batch_size and learning_rate as JSON, from choose_trials.
        fine_tune: start from checkpoint_uri instead of random weights.
        checkpoint_uri: TF-Slim checkpoint, .npz, .pth or .keras file, a run's model folder, an archive of one, or imagenet.
        train_last_layer_only: freeze all layers except the classification head.
        train_steps: number of steps.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the input images in pixels; 0 for the network's default.
        model_name: name of the model.
        advanced: advanced settings such as momentum, weight_decay and label_smoothing; see docs/reference/advanced.md.
        log_uri: local or bucket folder to copy TensorBoard events to during the training; empty for none.
        checkpoint_dir: local or bucket folder for checkpoints, with a subfolder per trial, from which interrupted trials
            resume, and the figures by which they are compared; empty for none.
        gpu_type: resource name that gpu_count counts; like gpus, node_selector and tolerations, only KFP reads it.
        gpu_count: number of GPUs per worker.
        workers: machines that train together; above 1, this stage starts a job of them, and waits for it.
        gpus: gpu_count as text, for KFP's GPU request, from check_sweep.
        node_selector: labels of the nodes to train on.
        tolerations: node taints to tolerate.

    Returns:
        model: Model folder with trial.json, the hyperparameters and results; a failed trial has trial.json only.
        metrics: Validation accuracy and loss; of several labels, mean average precision and loss.
        curves: Report with the learning curves.
    """
    fields = dict(locals())
    from pathlib import Path

    from kfp_vision.storage import atomic, reading_settings
    from kfp_vision.training import sweep
    from kfp_vision.training.recipe import Recipe

    values = sweep.read_trial(trial)
    fields |= values
    reading_settings.apply(advanced)
    recipe = Recipe.from_form(fields)
    inputs = (Path(train_records.path), Path(validation_records.path), Path(label_map.path))
    nodes = {"gpu_type": gpu_type, "node_selector": node_selector, "tolerations": tolerations}
    result = sweep.train_trial(values, recipe, *inputs, model=Path(model.path), page=Path(curves.path), nodes=nodes)
    model.metadata.update({name: str(value) for name, value in values.items()})
    metrics.metadata.update({name: result[name] for name in (*sweep.FIGURES, "loss") if result.get(name) is not None})
    atomic.write_json(Path(metrics.path), result)
