from kfp import dsl

from kfp_vision.components.images import GPU_IMAGE


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
    gpus: str,
    node_selector: dict,
    tolerations: list,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
) -> None:
    """Trains with the values of one trial, and measures it on the pictures of the validation.

    Args:
        train_records: the pictures to train on.
        validation_records: the pictures to choose the best trial by.
        label_map: the folder with labels.txt.
        trial: number, network, optimizer, batch_size and learning_rate as JSON; see choose_trials.
        fine_tune: start from checkpoint_uri rather than from random weights.
        checkpoint_uri: a TF-Slim checkpoint, an .npz, a .keras file, a run's model folder, an archive of one, or imagenet.
        train_last_layer_only: leave all other layers as they are in the checkpoint.
        train_steps: how many steps.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the pictures in pixels; 0 for the network's own.
        model_name: the name of the model.
        advanced: what is rarely touched, such as momentum, weight_decay, label_smoothing.
        log_uri: a folder or bucket folder to which the events are brought while the training runs; empty for none.
        checkpoint_dir: a folder or bucket folder, with a folder in it for each trial, to go on from; empty for none.
        gpu_type: the resource that gpu_count counts; read by KFP alone, as gpus, node_selector and tolerations.
        gpu_count: GPUs that were asked for.
        gpus: the same as a text, of which KFP makes the request; see check_sweep.
        node_selector: labels of the nodes that may train.
        tolerations: taints of nodes that may train all the same.

    Returns:
        model: A model folder with trial.json, what was tried and what came of it; of a trial that failed with that alone.
        metrics: Accuracy and loss on the validation.
        curves: A page with the learning curves.
    """
    fields = dict(locals())
    from pathlib import Path

    from kfp_vision import storage, sweep, training

    values = sweep.read_trial(trial)
    fields |= values
    storage.wait_for_stores(advanced)
    recipe = training.Recipe.from_form(fields)
    inputs = (Path(train_records.path), Path(validation_records.path), Path(label_map.path))
    told = sweep.train_trial(values, recipe, *inputs, model=Path(model.path), page=Path(curves.path))
    model.metadata.update({name: str(value) for name, value in values.items()})
    metrics.metadata.update({name: told[name] for name in ("accuracy", "loss") if told[name] is not None})
    storage.write_json(Path(metrics.path), told)
