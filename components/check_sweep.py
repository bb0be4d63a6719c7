from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_sweep(
    images_uri: str,
    leave_out_uri: str,
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
    gpu_type: str,
    gpu_count: int,
    node_selector: dict,
    tolerations: list,
    min_accuracy: float,
    model_name: str,
    deploy_to: str,
    test_image_uri: str,
    predict_uri: str,
) -> dict:
    """Refuses wrong values of any trial, data that is not there and a checkpoint that does not fit, before any data moves.

    The arguments are the fields of the run form; see hyperparameter_sweep.

    Returns:
        What the stages of the data read of advanced.
    """
    fields = dict(locals())
    from kfp_vision import parameters

    return parameters.check_sweep(fields)
