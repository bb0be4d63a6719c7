from kfp import dsl

from kfp_vision.components.images import GPU_IMAGE


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
    gpus: str,
    model_name: str,
    advanced: dict,
    log_uri: str,
    checkpoint_dir: str,
    trained_from: str,
    gpu_type: str,
    node_selector: dict,
    tolerations: list,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
    events: dsl.Output[dsl.Artifact],
) -> None:
    """Trains a network on TFRecords, from a checkpoint or from scratch, and exports it.

    Args:
        train_records: the pictures to train on.
        validation_records: the pictures to validate on while training.
        label_map: the folder with labels.txt.
        network: inception_v1, googlenet, or one of keras.applications, such as resnet50; see the README.
        fine_tune: start from checkpoint_uri rather than from random weights.
        checkpoint_uri: a TF-Slim checkpoint, an .npz, a .keras file, a run's model folder, an archive of one, or imagenet.
        train_last_layer_only: leave all other layers as they are in the checkpoint.
        batch_size: pictures a step.
        learning_rate: of the first step.
        train_steps: how many steps.
        optimizer: adadelta, adagrad, adam, adamw, ftrl, momentum, rmsprop or sgd.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the pictures in pixels; 0 for the network's own.
        gpu_count: GPUs that were asked for.
        gpus: the same as a text, of which KFP makes the request; see check_run. Read by KFP alone, as the last three.
        model_name: the name of the model.
        advanced: what is rarely touched, such as momentum, weight_decay, label_smoothing.
        log_uri: a folder or bucket folder to which the events are brought while the training runs; empty for none.
        checkpoint_dir: a folder or bucket folder in which a training that was stopped finds its way on; empty for none.
        trained_from: what decide_training calls pictures and fields; written into the model.
        gpu_type: the resource that gpu_count counts.
        node_selector: labels of the nodes that may train.
        tolerations: taints of nodes that may train all the same.

    Returns:
        model: A folder with classifier.keras, labels.txt, and serving/1, the SavedModel.
        metrics: The last loss, accuracy and pictures a second; in its file as JSON.
        curves: A page with the learning curves.
        events: A folder for TensorBoard.
    """
    fields = dict(locals())
    from pathlib import Path

    from kfp_vision import storage, training

    storage.wait_for_stores(advanced)
    recipe = training.Recipe.from_form(fields)
    inputs = (Path(train_records.path), Path(validation_records.path), Path(label_map.path))
    outputs = {"model": Path(model.path), "events": Path(events.path), "page": Path(curves.path)}
    reached = training.train_classifier(recipe, *inputs, **outputs)
    model.metadata.update({"network": network, "model_name": model_name, "framework": "tensorflow"})
    metrics.metadata.update(reached)
    storage.write_json(Path(metrics.path), reached)
