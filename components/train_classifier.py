from kfp import dsl

from kfp_vision.components.container_images import GPU_IMAGE


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def train_classifier(
    train_records: dsl.Input[dsl.Dataset],
    validation_records: dsl.Input[dsl.Dataset],
    label_map: dsl.Input[dsl.Artifact],
    network: str,
    fine_tune: bool,
    checkpoint_uri: str,
    train_last_layer_only: bool,
    batch_size: int,
    learning_rate: float,
    train_steps: int,
    optimizer: str,
    learning_rate_schedule: str,
    image_size: int,
    gpu_count: int,
    workers: int,
    gpus: str,
    model_name: str,
    advanced: dict,
    log_uri: str,
    checkpoint_dir: str,
    trained_from: str,
    preset: dict,
    gpu_type: str,
    node_selector: dict,
    tolerations: list,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
    events: dsl.Output[dsl.Artifact],
) -> None:
    """Trains a network on TFRecords, from a checkpoint or from random weights, and exports it.

    Args:
        train_records: training images.
        validation_records: validation images.
        label_map: folder with labels.txt.
        network: such as inception_v1, googlenet, efficientnet_lite0 or resnet50; docs/reference/networks.md lists all.
        fine_tune: start from checkpoint_uri instead of random weights.
        checkpoint_uri: TF-Slim checkpoint, .npz, .pth or .keras file, a run's model folder, an archive of one, or imagenet.
        train_last_layer_only: freeze all layers except the classification head.
        batch_size: images per step.
        learning_rate: initial learning rate.
        train_steps: number of steps.
        optimizer: adadelta, adagrad, adam, adamw, ftrl, momentum, rmsprop or sgd.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the input images in pixels; 0 for the network's default.
        gpu_count: number of GPUs per worker.
        workers: machines that train together; above 1, this stage starts a job of them, and waits for it.
        gpus: gpu_count as text, for KFP's GPU request, from check_run; like gpu_type, node_selector and tolerations, only KFP
            reads it.
        model_name: name of the model.
        advanced: advanced settings such as momentum, weight_decay and label_smoothing; see docs/reference/advanced.md.
        log_uri: local or bucket folder to copy TensorBoard events to during the training; empty for none.
        checkpoint_dir: local or bucket folder for checkpoints, from which an interrupted training resumes; empty for none.
        trained_from: hash of data and fields, from decide_training; stored in the model.
        preset: what the field recipe sets, from check_run; wins over the inputs of the same name. Empty for nothing.
        gpu_type: resource name that gpu_count counts.
        node_selector: labels of the nodes to train on.
        tolerations: node taints to tolerate.

    Returns:
        model: Folder with classifier.keras, labels.txt, and the SavedModel in serving/1.
        metrics: Final loss, accuracy (of several labels, micro F1 and mean average precision) and images per second; its file
            holds them as JSON.
        curves: Report with the learning curves.
        events: Folder for TensorBoard.
    """
    fields = dict(locals())
    from pathlib import Path

    from kfp_vision.storage import atomic, reading_settings
    from kfp_vision.training import workers as of_training
    from kfp_vision.training.recipe import Recipe

    reading_settings.apply(advanced)
    recipe = Recipe.from_form(fields)
    inputs = (Path(train_records.path), Path(validation_records.path), Path(label_map.path))
    outputs = {"model": Path(model.path), "events": Path(events.path), "page": Path(curves.path)}
    nodes = {"gpu_type": gpu_type, "node_selector": node_selector, "tolerations": tolerations}
    reached = of_training.train(recipe, *inputs, **outputs, nodes=nodes)
    model.metadata.update({"network": recipe.network, "model_name": model_name, "framework": "tensorflow"})
    metrics.metadata.update(reached)
    atomic.write_json(Path(metrics.path), reached)
