from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_preparation(
    images_uri: str,
    leave_out_uri: str,
    labels_uri: str,
    labels: str,
    task: str,
    check_images: bool,
    validation_ratio: float,
    test_ratio: float,
    images_per_shard: int,
    partitions: int,
    advanced: dict,
) -> dict:
    """Validates the run form before any data moves: rejects invalid values and data that does not exist.

    The inputs are the fields of the run form; see prepare_records.

    Returns:
        The advanced settings that the data stages use.
    """
    fields = dict(locals())
    from kfp_vision.preflight import checks
    from kfp_vision.storage import reading_settings
    from kfp_vision.storage.retry import CHECK_SECONDS

    reading_settings.apply(advanced, at_most=CHECK_SECONDS)
    return checks.check_preparation(fields)
