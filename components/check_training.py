from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_training(
    records_uri: str,
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
    gpu_type: str,
    gpu_count: int,
    node_selector: dict,
    tolerations: list,
    min_accuracy: float,
    model_name: str,
    deploy_to: str,
    test_image_uri: str,
    predict_uri: str,
) -> None:
    """Refuses wrong values, records that are not there and a checkpoint that does not fit, before any record moves.

    The arguments are the fields of the run form; see train_only.
    """
    fields = dict(locals())
    from kfp_vision import parameters

    parameters.check_training(fields)
