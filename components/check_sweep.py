from typing import NamedTuple

from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_sweep(
    images_uri: str,
    leave_out_uri: str,
    labels_uri: str,
    labels: str,
    check_images: bool,
    validation_ratio: float,
    test_ratio: float,
    images_per_shard: int,
    networks: list,
    optimizers: list,
    batch_sizes: list,
    learning_rates: list,
    trials: int,
    fine_tune: bool,
    checkpoint_uri: str,
    train_last_layer_only: bool,
    train_steps: int,
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
    test_image_uri: str,
    predict_uri: str,
    formats: str,
    register_in: str,
    mlpipeline_ui_metadata: dsl.Output[dsl.Artifact],
) -> NamedTuple("Checked", [("advanced", dict), ("gpus", str), ("form", dict)]):  # type: ignore[valid-type]
    """Validates the run form before any data moves: rejects invalid values, missing data and a checkpoint that does not fit.

    The inputs are the fields of the run form, checked for every trial; see hyperparameter_sweep.

    Returns:
        advanced: The advanced settings that the data stages use.
        gpus: gpu_count as text, because KFP ignores a GPU request given as a number.
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
    checked = checks.check_sweep(fields)
    tensorboard.write_tensorboard_link(log_uri, Path(mlpipeline_ui_metadata.path))
    return checked
