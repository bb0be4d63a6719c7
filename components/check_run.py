from typing import NamedTuple

from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_run(
    images_uri: str,
    leave_out_uri: str,
    labels_uri: str,
    labels: str,
    check_images: bool,
    validation_ratio: float,
    test_ratio: float,
    images_per_shard: int,
    partitions: int,
    recipe: str,
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
    advanced: dict,
    log_uri: str,
    checkpoint_dir: str,
    workers: int,
    gpu_type: str,
    gpu_count: int,
    node_selector: dict,
    tolerations: list,
    min_accuracy: float,
    model_name: str,
    deploy_to: str,
    skip_unchanged: bool,
    test_image_uri: str,
    predict_uri: str,
    formats: str,
    register_in: str,
    mlpipeline_ui_metadata: dsl.Output[dsl.Artifact],
) -> NamedTuple("Checked", [("advanced", dict), ("recipe", str), ("gpus", str), ("preset", dict), ("form", dict)]):  # type: ignore[valid-type]
    """Validates the run form before any data moves: rejects invalid values, missing data and a checkpoint that does not fit.

    The inputs are the fields of the run form; see image_classification. partitions is 1 if the form has no such field.

    Returns:
        advanced: The advanced settings that the data stages use.
        recipe: Hash of all fields that influence the trained model.
        gpus: gpu_count as text, because KFP ignores a GPU request given as a number.
        preset: What the field recipe sets, and the network that network=auto chose; empty for nothing.
        form: The value of every field, for the model's papers.
        mlpipeline_ui_metadata: Link with which the Kubeflow page opens TensorBoard on log_uri; KFP requires this name.
    """
    fields = dict(locals())
    from pathlib import Path

    from kfp_vision.preflight import checks
    from kfp_vision.storage import reading_settings
    from kfp_vision.storage.retry import CHECK_SECONDS
    from kfp_vision.training import tensorboard

    del fields["mlpipeline_ui_metadata"]
    reading_settings.apply(advanced, at_most=CHECK_SECONDS)
    checked = checks.check_run(fields)
    tensorboard.write_tensorboard_link(log_uri, Path(mlpipeline_ui_metadata.path))
    return checked
